import multiprocessing
import os
import shutil
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentface.codecs.base import Latent
from latentface.data.encode import EncodeConfig, encode, run
from latentface.data.encode_worker import PictureEncoder, Task, View, in_items, views_at_once
from latentface.data.labels import PictureLabels, read_labels
from latentface.data.manifest import ManifestRow, read_manifest
from latentface.data.pictures import read_picture, render
from latentface.data.sizes import view_labels
from latentface.errors import LatentFaceError, PictureError
from latentface.options import parse

SHARED = Path(__file__).resolve().parents[2].parent / "shared"


class MeanCodec:
    """The mean colour of each cell, times the rate; 0.01 x rate bits per pixel; knows no rate 80."""

    name = "mean"
    stride = multiple = 16
    rates = (25, 75)

    def __init__(self):
        self.encoded = 0
        self.stop_after = None

    def encode_rates(self, rgb, rates, pixels=None):
        if 80 in rates:
            raise LatentFaceError("rate 80 is not known")
        self.encoded += 1
        if self.encoded == self.stop_after:
            raise KeyboardInterrupt
        height, width = rgb.shape[:2]
        means = rgb.reshape(height // 16, 16, width // 16, 16, 3).mean((1, 3)).transpose(2, 0, 1)
        bits = height * width / (pixels or height * width) / 100  # for each pixel that counts
        return [Latent(means * rate, "mean", rate, None, 1.0, rate * bits, width, height, True) for rate in rates]


def open_mean(name, weights):
    return MeanCodec()


def open_and_die_in_a_worker(name, weights):
    if multiprocessing.parent_process() is not None:
        os._exit(3)
    return MeanCodec()


def save(path, width, height, colour=(200, 100, 50)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), colour).save(path)


@pytest.fixture
def photographs(tmp_path):
    save(tmp_path / "images/p/wide.png", 128, 64)
    save(tmp_path / "images/p/tall.png", 32, 64)
    save(tmp_path / "images/square.png", 40, 40)
    (tmp_path / "faces.txt").write_text(
        "p/wide.jpg\n2\n20 10 40 30 0 0 0 0 0 0\n100 40 60 60 0 0 0 1 0 0\n"
        "p/tall.jpg\n1\n0 0 32 64 0 0 0 0 0 0\np/square.jpg\n0\n0 0 0 0 0 0 0 0 0 0\n"
    )
    return tmp_path


def config_of(folder, **values):
    settings = {"labels": str(folder / "faces.txt"), "rates": (25, 75), "size": 64, "workers": 1, "codec": "mean"}
    return EncodeConfig(images=str(folder / "images"), out=str(folder / "root/train"), **{**settings, **values})


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_the_documented_tree(photographs):
    summary = encode(config_of(photographs), open_mean)
    out = photographs / "root/train"
    assert set(contents(out)) == {"labels.txt", "latents.jsonl"} | {
        f"latent/{base}/latent_{rate}.npy" for base in ("wide", "tall", "square") for rate in (25, 75)
    }
    latent = np.load(out / "latent/wide/latent_75.npy", allow_pickle=False)
    assert latent.dtype == np.float32
    expected = np.full((3, 4, 4), 128.0)  # 64 x 32 of the 64 x 64 picture is photograph
    expected[:, :2] = np.array([200, 100, 50])[:, None, None]
    np.testing.assert_allclose(latent, expected * 75)
    assert (summary.pictures, summary.crops, summary.written, summary.faces, summary.ignored) == (3, 0, 3, 3, 1)
    assert summary.megabytes == 3 * 2 * 3 * 4 * 4 * 4 / 1e6
    np.testing.assert_allclose(summary.bpp[25], (0.5 + 0.5 + 0.25) / 3)


def test_labels_are_in_picture_pixels(photographs):
    encode(config_of(photographs), open_mean)
    found = read_labels(photographs / "root/train/labels.txt")
    assert {base: picture.name for base, picture in found.items()} == {
        "square": "p/square.jpg",
        "tall": "p/tall.jpg",
        "wide": "p/wide.jpg",
    }
    assert found["wide"].boxes.tolist() == [[10, 5, 30, 20], [50, 20, 64, 32]]  # halved, cut to the photograph
    assert found["wide"].ignore.tolist() == [False, True]
    assert found["tall"].boxes.tolist() == [[0, 0, 32, 64]]
    assert len(found["square"].boxes) == 0


