"""One writer in a folder at a time."""

from __future__ import annotations

import errno
import os
import signal
import socket
import time
from pathlib import Path

import pytest
from conftest import write_tree

from latentface import lock
from latentface.data.encode import EncodeConfig, encode
from latentface.data.pack import PackConfig
from latentface.data.pack import run as pack
from latentface.errors import LatentFaceError
from latentface.lock import LOCK_NAME, sole_writer
from latentface.training.config import TrainConfig
from latentface.training.loop import train

OWNER = f"process {os.getpid()} on {socket.gethostname()}"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_writer_is_refused_by_name_and_a_later_one_is_not(tmp_path: Path) -> None:
    with sole_writer(tmp_path, "--out"):
        with pytest.raises(LatentFaceError) as caught, sole_writer(tmp_path, "--out"):
            pass
        assert str(caught.value) == (
            f"{tmp_path}: {OWNER} is writing there; wait for it, end it, or give another --out"
        )
    assert not list(tmp_path.iterdir())
    with sole_writer(tmp_path, "--out"):
        assert (tmp_path / LOCK_NAME).read_text() == OWNER


def test_a_killed_writer_leaves_no_lock_although_its_children_live_on(tmp_path: Path) -> None:
    """A loader's workers outlive a killed training by seconds."""
    writer = os.fork()
    if writer == 0:
        with sole_writer(tmp_path, "--out"):
            child = os.fork()
            if child:
                (tmp_path / "child").write_text(str(child))
            time.sleep(60)
        os._exit(0)
    while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text():
        time.sleep(0.01)
    child = int((tmp_path / "child").read_text())
    try:
        with pytest.raises(LatentFaceError, match=f"process {writer} on"), sole_writer(tmp_path, "--out"):
            pass
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        assert (tmp_path / LOCK_NAME).exists()
        with sole_writer(tmp_path, "--out"):
            os.kill(child, 0)  # it lives
            assert (tmp_path / LOCK_NAME).read_text() == OWNER
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_lock_file_that_its_owner_removes_at_that_moment_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening and locking the owner may be done: the file that is locked then has no name any more."""
    take, times = lock._lock, []

    def remove_first(descriptor: int) -> None:
        if not times:
            (tmp_path / LOCK_NAME).unlink()
        times.append(descriptor)
        take(descriptor)

    monkeypatch.setattr(lock, "_lock", remove_first)
    with sole_writer(tmp_path, "--out"):
        assert len(times) == 2
        with pytest.raises(LatentFaceError, match="is writing there"), sole_writer(tmp_path, "--out"):
            pass


def test_where_there_are_no_locks_a_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock, "_lock", refuse)
    with sole_writer(tmp_path, "--out"):
        pass
    assert capsys.readouterr().err == (
        f"note: {tmp_path}: no locks there (No locks available): start nothing else in it\n"
    )


def test_a_link_in_its_place_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "letter").write_text("of somebody")
    (tmp_path / "folder" / LOCK_NAME).symlink_to(tmp_path / "letter")
    with pytest.raises(LatentFaceError, match="cannot be written"), sole_writer(tmp_path / "folder", "--out"):
        pass
    assert (tmp_path / "letter").read_text() == "of somebody"


@pytest.mark.parametrize("way", ["new", "resumed"])
def test_a_second_training_is_refused_and_changes_nothing(tmp_path: Path, way: str) -> None:
    write_tree(tmp_path / "train", 2, (75,), seed=3, size=64)
    out, settings = tmp_path / "run", {"dataset_root": str(tmp_path), "model": "light", "bridge": "shuffle"}
    settings |= {"epochs": 1, "workers": 0, "no_wandb": True, "device": "cpu"}
    if way == "resumed":
        train(TrainConfig(**settings, out=str(out)))
    out.mkdir(exist_ok=True)
    with sole_writer(out, "--out"):
        before = contents(out)
        place = {"resume": str(out)} if way == "resumed" else {"out": str(out)}
        with pytest.raises(LatentFaceError) as caught:
            train(TrainConfig(**settings | {"epochs": 2}, **place))
        assert contents(out) == before
    flag = "--resume" if way == "resumed" else "--out"
    assert str(caught.value) == f"{out}: {OWNER} is writing there; wait for it, end it, or give another {flag}"


def test_a_second_packing_is_refused(tmp_path: Path) -> None:
    write_tree(tmp_path / "train", 2, (75,), seed=3, size=64)
    (tmp_path / "out").mkdir()
    with sole_writer(tmp_path / "out", "--out"):
        with pytest.raises(LatentFaceError, match=f"{OWNER} is writing there; .* another --out"):
            pack(PackConfig(str(tmp_path), out=str(tmp_path / "out")))
        assert list(contents(tmp_path / "out")) == [LOCK_NAME]


def test_a_second_encoding_is_refused(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "images").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "images" / "a.png")
    (tmp_path / "out").mkdir()
    with sole_writer(tmp_path / "out", "--out"):
        with pytest.raises(LatentFaceError, match=f"{OWNER} is writing there; .* another --out"):
            encode(EncodeConfig(images=str(tmp_path / "images"), out=str(tmp_path / "out"), size=64))
        assert list(contents(tmp_path / "out")) == [LOCK_NAME]
