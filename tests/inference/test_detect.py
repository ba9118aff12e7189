"""`latentface detect`: what it reads, writes and draws."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from latentface.cli import main
from latentface.codecs import open_codec
from latentface.codecs.dct import DctCodec
from latentface.data.manifest import LatentEntry, ManifestRow, manifest_in
from latentface.data.pictures import decode_picture, read_picture, render, whole_row
from latentface.inference import detect
from latentface.inference.draw import BOX, draw_faces, place_photograph, render_latent
from latentface.inference.sources import codec_said
from latentface.model.faces import Faces


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def first_latent(dataset: Path) -> Path:
    return sorted((dataset / "val" / "latent").glob("*/latent_75.npy"))[0]


def test_one_latent_gives_table_json_and_picture(
    drawn_dataset: Path, weights: Path, capsys: pytest.CaptureFixture
) -> None:
    latent = first_latent(drawn_dataset)
    assert main(["detect", str(latent), "--weight", str(weights), "--conf", "0.01"]) == 0
    printed = capsys.readouterr().out.splitlines()
    name = f"{latent.parent.name}_latent_75"
    content = json.loads(Path("detections", f"{name}.json").read_text())
    assert (content["rate"], content["picture_width"], content["picture_height"]) == (75, 128, 128)
    assert len(content["faces"]) > 0
    assert printed[0] == f"{name}: {len(content['faces'])} faces, picture pixels"
    first = content["faces"][0]
    assert printed[2].split() == [f"{first['score']:.2f}", *(f"{v:.1f}" for v in first["box"])]
    assert np.array(first["landmarks"]).shape == (5, 2)
    with Image.open(Path("detections", f"{name}.png")) as picture:
        assert picture.size == (640, 640)  # five times 128


def test_hundreds_of_faces_get_a_remark(
    drawn_dataset: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    words = ["detect", str(first_latent(drawn_dataset)), "--weight", str(weights), "--conf", "0", "--no_pictures"]
    monkeypatch.setattr(detect, "MANY_FACES", 1000)
    assert main(words) == 0
    found = len(json.loads(next(Path("detections").glob("*.json")).read_text())["faces"])
    assert "note" not in capsys.readouterr().out
    monkeypatch.setattr(detect, "MANY_FACES", found - 1)
    assert main(words) == 0
    assert f"note: {found} faces a picture: crowds, a low --conf, or a network" in capsys.readouterr().out


def test_folder_needs_a_rate_where_the_model_knows_two(
    drawn_dataset: Path, weights: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = str(drawn_dataset / "val" / "latent")
    assert main(["detect", folder, "--weight", str(weights)]) == 2
    assert "several rates: give --rate; there are 25, 75" in capsys.readouterr().err
    assert main(["detect", folder, "--weight", str(weights), "--rate", "25", "--no_pictures"]) == 0
    assert len(list(Path("detections").glob("*_latent_25.json"))) == 3
    assert not list(Path("detections").glob("*.png"))
    assert "faces in 3 pictures" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["empty"], "empty: no latents in it, and no photographs"),
        (["both", "--rate", "25"], "both: photographs: give --codec and --rate"),
        (["{root}/val", "--codec", "dct", "--rate", "33"], "no latent that --rate names; there are 25, 75"),
        (["photos", "--codec", "dct", "--rate", "25", "--size", "100", "--rows", "jsonl"], "--size 100 is no multiple"),
        (["named"], "named: 2 .npy files, none called latent_<rate>.npy: name the files, and give --rate"),
        (
            ["photos", "--codec", "dct", "--rate", "25", "--size", "100"],
            "--size 100 is no multiple of 16, as dct needs",
        ),
        (["photos"], "photos: photographs: give --codec and --rate"),
        (["{root}/val", "--rate", "33"], "val: no latent of rate 33; there are 25, 75"),
        (["packed"], "packed: a packed dataset; give one of its splits, such as packed/val"),
    ],
)
def test_folders_that_hold_something_else(
    words: list[str], message: str, drawn_dataset: Path, weights: Path, capsys: pytest.CaptureFixture
) -> None:
    Path("empty").mkdir()
    for name in ("named/a", "named/b", "both/a"):
        Path(name).parent.mkdir(exist_ok=True)
        np.save(f"{name}.npy", np.zeros((256, 4, 4), np.float32))
    Image.new("RGB", (32, 32)).save("both/a.png")
    Path("photos").mkdir()
    Image.new("RGB", (32, 32)).save("photos/a.png")
    if words == ["packed"]:
        assert main(["pack", str(drawn_dataset), "--out", "packed", "--dtype", "int8"]) == 0
    assert main(["detect", *(word.format(root=drawn_dataset) for word in words), "--weight", str(weights)]) == 2
    assert message in capsys.readouterr().err


def test_the_only_rate_of_a_folder_is_taken(drawn_dataset: Path, weights: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.copytree(drawn_dataset / "val", "one", ignore=shutil.ignore_patterns("latent_25.npy"))
    np.save("one/mine.npy", np.zeros((256, 4, 4), np.float32))
    assert main(["detect", "one", "--weight", str(weights), "--no_pictures"]) == 0
    said = capsys.readouterr()
    assert "in 3 pictures" in said.out
    assert "note: one: 1 .npy file left out, not called latent_<rate>.npy" in said.err


def test_a_photograph_without_a_codec(capsys: pytest.CaptureFixture) -> None:
    Image.new("RGB", (32, 32)).save("a.png")
    assert main(["detect", "a.png"]) == 2
    assert capsys.readouterr().err == (
        "latentface: error: a.png: a photograph; give --codec dct and --rate 50, or another codec and rate\n"
    )


def test_photograph_is_encoded(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)).save("photo.png")
    arguments = ["detect", "photo.png", "--weight", str(weights), "--rate", "75"]
    assert main(arguments) == 2
    assert "photo.png: a photograph; give --codec dct, or another codec\n" in capsys.readouterr().err
    assert main([*arguments, "--codec", "dct", "--size", "128"]) == 0
    content = json.loads(Path("detections", "photo.json").read_text())
    assert (content["picture_width"], content["picture_height"]) == (128, 128)
    assert (content["codec"], content["weight"]) == ("dct", weights.name)
    capsys.readouterr()
    assert main([*arguments, "--codec", "dct", "--size", "128", "--conf", "0.01"]) == 0
    printed = capsys.readouterr().out.splitlines()
    faces = json.loads(Path("detections", "photo.json").read_text())["faces"]
    assert len(faces) > 0
    assert printed[0] == f"photo: {len(faces)} faces, pixels of the photograph"
    assert [float(word) for word in printed[2].split()[1:]] == pytest.approx(faces[0]["photograph_box"], abs=0.06)
    for face in faces:  # 90 x 60 pixels became 128 x 85, with padding below
        assert (face["box"][1] + face["box"][3]) / 2 < 85
        box = np.multiply(face["box"], [90 / 128, 60 / 85] * 2)
        assert face["photograph_box"] == pytest.approx(box.tolist(), abs=0.02)
        points = np.multiply(face["landmarks"], [90 / 128, 60 / 85])
        np.testing.assert_allclose(face["photograph_landmarks"], points, atol=0.02)
    with Image.open("detections/photo.png") as picture:
        assert picture.size == (640, 425)


def test_jpeg_ai_latents_need_no_networks(capsys: pytest.CaptureFixture) -> None:
    """And noise is said to be none."""
    np.save("latent_75.npy", np.random.default_rng(0).standard_normal((256, 4, 4)).astype(np.float32))
    for words in ([], ["--codec", "jpegai"], ["--codec", "jpegai-vm"]):
        assert main(["detect", "latent_75.npy", *words]) == 0
        said = capsys.readouterr().err
        assert "note: latent_75.npy: its values are unlike a JPEG AI latent's" in said
        assert ("taken for jpegai" in said) == (not words)
    Image.new("RGB", (32, 32)).save("a.png")
    assert main(["detect", "a.png", "--codec", "jpegai", "--rate", "75"]) == 2
    assert "codec jpegai needs --codec_weights DIR" in capsys.readouterr().err


def test_a_latent_of_jpeg_ai_called_dct_is_doubted(shared: Path, capsys: pytest.CaptureFixture) -> None:
    rgb = read_picture(shared / "wider/dev/images/57--Angler/57_Angler_peoplefishing_57_206.webp")
    picture = render(rgb, whole_row("a.webp", rgb.shape[1], rgb.shape[0], 320, "pad", 16))
    for codec, weights, doubted in (("jpegai", shared / "jpegai", True), ("dct", None, False)):
        np.save("latent_75.npy", open_codec(codec, weights).encode(picture, 75).array)
        assert main(["detect", "latent_75.npy", "--codec", "dct"]) == 0
        said = capsys.readouterr().err
        assert ("note: latent_75.npy: its values are like a JPEG AI latent's, not like those of dct" in said) == doubted


def test_latents_of_another_profile_are_called_otherwise() -> None:
    """Those of the reference software's profile `high` are none that a detector for `jpegai` reads."""
    named = SimpleNamespace(name="jpegai-high")
    assert codec_said(detect.DetectConfig(("a.npy",), codec="jpegai-vm"), named) == "jpegai-high"
    assert codec_said(detect.DetectConfig(("a.npy",), codec="jpegai-vm"), None) == "jpegai"
    assert codec_said(detect.DetectConfig(("a.npy",)), None) == ""