def test_the_manifest(photographs):
    encode(config_of(photographs), open_mean)
    rows = read_manifest(photographs / "root/train/latents.jsonl")
    assert list(rows) == ["square", "tall", "wide"]
    wide = rows["wide"]
    assert (wide.source_width, wide.source_height, wide.scale_x, wide.scale_y) == (128, 64, 0.5, 0.5)
    assert (wide.pad_right, wide.pad_bottom, wide.crop, wide.mirrored) == (0, 32, None, False)
    assert rows["tall"].pad_right == 32
    assert wide.latents[75].bpp == 1.5  # 0.75 bits for each of 4096 pixels, 2048 of them photograph
    assert (wide.latents[75].codec, wide.latents[75].model_index, wide.latents[75].step) == ("mean", None, 1.0)


def test_stretch(photographs):
    encode(config_of(photographs, fit="stretch"), open_mean)
    row = read_manifest(photographs / "root/train/latents.jsonl")["wide"]
    assert (row.scale_x, row.scale_y, row.pad_bottom, row.latents[75].bpp) == (0.5, 1.0, 0, 0.75)
    assert read_labels(photographs / "root/train/labels.txt")["wide"].boxes[0].tolist() == [10, 10, 30, 40]


def test_half_precision(photographs):
    encode(config_of(photographs, dtype="float16"), open_mean)
    assert np.load(photographs / "root/train/latent/wide/latent_75.npy").dtype == np.float16
    assert encode(config_of(photographs, dtype="float16"), open_mean).written == 0


class BatchMeanCodec(MeanCodec):
    """Takes several pictures at a time; fails on one colour, as a codec may on a broken picture."""

    encode = decode = usual_model = print  # the rest of a codec, which nobody calls here

    def __init__(self):
        super().__init__()
        self.batches = []

    def encode_rates(self, rgb, rates, pixels=None):
        if (rgb[0, 0] == (1, 2, 3)).all():
            raise PictureError("a colour it cannot take")
        return super().encode_rates(rgb, rates, pixels)

    def encode_batch(self, pictures, rates, pixels):
        self.batches.append(len(pictures))
        return [self.encode_rates(*each) for each in zip(pictures, rates, pixels, strict=True)]


def test_several_views_at_a_time(photographs):
    """As a GPU's networks take them; an unreadable file and one that the codec fails on cost nothing but themselves."""
    one_by_one = photographs / "one"
    encode(replace(config_of(photographs, crops=1), out=str(one_by_one)), open_mean)
    (photographs / "images/p/broken.png").write_bytes(b"no picture")
    save(photographs / "images/p/plain.png", 64, 64, (1, 2, 3))
    config = config_of(photographs, crops=1, labels=None)
    codec = BatchMeanCodec()
    names = ("wide", "broken", "plain", "tall")
    views = (View(None, (25, 75)), View(0, (75,)))
    tasks = [Task(f"p/{name}.png", photographs / f"images/p/{name}.png", views) for name in names]
    (photographs / "root/train/latent").mkdir(parents=True)
    outcomes = PictureEncoder(config, codec, at_once=3).encode(tasks)
    assert codec.batches == [3, 2]  # wide, its crop, plain, of which then no more is tried; tall, its crop
    assert [[row.base for row in outcome.rows] for outcome in outcomes] == [
        ["wide", "wide__crop0"], [], [], ["tall", "tall__crop0"],
    ]  # fmt: skip
    assert "broken.png: cannot be read" in outcomes[1].problem
    assert outcomes[2].problem == f"{photographs / 'images/p/plain.png'}: a colour it cannot take"
    assert (outcomes[0].problem, outcomes[3].problem) == (None, None)
    written = contents(photographs / "root/train/latent")
    assert sorted(written) == [
        "tall/latent_25.npy", "tall/latent_75.npy", "tall__crop0/latent_75.npy",
        "wide/latent_25.npy", "wide/latent_75.npy", "wide__crop0/latent_75.npy",
    ]  # fmt: skip
    for name, content in written.items():
        assert content == (one_by_one / "latent" / name).read_bytes()


