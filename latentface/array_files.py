"""Arrays out of other programs' files: NumPy's, safetensors', torch.save's. Known by content; nothing is executed."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latentface.errors import LatentFaceError
from latentface.torch_file import read_torch_content

SUFFIXES = (".npy", ".npz", ".pt", ".pth", ".safetensors")
LARGEST_HEADER = 100 << 20  # bytes; safetensors' own limit
LONGEST_NPY_HEADER = 512  # bytes
SMALL_ENTRY = 64 << 20  # bytes of an entry of a .npz: the float32 latent of 4096 x 4096 pixels
MOST_PACKED = 100  # times that a larger one may be packed; zeros reach a thousand


def kind_of(path: Path) -> str:
    """`npy`, `npz`, `torch`, `safetensors`; empty for anything else."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise LatentFaceError(f"{path}: cannot be read ({error.strerror})") from error
    if start.startswith(b"\x93NUMPY"):
        return "npy"
    if start.startswith(b"PK"):
        return _kind_of_archive(path)
    if start.startswith(b"\x80\x02"):  # torch.save before 1.6: pickles one after the other
        return "torch"
    if start[8:] == b"{" and 0 < int.from_bytes(start[:8], "little") < LARGEST_HEADER:
        return "safetensors"
    return ""


def _kind_of_archive(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return ""
    if any(name.endswith("data.pkl") for name in names):
        return "torch"
    return "npz" if names and all(name.endswith(".npy") for name in names) else ""


def read_arrays(path: Path, keys: Sequence[str] = ()) -> list[np.ndarray]:
    """The arrays named by `keys`, in their order, or the only one there is: float32 [C, h, w] each.

    Accepts [C, h, w] and [1, C, h, w] of any float or integer dtype. Raises LatentFaceError for everything else, for
    values that are not finite, and for files with more than numbers in them.
    """
    found = _READERS[kind_of(path)](path)
    if not keys and len(found) != 1:
        raise LatentFaceError(f"{path}: {len(found)} arrays ({', '.join(list(found)[:8])}); say which with --keys")
    for key in keys:
        if key not in found:
            raise LatentFaceError(f"{path}: no array {key!r}; there are {', '.join(list(found)[:8]) or 'none'}")
    return [_latent(found[key], path) for key in keys or found]


def _latent(array: Any, path: Path) -> np.ndarray:
    array = np.ascontiguousarray(as_latent(array, path), dtype=np.float32)
    if not np.isfinite(array).all():
        raise LatentFaceError(f"{path}: NaN or infinite values; write this latent again")
    return array


def as_latent(array: Any, path: Path) -> Any:
    """An array [C, h, w] or [1, C, h, w] of any float or integer dtype as [C, h, w]; LatentFaceError for another."""
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 3 or 0 in array.shape:
        raise LatentFaceError(f"{path}: shape {list(array.shape)}; expected [C, h, w] or [1, C, h, w]")
    if array.dtype.kind not in "fiu":
        raise LatentFaceError(f"{path}: dtype {array.dtype}; expected floating point or integer numbers")
    return array


def open_npy(path: Path) -> np.ndarray:
    """The array of a `.npy` file, memory-mapped: takes no pickles and no archives, and no memory."""
    try:
        # A header has 128 bytes; long ones can take minutes to read.
        with np.errstate(over="ignore"):  # of sides whose product is no number of bytes
            return np.lib.format.open_memmap(path, mode="r", max_header_size=LONGEST_NPY_HEADER)
    except Exception as error:  # many kinds, as the header is a piece of Python that is read, not run
        raise LatentFaceError(f"{path}: not a NumPy array of numbers, or a damaged one; write it again") from error


def _read_npy(path: Path) -> dict[str, Any]:
    return {"": open_npy(path)}


def _read_npz(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as content:
            for member in content.infolist():
                _refuse_hollow(member, path)
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise LatentFaceError(f"{path}: not NumPy arrays of numbers, or damaged ones") from error


def _refuse_hollow(member: zipfile.ZipInfo, path: Path) -> None:
    """A large entry that unpacks to far more than it takes is no latent; small ones may be mostly zeros."""
    if member.file_size > max(SMALL_ENTRY, MOST_PACKED * member.compress_size):
        raise LatentFaceError(
            f"{path}: {member.filename[:80]!r} unpacks {member.compress_size} bytes to {member.file_size}: no latent; "
            "write it as .npy"
        )


def _read_torch(path: Path) -> dict[str, Any]:
    import torch

    content = read_torch_content(path)
    tensors = content if isinstance(content, dict) else {"": content}
    return {str(name): _numpy(value) for name, value in tensors.items() if isinstance(value, torch.Tensor)}


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return {name: _numpy(value) for name, value in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise LatentFaceError(f"{path}: a damaged file of safetensors") from error


def _numpy(tensor: Any) -> np.ndarray:
    """Of every dtype that NumPy has; bfloat16, which it has not, as float32."""
    tensor = tensor.detach()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _refuse(path: Path) -> dict[str, Any]:
    raise LatentFaceError(f"{path}: no file of NumPy, safetensors or torch.save")


_READERS = {
    "npy": _read_npy,
    "npz": _read_npz,
    "torch": _read_torch,
    "safetensors": _read_safetensors,
    "": _refuse,
}
