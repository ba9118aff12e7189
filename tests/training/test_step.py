"""Numbers that are not finite never enter the weights; who diverges is stopped with the pictures named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import write_tree
from torch import Tensor

from latentface.errors import LatentFaceError
from latentface.model.checkpoint import load_checkpoint
from latentface.torch_file import read_torch_file
from latentface.training import journal, loop, setup, step
from latentface.training.config import TrainConfig
from latentface.training.journal import read_rows
from latentface.training.loop import train
from latentface.training.step import BAD_IN_A_ROW, Run


def config(root: Path, out: Path, **changes) -> TrainConfig:
    settings = {"model": "light", "bridge": "shuffle", "epochs": 2, "batch_size": 2, "workers": 0, "device": "cpu"}
    settings |= {"precision": "float32", "warmup": 0.0}
    return TrainConfig(dataset_root=str(root), out=str(out), no_wandb=True, **(settings | changes))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ only: six pictures of 64x64, three batches of two."""
    folder = tmp_path_factory.mktemp("step")
    write_tree(folder / "train", 6, (75,), seed=1, size=64)
    return folder


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "draw_curves", lambda rows, path: None)  # half the time of these runs


def spoil(monkeypatch: pytest.MonkeyPatch, when, change) -> None:
    """`change(run, batch, losses)` in place of the losses of the calls, counted from 1, that `when` is true of."""
    compute, calls = step.compute_losses, [0]

    def changed(run: Run, batch) -> dict[str, Tensor]:
        calls[0] += 1
        return change(compute, run, batch) if when(calls[0]) else compute(run, batch)

    monkeypatch.setattr(step, "compute_losses", changed)


def without_a_gradient(compute, run: Run, batch) -> dict[str, Tensor]:
    """The same value, but the slope of a square root at 0, which is infinite, times 0."""
    losses = compute(run, batch)
    nothing = sum(parameter.sum() for parameter in run.model.parameters()) * 0.0
    return losses | {"total": losses["total"] + nothing.square().sqrt()}


