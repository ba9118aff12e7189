from __future__ import annotations

import copy
from itertools import product

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from latentface.errors import LatentFaceError
from latentface.model.backbone import PictureStem, PrunedResNet, build_resnet
from latentface.model.bridge import BRIDGES, BridgeModule, ShuffleBridge
from latentface.model.config import BACKBONES, ModelConfig, fits
from latentface.model.neck import ContextHead, FeaturePyramid
from latentface.model.normalisation import LatentStatistics
from latentface.model.retinaface import RetinaFace

CPU = torch.device("cpu")
PAIRS = [(a, b) for a, b in product(BACKBONES, BRIDGES) if fits(a, b)]


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Tensors are tiny here: threads that wait for each other would cost more than they bring."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def gmac(module: nn.Module, *shape: int) -> float:
    """Multiply-adds of one forward pass; modules on the meta device compute nothing."""
    with FlopCounterMode(display=False) as counter:
        module(torch.empty(*shape, device="meta"))
    return counter.get_total_flops() / 2e9


def on_meta(backbone: str, **config: object) -> RetinaFace:
    with torch.device("meta"):
        return RetinaFace(ModelConfig(backbone=backbone, **config)).eval()  # type: ignore[arg-type]


# --- bridges


@pytest.mark.parametrize("bridge", ["bilinear", "shuffle", "deep"])
@pytest.mark.parametrize(("backbone", "channels"), [("resnet18", 64), ("resnet34", 64), ("resnet50", 256)])
def test_bridges_give_what_layer2_takes(bridge, backbone, channels):
    entry = on_meta(backbone, bridge=bridge).entry
    assert entry(torch.empty(1, 256, 40, 40, device="meta")).shape == (1, channels, 160, 160)


@pytest.mark.parametrize(
    ("bridge", "backbone", "channels"),
    [
        ("stride8", "resnet18", 64),
        ("stride8", "resnet50", 256),
        ("layer3", "resnet18", 128),
        ("layer3", "resnet50", 512),
    ],
)
def test_bridges_to_stride_8_give_what_their_layer_takes(bridge, backbone, channels):
    model = on_meta(backbone, bridge=bridge)
    entered = model.entry(torch.empty(1, 256, 40, 40, device="meta"))
    assert entered.shape == (1, channels, 80, 80)
    sides = [level.shape[-1] for level in model.backbone(entered)]
    assert sides == [80, 40, 20]


def test_layer2_without_its_stride_keeps_its_weights():
    full = torchvision.models.resnet18(weights=None)
    pruned = PrunedResNet(copy.deepcopy(full), "layer2 without stride").eval()
    assert pruned.state_dict().keys() == {
        name for name in full.state_dict() if name.startswith(("layer2", "layer3", "layer4"))
    }
    assert full.layer2[0].conv1.stride == (2, 2)
    assert pruned.layer2[0].conv1.stride == pruned.layer2[0].downsample[0].stride == (1, 1)


@pytest.mark.parametrize("bridge", ["stride8", "layer3"])
def test_bridges_that_change_a_resnet_need_one(bridge):
    with pytest.raises(LatentFaceError, match="needs resnet18 or resnet34 or resnet50, not light"):
        ModelConfig(backbone="light", bridge=bridge)


def test_a_refined_bridge_begins_as_the_residual_one():
    torch.manual_seed(0)
    residual, refined = (BRIDGES[name](6, 10, 4, 0.1).eval() for name in ("residual", "refined"))
    missing = refined.load_state_dict(residual.state_dict(), strict=False).missing_keys
    assert {name.partition(".")[0] for name in missing} == {"fine_inner", "fine_outer"}
    latent = torch.randn(2, 6, 3, 5)
    assert torch.equal(refined(latent), residual(latent))
    torch.nn.init.ones_(refined.fine_outer.weight)
    assert not torch.allclose(refined(latent), residual(latent))


@pytest.mark.parametrize("bridge", BRIDGES.values())
@pytest.mark.parametrize("slope", [0.0, 0.1])
def test_the_last_activation_is_what_the_backbone_is_used_to(bridge, slope):
    torch.manual_seed(0)
    found = bridge(6, 10, 4, slope).eval()(torch.randn(2, 6, 3, 5))
    assert (found > 0).any()
    assert (found < 0).any() == (slope > 0)
    assert on_meta("mobilenet").backbone.entry_slope == 0.1
    assert on_meta("resnet18").backbone.entry_slope == on_meta("light").backbone.entry_slope == 0.0


