"""Processes of a command that are to be killed in tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

WORKERS = ("multiprocessing-fork", "ray::MapWorker")  # in the command lines of workers


def kill_a_worker(parent: int) -> str:
    """Sends SIGKILL to a worker below a process; says what it was, nothing where there is none."""
    for process in _descendants(parent):
        with suppress(OSError):
            line = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            kind = next((kind for kind in WORKERS if kind in line), None)
            if kind:
                os.kill(process, signal.SIGKILL)
                return kind
    return ""


def _descendants(parent: int) -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            children.setdefault(int(path.read_text().rpartition(")")[2].split()[1]), []).append(int(path.parent.name))
    waiting = [parent]
    while waiting:
        found = children.get(waiting.pop(), [])
        waiting += found
        yield from found
