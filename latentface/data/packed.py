"""The packed form of a split: a few large files in place of many small ones.

    DIR/train/pack.json                  what it is; written last, so it says that the rest is complete
    DIR/train/shard_00000.safetensors    latents `<picture>/latent_<rate>`, each [h, w, C]: channels last
    DIR/train/labels.txt, latents.jsonl  as in the tree

Shards are memory-mapped: opening costs their headers, reading a latent or a part of it costs the pages touched.
int8 values are `stored * scale + offset` with tables [C] per *group*: the model index, or the rate where that is
unknown. safetensors files hold numbers and nothing that could run.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from latentface.data.manifest import LARGEST, MANIFEST_NAME, read_manifest
from latentface.data.stores import PACK_NAME, StoredLatent
from latentface.errors import LatentFaceError
from latentface.files import name_problem, parse_json, refuse_link_outside

FORMAT = "latentface-pack/1"
DTYPES = ("float16", "int8", "float32")
REMEDY = "pack it again"
VIEWS_KEPT = 50_000  # of latents in the files, not of their values: 30 MB that save a third of the time of a small crop


@dataclass(frozen=True)
class Shard:
    """One file of latents."""

    file: str
    latents: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class PackInfo:
    """`pack.json`. Tables are lists of C numbers by group, such as `model 2` or `rate 75`."""

    dtype: str
    rates: tuple[int, ...]
    stride: int | None
    shards: tuple[Shard, ...]
    mean: dict[str, list[float]]  # of every channel, from a sample
    deviation: dict[str, list[float]]
    scale: dict[str, list[float]] = field(default_factory=dict)  # of int8
    offset: dict[str, list[float]] = field(default_factory=dict)
    error: dict[str, float] = field(default_factory=dict)  # worst and mean, in deviations; clipped: number of values

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps({"format": FORMAT, **asdict(self)}, allow_nan=False)


def read_info(split: Path) -> PackInfo:
    """Reads `split/pack.json`; raises LatentFaceError for anything that it could not have written itself."""
    path = split / PACK_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LatentFaceError(f"{path}: not the description of a packed set ({error}); {REMEDY}") from error
    return parse_info(text, str(path))


def parse_info(text: str, place: str) -> PackInfo:
    """The content of a `pack.json`; `place` is for the message."""
    try:
        values = parse_json(text)
        if values.pop("format") != FORMAT:
            raise ValueError("another format")
        shards = tuple(Shard(**shard) for shard in values.pop("shards"))
        info = PackInfo(**(values | {"rates": tuple(values["rates"])}), shards=shards)
        _check(info)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise LatentFaceError(f"{place}: not the description of a packed set ({error}); {REMEDY}") from error
    return info


def _check(info: PackInfo) -> None:
    """ValueError for what packing would not have written."""
    if info.dtype not in DTYPES:
        raise ValueError("no known dtype")
    numbers = [*info.rates, *([] if info.stride is None else [info.stride])]
    if not all(type(number) is int and 0 <= number <= LARGEST for number in numbers) or info.stride == 0:
        raise ValueError("a rate or stride is no whole number")
    for shard in info.shards:
        if re.split(r"[/\\]", shard.file) != [shard.file] or name_problem(shard.file):
            raise ValueError(f"{shard.file!r} leaves the folder")
    if info.scale.keys() != info.offset.keys() or bool(info.scale) != (info.dtype == "int8"):
        raise ValueError("tables of scales are missing, or not wanted")
    for group in info.scale:  # codec models may differ in their number of channels
        scale, offset = (np.asarray(table[group], np.float32) for table in (info.scale, info.offset))
        if scale.ndim != 1 or scale.shape != offset.shape or not np.isfinite([scale, offset]).all():
            raise ValueError("a table of scales is wrong")


def tensor_name(picture: str, rate: int) -> str:
    """Of a latent in its shard."""
    return f"{picture}/latent_{rate}"


def group_of(model_index: int | None, rate: int) -> str:
    """Whose scale a latent has."""
    return f"rate {rate}" if model_index is None or model_index < 0 else f"model {model_index}"


def open_shard(path: Path) -> Any:
    """A safetensors file, memory-mapped; LatentFaceError for one that is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        refuse_link_outside(path, path.parent)
        if not path.is_file():
            raise FileNotFoundError(path)
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise LatentFaceError(f"{path}: missing or damaged; {REMEDY}") from error


def _size(path: str) -> int:
    """Bytes; -1 of a file that is not there. Asked for every sample: about a microsecond."""
    try:
        return os.stat(path).st_size  # noqa: PTH116
    except OSError:
        return -1


