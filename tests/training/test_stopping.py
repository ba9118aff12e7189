"""Asked to stop at any moment: it saves first, and what is resumed equals a run that was never asked, to the bit."""

from __future__ import annotations

import io
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, write_tree

from latentface.errors import LatentFaceError
from latentface.model.checkpoint import load_checkpoint
from latentface.torch_file import read_torch_file
from latentface.training import journal, loop, setup, stopping, validation
from latentface.training.config import TrainConfig
from latentface.training.journal import read_rows
from latentface.training.loop import train
from latentface.training.state import Order, refuse_another
from latentface.training.stopping import StopRequest


def config(root: Path, out: Path, **changes) -> TrainConfig:
    settings = {"model": "light", "bridge": "shuffle", "epochs": 2, "batch_size": 2, "workers": 0, "device": "cpu"}
    return TrainConfig(dataset_root=str(root), out=str(out), no_wandb=True, **(settings | changes))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ (four pictures of 64x64) and val/ (two)."""
    folder = tmp_path_factory.mktemp("stopping")
    write_tree(folder / "train", 4, (75,), seed=1, size=64)
    write_tree(folder / "val", 2, (75,), seed=2, size=64)
    return folder


@pytest.fixture(scope="module")
def whole(root: Path) -> dict[str, torch.Tensor]:
    """The last weights of a run that nobody stopped."""
    torch.set_num_threads(2)
    return load_checkpoint(train(config(root, root / "whole")) / "weight_final.pth").state


@pytest.fixture(autouse=True)
def _ctrl_c_counts() -> None:
    """Whoever starts the tests in the background leaves SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "draw_curves", lambda rows, path: None)  # half the time of these runs


def assert_resumed_equals(whole: dict[str, torch.Tensor], root: Path, folder: Path) -> None:
    train(config(root, folder, resume=str(folder)))
    found = load_checkpoint(folder / "weight_final.pth").state
    assert all(torch.equal(whole[name], found[name]) for name in whole)


def send(*numbers: int) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)


def acting(function: Callable, when: int, act: Callable[[], None]) -> Callable:
    """`function`, but that `act` goes before its so-many-th call."""
    calls = [0]

    def changed(*arguments, **keywords):
        calls[0] += 1
        if calls[0] == when:
            act()
        return function(*arguments, **keywords)

    return changed


