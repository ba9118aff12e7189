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
    if array.dtype.kind not in "fiu":
        raise LatentFaceError(f"{path}: dtype {array.dtype}; expected floating point or integer numbers")
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 3 or 0 in array.shape:
        raise LatentFaceError(f"{path}: shape {list(array.shape)}; expected [C, h, w] or [1, C, h, w]")
    array = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(array).all():
        raise LatentFaceError(f"{path}: NaN or infinite values; write this latent again")
    return array


def _read_npy(path: Path) -> dict[str, Any]:
    try:
        return {"": np.load(path, mmap_mode="r", allow_pickle=False)}  # a header that claims more than is there fails
    except (OSError, ValueError, EOFError) as error:
        raise LatentFaceError(f"{path}: not a NumPy array of numbers, or a damaged one") from error


def _read_npz(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise LatentFaceError(f"{path}: not NumPy arrays of numbers, or damaged ones") from error


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