class PackedStore:
    """A packed split as a `LatentStore`. Files are opened by each process for itself, when first needed."""

    checked = True  # packing refuses what is not finite

    def __init__(self, split: Path) -> None:
        self.latent_dir = self.split = split
        self.info = read_info(split)
        self.rates, self.stride = tuple(self.info.rates), self.info.stride
        self.rows = read_manifest(split / MANIFEST_NAME) if (split / MANIFEST_NAME).is_file() else {}
        self._tables = {
            group: (np.asarray(self.info.scale[group], np.float32), np.asarray(self.info.offset[group], np.float32))
            for group in self.info.scale
        }
        self._paths = [str(split / shard.file) for shard in self.info.shards]
        self._handles: dict[int, Any] = {}
        self._views: dict[str, StoredLatent] = {}
        self._shard_of: dict[str, int] = {}
        for number, names in enumerate(self._contents()):
            self._shard_of.update(dict.fromkeys(map(self._known, names), number))
        self._handles.clear()  # before other processes are forked off

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_handles": {}, "_views": {}}

    def names(self) -> list[str]:
        """See `LatentStore.names`."""
        return sorted({key.rpartition("/")[0] for key in self._shard_of})

    def names_at(self, rate: int) -> list[str]:
        """Pictures that have a rate, shard by shard: the order that reads each file once."""
        latent = f"/latent_{rate}"
        there = sorted((shard, key) for key, shard in self._shard_of.items() if key.endswith(latent))
        return [key.removesuffix(latent) for _, key in there]

    def has(self, name: str, rate: int) -> bool:
        """See `LatentStore.has`."""
        return tensor_name(name, rate) in self._shard_of

    def shape(self, name: str, rate: int) -> tuple[int, int, int]:
        """See `LatentStore.shape`."""
        shape = self._stored_shape(name, rate)
        if len(shape) != 3 or 0 in shape:
            raise LatentFaceError(f"{self.place(name, rate)}: shape {shape}, expected [h, w, C]; {REMEDY}")
        return shape[2], shape[0], shape[1]

    def read(self, name: str, rate: int) -> StoredLatent:
        """See `LatentStore.read`: a view of the file, nothing is copied."""
        key = tensor_name(name, rate)
        self._refuse_changed(name, rate, self._shard_of.get(key))
        found = self._views.get(key)
        if found is None:
            found = self._view(name, rate)
            if len(self._views) < VIEWS_KEPT:
                self._views[key] = found
        return found

    def _view(self, name: str, rate: int) -> StoredLatent:
        tensor = self._shard(name, rate).get_tensor(tensor_name(name, rate))
        if tensor.dim() != 3 or 0 in tensor.shape or str(tensor.dtype) != f"torch.{self.info.dtype}":
            found = f"{tensor.dtype} {list(tensor.shape)}, expected {self.info.dtype} [h, w, C]"
            raise LatentFaceError(f"{self.place(name, rate)}: {found}; {REMEDY}")
        array = tensor.numpy().transpose(2, 0, 1)
        if not self._tables:
            return StoredLatent(array)
        row = self.rows.get(name)
        entry = row.latents.get(rate) if row else None
        group = group_of(entry.model_index if entry else None, rate)
        if group not in self._tables or len(self._tables[group][0]) != len(array):
            raise LatentFaceError(f"{self.place(name, rate)}: no scales for {len(array)} channels of {group}; {REMEDY}")
        return StoredLatent(array, *self._tables[group])

    def shard_of(self, name: str, rate: int) -> int:
        """Number of the shard that a latent is in."""
        return self._shard_of[tensor_name(name, rate)]

    def release(self) -> None:
        """Closes the files, which are opened again when needed: mapped pages that were touched count as memory."""
        self._handles.clear()
        self._views.clear()

    def place(self, name: str, rate: int) -> str:
        """See `LatentStore.place`."""
        number = self._shard_of.get(tensor_name(name, rate))
        file = "no shard" if number is None else self.info.shards[number].file
        return f"{self.split}/{file}: {tensor_name(name, rate)}"

    def _contents(self) -> Iterable[Iterable[str]]:
        """The names in each shard."""
        return (self._open(number).keys() for number in range(len(self.info.shards)))

    def _stored_shape(self, name: str, rate: int) -> list[int]:
        """[h, w, C]."""
        return self._shard(name, rate).get_slice(tensor_name(name, rate)).get_shape()

    def _known(self, key: str) -> str:
        """A name out of a shard that is one of a latent: `<picture>/latent_<rate>`."""
        picture, _, latent = key.rpartition("/")
        if name_problem(picture) or re.search(r"[/\\]", picture) or not re.fullmatch(r"latent_[0-9]{1,8}", latent):
            raise LatentFaceError(f"{self.split}: {key!r} in a shard is no name of a latent; {REMEDY}")
        return key

    def _refuse_changed(self, name: str, rate: int, number: int | None) -> None:
        """Touching a mapped page that its file no longer has would end the process without a word."""
        if number is not None and _size(self._paths[number]) != self.info.shards[number].bytes:
            raise LatentFaceError(
                f"{self.place(name, rate)}: the file has changed or vanished since it was opened; {REMEDY}"
            )

    def _shard(self, name: str, rate: int) -> Any:
        try:
            return self._open(self._shard_of[tensor_name(name, rate)])
        except KeyError as error:
            raise LatentFaceError(f"{self.split}: no {tensor_name(name, rate)} in it; {REMEDY}") from error

    def _open(self, number: int) -> Any:
        if number not in self._handles:
            self._handles[number] = open_shard(self.split / self.info.shards[number].file)
        return self._handles[number]
