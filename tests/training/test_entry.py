"""Starting as the teacher: where a cell's channels decide the picture, the fitted entry sees what the teacher sees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from latentface.data.batches import LatentBatch
from latentface.data.encode import EncodeConfig, encode
from latentface.data.pretrained import pretrained
from latentface.errors import LatentFaceError
from latentface.model.checkpoint import load_checkpoint, save_checkpoint
from latentface.model.config import ModelConfig
from latentface.model.normalisation import LatentStatistics
from latentface.model.retinaface import RetinaFace
from latentface.options import plain_yaml
from latentface.training import entry
from latentface.training.config import TrainConfig
from latentface.training.entry import OWN_PARTS, RATE_FROM_RANDOM, descend, start_as
from latentface.training.journal import read_rows
from latentface.training.loop import train
from latentface.training.setup import _projection, learns_landmarks
from latentface.training.start import _check_codec, projections_of

CHANNELS, CELLS = 6, 5
RATES = (12, 75)


class LinearEyes(nn.Module):
    """Linear but for its last activation, as the fit assumes: [B, 3, H, W] -> [B, channels, H / stride, W / stride]."""

    def __init__(self, channels: int = 32, stride: int = 4, slope: float = 0.1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, channels, 7, stride=stride, padding=3)
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.leaky_relu(self.convolution(x), self.slope)


@pytest.fixture(autouse=True)
def hardly_any_ridge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry, "CHANNEL_RIDGE", 1e-3)
    monkeypatch.setattr(entry, "TAP_RIDGE", 1e-3)


@pytest.fixture
def teacher() -> RetinaFace:
    torch.manual_seed(0)
    model = RetinaFace(ModelConfig("mobilenet", input="picture", channels=3, stride=1)).eval()
    model.entry = LinearEyes()
    return model


@pytest.fixture
def batches() -> list[LatentBatch]:
    """Pictures that six numbers a cell decide; each rate's codec model mixes the six in a way of its own."""
    generator = torch.Generator().manual_seed(1)
    basis = torch.randn(CHANNELS, 3 * 16 * 16, generator=generator)
    mixing = torch.randn(len(RATES), CHANNELS, CHANNELS, generator=generator)

    def batch() -> LatentBatch:
        numbers = torch.randn(4, CHANNELS, CELLS, CELLS, generator=generator)
        pictures = 124 + 20 * nn.functional.pixel_shuffle(torch.einsum("bchw,cp->bphw", numbers, basis), 16)
        rows = torch.tensor([0, 1, 0, 1])
        latents = torch.einsum("bchw,bdc->bdhw", numbers, mixing[rows])
        none = torch.zeros(4, 1, dtype=torch.bool)
        return LatentBatch(
            ["a", "b", "c", "d"], latents, torch.tensor(RATES)[rows], torch.full((4,), -1), torch.zeros(4, 1, 4),
            torch.zeros(4, 1, 10), none, none, pictures=pictures,
        )  # fmt: skip

    return [batch() for _ in range(30)]


def student(projection: int, backbone: str = "mobilenet", bridge: str = "residual") -> RetinaFace:
    statistics = LatentStatistics(torch.zeros(2, CHANNELS), torch.full((2, CHANNELS), 4.0), RATES, (0, 1))
    return RetinaFace(ModelConfig(backbone, bridge, channels=CHANNELS, projection=projection), statistics)


def seen(model: RetinaFace, batch: LatentBatch) -> Tensor:
    x = model.normalisation(batch.latents, batch.rates)
    if model.config.projection:
        x = model.projection(x, model.normalisation.rows(batch.rates))
    return model.entry(x)


