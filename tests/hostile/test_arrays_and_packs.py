"""Latents and packed sets from strangers."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from latentface import Detector
from latentface.array_files import read_arrays
from latentface.cli import main
from latentface.data.packed import PackedStore
from latentface.data.stores import LARGEST_LATENT, read_latent
from latentface.errors import LatentFaceError


def npy(header: str, data: bytes = bytes(96), version: bytes = b"\x01\x00") -> bytes:
    """A file whose header is any text."""
    length = struct.pack("<H" if version == b"\x01\x00" else "<I", len(header) + 1)
    return b"\x93NUMPY" + version + length + header.encode("latin-1") + b"\n" + data


def described(descr: str = "'<f4'", shape: str = "(2, 3, 4)", fortran: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}}}"


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


def test_a_header_written_by_hand_is_read(tmp_path):
    """Otherwise everything below would be refused for another reason."""
    (tmp_path / "latent.npy").write_bytes(npy(described()))
    assert read_latent(tmp_path / "latent.npy").tolist() == np.zeros((2, 3, 4)).tolist()
    values = np.arange(24, dtype=">f4").reshape(2, 3, 4)
    (tmp_path / "latent.npy").write_bytes(npy(described("'>f4'", fortran="True"), values.tobytes("F")))
    assert read_latent(tmp_path / "latent.npy").tolist() == values.tolist()


@pytest.mark.parametrize(
    "content",
    [
        npy(described(shape="(1000000, 1000000, 1000000)")),
        npy(described(shape="(2, 3, 40000000000)")),
        npy(described(shape="(4294967296, 4294967296, 4294967296)")),
        npy(described(shape="(18446744073709551617, 3, 4)")),
        npy(described(shape=f"({'9' * 300}, 3, 4)")),
        npy(described(shape="(-2, -3, 4)")),
        npy(described(shape="(-2, 3, 4)")),
        npy(described(shape="(2.0, 3, 4)")),
        npy(described(shape="'234'")),
        npy(described(shape="None")),
        npy(described("'|O'")),
        npy(described("[('a', '<f4', (1000000000,))]")),
        npy(described("[('a', '<f4'), ('b', '|O')]")),
        npy(described("'<f4', 'more': 1")),
        npy(described("{}")),
        npy(described(fortran="2")),
        npy("{[1]: 2}"),
        npy("{1: 2, 'a': 3}"),
        npy("{'descr': __import__('os').system('touch exploded'), 'fortran_order': False, 'shape': (2, 3, 4)}"),
        npy("(" * 250),
        npy("[" * 90 + "]" * 90),
        npy("'" + " " * 20),
        npy("\x00"),
        npy("{" + " " * 5000 + "}"),
        npy(described(), version=b"\x02\x00")[:20],
        npy(described(), version=b"\x09\x00"),
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff{",
        b"PK\x03\x04" + bytes(100),
        pickle.dumps(Bomb()),
    ],
    ids=range(29),
)
def test_headers_of_strangers(content, tmp_path, monkeypatch, little_memory):
    monkeypatch.chdir(tmp_path)
    Path("latent.npy").write_bytes(content)
    with little_memory(), pytest.raises(LatentFaceError, match=r"^latent\.npy: ") as caught:
        read_latent("latent.npy")
    assert "\n" not in str(caught.value)
    assert not Path("exploded").exists()


def test_archives_are_refused_whatever_is_in_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "latent.npz", a=np.zeros((2, 3, 4)), b=np.array([Bomb()], dtype=object))
    for name in ("latent.npz", "latent.npy"):
        (tmp_path / name).write_bytes((tmp_path / "latent.npz").read_bytes())
        with pytest.raises(LatentFaceError, match="not a NumPy array of numbers"):
            read_latent(tmp_path / name)
    assert not Path("exploded").exists()


def test_a_file_of_holes_is_not_read(tmp_path, weights, capsys, little_memory):
    """It has 100 GB, and takes none of the disk."""
    cells = 100_000_000
    path = tmp_path / "latent_75.npy"
    path.write_bytes(npy(described(shape=f"(256, {cells // 1000}, 1000)"), b""))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + 4 * 256 * cells)
    with little_memory():
        assert main(["detect", str(path), "--weight", str(weights)]) == 2
    assert "larger than the latent of any picture" in capsys.readouterr().err
    assert 256 * 1024 * 1024 <= LARGEST_LATENT < 256 * cells  # a picture of 16384 pixels a side has its place


def test_the_detector_looks_at_the_shape_before_it_copies(weights, little_memory):
    """A view that repeats one number: 100 GB of which there are four bytes."""
    huge = np.broadcast_to(np.zeros((1, 1, 1), np.float64), (3, 100_000, 100_000))
    with little_memory(), pytest.raises(LatentFaceError, match=r"shape \[3, 100000, 100000\]; this model takes \[256"):
        Detector.load(weights)(huge, rate=75)


# --- packed sets

INFO = {
    "format": "latentface-pack/1", "dtype": "int8", "rates": [75], "stride": 16,
    "mean": {}, "deviation": {}, "scale": {"rate 75": [1.0] * 4}, "offset": {"rate 75": [2.0] * 4}, "error": {},
}  # fmt: skip
NAME = "a/latent_75"


def pack(folder: Path, tensors: dict[str, torch.Tensor] | bytes | None = None, **values) -> Path:
    path = folder / "shard_00000.safetensors"
    if isinstance(tensors, bytes):
        path.write_bytes(tensors)
    else:
        save_file(tensors or {NAME: torch.ones(2, 3, 4, dtype=torch.int8)}, path)
    shards = [{"file": path.name, "latents": 1, "bytes": path.stat().st_size, "sha256": ""}]
    (folder / "pack.json").write_text(json.dumps(INFO | {"shards": shards} | values))
    return folder


def read_all(folder: Path) -> list[np.ndarray]:
    store = PackedStore(folder)
    return [store.read(name, 75).values for name in store.names() if store.shape(name, 75)]


def test_a_pack_written_by_hand_is_read(tmp_path):
    assert [values.tolist() for values in read_all(pack(tmp_path))] == [np.full((4, 2, 3), 3.0).tolist()]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dtype": "object"}, "no known dtype"),
        ({"rates": [True]}, "a rate or stride is no whole number"),
        ({"rates": ["75"]}, "a rate or stride is no whole number"),
        ({"rates": [10**30]}, "a rate or stride is no whole number"),
        ({"stride": 0}, "a rate or stride is no whole number"),
        ({"stride": "16"}, "a rate or stride is no whole number"),
        ({"stride": 16.0}, "a rate or stride is no whole number"),
        ({"scale": {}}, "tables of scales are missing"),
        ({"offset": {"rate 12": [0.0]}}, "tables of scales are missing"),
        ({"dtype": "float16"}, "tables of scales are missing, or not wanted"),
        ({"scale": {"rate 75": [1.0]}}, "a table of scales is wrong"),
        ({"scale": {"rate 75": [[1.0]] * 4}}, "a table of scales is wrong"),
        ({"scale": {"rate 75": [1e300] * 4}}, "a table of scales is wrong"),
        ({"scale": {"rate 75": [10**400] * 4}}, "not the description of a packed set"),
        ({"scale": [1]}, "not the description of a packed set"),
        ({"shards": [{"file": 3, "latents": 1, "bytes": 1, "sha256": ""}]}, "not the description of a packed set"),
        ({"colour": "blue"}, "not the description of a packed set"),
        *(
            ({"shards": [{"file": name, "latents": 1, "bytes": 1, "sha256": ""}]}, "leaves the folder")
            for name in ("../x", "/etc/passwd", "", ".", "..", "a\\..\\b", "C:x", "a\x00", "a\nb")
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_descriptions_of_strangers(values, message, tmp_path):
    with pytest.raises(LatentFaceError, match=message) as caught:
        PackedStore(pack(tmp_path, **values))
    assert "pack.json: not the description of a packed set" in str(caught.value)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 100_000, "NaN", '{"format": Infinity}', "1" * 5000])
def test_descriptions_that_are_no_json(content, tmp_path):
    (tmp_path / "pack.json").write_text(content)
    with pytest.raises(LatentFaceError, match="not the description of a packed set"):
        PackedStore(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["../../x/latent_75", "/latent_75", "latent_75", "a/b/latent_75", "..\\x/latent_75", "../latent_75",
     "C:x/latent_75", "a\n/latent_75", "a/latent_", "a/latent_-1", "a/latent_75.npy", "a/latent_٣",
     "a/latent_" + 30 * "9"],
)  # fmt: skip
def test_names_in_shards_that_are_none(name, tmp_path):
    """`detect` would look for a file of that name."""
    with pytest.raises(LatentFaceError, match="is no name of a latent"):
        PackedStore(pack(tmp_path, {name: torch.ones(2, 3, 4, dtype=torch.int8)}))


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.ones(2, 3, 4), r"torch.float32 \[2, 3, 4\], expected int8 \[h, w, C\]"),
        (torch.ones(2, 3, 4, dtype=torch.bfloat16), "torch.bfloat16"),
        (torch.ones(2, 3, 4, dtype=torch.bool), "torch.bool"),
        (torch.ones(3, 4, dtype=torch.int8), r"shape \[3, 4\], expected \[h, w, C\]"),
        (torch.ones((), dtype=torch.int8), r"shape \[\], expected"),
        (torch.ones(0, 3, 4, dtype=torch.int8), r"shape \[0, 3, 4\], expected"),
        (torch.ones(2, 3, 5, dtype=torch.int8), "no scales for 5 channels of rate 75"),
    ],
)
def test_tensors_in_shards_that_are_no_latents(tensor, message, tmp_path):
    with pytest.raises(LatentFaceError, match=message) as caught:
        read_all(pack(tmp_path, {NAME: tensor}))
    assert "shard_00000.safetensors: a/latent_75" in str(caught.value)


def test_a_model_without_scales(tmp_path):
    with pytest.raises(LatentFaceError, match="no scales for 4 channels of rate 75"):
        read_all(pack(tmp_path, scale={"model 2": [1.0] * 4}, offset={"model 2": [1.0] * 4}))


def shard(header: str | dict, data: bytes = bytes(24), length: int | None = None) -> bytes:
    text = header if isinstance(header, str) else json.dumps(header)
    return struct.pack("<Q", len(text) if length is None else length) + text.encode() + data


def of(shape: list, offsets: list, dtype: str = "I8") -> dict:
    return {NAME: {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


@pytest.mark.parametrize(
    "content",
    [
        shard(of([2, 3, 4], [0, 24]), length=100_000_000_000),
        shard(of([2, 3, 4], [0, 24]), length=2**63),
        shard(of([1_000_000, 1_000_000, 4], [0, 4_000_000_000_000])),
        shard(of([2**32, 2**32, 2**32], [0, 24])),
        shard(of([2, 3, 4], [0, 2400])),
        shard(of([2, 3, 4], [24, 0])),
        shard(of([2, 3, 4], [-24, 0])),
        shard(of([2, 3, -4], [0, 24])),
        shard(of([2, 3, 4], [0, 24], "OBJECT")),
        shard(of([2, 3, 4], [0, 24]), bytes(10)),
        shard(of([2, 3, 4], [0, 24]), bytes(100)),
        shard("[" * 100_000),
        shard("{}")[:5],
        pickle.dumps(Bomb()),
    ],
    ids=range(14),
)  # fmt: skip
def test_shards_that_lie_about_their_size(content, tmp_path, monkeypatch, little_memory):
    monkeypatch.chdir(tmp_path)
    with little_memory(), pytest.raises(LatentFaceError, match=r"shard_00000\.safetensors: missing or damaged"):
        read_all(pack(tmp_path, content))
    assert not Path("exploded").exists()


def test_values_of_a_pack_that_are_not_finite_stop_an_evaluation(drawn_dataset, weights, tmp_path, capsys):
    """A packed set counts as checked, as packing refuses such values; one of a stranger may hold them."""
    split = tmp_path / "val"
    split.mkdir()
    name = sorted(folder.name for folder in (drawn_dataset / "val" / "latent").iterdir() if folder.is_dir())[1]
    pack(split, {f"{name}/latent_75": torch.full((8, 8, 256), torch.nan).half()}, dtype="float16", scale={}, offset={})
    (split / "labels.txt").write_bytes((drawn_dataset / "val" / "labels.txt").read_bytes())
    arguments = [
        "--weight",
        str(weights),
        "--dataset_root",
        str(tmp_path),
        "--rates",
        "75",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(["evaluate", *arguments]) == 2
    assert f"NaN or infinite values in a latent of {name}" in capsys.readouterr().err


def test_an_archive_that_is_mostly_air_is_refused_before_it_is_unpacked(tmp_path: Path, little_memory) -> None:
    np.savez_compressed(tmp_path / "air.npz", np.zeros((256, 512, 1024), np.float32))  # 512 MB in half a megabyte
    with (
        little_memory(),
        pytest.raises(LatentFaceError, match=r"air\.npz: 'arr_0\.npy' unpacks \d+ bytes to 536871040"),
    ):
        read_arrays(tmp_path / "air.npz")


def test_an_array_that_claims_more_than_its_entry_holds_is_refused(tmp_path: Path, little_memory) -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "<f4", "fortran_order": False, "shape": (256, 1 << 14, 1 << 14)}
    )
    with zipfile.ZipFile(tmp_path / "claim.npz", "w") as archive:
        archive.writestr("arr_0.npy", buffer.getvalue() + bytes(64))
    with little_memory(), pytest.raises(LatentFaceError, match=r"claim\.npz: not NumPy arrays of numbers, or damaged"):
        read_arrays(tmp_path / "claim.npz")
