"""Checkpoints from strangers: nothing runs, nothing is taken that the file does not hold, and each gets one line."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from latentface.cli import main
from latentface.codecs.jpegai import JpegAiCodec
from latentface.errors import LatentFaceError
from latentface.model.backbone import build_resnet
from latentface.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from latentface.model.config import ModelConfig
from latentface.model.retinaface import RetinaFace
from latentface.torch_file import MOST_VALUES, read_torch_file

REFUSED = r"weight\.pth: (refused, it holds more than tensors and plain values|not a PyTorch file)"


class Call:
    """Pickled, it is a call: `function(*arguments)`."""

    def __init__(self, function, *arguments) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class Storage:
    """Stands for so many float32 numbers in the record `0`."""

    def __init__(self, items: int, key: object = "0") -> None:
        self.items, self.key = items, key


def tensor(storage: Storage, size: tuple, stride: tuple, offset: int = 0) -> Call:
    return Call(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, OrderedDict())


class Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        return ("storage", torch.FloatStorage, obj.key, "cpu", obj.items) if isinstance(obj, Storage) else None


def pickled(content: object) -> bytes:
    file = io.BytesIO()
    Pickler(file, protocol=2).dump(content)
    return file.getvalue()


def write_archive(
    path: Path, content: object, record: bytes = bytes(16), compression: int = zipfile.ZIP_STORED
) -> Path:
    """As torch.save does it, with one record of four float32 numbers."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("a/data.pkl", content if isinstance(content, bytes) else pickled(content))
        archive.writestr("a/byteorder", "little")
        archive.writestr("a/data/0", record)
        archive.writestr("a/version", "3\n")
    return path


def write_legacy(path: Path, content: object, record: bytes = bytes(16), items: int = 4) -> Path:
    """As torch.save did it before PyTorch 1.6: pickles one behind the other, then the numbers."""
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, content, ["0"]]

    class Old(Pickler):
        def persistent_id(self, obj):
            found = super().persistent_id(obj)
            return found and (*found, None)

    with path.open("wb") as file:
        for value in head:
            Old(file, protocol=2).dump(value)
        file.write(struct.pack("<q", items) + record)
    return path


def nested_tuple(depth: int = 60) -> tuple:
    """Takes 2^depth steps to hash."""
    value: tuple = ()
    for _ in range(depth):
        value = (value, value)
    return value


def billion(depth: int = 30) -> list:
    """Lists of lists that each stand twice in the next: small, until somebody looks at all of it."""
    value: list = ["lol"]
    for _ in range(depth):
        value = [value, value]
    return value


GOOD = tensor(Storage(4), (2, 2), (2, 1))


@pytest.mark.parametrize("write", [write_archive, write_legacy])
def test_what_these_tests_write_is_readable(write, tmp_path):
    """Otherwise everything would be refused for another reason."""
    content = read_torch_file(write(tmp_path / "weight.pth", {"x": GOOD, "facts": {"rates": [12, 75]}}))
    assert torch.equal(content["x"], torch.zeros(2, 2))
    assert content["facts"] == {"rates": [12, 75]}


BOMBS = {
    "runs a program": Call(Path.touch, Path("exploded")),
    "imports": Call(__import__, "antigravity"),
    "100 GB of zeros": Call(bytearray, 100_000_000_000),
    "10 GB of zeros, copied": Call(bytearray, Call(bytearray, 10_000_000_000)),
    "a tensor of torch's own": Call(torch.Tensor, 100_000, 100_000),
    "one number a trillion times": tensor(Storage(4), (1_000_000, 1_000_000), (0, 0)),
    "longer than its record": tensor(Storage(100_000_000), (100_000_000,), (1,)),
    "behind its record": tensor(Storage(4), (2,), (1,), 1_000_000),
    "a step too far": tensor(Storage(4), (2, 2), (1_000_000, 1)),
    "less than nothing": tensor(Storage(4), (-1, 2), (2, 1)),
    "no number": tensor(Storage(4), ("2", 2), (2, 1)),
    "a storage of another name": tensor(Storage(4, "../../etc/passwd"), (2, 2), (2, 1)),
    "a storage that takes years to hash": tensor(Storage(4, nested_tuple()), (2, 2), (2, 1)),
    "a billion values": billion(),
}  # fmt: skip


@pytest.mark.parametrize("write", [write_archive, write_legacy])
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_with_one_line(name, write, tmp_path, monkeypatch, little_memory):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "weight.pth", {"format": "latentface/1", "x": BOMBS[name], "y": GOOD})
    with little_memory(), pytest.raises(LatentFaceError, match=REFUSED) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert not Path("exploded").exists()