@pytest.mark.parametrize("bridge", BRIDGES.values())
@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_bridges_of_every_scale(bridge, scale):
    assert bridge(6, 10, scale, 0.0).eval()(torch.randn(2, 6, 3, 5)).shape == (2, 10, 3 * scale, 5 * scale)


@pytest.mark.parametrize(("backbone", "spent", "saved"), [("resnet18", 3.77, 4.74), ("resnet50", 4.19, 6.42)])
def test_the_documented_bridge_costs_less_than_what_is_left_out(backbone, spent, saved):
    with torch.device("meta"):
        stem = PictureStem(build_resnet(backbone, "none")).eval()
    bridge = gmac(on_meta(backbone).entry, 1, 256, 40, 40)
    left_out = gmac(stem, 1, 3, 640, 640)
    assert bridge == pytest.approx(spent, abs=0.005)
    assert left_out == pytest.approx(saved, abs=0.005)
    assert bridge < left_out


@pytest.mark.parametrize(  # 1x1 to 16 or 4 times the width; 3x3 256 -> 256 twice: 1.89
    ("bridge", "backbone", "spent"),
    [
        ("shuffle", "resnet18", 0.42),
        ("shuffle", "resnet50", 1.68),
        ("deep", "resnet18", 1.89 + 0.42),
        ("deep", "resnet50", 1.89 + 1.68),
        ("stride8", "resnet18", 1.89 + 0.10),
        ("layer3", "resnet50", 1.89 + 0.84),
    ],
)
def test_what_the_other_bridges_cost(bridge, backbone, spent):
    assert gmac(on_meta(backbone, bridge=bridge).entry, 1, 256, 40, 40) == pytest.approx(spent, abs=0.01)


def test_the_documented_bridge_is_bilinear():
    """With a convolution that does nothing it is plain interpolation: new pixels lie a quarter off the old ones."""
    bridge = BridgeModule(1, 128, 2, 0.0).eval()
    nn.init.zeros_(bridge.layers[1][0].weight)  # type: ignore[index]
    bridge.layers[1][0].weight.data[:, :, 1, 1] = (1 + 1e-5) ** 0.5  # type: ignore[index]  # batch norm divides by it
    found = bridge(torch.tensor([[[[0.0, 4]]]]))
    assert torch.allclose(found, torch.tensor([0.0, 1, 3, 4]).expand(1, 128, 2, 4), atol=1e-5)


def test_the_shuffle_bridge_stays_in_its_cell():
    torch.manual_seed(0)
    bridge = ShuffleBridge(3, 8, 4, 0.0).eval()
    latent = torch.randn(1, 3, 3, 3)
    touched = latent.clone()
    touched[0, :, 1, 2] += 1
    changed = (bridge(touched) != bridge(latent)).any(dim=1)[0]  # [12, 12]
    assert changed[4:8, 8:].any()
    changed[4:8, 8:] = False
    assert not changed.any()


# --- neck


def test_the_pyramid_hands_down_what_the_coarser_levels_saw():
    torch.manual_seed(0)
    pyramid = FeaturePyramid([3, 4, 5], 8).eval()
    features = [torch.randn(1, 3, 7, 9), torch.randn(1, 4, 4, 5), torch.randn(1, 5, 2, 3)]
    before = pyramid(features)
    assert [list(level.shape) for level in before] == [[1, 8, 7, 9], [1, 8, 4, 5], [1, 8, 2, 3]]
    for changed in range(3):
        after = pyramid([f + (i == changed) for i, f in enumerate(features)])
        same = [torch.equal(a, b) for a, b in zip(after, before, strict=True)]
        assert same == [level > changed for level in range(3)]


