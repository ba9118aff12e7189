from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from latentface.array_files import kind_of, read_arrays
from latentface.cli import main
from latentface.data.import_files import compiled, find_latents, list_files
from latentface.data.importing import ImportConfig, import_latents
from latentface.data.labels import read_labels
from latentface.data.latents import NestedLatentWiderFaceDataset
from latentface.data.manifest import read_manifest
from latentface.errors import LatentFaceError


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def save_tensor(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(torch.from_numpy(array), path)


def save_array(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)


@pytest.fixture
def dumps(tmp_path) -> Path:
    """What the reference software leaves: luma and chroma tensors without a suffix, bitstreams; two pictures."""
    for number, name in enumerate(("a", "b")):
        save_tensor(tmp_path / f"dumps/model_y/y_hat/{name}.bits_75", numbers(1, 160, 4, 6, seed=number))
        save_tensor(tmp_path / f"dumps/model_uv/y_hat/{name}.bits_75", numbers(1, 96, 4, 6, seed=10 + number))
        (tmp_path / f"dumps/{name}_75.bits").write_bytes(bytes(576))
    return tmp_path


def vm_config(folder: Path, **values) -> ImportConfig:
    settings = {
        "luma": "model_y/y_hat/{name}.bits_{rate}", "chroma": "model_uv/y_hat/{name}.bits_{rate}", "codec": "jpegai",
        "bits": "{name}_{rate}.bits",
    }  # fmt: skip
    return ImportConfig(inputs=(str(folder / "dumps"),), out=str(folder / "root/train"), **{**settings, **values})


def test_luma_and_chroma_in_two_files(dumps):
    summary = import_latents(vm_config(dumps))
    assert (summary.pictures, summary.latents, summary.channels, summary.written) == (2, {75: 2}, {75: [256]}, 2)
    latent = np.load(dumps / "root/train/latent/b/latent_75.npy")
    assert latent.dtype == np.float32
    assert np.array_equal(latent, np.concatenate([numbers(160, 4, 6, seed=1), numbers(96, 4, 6, seed=11)]))


def test_the_manifest_says_what_is_known(dumps):
    import_latents(vm_config(dumps, model_index=2))
    row = read_manifest(dumps / "root/train/latents.jsonl")["a"]
    entry = row.latents[75]
    assert (entry.codec, entry.model_index, entry.step, entry.exact) == ("jpegai", 2, None, True)
    assert (entry.bpp, entry.bpp_from) == (8 * 576 / (64 * 96), "bitstream")
    assert (row.source_width, row.source_height, row.pad_right, row.pad_bottom) == (96, 64, 0, 0)
    assert row.encoder == {"imported": True, "codec": "jpegai", "stride": 16, "fit": "none", "dtype": "float32"}


def test_what_is_not_known_is_left_open(dumps):
    import_latents(vm_config(dumps, bits="", codec="unknown", approximate=True))
    entry = read_manifest(dumps / "root/train/latents.jsonl")["a"].latents[75]
    assert (entry.codec, entry.model_index, entry.bpp, entry.bpp_from) == ("unknown", None, None, "")
    assert entry.exact is False


def test_chroma_on_half_the_grid_is_repeated(tmp_path):
    """Of 3 x 5 cells half are 2 x 3."""
    luma, chroma = numbers(2, 3, 5), np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    save_tensor(tmp_path / "dumps/y/p.pt", luma[None])
    save_tensor(tmp_path / "dumps/uv/p.pt", chroma[None])
    import_latents(vm_config(tmp_path, luma="y/{name}", chroma="uv/{name}", rate=25, bits=""))
    latent = np.load(tmp_path / "root/train/latent/p/latent_25.npy")
    assert latent.shape == (3, 3, 5)
    assert np.array_equal(latent[:2], luma)
    assert latent[2].tolist() == [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]]
    row = read_manifest(tmp_path / "root/train/latents.jsonl")["p"]
    assert row.encoder["chroma"] == "repeated from half the grid"


def test_chroma_on_any_other_grid_is_skipped(tmp_path):
    save_tensor(tmp_path / "dumps/y/p.pt", numbers(2, 4, 4))
    save_tensor(tmp_path / "dumps/uv/p.pt", numbers(1, 2, 3))
    with pytest.raises(LatentFaceError, match=r"nothing could be imported; .* parts of 4x4 and 2x3 cells belong to no"):
        import_latents(vm_config(tmp_path, luma="y/{name}", chroma="uv/{name}", rate=25, bits=""))
    assert not (tmp_path / "root").exists()