def test_how_much_a_gpu_is_given_at_a_time():
    config = EncodeConfig(images="", out="", size=320, crops=8)
    assert views_at_once(config, BatchMeanCodec()) == 1
    on_gpu = replace(config, device="cuda")
    assert views_at_once(on_gpu, MeanCodec()) == 1
    assert views_at_once(on_gpu, BatchMeanCodec()) == 32  # as many pixels as 8 pictures of 640 x 640
    tasks = [Task(str(number), Path(), ()) for number in range(7)]
    assert [len(item) for item in in_items(on_gpu, tasks, 32)] == [3, 3, 1]  # 27 views
    assert [len(item) for item in in_items(config, tasks, 1)] == [1] * 7


def test_without_labels_every_picture_is_encoded(photographs):
    summary = encode(config_of(photographs, labels=None), open_mean)
    assert (summary.pictures, summary.faces) == (3, 0)
    assert not (photographs / "root/train/labels.txt").exists()
    assert read_manifest(photographs / "root/train/latents.jsonl")["square"].name == "square.png"


def test_strays_are_told(photographs):
    save(photographs / "images/more.png", 20, 20)
    with (photographs / "faces.txt").open("a") as file:
        file.write("p/gone.jpg\n0\n")
    lines = []
    summary = encode(config_of(photographs), open_mean, say=lines.append)
    assert summary.missing == ["p/gone.jpg"]
    assert [Path(path).name for path in summary.unlabelled] == ["more.png"]
    assert "1 labelled pictures have no file, left out: p/gone.jpg" in lines[0]
    assert "1 files have no label, left out: " in lines[1]


def test_limit_takes_the_first_by_name(photographs):
    assert encode(config_of(photographs, limit=2), open_mean).pictures == 2
    assert list(read_manifest(photographs / "root/train/latents.jsonl")) == ["square", "tall"]
    assert encode(config_of(photographs), open_mean).written == 1


def test_an_unreadable_picture_is_skipped(photographs):
    (photographs / "images/p/tall.png").write_bytes(b"no picture")
    lines = []
    summary = encode(config_of(photographs, crops=1), open_mean, say=lines.append)
    assert (summary.pictures, summary.crops, len(summary.skipped)) == (2, 2, 1)
    assert lines == [f"skipped {summary.skipped[0]}"]
    assert "tall.png: cannot be read as a picture" in lines[0]
    assert "tall" not in read_labels(photographs / "root/train/labels.txt")


@pytest.mark.parametrize("mirrored", [False, True])
def test_labels_of_a_crop_by_hand(mirrored):
    points = [[20, 30], [40, 30], [30, 40], [22, 50], [38, 50]]
    unknown = [[np.nan] * 2] * 5
    labels = PictureLabels(
        "p/a.jpg",
        np.array([[16, 24, 42, 54], [40, 30, 60, 40], [44, 30, 60, 40], [0, 0, 9, 9]], np.float32),
        np.array([points, unknown, unknown, unknown], np.float32),
        np.zeros(4, bool),
    )
    row = ManifestRow("p/a__crop0.jpg", {}, 16, 80, 60, 2.0, 2.0, crop=(10, 20, 40, 40), mirrored=mirrored)
    seen = view_labels(labels, row)
    assert seen.name == "p/a__crop0.jpg"
    assert seen.ignore.tolist() == [False, True, True]  # centres at x 29, 50 and 52; the crop ends at 50
    if not mirrored:
        assert seen.boxes.tolist() == [[12, 8, 64, 68], [60, 20, 80, 40], [68, 20, 80, 40]]
        assert seen.landmarks[0].tolist() == [[20, 20], [60, 20], [40, 40], [24, 60], [56, 60]]
    else:
        assert seen.boxes.tolist() == [[16, 8, 68, 68], [0, 20, 20, 40], [0, 20, 12, 40]]
        assert seen.landmarks[0].tolist() == [[20, 20], [60, 20], [40, 40], [24, 60], [56, 60]]


def test_labels_of_crops_lie_on_what_is_drawn(photographs):
    pixels = np.zeros((90, 120, 3), np.uint8)
    pixels[40:60, 50:80] = 255  # the face
    Image.fromarray(pixels).save(photographs / "images/p/wide.png")
    (photographs / "faces.txt").write_text("p/wide.jpg\n50 40 30 20\n")
    encode(config_of(photographs, crops=12), open_mean)
    rows = read_manifest(photographs / "root/train/latents.jsonl")
    labels = read_labels(photographs / "root/train/labels.txt")
    photograph = read_picture(photographs / "images/p/wide.png")
    assert len(rows) == 13
    checked = {False: 0, True: 0}
    for base, row in rows.items():
        picture = render(photograph, row)[..., 0].astype(float)
        drawn = np.zeros((64, 64))
        for x1, y1, x2, y2 in np.round(labels[base].boxes).astype(int):
            drawn[y1:y2, x1:x2] = 255
        if len(labels[base].boxes):
            assert np.abs(picture[: row.content_height] - drawn[: row.content_height]).mean() < 12
            checked[row.mirrored] += 1
    assert min(checked.values()) > 0


