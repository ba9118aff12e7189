"""Full and read-only disks, little shared memory: a clear line, nothing old touched, nothing half written."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPOSITORY, write_tree

from latentface.apps.demo import DemoConfig, draw_split
from latentface.data.manifest import recover_manifest
from latentface.data.packed import open_shard
from latentface.data.stores import read_latent
from latentface.model.checkpoint import load_checkpoint
from latentface.torch_file import read_torch_file
from latentface.training import loop
from latentface.training.config import TrainConfig
from latentface.training.journal import read_rows

PAGE = 4096
# What training writes into an empty folder, in this order.
STAGES = ("the first state.pth", "weight_1.pth", "weight_best.pth", "metrics.jsonl", "curves.png", "state.pth")
COMMANDS = ("train", "pack", "encode", "detect", "export", "report")


@dataclass
class Outcome:
    """What became of the cases."""

    mounts: bool
    results: dict[str, dict[str, Any]]
    root: Path


@pytest.fixture(scope="module")
def outcome(drawn_dataset: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """All cases in one process, as the imports take longest."""
    root = tmp_path_factory.mktemp("disks")
    cases = [*training_cases(root), *command_cases(root, drawn_dataset, weights)]
    (root / "plan.json").write_text(json.dumps(cases))
    script = REPOSITORY / "tests" / "reliability" / "disks.py"
    extra = ["--without_namespaces"] if os.environ.get("WITHOUT_NAMESPACES") else []
    subprocess.run(
        [sys.executable, str(script), "plan.json", "result.json", *extra],
        cwd=root, env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}, check=True, timeout=300,
    )  # fmt: skip
    return Outcome(**json.loads((root / "result.json").read_text()), root=root)


def settings(root: Path, **changes: Any) -> TrainConfig:
    return TrainConfig(**(  # without a validation set, so that an epoch's end is the first thing saved after the start
        {"dataset_root": str(root / "data"), "model": "light", "bridge": "shuffle", "epochs": 1, "batch_size": 2,
         "workers": 0, "no_wandb": True, "precision": "float32", "device": "cpu", "recipe": "modern"} | changes
    ))  # fmt: skip


def flags(root: Path, **changes: Any) -> list[str]:
    known = vars(settings(root, **changes))
    names = (
        "dataset_root",
        "model",
        "bridge",
        "epochs",
        "batch_size",
        "workers",
        "precision",
        "device",
        "out",
        "resume",
    )
    return ["--no_wandb", *(word for name in names if known[name] != "" for word in (f"--{name}", str(known[name])))]


def training_cases(root: Path) -> Iterator[dict[str, Any]]:
    """One for each stage, with room for all before it and half of its own file."""
    write_tree(root / "data" / "train", 3, (75,), seed=4, size=64)
    torch.set_num_threads(1)
    first = first_state_pages(root)
    whole = loop.train(settings(root, out=str(root / "whole")))
    torch.set_num_threads(2)
    pages = {path.name: -(-path.stat().st_size // PAGE) for path in whole.iterdir()} | {STAGES[0]: first}
    used = 2  # the lock, config.yaml
    for stage in STAGES:
        folder = root / f"train {stage}"
        folder.mkdir()
        yield {
            "name": stage, "kind": "full", "folder": str(folder), "room": (used + pages[stage] // 2) * PAGE,
            "limit": pages["weight_1.pth"] * PAGE // 2, "keep": str(root / f"kept {stage}"),
            "arguments": ["train", *flags(root, out=str(folder))],
        }  # fmt: skip
        used += pages[stage]


def first_state_pages(root: Path) -> int:
    """Of a state that no optimiser has written into yet."""

    def stop(*_: Any) -> None:
        raise RuntimeError("stopped")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "take_step", stop)
        with pytest.raises(RuntimeError, match="stopped"):
            loop.train(settings(root, out=str(root / "begun")))
    return -(-(root / "begun" / "state.pth").stat().st_size // PAGE)


def command_cases(root: Path, dataset: Path, weights: Path) -> Iterator[dict[str, Any]]:
    """Each command on a full disk and on one that is read-only, into a folder where something is already."""
    latent = next((dataset / "val" / "latent").glob("*/latent_75.npy"))
    photographs = root / "photographs"
    draw_split(photographs, "train", 4, DemoConfig(out=str(root), pictures=4, held_out=1, size=96))
    write_tree(root / "many" / "train", 40, (75,), seed=3, size=64)
    evaluation = {"protocol": {}, "rates": {"75": {"all": {"ap": 0.5}, "mean_bpp": 0.7}}}
    (root / "evaluation.json").write_text(json.dumps(evaluation))
    arguments = {
        "pack": ["pack", str(root / "many"), "--dtype", "int8", "--out"],
        "encode": ["encode", "--images", str(photographs), "--size", "96", "--workers", "1", "--out"],
        "detect": ["detect", str(latent), "--weight", str(weights), "--out"],
        "export": ["export", str(weights), "--out"],
        "report": ["report", f"a={root / 'evaluation.json'}", "--out"],
    }
    room = {
        "pack": 42,
        "encode": 6,
        "detect": 1,
        "export": 1,
        "report": 1,
    }  # pages; of 40 latents packed, one each, a lock and a header
    for command, words in arguments.items():
        for kind in ("full", "read-only"):
            folder = root / f"{command} {kind}"
            folder.mkdir()
            (folder / "old.txt").write_text("old")
            out = folder / "model.pth" if command == "export" else folder
            yield {"name": f"{command} {kind}", "kind": kind, "folder": str(folder), "room": room[command] * PAGE,
                   "limit": 100, "keep": str(root / f"kept {command} {kind}"),
                   "arguments": [*words, str(out)]}  # fmt: skip
    folder = root / "train read-only"
    folder.mkdir()
    yield {"name": "train read-only", "kind": "read-only", "folder": str(folder), "keep": str(root / "kept train"),
           "arguments": ["train", *flags(root, out=str(folder))]}  # fmt: skip
    whole = root / "whole"
    yield {"name": "resume read-only", "kind": "read-only", "folder": str(whole),
           "arguments": ["train", *flags(root, resume=str(whole), epochs=2)]}  # fmt: skip
    data = root / "data"
    yield {"name": "data read-only", "kind": "read-only", "folder": str(data),
           "arguments": ["train", *flags(root, out=str(root / "trained from read-only data"))]}  # fmt: skip
    for pages in (2, 20):  # too few for semaphores, and for the second batch of 32 KB and seven small tensors
        out = root / f"shared memory of {pages} pages"
        yield {"name": f"shared memory of {pages} pages", "kind": "shared memory", "folder": str(data),
               "room": pages * PAGE, "arguments": ["train", *flags(root, out=str(out), workers=1)]}  # fmt: skip


def line_of(result: dict[str, Any]) -> str:
    """The one line that a mistake gives, perhaps after notes."""
    assert result["status"] == 2, result
    assert "Traceback" not in result["err"]
    [line] = [line for line in result["err"].splitlines() if line.startswith("latentface: error: ")]
    return line.removeprefix("latentface: error: ")


def assert_readable(folder: Path) -> None:
    """No half file under a final name; no temporary file left either."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        assert not path.name.startswith("."), path
        if path.suffix == ".pth":
            read_torch_file(path)
        elif path.suffix == ".npy":
            read_latent(path)
        elif path.suffix == ".safetensors":
            open_shard(path)
        elif path.name == "latents.jsonl":
            recover_manifest(path)
        elif path.suffix == ".jsonl":
            read_rows(path)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        else:
            assert path.name in ("config.yaml", "old.txt", "report.md", "curves.png"), path


