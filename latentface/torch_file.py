"""Files of `torch.save` from strangers: tensors and plain values, nothing that runs, nothing larger than the file.

`torch.load(weights_only=True)` runs nothing out of a file, but takes the memory that the file asks for: a byte array
of 100 GB, one number repeated a trillion times, an archive that unpacks to a thousand times its size; PyTorch 2.5
reads beyond the end of a tensor that is shorter than it claims. So the pickle in a file is gone through first, with
stand-ins in the place of tensors, and what does not fit into the file itself is refused.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from latentface.errors import LatentFaceError

ITEM_BYTES = {
    "Double": 8, "Float": 4, "Half": 2, "BFloat16": 2,
    "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1, "Bool": 1,
}  # fmt: skip
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file from before PyTorch 1.6, which is no archive
MOST_VALUES = 1_000_000  # in all dictionaries and lists, counted as often as they are referred to

# What torch.save writes. Others make objects that take memory before there is anything to check.
_OPCODES = (
    pickle.PROTO, pickle.STOP, pickle.MARK, pickle.GLOBAL, pickle.REDUCE, pickle.BUILD, pickle.BINPERSID,
    pickle.BINPUT, pickle.LONG_BINPUT, pickle.BINGET, pickle.LONG_BINGET,
    pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1,
    pickle.BINFLOAT, pickle.BINUNICODE, pickle.SHORT_BINSTRING,
    pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3,
    pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.EMPTY_DICT, pickle.SETITEM, pickle.SETITEMS,
)  # fmt: skip


def read_torch_file(path: str | Path) -> dict[str, Any]:
    """A dictionary of tensors (on the CPU) and plain values; LatentFaceError for anything else."""
    content = read_torch_content(path)
    if not isinstance(content, dict):
        raise LatentFaceError(f"{path}: neither a latentface checkpoint nor a state dict")
    return content


def read_torch_content(path: str | Path) -> Any:
    """Tensors (on the CPU) and plain values, in whatever arrangement.

    Raises LatentFaceError for a file that is missing, holds anything else, or claims to hold more than it does.
    """
    import torch

    path = Path(path)
    if path.is_dir():
        raise LatentFaceError(f"{path}: a folder; give a file in it")
    if not path.is_file():
        raise LatentFaceError(f"{path}: no such file")
    try:
        _check(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise LatentFaceError(
            f"{path}: refused, it holds more than tensors and plain values (or is damaged)"
        ) from error
    except Exception as error:  # many kinds for truncated and foreign files
        raise LatentFaceError(f"{path}: not a PyTorch file, or a damaged one") from error


@dataclass(frozen=True)
class _Storage:
    """Stands for the numbers of a tensor."""

    key: str
    items: int
    item_bytes: int

    @property
    def bytes(self) -> int:
        return self.items * self.item_bytes


class _Tensor:
    """Stands for a tensor."""


class _Dictionary(dict):
    """Takes plain keys only: nested tuples can take years to hash."""

    def __setitem__(self, key: Any, value: Any) -> None:
        _demand(type(key) in (str, int, float, bool))
        super().__setitem__(key, value)


class _Claims(pickle._Unpickler):  # type: ignore[name-defined]  # the one in Python: its memo is not an array
    """Goes through a pickle of torch.save and makes nothing but plain values and stand-ins."""

    stack: list[Any]
    append: Callable[[Any], None]
    dispatch: ClassVar[dict[int, Callable]] = {
        opcode[0]: pickle._Unpickler.dispatch[opcode[0]]  # type: ignore[attr-defined]
        for opcode in _OPCODES
    }

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        kind = name.removesuffix("Storage")
        if module == "torch" and kind != name and kind in ITEM_BYTES:
            return ITEM_BYTES[kind]
        known = {
            "torch._utils._rebuild_tensor": _tensor,
            "torch._utils._rebuild_tensor_v2": _tensor,
            "torch._utils._rebuild_parameter": _parameter,
            "torch.nn.parameter.Parameter": _parameter,
            "collections.OrderedDict": _ordered,
        }
        _demand(f"{module}.{name}" in known)
        return known[f"{module}.{name}"]

    def persistent_load(self, claimed: Any) -> _Storage:
        """`("storage", kind, key, place, items)`, in old files with a view behind it."""
        _demand(type(claimed) is tuple and len(claimed) in (5, 6) and claimed[0] == "storage")
        _, item_bytes, key, place, items, *view = claimed
        _demand(type(item_bytes) is int and type(key) is str and type(place) is str and view in ([], [None]))
        _demand(_natural(items))
        storage = self.storages.setdefault(key, _Storage(key, items, item_bytes))
        _demand(storage == _Storage(key, items, item_bytes))
        return storage

    def load_build(self) -> None:
        """A state dict's `_metadata` is left out; nothing else has a state."""
        state = self.stack.pop()
        _demand(type(self.stack[-1]) is _Dictionary and type(state) is _Dictionary and state.keys() <= {"_metadata"})

    def load_empty_dictionary(self) -> None:
        self.append(_Dictionary())

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.EMPTY_DICT[0]] = load_empty_dictionary


