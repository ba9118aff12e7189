"""Names of pictures, and files that are either complete or not there."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from latentface.errors import LatentFaceError

PICTURE_SUFFIXES = frozenset([".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"])


def split_suffix(name: str) -> tuple[str, str]:
    """`a/b.JPG` -> (`a/b`, `.JPG`), `a/b.v2` -> (`a/b.v2`, ``): only the suffix of a picture is one."""
    suffix = Path(name).suffix
    known = suffix.lower() in PICTURE_SUFFIXES
    return (name[: -len(suffix)], suffix) if known and name.endswith(suffix) else (name, "")


def base_name(name: str) -> str:
    """Last component of a path without its picture suffix: `a/b.JPG` -> `b`, `a/b.v2` -> `b.v2`."""
    return split_suffix(re.split(r"[/\\]", name)[-1])[0]


def name_problem(name: str) -> str | None:
    """Why a picture's name out of a file must not be used to look for files, or None."""
    parts = re.split(r"[/\\]", name)
    if not name or name != name.strip().strip("\ufeff") or not _writable(name):  # a byte order mark would get lost
        return "it is empty or has control characters or spaces around it"
    if not parts[0] or any(re.match(r"[A-Za-z]:", part) for part in parts):
        return "it is an absolute path; make it relative to the folder of pictures"
    if ".." in parts or base_name(name) in ("", ".", ".."):
        return "it leaves the folder or names no file"
    return None


def _writable(name: str) -> bool:
    """Whether no character ends a line, steers a terminal or, as half a surrogate pair, is none at all."""
    plain = name.isascii() and name.isprintable()
    return plain or not any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name)


def refuse_link_outside(path: Path, folder: Path) -> None:
    """Raises LatentFaceError for a link in `folder` that leads out of it: a stranger's may lead anywhere.

    `folder` itself may be a link: whoever named it knows where it leads.
    """
    if path.is_symlink() and not _within(path, folder):
        raise LatentFaceError(f"{path}: a link that leads out of {folder}; put there what it points to (cp -rL)")


def _within(path: Path, folder: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


@contextmanager
def replacing(path: str | Path, *, flush: bool = True, tag: str = "") -> Iterator[Path]:
    """Gives a temporary path in the same folder; what was written there takes the place of `path` in one step.

    If anything goes wrong `path` stays as it was; a process that is killed leaves at most the temporary file, which
    the next attempt writes over. Flushed to the disk first, so that a loss of power leaves no empty file either (some
    milliseconds; `flush=False` for many small results that the same command makes again). `tag` is part of the
    temporary name: where several may write the same file, each needs one of its own.

    Raises LatentFaceError where the file cannot be written.
    """
    temporary = Path(path).with_name(f".{Path(path).name}{tag}.tmp")
    try:
        temporary.unlink(missing_ok=True)  # left by a process that was killed, or a link that somebody put there
        yield temporary
        if flush:
            with temporary.open("r+b") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if (cause := _disk_error(error)) is not None:
            raise unwritable(path, cause) from error
        raise


def unwritable(path: str | Path, error: OSError) -> LatentFaceError:
    """What to tell the user of a file or folder that cannot be written."""
    remedy = "check folder and disk"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = "make room on that disk or write elsewhere"
    elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        remedy = "name a folder that you may write"
    return LatentFaceError(f"{path}: cannot be written ({error.strerror or error}); {remedy}; earlier files are intact")


def _disk_error(error: BaseException) -> OSError | None:
    """The system's error behind one of a writer: torch meets a full disk with an error of its own."""
    if isinstance(error, OSError):
        return error
    if isinstance(error, LatentFaceError) or not isinstance(error, Exception):
        return None
    return error.__context__ if isinstance(error.__context__, OSError) else None


def make_folder(path: str | Path, flag: str, within: str | Path | None = None) -> Path:
    """Makes a folder and those above it; `flag` is what the user can name another one with.

    Raises LatentFaceError where that fails, for a URL, or where links lead out of `within`.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):  # a Path has lost the second slash
        raise LatentFaceError(f"{flag} {path}: a URL, which only `latentface pack` writes to; give a local folder")
    if within is not None and not _within(Path(path), Path(within)):
        raise LatentFaceError(f"{path}: a link in it leads out of {within}; remove the link or give another {flag}")
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LatentFaceError(
            f"{path}: cannot be made ({error.strerror}); give {flag} a folder that you may write"
        ) from error
    return Path(path)


def parse_json(text: str | bytes) -> Any:
    """Raises ValueError for what is no JSON, or nested deeper than anybody would."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def sha256(path: Path) -> str:
    """Of a file, a megabyte at a time."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()
