"""What the user names to look at: files, folders, packed splits, here or behind URLs; and what they are read from."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from latentface.data.cache import Blob, Cache, fetched_ahead
from latentface.data.mirror import local, local_file, mirror_of
from latentface.data.packed import PackedStore
from latentface.data.remote import is_url
from latentface.data.remote_stores import RemotePack, RemoteTree
from latentface.data.stores import PACK_NAME, latent_folder, open_store, rate_of
from latentface.errors import LatentFaceError
from latentface.files import PICTURE_SUFFIXES


def is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURE_SUFFIXES


def place_of(name: str, cache: Cache) -> Path:
    """A file or folder; of a URL whose name ends as a file's that file, else the split that it names."""
    if not is_url(name):
        return Path(name)
    single = rate_of(name) is not None or Path(name).suffix == ".npy" or is_picture(Path(name))
    if single:
        return local_file(name, cache)
    split = local(name, cache)
    if latent_folder(split).is_dir():
        return latent_folder(split)
    raise LatentFaceError(f"{name}: neither {PACK_NAME} nor latent/ there; give a split, such as {name}/val")


def store_of(folder: Path) -> PackedStore | RemoteTree | None:
    """Of a packed split, or of what is behind a URL; None for a folder whose files are read for themselves.

    What is in a packed split is named as if it were a tree: `<split>/<picture>/latent_75.npy`.
    """
    return _opened(folder) if (folder / PACK_NAME).is_file() or mirror_of(folder) else None


@lru_cache(maxsize=4)
def _opened(folder: Path) -> PackedStore | RemoteTree:
    return open_store(folder)  # type: ignore[return-value]  # no plain tree, see above


def paths_ahead(batches: list[list[Path]], cache: Cache) -> Iterable[list[Path]]:
    """The batches, while threads fetch what is behind URLs."""
    if not any(mirror_of(path.parent.parent) for batch in batches for path in batch[:1]):
        return batches
    return fetched_ahead(batches, lambda batch: [blob for path in batch for blob in _blob(path)], cache)


def _blob(path: Path) -> list[Blob]:
    """What a latent is read from, none where that is here already."""
    store, rate = store_of(path.parent.parent), rate_of(path)
    if rate is None or not isinstance(store, RemotePack | RemoteTree):
        return []
    return [store.blob(path.parent.name, rate)]


def release(paths: Iterable[Path]) -> None:
    """Closes the files of packed splits: mapped pages that were read count as memory of this process."""
    for split in {path.parent.parent for path in paths}:
        if isinstance(store := store_of(split), PackedStore):
            store.release()


def files_below(folder: Path) -> Iterator[Path]:
    """In a fixed order."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(place, name) for name in sorted(names))


def read_list(name: str) -> Iterator[Path]:
    """`@list.txt`: a path a line."""
    try:
        with open(name[1:], encoding="utf-8", errors="surrogateescape") as lines:  # noqa: PTH123
            yield from (Path(path) for line in lines if (path := line.rstrip("\r\n")))
    except OSError as error:
        raise LatentFaceError(f"{name}: the list cannot be read ({error.strerror})") from error
