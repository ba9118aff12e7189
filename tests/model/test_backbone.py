from __future__ import annotations

import urllib.error
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor

from latentface.errors import LatentFaceError
from latentface.model.backbone import PictureStem, PrunedResNet, build_resnet
from latentface.model.config import ModelConfig
from latentface.model.retinaface import RetinaFace


def test_stem_and_pruned_resnet_together_are_the_resnet():
    torch.manual_seed(0)
    resnet = torchvision.models.resnet18(weights=None).eval()
    seen: list[Tensor] = []
    for layer in (resnet.layer2, resnet.layer3, resnet.layer4):
        layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        picture = torch.randn(1, 3, 64, 96)
        resnet(picture)
        expected, seen = seen, []
        found = PrunedResNet(resnet)(PictureStem(resnet)(picture))
    assert [list(level.shape) for level in found] == [[1, 128, 8, 12], [1, 256, 4, 6], [1, 512, 2, 3]]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A state dict as torchvision's own resnet18 writes it."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    return path


def test_every_weight_of_a_file_arrives(weights):
    model = RetinaFace(ModelConfig(backbone="resnet18", channels=4), backbone_weights=str(weights))
    own = model.backbone.state_dict()
    saved = {
        name: t
        for name, t in torch.load(weights, weights_only=True).items()
        if name.startswith(("layer2", "layer3", "layer4"))
    }
    assert own.keys() == saved.keys()
    assert all(torch.equal(own[name], saved[name]) for name in own)


def test_the_twin_takes_the_first_stages_too(weights):
    own = RetinaFace(
        ModelConfig(backbone="resnet18", input="picture"), backbone_weights=str(weights)
    ).entry.state_dict()
    saved = torch.load(weights, weights_only=True)
    assert {name.split(".")[0] for name in own} == {"conv1", "bn1", "layer1"}
    assert all(torch.equal(own[name], saved[name]) for name in own)


def test_downloaded_weights_without_counters_are_taken(weights, tmp_path, monkeypatch):
    """torchvision's ImageNet files are older than batch norm's counters."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    state = {k: t for k, t in torch.load(weights, weights_only=True).items() if "num_batches" not in k}
    entry = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    cached = tmp_path / "hub" / "checkpoints" / entry.url.rsplit("/", 1)[-1]
    cached.parent.mkdir(parents=True)
    torch.save(state, cached)
    own = build_resnet("resnet18", "imagenet").state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in state.items() if not name.startswith("fc."))


def test_a_failed_download_names_the_way_out(tmp_path, monkeypatch):
    def offline(*arguments: object, **options: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", offline)
    with pytest.raises(LatentFaceError) as caught:
        RetinaFace(ModelConfig(backbone="resnet18"), backbone_weights="imagenet")
    assert "no route to host" in str(caught.value)
    assert "--backbone_weights PATH/resnet18-f37072fd.pth" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["resnet34", "resnet50"])
def test_weights_of_another_resnet_are_refused(weights, name):
    with pytest.raises(LatentFaceError, match=rf"not the weights of a {name} \(layer1.* is missing\)"):
        build_resnet(name, str(weights))


def test_weights_that_contain_those_asked_for_are_refused(tmp_path):
    """resnet34 has every layer of resnet18 by name and shape, and more."""
    torch.save(torchvision.models.resnet34(weights=None).state_dict(), tmp_path / "34.pth")
    with pytest.raises(LatentFaceError, match=r"not the weights of a resnet18 \(layer1.2.* does not belong to it\)"):
        build_resnet("resnet18", str(tmp_path / "34.pth"))


def test_weights_of_other_shapes_are_refused(weights, tmp_path):
    state = torch.load(weights, weights_only=True)
    state["layer3.0.conv1.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(LatentFaceError, match="these are not weights of resnet18"):
        build_resnet("resnet18", str(tmp_path / "odd.pth"))


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return Path.mkdir, (self.folder,)


@pytest.mark.parametrize("content", ["bomb", "list", "numbered", "text", "truncated"])
def test_files_that_are_no_state_dict(content, weights, tmp_path):
    path, harm = tmp_path / "weights.pth", tmp_path / "harm"
    if content in ("text", "truncated"):
        path.write_bytes(b"hello" if content == "text" else weights.read_bytes()[:100_000])
    else:
        torch.save({"bomb": Bomb(harm), "list": [1, 2], "numbered": {0: torch.zeros(1)}}[content], path)
    with pytest.raises(LatentFaceError, match=r"--backbone_weights .*weights.pth: (refused|not a|neither)"):
        build_resnet("resnet18", str(path))
    assert not harm.exists()


def test_a_missing_file(tmp_path):
    with pytest.raises(LatentFaceError, match="no such file"):
        build_resnet("resnet18", str(tmp_path / "weights.pth"))
