"""Training on two processes, started by torchrun as a user would: the same result as one, and what a death does."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_tree
from torch import Tensor, distributed, nn

from latentface.data.batches import EpochBatches
from latentface.errors import LatentFaceError
from latentface.evaluation.average_precision import DetectionTally, PictureResult, find_pairs
from latentface.model.checkpoint import load_checkpoint
from latentface.model.loss import MultiTaskLoss, Targets
from latentface.torch_file import read_torch_file
from latentface.training import ranks, setup
from latentface.training.config import TrainConfig
from latentface.training.distillation import feature_loss, output_loss
from latentface.training.journal import read_rows
from latentface.training.loop import train
from latentface.training.ranks import Ranks, joined
from latentface.training.shared_norm import counted, share_statistics
from latentface.training.validation import validate

SETTINGS = {
    "model": "light", "bridge": "shuffle", "epochs": 2, "batch_size": 4, "device": "cpu", "precision": "float32",
    "workers": 0, "no_wandb": True, "rates": (25, 75), "accumulate": 2, "save_minutes": 1e-9, "optimizer": "sgd",
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ (ten pictures of 64x64: batches of four, four and two) and val/ (nine)."""
    folder = tmp_path_factory.mktemp("ranks")
    write_tree(folder / "train", 10, (25, 75), seed=1, size=64)
    write_tree(folder / "val", 9, (25, 75), seed=2, size=64)
    return folder


def run(root: Path, out: Path, *options: str, fatal: int = 0, restarts: int = 0, **changes):
    """Two processes; the standard output and error of all."""
    flags = [
        f"--max-restarts={restarts}",
        str(Path(__file__).with_name("rank.py")),
        str(fatal),
        "--dataset_root",
        str(root),
    ]
    for name, value in (SETTINGS | {"out": out} | changes).items():
        many = value if isinstance(value, tuple) else (value,)
        flags += [f"--{name}"] if value is True else [f"--{name}", *map(str, many)]
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *flags, *options],
        capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "2"},
    )  # fmt: skip


def weights(folder: Path) -> dict[str, Tensor]:
    return load_checkpoint(folder / "weight_final.pth").state