LATENT = numbers(3, 2, 2)
WRITERS = {
    "npy": lambda path: np.save(path.open("wb"), LATENT.astype(np.float64)),
    "npz": lambda path: np.savez(path.open("wb"), y=LATENT[None]),
    "torch": lambda path: torch.save(torch.from_numpy(LATENT), path),
    "torch before 1.6": lambda path: torch.save(
        torch.from_numpy(LATENT), path, _use_new_zipfile_serialization=False
    ),
    "torch of a dictionary": lambda path: torch.save({"y": torch.from_numpy(LATENT), "epoch": 3}, path),
    "torch with a gradient": lambda path: torch.save(torch.from_numpy(LATENT).requires_grad_(), path),
    "safetensors": lambda path: save_file({"y": torch.from_numpy(LATENT)}, path),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRITERS)
def test_files_are_known_by_content(tmp_path, kind):
    path = tmp_path / "file"
    WRITERS[kind](path)
    assert kind_of(path) == kind.split()[0]
    [array] = read_arrays(path)
    assert array.dtype == np.float32
    assert np.array_equal(array, LATENT)


def test_other_numbers_become_float32(tmp_path):
    torch.save(torch.tensor([[[1.5]], [[-2.0]]], dtype=torch.bfloat16), tmp_path / "bfloat16")
    assert read_arrays(tmp_path / "bfloat16")[0].flatten().tolist() == [1.5, -2.0]
    torch.save(torch.tensor([[[3]]], dtype=torch.int16), tmp_path / "int16")
    assert read_arrays(tmp_path / "int16")[0].tolist() == [[[3.0]]]


def test_arrays_inside_a_file_by_name(tmp_path):
    np.savez(tmp_path / "two.npz", luma=numbers(2, 2, 2), chroma=numbers(1, 2, 2, seed=1))
    assert [len(array) for array in read_arrays(tmp_path / "two.npz", ("chroma", "luma"))] == [1, 2]
    with pytest.raises(LatentFaceError, match=r"2 arrays \(luma, chroma\); say which with --keys"):
        read_arrays(tmp_path / "two.npz")
    with pytest.raises(LatentFaceError, match="no array 'y'; there are luma, chroma"):
        read_arrays(tmp_path / "two.npz", ("y",))


class Executed:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def _pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Executed(), protocol=2))


def _objects(path: Path) -> None:
    np.save(path.open("wb"), np.array([[[Executed()]]], dtype=object), allow_pickle=True)


def _module(path: Path) -> None:
    torch.save({"y": torch.zeros(1, 1, 1), "more": Executed()}, path)


def _flat(path: Path) -> None:
    np.save(path.open("wb"), numbers(256, 40))


def _batch(path: Path) -> None:
    np.save(path.open("wb"), numbers(2, 3, 4, 4))


def _infinite(path: Path) -> None:
    np.save(path.open("wb"), np.full((1, 2, 2), np.inf))


def _complex(path: Path) -> None:
    np.save(path.open("wb"), np.zeros((1, 2, 2), complex))


def _cut(path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, numbers(3, 20, 20))
    path.write_bytes(buffer.getvalue()[:1000])


def _no_tensor(path: Path) -> None:
    torch.save([1, 2], path)