def test_context_heads_see_three_five_and_seven_pixels():
    torch.manual_seed(0)
    head = ContextHead(8).eval()
    x = torch.randn(16, 8, 11, 11)
    touched = x.clone()
    touched[:, :, 5, 5] += 1
    changed = ((head(touched) - head(x)).abs() > 1e-4).any(dim=0)  # [8, 11, 11]
    for channels, reach in ((slice(0, 4), 1), (slice(4, 6), 2), (slice(6, 8), 3)):
        rows, columns = changed[channels].any(dim=0).nonzero(as_tuple=True)
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == (5 - reach, 5 + reach, 5 - reach, 5 + reach)


@pytest.mark.parametrize(("channels", "slope"), [(64, 0.1), (128, None)])
def test_narrow_necks_leak(channels, slope):
    activations = [m for m in FeaturePyramid([2, 2], channels).modules() if isinstance(m, nn.ReLU | nn.LeakyReLU)]
    assert len(activations) == 3
    assert {getattr(m, "negative_slope", None) for m in activations} == {slope}


# --- the whole


@pytest.mark.parametrize(("backbone", "bridge"), PAIRS)
def test_every_backbone_and_bridge(backbone, bridge):
    model = RetinaFace(ModelConfig(backbone=backbone, bridge=bridge, channels=6)).eval()
    with torch.no_grad():
        found = model(torch.randn(2, 6, 3, 5), torch.tensor([12, 100]), torch.tensor([-1, 0]))
    anchors = 2 * (6 * 10 + 3 * 5 + 2 * 3)  # 48 x 80 pixels
    assert {name: tuple(t.shape) for name, t in found.items()} == {
        "scores": (2, anchors, 2),
        "boxes": (2, anchors, 4),
        "landmarks": (2, anchors, 10),
    }
    assert all(t.isfinite().all() for t in found.values())
    assert len(model.priors(3, 5, CPU)) == anchors


def outputs(model: RetinaFace, *shape: int) -> Tensor:
    return model(torch.empty(1, *shape, device="meta"), torch.tensor([75], device="meta"))["scores"]


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (4, 4), (5, 3), (2, 7), (40, 40), (25, 33)])
@pytest.mark.parametrize(("backbone", "stride"), [("resnet18", 16), ("light", 16), ("light", 8), ("resnet18", 32)])
def test_there_are_as_many_priors_as_outputs(backbone, stride, rows, columns):
    model = on_meta(backbone, stride=stride)
    assert outputs(model, 256, rows, columns).shape[1] == len(model.priors(rows, columns, CPU))
    assert model.picture_size(rows, columns) == (rows * stride, columns * stride)


@pytest.mark.parametrize(("height", "width"), [(64, 96), (50, 70), (33, 97), (640, 640)])
def test_the_twin_has_as_many_priors_as_outputs_at_any_size(height, width):
    model = on_meta("resnet18", input="picture")
    assert outputs(model, 3, height, width).shape[1] == len(model.priors(height, width, CPU))
    assert model.picture_size(height, width) == (height, width)


def test_the_priors_of_the_documented_size():
    assert len(on_meta("resnet50").priors(40, 40, CPU)) == 16_800


class OneCell(nn.Module):
    """In place of the neck: all levels dark but one cell of one level, of a 3 x 5 latent."""

    def __init__(self, channels: int, level: int, row: int, column: int) -> None:
        super().__init__()
        self.levels = [torch.zeros(1, channels, *shape) for shape in ((6, 10), (3, 5), (2, 3))]
        self.levels[level][0, :, row, column] = 1

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        return self.levels


@pytest.mark.parametrize(
    ("level", "row", "column", "size", "prior"),
    [
        (0, 0, 0, 0, [4, 4, 16, 16]),
        (0, 4, 7, 1, [60, 36, 32, 32]),
        (1, 2, 4, 0, [72, 40, 64, 64]),
        (2, 1, 0, 1, [16, 48, 512, 512]),
    ],
)
def test_the_heads_and_the_priors_have_one_order(level, row, column, size, prior):
    """A head that answers with one number of one size marks exactly the prior at the lit cell."""
    model = RetinaFace(ModelConfig(backbone="light", channels=4)).eval()
    model.entry = model.backbone = nn.Identity()  # type: ignore[assignment]
    model.neck = OneCell(64, level, row, column)  # type: ignore[assignment]
    model.context = nn.ModuleList(nn.Identity() for _ in range(3))
    for name, heads, values in (
        ("scores", model.class_heads, 2),
        ("boxes", model.box_heads, 4),
        ("landmarks", model.landmark_heads, 10),
    ):
        for value in range(values):
            for parameter in heads.parameters():
                nn.init.zeros_(parameter)
            heads[level].weight.data[size * values + value, 0] = 1  # type: ignore[union-attr, operator]
            found = model(torch.zeros(1, 4, 3, 5), torch.tensor([75]))[name]
            (marked,) = found.nonzero().tolist()
            assert marked[2] == value
            assert model.priors(3, 5, CPU)[marked[1]].tolist() == prior