def test_boxes_of_mirrored_parts_are_brought_back() -> None:
    """A part of 40 x 20 pixels from (10, 5) on, mirrored and enlarged twice."""
    row = ManifestRow("a.png", {}, 16, 100, 100, 2.0, 2.0, crop=(10, 5, 40, 20), mirrored=True)
    assert row.to_photograph(np.array([[0.0, 0, 20, 10]])).tolist() == [[40, 5, 50, 10]]
    assert replace(row, mirrored=False).to_photograph(np.array([[0.0, 0, 20, 10]])).tolist() == [[10, 5, 20, 10]]
    points = np.array([[[2.0, 4], [12, 4], [6, 6], [4, 8], [10, 8]]])  # eyes, nose, corners of the mouth
    assert row.points_to_photograph(points).tolist() == [[[44, 7], [49, 7], [47, 8], [45, 9], [48, 9]]]
    there = [[[11, 7], [16, 7], [13, 8], [12, 9], [15, 9]]]
    assert replace(row, mirrored=False).points_to_photograph(points).tolist() == there


def test_faces_in_the_padding_are_none() -> None:
    faces = found([[0, 0, 10, 10], [90, 0, 110, 10], [0, 55, 10, 75]], [0.9, 0.8, 0.7])
    assert faces.within(100, 64).scores.tolist() == pytest.approx([0.9])
    assert faces.within(101, 66).scores.tolist() == pytest.approx([0.9, 0.8, 0.7])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weight", "{weights}"], "nothing to look at"),
        (["{latent}", "--codec", "pixels"], "no weights for latents of pixels come with this package"),
        (["gone.npy", "--weight", "{weights}"], "gone.npy: no such file or folder"),
        (["{latent}", "--weight", "{weights}", "--conf", "1.5"], "both lie between 0 and 1"),
        (["{latent}", "--weight", "{weights}", "--rate", "50"], "its name says rate 75, --rate 50: leave --rate out"),
        (["{latent}", "--weight", "{weights}", "--batch_size", "0"], "--batch_size has to be 1 or more"),
        (["{latent}", "--weight", "{weights}", "--size", "0"], "--size 16 to 16384"),
        (["{latent}", "{latent}", "--image", "x.png", "--weight", "{weights}"], "--image goes with one latent"),
        (["{latent}", "--image", "gone.png", "--weight", "{weights}"], "gone.png: cannot be read as a picture"),
        (["{latent}", "--weight", "{latent}"], "latent_75.npy: not a PyTorch file"),
    ],
)
def test_mistakes_get_one_line(
    arguments: list[str], message: str, drawn_dataset: Path, weights: Path, capsys: pytest.CaptureFixture
) -> None:
    places = {"weights": weights, "latent": first_latent(drawn_dataset)}
    assert main(["detect", *(argument.format(**places) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_results_of_the_same_name_are_refused(weights: Path, capsys: pytest.CaptureFixture) -> None:
    for name in ("a/photo.png", "b/photo.png"):
        Path(name).parent.mkdir()
        Image.new("RGB", (32, 32)).save(name)
    arguments = ["a/photo.png", "b/photo.png", "--codec", "dct", "--rate", "75", "--weight", str(weights)]
    assert main(["detect", *arguments]) == 2
    assert "would have the same results file" in capsys.readouterr().err
    assert not Path("detections").exists()


def test_one_bad_photograph_does_not_stop_a_folder(weights: Path, capsys: pytest.CaptureFixture) -> None:
    Path("photos").mkdir()
    Image.new("RGB", (40, 30)).save("photos/good.png")
    Path("photos/bad.jpg").write_text("no picture")
    arguments = ["detect", "photos", "--codec", "dct", "--rate", "75", "--size", "64", "--weight", str(weights)]
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert "skipped photos/bad.jpg: cannot be read as a picture" in said.err
    assert "in 1 picture, 1 skipped; results in detections/" in said.out
    content = json.loads(Path("detections/good.json").read_text())
    assert content["photograph"]["source_width"] == 40
    assert content["photograph"]["scale_x"] == 1.6


def test_inputs_may_stand_before_and_after_flags(drawn_dataset: Path, weights: Path) -> None:
    first, second = sorted((drawn_dataset / "val" / "latent").glob("*/latent_75.npy"))[:2]
    assert main(["detect", str(first), "--weight", str(weights), str(second), "--no_pictures"]) == 0
    assert len(list(Path("detections").glob("*.json"))) == 2


def write_manifest_of(split: Path, codec: str) -> None:
    entry = {"codec": codec, "model_index": 0, "step": 1.0, "bpp": 0.7, "exact": True}
    with (split / "latents.jsonl").open("w") as file:
        for folder in sorted((split / "latent").iterdir()):
            row = {
                "name": f"event/{folder.name}.jpg", "latents": {"75": entry}, "stride": 16, "source_width": 128,
                "source_height": 128, "scale_x": 1.0, "scale_y": 1.0, "pad_right": 0, "pad_bottom": 0, "crop": None,
                "mirrored": False, "label_frame": "picture",
            }  # fmt: skip
            file.write(json.dumps(row) + "\n")


def test_the_codec_of_results_is_the_manifests_or_else_the_one_that_was_said(
    drawn_dataset: Path, weights: Path, tmp_path: Path
) -> None:
    shutil.copytree(drawn_dataset / "val", tmp_path / "val")
    write_manifest_of(tmp_path / "val", "dct")
    of_tree = str(first_latent(tmp_path))
    bare = ["--rate", "75", str(shutil.copy(of_tree, tmp_path / "bare.npy"))]
    for arguments, codec in (([of_tree], "dct"), (bare, None), ([*bare, "--codec", "dct"], "dct")):
        assert main(["detect", *arguments, "--weight", str(weights), "--no_pictures"]) == 0
        (result,) = Path("detections").glob("*.json")
        assert json.loads(result.read_text())["codec"] == codec
        result.unlink()


def test_manifest_is_found_from_anywhere_and_another_codec_refused(
    drawn_dataset: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(drawn_dataset / "val", tmp_path / "val")
    write_manifest_of(tmp_path / "val", "dct")
    from latentface.model.checkpoint import load_checkpoint, save_checkpoint

    trained = load_checkpoint(weights)
    save_checkpoint("dct.pth", trained.build(), trained.facts | {"codec": "dct"})
    inside = first_latent(tmp_path).parent
    monkeypatch.chdir(inside)
    detected = ["detect", "latent_75.npy", "--weight", str(tmp_path / "dct.pth"), "--out", str(tmp_path / "out")]
    assert main(detected) == 0
    assert (tmp_path / "out" / f"{inside.name}_latent_75.png").exists()
    write_manifest_of(tmp_path / "val", "jpegai")
    manifest_in.cache_clear()
    assert main(detected) == 2
    assert "a latent of jpegai, but these weights were trained on dct" in capsys.readouterr().err


def test_faces_are_drawn_where_they_are() -> None:
    ground = np.full((640, 640, 3), 200, dtype=np.uint8)
    points = np.array([[[120, 140], [180, 140], [150, 170], [130, 200], [170, 200]]], dtype=np.float32)
    faces = Faces(np.array([[100, 100, 200, 220]], dtype=np.float32), np.array([0.9], dtype=np.float32), points)
    drawn = draw_faces(ground, faces)
    changed = np.argwhere((drawn != 200).any(axis=2))
    assert drawn.shape == ground.shape
    assert changed[:, 1].min() in range(97, 101)
    assert changed[:, 0].max() in range(220, 224)
    assert drawn[160, 150].tolist() == [200, 200, 200]  # inside the box, away from landmarks
    assert drawn[170, 150].tolist() == [0, 158, 115]  # the nose
    assert (ground == 200).all()


def found(boxes: list[list[float]], scores: list[float] | None = None) -> Faces:
    array = np.array(boxes, np.float32)
    return Faces(array, np.array(scores or [0.5] * len(array), np.float32), np.full((len(array), 5, 2), np.nan))


def coloured(drawn: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (drawn == colour).all(axis=2)


def test_a_score_covers_no_face_and_no_better_score() -> None:
    """Three faces over each other: above and below the middle one there is no room."""
    ground = np.full((640, 640, 3), 200, dtype=np.uint8)
    drawn = draw_faces(
        ground, found([[100, 100, 140, 140], [100, 145, 140, 185], [100, 190, 140, 230]], [0.9, 0.8, 0.7])
    )
    label = coloured(drawn, BOX)[:, 110:130].sum(axis=1) > 12  # rows that a filled label crosses
    assert label[85:98].any()
    assert not any(label[top + 4 : top + 36].any() for top in (100, 145, 190))
    assert label[232:245].any()


def test_a_face_from_top_to_bottom_has_its_score_inside() -> None:
    drawn = draw_faces(np.full((640, 640, 3), 200, dtype=np.uint8), found([[100, 2, 500, 638]]))
    assert coloured(drawn, BOX)[4:16, 102:130].mean() > 0.4


def test_landmarks_of_small_faces_are_left_out() -> None:
    ground = np.full((640, 640, 3), 200, dtype=np.uint8)
    for side, drawn in ((20, False), (60, True)):
        points = np.full((1, 5, 2), 100 + side / 2, np.float32)
        faces = Faces(np.array([[100, 100, 100 + side, 100 + side]], np.float32), np.array([0.5], np.float32), points)
        assert (draw_faces(ground, faces)[100 + side // 2, 100 + side // 2] != 200).any() == drawn


def test_at_the_edge_a_score_stays_inside() -> None:
    drawn = draw_faces(np.full((640, 640, 3), 200, dtype=np.uint8), found([[620, 0, 639, 40]]))
    assert coloured(drawn, BOX)[42:54, 605:638].mean() > 0.4


def test_a_crowd_is_drawn_larger_with_nothing_on_its_faces() -> None:
    ground = np.full((640, 640, 3), 200, dtype=np.uint8)
    crowd = [[20.0 * x, 20.0 * y, 20.0 * x + 12, 20.0 * y + 12] for x in range(1, 30) for y in range(1, 7)]
    drawn = draw_faces(ground, found(crowd))
    assert drawn.shape == (1280, 1280, 3)
    assert (drawn[46:60, 46:60] == 200).all()
    assert draw_faces(ground, found(crowd[:20])).shape == (640, 640, 3)


def test_rendering_shows_the_strongest_channels() -> None:
    latent = np.zeros((5, 2, 2), dtype=np.float32)
    latent[3] = [[0, 10], [0, 10]]
    latent[1] = [[0, 0], [5, 5]]
    picture = render_latent(latent, stride=4)
    assert picture.shape == (8, 8, 3)
    assert picture[0, 0].tolist() == [0, 0, 0]
    assert picture[0, 7].tolist()[0] == 255
    assert picture[7, 0].tolist()[:2] == [0, 255]
    assert render_latent(latent[:1], stride=2).shape == (4, 4, 3)


def test_decoded_ground_is_the_codecs_picture() -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (32, 48, 3), dtype=np.uint8)
    codec = DctCodec()
    latent = codec.encode(rgb, 75)
    np.testing.assert_array_equal(decode_picture(codec, latent.array, 75, None), codec.decode(latent))


def test_photograph_is_placed_by_manifest_proportions_or_fit(tmp_path: Path) -> None:
    rgb = np.zeros((50, 100, 3), dtype=np.uint8)
    rgb[:, 50:] = 255
    Image.fromarray(rgb).save(tmp_path / "p.png")
    padded = place_photograph(tmp_path / "p.png", 64, 64, 16, None)
    assert padded.shape == (64, 64, 3)
    assert (padded[:32, :30] == 0).all()
    assert (padded[:32, 34:] == 255).all()
    assert (padded[33:] == 128).all()
    whole = place_photograph(tmp_path / "p.png", 64, 32, 16, None)
    assert (whole[:, 34:] == 255).all()
    entry = LatentEntry("dct", 0, 1.0, 0.5, True)
    row = ManifestRow("p.png", {75: entry}, 16, 100, 50, 1.28, 1.28, crop=(50, 0, 50, 50), mirrored=True)
    assert (place_photograph(tmp_path / "p.png", 64, 64, 16, row) == 255).all()