def test_the_entry_sees_what_the_teacher_sees(teacher: RetinaFace, batches: list[LatentBatch]) -> None:
    model = student(projection=CHANNELS)
    start_as(teacher, model, batches[1:], pictures=10_000)
    with torch.no_grad():
        goal = teacher.entry(teacher.normalisation(batches[0].pictures, batches[0].rates))
        error = seen(model, batches[0]) - goal
    assert error.square().mean() < 5e-3 * goal.var()  # what is left is the frame's, where cells have no neighbours
    theirs, ours = teacher.state_dict(), model.state_dict()
    behind = [name for name in ours if not name.startswith(OWN_PARTS)]
    assert len(behind) > 100
    assert all(torch.equal(theirs[name], ours[name]) for name in behind)


def test_too_few_directions_keep_the_strongest(teacher: RetinaFace, batches: list[LatentBatch]) -> None:
    errors = []
    for kept in (2, 4, 6):
        model = student(projection=kept)
        start_as(teacher, model, batches[1:], pictures=10_000)
        with torch.no_grad():
            goal = teacher.entry(teacher.normalisation(batches[0].pictures, batches[0].rates))
            errors.append(((seen(model, batches[0]) - goal).square().mean() / goal.var()).item())
    assert 0.8 > errors[0] > 1.5 * errors[1] > 20 * errors[2]  # 1 would be the mean's


def test_descent_brings_the_entry_nearer(teacher: RetinaFace, batches: list[LatentBatch]) -> None:
    errors = []
    for steps in (0, 60):
        torch.manual_seed(0)
        model = student(projection=CHANNELS)
        start_as(teacher, model, batches[1:], pictures=4)  # too few for the least squares
        descend(teacher, model, batches[1:], steps)
        with torch.no_grad():
            goal = teacher.entry(teacher.normalisation(batches[0].pictures, batches[0].rates))
            errors.append((seen(model, batches[0]) - goal).square().mean().item())
        assert not model.training
        theirs, ours = teacher.state_dict(), model.state_dict()
        assert all(torch.equal(theirs[name], ours[name]) for name in ours if not name.startswith(OWN_PARTS))
    assert errors[1] < 0.8 * errors[0]


def relative_error(teacher: RetinaFace, model: RetinaFace, batch: LatentBatch) -> float:
    """1 would be the mean's."""
    with torch.no_grad():
        goal = teacher.entry(teacher.normalisation(batch.pictures, batch.rates))
        return ((seen(model, batch) - goal).square().mean() / goal.var()).item()


def twin_of(model: RetinaFace) -> RetinaFace:
    """On pictures, with eyes that look at each cell alone."""
    twin = RetinaFace(ModelConfig(model.config.backbone, input="picture", channels=3, stride=1)).eval()
    twin.entry = LinearEyes(*(getattr(model.backbone, f"entry_{name}") for name in ("channels", "stride", "slope")))
    kernel = twin.entry.convolution.weight
    kernel.data[..., [0, 1, -1], :] = kernel.data[..., :, [0, 1, -1]] = 0.0
    return twin


@pytest.mark.parametrize(("backbone", "bridge"), [("mobilenet", "deep"), ("light", "shuffle"), ("resnet18", "shuffle")])
def test_any_bridge_to_layer2_descends_from_random_weights(
    batches: list[LatentBatch], backbone: str, bridge: str
) -> None:
    torch.manual_seed(0)
    model = student(CHANNELS, backbone, bridge)
    twin = twin_of(model)
    start_as(twin, model, batches[1:3], pictures=10_000)
    theirs, ours = twin.state_dict(), model.state_dict()
    behind = [name for name in ours if not name.startswith(OWN_PARTS)]
    assert all(torch.equal(theirs[name], ours[name]) for name in behind)
    before = relative_error(twin, model, batches[0])
    descend(twin, model, batches[1:], 60, rate=10 * RATE_FROM_RANDOM)  # a toy takes large steps
    after = relative_error(twin, model, batches[0])
    assert 0.9 < before < 1.3  # it begins with the right scale
    assert after < 0.7 * before