def test_the_twin_shares_all_but_its_entry():
    latent, picture = on_meta("resnet50").state_dict(), on_meta("resnet50", input="picture").state_dict()
    differing = {name.split(".")[0] for name in latent.keys() ^ picture.keys()}
    assert differing == {"entry", "normalisation"}
    own = {name: t.shape for name, t in latent.items() if not name.startswith(("entry.", "normalisation."))}
    assert own == {name: t.shape for name, t in picture.items() if not name.startswith(("entry.", "normalisation."))}


def test_raw_latents_are_normalised_inside():
    torch.manual_seed(0)
    statistics = LatentStatistics(
        torch.tensor([[1.0, 2, 3, 4], [0, 0, 0, 0]]),
        torch.tensor([[2.0] * 4, [1.0] * 4]),
        (50, 100),
        (0, 1),
        (2,),
        (0,),
    )
    model = RetinaFace(ModelConfig(backbone="light", channels=4), statistics).eval()
    plain = torch.randn(1, 4, 2, 2)
    raw = 2 * plain + torch.tensor([1.0, 2, 3, 4]).view(1, 4, 1, 1)
    expected = model(plain, torch.tensor([100]))["scores"]
    assert torch.allclose(model(raw, torch.tensor([50]))["scores"], expected, atol=1e-5)
    assert torch.allclose(model(raw, torch.tensor([100]), torch.tensor([2]))["scores"], expected, atol=1e-5)
    assert not torch.allclose(model(raw, torch.tensor([100]))["scores"], expected, atol=1e-2)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"backbone": "resnet19"}, "backbone 'resnet19' is none of resnet18, resnet34, resnet50, light"),
        ({"bridge": "stone"}, "bridge 'stone' is none of bilinear, shuffle"),
        ({"input": "sound"}, "input 'sound' is none of latent, picture"),
        ({"stride": 0}, "stride 0: a whole number from 1 to 128, of latents"),
        ({"stride": 256}, "stride 256: a whole number from 1 to 128, of latents"),
        ({"channels": "256"}, "channels '256': a whole number from 1 to 65536, of latents"),
        ({"channels": True}, "channels True: a whole number from 1 to 65536, of latents"),
        ({"prior_sizes": ((16,), (32,))}, r"prior sizes \(\(16,\), \(32,\)\): sides in pixels for 3 levels"),
        ({"prior_sizes": ((16,), (32,), ())}, "sides in pixels for 3 levels"),
        ({"prior_sizes": ((16,), (32,), (0,))}, "sides in pixels for 3 levels"),
        ({"prior_sizes": ((16,), (32,), (float("inf"),))}, "sides in pixels for 3 levels"),
        ({"projection": 8, "input": "picture"}, "projection 8: a whole number from 0 to 0, of pictures"),
    ],
)
def test_configurations_that_do_not_exist(config, message):
    with pytest.raises(LatentFaceError, match=message):
        ModelConfig(**config)


@pytest.mark.parametrize(("backbone", "stride"), [("light", 4), ("resnet18", 2), ("resnet18", 12)])
def test_strides_that_no_bridge_can_span(backbone, stride):
    with pytest.raises(LatentFaceError, match=f"a latent of stride {stride} cannot feed {backbone}"):
        on_meta(backbone, stride=stride)


def test_all_weights_learn_from_one_step():
    model = RetinaFace(ModelConfig(backbone="light", channels=4)).train()
    found = model(torch.randn(2, 4, 3, 3), torch.tensor([75, 75]))
    sum(t.square().sum() for t in found.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())
