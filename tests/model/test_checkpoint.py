from __future__ import annotations

import errno
import io
import os
import pickle
import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor

import latentface
from latentface.errors import LatentFaceError
from latentface.model import checkpoint as checkpoint_module
from latentface.model.bridge import BRIDGES
from latentface.model.checkpoint import Checkpoint, load_checkpoint, load_strictly, save_atomically, save_checkpoint
from latentface.model.config import BACKBONES, ModelConfig, fits
from latentface.model.normalisation import LatentStatistics
from latentface.model.retinaface import RetinaFace
from latentface.torch_file import read_torch_file

STATISTICS = LatentStatistics(torch.randn(3, 5), 1 + torch.rand(3, 5), (12, 50, 75), (0, 1, 1), (0, 2, 3), (0, 1, 2))
SMALL = ModelConfig(backbone="light", channels=5)


@pytest.fixture(scope="module")
def model() -> RetinaFace:
    torch.manual_seed(0)
    return RetinaFace(SMALL, STATISTICS).eval()


@pytest.fixture
def checkpoint(model, tmp_path) -> Path:
    path = tmp_path / "weight.pth"
    save_checkpoint(path, model, {"codec": "dct"})
    return path


def equal_states(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# --- round trip


def test_round_trip(model, tmp_path):
    facts = {"codec": "dct", "rates": [12, 50], "epoch": 3, "metrics": {"val_ap": {"50": 0.25}}}
    save_checkpoint(tmp_path / "weight.pth", model, facts)
    found = load_checkpoint(tmp_path / "weight.pth", network="light")
    assert found.config == SMALL
    assert {name: version.split("+")[0] for name, version in found.facts.pop("versions").items()} == {
        "latentface": latentface.__version__,
        "torch": torch.__version__.split("+")[0],
        "torchvision": torchvision.__version__.split("+")[0],
    }
    assert found.facts == facts
    built = found.build().eval()
    assert equal_states(built.state_dict(), model.state_dict())
    latents, rates, indices = torch.randn(2, 5, 2, 2), torch.tensor([50, 12]), torch.tensor([-1, 2])
    with torch.no_grad():
        assert torch.equal(built(latents, rates, indices)["boxes"], model(latents, rates, indices)["boxes"])
    assert built.normalisation.known_rates == (12, 50, 75)


def test_an_unusual_configuration_round_trips(tmp_path):
    config = ModelConfig("light", "shuffle", channels=3, stride=8, prior_sizes=((10, 20, 30), (64,), (256, 512)))
    save_checkpoint(tmp_path / "weight.pth", RetinaFace(config), {})
    found = load_checkpoint(tmp_path / "weight.pth")
    assert found.config == config
    assert found.build().priors(2, 2, torch.device("cpu")).shape == (3 * 4 + 1 + 2, 4)


def test_the_twin_round_trips(tmp_path):
    twin = RetinaFace(ModelConfig("resnet18", input="picture"))
    save_checkpoint(tmp_path / "weight.pth", twin, {})
    assert equal_states(load_checkpoint(tmp_path / "weight.pth").build().state_dict(), twin.state_dict())


def test_a_checkpoint_holds_plain_values_only(checkpoint):
    content = torch.load(checkpoint, weights_only=True)
    assert set(content) == {"format", "model", "state", "facts"}
    assert content["format"] == "latentface/1"
    assert content["model"]["backbone"] == "light"


# --- bare state dicts


def state_of(config: ModelConfig) -> dict[str, Tensor]:
    """Its shapes, its priors and nothing else: a few bytes."""
    with torch.device("meta"):
        state = RetinaFace(config, STATISTICS).state_dict()
    priors = {f"prior_sizes_{8 << level}": torch.tensor(sizes) for level, sizes in enumerate(config.prior_sizes)}
    return {name: torch.zeros((), dtype=t.dtype).expand(t.shape) for name, t in state.items()} | priors


@pytest.fixture
def load(monkeypatch) -> Callable[..., Checkpoint]:
    """`load_checkpoint` of what would be in a file: a file may not repeat one number for a whole tensor."""

    def load_content(content: dict, **options: Any) -> Checkpoint:
        monkeypatch.setattr(checkpoint_module, "read_torch_file", lambda path: content)
        return load_checkpoint("weight.pth", **options)

    return load_content


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(
    ("backbone", "bridge"),
    [(a, b) for a, b in product(BACKBONES, BRIDGES) if fits(a, b)],
)
def test_a_bare_state_dict_tells_its_configuration(backbone, bridge, prefix, load):
    config = ModelConfig(backbone, bridge, channels=5)
    found = load({prefix + name: t for name, t in state_of(config).items()}, network=backbone)
    assert found.config == config
    assert found.facts == {}


@pytest.mark.parametrize("stride", [8, 32])
@pytest.mark.parametrize("bridge", ["bilinear", "shuffle", "deep"])
def test_a_bare_state_dict_tells_stride_and_priors(bridge, stride, load):
    config = ModelConfig("light", bridge, channels=5, stride=stride, prior_sizes=((10, 20), (40, 80), (160, stride)))
    assert load(state_of(config)).config == config


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_bare_state_dict_is_a_whole_model(model, prefix, tmp_path):
    torch.save({prefix + name: t for name, t in model.state_dict().items()}, tmp_path / "weight.pth")
    built = load_checkpoint(tmp_path / "weight.pth").build()
    assert equal_states(built.state_dict(), model.state_dict())
    assert built.normalisation.known_rates == (12, 50, 75)


@pytest.mark.parametrize("change", ["no tables", "no mean", "odd mean", "one weight less", "numbered"])
def test_state_dicts_of_other_models(change, load):
    state: dict[Any, Tensor] = dict(state_of(SMALL))
    if change == "no tables":
        state = {name: t for name, t in state.items() if not name.startswith("normalisation.")}
    elif change == "no mean":
        del state["normalisation.mean"]
    elif change == "odd mean":
        state["normalisation.mean"] = torch.zeros(5)
    elif change == "one weight less":
        del state["neck.merge.0.0.weight"]
    else:
        state[0] = torch.zeros(1)
    with pytest.raises(LatentFaceError, match=r"weight\.pth: a state dict, but not of a latentface model"):
        load(state)


# --- mistakes


def test_the_wrong_network_is_named(checkpoint):
    with pytest.raises(LatentFaceError, match=r"weight.pth holds a light, not a resnet50: give --network light"):
        load_checkpoint(checkpoint, network="resnet50")


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return Path.mkdir, (self.folder,)


@pytest.mark.parametrize("zipped", [True, False])
def test_executable_files_are_refused_and_not_executed(zipped, tmp_path):
    path, harm = tmp_path / "weight.pth", tmp_path / "harm"
    content = {"format": "latentface/1", "model": {}, "state": Bomb(harm), "facts": {}}
    if zipped:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(LatentFaceError, match=r"weight.pth: (refused, it holds more than tensors|not a PyTorch file)"):
        load_checkpoint(path)
    assert not harm.exists()
    torch.load(path, weights_only=False) if zipped else pickle.loads(path.read_bytes())
    assert harm.exists()  # the bomb was live


@pytest.mark.parametrize("length", [0, 1, 1000, 50_000, -1])
def test_truncated_files(checkpoint, length):
    checkpoint.write_bytes(checkpoint.read_bytes()[:length])
    with pytest.raises(LatentFaceError, match=r"weight\.pth: "):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "neither a latentface checkpoint nor a state dict"),
        ({}, "neither a latentface checkpoint nor a state dict"),
        ({"state": {}, "param_groups": []}, "neither a latentface checkpoint nor a state dict"),
        ({"format": "latentface/1"}, "a damaged latentface checkpoint"),
        ({"format": "latentface/1", "model": {"depth": 3, "prior_sizes": []}}, "a damaged latentface checkpoint"),
        ({"format": "latentface/1", "model": {"prior_sizes": 16}}, "a damaged latentface checkpoint"),
        ({"format": "latentface/1", "model": None}, "a damaged latentface checkpoint"),
    ],
)
def test_other_files(content, message, tmp_path):
    torch.save(content, tmp_path / "weight.pth")
    with pytest.raises(LatentFaceError, match=f"weight.pth: {message}") as caught:
        load_checkpoint(tmp_path / "weight.pth")
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there(tmp_path):
    for path, message in ((tmp_path / "weight.pth", "no such file"), (tmp_path, "a folder; give a file in it")):
        with pytest.raises(LatentFaceError, match=message):
            read_torch_file(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "x.pth: backbone.stage8.bn1.weight is missing"),
        ("extra", "x.pth: backbone.stage9 does not belong to a light on latents"),
        ("shape", r"x.pth: box_heads.1.bias is \[3\], this model needs \[8\]"),
    ],
)
def test_loading_names_the_first_misfit(model, change, message):
    state = dict(model.state_dict())
    before = {name: t.clone() for name, t in state.items()}
    if change == "missing":
        del state["backbone.stage8.bn1.weight"], state["neck.merge.0.0.weight"]
    elif change == "extra":
        state["backbone.stage9"] = state["stage10"] = torch.zeros(1)
    else:
        state["box_heads.1.bias"] = torch.zeros(3)
    with pytest.raises(LatentFaceError, match=message):
        load_strictly(model, state, "x.pth")
    assert equal_states(dict(model.state_dict()), before)  # nothing was loaded


