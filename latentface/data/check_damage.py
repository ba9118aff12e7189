"""Why a file cannot be read as an array: out of its first bytes, of which nothing is executed."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

PICKLE = b"\x80"


def damage(path: Path) -> str | None:
    """What is wrong with a file that NumPy cannot read as an array, or None where nothing is."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if not head:
        return "empty: 0 bytes"
    if not head.startswith(b"\x93NUMPY"):
        return _other_format(head)
    try:
        stream = io.BytesIO(head)
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
    except (ValueError, EOFError, OSError):
        return "its header is damaged"
    if dtype.hasobject:
        return "a pickled array (dtype object): it could run code when opened, so it is not"
    expected = stream.tell() + int(np.prod(shape, dtype=object)) * dtype.itemsize
    if size < expected:
        return f"cut short: {size} of {expected} bytes"
    return None


def _other_format(head: bytes) -> str:
    if head.startswith(PICKLE):
        return "a pickle and no NumPy array: it could run code when opened, so it is not"
    if head.startswith(b"PK"):
        return "a zip archive (.npz, or a tensor saved by torch.save): save one array by np.save"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer: the file itself was not fetched"
    return "no NumPy file: only zeros" if not head.strip(b"\0") else "no NumPy file"
