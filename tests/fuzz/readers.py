"""Every reader of strangers' files: valid files to start from, how to take them apart, and what a right answer is."""

from __future__ import annotations

import io
import json
import struct
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image

from latentface.data.labels import read_labels, write_labels
from latentface.data.manifest import LatentEntry, ManifestRow, read_manifest, write_manifest
from latentface.data.pictures import picture_size, read_picture
from latentface.data.sizes import read_sizes
from latentface.data.stores import read_latent
from latentface.errors import LatentFaceError
from latentface.evaluation.mat_file import read_mat
from latentface.evaluation.wider import read_predictions

MOST_TOUCHED = 1 << 22  # values of a latent that are read: what lies behind the end of a file shows then


@dataclass(frozen=True)
class Reader:
    """`read(path)` gives a right answer (an AssertionError says that it is wrong) or raises LatentFaceError.

    `parts` takes a valid file apart so that one part can be changed, and `join` puts it together again with lengths
    and checksums that fit: without it most inputs would end at the first length.
    """

    file: str  # its name
    seeds: Sequence[bytes]
    read: Callable[[Path], object]
    words: Sequence[bytes] = ()
    parts: Callable[[bytes], list[bytes]] = lambda content: [content]
    join: Callable[[list[bytes]], bytes] = b"".join


# --- text


def _labels(path: Path) -> None:
    labels = read_labels(path)
    for picture in labels.values():
        assert np.isfinite(picture.boxes).all()
        assert (picture.boxes[:, 2:] >= picture.boxes[:, :2]).all()
        assert len(picture.boxes) == len(picture.landmarks) == len(picture.ignore)
    written = path.with_suffix(".again")
    write_labels(written, labels.values())
    assert list(read_labels(written)) == list(labels)


LABELS = Reader(
    "labels.txt",
    (
        b"0--Parade/a.jpg\n2\n1 2 30 40 0 0 0 0 0 0\n5 6 7 8 1 0 0 1 2 0\nb.jpg\n0\n0 0 0 0 0 0 0 0 0 0\n",
        b"# c.jpg\n10 20 30 40 11 21 0 31 21 0 20 30 1 12 39 0 30 39 0 0.8\n# d.jpg\n"
        b"1 2 3 4 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 0 1\n",
        b"\xef\xbb\xbfe\r\n1.5 2.5 3.5 4.5 1 2 3 4 5 6 7 8 9 10\r\nf with spaces.png\n1 2 3 4\n\n# 123\n1\n1 2 3 4\n",
    ),
    _labels,
    (
        b"# ",
        b"a.jpg",
        b"-1 -1 -1 ",
        b"0 0 0 0 0 0 0 0 0 0",
        b"1 2 3 4",
        b"C:\\",
        b"/etc/passwd",
        b"..",
        b"\xe3\x80\x80",
    ),
)

ROW = ManifestRow(
    "0--Parade/a.jpg",
    {12: LatentEntry("dct", 0, 2.5, 0.12, True), 75: LatentEntry("jpegai", None, None, 0.8, False)},
    stride=16, source_width=1024, source_height=768, scale_x=0.625, scale_y=0.625, pad_bottom=160,
    encoder={"codec": "dct", "crop_range": [0.3, 1.0]},
)  # fmt: skip
CROP = replace(
    ROW, name="a__crop0.jpg", scale_x=2, scale_y=2, pad_bottom=440, pad_right=440, crop=(3, 4, 100, 100),
    mirrored=True, label_frame="source",
)  # fmt: skip


def _manifest_bytes(*rows: ManifestRow) -> bytes:
    with tempfile.TemporaryDirectory() as folder:  # of its own: two test processes ask for it at the same moment
        path = Path(folder) / "latents.jsonl"
        write_manifest(path, rows)
        return path.read_bytes()


def _manifest(path: Path) -> None:
    rows = read_manifest(path)
    for row in rows.values():
        assert min(row.cells) >= 1
        assert np.isfinite([row.scale_x, row.scale_y, *(entry.bpp for entry in row.latents.values())]).all()
    written = path.with_suffix(".again")
    write_manifest(written, rows.values())
    assert read_manifest(written) == rows


MANIFEST = Reader(
    "latents.jsonl",
    (_manifest_bytes(ROW), _manifest_bytes(CROP, ROW)),
    _manifest,
    (
        b"null",
        b"true",
        b"[]",
        b"{}",
        b'"',
        b"[" * 3000,
        b'{"a":' * 900,
        b"NaN",
        b"Infinity",
        b"\\ud800",
        b'"name"',
        b",",
    ),
)

PREDICTIONS = Reader(
    "a.txt",
    (b"a\n2\n1 2 3 4 0.5\n5.25 6 7 8 0.125\n", b"caf\xe9.jpg\r\n1\r\n 1.5 2 3 4 5e-1 \r\n\r\n", b"c\n0\n", b""),
    lambda path: [_finite(rows) for rows in read_predictions(path.parent).values()],
    (b"1 2 3 4 5", b" ", b"1e5", b"0x1p3", b"(1+2j)", b'"1"', b"\xc2\xa0", b"\x0b", b"\x1c", b"\x85"),
)