def test_a_checkpoint_whose_weights_do_not_fit(checkpoint):
    content = torch.load(checkpoint, weights_only=True)
    del content["state"]["normalisation.mean"]
    torch.save(content, checkpoint)
    with pytest.raises(LatentFaceError, match=f"^{re.escape(str(checkpoint))}: normalisation"):
        load_checkpoint(checkpoint).build()


# --- atomic writing


class FullDisk(io.FileIO):
    """Takes 1000 bytes and no more."""

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > 1000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


def assert_untouched(path: Path) -> None:
    assert read_torch_file(path) == {"old": 1}
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("bytes_to_write", [10, 100_000])
def test_a_full_disk_leaves_the_old_file(bytes_to_write, tmp_path, monkeypatch):
    path = tmp_path / "weight.pth"
    save_atomically({"old": 1}, path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda self, mode: FullDisk(self, mode))
        with pytest.raises(LatentFaceError, match=r"cannot be written \(No space left on device\); make room on that"):
            save_atomically({"new": torch.zeros(bytes_to_write, dtype=torch.uint8)}, path)
    assert_untouched(path)


@pytest.mark.parametrize("interruption", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_an_interruption_half_way_leaves_the_old_file(interruption, tmp_path, monkeypatch):
    def half_way(content: object, file: io.BufferedWriter) -> None:
        file.write(b"half")
        raise interruption

    path = tmp_path / "weight.pth"
    save_atomically({"old": 1}, path)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", half_way)
        with pytest.raises((LatentFaceError, KeyboardInterrupt)):
            save_atomically({"new": 2}, path)
    assert_untouched(path)


def test_writing_replaces_the_old_file(tmp_path):
    path = tmp_path / "weight.pth"
    for number in (1, 2):
        save_atomically({"number": number}, path)
    assert read_torch_file(path) == {"number": 2}
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there(tmp_path):
    (tmp_path / "file").touch()
    for folder in ("nowhere", "file"):
        with pytest.raises(LatentFaceError, match=r"weight\.pth: cannot be written"):
            save_atomically({}, tmp_path / folder / "weight.pth")
