"""Latents behind URLs: a packed split or a tree whose files come into the cache when something of them is read."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from latentface.data.cache import Blob, Cache
from latentface.data.mirror import Mirror
from latentface.data.packed import REMEDY, PackedStore, open_shard, tensor_name
from latentface.data.remote import read_start
from latentface.data.stores import LARGEST_LATENT, StoredLatent, read_latent
from latentface.errors import LatentFaceError
from latentface.files import parse_json, replacing

FIRST_BYTES = 1 << 17  # of a shard, which its header mostly fits in
LONGEST_HEADER = 100_000_000  # bytes, as in safetensors itself
HEADERS_AT_ONCE = 8

Opened = TypeVar("Opened")
Header = dict[str, list[int]]  # name of a latent -> [h, w, C]


class RemotePack(PackedStore):
    """A packed split: names and shapes are read from the beginnings of its shards, shards whole when first needed."""

    def __init__(self, mirror: Mirror) -> None:
        self.mirror, self.cache = mirror, mirror.cache
        super().__init__(mirror.folder)

    def blob(self, name: str, rate: int) -> Blob:
        """The shard of a latent."""
        return self._blobs[self._shard_of[tensor_name(name, rate)]]

    def place(self, name: str, rate: int) -> str:
        """See `LatentStore.place`."""
        return super().place(name, rate).replace(str(self.split), self.mirror.url, 1)

    def _contents(self) -> Iterable[Iterable[str]]:
        self._blobs = [self._blob(number) for number in range(len(self.info.shards))]
        with ThreadPoolExecutor(HEADERS_AT_ONCE) as pool:
            self._headers = list(pool.map(self._header, self._blobs))
        return self._headers

    def _blob(self, number: int) -> Blob:
        shard = self.info.shards[number]
        if not re.fullmatch("[0-9a-f]{64}", str(shard.sha256)) or type(shard.bytes) is not int or shard.bytes < 8:
            raise LatentFaceError(f"{self.mirror.url}: pack.json has no size and checksum of {shard.file}; {REMEDY}")
        return Blob(f"{self.mirror.url}/{shard.file}", shard.bytes, shard.sha256, shard.sha256)

    def _header(self, blob: Blob) -> Header:
        """Read once, then kept beside the labels; it belongs to the shard's checksum."""
        path = self.split / "headers" / blob.key
        if path.is_file():
            return _parse_header(blob, path.read_bytes())
        content = _read_header(blob)
        header = _parse_header(blob, content)  # before it is kept
        path.parent.mkdir(exist_ok=True)
        with replacing(path, tag=f".{os.getpid()}") as temporary:  # several processes may be at it
            temporary.write_bytes(content)
        return header

    def _stored_shape(self, name: str, rate: int) -> list[int]:
        try:
            key = tensor_name(name, rate)
            return self._headers[self._shard_of[key]][key]
        except KeyError as error:
            raise LatentFaceError(f"{self.mirror.url}: no {key} in it; {REMEDY}") from error

    def _refuse_changed(self, name: str, rate: int, number: int | None) -> None:
        """Files of the cache are removed at most, which takes nothing from who has them open."""

    def _open(self, number: int) -> Any:
        if number not in self._handles:
            self._let_go()
            handle = _opened(self.cache, self._blobs[number], open_shard)
            if set(handle.keys()) != self._headers[number].keys():
                raise LatentFaceError(f"{self._blobs[number].url}: has changed since it was listed; start again")
            self._handles[number] = handle
        return self._handles[number]

    def _let_go(self) -> None:
        """Closes what the cache no longer has, so that the disk gets its room back."""
        gone = [number for number in self._handles if not self.cache.has(self._blobs[number])]
        for number in gone:
            del self._handles[number]
        if gone:
            self._views.clear()


class RemoteTree:
    """The documented tree; each file is fetched for itself."""

    checked = False
    stride: int | None = None

    def __init__(self, mirror: Mirror) -> None:
        self.mirror, self.cache = mirror, mirror.cache
        self.latent_dir, self.split = mirror.folder / "latent", mirror.folder
        self.rates = tuple(sorted({rate for _, rate in mirror.latents}))

    def names(self) -> list[str]:
        """See `LatentStore.names`."""
        return sorted({name for name, _ in self.mirror.latents})

    def names_at(self, rate: int) -> list[str]:
        """Pictures that have a rate, sorted."""
        return sorted(name for name, there in self.mirror.latents if there == rate)

    def has(self, name: str, rate: int) -> bool:
        """See `LatentStore.has`."""
        return (name, rate) in self.mirror.latents

    def shape(self, name: str, rate: int) -> tuple[int, int, int]:
        """See `LatentStore.shape`; fetches the file."""
        return self.read(name, rate).array.shape  # type: ignore[return-value]

    def read(self, name: str, rate: int) -> StoredLatent:
        """See `LatentStore.read`."""
        return StoredLatent(_opened(self.cache, self.blob(name, rate), read_latent))

    def place(self, name: str, rate: int) -> str:
        """See `LatentStore.place`."""
        return f"{self.mirror.url}/latent/{name}/latent_{rate}.npy"

    def blob(self, name: str, rate: int) -> Blob:
        """The file of a latent."""
        try:
            return self.mirror.latents[name, rate]
        except KeyError as error:
            raise LatentFaceError(f"{self.place(name, rate)}: no such file") from error


def _opened(cache: Cache, blob: Blob, open_file: Callable[[Path], Opened]) -> Opened:
    """Fetched and opened; once more where another process's need for room came in between."""
    while True:
        path = cache.get(blob)
        try:
            return open_file(path)
        except (LatentFaceError, OSError, RuntimeError) as error:
            if path.exists():
                raise LatentFaceError(str(error).replace(str(path), blob.url)) from error


def _parse_header(blob: Blob, content: bytes) -> Header:
    try:
        entries = parse_json(content)
        header = {name: list(entry["shape"]) for name, entry in entries.items() if name != "__metadata__"}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise LatentFaceError(f"{blob.url}: does not begin as a shard; {REMEDY}") from error
    for name, shape in header.items():
        whole = len(shape) == 3 and all(type(side) is int and 0 < side <= LARGEST_LATENT for side in shape)
        if not whole or math.prod(shape) > LARGEST_LATENT:
            raise LatentFaceError(f"{blob.url}: {name[:80]!r} is no latent [h, w, C] by its shape; {REMEDY}")
    return header


def _read_header(blob: Blob) -> bytes:
    with suppress(FileNotFoundError):
        start = read_start(blob.url, FIRST_BYTES)
        length = int.from_bytes(start[:8], "little")
        if not 0 < length <= min(LONGEST_HEADER, blob.bytes - 8):
            raise LatentFaceError(f"{blob.url}: does not begin as a shard; {REMEDY}")
        if len(start) < 8 + length:
            start = read_start(blob.url, 8 + length)
        if len(start) < 8 + length:
            raise LatentFaceError(f"{blob.url}: gave fewer bytes than it should; try again, or {REMEDY}")
        return start[8 : 8 + length]
    raise LatentFaceError(f"{blob.url}: not there, but pack.json names it; {REMEDY}")
