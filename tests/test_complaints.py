"""What users of such software complain about most, one by one: the line that they get here, or that it works."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch

from latentface import Detector
from latentface.cli import main
from latentface.data import pack
from latentface.data.latents import NestedLatentWiderFaceDataset
from latentface.model import anchors
from latentface.training.setup import pick_precision


def said(capsys: pytest.CaptureFixture, arguments: list[str], code: int) -> str:
    """What a command says: on stderr where it fails, in one line, else on stdout."""
    capsys.readouterr()
    assert main(arguments) == code
    out, err = capsys.readouterr()
    if code:
        assert err.count("\n") == 1
        assert "Traceback" not in err
    return err if code else out


def train(root: Path, *more: str) -> list[str]:
    return ["train", "--dataset_root", str(root), "--model", "light", "--bridge", "shuffle", "--epochs", "1",
            "--workers", "0", "--no_wandb", "--out", str(root / "run"), *more]  # fmt: skip


OWN_DATA = """\
a.jpg
4
1 2 0 10 0 0 0 0 0 0
5 6 20 0 0 0 0 0 0 0
3 3 20 20 0 0 0 1 0 0
30 30 16 16 0 0 0 0 0 0
b.jpg
0
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run on own data, and what it said: boxes without size, an invalid one, no landmarks, no faces, no val/."""
    root = tmp_path_factory.mktemp("own")
    for name in "ab":
        folder = root / "train" / "latent" / name
        folder.mkdir(parents=True)
        np.save(folder / "latent_75.npy", np.full((256, 4, 4), ord(name), np.float32))
    (root / "train" / "labels.txt").write_text(OWN_DATA)
    with contextlib.redirect_stdout(io.StringIO()) as text:
        assert main(train(root)) == 0
    return root, text.getvalue()


# 1. AP that cannot be reproduced, because size, thresholds or batch are unstated


def test_an_ap_comes_with_its_protocol(drawn_dataset, weights, tmp_path, capsys):
    arguments = ["evaluate", "--weight", str(weights), "--dataset_root", str(drawn_dataset), "--rates", "75"]
    text = said(capsys, [*arguments, "--out", str(tmp_path / "out")], 0)
    first, second = text.splitlines()[:2]
    assert first.startswith("protocol: name all-point AP at IoU 0.5, detections pooled, set ")
    assert "pictures 3, codec unknown" in first
    assert "min_height 0.0, confidence 0.02, nms 0.4, before_nms 5000, keep 750" in first
    assert second == "rate 75 (unknown bpp, unknown latents, 128x128)"
    kept = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert torch.__version__.startswith(kept["versions"]["torch"])


# 2. The evaluator needs a build that breaks; zero AP because predictions were skipped silently


def test_predictions_that_are_missing_are_no_zero_ap(tmp_path, capsys):
    from scipy.io import savemat

    def cells(*items: object) -> np.ndarray:
        column = np.empty((len(items), 1), dtype=object)
        column[:, 0] = items
        return column

    lists = {"event_list": cells("e"), "file_list": cells(cells("a", "b")),
             "face_bbx_list": cells(cells(np.ones((1, 4)), np.ones((1, 4)))),
             "gt_list": cells(cells(np.ones((1, 1)), np.ones((1, 1))))}  # fmt: skip
    truth, found = tmp_path / "truth", tmp_path / "found" / "e"
    truth.mkdir()
    found.mkdir(parents=True)
    for name in ("face", "easy", "medium", "hard"):
        savemat(truth / f"wider_{name}_val.mat", lists)
    (found / "a.txt").write_text("a\n1\n1 1 1 1 0.5\n")
    arguments = [
        "evaluate",
        "--predictions",
        str(found.parent),
        "--ground_truth",
        str(truth),
        "--out",
        str(tmp_path / "o"),
    ]
    line = said(capsys, arguments, 2)
    assert "1 of 2 prediction files are missing (first: e/b.txt); predict them too, or count their faces as" in line
    assert "not found with --allow_missing" in line
    assert not (tmp_path / "o").exists()
    assert "easy 0.5000  medium 0.5000  hard 0.5000  (2 pictures, 1 missing, 0 empty" in said(
        capsys, [*arguments, "--allow_missing"], 0
    )


# 3. Post-processing slower than the network because priors are rebuilt per picture


def test_priors_are_made_once(weights, monkeypatch):
    made = []
    original = anchors.make_priors
    monkeypatch.setattr(anchors, "make_priors", lambda *sizes: made.append(sizes) or original(*sizes))
    anchors.priors.cache_clear()
    detector = Detector.load(weights)
    for _ in range(3):
        detector([np.zeros((256, 5, 3), np.float32)] * 2, rate=75)
    assert len(made) == 1


# 4. Infinite loss: zero-size boxes pass the filter, and an invalid box is still forced onto its best prior


def test_boxes_without_size_and_invalid_ones_do_not_spoil_the_loss(own):
    root, text = own
    assert "note: 2 boxes without width or height are left out, the first of a" in text
    assert np.isfinite(json.loads((root / "run" / "metrics.jsonl").read_text())["loss"])
    labels = NestedLatentWiderFaceDataset.of_split(root / "train").pictures[0].labels
    assert labels.ignore.tolist() == [True, False]


# 5. No validation while training


def test_training_says_how_it_validates(own):
    """Or, as here, that there is nothing to validate on; with a set see `test_a_session_that_ends_leaves_a_state`."""
    root, text = own
    assert f"no validation: {root}/val/latent is not there; weight_best.pth follows the training loss" in text


# 6. Own data without landmarks, pictures without faces


def test_own_data(own, tmp_path, capsys):
    root, text = own
    assert "train: 2 pictures, 1 face (" in text  # the other box has no size
    assert "note: no label has five landmarks: the model will find faces without them" in text
    found = Detector.load(root / "run" / "weight_final.pth")(np.zeros((256, 4, 4), np.float32), confidence=0)
    assert len(found)
    assert np.isnan(found.landmarks).all()
    labels = tmp_path / "labels.txt"
    labels.write_text("a.jpg\n0\nb.jpg\n0\n")
    line = said(capsys, train(root, "--train_label_file", str(labels), "--out", str(tmp_path / "run")), 2)
    assert f"{labels}: not one face in it; look at its format" in line
    assert not (tmp_path / "run").exists()


# 7. Resume that restarts the optimiser


def test_a_run_is_continued_whole_or_not_at_all(own, tmp_path, capsys):
    root, _ = own
    run = root / "run"
    line = said(capsys, train(root), 2)
    assert f"{run} already holds a run: continue it with --resume {run}, or give another --out" in line
    shutil.copytree(run, tmp_path / "run")
    state = tmp_path / "run" / "state.pth"
    content = torch.load(state, weights_only=True)
    assert max(values["exp_avg"].abs().max() for values in content["optimizer"]["state"].values()) > 0
    del content["optimizer"]  # what is lost where only weights are kept
    torch.save(content, state)
    line = said(capsys, ["train", "--resume", str(state.parent), "--epochs", "2", "--no_wandb"], 2)
    assert f"{state}: does not belong to a run with these settings ('optimizer')" in line


# 8. No batched inference


def test_a_list_is_a_batch(weights):
    detector = Detector.load(weights)
    latents = list(np.random.default_rng(0).normal(0, 20, (3, 256, 4, 6)).astype(np.float32))
    shapes = []
    original = detector.runtime.predict
    detector.runtime.predict = lambda batch, *rest: shapes.append(batch.shape) or original(batch, *rest)
    assert len(detector(latents, rate=75)) == 3
    assert shapes == [(3, 256, 4, 6)]


# 9. Export with fixed size


def test_an_exported_file_takes_any_size(exported):
    detector = Detector.load(exported)
    for shape in ((256, 1, 9), (256, 7, 2)):
        detector(np.zeros(shape, np.float32), rate=75)


# 10. "Which tensor is y_hat?": tensor, dtype, range and padding go unstated


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((128, 8, 8)), "shape [128, 8, 8]; this model takes [256, h, w] or [1, 256, h, w]"),
        (np.zeros((8, 8, 256)), "shape [8, 8, 256]; this model takes [256, h, w] or [1, 256, h, w]"),
        (np.zeros((2, 256, 8, 8)), "shape [2, 256, 8, 8]; expected [C, h, w] or [1, C, h, w]"),
        (np.zeros((256, 64)), "shape [256, 64]; expected [C, h, w] or [1, C, h, w]"),
        (np.zeros((256, 8, 8), complex), "dtype complex128; expected floating point or integer numbers"),
        (np.full((256, 8, 8), np.nan), "NaN or infinite values; write this latent again"),
    ],
)
def test_a_tensor_of_another_kind(array, message, weights, tmp_path, capsys):
    np.save(tmp_path / "latent_75.npy", array)
    line = said(capsys, ["detect", str(tmp_path / "latent_75.npy"), "--weight", str(weights)], 2)
    assert f"{tmp_path}/latent_75.npy: {message}" in line


def test_a_tensor_as_another_program_writes_it(weights, tmp_path, capsys):
    """The reference software dumps `torch.save`d tensors."""
    path = tmp_path / "latent_75.npy"
    torch.save(torch.zeros(1, 256, 8, 8), path)
    line = said(capsys, ["detect", str(path), "--weight", str(weights)], 2)
    assert f"{path}: not a NumPy array of numbers, or a damaged one; write it again" in line


def test_padding_is_stated_with_the_result(tmp_path, capsys):
    """And so are rate, picture size and where the photograph lies in it."""
    from PIL import Image

    Image.new("RGB", (90, 60)).save(tmp_path / "photo.png")
    arguments = [
        "detect",
        str(tmp_path / "photo.png"),
        "--codec",
        "dct",
        "--rate",
        "50",
        "--size",
        "128",
        "--no_pictures",
    ]
    said(capsys, [*arguments, "--out", str(tmp_path / "out")], 0)
    result = json.loads((tmp_path / "out" / "photo.json").read_text())
    assert (result["picture_width"], result["picture_height"], result["rate"]) == (128, 128, 50)
    assert result["photograph"]["source_width"] == 90
    assert result["photograph"]["scale_x"] == pytest.approx(128 / 90)


# 11. Kaggle: 20 GB of working disk, 12 hours a session, input mounted read-only, T4 without bfloat16


def test_a_disk_without_room_is_told_beforehand(drawn_dataset, tmp_path, monkeypatch, capsys):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(pack.shutil, "disk_usage", lambda path: usage(1, 1, 1000))
    line = said(capsys, ["pack", str(drawn_dataset), "--out", str(tmp_path / "packed")], 2)
    assert "are needed and 1 KB free: give another --out, fewer --rates or --dtype int8" in line
    assert not list((tmp_path / "packed").rglob("*.safetensors"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_read_only(drawn_dataset, tmp_path, capsys):
    tmp_path.chmod(0o500)
    try:
        line = said(capsys, ["pack", str(drawn_dataset), "--out", str(tmp_path / "packed")], 2)
    finally:
        tmp_path.chmod(0o700)
    assert f"{tmp_path}/packed: cannot be made (Permission denied); give --out a folder that you may write" in line


def test_a_folder_that_cannot_be_made(drawn_dataset, tmp_path, capsys):
    (tmp_path / "file").touch()
    line = said(capsys, ["pack", str(drawn_dataset), "--out", str(tmp_path / "file" / "packed")], 2)
    assert "file/packed: cannot be made (Not a directory); give --out a folder that you may write" in line


def test_a_session_that_ends_leaves_a_state(drawn_dataset, tmp_path, capsys):
    """Also where an epoch is one step."""
    run = tmp_path / "run"
    arguments = train(drawn_dataset, "--epochs", "9", "--max_hours", "1e-9", "--batch_size", "8", "--out", str(run))
    text = said(capsys, arguments, 0)
    assert "val AP: protocol all-point AP at IoU 0.5, all faces, whole latents, set " in text
    assert f"stopped: the time is up. Continue with --resume {run}" in text
    assert (run / "state.pth").is_file()
    assert not (run / "weight_final.pth").exists()


def test_a_gpu_without_bfloat16_gets_float16(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert pick_precision("auto", torch.device("cuda")) == torch.float16
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert pick_precision("auto", torch.device("cuda")) == torch.bfloat16
