"""Locks that the system takes back however a process ends: one writer in a folder, turns at a file."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from latentface.errors import LatentFaceError
from latentface.files import unwritable

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK_NAME = ".lock"  # there while somebody writes, or after one was killed: then it locks nothing

_held: set[int] = set()  # file descriptors


@contextmanager
def sole_writer(folder: Path, flag: str) -> Iterator[None]:
    """Keeps other processes that ask for the same folder out of it; `flag` is what the user can name another with.

    Raises LatentFaceError, naming the process, where there is one already, and where the folder cannot be written.
    Where the file system or the operating system has no such locks, a line says that nothing is kept out.
    """
    path = folder / LOCK_NAME
    try:
        descriptor = _take(path, flag)
    except OSError as error:
        raise unwritable(folder, error) from error
    _held.add(descriptor)
    try:
        yield
    finally:
        if descriptor in _held:  # else this is a process that was forked off
            _held.remove(descriptor)
            with suppress(OSError):
                path.unlink()
            os.close(descriptor)


@contextmanager
def turn_at(path: Path) -> Iterator[None]:
    """Waits until no other process or thread is in such a block for the same file, which is made and stays.

    Where the operating system has no such locks nobody waits.
    """
    with path.open("a") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            if fcntl is not None:  # closing is not enough where a process was forked off meanwhile
                fcntl.flock(file, fcntl.LOCK_UN)


def _take(path: Path, flag: str) -> int:
    """The descriptor of a locked file at `path`."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            _lock(descriptor)
        except BlockingIOError as error:
            owner = os.read(descriptor, 200).decode(errors="replace") or "another process"
            os.close(descriptor)
            raise LatentFaceError(
                f"{path.parent}: {owner} is writing there; wait for it, end it, or give another {flag}"
            ) from error
        except OSError as error:
            print(f"note: {path.parent}: no locks there ({error.strerror}): start nothing else in it", file=sys.stderr)
        if _same_file(path, descriptor):
            break
        os.close(descriptor)  # its owner was just done and has removed it
    with suppress(OSError):  # of a full disk: the name is for the message only
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
    return descriptor


def _lock(descriptor: int) -> None:
    if fcntl is None:
        raise OSError(None, "not on this operating system")
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _same_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _leave_to_parent() -> None:
    """A forked process would hold the lock on, and outlive the one that it belongs to."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)