def test_attributes_that_hide_methods_are_refused(tmp_path):
    """An OrderedDict may carry attributes; a state dict has one, `_metadata`."""
    hidden = OrderedDict(x=1)
    hidden.get = 5  # type: ignore[method-assign, assignment]
    with pytest.raises(LatentFaceError, match=REFUSED):
        read_torch_file(write_archive(tmp_path / "weight.pth", hidden))
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "good.pth")
    assert list(read_torch_file(tmp_path / "good.pth")) == ["weight", "bias"]


@pytest.mark.parametrize(
    "opcodes",
    [
        b"\x80\x04\x96" + struct.pack("<Q", 100_000_000_000) + b".",  # BYTEARRAY8 of 100 GB
        b"\x80\x02r\xff\xff\xff\xff.",  # the memo's last place
        b"\x80\x02B\xff\xff\xff\xff.",  # BINBYTES of 4 GB
        b"\x80\x02X\xff\xff\xff\xff.",  # BINUNICODE of 4 GB
        b"\x80\x02\x8b\xff\xff\xff\x7f.",  # LONG4 of 2 GB
        b"cos\nsystem\n(S'touch exploded'\ntR.",  # protocol 0
        b"(S'touch exploded'\nios\nsystem\n.",  # INST
        b"\x80\x02(cos\nsystem\nX\x0e\x00\x00\x00touch explodedo.",  # OBJ
        b"\x80\x02cos\nsystem\nX\x0e\x00\x00\x00touch exploded\x85\x81.",  # NEWOBJ
        b"\x80\x02\x82\x01.",  # EXT1
        b"\x80\x02" + b"(" * 100_000 + b".",
        b"\x80\x02}"
        + pickle.dumps(nested_tuple(), 2)[2:-1]
        + b"K\x01s.",  # a dictionary's key that takes years to hash
        b"\x80\x02]q\x00h\x00a.",  # a list that holds itself
        b"\x80\x02.",
        b"",
    ],
)
def test_broken_pickles_are_refused(opcodes, tmp_path, monkeypatch, little_memory):
    monkeypatch.chdir(tmp_path)
    for number, content in enumerate((opcodes, pickled(0x1950A86A20F9469CFC6C) + opcodes)):
        Path(f"{number}.pth").write_bytes(content)
    write_archive(Path("2.pth"), opcodes)
    for number in range(3):
        with (
            little_memory(),
            pytest.raises(LatentFaceError, match=rf"{number}\.pth: (refused|not a PyTorch file|neither)"),
        ):
            read_torch_file(f"{number}.pth")
    assert not Path("exploded").exists()


def test_archives_that_unpack_to_more_are_refused(tmp_path, little_memory):
    """A megabyte of zeros compresses to a kilobyte; an archive's directory may also say anything."""
    large = {"x": tensor(Storage(75_000_000), (75_000_000,), (1,))}
    path = write_archive(tmp_path / "weight.pth", large, bytes(300_000_000), zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1_000_000
    with little_memory(), pytest.raises(LatentFaceError, match=REFUSED):
        read_torch_file(path)
    content = write_archive(path, {"x": GOOD}).read_bytes()
    sizes = struct.pack("<II", 16, 16)  # of the record, in its own head and in the directory
    assert content.count(sizes) == 2
    path.write_bytes(content.replace(sizes, struct.pack("<II", 1 << 31, 1 << 31)))
    with little_memory(), pytest.raises(LatentFaceError, match=REFUSED):
        read_torch_file(path)


def test_an_archive_with_one_name_twice_is_refused(tmp_path):
    path = write_archive(tmp_path / "weight.pth", {"x": GOOD})
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("a/data.pkl", pickled({"x": Call(Path.touch, Path("exploded"))}))
    with pytest.raises(LatentFaceError, match=REFUSED):
        read_torch_file(path)


def test_an_archive_of_torchscript_is_refused(tmp_path):
    path = tmp_path / "weight.pth"
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), path)
    with pytest.raises(LatentFaceError, match=REFUSED):
        read_torch_file(path)


def test_plain_values_have_a_limit_that_real_files_are_far_from(tmp_path):
    torch.save({"x": list(range(1000))}, tmp_path / "weight.pth")
    assert len(read_torch_file(tmp_path / "weight.pth")["x"]) == 1000
    torch.save({"x": [0] * MOST_VALUES}, tmp_path / "weight.pth")
    with pytest.raises(LatentFaceError, match=REFUSED):
        read_torch_file(tmp_path / "weight.pth")