def watch(monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    """What there is after each step."""
    seen, take_step = [], loop.take_step

    def watched(run: Run, group) -> None:
        take_step(run, group)
        seen.append(
            SimpleNamespace(
                weights={name: p.detach().clone() for name, p in run.model.named_parameters()},
                buffers={name: b.clone() for name, b in run.model.named_buffers()},
                averaged=None if run.average is None else int(run.average.n_averaged),
                lr=run.optimizer.param_groups[-1]["lr"], progress=replace(run.progress),
            )
        )  # fmt: skip

    monkeypatch.setattr(loop, "take_step", watched)
    return seen


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_gradient_that_is_not_finite_skips_the_step(
    precision: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    usual = watch(monkeypatch)
    with monkeypatch.context() as patch:
        train(config(root, tmp_path / "usual", precision=precision))
        rates = [one.lr for one in usual]
        usual.clear()
        spoil(patch, lambda call: call == 2, without_a_gradient)
        folder = train(config(root, tmp_path / "run", precision=precision))
    assert equal(usual[0].weights, usual[1].weights)
    assert not equal(usual[1].weights, usual[2].weights)
    assert all(weight.isfinite().all() for weight in usual[-1].weights.values())
    assert [one.averaged for one in usual] == [1, 1, 2, 3, 4, 5]  # the average does not know of it
    assert [one.lr for one in usual] == rates  # nor does the schedule
    assert [row["skipped_steps"] for row in read_rows(folder / "metrics.jsonl")] == [1, 0]
    out = capsys.readouterr().out.splitlines()
    [line] = [line for line in out if "skipped" in line]
    assert line.startswith("epoch 1/2")
    assert "1 steps skipped, their loss or gradients were not finite" in line


def test_a_run_with_a_skipped_step_is_resumed_exactly(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        spoil(patch, lambda call: call == 2, without_a_gradient)
        whole = train(config(root, tmp_path / "whole"))
    with monkeypatch.context() as patch:
        spoil(patch, lambda call: call == 2, without_a_gradient)
        seen = watch(patch)
        patch.setattr(loop.StopRequest, "reason", property(lambda stop: "told" if len(seen) == 2 else ""))
        folder = train(config(root, tmp_path / "run"))
    assert read_torch_file(folder / "state.pth")["progress"]["skipped"] == 1
    train(config(root, tmp_path / "x", resume=str(folder)))
    assert [row["skipped_steps"] for row in read_rows(folder / "metrics.jsonl")] == [1, 0]
    assert equal(*(load_checkpoint(one / "weight_final.pth").state for one in (whole, folder)))


def test_the_guard_changes_no_bit_of_a_sound_run(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guarded = train(config(root, tmp_path / "guarded"))
    monkeypatch.setattr(setup, "build_scaler", lambda device, precision: torch.amp.GradScaler("cpu", enabled=False))
    monkeypatch.setattr(step, "_update", bare_update)
    bare = train(config(root, tmp_path / "bare"))
    assert equal(*(load_checkpoint(one / "weight_final.pth").state for one in (guarded, bare)))


def bare_update(run: Run) -> bool:
    run.optimizer.step()
    run.average.update_parameters(run.model)
    return True


@pytest.mark.parametrize("recipe", ["retinaface", "modern"])
def test_float16_searches_its_scale_and_learns(
    recipe: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first scale is 2**16, too large for these gradients: what is skipped leaves no trace in the momentum."""
    seen = watch(monkeypatch)
    folder = train(config(root, tmp_path / "run", precision="float16", recipe=recipe, epochs=4))
    skipped = [one.progress.bad_in_a_row > 0 for one in seen]
    assert skipped[0]
    assert not all(skipped)
    first = skipped.index(False)
    assert equal(seen[0].weights, seen[first - 1].weights)
    rows = read_rows(folder / "metrics.jsonl")
    assert sum(row["skipped_steps"] for row in rows) == sum(skipped)
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_fused_sgd_has_a_momentum_before_its_first_step() -> None:
    """PyTorch's takes memory as it finds it where the scaler skips the first step."""
    parameter = torch.nn.Parameter(torch.zeros(3))
    model = SimpleNamespace(named_parameters=lambda: [("entry.weight", parameter)])
    optimizer = setup.build_optimizer(TrainConfig(recipe="retinaface"), model)  # type: ignore[arg-type]
    assert torch.equal(optimizer.state[parameter]["momentum_buffer"], torch.zeros(3))
    parameter.grad = torch.ones(3)
    optimizer.step()
    assert torch.equal(optimizer.state[parameter]["momentum_buffer"], torch.ones(3))  # as without one
    assert torch.equal(parameter.detach(), torch.full((3,), -0.001))


def test_a_loss_too_large_for_float16_skips_the_step_and_its_statistics(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Activations overflow, so that batch statistics would hold infinity ever after."""
    seen = watch(monkeypatch)
    spoil(monkeypatch, lambda call: call == 5, too_strong)
    folder = train(config(root, tmp_path / "run", precision="float16"))
    assert seen[4].progress.bad_in_a_row >= 1
    assert equal(seen[3].buffers, seen[4].buffers)
    assert equal(seen[3].weights, seen[4].weights)
    assert not equal(seen[4].buffers, seen[5].buffers)
    assert all(buffer.isfinite().all() for buffer in seen[5].buffers.values())
    out = capsys.readouterr().out
    assert out.count("step skipped: the loss is not finite in epoch 2, batch 2 (") == 1
    assert read_rows(folder / "metrics.jsonl")[1]["skipped_steps"] >= 1


def too_strong(compute, run: Run, batch) -> dict[str, Tensor]:
    """The first weights are beyond float16 for once."""
    weight = next(run.model.entry.parameters()).data
    before = weight.clone()
    weight.mul_(1e10)
    try:
        return compute(run, batch)
    finally:
        weight.copy_(before)


def test_a_run_that_cannot_take_a_step_any_more_is_given_up_with_the_pictures(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch(monkeypatch)
    spoil(monkeypatch, lambda call: call > 3, without_a_gradient)
    with pytest.raises(LatentFaceError) as caught:
        train(config(root, tmp_path / "run", epochs=20, save_minutes=1e-9))
    assert len(seen) == 3 + BAD_IN_A_ROW - 1  # the last was not finished
    message = str(caught.value)
    assert message.startswith(
        "the training diverges: 25 steps in a row had a loss over 10000, or one or gradients that are not finite, the "
        "last in epoch 10, batch 1, pictures drawn_1_"  # 28 steps of three an epoch
    )
    assert message.endswith(
        f"lower --lr, look at labels and latents; the weights of earlier epochs are in {tmp_path / 'run'}"
    )
    assert equal(seen[2].weights, seen[-1].weights)
    state = read_torch_file(tmp_path / "run" / "state.pth")
    assert all(tensor.isfinite().all() for tensor in state["model"].values())


def test_a_loss_that_explodes_and_stays_finite_is_given_up(root: Path, tmp_path: Path) -> None:
    """A learning rate a thousand times too high."""
    with pytest.raises(LatentFaceError, match=r"the training diverges: .* pictures drawn_1_\d, drawn_1_\d: lower --lr"):
        train(config(root, tmp_path / "run", recipe="retinaface", lr=1.0, epochs=40))


def test_a_loss_that_explodes_to_infinity_is_given_up(root: Path, tmp_path: Path) -> None:
    with pytest.raises(LatentFaceError, match=r"the loss is not finite in epoch 1, batch \d .* pictures drawn_1_\d"):
        train(config(root, tmp_path / "run", recipe="retinaface", lr=1e6))


def test_accumulated_batches_are_skipped_together(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three batches in steps of two; the second batch of the first step overflows."""
    seen = watch(monkeypatch)
    spoil(monkeypatch, lambda call: call == 2, too_strong)
    folder = train(config(root, tmp_path / "run", precision="float16", accumulate=2, epochs=1))
    assert [one.progress.batch for one in seen] == [2, 3]
    assert seen[0].progress.pictures == 2  # the mean loss is that of batches that had one
    assert read_rows(folder / "metrics.jsonl")[0]["skipped_steps"] >= 1