def test_one_picture_is_enough_to_scale_a_bridge_and_a_bridge_without_batch_norm_is_left(
    batches: list[LatentBatch],
) -> None:
    model = student(0, "light", "shuffle")
    twin = twin_of(model)
    one = replace(batches[0], **{name: value[:1] for name, value in vars(batches[0]).items() if value is not None})
    start_as(twin, model, [one], pictures=1)
    norm = model.entry.last_norm
    assert norm.weight.isfinite().all()
    assert (norm.weight > 0).all()
    model.entry = nn.Sequential(nn.Conv2d(CHANNELS, 64, 1), nn.Upsample(scale_factor=2))
    kept = model.entry[0].weight.clone()
    start_as(twin, model, batches[:1], pictures=4)
    assert torch.equal(model.entry[0].weight, kept)


def test_pictures_that_are_dark_do_not_stop_the_descent(teacher: RetinaFace, batches: list[LatentBatch]) -> None:
    torch.manual_seed(0)
    model = student(projection=CHANNELS)
    start_as(teacher, model, batches[1:], pictures=4)  # too few for the least squares
    with torch.no_grad():
        goal = teacher.entry(teacher.normalisation(batches[0].pictures, batches[0].rates))
        before = (seen(model, batches[0]) - goal).square().mean().item()
    dark = replace(batches[1], pictures=torch.zeros_like(batches[1].pictures))  # its channels hardly vary
    descend(teacher, model, [dark, *batches[2:]], steps=60)
    with torch.no_grad():
        assert (seen(model, batches[0]) - goal).square().mean().item() < 0.8 * before


def test_landmarks_come_from_a_teacher_that_is_started_as_or_learned_from() -> None:
    labels = SimpleNamespace(has_landmarks=False)
    settings = {"teacher": "t.pth", "photographs": "photos", "bridge": "residual"}
    for more, expected in (
        ({}, True),
        ({"teacher_weight": 0.0}, False),
        ({"teacher_weight": 0.0, "fit_entry": 9}, True),
        ({"teacher_weight": 0.0, "fit_entry": 9, "weight": "w.pth"}, False),
    ):
        assert learns_landmarks(TrainConfig(**settings | more), labels) == expected
    with pytest.raises(LatentFaceError, match="--fit_entry with --weight does --fit_steps only"):
        TrainConfig(**settings, fit_entry=9, weight="w.pth", fit_steps=0)
    with pytest.raises(LatentFaceError, match="a deep bridge learns in --fit_steps only"):
        TrainConfig(**settings | {"bridge": "deep"}, fit_entry=9, fit_steps=0)


def test_only_so_many_pictures_are_looked_at(teacher: RetinaFace, batches: list[LatentBatch]) -> None:
    one, other = student(projection=CHANNELS), student(projection=CHANNELS)
    start_as(teacher, one, batches, pictures=5)
    start_as(teacher, other, batches[:2], pictures=8)
    torch.testing.assert_close(one.entry.expand.weight, other.entry.expand.weight)


def test_teachers_that_cannot_be_started_as(teacher: RetinaFace, batches: list[LatentBatch]) -> None:
    with pytest.raises(
        LatentFaceError, match="a light behind --bridge shuffle cannot start as the teacher, a mobilenet"
    ):
        start_as(teacher, student(0, "light", "shuffle"), batches, pictures=8)
    twin = RetinaFace(ModelConfig("resnet18", input="picture", channels=3, stride=1))
    for bridge in ("stride8", "layer3"):  # layers of the teacher are left out or lose their stride
        with pytest.raises(LatentFaceError, match="which the bridge enters at layer2"):
            start_as(twin, student(0, "resnet18", bridge), batches, pictures=8)
    with pytest.raises(LatentFaceError, match="a detector of pictures starts as another by --weight"):
        start_as(twin, RetinaFace(twin.config), batches, pictures=8)
    blind = [LatentBatch(*(getattr(batches[0], name) for name in list(vars(batches[0]))[:8]))]
    with pytest.raises(LatentFaceError, match="not every latent has its photograph"):
        start_as(teacher, student(CHANNELS), blind, pictures=8)