def _finite(rows: np.ndarray) -> None:
    assert rows.ndim == 2
    assert rows.shape[1] == 5
    assert np.isfinite(rows).all()


SIZES = Reader(
    "sizes.json",
    (b'{"a.jpg": [640, 480], "b/c.png": {"width": 5, "height": 4, "source_width": 50, "source_height": 40}}',),
    read_sizes,
    MANIFEST.words,
)


# --- arrays


def _npy(array: np.ndarray, version: tuple[int, int] = (1, 0)) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version)
    return file.getvalue()


def _npy_parts(content: bytes) -> list[bytes]:
    wide = content[6:7] != b"\x01"
    start = 12 if wide else 10
    (size,) = struct.unpack("<I" if wide else "<H", content[8:start])
    return [content[:8], content[start : start + size], content[start + size :]]


def _npy_join(parts: list[bytes]) -> bytes:
    magic, header, data = parts
    return magic + struct.pack("<H" if magic[6:7] == b"\x01" else "<I", len(header) & 0xFFFF) + header + data


def _latent(path: Path) -> None:
    array = read_latent(path)
    assert array.ndim == 3
    assert array.dtype.kind in "fiu"
    if array.size < MOST_TOUCHED:
        with np.errstate(all="ignore"):
            np.asarray(array, np.float32).sum()


NPY = Reader(
    "latent_75.npy",
    (
        _npy(np.arange(24, dtype=np.float32).reshape(2, 3, 4)),
        _npy(np.ones((1, 2, 3, 4), np.float16), (2, 0)),
        _npy(np.asfortranarray(np.ones((2, 3, 4), np.int8)), (3, 0)),
    ),
    _latent,
    (
        b"{'descr': ", b"'fortran_order': True, ", b"'shape': (2, 3, 4), ", b"'|O'", b"'<f8'", b"'>i2'", b"'<U9'", b"(",
        b"[('a', '<f4', (3,))]", b"-", b"**", b"True", b"None", b"lambda: 0", b"(" * 150, b"[1]", b"L", b"'",
        b"\x93NUMPY", b"PK\x03\x04", b"\x80\x02c__builtin__\nexec\n",
    ),
    _npy_parts,
    _npy_join,
)  # fmt: skip


# --- packed


def _shard_bytes(dtype: type, name: str) -> bytes:
    latent = np.arange(24, dtype=dtype).tobytes()
    size = len(latent)
    header = {
        "__metadata__": {"fingerprint": "x", "error": "{}"},
        "a/latent_75": {"dtype": name, "shape": [2, 3, 4], "data_offsets": [0, size]},
        "b/latent_75": {"dtype": name, "shape": [3, 2, 4], "data_offsets": [size, 2 * size]},
    }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + latent + latent


def _shard_parts(content: bytes) -> list[bytes]:
    (size,) = struct.unpack("<Q", content[:8])
    return [content[8 : 8 + size], content[8 + size :]]


def _info(dtype: str, size: int, tables: Mapping[str, list[float]] = MappingProxyType({})) -> bytes:
    """`pack.json` of a pack with one shard of so many bytes."""
    shards = [{"file": "shard_00000.safetensors", "latents": 2, "bytes": size, "sha256": ""}]
    info = {"format": "latentface-pack/1", "dtype": dtype, "rates": [75], "stride": 16, "shards": shards,
            "mean": {}, "deviation": {}, "scale": tables, "offset": tables, "error": {}}  # fmt: skip
    return json.dumps(info, default=dict).encode()


SHARDS = {"float16": _shard_bytes(np.float16, "F16"), "int8": _shard_bytes(np.int8, "I8")}


def _shard(path: Path) -> None:
    (path.parent / "pack.json").write_bytes(_info("float16", path.stat().st_size))
    _read_pack(path)


def _pack(path: Path) -> None:
    shard = path.parent / "shard_00000.safetensors"
    if not shard.exists():
        shard.write_bytes(SHARDS["int8"])
    _read_pack(path)


def _read_pack(path: Path) -> None:
    from latentface.data.packed import PackedStore

    store = PackedStore(path.parent)
    for name in store.names():
        for rate in store.rates:
            if store.has(name, rate):
                stored = store.read(name, rate)
                assert stored.array.shape == store.shape(name, rate)
                assert stored.values.dtype == np.float32


SHARD = Reader(
    "shard_00000.safetensors",
    (SHARDS["float16"],),
    _shard,
    (
        b'"F32"', b'"I8"', b'"BF16"', b'"F8_E4M3"', b'"BOOL"', b"[1000000, 1000000, 1000000]", b"[]", b"[0, 3, 4]",
        b'"../../x/latent_75"', b'"/latent_75"',
        b'"a/latent_99999999999999999999"', b'"a\\u0000/latent_75"', b"[" * 200,
    ),
    _shard_parts,
    lambda parts: struct.pack("<Q", len(parts[0])) + b"".join(parts),
)  # fmt: skip