DAMAGES = {
    _pickle: "more than tensors", _objects: "not a NumPy array of numbers", _module: "more than tensors",
    _flat: r"shape \[256, 40\]", _batch: r"shape \[2, 3, 4, 4\]", _infinite: "NaN or infinite",
    _complex: "dtype complex128", _cut: "damaged one", _no_tensor: "0 arrays",
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_bad_file_is_skipped_with_a_line_and_never_executed(tmp_path, monkeypatch, damage):
    monkeypatch.chdir(tmp_path)
    save_array(tmp_path / "dumps/good.npy", numbers(3, 2, 2))
    damage(tmp_path / "dumps/bad.npy")
    said: list[str] = []
    summary = import_latents(vm_config(tmp_path, luma="", chroma="", bits="", rate=50), said.append)
    assert summary.latents == {50: 1}
    [line] = said
    assert "skipped" in line
    assert "bad.npy" in line
    with pytest.raises(LatentFaceError, match=DAMAGES[damage]):
        read_arrays(tmp_path / "dumps/bad.npy")
    assert not (tmp_path / "executed").exists()
    assert list(read_manifest(tmp_path / "root/train/latents.jsonl")) == ["good"]


def test_without_patterns_the_documented_tree_or_one_file_per_picture(tmp_path):
    save_array(tmp_path / "tree/latent/p/latent_12.npy", numbers(3, 2, 2))
    save_array(tmp_path / "tree/latent/p/latent_75.npy", numbers(5, 2, 2))
    (tmp_path / "tree/labels.txt").write_text("p.jpg\n")
    found = find_latents(list_files([str(tmp_path / "tree")]), (), None)
    assert sorted(found) == [("p", 12), ("p", 75)]
    with pytest.raises(LatentFaceError, match=r"--rate 75: the pattern '{name}/latent_{rate}' has the rate in it"):
        find_latents(list_files([str(tmp_path / "tree")]), (), 75)
    save_array(tmp_path / "flat/photo.png.npy", numbers(3, 2, 2))
    found = find_latents(list_files([str(tmp_path / "flat")]), (), 6)
    assert list(found) == [("photo", 6)]  # known by the photograph's base name


@pytest.mark.parametrize(
    ("pattern", "path", "places"),
    [
        ("{name}", "/x/a.b.pt", {"name": "a.b"}),
        ("{name}_{rate}", "x/a_1_75.npz", {"name": "a_1", "rate": "75"}),
        ("{name}_{rate}", "x/a_high.npz", None),
        ("q{rate}/{name}", "/x/q6/a.npy", {"name": "a", "rate": "6"}),
        ("q{rate}/{name}", "/x/xq6/a.npy", None),  # a pattern begins behind a slash
        ("model_y/y_hat/{name}.bits_*", "d/model_y/y_hat/a.bits_75", {"name": "a"}),
        ("{name}/m{model}_{rate}.pt", "a/m2_75.pt", {"name": "a", "model": "2", "rate": "75"}),
        ("model_y/y_hat/{name}_{rate}.bits*", "d/model_y/y_hat/a_75.bits_0", {"name": "a", "rate": "75"}),
        ("{name}.pt", "a.npy", None),
        ("{name}+.npy", "a+.npy", {"name": "a"}),  # what is no place stands for itself
    ],
)
def test_patterns(pattern, path, places):
    found = compiled(pattern).fullmatch(path)
    assert (found and found.groupdict()) == places


@pytest.mark.parametrize(
    ("pattern", "words"),
    [("y_hat", "{name} has to be in it, once"), ("{name}/{name}", "once"), ("{name}_{q}", "{q} has to be")],
)
def test_wrong_patterns(pattern, words):
    with pytest.raises(LatentFaceError, match=words):
        compiled(pattern)


def test_the_model_index_may_be_in_the_path(tmp_path):
    save_array(tmp_path / "dumps/a/m3_75.npy", numbers(3, 2, 2))
    import_latents(vm_config(tmp_path, luma="", chroma="", bits="", files="{name}/m{model}_{rate}"))
    assert read_manifest(tmp_path / "root/train/latents.jsonl")["a"].latents[75].model_index == 3


@pytest.fixture
def photographs(tmp_path) -> Path:
    """A photograph of 90 x 50 and its latent of 6 x 4 cells, which covers 96 x 64."""
    save_array(tmp_path / "dumps/p.npy", numbers(3, 4, 6))
    (tmp_path / "photos/event").mkdir(parents=True)
    Image.new("RGB", (90, 50)).save(tmp_path / "photos/event/p.png")
    (tmp_path / "faces.txt").write_text("event/p.jpg\n2\n10 20 30 20 0 0 0 0 0 0\n80 40 40 40 0 0 0 0 0 0\n")
    return tmp_path


def photograph_config(folder: Path, **values) -> ImportConfig:
    return ImportConfig(
        inputs=(str(folder / "dumps"),), out=str(folder / "root/train"), rate=50, images=str(folder / "photos"),
        labels=str(folder / "faces.txt"), **values,
    )  # fmt: skip


def test_photographs_give_sizes_and_padding(photographs):
    summary = import_latents(photograph_config(photographs))
    row = read_manifest(photographs / "root/train/latents.jsonl")["p"]
    assert row.name == "event/p.jpg"
    assert (row.source_width, row.source_height, row.scale_x, row.scale_y) == (90, 50, 1.0, 1.0)
    assert (row.pad_right, row.pad_bottom) == (6, 14)
    boxes = read_labels(photographs / "root/train/labels.txt")["p"].boxes
    assert boxes.tolist() == [[10, 20, 40, 40], [80, 40, 90, 50]]  # cut to the photograph
    assert (summary.faces, summary.unlabelled) == (2, 0)


@pytest.mark.parametrize(
    ("fit", "scales", "pads"), [("stretch", (96 / 90, 64 / 50), (0, 0)), ("pad", (96 / 90, 96 / 90), (0, 11))]
)
def test_photographs_that_were_brought_to_the_coded_size(photographs, fit, scales, pads):
    import_latents(photograph_config(photographs, fit=fit))
    row = read_manifest(photographs / "root/train/latents.jsonl")["p"]
    assert (row.scale_x, row.scale_y) == pytest.approx(scales)
    assert (row.pad_right, row.pad_bottom) == pads
    boxes = read_labels(photographs / "root/train/labels.txt")["p"].boxes
    assert boxes[0] == pytest.approx([10 * scales[0], 20 * scales[1], 40 * scales[0], 40 * scales[1]], abs=0.01)


def test_a_photograph_that_the_latent_cannot_be_of(photographs):
    Image.new("RGB", (640, 480)).save(photographs / "photos/event/p.png")
    with pytest.raises(LatentFaceError, match=r"of 6x4 cells is no 640x480 photograph's at its own size; say .* --fit"):
        import_latents(photograph_config(photographs))


def test_a_second_run_adds_what_is_missing(dumps):
    import_latents(vm_config(dumps))
    assert import_latents(vm_config(dumps)).written == 0
    (dumps / "root/train/latent/a/latent_75.npy").unlink()
    for part, channels in (("y", 160), ("uv", 96)):
        save_tensor(dumps / f"dumps/model_{part}/y_hat/a.bits_12", numbers(1, channels, 4, 6, seed=5))
    summary = import_latents(vm_config(dumps))
    assert (summary.written, summary.latents) == (2, {12: 1, 75: 2})
    assert sorted(read_manifest(dumps / "root/train/latents.jsonl")["a"].latents) == [12, 75]


def test_other_settings_need_another_place(dumps):
    import_latents(vm_config(dumps))
    with pytest.raises(LatentFaceError, match="made with codec jpegai, now it is dct"):
        import_latents(vm_config(dumps, codec="dct"))


def test_rates_of_one_picture_are_of_one_size(dumps):
    import_latents(vm_config(dumps))
    for part, channels in (("y", 160), ("uv", 96)):
        save_tensor(dumps / f"dumps/model_{part}/y_hat/a.bits_12", numbers(1, channels, 4, 5))
    [line] = import_latents(vm_config(dumps)).skipped
    assert line == "a at rate 12: another size than at its other rates; remove one"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"chroma": ""}, "--luma and --chroma go together"),
        ({"files": "{name}"}, "--luma and --chroma go together"),
        ({"fit": "pad"}, "--fit pad and stretch need --images"),
        ({"rate": 75}, "the pattern 'model_y/y_hat/{name}.bits_{rate}' has the rate in it"),
        ({"luma": "model_y/y_hat/{name}.bits_75"}, "of which rate"),
        ({"luma": "none/{name}_{rate}"}, "a, rate 75: only one of the patterns"),
        ({"luma": "none/{name}_{rate}", "chroma": "none/{name}_{rate}"}, "no latents by the pattern"),
        ({"bits": "none/{name}_{rate}.bits"}, "no bitstream by this pattern belongs to a latent"),
        ({"images": "nowhere"}, "no such folder of pictures"),
        ({"inputs": ("nowhere",)}, "nowhere: no such file or folder"),
    ],
)
def test_mistakes_are_said_before_any_work(dumps, values, words):
    with pytest.raises(LatentFaceError, match=words):
        import_latents(ImportConfig(**(vars(vm_config(dumps)) | values)))
    assert not (dumps / "root").exists()