def taught_by(twin: RetinaFace, photographs: Path, tmp_path: Path) -> dict[str, Any]:
    """Settings of a run on `photographs` with that teacher, whose file is written."""
    save_checkpoint(tmp_path / "twin.pth", twin, {})
    return {
        "dataset_root": str(photographs), "model": "mobilenet", "bridge": "residual", "projection": 8,
        "teacher": str(tmp_path / "twin.pth"), "photographs": str(photographs / "photos" / "train"),
        "no_wandb": True, "workers": 0, "batch_size": 6, "precision": "float32",
    }  # fmt: skip


def test_a_run_that_starts_as_its_teacher(drawn_photographs: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    twin = RetinaFace(ModelConfig("mobilenet", input="picture", channels=3, stride=1))
    twin.normalisation.mean.fill_(100.0)  # a range of its own
    settings = taught_by(twin, drawn_photographs, tmp_path) | {
        "epochs": 1, "warmup": 0.0, "fit_entry": 6, "fit_steps": 2, "keep_statistics": True, "optimizer": "sgd",
    }  # fmt: skip
    still = train(TrainConfig(**settings, entry_lr=0.0, out=str(tmp_path / "still")))
    moved = train(TrainConfig(**settings, entry_lr=0.5, lr=1e-5, out=str(tmp_path / "moved")))
    first, second = (load_checkpoint(folder / "weight_final.pth").state for folder in (still, moved))
    theirs = twin.state_dict()
    for name in first:
        if "running_" in name and not name.startswith(OWN_PARTS):
            assert torch.equal(first[name], theirs[name]), name  # statistics are kept
    assert not torch.equal(first["class_heads.0.weight"], theirs["class_heads.0.weight"])
    assert not torch.equal(first["entry.expand.weight"], second["entry.expand.weight"])
    alone = train(TrainConfig(**settings | {"teacher_weight": 0.0}, out=str(tmp_path / "alone")))
    assert "loss_features" not in read_rows(alone / "metrics.jsonl")[0]


def test_weights_that_have_an_entry_only_descend(drawn_photographs: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    twin = RetinaFace(ModelConfig("mobilenet", input="picture", channels=3, stride=1))
    settings = taught_by(twin, drawn_photographs, tmp_path) | {
        "epochs": 1, "average": 0.0, "lr": 0.0, "keep_statistics": True,
    }  # fmt: skip
    first = train(TrainConfig(**settings, out=str(tmp_path / "first"))) / "weight_final.pth"
    second = train(TrainConfig(**settings, weight=str(first), fit_entry=1, fit_steps=2, out=str(tmp_path / "second")))
    before, after = (load_checkpoint(path).state for path in (first, second / "weight_final.pth"))
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in before if not name.startswith(OWN_PARTS)} <= same
    assert {"projection.weight", "entry.expand.weight"}.isdisjoint(same)
    refined = train(TrainConfig(**settings | {"bridge": "refined"}, weight=str(first), out=str(tmp_path / "refined")))
    further = load_checkpoint(refined / "weight_final.pth").state
    learned = {name for name in before if not name.startswith("normalisation.") and before[name].is_floating_point()}
    assert all(torch.equal(before[name], further[name]) for name in learned if "running_" not in name)  # at a rate of 0
    assert not further["entry.fine_outer.weight"].any()
    descended = {"bridge": "refined", "epochs": 0, "fit_entry": 1, "fit_steps": 2}
    entry = train(TrainConfig(**settings | descended, weight=str(first), out=str(tmp_path / "entry")))
    finer = load_checkpoint(entry / "weight_final.pth").state
    assert finer["entry.fine_outer.weight"].any()
    assert all(torch.equal(before[name], finer[name]) for name in before if not name.startswith(OWN_PARTS))
    with pytest.raises(LatentFaceError, match="has another bridge: give --bridge residual"):
        train(TrainConfig(**settings | {"bridge": "deep"}, weight=str(first), out=str(tmp_path / "deep")))


def test_an_entry_alone_is_fitted_and_saved_and_the_run_can_go_on(
    drawn_photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    torch.manual_seed(0)
    twin = RetinaFace(ModelConfig("mobilenet", input="picture", channels=3, stride=1))
    settings = taught_by(twin, drawn_photographs, tmp_path) | {"average": 0.5}
    out = tmp_path / "entry"
    train(TrainConfig(**settings, epochs=0, fit_entry=6, fit_steps=2, out=str(out)))
    fitted = load_checkpoint(out / "weight_final.pth")
    theirs = twin.state_dict()
    assert all(torch.equal(fitted.state[name], theirs[name]) for name in theirs if not name.startswith(OWN_PARTS))
    assert fitted.facts["epoch"] == 0
    assert read_rows(out / "metrics.jsonl") == []
    train(TrainConfig(**settings, epochs=0, fit_entry=6, fit_steps=2, resume=str(out)))
    assert "nothing to do: 0 epochs are done" in capsys.readouterr().out
    at_once = train(TrainConfig(**settings, epochs=1, fit_entry=6, fit_steps=2, out=str(tmp_path / "at_once")))
    assert train(TrainConfig(**settings, epochs=1, fit_entry=6, fit_steps=2, resume=str(out))) == out
    first, second = (load_checkpoint(folder / "weight_final.pth").state for folder in (out, at_once))
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(LatentFaceError, match="--epochs 0: has to be 1 or more"):
        TrainConfig(epochs=0)


def knowing(
    rates: tuple[int, ...], indices: tuple[int, ...], channels: tuple[int, ...] = (), projection: int = 8
) -> RetinaFace:
    """A student of one codec model for each rate; `indices` of these, or none."""
    rows = tuple(range(len(rates)))
    channels = channels or (6,) * len(rates)
    zeros, ones = torch.zeros(len(rates), max(channels)), torch.ones(len(rates), max(channels))
    statistics = LatentStatistics(zeros, ones, rates, rows, indices, rows if indices else (), channels)
    return RetinaFace(ModelConfig("light", "shuffle", channels=max(channels), projection=projection), statistics)


START = knowing((12, 75, 100), (4, 7, 9), (5, 6, 6))


@pytest.mark.parametrize(
    ("rates", "indices", "channels", "rows"),
    [
        ((12, 75, 100), (4, 7, 9), (5, 6, 6), [0, 1, 2]),
        ((75,), (7,), (6,), [1]),
        ((12,), (4,), (5,), [0]),
        ((100, 12), (9, 4), (6, 5), [2, 0]),
        ((75,), (9,), (6,), [2]),  # encoded by another model than is usual at that rate
        ((100, 12), (), (6, 5), [2, 0]),
        ((75, 12, 25), (7, 4, 9), (6, 5, 6), [1, 0, 2]),  # rate 25 is new, its codec model is not
    ],
)
def test_weights_go_on_with_some_of_their_codec_models(
    rates: tuple[int, ...], indices: tuple[int, ...], channels: tuple[int, ...], rows: list[int]
) -> None:
    taken = projections_of(START, knowing(rates, indices, channels), "w.pth")
    assert torch.equal(taken["projection.weight"], START.projection.weight[rows, : max(channels)])
    assert torch.equal(taken["projection.bias"], START.projection.bias[rows])


def measured(channels: tuple[int, ...]) -> LatentStatistics:
    rows = tuple(range(len(channels)))
    empty = torch.zeros(len(rows), max(channels))
    return LatentStatistics(empty, empty, rows, rows, rows, rows, channels)


@pytest.mark.parametrize(
    ("recipe", "given", "channels", "width"),
    [
        ("modern", -1, (256, 256), 128),
        ("modern", -1, (256,), 0),
        ("modern", -1, (60, 60), 60),
        ("modern", 0, (256, 256), 0),
        ("modern", 64, (256,), 64),
        ("modern", -1, (192, 320), 128),
        ("retinaface", -1, (256, 256), 0),
        ("retinaface", -1, (192, 320), 192),
        ("retinaface", 0, (192, 320), 192),
        ("retinaface", 32, (192, 320), 32),
    ],
)
def test_projection_where_it_is_left_open(recipe: str, given: int, channels: tuple[int, ...], width: int) -> None:
    assert _projection(TrainConfig(recipe=recipe, projection=given), measured(channels)) == width
    assert _projection(TrainConfig(recipe=recipe), None) == 0  # pictures


def test_a_row_that_no_picture_takes_is_no_codec_model() -> None:
    empty = torch.zeros(2, 256)
    assert _projection(TrainConfig(), LatentStatistics(empty, empty, (75,), (0,), (7,), (0,), (256, 256))) == 0


def test_rows_that_no_picture_takes_keep_their_own() -> None:
    """Most pictures of rate 75 name model index 7, some none: these take its row too."""
    statistics = LatentStatistics(torch.zeros(2, 6), torch.ones(2, 6), (75,), (0,), (7,), (0,))
    model = RetinaFace(ModelConfig("light", "shuffle", channels=6, projection=8), statistics)
    taken = projections_of(START, model, "w.pth")["projection.weight"]
    assert torch.equal(taken[0], START.projection.weight[1])
    assert torch.equal(taken[1], model.projection.weight[1])


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (knowing((12,), (4,), projection=0), "w.pth has another projection: give --projection 8"),
        (
            knowing((12, 25), (4, 5), (5, 6)),
            "w.pth has no projection for model index 5: it is for another codec or other rates",
        ),
        (knowing((12, 25), (), (5, 6)), "w.pth has no projection for rate 25: it is for another codec or other rates"),
        (
            knowing((75,), (7,), (5,)),
            "w.pth: its projection for model index 7 takes 6 channels, these latents have 5",
        ),
    ],
)
def test_weights_with_other_projections_get_a_line(model: RetinaFace, said: str) -> None:
    with pytest.raises(LatentFaceError, match=f"^{said}$"):
        projections_of(START, model, "w.pth")


