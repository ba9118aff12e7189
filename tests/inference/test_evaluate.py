"""`latentface evaluate`: numbers, prediction files, and the WIDER FACE protocol."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import unpack_predictions

from latentface.cli import main
from latentface.data.pretrained import pretrained
from latentface.evaluation.average_precision import PictureResult, evaluate_pictures
from latentface.evaluation.wider import read_predictions
from latentface.inference.detector import Detector


def test_evaluation_agrees_with_detector_and_files(
    drawn_dataset: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "evaluation"
    arguments = ["evaluate", "--weight", str(weights), "--dataset_root", str(drawn_dataset), "--out", str(out)]
    assert main([*arguments, "--rates", "75"]) == 0
    printed = capsys.readouterr().out
    result = json.loads((out / "evaluation.json").read_text())
    assert list(result["rates"]) == ["75"]
    scored = result["rates"]["75"]
    assert scored["picture_sizes"] == ["128x128"]
    assert f"AP {scored['all']['ap']:.4f}" in printed
    assert "confidence 0.02, nms 0.4, before_nms 5000, keep 750" in printed

    from latentface import NestedLatentWiderFaceDataset

    dataset = NestedLatentWiderFaceDataset.of_split(drawn_dataset / "val")
    detector = Detector.load(weights)
    predictions = read_predictions(out / "predictions_75")
    assert set(predictions) == {f"event/drawn_2_{n}" for n in range(3)}
    results = []
    for index in range(len(dataset)):
        sample = dataset[index]
        faces = detector(sample.latent, rate=75, confidence=0.02)
        written = predictions[f"event/{sample.name}"]
        assert len(written) == len(faces)
        np.testing.assert_allclose(np.sort(written[:, 0]), np.sort(faces.boxes[:, 0]), atol=0.01)
        results.append(
            PictureResult(faces.boxes, faces.scores, faces.landmarks, sample.boxes, sample.landmarks, sample.ignore)
        )
    assert scored["all"]["ap"] == pytest.approx(evaluate_pictures(results).ap, abs=1e-3)
    assert scored["all"]["truths"] == sum(len(result.true_boxes) for result in results)


def test_json_to_standard_output(
    drawn_dataset: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["--weight", str(weights), "--dataset_root", str(drawn_dataset), "--out", str(tmp_path), "--json"]
    assert main(["evaluate", *arguments]) == 0
    assert list(json.loads(capsys.readouterr().out)["rates"]) == ["25", "75"]


def test_another_precision_is_part_of_the_protocol(drawn_dataset: Path, weights: Path, tmp_path: Path) -> None:
    arguments = ["--weight", str(weights), "--dataset_root", str(drawn_dataset), "--out", str(tmp_path)]
    assert main(["evaluate", *arguments, "--rates", "75", "--precision", "bfloat16"]) == 0
    assert json.loads((tmp_path / "evaluation.json").read_text())["protocol"]["precision"] == "bfloat16"


def test_without_a_checkpoint_the_detector_for_the_codec_of_the_latents(
    drawn_photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["--dataset_root", str(drawn_photographs), "--split", "train", "--out", str(tmp_path), "--json"]
    assert main(["evaluate", *arguments]) == 0
    protocol = json.loads(capsys.readouterr().out)["protocol"]
    assert (protocol["codec"], protocol["weight"]) == ("dct", str(pretrained("dct")))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "val/latent: no such folder; give --dataset_root"),
        (["--weight", "w.pth", "--predictions", "p"], "--weight and --predictions do not go together"),
        (["--predictions", "p"], "--predictions needs --ground_truth"),
        (["--weight", "gone.pth", "--dataset_root", "{root}"], "gone.pth: no such file"),
        (["--weight", "{root}", "--dataset_root", "{root}"], ": a folder; give a file in it"),
        (["--weight", "{weights}", "--dataset_root", "gone"], "gone/val/latent: no such folder"),
        (
            ["--weight", "{weights}", "--ground_truth", "g"],
            "--ground_truth is in pixels of the photographs: add --frame",
        ),
        (["--weight", "{weights}", "--channels", "-1"], "--workers and --channels 0 or more"),
        (["--weight", "{weights}", "--batch_size", "0"], "--batch_size and --stride have to be 1 or more"),
        (["--weight", "{weights}", "--dataset_root", "{root}", "--rates", "50"], "rate 50 is unknown to this model"),
        (
            ["--weight", "{weights}", "--dataset_root", "{root}", "--frame", "source"],
            "the manifest does not say where event/drawn_2_0.jpg lies",
        ),
    ],
)
def test_mistakes_get_one_line(
    arguments: list[str],
    message: str,
    drawn_dataset: Path,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    filled = [argument.format(weights=weights, root=drawn_dataset) for argument in arguments]
    assert main(["evaluate", *filled]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_rates_that_the_split_lacks_are_left_out_and_old_predictions_go(
    drawn_dataset: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(drawn_dataset / "val" / "latent", tmp_path / "only_75")
    for path in (tmp_path / "only_75").glob("*/latent_25.npy"):
        path.unlink()
    stale = tmp_path / "out" / "predictions_75" / "event" / "stale.txt"
    stale.parent.mkdir(parents=True)
    stale.write_text("stale\n0\n")
    labels = str(drawn_dataset / "val" / "labels.txt")
    arguments = ["--weight", str(weights), "--latent_dir", str(tmp_path / "only_75"), "--label_file", labels]
    assert main(["evaluate", *arguments, "--out", str(tmp_path / "out"), "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["rates"]) == ["75"]
    assert not stale.exists()


def test_published_predictions(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The reference implementation gives 0.9070 / 0.8816 / 0.7383 for these files."""
    folder = tmp_path / "predictions"
    unpack_predictions(shared, folder)
    arguments = ["--predictions", str(folder), "--ground_truth", str(shared / "widerface"), "--out", str(tmp_path)]
    assert main(["evaluate", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "easy 0.9070  medium 0.8816  hard 0.7383  (3226 pictures, 0 missing, 0 empty, 0 unknown)" in printed
    first = next(folder.glob("*/*.txt"))
    first.unlink()
    assert main(["evaluate", *arguments]) == 2
    assert "1 of 3226 prediction files are missing" in capsys.readouterr().err
    assert main(["evaluate", *arguments, "--allow_missing"]) == 0
    assert "1 missing" in capsys.readouterr().out


def test_channels_that_are_not_read_do_not_matter(drawn_dataset: Path, weights: Path, tmp_path: Path) -> None:
    """Of 16 channels read, the other 240 may hold anything; of all channels, they may not."""
    detector = Detector.load(weights)
    latent = np.load(drawn_dataset / "val" / "latent" / "drawn_2_0" / "latent_75.npy")
    order = detector.runtime.model.normalisation.inverse_deviation[-1].numpy().argsort(kind="stable")
    changed = latent.copy()
    changed[..., order[16:], :, :] += 50
    for count, same in ((16, True), (0, False)):
        detector.read_channels(count)
        first, second = (detector(values, rate=75, confidence=0.0) for values in (latent, changed))
        assert np.array_equal(first.scores, second.scores) is same
    arguments = ["--weight", str(weights), "--dataset_root", str(drawn_dataset), "--rates", "75"]
    found = []
    for count in ("0", "16"):
        assert main(["evaluate", *arguments, "--channels", count, "--out", str(tmp_path / count)]) == 0
        found.append(json.loads((tmp_path / count / "evaluation.json").read_text()))
    assert [result["protocol"].get("channels") for result in found] == [None, 16]
