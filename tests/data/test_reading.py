"""Reading in other processes: who dies is named with the picture, and so is what vanishes or shrinks."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import resource
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from conftest import write_tree

from latentface.data.batches import EpochBatches, collate
from latentface.data.latents import NestedLatentWiderFaceDataset
from latentface.data.pack import PackConfig
from latentface.data.pack import run as pack
from latentface.data.reading import MORE_SHARED_MEMORY, Shared, deaths_explained, load_batches
from latentface.data.stores import TreeStore
from latentface.errors import LatentFaceError
from latentface.training.config import TrainConfig
from latentface.training.loop import train


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """ROOT with train/ only: six pictures of 64x64 at rate 75."""
    write_tree(tmp_path / "train", 6, (75,), seed=8, size=64)
    return tmp_path


def config(root: Path, **changes) -> TrainConfig:
    settings = {"model": "light", "bridge": "shuffle", "epochs": 1, "batch_size": 2, "workers": 1, "device": "cpu"}
    return TrainConfig(dataset_root=str(root), out=str(root / "run"), no_wandb=True, **(settings | changes))


def read_and(monkeypatch: pytest.MonkeyPatch, act, name: str) -> None:
    """Has `act(path)` done after the file of that picture was opened, in a worker process only."""
    read = TreeStore.read

    def acting(self: TreeStore, picture: str, rate: int):
        stored = read(self, picture, rate)
        if picture == name and multiprocessing.parent_process() is not None:
            act(self.path(picture, rate))
        return stored

    monkeypatch.setattr(TreeStore, "read", acting)


def test_a_killed_worker_is_named_with_its_picture_and_the_run_goes_on_from_its_state(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        read_and(patch, lambda path: os.kill(os.getpid(), signal.SIGKILL), "drawn_8_3")
        with pytest.raises(LatentFaceError) as caught:
            train(config(tree))
    assert str(caught.value) == (
        "a process that reads latents died at or after picture drawn_8_3 (Killed): if memory ran out, give fewer "
        "--workers (0: none) or a smaller --batch_size"
    )
    assert (train(config(tree, resume=str(tree / "run"))) / "weight_final.pth").is_file()


def read_two_epochs(root: Path, workers: int, between=lambda: None) -> None:
    """As training does, without a network."""
    dataset = NestedLatentWiderFaceDataset.of_split(root / "train")
    order = EpochBatches(len(dataset), 2, seed=0)
    batches = load_batches(dataset, collate, workers, batch_sampler=order)
    with deaths_explained():
        assert len(list(batches)) == 3
        between()
        order.epoch = 1
        list(batches)


def test_a_file_that_shrinks_under_a_mapping_is_named(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Touching what is gone is a bus error, not an exception."""
    read_and(monkeypatch, lambda path: os.truncate(path, 0), "drawn_8_2")
    with pytest.raises(LatentFaceError) as caught:
        read_two_epochs(tree, workers=1)
    assert str(caught.value) == (
        f"a process that reads latents died at or after picture drawn_8_2 (Bus error): if shared memory ran out, "
        f"{MORE_SHARED_MEMORY}; if files of the dataset became shorter, write them again"
    )


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("act", "says"),
    [
        (Path.unlink, "no such file"),
        (lambda path: os.truncate(path, 1000), "not a NumPy array of numbers, or a damaged one; write it again"),
        (lambda path: np.save(path, np.full((256, 4, 4), np.nan, np.float32)), "NaN or infinite values"),
    ],
    ids=["vanishes", "shrinks", "is spoilt"],
)
def test_a_file_that_changes_during_training_is_named(tree: Path, workers: int, act, says: str) -> None:
    latent = tree / "train" / "latent" / "drawn_8_1" / "latent_75.npy"
    with pytest.raises(LatentFaceError) as caught:
        read_two_epochs(tree, workers, between=lambda: act(latent))
    assert str(caught.value).startswith(f"{latent}: {says}")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("act", [Path.unlink, lambda path: os.truncate(path, path.stat().st_size - 1)])
def test_a_shard_that_changes_during_training_is_named(tree: Path, workers: int, act) -> None:
    """It stays mapped from one epoch to the next: without a look at its size the process would end by a bus error."""
    pack(PackConfig(str(tree), out=str(tree / "packed")))
    shard = tree / "packed" / "train" / "shard_00000.safetensors"
    with pytest.raises(LatentFaceError) as caught:
        read_two_epochs(tree / "packed", workers, between=lambda: act(shard))
    assert str(caught.value).startswith(f"{shard}: ")
    assert str(caught.value).endswith("; pack it again")
    if workers == 0:
        assert f"{shard}: drawn_8_" in str(caught.value)
        assert "the file has changed or vanished since it was opened" in str(caught.value)


def test_no_shared_memory_names_the_batch_and_the_remedy(tree: Path) -> None:
    """The limit on the size of files holds for those in shared memory too."""
    dataset = NestedLatentWiderFaceDataset.of_split(tree / "train")
    samples = [dataset[0], dataset[1]]  # 2 x 256 x 4 x 4 float32: 32 KB
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(LatentFaceError) as caught:
            Shared(collate)(samples)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    line = str(caught.value)
    assert line.startswith("no shared memory for a batch of drawn_8_0, drawn_8_1 (")
    assert line.endswith(f"): {MORE_SHARED_MEMORY}")
    assert Shared(collate)(samples).latents.is_shared()


def test_workers_leave_signals_to_the_parent_and_end_with_the_block(tree: Path) -> None:
    """The end of a job reaches all of its processes, and the parent decides what it means."""
    dataset = NestedLatentWiderFaceDataset.of_split(tree / "train")
    others = set(multiprocessing.active_children())
    with deaths_explained():
        batches = iter(load_batches(dataset, collate, 1, batch_size=1))
        next(batches)
        [worker] = set(multiprocessing.active_children()) - others
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(worker.pid, number)
        assert len(list(batches)) == 5
        batches = iter(load_batches(dataset, collate, 1, batch_size=1))
        next(batches)
        [worker] = set(multiprocessing.active_children()) - others
    assert worker.exitcode == 0


def test_errors_of_others_are_left_alone() -> None:
    with pytest.raises(RuntimeError, match="of something else"), deaths_explained():
        raise RuntimeError("of something else")
    with pytest.raises(FileNotFoundError), deaths_explained():
        raise FileNotFoundError(2, "No such file or directory")


def test_collating_can_be_sent_to_another_process() -> None:
    assert pickle.loads(pickle.dumps(Shared(collate))) == Shared(collate)


def test_a_copy_of_a_read_tree_is_not_needed(tree: Path) -> None:
    """A shard that was replaced by an equal one is read on: its old pages stay mapped."""
    pack(PackConfig(str(tree), out=str(tree / "packed")))
    split = tree / "packed" / "train"
    dataset = NestedLatentWiderFaceDataset.of_split(split)
    before = np.array(dataset[0].latent)
    shutil.copy(split / "shard_00000.safetensors", split / "copy")
    (split / "copy").replace(split / "shard_00000.safetensors")
    assert np.array_equal(dataset[0].latent, before)