def test_the_same_command_continues(photographs):
    config = config_of(photographs, crops=1)
    assert encode(config, open_mean).written == 6
    out = photographs / "root/train"
    before = contents(out)
    assert encode(config, open_mean).written == 0
    (out / "latent/wide/latent_25.npy").unlink()
    (out / "latent/tall__crop0/latent_75.npy").write_bytes(b"torn")
    (out / "latent/square/.latent_25.npy.tmp").write_bytes(b"left over")
    (out / "latents.jsonl").write_bytes(before["latents.jsonl"][:-30])  # wide__crop0 is the last
    (out / "labels.txt").unlink()
    assert encode(config, open_mean).written == 3
    (out / "latent/square/.latent_25.npy.tmp").unlink()
    assert contents(out) == before


def test_a_stopped_run_continues(photographs):
    codec = MeanCodec()
    codec.stop_after = 4  # the trial, then two pictures
    with pytest.raises(KeyboardInterrupt):
        encode(config_of(photographs), lambda name, weights: codec)
    assert list(read_manifest(photographs / "root/train/latents.jsonl")) == ["square", "tall"]
    assert encode(config_of(photographs), open_mean).written == 1
    assert len(read_labels(photographs / "root/train/labels.txt")) == 3


def test_rates_and_crops_can_be_added(photographs):
    encode(config_of(photographs, rates=(25,)), open_mean)
    once = photographs / "root/train/latent/wide/latent_25.npy"
    stamp = once.stat().st_mtime_ns
    assert encode(config_of(photographs, rates=(75, 25)), open_mean).written == 3
    assert once.stat().st_mtime_ns == stamp
    assert encode(config_of(photographs, rates=(75,), crops=2), open_mean).written == 6
    rows = read_manifest(photographs / "root/train/latents.jsonl")
    assert sorted(rows["wide"].latents) == [25, 75]
    assert sorted(rows["wide__crop1"].latents) == [75]
    assert len(read_labels(photographs / "root/train/labels.txt")) == 9


def test_without_rates_those_of_the_codec(photographs):
    assert list(encode(config_of(photographs, rates=()), open_mean).bpp) == [25, 75]


def test_so_many_rates_of_each_view(photographs):
    settings = {"rates": (25, 75, 100), "crops": 20, "rates_per_view": 2}
    summary = encode(config_of(photographs, **settings), open_mean)
    rows = read_manifest(photographs / "root/train/latents.jsonl").values()
    drawn = Counter(tuple(sorted(row.latents)) for row in rows)
    assert drawn.keys() == {(25, 75), (25, 100), (75, 100)}
    assert min(drawn.values()) > 10  # of 63
    assert summary.megabytes == pytest.approx(63 * 2 * 3 * 4 * 4 * 4 / 1e6)
    again = encode(config_of(photographs, **settings), open_mean)
    assert again.written == 0


def test_crops_larger_than_the_photograph_make_faces_smaller(photographs):
    encode(config_of(photographs, crops=1, crop_range=(2.0, 2.0)), open_mean)
    row = read_manifest(photographs / "root/train/latents.jsonl")["wide__crop0"]
    assert row.crop == (0, 0, 128, 64)  # a square of 128 pixels, the lower half of it padding
    assert (row.scale_x, row.content_width, row.content_height, row.pad_bottom) == (0.5, 64, 32, 32)
    again = encode(config_of(photographs, crops=1, crop_range=(2.0, 2.0)), open_mean)
    assert again.written == 0