def test_projections_that_could_be_meant_are_named(capsys: pytest.CaptureFixture) -> None:
    """One network for both rates here, whose model index the weights do not know: they have a map for each rate."""
    apart = knowing((12, 75), (), (6, 6))
    together = LatentStatistics(torch.zeros(1, 6), torch.ones(1, 6), (12, 75), (0, 0), (3,), (0,))
    model = RetinaFace(ModelConfig("light", "shuffle", channels=6, projection=8), together)
    taken = projections_of(apart, model, "w.pth")["projection.weight"]
    assert torch.equal(taken[0], apart.projection.weight[0])
    assert capsys.readouterr().out == "note: w.pth has 2 projections for model index 3: that for rate 12 is taken\n"


def test_weights_without_projection_say_what_they_go_on_with() -> None:
    start = knowing((12,), (4,), projection=0)
    with pytest.raises(
        LatentFaceError, match=r"^w.pth has no projection: it goes on with --projection 0 and latents of "
    ):
        projections_of(start, START, "w.pth")


def test_projections_of_another_codec_are_refused(drawn_photographs: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        dataset_root=str(drawn_photographs), out=str(tmp_path / "run"), model="mobilenet", rates=(75,),
        weight=str(pretrained("jpegai")), epochs=1, no_wandb=True, workers=0,
    )  # fmt: skip
    with pytest.raises(LatentFaceError, match=r"jpegai.pth was trained on latents of jpegai, these are of dct: its "):
        train(config)
    assert not (tmp_path / "run").exists()