def _demand(good: bool) -> None:
    if not good:
        raise pickle.UnpicklingError("not what torch.save writes of tensors and plain values")


def _natural(value: Any) -> bool:
    return type(value) is int and value >= 0


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Tensor:
    """Every number of it has to be there, once."""
    _demand(type(storage) is _Storage and type(size) is tuple and type(stride) is tuple and len(size) == len(stride))
    _demand(all(map(_natural, (offset, *size, *stride))))
    count = math.prod(size)
    end = offset + 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    _demand(count == 0 or (count <= storage.items and end <= storage.items))
    return _Tensor()


def _parameter(tensor: Any, *_: Any) -> _Tensor:
    _demand(type(tensor) is _Tensor)
    return tensor


def _ordered(pairs: Any = ()) -> _Dictionary:
    found = _Dictionary()
    for key, value in pairs:
        found[key] = value
    return found


def _check(path: Path) -> None:
    """Raises UnpicklingError, or whatever comes of a damaged file, for what must not be loaded."""
    with path.open("rb") as file:
        magic = file.read(4)
        content = _check_archive(path) if magic == b"PK\x03\x04" else _check_legacy(file)
    waiting, seen = [content], 0
    while waiting:
        value = waiting.pop()
        seen += 1
        _demand(seen + len(waiting) <= MOST_VALUES)
        waiting += value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()


def _check_archive(path: Path) -> Any:
    """A zip file with the pickle `NAME/data.pkl` and the numbers of each storage in `NAME/data/KEY`, not compressed."""
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
        _demand(len(members) == len(archive.infolist()))
        for member in members.values():
            there = path.stat().st_size - member.header_offset
            _demand(member.compress_type == zipfile.ZIP_STORED and member.file_size == member.compress_size <= there)
        (pickled,) = (name for name in members if name.endswith("/data.pkl"))
        claims = _Claims(io.BytesIO(archive.read(pickled)))
        content = claims.load()
    folder = pickled.removesuffix(".pkl")
    for storage in claims.storages.values():
        _demand(members[f"{folder}/{storage.key}"].file_size == storage.bytes)
    return content


def _check_legacy(file: BinaryIO) -> Any:
    """Pickles of a magic number, the version, the machine, the content and the storages' keys; then their numbers."""
    file.seek(0)
    rest = io.BytesIO(file.read())
    _demand(_Claims(rest).load() == LEGACY_MAGIC)
    for _ in ("version", "machine"):
        _Claims(rest).load()
    claims = _Claims(rest)
    content = claims.load()
    keys = _Claims(rest).load()
    _demand(type(keys) is list and sorted(keys) == sorted(claims.storages))
    _demand(sum(8 + storage.bytes for storage in claims.storages.values()) <= len(rest.getbuffer()) - rest.tell())
    return content