@pytest.mark.parametrize("stage", STAGES)
def test_training_on_a_full_disk(outcome: Outcome, stage: str) -> None:
    result, name = outcome.results[stage], stage.split()[-1]
    if not outcome.mounts:
        name = "state.pth"  # the first file over the limit
    reason = "No space left on device" if outcome.mounts else "File too large"
    assert line_of(result).startswith(f"{outcome.root}/train {stage}/{name}: cannot be written ({reason}); ")
    assert "earlier files are intact" in result["err"]
    assert_readable(outcome.root / f"kept {stage}")


def test_training_goes_on_when_there_is_room_again(outcome: Outcome) -> None:
    torch.set_num_threads(1)
    kept = outcome.root / f"kept {STAGES[-1]}"
    loop.train(settings(outcome.root, resume=str(kept)))
    whole, found = (load_checkpoint(folder / "weight_final.pth").state for folder in (outcome.root / "whole", kept))
    assert all(torch.equal(whole[name], found[name]) for name in whole)


@pytest.mark.parametrize("command", COMMANDS[1:])
def test_commands_on_a_full_disk(outcome: Outcome, command: str) -> None:
    result = outcome.results[f"{command} full"]
    reason = "No space left on device" if outcome.mounts else "File too large"
    line = line_of(result)
    assert line.startswith(f"{outcome.root}/{command} full/")
    assert f": cannot be written ({reason}); " in line
    assert result["before"].items() <= result["after"].items()
    assert_readable(outcome.root / f"kept {command} full")


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_on_a_read_only_disk(outcome: Outcome, command: str) -> None:
    result = outcome.results[f"{command} read-only"]
    reason = "Read-only file system" if outcome.mounts else "Permission denied"
    line = line_of(result)
    assert line.startswith(f"{outcome.root}/{command} read-only")
    assert f"cannot be written ({reason}); name a folder that you may write; " in line
    assert result["before"] == result["after"]


def test_a_run_on_a_read_only_disk_is_not_resumed(outcome: Outcome) -> None:
    result = outcome.results["resume read-only"]
    assert line_of(result).startswith(f"{outcome.root}/whole: cannot be written")
    assert result["before"] == result["after"]


def test_training_from_a_read_only_disk(outcome: Outcome) -> None:
    result = outcome.results["data read-only"]
    assert result["status"] == 0, result
    assert result["before"] == result["after"]


@pytest.mark.parametrize(
    ("pages", "what"),
    [
        (2, r"the processes that read latents cannot be started \(No space left on device\): "),
        (20, r"no shared memory for a batch of drawn_4_\d, drawn_4_\d \(No space left on device \(28\)\): "),
    ],
)
def test_little_shared_memory_names_the_pictures_and_the_remedy(outcome: Outcome, pages: int, what: str) -> None:
    if not outcome.mounts:
        pytest.skip("no user namespaces here; tests/data/test_reading.py limits the size of files in their place")
    result = outcome.results[f"shared memory of {pages} pages"]
    assert result["status"] == 2
    line = result["err"].splitlines()[0].removeprefix("latentface: error: ")  # PyTorch may complain of itself below
    assert re.match(what, line)
    assert "give --workers 0 or a smaller --batch_size, or a container more of it (docker run --shm-size=8g)" in line


def test_a_log_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """`latentface train > log.txt`: /dev/full takes nothing."""
    from latentface.cli import main

    write_tree(tmp_path / "data" / "train", 2, (75,), seed=4, size=64)
    with suppress(OSError), Path("/dev/full").open("w") as full:  # what is left for it is lost at the end
        monkeypatch.setattr(sys, "stdout", full)
        status = main(["train", *flags(tmp_path, out=str(tmp_path / "run"))])
        monkeypatch.undo()
    assert status == 2
    assert capsys.readouterr().err == "latentface: error: output: No space left on device\n"