def test_the_weights_that_come_along_are_found_by_codec(drawn_photographs: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        dataset_root=str(drawn_photographs), out=str(tmp_path / "run"), model="mobilenet", rates=(75,),
        weight="pretrained", epochs=1, lr=0.0, no_wandb=True, workers=0, precision="float32",
    )  # fmt: skip
    went_on, start = load_checkpoint(train(config) / "weight_final.pth"), load_checkpoint(pretrained("dct"))
    assert went_on.config == start.config
    entry = [name for name in start.state if name.startswith(("entry.", "projection."))]
    learnt = [name for name in entry if "running" not in name and "num_batches" not in name]
    assert all(torch.equal(went_on.state[name], start.state[name].float()) for name in learnt)
    said = plain_yaml(str(tmp_path / "run" / "config.yaml"))
    assert (said["weight"], said["bridge"], said["projection"]) == ("pretrained", "refined", 128)
    with pytest.raises(LatentFaceError, match=r"mobilenet_dct.pth holds a mobilenet, not a light: give --model m"):
        train(replace(config, model="light", out=str(tmp_path / "other")))


SAME_CODECS = [
    ("dct", "dct"), ("unknown", "dct"), ("dct", "unknown"), ("dct", "dct and unknown"), ("dct and unknown", "dct"),
    ("dct and unknown", "dct and unknown"), ("dct and jpegai", "dct and jpegai"), ("dct and jpegai", "jpegai"),
]  # fmt: skip