@pytest.mark.parametrize("name", ["--weight", "--teacher", "--backbone_weights"])
def test_every_flag_that_takes_weights_refuses_a_bomb(name, drawn_dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_archive(Path("weight.pth"), {"x": BOMBS["runs a program"]})
    arguments = ["--dataset_root", str(drawn_dataset), "--no_wandb", "--out", "run", "--model", "resnet18"]
    more = ["--photographs", "."] if name == "--teacher" else []
    assert main(["train", *arguments, name, "weight.pth", *more]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "weight.pth: refused" in said or name == "--teacher"
    assert not Path("exploded").exists()
    assert not Path("run").exists()


def test_a_codecs_weights_and_a_backbones_are_read_alike(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_archive(Path("encoder_Y_0.002.pth"), {"x": BOMBS["runs a program"]})
    codec = JpegAiCodec(tmp_path)
    with pytest.raises(LatentFaceError, match=r"encoder_Y_0\.002\.pth: no network of the JPEG AI reference"):
        codec._network("encoder", 0)
    with pytest.raises(LatentFaceError, match=r"--backbone_weights encoder_Y_0\.002\.pth: refused"):
        build_resnet("resnet18", "encoder_Y_0.002.pth")
    assert not Path("exploded").exists()


# --- files that are well formed, and lie


@pytest.fixture(scope="module")
def model() -> RetinaFace:
    return RetinaFace(ModelConfig("light", "shuffle", channels=4))


def lying(model: RetinaFace, path: Path, config: dict, state: dict) -> Path:
    save_checkpoint(path, model, {})
    content = torch.load(path, weights_only=True)
    content["model"].update(config)
    content["state"].update(state)
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("config", "state", "message"),
    [
        ({"channels": 60_000, "backbone": "resnet50", "bridge": "bilinear"}, {}, "weight.pth: "),
        ({"projection": 60_000}, {}, "weight.pth: "),
        ({"prior_sizes": [[16] * 100_000, [32], [64]]}, {}, "weight.pth: "),
        ({"channels": 10**12}, {}, "channels 1000000000000: a whole number from 1 to 65536"),
        ({"stride": 2**40}, {}, "stride 1099511627776: a whole number from 1 to 128"),
        ({"prior_sizes": [[16], [32], ["64"]]}, {}, "sides in pixels for 3 levels"),
        ({"prior_sizes": [[16], [32], [float("nan")]]}, {}, "sides in pixels for 3 levels"),
        ({"bridge": ["shuffle"]}, {}, "is none of"),
        ({}, {"normalisation.rate_rows": torch.tensor([0, 0, 7, 0, 0])}, "no row for one of its rates"),
        ({}, {"normalisation.rate_rows": torch.tensor([0, 0, -1, 0, 0])}, "no row for one of its rates"),
        ({}, {"normalisation.rates": torch.empty(0, dtype=torch.int64)}, "weight.pth: normalisation.rate"),
        ({}, {"normalisation.mean": torch.zeros(5)}, "weight.pth: "),
        ({}, {"normalisation.mean": torch.full((1, 4), float("nan"))}, "normalisation.mean has NaN or infinite values"),
        ({}, {"class_heads.0.bias": torch.full((4,), float("inf"))}, "class_heads.0.bias has NaN or infinite values"),
    ],
)
def test_configurations_are_held_against_the_weights_before_memory_is_taken(
    config, state, message, model, tmp_path, little_memory
):
    path = lying(model, tmp_path / "weight.pth", config, state)
    with little_memory(), pytest.raises(LatentFaceError, match=message) as caught:
        load_checkpoint(path).build()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "parts",
    [
        {"state": [1]},
        {"state": {"x": 1}},
        {"state": {1: torch.zeros(1)}},
        {"state": None},
        {"facts": None},
        {"facts": "codec"},
        {"model": []},
        {"model": {"prior_sizes": [16, 32]}},
        {"model": {"prior_sizes": [[16], [32], [64]], "colour": "blue"}},
    ],
)
def test_parts_of_other_kinds(parts, model, tmp_path):
    path = tmp_path / "weight.pth"
    save_checkpoint(path, model, {})
    torch.save(torch.load(path, weights_only=True) | parts, path)
    with pytest.raises(LatentFaceError, match=r"weight\.pth: a damaged latentface checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "name", ["projection.weight", "prior_sizes_8", "body.stage1.0.0.weight", "normalisation.rates"]
)
def test_state_dicts_of_odd_shapes(name, model, tmp_path):
    torch.save(model.state_dict() | {name: torch.zeros(())}, tmp_path / "weight.pth")
    with pytest.raises(LatentFaceError, match=r"weight\.pth: a state dict, but not of a latentface model"):
        load_checkpoint(tmp_path / "weight.pth")


def test_a_good_checkpoint_is_built(model, tmp_path):
    save_checkpoint(tmp_path / "weight.pth", model, {})
    checkpoint = load_checkpoint(tmp_path / "weight.pth")
    assert isinstance(checkpoint, Checkpoint)
    assert checkpoint.build().config == model.config