@pytest.mark.parametrize(
    ("signals", "reason"),
    [
        ([signal.SIGTERM], "asked to terminate"),
        ([signal.SIGINT], "interrupted"),
        ([signal.SIGINT, signal.SIGINT], "interrupted"),
        ([signal.SIGHUP], "the terminal is gone"),
    ],
    ids=["SIGTERM", "Ctrl-C", "Ctrl-C twice", "SIGHUP"],
)
def test_in_a_step(
    signals: list[int], reason: str, root: Path, whole, tmp_path: Path, monkeypatch, capfd: pytest.CaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(loop, "take_step", acting(loop.take_step, 3, lambda: send(*signals)))
        folder = train(config(root, tmp_path / "run"))
    said = capfd.readouterr()
    assert f"stopped: {reason}. Continue with --resume {folder}" in said.out
    assert f"{reason}: stopping after this step, then saving\n" in said.err
    assert said.err.count("still saving; once more stops at once") == len(signals) - 1
    progress = read_torch_file(folder / "state.pth")["progress"]
    assert (progress["epoch"], progress["batch"]) == (1, 1)  # the step was finished
    assert_resumed_equals(whole, root, folder)


def test_a_third_ctrl_c_leaves_at_once_with_the_last_state(root: Path, whole, tmp_path: Path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(loop, "take_step", acting(loop.take_step, 4, lambda: send(*[signal.SIGINT] * 3)))
        with pytest.raises(KeyboardInterrupt):
            train(config(root, tmp_path / "run"))
    progress = read_torch_file(tmp_path / "run" / "state.pth")["progress"]
    assert (progress["epoch"], progress["batch"]) == (1, 0)
    assert_resumed_equals(whole, root, tmp_path / "run")


def test_in_the_validation(root: Path, whole, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture) -> None:
    """It may take minutes, more than who ends a job will wait: it is left, and done anew."""
    with monkeypatch.context() as patch:  # two calls are the trial before the first epoch
        patch.setattr(validation, "predict", acting(validation.predict, 3, lambda: send(signal.SIGTERM)))
        folder = train(config(root, tmp_path / "run", batch_size=1))
    assert "stopped: asked to terminate" in capsys.readouterr().out
    assert not (folder / "weight_1.pth").exists()
    progress = read_torch_file(folder / "state.pth")["progress"]
    assert (progress["epoch"], progress["batch"]) == (0, 4)
    train(config(root, tmp_path / "x", batch_size=1, resume=str(folder)))
    other = train(config(root, tmp_path / "other", batch_size=1))
    assert [row["val_ap"] for row in read_rows(folder / "metrics.jsonl")] == [
        row["val_ap"] for row in read_rows(other / "metrics.jsonl")
    ]


@pytest.mark.parametrize("signals", [1, 3])
def test_while_saving(signals: int, root: Path, whole, tmp_path: Path, monkeypatch) -> None:
    """Half of the state is written when they come: one lets it be finished, three leave the one before."""
    save, saved = torch.save, [0]

    def save_half(content, file) -> None:
        if "progress" not in content:
            return save(content, file)
        saved[0] += 1
        buffer = io.BytesIO()
        save(content, buffer)
        half = len(buffer.getvalue()) // 2
        file.write(buffer.getvalue()[:half])
        if saved[0] == 3:  # the end of the first epoch: it was saved at the start and before validation
            send(*[signal.SIGTERM] * signals)
        file.write(buffer.getvalue()[half:])

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save_half)
        if signals == 1:
            train(config(root, tmp_path / "run"))
        else:
            with pytest.raises(KeyboardInterrupt):
                train(config(root, tmp_path / "run"))
    progress = read_torch_file(tmp_path / "run" / "state.pth")["progress"]
    assert (progress["epoch"], progress["batch"]) == ((1, 1) if signals == 1 else (0, 2))
    assert not list((tmp_path / "run").glob(".*"))
    assert_resumed_equals(whole, root, tmp_path / "run")


def test_killed_before_the_first_state_it_begins_again(
    root: Path, whole, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture
) -> None:
    """Fitting the entry to a teacher takes minutes; until then there is a folder with settings in it."""

    def die(*_) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(setup, "build_average", die)
        with pytest.raises(RuntimeError, match="killed"):
            train(config(root, tmp_path / "run"))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.yaml"]
    assert_resumed_equals(whole, root, tmp_path / "run")
    assert "stopped before anything was saved, so it begins again" in capsys.readouterr().out


def test_a_final_file_of_an_earlier_end_is_not_taken_for_the_last(root: Path, tmp_path: Path, monkeypatch) -> None:
    """Killed between the last state and weight_final.pth, in a run that once had fewer epochs."""
    folder = train(config(root, tmp_path / "run", epochs=1))

    def die(path, *rest) -> None:
        if path.name == "weight_final.pth":
            raise RuntimeError("killed")
        save(path, *rest)

    save = loop.save_checkpoint
    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", die)
        with pytest.raises(RuntimeError, match="killed"):
            train(config(root, tmp_path / "x", epochs=2, resume=str(folder)))
    assert load_checkpoint(folder / "weight_final.pth").facts["epoch"] == 1
    train(config(root, tmp_path / "x", epochs=2, resume=str(folder)))
    assert load_checkpoint(folder / "weight_final.pth").facts["epoch"] == 2


def test_what_is_changed_when_it_goes_on_is_said(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = train(config(root, tmp_path / "run", epochs=1))
    capsys.readouterr()
    train(config(root, folder, epochs=2, lr=0.002, workers=1, resume=str(folder)))
    assert "otherwise than before: epochs 1 -> 2, lr 0.001 -> 0.002\n" in capsys.readouterr().out
    train(config(root, folder, epochs=3, lr=0.002, resume=str(folder)))
    assert "otherwise than before: epochs 2 -> 3\n" in capsys.readouterr().out


@pytest.mark.parametrize("inside", [False, True])
def test_a_run_does_not_go_on_with_another_codec(inside: bool) -> None:
    began = Order((75,), 9, 4, 1, 0, "light", codec="dct and unknown")
    for codec in ("dct", "unknown", "dct and unknown"):  # a manifest may have come or gone
        refuse_another(began, replace(began, codec=codec), Path("run"), inside=inside)
    said = "^run was stopped with codec dct and unknown, now it is jpegai: resume with the same$"
    with pytest.raises(LatentFaceError, match=said):
        refuse_another(began, replace(began, codec="jpegai"), Path("run"), inside=inside)


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            send(signal.SIGHUP)
            assert stop.reason == ""
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_hours_count_from_the_start_not_from_the_first_step(root: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    late = [0.0]
    clock = time.monotonic
    monkeypatch.setattr(stopping.time, "monotonic", lambda: clock() + late[0])
    monkeypatch.setattr(setup, "build_average", acting(setup.build_average, 1, lambda: late.__setitem__(0, 7200.0)))
    folder = train(config(root, tmp_path / "run", max_hours=1.0))
    assert "stopped: the time is up" in capsys.readouterr().out
    assert read_torch_file(folder / "state.pth")["progress"]["batch"] == 1


def test_a_clock_that_runs_backwards_changes_nothing(root: Path, whole, tmp_path: Path, monkeypatch) -> None:
    """It is set by hand or by the network: an hour back at every look."""
    now = [2e9]

    def back() -> float:
        now[0] -= 3600
        return now[0]

    monkeypatch.setattr(time, "time", back)
    saves, save = [], loop._save_state
    monkeypatch.setattr(loop, "_save_state", lambda run: (saves.append(1), save(run)))
    folder = train(config(root, tmp_path / "run", save_minutes=1e-9, max_hours=1.0))
    assert len(saves) == 9  # at the start; in each of two epochs after two steps, before validation and at the end
    assert all(row["seconds"] > 0 for row in read_rows(folder / "metrics.jsonl"))
    found = load_checkpoint(folder / "weight_final.pth").state
    assert all(torch.equal(whole[name], found[name]) for name in whole)


def test_nothing_asks_for_the_time_of_day() -> None:
    """Durations, limits and names of folders come from the monotonic clock and from numbers.

    The cache of what was fetched outlives processes: it goes by the times of its files, and may fetch something again.
    """
    for path in (REPOSITORY / "latentface").rglob("*.py"):
        if path.name == "cache.py":
            continue
        text = path.read_text(encoding="utf-8")
        assert not any(word in text for word in ("time.time(", "datetime.now", "today(", "localtime", "st_mtime")), path