def test_without_projections_another_codec_is_named(capsys: pytest.CaptureFixture) -> None:
    for projection in (0, 8):
        for theirs, here in SAME_CODECS:
            _check_codec("w.pth", theirs, here, projection)
            assert capsys.readouterr().out == ""
    _check_codec("w.pth", "dct", "jpegai", projection=0)
    assert capsys.readouterr().out == "note: w.pth was trained on latents of dct, these are of jpegai\n"


def test_a_detector_of_pixels_that_goes_on_keeps_its_range(drawn_photographs: Path, tmp_path: Path) -> None:
    twin = RetinaFace(ModelConfig("mobilenet", input="picture", channels=3, stride=1))
    twin.normalisation.mean.fill_(100.0)
    save_checkpoint(tmp_path / "twin.pth", twin, {})
    photos = drawn_photographs / "photos" / "train"
    encode(
        EncodeConfig(
            images=str(photos), labels=str(photos / "labels.txt"), out=str(tmp_path / "pixels" / "train"),
            codec="pixels", rates=(0,), size=96, dtype="uint8", workers=1,
        )
    )  # fmt: skip
    folder = train(
        TrainConfig(
            dataset_root=str(tmp_path / "pixels"), rates=(0,), model="mobilenet", weight=str(tmp_path / "twin.pth"),
            epochs=1, workers=0, no_wandb=True, out=str(tmp_path / "run"),
        )
    )  # fmt: skip
    assert load_checkpoint(folder / "weight_final.pth").state["normalisation.mean"].flatten().tolist() == [100.0] * 3
    settings = {"model": "mobilenet", "epochs": 1, "workers": 0, "no_wandb": True, "out": str(tmp_path / "refused")}
    with pytest.raises(LatentFaceError, match=r"twin.pth looks at pictures, these are latents: --teacher learns from"):
        train(TrainConfig(dataset_root=str(drawn_photographs), weight=str(tmp_path / "twin.pth"), **settings))
    pixels = {"dataset_root": str(tmp_path / "pixels"), "rates": (0,)}
    with pytest.raises(LatentFaceError, match=r"jpegai.pth looks at latents, these are pixels: give a detector of pi"):
        train(TrainConfig(**pixels, weight=str(pretrained("jpegai")), **settings))
    with pytest.raises(LatentFaceError, match=r"of pixels come with .*: give a file by --weight, or leave it out to"):
        train(TrainConfig(**pixels, weight="pretrained", **settings))
