"""`latentface check`: every fault, put into a small dataset in which nothing is wrong, is found with its place."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentface.cli import main
from latentface.codecs.dct import DctCodec
from latentface.codecs.jpegai import MODEL_OF_RATE
from latentface.data.check import quick_check
from latentface.data.check_amplitudes import MODELS
from latentface.data.check_files import Place, open_split
from latentface.data.check_latents import off_step
from latentface.data.check_picture import samples
from latentface.data.label_rows import read_rows
from latentface.data.latents import NestedLatentWiderFaceDataset
from latentface.data.manifest import LatentEntry, ManifestRow, write_manifest
from latentface.data.pictures import decode_picture
from latentface.data.sizes import LabelFrame
from latentface.errors import LatentFaceError

RATES = (12, 25, 75)
PICTURES = {"train": 12, "val": 6}
SIDE = 8  # cells: pictures of 128 x 128


def latent(generator: np.random.Generator, model: int, contrast: float = 1.0, side: int = SIDE) -> np.ndarray:
    """Noise with the amplitudes of a JPEG AI model: [256, side, side]."""
    of = MODELS[model]
    rest = np.sqrt((256 * of.deviation**2 - of.first**2) / 255)
    values = generator.normal(size=(256, side, side)) * np.array([of.first, *[rest] * 255])[:, None, None]
    return np.clip(contrast * values, -of.largest, of.largest).astype(np.float32)


def face(x: float, y: float, side: float) -> str:
    """A RetinaFace row."""
    points = [(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)]
    triples = " ".join(f"{x + side * u:.2f} {y + side * v:.2f} 0" for u, v in points)
    return f"{x:g} {y:g} {side:g} {side:g} {triples} 1"


def make(root: Path, rates: Sequence[int] = RATES, faces: int = 3) -> Path:
    """A dataset without faults and without a manifest; faces of 20 px in rows, the right and lower parts included."""
    for split, pictures in PICTURES.items():
        lines = []
        for number in range(pictures):
            name = f"{split}_{number:02d}"
            folder = root / split / "latent" / name
            folder.mkdir(parents=True)
            generator = np.random.default_rng([len(split), number])
            contrast = generator.uniform(0.8, 1.2)
            for rate in rates:
                np.save(folder / f"latent_{rate}.npy", latent(generator, MODEL_OF_RATE[rate], contrast))
            lines.append(f"# event/{name}.jpg")
            lines += [face(generator.uniform(0, 108), generator.uniform(0, 108), 20) for _ in range(faces)]
        (root / split / "labels.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make(tmp_path / "data")


def found(root: Path, *arguments: str, capsys: pytest.CaptureFixture) -> dict:
    """The JSON of a check."""
    capsys.readouterr()
    code = main(["check", str(root), "--json", *arguments])
    result = json.loads(capsys.readouterr().out)
    assert code == (1 if result["errors"] else 0)
    return result


def codes(result: dict, *levels: str) -> set[str]:
    return {group["code"] for group in result["findings"] if group["level"] in (levels or ("error", "warning"))}


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    np.save(path, change(np.load(path)))


def swap(a: Path, b: Path) -> None:
    spare = a.with_suffix(".spare")
    a.rename(spare)
    b.rename(a)
    spare.rename(b)


def test_a_good_dataset_has_no_findings(root: Path, capsys: pytest.CaptureFixture) -> None:
    result = found(root, capsys=capsys)
    assert (result["errors"], result["warnings"]) == (0, 0)
    train = result["splits"]["train"]
    assert (train["pictures"], train["labelled"], train["faces"], train["with_landmarks"]) == (12, 12, 36, 36)
    assert train["rates"]["25"]["latents"] == 12
    assert train["rates"]["25"]["shapes"] == {"256x8x8": 12}
    assert train["rates"]["25"]["dtypes"] == ["float32"]
    assert train["rates"]["75"]["largest"] <= MODELS[2].largest


def test_output_for_people(root: Path, capsys: pytest.CaptureFixture) -> None:
    for number in range(5):
        rewrite(root / "train" / "latent" / f"train_0{number}" / "latent_25.npy", lambda array: array * np.nan)
    assert main(["check", str(root)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == ("train: 12 pictures, 12 with labels (0 of them without faces), 36 faces, 36 with landmarks")
    assert lines[2].startswith("  rate  25: 7 latents, 256 x 8 x 8, float32, codec unknown, standard deviation ")
    place = root / "train" / "latent" / "train_00" / "latent_25.npy"
    first = lines.index(f"{place}: error: 16384 of 16384 values are NaN or infinite, in 256 of 256 channels")
    assert lines[first + 3] == "    and 2 more like these in train"
    assert lines[first + 4] == "    -> write it again, or leave the picture out (--fix lists it)"
    assert lines[-1] == "5 errors, 0 warnings, 0 notes"


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def pickled(path: Path) -> None:
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_short, "cut short: 1000 of 65664 bytes"),
        (pickled, "a pickled array (dtype object): it could run code when opened, so it is not"),
        (lambda path: path.write_bytes(pickle.dumps([1])), "a pickle and no NumPy array"),
        (lambda path: path.write_bytes(b""), "empty: 0 bytes"),
        (lambda path: path.write_bytes(bytes(1000)), "no NumPy file: only zeros"),
        (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "a Git LFS pointer"),
        (lambda path: path.write_bytes(b"\x93NUMPY\x01\x00\xff\xffgarbage"), "its header is damaged"),
        (lambda path: np.save(path, np.zeros(5)), "shape [5]; expected [C, h, w] or [1, C, h, w]"),
        (lambda path: np.save(path, np.full((2, 2, 2), "a")), "dtype <U1; expected floating point or integer"),
    ],
)
def test_files_that_are_no_latents(
    damage: Callable[[Path], None], message: str, root: Path, capsys: pytest.CaptureFixture
) -> None:
    path = root / "val" / "latent" / "val_01" / "latent_75.npy"
    damage(path)
    result = found(root, capsys=capsys)
    [group] = [group for group in result["findings"] if group["level"] == "error"]
    assert (group["code"], group["split"], group["count"]) == ("unreadable-latent", "val", 1)
    assert group["first"][0]["file"] == str(path)
    assert group["first"][0]["message"].startswith(message)


def test_an_archive_is_no_latent(root: Path, capsys: pytest.CaptureFixture) -> None:
    path = root / "val" / "latent" / "val_01" / "latent_75.npy"
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(3))
    [group] = [g for g in found(root, capsys=capsys)["findings"] if g["level"] == "error"]
    assert group["first"][0]["message"].startswith("a zip archive (.npz, or a tensor saved by torch.save)")


# What is done to the dataset, and level, code, split, place (below the root) and a part of the message of one finding.
Fault = tuple[Callable[[Path], object], str, str, str, str, str]
FOLDER = "train/latent/train_03"
LABELS = "train/labels.txt"


def labels(root: Path, change: Callable[[list[str]], list[str]], split: str = "train") -> None:
    path = root / split / "labels.txt"
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")


def each_row(change: Callable[[list[float]], list[float]]) -> Callable[[list[str]], list[str]]:
    """Changes every row; in RetinaFace rows x and y of the landmarks are columns 4, 5, 7, 8, 10, 11 and so on."""

    def changed(line: str) -> str:
        return line if line.startswith("#") else " ".join(f"{v:g}" for v in change(list(map(float, line.split()))))

    return lambda lines: [changed(line) for line in lines]


def scaled(factor: float) -> Callable[[list[float]], list[float]]:
    places = [0, 1, 2, 3, *(4 + 3 * point + axis for point in range(5) for axis in (0, 1))]
    return lambda row: [v * factor if place in places else v for place, v in enumerate(row)]


def mirrored(row: list[float]) -> list[float]:
    return [*row[:4], *row[7:10], *row[4:7], *row[10:13], *row[16:19], *row[13:16], *row[19:]]


def from_the_corner(row: list[float]) -> list[float]:
    return [v - row[(place - 4) % 3] if 4 <= place < 19 and (place - 4) % 3 < 2 else v for place, v in enumerate(row)]


FAULTS: dict[str, Fault] = {
    "channels": (
        lambda r: rewrite(r / FOLDER / "latent_25.npy", lambda a: a[:192]),
        "error", "channels-differ", "train", f"{FOLDER}/latent_25.npy", "192 channels, most latents of rate 25 have",
    ),
    "sizes": (
        lambda r: rewrite(r / FOLDER / "latent_25.npy", lambda a: a[:, :, :4]),
        "error", "sizes-differ", "train", FOLDER, "cells of its rates differ: 12: 8x8, 25: 4x8, 75: 8x8",
    ),
    "no label": (
        lambda r: (r / FOLDER).rename(r / "train/latent/Train-03"),
        "warning", "no-label", "train", "train/latent/Train-03", "has latents but no label (did you mean train_03?)",
    ),
    "no latents": (
        lambda r: (r / FOLDER).rename(r / "train/latent/train_3"),
        "warning", "no-latents", "train", f"{LABELS}:13",
        "event/train_03.jpg has a label but no latents (did you mean train_3?)",
    ),
    "no pair": (
        lambda r: labels(r, lambda lines: [line.replace("train_", "training_") for line in lines]),
        "error", "no-pair", "train", LABELS, "no label belongs to any folder",
    ),
    "file name": (
        lambda r: [path.rename(path.with_stem(path.stem.replace("_", "-"))) for path in (r / FOLDER).iterdir()],
        "warning", "no-rate", "train", FOLDER, "no latent in it; it holds latent-12.npy, latent-25.npy, latent-75.npy",
    ),
    "missing rate": (
        lambda r: (r / FOLDER / "latent_25.npy").unlink(),
        "warning", "missing-rate", "train", "train/latent", "1 of 12 pictures have no latent_25.npy: train_03",
    ),
    "constant": (
        lambda r: rewrite(r / FOLDER / "latent_25.npy", lambda a: a * 0 + 3),
        "warning", "constant", "train", f"{FOLDER}/latent_25.npy", "all values are equal",
    ),
    "rates of one picture": (
        lambda r: swap(r / FOLDER / "latent_25.npy", r / FOLDER / "latent_75.npy"),
        "error", "wrong-rate-of-picture", "train", f"{FOLDER}/latent_25.npy", "times what this picture's other rates",
    ),
    "one rate twice": (
        lambda r: shutil.copy(r / FOLDER / "latent_12.npy", r / FOLDER / "latent_75.npy"),
        "error", "same-at-two-rates", "train", f"{FOLDER}/latent_75.npy", "the same content as rate 12",
    ),
    "rate of all": (
        lambda r: [shutil.copy(p / "latent_12.npy", p / "latent_75.npy") for p in (r / "train/latent").iterdir()],
        "error", "wrong-rate", "train", "train/latent/*/latent_75.npy", "these are of model 0, which is rate 12",
    ),
    "whole numbers": (
        lambda r: [rewrite(p, np.rint) for p in (r / "train/latent").glob("*/latent_75.npy")],
        "warning", "integers", "train", "train/latent/*/latent_75.npy", "rate 75: whole numbers (100% of the values)",
    ),
    "another codec": (
        lambda r: [rewrite(p, lambda a: 30 * a) for p in (r / "train/latent").glob("*/latent_75.npy")],
        "note", "not-jpegai", "train", "train/latent/*/latent_75.npy", "another codec's",
    ),
    "val by another codec": (
        lambda r: [rewrite(p, lambda a: 30 * a) for p in (r / "val/latent").glob("*/latent_*.npy")],
        "error", "splits-differ", "val", "val", "rate 12: standard deviation",
    ),
    "val of fewer channels": (
        lambda r: [rewrite(p, lambda a: a[:192]) for p in (r / "val/latent").glob("*/latent_*.npy")],
        "error", "splits-differ", "val", "val", "192 channels, train has 256",
    ),
    "in both splits": (
        lambda r: [
            np.save(r / FOLDER / f"latent_{rate}.npy",
                    np.load(r / "val/latent/val_02" / f"latent_{rate}.npy").astype(np.float16)) for rate in RATES
        ],
        "error", "in-both-splits", "train", f"{FOLDER}/latent_12.npy", "the same picture as val/val_02 (rate 12)",
    ),
    "twice in a split": (
        lambda r: shutil.copytree(r / FOLDER, r / "train/latent/train_04", dirs_exist_ok=True),
        "warning", "picture-twice", "train", "train/latent/train_04/latent_12.npy", "the same picture as train_03",
    ),
    "one name in both": (
        lambda r: (r / "val/latent/val_02").rename(r / "val/latent/train_02"),
        "warning", "names-in-both-splits", "val", "val/latent", "1 photographs are in train too, by name: train_02",
    ),
    "no labels": (
        lambda r: (r / LABELS).unlink(), "error", "no-labels", "train", "train", "no labels.txt, neither here nor",
    ),
    "two label files": (
        lambda r: (r / "train/latent/labels.txt").write_text("# a\n"),
        "warning", "two-label-files", "train", "train/latent/labels.txt", "differs from",
    ),
    "no faces": (
        lambda r: labels(r, lambda lines: [line for line in lines if line[0] == "#"]),
        "error", "no-faces", "train", LABELS, "not one face in it",
    ),
    "no row": (
        lambda r: labels(r, lambda lines: [*lines, "1 2 3"]),
        "error", "label-form", "train", f"{LABELS}:49", "3 columns",
    ),
    "one name twice": (
        lambda r: labels(r, lambda lines: [*lines, "# other/train_01.png"]),
        "error", "name-twice", "train", f"{LABELS}:49",
        "other/train_01.png has the same base name as event/train_01.jpg in line 5",
    ),
    "zero-size box": (
        lambda r: labels(r, lambda lines: [*lines[:2], "5 6 0 7", *lines[2:]]),
        "warning", "zero-size", "train", f"{LABELS}:3", "box 5 6 0 7 has no area (train_00)",
    ),
    "box outside": (
        lambda r: labels(r, lambda lines: [*lines[:2], "150 6 20 20", *lines[2:]]),
        "warning", "outside", "train", f"{LABELS}:3", "box 150 6 20 20 is centred outside its picture of 128x128",
    ),
    "box reaching out": (
        lambda r: labels(r, lambda lines: [*lines[:2], "115 6 20 20", *lines[2:]]),
        "note", "clipped", "train", f"{LABELS}:3", "1 of 37 boxes reach out of their picture",
    ),
    "box under a pixel": (
        lambda r: labels(r, lambda lines: [*lines[:2], "15 6 0.5 2", *lines[2:]]),
        "warning", "under-a-pixel", "train", f"{LABELS}:3", "box 15 6 0.5 2 is under a pixel",
    ),
    "box twice": (
        lambda r: labels(r, lambda lines: [*lines[:3], lines[1], *lines[3:]]),
        "warning", "box-twice", "train", f"{LABELS}:4", "the same box as in line 2",
    ),
    "extreme box": (
        lambda r: labels(r, lambda lines: [*lines[:2], "15 6 3 60", *lines[2:]]),
        "warning", "extreme-shape", "train", f"{LABELS}:3", "box 15 6 3 60 is no shape of a face",
    ),
    "small faces": (
        lambda r: labels(r, each_row(lambda row: [*row[:2], 7, 7, *row[4:]])),
        "note", "small-faces", "train", LABELS,
        "100% of 36 faces are lower than one cell of the latent (16 px), 100% lower than half of one",
    ),
    "shares of the picture": (
        lambda r: labels(r, each_row(scaled(1 / 128))),
        "error", "relative-boxes", "train", f"{LABELS}:2", "shares of the picture, not pixels",
    ),
    "corners": (
        lambda r: labels(r, each_row(lambda row: [*row[:2], row[0] + row[2], row[1] + row[3], *row[4:]])),
        "error", "corner-boxes", "train", f"{LABELS}:2", "corners `x1 y1 x2 y2`?",
    ),
    "pixels of the photographs": (
        lambda r: labels(r, each_row(scaled(1.6))),
        "error", "source-pixels", "train", LABELS, "labels in pixels of the photographs, beside latents of resized",
    ),
    "mirrored landmarks": (
        lambda r: labels(r, each_row(mirrored)),
        "error", "landmarks-mirrored", "train", f"{LABELS}:2", "36 of 36 faces have eyes or mouth corners from right",
    ),
    "nose before the eyes": (
        lambda r: labels(r, each_row(lambda row: [*row[:11], row[11] - 10, *row[12:]])),
        "error", "landmarks-order", "train", f"{LABELS}:2", "36 of 36 faces have a nose that is not between",
    ),
    "landmarks from the corner": (
        lambda r: labels(r, each_row(from_the_corner)),
        "error", "landmarks-outside", "train", LABELS, "counted from the box's corner?",
    ),
    "landmarks at 0 0": (
        lambda r: labels(r, each_row(lambda row: [*row[:4], *[0] * 15, 1])),
        "error", "landmarks-zero", "train", f"{LABELS}:2", "36 faces have all landmarks at 0 0",
    ),
    "no landmarks": (
        lambda r: labels(r, each_row(lambda row: row[:4])),
        "note", "no-landmarks", "train", LABELS, "the model will find faces without",
    ),
    "no landmarks to judge by": (
        lambda r: labels(r, each_row(lambda row: row[:4]), "val"),
        "note", "no-landmarks", "val", "val/labels.txt", "no face has five landmarks: their error cannot be measured",
    ),
    "an exclusion that is none": (
        lambda r: (r / "train/exclude.txt").write_text("train_3\n"),
        "note", "excluded", "train", "train/exclude.txt", "no picture is called train_3",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_is_found_where_it_is(name: str, root: Path, capsys: pytest.CaptureFixture) -> None:
    spoil, level, code, split, place, message = FAULTS[name]
    spoil(root)
    result = found(root, capsys=capsys)
    [group] = [group for group in result["findings"] if (group["code"], group["split"]) == (code, split)]
    assert group["level"] == level
    first = group["first"][0]
    shown = first["file"] if first["line"] is None or ":" not in place else f"{first['file']}:{first['line']}"
    assert shown == str(root / place)
    assert message in first["message"]
    assert level != "error" or group["remedy"]


def test_a_fault_does_not_drag_in_others(root: Path, capsys: pytest.CaptureFixture) -> None:
    FAULTS["rates of one picture"][0](root)
    FAULTS["zero-size box"][0](root)
    result = found(root, capsys=capsys)
    assert codes(result) == {"wrong-rate-of-picture", "zero-size"}
    assert (result["errors"], result["warnings"]) == (2, 1)  # both files that were swapped


def test_rate_control_that_took_the_next_model_is_a_warning(root: Path, capsys: pytest.CaptureFixture) -> None:
    generator = np.random.default_rng(1)
    np.save(root / FOLDER / "latent_75.npy", latent(generator, 3))
    result = found(root, capsys=capsys)
    [group] = [group for group in result["findings"] if group["level"] in ("error", "warning")]
    assert (group["code"], group["level"], group["count"]) == ("mixed-models", "warning", 1)


def test_all_of_the_next_model_is_an_error_only_where_the_rates_or_a_manifest_contradict(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for split in PICTURES:
        for folder in (root / split / "latent").iterdir():
            swap(folder / "latent_25.npy", folder / "latent_75.npy")
    result = found(root, capsys=capsys)
    assert codes(result, "error") == {"rates-out-of-order"}
    assert codes(result, "warning") == {"wrong-rate"}
    assert codes(found(root, "--rates", "75", capsys=capsys), "error") == set()
    with_manifest(root)
    assert codes(found(root, "--rates", "75", capsys=capsys), "error") == {"wrong-rate"}


def test_dull_pictures_are_not_taken_for_the_model_below(root: Path, capsys: pytest.CaptureFixture) -> None:
    with_manifest(root)
    for path in root.glob("*/latent/*/latent_*.npy"):
        model = MODELS[MODEL_OF_RATE[int(path.stem[7:])]]
        array = 0.4 * np.load(path)
        array[0, 0, 0] = 0.7 * model.largest  # something white
        np.save(path, array)
    assert codes(found(root, capsys=capsys)) == set()


def test_a_rate_alone_that_mixes_models_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = make(tmp_path, rates=(75,))
    for number in range(5):
        path = root / "train" / "latent" / f"train_0{number}" / "latent_75.npy"
        np.save(path, latent(np.random.default_rng(number), 1))
    result = found(root, capsys=capsys)
    assert codes(result) == {"mixed-models"}
    assert "5 of 12 latents have the amplitude of the model below 2" in result["findings"][0]["first"][0]["message"]


def test_labels_of_smaller_photographs_leave_the_right_and_the_bottom_empty(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    root = make(tmp_path, faces=20)
    assert codes(found(root, capsys=capsys)) == set()
    labels(root, each_row(scaled(0.6)))
    result = found(root, capsys=capsys)
    assert codes(result) == {"top-left"}


def test_source_labels_are_right_once_the_sizes_are_told(root: Path, capsys: pytest.CaptureFixture) -> None:
    for split in PICTURES:
        labels(root, each_row(scaled(1.6)), split)
    sizes = {f"{split}_{number:02d}.jpg": [205, 205] for split, count in PICTURES.items() for number in range(count)}
    (root / "sizes.json").write_text(json.dumps(sizes))
    told = ("--label_frame", "source", "--image_sizes", str(root / "sizes.json"))
    assert codes(found(root, capsys=capsys)) == {"source-pixels"}
    assert codes(found(root, *told, capsys=capsys)) == set()
    del sizes["val_02.jpg"]
    (root / "sizes.json").write_text(json.dumps(sizes))
    result = found(root, *told, capsys=capsys)
    assert codes(result) == {"no-size"}
    assert result["findings"][0]["first"][0]["line"] == 9  # val_02 is the third of 4 lines each


def with_manifest(root: Path, **changes: object) -> None:
    """A manifest for what `make` wrote: photographs of 205 x 205, reduced to 128."""
    for split, pictures in PICTURES.items():
        rows = []
        for number in range(pictures):
            entries = {rate: LatentEntry("jpegai", MODEL_OF_RATE[rate], None, rate / 100, True) for rate in RATES}
            row = ManifestRow(f"event/{split}_{number:02d}.jpg", entries, 16, 205, 205, 128 / 205, 128 / 205)
            rows.append(replace(row, **changes) if (split, number) == ("train", 3) else row)  # type: ignore[arg-type]
        write_manifest(root / split / "latents.jsonl", rows)


def test_with_a_manifest_source_labels_are_known_for_sure(root: Path, capsys: pytest.CaptureFixture) -> None:
    with_manifest(root)
    assert codes(found(root, capsys=capsys)) == set()
    labels(root, each_row(scaled(1.6)))
    [group] = [group for group in found(root, capsys=capsys)["findings"] if group["level"] == "error"]
    assert group["code"] == "source-pixels"
    assert "labels are in source pixels, latents of resized pictures" in group["first"][0]["message"]
    assert 'set "label_frame" to "source"' in group["remedy"]


def test_labels_that_never_reach_beyond_a_smaller_photograph(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = make(tmp_path, faces=20)
    small = {"source_width": 77, "source_height": 77, "scale_x": 128 / 77, "scale_y": 128 / 77}
    for split, pictures in PICTURES.items():
        rows = [ManifestRow(f"e/{split}_{number:02d}.jpg", {}, 16, **small) for number in range(pictures)]  # type: ignore[arg-type]
        write_manifest(root / split / "latents.jsonl", rows)
    assert "source-pixels" not in codes(found(root, capsys=capsys))
    labels(root, each_row(scaled(77 / 128)))
    [group] = [group for group in found(root, capsys=capsys)["findings"] if group["level"] == "error"]
    assert group["code"] == "source-pixels"
    assert "no box of 240 lies beyond the size of the photograph" in group["first"][0]["message"]


MANIFEST = "train/latents.jsonl:4"
ROWS = {  # changes of the fourth row of train's manifest -> code, place, message
    "size": ({"pad_right": 64}, "size-not-in-manifest", MANIFEST, "train_03 has 12x8 cells here, its latent_12 8x8"),
    "stride": ({"stride": 8}, "strides-differ", MANIFEST, "several strides: 16 (11), 8 (1)"),
    "codec": (
        {"latents": {rate: LatentEntry("dct", 0, None, 0.1, True) for rate in RATES}}, "codecs-differ", MANIFEST,
        "several codecs: jpegai (33), dct (3)",
    ),
    "step": (
        {"latents": {rate: LatentEntry("jpegai", MODEL_OF_RATE[rate], 1.0, 0.1, False) for rate in RATES}},
        "wrong-step", f"{FOLDER}/latent_12.npy", "of its values are no multiples of the step 1 that the manifest has",
    ),
    "model": (
        {"latents": {rate: LatentEntry("jpegai", 0, None, 0.1, True) for rate in RATES}},
        "wrong-rate-of-picture", f"{FOLDER}/latent_25.npy", "JPEG AI model 0 ends at 33",
    ),
    "rate": (
        {"latents": {12: LatentEntry("jpegai", 0, None, 0.1, True)}}, "rate-not-in-manifest", MANIFEST,
        "has train_03 without rate 25",
    ),
    "name": ({"name": "event/train_3.jpg"}, "no-manifest-row", "train/latents.jsonl", "1 pictures have no row: train_"),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_what_a_manifest_row_says_is_held_against_the_latent(
    name: str, root: Path, capsys: pytest.CaptureFixture
) -> None:
    changes, code, place, message = ROWS[name]
    with_manifest(root, **changes)
    result = found(root, capsys=capsys)
    [group] = [group for group in result["findings"] if group["code"] == code]
    first = group["first"][0]
    shown = first["file"] if first["line"] is None else f"{first['file']}:{first['line']}"
    assert shown == str(root / place)
    assert message in first["message"]


def test_a_manifest_makes_whole_numbers_and_other_amplitudes_errors(root: Path, capsys: pytest.CaptureFixture) -> None:
    with_manifest(root)
    for path in (root / "train/latent").glob("*/latent_75.npy"):
        rewrite(path, np.rint)
    assert codes(found(root, capsys=capsys), "error") == {"integers"}
    for path in (root / "train/latent").glob("*/latent_*.npy"):
        rewrite(path, lambda array: array * 100 + 0.1)
    assert codes(found(root, capsys=capsys), "error") == {"another-codec", "splits-differ"}


def test_a_manifest_that_is_no_manifest(root: Path, capsys: pytest.CaptureFixture) -> None:
    with_manifest(root)
    path = root / "train" / "latents.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:4], "{}", *lines[5:]]) + "\n")
    result = found(root, capsys=capsys)
    assert result["findings"][0]["code"] == "manifest"
    assert result["findings"][0]["first"][0]["line"] == 5
    assert result["findings"][0]["first"][0]["message"] == "'name' is missing"


def test_share_off_the_step_by_hand() -> None:
    steps = np.arange(-72, 72, dtype=np.float32).reshape(1, 12, 12)
    assert off_step(3.0 * steps + 0.7, 3.0) == 0  # a lattice wherever its origin lies
    assert off_step(3.0 * steps, 4.0) == 108 / 143  # all but the 35 multiples of 4; 0 is not counted
    assert off_step(np.zeros((1, 20, 20), np.float32), 3.0) is None


def test_amplitudes_know_the_rates_of_the_codec() -> None:
    assert {rate: index for index, model in enumerate(MODELS) for rate in model.rates} == MODEL_OF_RATE


def test_lines_of_rows_count_blank_ones(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("a.jpg\n2\n\n1 2 3 4\n5 6 7 8\n# b\n\n1 2 3 4\n# c\n0\n0 0 0 0\n")
    assert [rows.lines for rows in read_rows(tmp_path / "labels.txt")] == [(4, 5), (8,), ()]


def test_real_jpegai_latents_are_taken_for_what_they_are(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    from latentface.apps.drawing import draw_picture
    from latentface.data.encode import EncodeConfig, encode

    (tmp_path / "photos").mkdir()
    for number in range(6):
        picture = draw_picture(np.random.default_rng((8, number)), 128, 128, faces=1)
        Image.fromarray(picture.rgb).save(tmp_path / "photos" / f"{number}.png")
    weights = str(shared / "jpegai")
    settings = {"codec": "jpegai", "codec_weights": weights, "rates": (12, 25, 50, 75, 100), "size": 128, "workers": 1}
    encode(EncodeConfig(images=str(tmp_path / "photos"), out=str(tmp_path / "set" / "train"), **settings))
    (tmp_path / "set/train/labels.txt").write_text("".join(f"# {n}.png\n10 10 40 40\n" for n in range(6)))
    assert codes(found(tmp_path / "set", capsys=capsys)) == {"no-validation"}
    folder = tmp_path / "set/train/latent/2"
    swap(folder / "latent_50.npy", folder / "latent_75.npy")
    assert codes(found(tmp_path / "set", capsys=capsys), "error") == {"wrong-step"}
    swap(folder / "latent_50.npy", folder / "latent_100.npy")
    assert "wrong-rate-of-picture" in codes(found(tmp_path / "set", capsys=capsys), "error")


def test_swapped_rates_of_dct_are_found_by_their_step(
    drawn_photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(drawn_photographs / "train", tmp_path / "train")
    assert codes(found(tmp_path, capsys=capsys), "error") == set()
    rows = (tmp_path / "train" / "latents.jsonl").read_text()
    names = [json.loads(line)["name"] for line in rows.splitlines()]
    a, b = (tmp_path / "train/latent" / Path(name).stem / "latent_75.npy" for name in names[:2])
    swap(a, b)
    assert "wrong-step" in codes(found(tmp_path, capsys=capsys), "error")


def test_a_packed_dataset_is_checked_alike(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    labels(root, lambda lines: [*lines[:2], "150 6 20 20", *lines[2:]])
    np.save(root / FOLDER / "latent_25.npy", latent(np.random.default_rng(3), 2))
    packed = tmp_path / "packed"
    assert main(["pack", str(root), "--out", str(packed), "--dtype", "int8"]) == 0
    result = found(packed, capsys=capsys)
    assert codes(result, "error", "warning") == {"outside", "mixed-models"}
    assert result["splits"]["train"]["packed"]
    assert result["splits"]["train"]["rates"]["12"]["dtypes"] == ["int8"]
    shard = next((packed / "val").glob("shard_*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:5000])
    result = found(packed, capsys=capsys)
    assert codes(result, "error") == {"unreadable-split"}
    assert str(shard) in result["findings"][0]["first"][0]["message"]


def test_what_a_pack_shares_with_validation_is_found(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.copytree(root / "val/latent/val_02", root / FOLDER, dirs_exist_ok=True)
    packed = tmp_path / "packed"
    assert main(["pack", str(root), "--out", str(packed), "--dtype", "int8"]) == 0
    result = found(packed, capsys=capsys)
    assert codes(result, "error") == {"in-both-splits"}


def files_of(root: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()}


def test_fix_writes_exclusions_and_nothing_else(root: Path, capsys: pytest.CaptureFixture) -> None:
    cut_short(root / FOLDER / "latent_25.npy")
    shutil.copytree(root / "val/latent/val_02", root / "train/latent/train_05", dirs_exist_ok=True)
    before = files_of(root)
    assert main(["check", str(root), "--fix"]) == 0
    assert "train: 2 pictures added to" in capsys.readouterr().err
    after = files_of(root)
    assert {path for path, digest in after.items() if before.get(path) != digest} == {str(root / "train/exclude.txt")}
    assert after.keys() - before.keys() == {str(root / "train/exclude.txt")}
    text = (root / "train/exclude.txt").read_text()
    assert "# latent_25.npy: cut short: 1000 of 65664 bytes\ntrain_03\n" in text
    assert "# latent_12.npy: the same picture as val/val_02 (rate 12)\ntrain_05\n" in text
    result = found(root, capsys=capsys)
    assert codes(result) == set()
    assert result["splits"]["train"]["excluded"] == 2
    assert "2 pictures left out by" in result["findings"][-1]["first"][0]["message"]


def test_fix_keeps_what_is_listed_and_says_what_it_cannot_mend(root: Path, capsys: pytest.CaptureFixture) -> None:
    (root / "train/exclude.txt").write_text("# by hand\nevent/train_07.jpg")
    cut_short(root / FOLDER / "latent_25.npy")
    labels(root, lambda lines: [*lines, "# other/train_01.png"])
    assert main(["check", str(root), "--fix"]) == 1
    assert "1 errors remain that no exclusion mends" in capsys.readouterr().err
    assert (root / "train/exclude.txt").read_text().startswith("# by hand\nevent/train_07.jpg\n# latent_25.npy: cut")


def test_fix_does_not_exclude_most_of_a_split(root: Path, capsys: pytest.CaptureFixture) -> None:
    for number in range(7):
        cut_short(root / "train/latent" / f"train_0{number}" / "latent_25.npy")
    assert main(["check", str(root), "--fix"]) == 1
    assert "train: 7 of 12 pictures have errors, nothing is excluded" in capsys.readouterr().err
    assert not (root / "train/exclude.txt").exists()


def test_mistakes_of_the_user(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ([str(tmp_path / "gone")], "gone: no such folder; give the one that holds train/ and val/"),
        ([str(tmp_path / "empty")], "no split in it (there is nothing); expected"),
        ([str(root), "--splits", "trian"], "trian: neither latent/ nor pack.json in it"),
        ([str(root), "--sample", "-1"], "--sample has to be 0 or more"),
        ([], "the following arguments are required: ROOT"),
    ):
        assert main(["check", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert message in error


def test_a_split_may_be_named_itself_and_sampled(root: Path, capsys: pytest.CaptureFixture) -> None:
    result = found(root / "train", "--sample", "4", "--rates", "25", capsys=capsys)
    train = result["splits"]["train"]
    assert (train["pictures"], train["examined"], list(train["rates"])) == (12, 4, ["25"])
    assert train["faces"] == 36  # labels are all looked at: the others are as large


def test_the_picture(root: Path, tmp_path: Path) -> None:
    labels(root, lambda lines: [*lines[:2], "150 6 20 20", *lines[2:]])
    assert main(["check", str(root), "--picture", str(tmp_path / "check.png")]) == 0
    with Image.open(tmp_path / "check.png") as image:
        assert image.width > 1000
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 100


def test_the_picture_shows_what_a_latent_holds(drawn_photographs: Path) -> None:
    """Decoded where the manifest names a codec that needs no files, else the first channel."""
    split, _ = open_split(Place("train", drawn_photographs / "train" / "latent"), 16)
    assert split is not None
    split.rates = dict.fromkeys(split.pictures, (75,))
    (decoded,) = samples(split, LabelFrame(), 1)
    name = split.pictures[len(split.pictures) // 2]
    array = split.store.read(name, 75).values
    assert np.array_equal(decoded.seen, decode_picture(DctCodec(), array, 75, split.rows[name]))
    assert (decoded.width, decoded.height, decoded.seen.shape) == (96, 96, (96, 96, 3))
    entry = split.rows[name].latents[75]
    foreign = replace(split.rows[name], latents={75: replace(entry, codec="pixels")})
    for rows in ({}, {name: foreign}):  # of an unknown codec, and of one that cannot have made it
        split.rows = rows
        (channel,) = samples(split, LabelFrame(), 1)
        assert np.array_equal(channel.seen, array[0])


def test_memory_does_not_grow_with_the_latents(root: Path, capsys: pytest.CaptureFixture) -> None:
    found(root, capsys=capsys)  # imports
    tracemalloc.start()
    found(root, capsys=capsys)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    bytes_read = sum(path.stat().st_size for path in root.glob("*/latent/*/*.npy"))
    assert bytes_read > 3_000_000
    assert peak < 1_000_000


def places(root: Path) -> list[Place]:
    return [Place(split, root / split / "latent") for split in PICTURES]


def test_quick_check_stops_with_the_line_and_the_remedy(root: Path) -> None:
    assert quick_check(places(root), LabelFrame(), (75,), 16) == []
    labels(root, each_row(scaled(1.6)))
    with pytest.raises(LatentFaceError) as caught:
        quick_check(places(root), LabelFrame(), (75,), 16)
    text = str(caught.value)
    assert f"{root}/train/labels.txt:" in text
    assert "give --label_frame source with --image_sizes FILE.json or --image_dir PHOTOS" in text
    assert text.endswith("; --no_check trains nevertheless")


def test_quick_check_warns_in_a_few_lines(root: Path) -> None:
    labels(root, lambda lines: [*lines[:2], *["150 6 20 20", "5 6 0 7"], *lines[2:]])
    lines = quick_check(places(root), LabelFrame(), (75,), 16)
    assert [line.split(": warning: ")[1].split(" (")[0] for line in lines] == [
        "box 5 6 0 7 has no area",
        "box 150 6 20 20 is centred outside its picture of 128x128",
    ]


def test_the_dataset_leaves_out_what_is_excluded_and_says_so(root: Path) -> None:
    split = root / "train"
    (split / "exclude.txt").write_text("# a comment\n\nevent/train_03.jpg\ntrain_99\n")
    dataset = NestedLatentWiderFaceDataset.of_split(split)
    assert [picture.name for picture in dataset.pictures] == [f"train_{n:02d}" for n in range(12) if n != 3]
    path = split / "exclude.txt"
    assert dataset.notes == [
        f"1 picture left out by {path}",
        f"{path}:4: no picture is called train_99 (1 such names)",
    ]
    path.write_text("".join(f"train_{number:02d}\n" for number in range(12)))
    with pytest.raises(LatentFaceError, match="leaves out every picture"):
        NestedLatentWiderFaceDataset.of_split(split)


def test_exclusions_go_into_a_pack(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rewrite(root / FOLDER / "latent_25.npy", lambda array: array * np.nan)
    assert main(["check", str(root), "--fix"]) == 0
    assert main(["pack", str(root), "--out", str(tmp_path / "packed")]) == 0
    assert "1 picture left out by" in capsys.readouterr().out
    dataset = NestedLatentWiderFaceDataset.of_split(tmp_path / "packed" / "train")
    assert "train_03" not in [picture.name for picture in dataset.pictures]
    assert dataset.notes == [f"1 picture left out by {tmp_path}/packed/train/exclude.txt"]
    assert codes(found(tmp_path / "packed", capsys=capsys)) == set()