def furthest(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """Largest difference, relative to the largest value of each tensor."""
    assert first.keys() == second.keys()
    pairs = [(one.double(), second[name].double()) for name, one in first.items() if one.numel()]
    return max(float((one - two).abs().max() / one.abs().max().clamp(min=1e-3)) for one, two in pairs)


@pytest.fixture(scope="module")
def two(root: Path) -> tuple[Path, str]:
    """A run of two processes with shared batch norm, and what it printed."""
    done = run(root, root / "two", "--sync_bn")
    assert done.returncode == 0, done.stderr
    return root / "two", done.stdout


def test_two_processes_are_one_with_the_same_batch(root: Path, two: tuple[Path, str]) -> None:
    folder, printed = two
    one = train(TrainConfig(dataset_root=str(root), out=str(root / "one"), **SETTINGS))
    assert furthest(weights(one), weights(folder)) < 1e-3
    for first, second in zip(*(read_rows(place / "metrics.jsonl") for place in (one, folder)), strict=True):
        assert {name: first[name] for name in first if name.startswith("loss")} == pytest.approx(
            {name: second[name] for name in second if name.startswith("loss")}, rel=1e-3
        )
    assert printed.count("experiment directory") == 1  # one speaks


def test_shared_validation_is_that_of_one_process_to_the_bit(root: Path, two: tuple[Path, str]) -> None:
    config = TrainConfig(dataset_root=str(root), **SETTINGS)
    _, validation = setup.open_datasets(config)
    assert validation is not None
    model = load_checkpoint(two[0] / "weight_final.pth").build()
    alone = validate(model, validation, config, torch.float32, Ranks())
    assert alone == read_rows(two[0] / "metrics.jsonl")[-1]["val_ap"]


def test_death_of_a_process_ends_the_run_with_a_line_and_one_process_can_go_on(root: Path) -> None:
    """Batches of three, three, three and one: the last has nothing for the second process."""
    done = run(root, root / "killed", fatal=3, batch_size=3)
    assert done.returncode != 0
    assert "process 0 of 2 (0 to 1) lost another one of the run" in done.stderr
    assert f"continue with --resume {root / 'killed'}" in done.stderr
    progress = read_torch_file(root / "killed" / "state.pth")["progress"]
    assert (progress["epoch"], progress["batch"]) == (1, 0)  # the step after it was not saved by all
    train(TrainConfig(**SETTINGS | {"dataset_root": str(root), "resume": str(root / "killed"), "batch_size": 3}))
    assert [row["epoch"] for row in read_rows(root / "killed" / "metrics.jsonl")] == [1, 2]


def test_a_restart_does_not_take_over_another_run(
    root: Path, two: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    same = TrainConfig(**SETTINGS | {"dataset_root": str(root), "out": str(two[0]), "sync_bn": True})
    assert setup.settled(same, torch.device("cpu"), Ranks(0, 2)).resume == str(two[0])
    with pytest.raises(LatentFaceError, match="already holds a run"):
        train(replace(same, lr=0.5))


def test_torchrun_brings_it_back(root: Path, two: tuple[Path, str]) -> None:
    done = run(root, root / "back", "--sync_bn", fatal=3, restarts=1)
    assert done.returncode == 0, done.stderr
    first, second = weights(two[0]), weights(root / "back")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_every_sample_is_somebodys_once() -> None:
    parts = [EpochBatches(9, 4, seed=3, rank=rank, ranks=2) for rank in range(2)]
    alone = [[key.picture for key in batch] for batch in EpochBatches(9, 4, seed=3)]
    shared = [[[key.picture for key in batch] for batch in part] for part in parts]
    assert [len(batches) for batches in shared] == [3, 3]
    for number, batch in enumerate(alone):
        assert shared[0][number] == batch[::2]
        assert shared[1][number] == (batch[1::2] or batch[:1])
    assert [part.shares(2) for part in parts] == [(1, 1), (1, 0)]
    assert [part.shares(0) for part in parts] == [(4, 2), (4, 2)]


@pytest.mark.parametrize("options", [{}, {"class_loss": "quality", "box_loss": "giou", "matching": "atss"}])
def test_parts_of_the_loss_add_up_to_it(options: dict[str, str]) -> None:
    generator = torch.Generator().manual_seed(0)
    priors = torch.rand(48, 4, generator=generator) * 40 + 12
    boxes = torch.rand(3, 2, 4, generator=generator) * 30
    boxes[..., 2:] += boxes[..., :2] + 8
    valid = torch.tensor([[True, True], [True, False], [False, False]])
    landmarks = torch.rand(3, 2, 10, generator=generator) * 40
    landmarks[1] = torch.nan
    targets = [boxes, landmarks, valid, torch.zeros_like(valid)]
    found = {n: torch.randn(3, 48, k, generator=generator) for n, k in (("scores", 2), ("boxes", 4), ("landmarks", 10))}
    whole = MultiTaskLoss(**options)(found, Targets(*targets), priors, (32, 16))
    counts: list[Tensor] = []
    MultiTaskLoss(add_up=lambda count: counts.append(count) or count, **options)(
        found, Targets(*targets), priors, (32, 16)
    )
    parts = []
    for rows in (slice(0, 1), slice(1, 3), slice(3, 3)):  # the last part is empty
        known = iter(counts)
        loss = MultiTaskLoss(add_up=lambda count, known=known: next(known), **options)
        own = {name: value[rows] for name, value in found.items()}
        parts.append(loss(own, Targets(*(value[rows] for value in targets)), priors, (32, 16)))
    for name, value in whole.items():
        assert sum(part[name] for part in parts).item() == pytest.approx(value.item(), rel=1e-5), name


def test_parts_of_the_teachers_loss_add_up_to_it() -> None:
    generator = torch.Generator().manual_seed(0)
    levels = [torch.randn(3, 6, side, side, generator=generator) for side in (4, 2)]
    goals = [torch.randn(3, 5, side, side, generator=generator) for side in (4, 2)]
    face = torch.rand(3, 40, generator=generator)
    found, taught = (
        {n: torch.randn(3, 40, k, generator=generator) for n, k in (("scores", 2), ("boxes", 4), ("landmarks", 10))}
        for _ in range(2)
    )
    sums: list[Tensor] = []
    whole = feature_loss(levels, goals, face) + output_loss(found, taught, face)
    for function, values in ((feature_loss, (levels, goals, face)), (output_loss, (found, taught, face, (1, 1, 1)))):
        function(*values, lambda value: sums.append(value) or value)
    total = torch.zeros(())
    for rows in (slice(0, 2), slice(2, 3), slice(3, 3)):
        known = iter(sums)
        own = [[level[rows] for level in some] for some in (levels, goals)]
        total = total + feature_loss(*own, face[rows], lambda value, known=known: next(known))
        predictions = [{name: value[rows] for name, value in some.items()} for some in (found, taught)]
        total = total + output_loss(*predictions, face[rows], add_up=lambda value, known=known: next(known))
    assert total.item() == pytest.approx(whole.item(), rel=1e-5)


def test_tallies_of_parts_are_that_of_the_whole() -> None:
    random = np.random.default_rng(0)

    def result() -> PictureResult:
        corners = random.uniform(0, 50, (6, 2))
        boxes = np.hstack([corners, corners + random.uniform(10, 40, (6, 2))])
        scores = random.integers(0, 4, 6) / 4  # many are equal
        return PictureResult(boxes, scores, np.zeros((6, 5, 2)), boxes[:3] + 2, np.zeros((3, 5, 2)), np.zeros(3, bool))

    results = [result() for _ in range(20)]
    whole, parts = DetectionTally(), [DetectionTally() for _ in range(3)]
    for number, one in enumerate(results):
        for tally in (whole, parts[min(number // 9, 2)]):
            tally.add(one, find_pairs(one, 0.5))
    joined_tally = DetectionTally()
    for part in parts:
        joined_tally.extend(part)
    assert joined_tally.score().ap == whole.score().ap
    assert joined_tally.score().truths == 60


def test_more_processes_than_gpus_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "pick_device", lambda name: torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(LatentFaceError, match="2 processes on 1 GPUs: give torchrun --nproc_per_node 1"):
        Ranks(1, 2, 1, 2).device("")


def test_alone_without_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined() as alone:
        assert alone == Ranks()
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(LatentFaceError, match="WORLD_SIZE='two' is no number"), joined():
        pass


def test_a_picture_that_does_not_count_leaves_shared_statistics_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes by turns: what the first one adds up is added to what the second one gives."""
    generator = torch.Generator().manual_seed(0)
    batch, guest = torch.randn(3, 4, 5, 5, generator=generator), torch.randn(1, 4, 5, 5, generator=generator) + 9
    alone = nn.BatchNorm2d(4).train()
    expected = alone(batch)
    sums: list[Tensor] = []
    monkeypatch.setattr(distributed, "all_reduce", lambda total: sums.append(total.clone()))
    model = nn.Sequential(nn.BatchNorm2d(4)).train()
    share_statistics(model)
    assert torch.allclose(model(batch), expected, atol=1e-6)
    others = iter(list(sums))
    monkeypatch.setattr(distributed, "all_reduce", lambda total: total.add_(next(others)))
    model[0].reset_running_stats()
    with counted(model, False):
        model(guest)
    assert torch.allclose(model[0].running_mean, alone.running_mean, atol=1e-6)
    assert torch.allclose(model[0].running_var, alone.running_var, atol=1e-6)


def test_processes_that_differ_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    two = Ranks(0, 2)
    monkeypatch.setattr(Ranks, "gather", lambda self, value: [value, "another"])
    with pytest.raises(LatentFaceError, match="process 0 and process 1 differ in --precision"):
        two.agree("--precision", "float32")
