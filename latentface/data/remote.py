"""Files behind URLs (`s3://`, `gs://`, `http://`, `memory://`, ...), by fsspec, which is imported when one is named.

Every access goes through `attempt`: lost connections are tried again, and what remains wrong is one line.
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from latentface.errors import LatentFaceError
from latentface.files import unwritable

PAUSES = (0.5, 1.0, 2.0)  # seconds before another try
QUIET = 60  # seconds without a byte after which a connection counts as lost
BUCKETS = ("s3", "s3a", "gs", "gcs", "az", "abfs")  # have no folders to make; a missing bucket would be made instead
EXTRA = "pip install 'latentface[s3]'"

Result = TypeVar("Result")


def is_url(place: str | Path) -> bool:
    """Whether a user's word names a place behind a URL; a `Path` never does."""
    return isinstance(place, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", place) is not None


def join(place: str, *names: str) -> str:
    """Names below a folder or a URL."""
    if not is_url(place):
        return str(Path(place, *names))
    protocol, _, path = place.partition("://")
    return f"{protocol}://{'/'.join([path.rstrip('/'), *names])}"


def attempt(url: str, work: Callable[[Any, str], Result]) -> Result:
    """`work(file system, path in it)`; FileNotFoundError is for the caller, all else that fails is one line."""
    system, path = _open_system(url)
    for pause in (*PAUSES, None):
        try:
            return work(system, path)
        except (LatentFaceError, FileNotFoundError):
            raise
        except Exception as error:  # clients of stores raise what they like, of no common class
            if isinstance(error, PermissionError) or getattr(error, "status", 0) in (401, 403):
                raise LatentFaceError(
                    f"{url}: no permission ({_reason(error)}); give this machine credentials that may list and read "
                    "there, or to write, write"
                ) from error
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise unwritable(error.filename or "the cache folder", error) from error
            if pause is None:
                raise LatentFaceError(
                    f"{url}: cannot be reached ({_reason(error)}), tried {len(PAUSES) + 1} times; check URL, network "
                    "and credentials"
                ) from error
        time.sleep(pause)
    raise AssertionError("the last try returns or raises")


def download(url: str, path: Path, most: int) -> None:
    """Writes a file; a LatentFaceError for one of more than `most` bytes, FileNotFoundError where there is none."""

    def get(system: Any, inner: str) -> None:
        system.get_file(inner, str(path), callback=_limit(url, most))

    attempt(url, get)


def upload(path: Path, url: str) -> None:
    """Copies a local file to a URL; object stores show it when it is whole."""

    def put(system: Any, inner: str) -> None:
        if url.partition("://")[0] not in BUCKETS:
            system.makedirs(system._parent(inner), exist_ok=True)
        system.put_file(str(path), inner)

    try:
        attempt(url, put)
    except FileNotFoundError as error:
        raise LatentFaceError(f"{url}: cannot be written ({_reason(error)}); is there such a bucket?") from error


def write_text(url: str, text: str) -> None:
    """A small file."""
    attempt(url, lambda system, inner: system.pipe_file(inner, text.encode()))


def read_text(url: str) -> str | None:
    """A small file, None where there is none."""
    try:
        return attempt(url, lambda system, inner: system.cat_file(inner)).decode("utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise LatentFaceError(f"{url}: no UTF-8 text") from error


def remove(url: str) -> None:
    """Of a file that is there."""
    attempt(url, lambda system, inner: system.rm_file(inner))


def size(url: str) -> int | None:
    """Bytes; None of a file that is not there."""
    try:
        return attempt(url, lambda system, inner: int(system.info(inner)["size"]))
    except FileNotFoundError:
        return None


def read_start(url: str, count: int) -> bytes:
    """The first `count` bytes, or all that there are."""

    def read(system: Any, inner: str) -> bytes:
        if "http" not in system.protocol:
            return system.cat_file(inner, start=0, end=count)
        content = b""  # of a stream that is left, as there are servers that give whole files only
        with system.open(inner, block_size=0, headers={"Range": f"bytes=0-{count - 1}"}) as stream:
            while len(content) < count and (more := stream.read(count - len(content))):
                content += more
        return content

    return attempt(url, read)


def files_below(url: str) -> dict[str, dict[str, Any]]:
    """Path below the URL -> what the store says of each file; empty where there is nothing."""

    def find(system: Any, inner: str) -> dict[str, dict[str, Any]]:
        system.invalidate_cache()
        found = system.find(inner, detail=True)
        return {path[len(inner.rstrip("/")) + 1 :]: facts for path, facts in found.items()}

    try:
        return attempt(url, find)
    except FileNotFoundError:
        return {}


def folders_in(url: str) -> list[str]:
    """Names of the folders right below a URL."""

    def ls(system: Any, inner: str) -> list[str]:
        system.invalidate_cache()
        entries = system.ls(inner, detail=True)
        return sorted(e["name"].rstrip("/").rpartition("/")[2] for e in entries if e["type"] == "directory")

    try:
        return attempt(url, ls)
    except FileNotFoundError:
        return []


def _open_system(url: str) -> tuple[Any, str]:
    """fsspec's file system, of which each process makes its own, and the path in it."""
    protocol = url.partition("://")[0].lower()
    try:
        from fsspec.core import url_to_fs

        options = {}
        if protocol in ("http", "https"):
            from aiohttp import ClientTimeout

            quiet = ClientTimeout(total=None, sock_connect=QUIET, sock_read=QUIET)  # its own would end long transfers
            options["client_kwargs"] = {"timeout": quiet}
        return url_to_fs(url, **options)
    except ImportError as error:
        own = protocol in ("s3", "s3a", "http", "https", "memory") or "fsspec" in str(error)
        raise LatentFaceError(f"{url}: needs more packages: {EXTRA if own else _reason(error)}") from error
    except Exception as error:  # of the protocol's own reading of the URL
        raise LatentFaceError(f"{url}: no URL that can be opened ({_reason(error)})") from error


def _limit(url: str, most: int) -> Any:
    from fsspec.callbacks import Callback

    class Limit(Callback):
        """Ends a transfer that gives more than it should."""

        def relative_update(self, inc: int = 1) -> None:
            super().relative_update(inc)
            if self.value > most:
                raise LatentFaceError(f"{url}: gives more than the {most} bytes that are expected or have room")

    return Limit()


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__
