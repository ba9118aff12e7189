"""What torch.save writes, byte by byte: importing torch takes a second, and each command is a process of its own."""

import pickle
import struct
import zipfile
from array import array


class Trap:
    """A pickle that would make a file."""

    def __reduce__(self):
        from pathlib import Path

        return Path.touch, (Path("executed"),)


def save(path, values, shape):
    """float32 tensor of `shape` out of a flat list."""
    strides = [1]
    for side in reversed(shape[1:]):
        strides.insert(0, strides[0] * side)
    storage = _text(b"storage") + b"ctorch\nFloatStorage\n" + _text(b"0") + _text(b"cpu") + _number(len(values))
    rebuilt = b"ctorch._utils\n_rebuild_tensor_v2\n((" + storage + b"tQ" + _number(0) + _tuple(shape) + _tuple(strides)
    _write(path, b"\x80\x02" + rebuilt + b"\x89ccollections\nOrderedDict\n)RtR.", array("f", values).tobytes())


def save_object(path, value):
    """Anything else."""
    _write(path, pickle.dumps(value, protocol=2), b"")


def _write(path, content, storage):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/data/0", storage)
        archive.writestr("archive/version", "3\n")


def _text(text):
    return b"X" + struct.pack("<I", len(text)) + text


def _number(value):
    return b"J" + struct.pack("<i", value)


def _tuple(values):
    return b"(" + b"".join(map(_number, values)) + b"t"
