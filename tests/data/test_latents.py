"""The dataset of latents: what is paired, cropped, padded and refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latentface.data.batches import EpochBatches, LatentSample, SampleKey, collate, collate_by_shape
from latentface.data.labels import PictureLabels, write_labels
from latentface.data.latents import NestedLatentWiderFaceDataset
from latentface.data.sizes import LabelFrame, measure_sizes, read_sizes
from latentface.data.statistics import measure_statistics
from latentface.data.stores import available_rates, rate_of, read_latent
from latentface.errors import LatentFaceError

FACE = np.array([[16, 16, 48, 48]], dtype=np.float32)
POINTS = np.array([[[24, 24], [40, 24], [32, 32], [26, 40], [38, 40]]], dtype=np.float32)


def put(split: Path, name: str, *, rate: int = 75, shape: tuple[int, ...] = (4, 6, 8), fill: np.ndarray | None = None):
    """One latent whose value at channel c, row y, column x is 100 c + 10 y + x."""
    folder = split / "latent" / name
    folder.mkdir(parents=True, exist_ok=True)
    c, h, w = shape[-3:]
    ramp = 100 * np.arange(c)[:, None, None] + 10 * np.arange(h)[:, None] + np.arange(w)
    array = ramp.astype(np.float32).reshape(shape) if fill is None else fill
    np.save(folder / f"latent_{rate}.npy", array)
    return folder / f"latent_{rate}.npy"


def label(split: Path, *names: str, boxes: np.ndarray = FACE, landmarks: np.ndarray = POINTS, path: str = "labels.txt"):
    rows = [PictureLabels(f"event/{n}.jpg", boxes, landmarks, np.zeros(len(boxes), dtype=bool)) for n in names]
    write_labels(split / path, rows)


@pytest.fixture
def split(tmp_path: Path) -> Path:
    put(tmp_path, "a")
    label(tmp_path, "a")
    return tmp_path


def test_sample_is_what_the_files_say(split: Path) -> None:
    dataset = NestedLatentWiderFaceDataset.of_split(split)
    sample = dataset[0]
    assert (len(dataset), sample.name, sample.rate, sample.model_index) == (1, "a", 75, -1)
    assert sample.latent.dtype == np.float32
    assert sample.latent[3, 5, 7] == 357
    np.testing.assert_array_equal(sample.boxes, FACE)
    np.testing.assert_array_equal(sample.landmarks, POINTS)
    assert dataset.codec == "unknown"


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "uint16"])
def test_any_number_type_and_a_leading_one(split: Path, dtype: str) -> None:
    fill = np.arange(4 * 6 * 8).reshape(1, 4, 6, 8).astype(dtype)
    put(split, "a", fill=fill)
    sample = NestedLatentWiderFaceDataset.of_split(split)[0]
    assert sample.latent.shape == (4, 6, 8)
    np.testing.assert_array_equal(sample.latent, fill[0].astype(np.float32))


def test_labels_beside_or_inside_latent(split: Path) -> None:
    (split / "labels.txt").rename(split / "latent" / "labels.txt")
    assert len(NestedLatentWiderFaceDataset.of_split(split)) == 1
    (split / "latent" / "labels.txt").unlink()
    with pytest.raises(LatentFaceError, match=r"no labels\.txt, neither here nor in latent/"):
        NestedLatentWiderFaceDataset.of_split(split)


def test_pairs_by_equal_base_name_only(split: Path) -> None:
    put(split, "a1")
    label(split, "a", "b", "a11")
    dataset = NestedLatentWiderFaceDataset.of_split(split)
    assert [picture.name for picture in dataset.pictures] == ["a"]
    assert dataset.notes == [
        "1 folder without a label left out, the first is a1",
        "2 labels without latents left out, the first is a11",
    ]


def test_no_pair_at_all_names_the_nearest(split: Path) -> None:
    label(split, "a_")
    with pytest.raises(LatentFaceError, match=r"no label belongs to any folder .* for a/ .*nearest is a_"):
        NestedLatentWiderFaceDataset.of_split(split)


def test_missing_rate_lists_those_there(split: Path) -> None:
    put(split, "a", rate=12)
    assert available_rates(split / "latent") == [12, 75]
    with pytest.raises(LatentFaceError, match="no latent of rate 50; there are 12, 75"):
        NestedLatentWiderFaceDataset.of_split(split, rates=(50,))


def test_pictures_without_any_wanted_rate_are_left_out_with_a_note(split: Path) -> None:
    put(split, "b", rate=50)
    label(split, "a", "b")
    dataset = NestedLatentWiderFaceDataset.of_split(split, rates=(12, 75))
    assert [picture.name for picture in dataset.pictures] == ["a"]
    assert dataset.notes == ["1 picture without a rate of 12, 75: left out"]


def test_a_picture_gives_the_rates_that_it_has(split: Path) -> None:
    put(split, "b", rate=12)
    put(split, "c", rate=12)
    put(split, "c")
    label(split, "a", "b", "c")
    dataset = NestedLatentWiderFaceDataset.of_split(split, rates=(12, 75))
    drawn = [{dataset[SampleKey(index, epoch)].rate for epoch in range(40)} for index in range(3)]
    assert drawn == [{75}, {12}, {12, 75}]
    assert [dataset[index].rate for index in range(3)] == [75, 12, 12]
    assert [picture.name for picture in dataset.at_rate(12).pictures] == ["b", "c"]


def test_boxes_are_clipped_and_what_is_outside_goes(split: Path) -> None:
    boxes = np.array([[100, 60, 200, 90], [-5, -5, 0.5, 20], [130, 0, 140, 20]], dtype=np.float32)  # frame: 128 x 96
    label(split, "a", boxes=boxes, landmarks=np.full((3, 5, 2), np.nan, dtype=np.float32))
    np.testing.assert_array_equal(NestedLatentWiderFaceDataset.of_split(split)[0].boxes, [[100, 60, 128, 90]])


def test_pictures_without_faces_are_samples(split: Path) -> None:
    label(split, "a", boxes=np.zeros((0, 4), np.float32), landmarks=np.zeros((0, 5, 2), np.float32))
    sample = NestedLatentWiderFaceDataset.of_split(split)[0]
    assert sample.boxes.shape == (0, 4)
    assert sample.landmarks.shape == (0, 5, 2)
    batch = collate([sample])
    assert batch.boxes.shape == (1, 1, 4)
    assert not batch.valid.any()


def test_crop_takes_whole_cells_and_moves_the_faces(split: Path) -> None:
    dataset = NestedLatentWiderFaceDataset.of_split(split, crop=4)
    seen = set()
    for epoch in range(200):
        sample = dataset[SampleKey(0, epoch)]
        assert sample.latent.shape == (4, 4, 4)
        top, left = divmod(int(sample.latent[0, 0, 0]), 10)
        seen.add((top, left))
        shift = np.array([left, top, left, top], dtype=np.float32) * 16
        if top <= 2 and left <= 2:  # the face's centre is (32, 32)
            np.testing.assert_array_equal(sample.boxes, np.clip(FACE - shift, 0, 64))
            np.testing.assert_array_equal(sample.landmarks[0], POINTS[0] - shift[:2])
            assert not sample.ignore.any()
        else:  # nothing of it is left to see
            assert len(sample.boxes) == 0
    assert seen == {(top, left) for top in range(3) for left in range(5)}


def test_draws_depend_on_seed_epoch_and_picture_only(split: Path) -> None:
    put(split, "a", rate=12)
    first, second = (NestedLatentWiderFaceDataset.of_split(split, rates=(12, 75), crop=4) for _ in range(2))
    rates = []
    for epoch in (5, 3, 5):
        one, two = first[SampleKey(0, epoch)], second[SampleKey(0, epoch)]
        np.testing.assert_array_equal(one.latent, two.latent)
        rates.append(one.rate)
    assert rates[0] == rates[2]
    assert {first[SampleKey(0, epoch)].rate for epoch in range(20)} == {12, 75}


def test_manifest_gives_model_index_codec_stride_and_frame(split: Path) -> None:
    entry = {"codec": "jpegai", "model_index": 2, "step": 1.0, "bpp": 0.7, "exact": False}
    row = {
        "name": "event/a.jpg", "latents": {"75": entry}, "stride": 8, "source_width": 128, "source_height": 96,
        "scale_x": 0.5, "scale_y": 0.25, "pad_right": 0, "pad_bottom": 0, "crop": None, "mirrored": False,
        "label_frame": "source",
    }  # fmt: skip
    (split / "latents.jsonl").write_text(json.dumps(row) + "\n")
    dataset = NestedLatentWiderFaceDataset.of_split(split)
    sample = dataset[0]
    assert (dataset.codec, dataset.stride, sample.model_index) == ("jpegai", 8, 2)
    np.testing.assert_array_equal(sample.boxes, [[8, 4, 24, 12]])


@pytest.mark.parametrize(
    ("fit", "expected"), [("stretch", [[8, 8, 24, 24]]), ("pad", [[8, 8, 24, 24]]), ("pad tall", [[4, 4, 12, 12]])]
)
def test_source_labels_with_sizes(split: Path, fit: str, expected: list) -> None:
    width, height = (256, 192) if fit != "pad tall" else (256, 384)  # frame: 128 x 96
    sizes = split / "sizes.json"
    sizes.write_text(json.dumps({"event/a.jpg": [width, height]}))
    frame = LabelFrame(read_sizes(sizes), fit.split()[0])
    np.testing.assert_allclose(NestedLatentWiderFaceDataset.of_split(split, frame=frame)[0].boxes, expected)


def test_sizes_of_photographs_and_of_records(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    assert measure_sizes(tmp_path) == {"a": (30, 20)}
    file = tmp_path / "sizes.json"
    file.write_text(json.dumps({"x/b.webp": {"width": 5, "height": 4, "source_width": 50, "source_height": 40}}))
    assert read_sizes(file) == {"b": (50, 40)}
    file.write_text(json.dumps({"b": [0, 5]}))
    with pytest.raises(LatentFaceError, match=r"b: expected \[width, height\]"):
        read_sizes(file)


def test_labels_of_unscaled_photographs_are_noticed(split: Path) -> None:
    label(split, "a", boxes=FACE * 10, landmarks=POINTS * 10)
    (note,) = NestedLatentWiderFaceDataset.of_split(split).notes
    assert note.startswith("1 of 1 boxes looked at lie outside their picture")
    assert "--label_frame source" in note


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((4, 6)), r"shape \[4, 6\]; expected \[C, h, w\]"),
        (np.zeros((2, 4, 6, 8)), r"shape \[2, 4, 6, 8\]"),
        (np.zeros((4, 0, 8)), r"shape \[4, 0, 8\]"),
        (np.zeros((4, 6, 8), dtype=complex), "dtype complex128"),
        (np.array([[["a"]]]), "dtype <U1"),
        (b"no array", "not a NumPy array of numbers"),
        (b"", "not a NumPy array of numbers"),
    ],
)
def test_what_is_no_latent_is_refused(split: Path, content: np.ndarray | bytes, message: str) -> None:
    path = split / "latent" / "a" / "latent_75.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    with pytest.raises(LatentFaceError, match=message) as caught:
        read_latent(path)
    assert str(path) in str(caught.value)


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


def test_pickles_are_refused_and_not_run(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(split)
    path = split / "latent" / "a" / "latent_75.npy"
    np.save(path, np.array([Bomb()]), allow_pickle=True)
    with pytest.raises(LatentFaceError, match="not a NumPy array of numbers"):
        read_latent(path)
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(LatentFaceError, match="not a NumPy array of numbers"):
        read_latent(path)
    assert not (split / "exploded").exists()


def test_truncated_latent_is_refused(split: Path) -> None:
    path = split / "latent" / "a" / "latent_75.npy"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(LatentFaceError, match="damaged"):
        read_latent(path)


def test_header_that_claims_too_much_takes_no_memory(split: Path) -> None:
    path = split / "latent" / "a" / "latent_75.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (256, 10000, 10000)}
        )
    with pytest.raises(LatentFaceError, match="damaged"):
        read_latent(path)


def test_not_finite_is_refused_with_the_file(split: Path) -> None:
    path = put(split, "a", fill=np.full((4, 6, 8), np.inf, dtype=np.float32))
    with pytest.raises(LatentFaceError, match="NaN or infinite") as caught:
        NestedLatentWiderFaceDataset.of_split(split)[0]
    assert str(path) in str(caught.value)


def test_batches_pad_by_the_last_cells_or_keep_shapes_apart(split: Path) -> None:
    put(split, "b", shape=(4, 3, 5))
    label(split, "a", "b")
    dataset = NestedLatentWiderFaceDataset.of_split(split)
    samples = [dataset[0], dataset[1]]
    batch = collate(samples)
    assert batch.latents.shape == (2, 4, 6, 8)
    assert (batch.latents[1, :, 3:, :5] == batch.latents[1, :, 2:3, :5]).all()
    assert (batch.latents[1, :, :, 5:] == batch.latents[1, :, :, 4:5]).all()
    shapes = [tuple(part.latents.shape) for part in collate_by_shape(samples)]
    assert shapes == [(1, 4, 6, 8), (1, 4, 3, 5)]


def test_epoch_batches_cover_everything_once_and_continue() -> None:
    batches = EpochBatches(10, 3, seed=0)
    whole = list(batches)
    assert [len(batch) for batch in whole] == [3, 3, 3, 1]
    assert sorted(key.picture for batch in whole for key in batch) == list(range(10))
    batches.first_batch = 2
    assert list(batches) == whole[2:]
    batches.first_batch, batches.epoch = 0, 1
    assert list(batches) != whole


def test_statistics_by_hand(tmp_path: Path) -> None:
    put(tmp_path, "a", fill=np.array([[[1.0, 3.0]], [[5.0, 5.0]]]))
    put(tmp_path, "b", fill=np.array([[[5.0, 7.0]], [[5.0, 5.0]]]))
    put(tmp_path, "a", rate=12, fill=np.zeros((2, 1, 2)))
    put(tmp_path, "b", rate=12, fill=np.ones((2, 1, 2)))
    label(tmp_path, "a", "b")
    found = measure_statistics(NestedLatentWiderFaceDataset.of_split(tmp_path, rates=(75, 12)))
    assert (found.rates, found.rate_rows, found.indices) == ((75, 12), (1, 0), ())
    np.testing.assert_allclose(found.mean, [[0.5, 0.5], [4, 5]])
    np.testing.assert_allclose(found.deviation, [[0.5, 0.5], [np.sqrt(5), 0]])


def test_statistics_by_model_index(split: Path) -> None:
    rows = []
    for name, index in (("a", 1), ("b", 2), ("c", 2)):
        put(split, name, fill=np.full((1, 2, 2), float(index)))
        entry = {"codec": "jpegai", "model_index": index, "step": 1.0, "bpp": 0.5, "exact": True}
        rows.append(
            {
                "name": f"event/{name}.jpg", "latents": {"75": entry}, "stride": 16, "source_width": 32,
                "source_height": 32, "scale_x": 1.0, "scale_y": 1.0, "pad_right": 0, "pad_bottom": 0, "crop": None,
                "mirrored": False, "label_frame": "picture",
            }
        )  # fmt: skip
    (split / "latents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    label(split, "a", "b", "c")
    found = measure_statistics(NestedLatentWiderFaceDataset.of_split(split))
    assert (found.indices, found.index_rows, found.rate_rows) == ((1, 2), (0, 1), (1,))
    np.testing.assert_array_equal(found.mean, [[1], [2]])


def test_statistics_refuse_two_channel_counts(split: Path) -> None:
    put(split, "b", shape=(3, 6, 8))
    label(split, "a", "b")
    with pytest.raises(LatentFaceError, match=r"b/latent_75\.npy has 3 channels, others of its rate and codec model 4"):
        measure_statistics(NestedLatentWiderFaceDataset.of_split(split))


def test_statistics_of_rates_that_differ_in_their_channels(tmp_path: Path) -> None:
    put(tmp_path, "a", rate=6, fill=np.array([1.0, 2, 3]).reshape(3, 1, 1) + np.array([-1, 1]))
    put(tmp_path, "a", rate=1, fill=np.array([4.0, 5]).reshape(2, 1, 1) + np.array([-2, 2]))
    label(tmp_path, "a")
    found = measure_statistics(NestedLatentWiderFaceDataset.of_split(tmp_path, rates=(6, 1)))
    assert (found.channels, found.rates, found.rate_rows) == ((2, 3), (6, 1), (1, 0))
    np.testing.assert_array_equal(found.mean, [[4, 5, 0], [1, 2, 3]])
    np.testing.assert_array_equal(found.deviation, [[2, 2, 0], [1, 1, 1]])


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_batch_fills_channels_that_a_latent_lacks_with_zeros(channels_last: bool) -> None:
    def sample(channels: int, rows: int, value: int) -> LatentSample:
        array = np.full((rows, 2, channels) if channels_last else (channels, rows, 2), value, np.int8)
        array = array.transpose(2, 0, 1) if channels_last else array
        tables = (np.full(channels, 0.5, np.float32), np.full(channels, 3, np.float32))
        none = np.zeros((0, 4)), np.zeros((0, 5, 2)), np.zeros(0, bool)
        return LatentSample("a", array, channels, -1, *none, *tables)

    batch = collate([sample(2, 2, 4), sample(3, 1, 6)])
    assert batch.latents.shape == (2, 3, 2, 2)
    assert batch.latents.dtype == torch.int8
    decoded = batch.decoded()  # 4 / 2 + 3 and 6 / 2 + 3
    assert decoded[0].flatten(1).tolist() == [[5] * 4, [5] * 4, [0] * 4]
    assert decoded[1].flatten(1).tolist() == [[6] * 4] * 3  # its one row is repeated


def test_rate_of_names() -> None:
    assert [rate_of(name) for name in ("x/latent_75.npy", "latent_100.npy", "latent.npy", "latent_75.npy.tmp")] == [
        75, 100, None, None,
    ]  # fmt: skip
