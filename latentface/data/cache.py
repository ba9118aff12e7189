"""A bounded folder of files that were fetched from URLs. Several processes may share it.

    FOLDER/blobs/<key>                         a whole file; by its checksum where one is known
    FOLDER/blobs/<key>.<bytes>.<owner>.part    one that is on its way
    FOLDER/locks/, FOLDER/used                 who is at what, and how many bytes the blobs have

What was used longest ago goes first. A file that goes while a process has it mapped stays readable for that process.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from latentface.data.remote import download
from latentface.errors import LatentFaceError
from latentface.files import make_folder, sha256
from latentface.lock import turn_at

CACHE_GB = 10.0
SPARE = 0.1  # of the limit is cleared when room is made, so that this is not done for every small file
ABANDONED = 300  # seconds after which a transfer that has not grown is nobody's
THREADS = 4  # transfers at once
STRIPES = 64  # locks for any number of files
MOST_KNOWN = 10_000  # files that a reader of batches remembers to have fetched

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Blob:
    """A file behind a URL. `key` says its content: another content has another key."""

    url: str
    bytes: int
    key: str
    sha256: str = ""  # where it is known


@dataclass(frozen=True)
class Cache:
    """`limit`: bytes of all blobs together."""

    folder: Path
    limit: int

    @classmethod
    def of(cls, folder: str = "", gigabytes: float = CACHE_GB) -> Cache:
        """As `--cache_dir` and `--cache_gb` say; raises LatentFaceError where that cannot be."""
        if not 0 < gigabytes < 1e9:
            raise LatentFaceError(f"--cache_gb {gigabytes}: has to be above 0")
        return cls(Path(folder) if folder else _users_own(), int(gigabytes * 1e9))

    def get(self, blob: Blob) -> Path:
        """Where the file is, after fetching it if need be. Raises LatentFaceError for what cannot be had whole."""
        path = self._blobs / blob.key
        if _is_whole(path, blob):
            return path
        if blob.bytes > self.limit:
            raise LatentFaceError(
                f"{blob.url}: {blob.bytes / 1e9:.3g} GB do not fit a cache of {self.limit / 1e9:.3g} GB; give more "
                "--cache_gb"
            )
        with self.lock(blob.key):  # whoever waited here finds it fetched
            if not _is_whole(path, blob):
                self._fetch(blob, path)
        return path

    def has(self, blob: Blob) -> bool:
        """Whether the file is here."""
        return (self._blobs / blob.key).is_file()

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """One thread of one process at a time for a key. Some keys share a lock: who holds one must not ask again.

        Where there are no locks (Windows) two processes may fetch a file twice, which costs time only.
        """
        stripe = sum(key.encode()) % STRIPES
        with turn_at(make_folder(self.folder / "locks", "--cache_dir") / str(stripe)):
            yield

    @property
    def _blobs(self) -> Path:
        return self.folder / "blobs"

    def _fetch(self, blob: Blob, path: Path) -> None:
        part = path.with_name(f"{blob.key}.{blob.bytes}.{os.getpid()}-{threading.get_ident()}.part")
        self._reserve(blob, part)
        try:
            try:
                download(blob.url, part, blob.bytes)
            except FileNotFoundError as error:
                raise LatentFaceError(f"{blob.url}: not there (any more); pack or upload it again") from error
            _verify(blob, part)
            with turn_at(self.folder / "locks" / "all"):  # who lists the blobs to make room would miss one in between
                part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def _reserve(self, blob: Blob, part: Path) -> None:
        """Makes room for a blob; `part` then stands for its bytes. Waits while others' transfers take all of it."""
        make_folder(self._blobs, "--cache_dir")
        used = self.folder / "used"
        while True:
            with turn_at(self.folder / "locks" / "all"):
                total = _number(used)
                if total is None or total + blob.bytes > self.limit:
                    total = self._clear(self.limit - blob.bytes)
                if total + blob.bytes <= self.limit:
                    part.touch()
                    used.write_text(str(total + blob.bytes))
                    return
            time.sleep(0.1)

    def _clear(self, most: int) -> int:
        """Removes what was used longest ago until there are `most` bytes, and some to spare; what there is then."""
        files = []
        for entry in os.scandir(self._blobs):
            with suppress(FileNotFoundError):  # a transfer that has just ended
                files.append((entry.stat().st_mtime, _bytes_of(entry), entry.path))
        total = sum(size for _, size, _ in files)
        wanted = total if total <= most else most * (1 - SPARE)
        for time_used, size, path in sorted(files):
            if total <= wanted:
                break
            if not path.endswith(".part") or time.time() - time_used > ABANDONED:
                with suppress(OSError):  # Windows keeps a file that is open
                    Path(path).unlink()
                    total -= size
        return total


def fetched_ahead(
    batches: Iterable[Batch], blobs_of: Callable[[Batch], Iterable[Blob]], cache: Cache, late: int = 0
) -> Iterator[Batch]:
    """The batches, while threads fetch what later ones will read: as much as a third of the cache holds.

    That third includes what the last `late` batches were the first to want, which readers may not have come to yet. A
    failure is not told here: whoever reads the blob meets it.
    """
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="fetch")
    known: OrderedDict[str, None] = OrderedDict()
    waiting: deque[tuple[Batch, int]] = deque()  # with the bytes that each is the first to want
    given: deque[int] = deque()  # bytes of the last batches that were handed out
    room = cache.limit // 3
    try:
        for batch in batches:
            new = [blob for blob in dict.fromkeys(blobs_of(batch)) if blob.key not in known]
            size = sum(blob.bytes for blob in new)
            while waiting and size > room:
                first, first_size = waiting.popleft()
                yield first
                given.append(first_size)
                if len(given) > late:
                    room += given.popleft()
            if size <= room:  # else it would push out what is being read
                for blob in new:
                    pool.submit(cache.get, blob)
            room -= size
            known.update(dict.fromkeys(blob.key for blob in new))
            while len(known) > MOST_KNOWN:
                known.popitem(last=False)
            waiting.append((batch, size))
        for first, _ in waiting:
            yield first
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _verify(blob: Blob, part: Path) -> None:
    found = part.stat().st_size
    if found != blob.bytes:
        raise LatentFaceError(f"{blob.url}: {found} bytes, expected {blob.bytes}; pack or upload it again")
    if blob.sha256 and sha256(part) != blob.sha256:
        raise LatentFaceError(f"{blob.url}: its checksum is not the one of pack.json; pack or upload it again")


def _is_whole(path: Path, blob: Blob) -> bool:
    """Whether a blob is here, which then counts as used; one that a loss of power has cut short is not."""
    try:
        os.utime(path)
        return path.stat().st_size == blob.bytes
    except FileNotFoundError:
        return False


def _bytes_of(entry: os.DirEntry[str]) -> int:
    """Of a blob, or what one on its way will have."""
    return int(entry.name.split(".")[1]) if entry.name.endswith(".part") else entry.stat().st_size


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _users_own() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(base) if base else Path.home() / ".cache") / "latentface"