def test_labels_of_an_earlier_run_stay(photographs):
    encode(config_of(photographs), open_mean)
    (photographs / "faces.txt").write_text("p/wide.jpg\n20 10 40 30\n")
    encode(config_of(photographs), open_mean)
    found = read_labels(photographs / "root/train/labels.txt")
    assert [len(found[base].boxes) for base in ("square", "tall", "wide")] == [0, 1, 1]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"size": 32}, "made with size 64, now it is 32"),
        ({"fit": "stretch"}, "made with fit pad, now it is stretch"),
        ({"codec": "other"}, "made with codec mean, now it is other"),
        ({"seed": 5}, "made with seed 0, now it is 5"),
        ({"crop_range": (0.5, 1.0)}, r"made with crop_range \[0.3, 1.0\], now it is \[0.5, 1.0\]"),
    ],
)
def test_other_settings_do_not_continue(photographs, values, words):
    encode(config_of(photographs), open_mean)
    before = contents(photographs / "root")
    with pytest.raises(LatentFaceError, match=words):
        encode(config_of(photographs, **values), open_mean)
    assert contents(photographs / "root") == before


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rates": (25, 80)}, "rate 80 is not known"),
        ({"rates": (25, 25)}, "--rates"),
        ({"size": 72}, "--size 72 is no multiple of 16"),
        ({"size": 0}, "--size"),
        ({"fit": "cut"}, "--fit"),
        ({"crops": -1}, "--crops"),
        ({"rates_per_view": 3}, "--rates_per_view has to be 0 to 2"),
        ({"crop_range": (0.8, 0.4)}, "--crop_range"),
        ({"limit": 0}, "--limit"),
        ({"dtype": "int8"}, "--dtype"),
        ({"labels": "none.txt"}, "none.txt: the label file cannot be read"),
        ({"images": "none"}, "none: no such folder"),
    ],
)
def test_wrong_settings_are_refused_before_any_work(photographs, values, words):
    with pytest.raises(LatentFaceError, match=words):
        encode(replace(config_of(photographs), **values), open_mean)
    assert not (photographs / "root").exists()


def test_nothing_of_another_origin_is_overwritten(photographs):
    out = photographs / "root/train"
    out.mkdir(parents=True)
    shutil.copy(photographs / "faces.txt", out / "labels.txt")
    with pytest.raises(LatentFaceError, match="labels or latents of another origin"):
        encode(config_of(photographs), open_mean)
    with pytest.raises(LatentFaceError, match="would be overwritten"):
        encode(config_of(photographs, labels=str(out / "labels.txt")), open_mean)
    assert set(contents(out)) == {"labels.txt"}


def test_two_pictures_cannot_share_a_directory(photographs):
    save(photographs / "images/q/wide.png", 20, 20)
    with pytest.raises(LatentFaceError, match=r"p/wide\.png and q/wide\.png would share a directory"):
        encode(config_of(photographs, labels=None), open_mean)
    (photographs / "images/q/wide.png").rename(photographs / "images/wide__crop0.png")
    with pytest.raises(LatentFaceError, match=r"wide__crop0\.png and p/wide__crop0\.png would share"):
        encode(config_of(photographs, labels=None, crops=1), open_mean)


def test_a_picture_does_not_take_the_place_of_another(photographs):
    encode(config_of(photographs), open_mean)
    (photographs / "faces.txt").write_text("elsewhere/wide.jpg\n0\n")
    with pytest.raises(LatentFaceError, match=r"has p/wide\.jpg where elsewhere/wide\.jpg would go"):
        encode(config_of(photographs), open_mean)


def test_no_picture_belongs_to_the_labels(photographs):
    (photographs / "faces.txt").write_text("x.jpg\n0\n")
    with pytest.raises(LatentFaceError, match=r"no picture in it that belongs to a name in .*faces\.txt"):
        encode(config_of(photographs), open_mean)


def test_an_output_that_cannot_be_written(photographs):
    (photographs / "root").write_text("a file")
    with pytest.raises(LatentFaceError, match="cannot be made"):
        encode(config_of(photographs), open_mean)


def test_a_latent_that_is_not_finite_stops(photographs):
    with pytest.raises(LatentFaceError, match="not finite as float16; encode with --dtype float32"):
        encode(config_of(photographs, rates=(1000,), dtype="float16"), open_mean)  # 200 x 1000
    assert not list((photographs / "root").rglob("*.npy*"))


def test_the_number_of_workers_changes_no_byte(photographs):
    rng = np.random.default_rng(0)
    for name in ("p/wide", "p/tall", "square"):
        Image.fromarray(rng.integers(0, 255, (50, 70, 3), np.uint8)).save(photographs / f"images/{name}.png")
    one = config_of(photographs, codec="dct", crops=1)
    two = replace(one, out=str(photographs / "root/two"), workers=2)
    assert encode(one).written == encode(two).written == 6
    assert contents(photographs / "root/train") == contents(photographs / "root/two")


