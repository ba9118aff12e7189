"""What this process may use of the machine."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import latentface

if TYPE_CHECKING:
    import torch

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt, as in malloc.h


def cores() -> int:
    """Processor cores that this process may run on; fewer than the machine has in a container or under taskset."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def multiplies_bfloat16() -> bool:
    """Whether the processor has instructions that multiply bfloat16 (AVX-512 BF16, AMX), which make training about
    twice as fast; known on Linux only."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Convolutions of float32 in float32 on a GPU, where torch rounds what they take to 11 bits (TF32).

    That is a setting of the whole process while this lasts; for another device nothing is touched.
    """
    if device.type != "cuda":
        yield
        return
    from torch.backends import cudnn

    before, cudnn.allow_tf32 = cudnn.allow_tf32, False
    try:
        yield
    finally:
        cudnn.allow_tf32 = before


def keep_memory() -> None:
    """Keeps large blocks that are freed, instead of giving them back to the system at once.

    A network on a CPU frees and asks for the same tens of megabytes at every layer; that the system takes them and
    clears new ones costs up to a third of its time. Does nothing where the C library is not glibc.
    """
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def versions(*more: str) -> dict[str, str]:
    """Of this package, torch, torchvision and `more`, as far as they are installed; nothing is imported for it."""
    found = {"latentface": latentface.__version__}
    for name in ("torch", "torchvision", *more):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


@contextmanager
def no_interrupt() -> Iterator[None]:
    """Ctrl-C waits until the block is left; a process started in it never gets one, not even while it imports."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