def test_two_files_for_one_latent(tmp_path):
    save_array(tmp_path / "dumps/x/p.npy", numbers(1, 2, 2))
    save_array(tmp_path / "dumps/z/p.npy", numbers(1, 2, 2))
    with pytest.raises(LatentFaceError, match=r"x/p.npy and .*z/p.npy are both p at rate 5; keep one"):
        import_latents(vm_config(tmp_path, luma="", chroma="", bits="", rate=5))


def test_the_place_to_write_is_not_searched(dumps):
    with pytest.raises(LatentFaceError, match=r"--out .* lies in .*, which is searched"):
        import_latents(ImportConfig(**(vars(vm_config(dumps)) | {"inputs": (str(dumps),)})))


def test_the_command_and_what_training_sees(photographs, capsys):
    arguments = [
        "import", str(photographs / "dumps"), "--out", str(photographs / "root/train"), "--rate", "50", "--images",
        str(photographs / "photos"), "--labels", str(photographs / "faces.txt"), "--codec", "mine", "--json",
        "--dtype", "float16", "--model_index", "4",
    ]  # fmt: skip
    assert main(arguments) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["pictures"], printed["latents"], printed["channels"]) == (1, {"50": 1}, {"50": [3]})
    dataset = NestedLatentWiderFaceDataset.of_split(photographs / "root/train", rates=(50,))
    assert dataset.codec == "mine"
    sample = dataset[0]
    assert sample.model_index == 4
    assert sample.boxes.tolist() == [[10, 20, 40, 40], [80, 40, 90, 50]]
    assert np.array_equal(sample.latent, numbers(3, 4, 6).astype(np.float16))