def test_a_dead_worker_is_one_line(photographs):
    with pytest.raises(LatentFaceError, match=r"die while they start .* run the same command again"):
        encode(config_of(photographs, workers=2), open_and_die_in_a_worker)
    assert read_manifest(photographs / "root/train/latents.jsonl") == {}


class MortalCodec(MeanCodec):
    """Kills its process, unless that is the one named in the file: with the first picture, or at each square one."""

    def __init__(self, file, once):
        super().__init__()
        self.file, self.once = Path(file), once

    def encode_rates(self, rgb, rates, pixels=None):
        if self.file.exists() and int(self.file.read_text()) != os.getpid() and (self.once or pixels == 64 * 64):
            if self.once:
                self.file.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode_rates(rgb, rates, pixels)


def open_mortal_once(name, weights):
    return MortalCodec(weights, once=True)


def open_mortal(name, weights):
    return MortalCodec(weights, once=False)


def test_a_worker_killed_half_way_loses_and_doubles_nothing(photographs, where):
    (photographs / "alive").write_text(str(os.getpid()))
    one = config_of(photographs, codec_weights=str(photographs / "alive"))
    assert encode(one, open_mean).written == 3
    two = replace(one, out=str(photographs / "root/two"), workers=2, ray=where)
    summary = encode(two, open_mortal_once)
    assert (summary.written, summary.skipped) == (3, [])
    assert not (photographs / "alive").exists()
    assert contents(photographs / "root/train") == contents(photographs / "root/two")


def test_a_picture_that_kills_costs_no_other_of_its_item(photographs, monkeypatch):
    (photographs / "alive").write_text(str(os.getpid()))
    monkeypatch.setattr("latentface.data.encode.in_items", lambda config, tasks, at_once: [tasks[:2], tasks[2:]])
    config = config_of(photographs, codec_weights=str(photographs / "alive"), workers=2)
    summary = encode(config, open_mortal)
    assert (summary.pictures, summary.written, len(summary.skipped)) == (2, 2, 1)
    assert "square.png: the process at work on it died 3 times" in summary.skipped[0]


def test_a_picture_that_kills_every_worker_is_skipped(photographs, where):
    (photographs / "alive").write_text(str(os.getpid()))
    config = config_of(photographs, codec_weights=str(photographs / "alive"), workers=2, ray=where)
    summary = encode(config, open_mortal)
    assert summary.written == 2
    path = photographs / "images/square.png"
    assert summary.skipped == [f"{path}: the process at work on it died 3 times (out of memory?)"]
    assert sorted(read_manifest(photographs / "root/train/latents.jsonl")) == ["tall", "wide"]


def test_the_command(photographs, capsys):
    places = f"--images {photographs}/images --labels {photographs}/faces.txt --out {photographs}/root/val"
    line = places + " --rates 50 --size 64 --workers 1"
    config = parse(EncodeConfig, line.split(), "latentface encode")
    assert run(config) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith(
        "3 pictures, 0 crops (3 written now), 0 skipped\n3 faces (1 to ignore), 0 boxes dropped"
    )
    assert shown.err == ""
    assert np.load(photographs / "root/val/latent/wide/latent_50.npy").shape == (256, 4, 4)


@pytest.mark.skipif(not (SHARED / "wider").is_dir(), reason="no photographs in ../shared/wider")
@pytest.mark.skipif(not (SHARED / "jpegai").is_dir(), reason="no networks in ../shared/jpegai")
def test_photographs_with_learned_networks(tmp_path):
    config = EncodeConfig(
        images=str(SHARED / "wider/dev/images"),
        labels=str(SHARED / "wider/dev/labels_landmarks.txt"),
        out=str(tmp_path / "val"),
        codec="jpegai",
        codec_weights=str(SHARED / "jpegai/VM_bop"),
        rates=(12, 75),
        size=320,
        limit=2,
        workers=1,
    )
    with pytest.raises(LatentFaceError, match="80"):
        encode(replace(config, rates=(80,)))
    assert encode(config).written == 2
    for row in read_manifest(tmp_path / "val/latents.jsonl").values():
        assert [row.latents[rate].model_index for rate in (12, 75)] == [0, 2]
        assert row.latents[12].bpp < row.latents[75].bpp
        assert not row.latents[12].exact
        assert np.load(tmp_path / f"val/latent/{row.base}/latent_75.npy").shape == (256, 20, 20)
