"""What `kills.py` kills: each job starts or continues in a folder, and its result can be compared to the bit."""

from __future__ import annotations

import json
import mmap
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from conftest import write_tree

from latentface.apps.demo import DemoConfig, draw_split
from latentface.data import pack
from latentface.data.encode import EncodeConfig, encode
from latentface.data.manifest import recover_manifest
from latentface.data.packed import open_shard
from latentface.data.stores import read_latent
from latentface.model.checkpoint import load_checkpoint
from latentface.torch_file import read_torch_file
from latentface.training import loop
from latentface.training.config import SETTINGS_NAME, TrainConfig
from latentface.training.journal import draw_curves, read_rows
from latentface.training.state import STATE_NAME

PICTURES, BATCH, EPOCHS = 7, 2, 3
STEPS = 4  # of an epoch
TIMES = ("seconds", "pictures_per_second")  # of a row: the only things that may differ

counter = mmap.mmap(-1, 8)  # steps that the victim has done, shared with it


@dataclass(frozen=True)
class Job:
    """`work(folder)` starts or continues, `check(folder)` reads all that lies under a final name, after any kill."""

    name: str
    work: Callable[[Path], Any]
    check: Callable[[Path], None]
    result: Callable[[Path], Any]
    saved: Callable[[Path], int] = lambda folder: 0  # steps that a resumed run will not do again


def load_modules(root: Path) -> None:
    """What PyTorch and matplotlib import when first used takes longer than a run."""
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
    draw_curves([{"epoch": 1, "loss": 1.0, "loss_classes": 1.0, "loss_boxes": 1.0, "loss_landmarks": 1.0}], root / "x")


def make_data(root: Path) -> None:
    """A tree of latents for training and packing, drawn photographs for encoding."""
    write_tree(root / "tree" / "train", PICTURES, (25, 75), seed=1, size=64)
    write_tree(root / "tree" / "val", 3, (25, 75), seed=2, size=64)
    write_tree(root / "many" / "train", 40, (25, 75), seed=3, size=64)
    draw_split(root / "photos", "train", 12, DemoConfig(out=str(root), pictures=12, held_out=1, size=96))


def training(root: Path, save_minutes: float, workers: int) -> Job:
    """Three epochs of four steps with a moving average, crops and two rates."""

    def work(folder: Path) -> None:
        take_step = loop.take_step

        def count(run, group) -> None:
            take_step(run, group)
            counter[:] = (run.progress.epoch * STEPS + run.progress.batch).to_bytes(8, "little")

        loop.take_step = count
        begun = (folder / SETTINGS_NAME).is_file()
        place = {"resume": str(folder)} if begun else {"out": str(folder)}
        loop.train(
            TrainConfig(
                dataset_root=str(root / "tree"), model="light", bridge="shuffle", epochs=EPOCHS, batch_size=BATCH,
                rates=(25, 75), crop=3, no_wandb=True, device="cpu", precision="float32", workers=workers,
                save_minutes=save_minutes, **place,
            )
        )  # fmt: skip

    how = "every step" if save_minutes < 1 else "the end of an epoch"
    return Job(f"training, saved at {how}", work, check_training, trained, saved_steps)


def check_training(folder: Path) -> None:
    for path in folder.glob("weight_*.pth"):
        load_checkpoint(path).build()
    for name in (STATE_NAME, SETTINGS_NAME):
        path = folder / name
        if path.exists() and name == STATE_NAME:
            read_torch_file(path)
    read_rows(folder / "metrics.jsonl")


def saved_steps(folder: Path) -> int:
    if not (folder / STATE_NAME).is_file():
        return 0
    progress = read_torch_file(folder / STATE_NAME)["progress"]
    return progress["epoch"] * STEPS + progress["batch"]


def trained(folder: Path) -> dict[str, Any]:
    """Every weight, every bit of the state but the seconds, every row."""
    found: dict[str, Any] = {path.name: load_checkpoint(path).state for path in folder.glob("weight_*.pth")}
    state = read_torch_file(folder / STATE_NAME)
    found["rows"] = [{k: v for k, v in row.items() if k not in TIMES} for row in read_rows(folder / "metrics.jsonl")]
    found["progress"] = {k: v for k, v in state["progress"].items() if k != "seconds"}
    return found | {name: state[name] for name in ("model", "average", "optimizer", "scaler")}


def packing(root: Path) -> Job:
    """Eighty latents in twenty shards."""

    def work(folder: Path) -> None:
        pack.SHARD_BYTES = 4 * 256 * 4 * 4
        pack.run(pack.PackConfig(str(root / "many"), out=str(folder), dtype="int8"))

    def check(folder: Path) -> None:
        for path in folder.rglob("shard_*.safetensors"):
            assert list(open_shard(path).keys())
        for path in folder.rglob("pack.json"):
            json.loads(path.read_text())

    return Job("packing", work, check, file_bytes)


def encoding(root: Path) -> Job:
    """Twelve photographs and a crop of each at two rates."""
    photographs = root / "photos"

    def work(folder: Path) -> None:
        labels = str(photographs / "labels.txt")
        encode(EncodeConfig(
            images=str(photographs), labels=labels, out=str(folder), rates=(25, 75), size=96, crops=1, workers=1,
        ))  # fmt: skip

    def check(folder: Path) -> None:
        for path in folder.rglob("latent_*.npy"):
            read_latent(path)
        if (folder / "latents.jsonl").exists():
            recover_manifest(folder / "latents.jsonl")

    return Job("encoding", work, check, file_bytes)


def file_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def difference(first: Any, second: Any) -> str | None:
    """Where the first bit differs, through dictionaries and lists; None where none does."""
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return None if first.dtype == second.dtype and torch.equal(first, second) else "values"
    if isinstance(first, dict) and isinstance(second, dict):
        if first.keys() != second.keys():
            return f"one has {', '.join(map(str, first.keys() ^ second.keys()))}"
        pairs = [(key, first[key], second[key]) for key in first]
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        pairs = list(zip(range(len(first)), first, second, strict=True))
    else:
        return None if first == second else f"{str(first)[:80]} and {str(second)[:80]}"
    return next((f"{key}: {found}" for key, one, other in pairs if (found := difference(one, other))), None)