PACK = Reader(
    "pack.json",
    (_info("int8", len(SHARDS["int8"]), {"rate 75": [1.0] * 4}),),
    _pack,
    (*MANIFEST.words, b'"../x"', b'""', b'".."', b'"float32"', b'"int8"'),
)


# --- checkpoints, settings, ground truth


def _checkpoint_bytes() -> bytes:
    import torch

    file = io.BytesIO()
    content = {
        "format": "latentface/1",
        "model": {"backbone": "light", "prior_sizes": ((16, 32), (64,), (256,))},
        "state": {"a.weight": torch.ones(2, 3), "b": torch.arange(3)},
        "facts": {"codec": "dct", "rates": [75]},
    }
    torch.save(content, file)
    return file.getvalue()


def _checkpoint_parts(content: bytes) -> list[bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [archive.read(name) for name in archive.namelist()]


def _checkpoint_join(parts: list[bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(CHECKPOINT.seeds[0])) as archive, zipfile.ZipFile(file, "w") as written:
        for name, part in zip(archive.namelist(), parts, strict=True):
            written.writestr(name, part)
    return file.getvalue()


def _checkpoint(path: Path) -> None:
    from latentface.model.checkpoint import load_checkpoint
    from latentface.torch_file import read_torch_file

    read_torch_file(path)
    with suppress(LatentFaceError):  # it may be the file of another model
        load_checkpoint(path).build()


CHECKPOINT = Reader(
    "weight.pth",
    (_checkpoint_bytes(),),
    _checkpoint,
    (
        b"cos\nsystem\n", b"c__builtin__\nbytearray\n", b"ccollections\nOrderedDict\n", b"\x85", b"\x86", b"R", b"b",
        b"Q", b"2", b"0", b"(", b"t", b"u", b"s", b"}", b"]", b"h\x00", b"q\x00", b"\x8a\xff", b"X\xff\xff\xff\xff",
        b"J\xff\xff\xff\x7f",
    ),
    _checkpoint_parts,
    _checkpoint_join,
)  # fmt: skip


def _yaml(path: Path) -> None:
    from latentface.options import read_yaml
    from latentface.training.config import TrainConfig

    read_yaml(TrainConfig, path)


YAML = Reader(
    "config.yaml",
    (b"epochs: 3\nrates: [12, 75]\nmodel: light\nlr: 0.001\nfreeze: true\nlatent_type: 'latent_75.npy'\n",),
    _yaml,
    (
        b"&a ", b"*a", b"<<: ", b"!!python/object/apply:os.system [id]", b"!!binary ", b"!!timestamp ", b"!!int ",
        b"!!float ", b"!!set ", b"!!omap ", b"2020-99-99", b"0b_", b"1:60:60", b"? ", b"- ", b"{", b"[", b"|", b">",
        b"%YAML 9.9\n", b"---\n", b"[" * 2000, b".inf", b"~", b"\xc2\x85",
    ),
)  # fmt: skip


def _mat_bytes() -> bytes:
    from scipy.io import savemat

    file = io.BytesIO()
    cell = np.empty((2, 1), object)
    cell[0, 0], cell[1, 0] = "name", np.array([[1.0, 2, 3, 4]])
    savemat(file, {"gt_list": cell})
    return file.getvalue()


def _mat_parts(content: bytes) -> list[bytes]:
    return [content[:136], content[136:]]


MAT = Reader(
    "wider_face_val.mat",
    (_mat_bytes(),),
    lambda path: _read_mat(path),
    (
        struct.pack("<I", 14),
        struct.pack("<I", 15),
        struct.pack("<I", 0xFFFFFFFF),
        struct.pack("<II", 5, 8),
        b"\x01\x00\x04\x00",
    ),
    _mat_parts,
    lambda parts: parts[0][:132] + struct.pack("<I", len(parts[1])) + parts[1],
)


def _read_mat(path: Path) -> None:
    """`ground_truth.py` makes one line of these three."""
    try:
        read_mat(path, "gt_list")
    except (OSError, KeyError, ValueError) as error:
        raise LatentFaceError(str(error)) from error


def _picture_bytes(form: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(file, form)
    return file.getvalue()


def _picture(path: Path) -> None:
    width, height = picture_size(path)
    assert read_picture(path).shape == (height, width, 3)


PICTURE = Reader(
    "a.jpg",
    [_picture_bytes(form) for form in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")],
    _picture,
    (b"%!PS-Adobe-3.0 EPSF-3.0\n", b"GIF89a", b"II*\x00", b"MM\x00*", b"\x89PNG\r\n\x1a\n", b"IHDR", b"acTL", b"P6\n"),
)

READERS = {
    "labels": LABELS, "manifest": MANIFEST, "npy": NPY, "shard": SHARD, "predictions": PREDICTIONS,
    "sizes": SIZES, "pack": PACK, "checkpoint": CHECKPOINT, "yaml": YAML, "mat": MAT, "picture": PICTURE,
}  # fmt: skip
