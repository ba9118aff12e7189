"""Links and pipes in trees from strangers: nothing outside a folder is read or written by way of them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentface.cli import main
from latentface.data.latents import NestedLatentWiderFaceDataset
from latentface.data.packed import PackedStore
from latentface.data.pictures import find_pictures, read_picture
from latentface.data.stores import TreeStore, read_latent
from latentface.errors import LatentFaceError
from latentface.evaluation.wider import read_predictions, write_prediction
from latentface.files import make_folder, refuse_link_outside, replacing
from latentface.model.checkpoint import save_atomically

LEADS_OUT = "a link that leads out of"


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """A split with one picture, and beside it a folder of somebody else."""
    folder = tmp_path / "train" / "latent" / "a"
    folder.mkdir(parents=True)
    np.save(folder / "latent_75.npy", np.zeros((4, 2, 2), np.float32))
    (tmp_path / "train" / "labels.txt").write_text("a.jpg\n1\n1 2 10 10\n")
    private = tmp_path / "private"
    private.mkdir()
    np.save(private / "latent_75.npy", np.ones((4, 2, 2), np.float32))
    (private / "a.txt").write_text("secret\n0\n")
    Image.new("RGB", (4, 4)).save(private / "a.png")
    return tmp_path / "train"


def test_links_inside_are_followed(split):
    (split / "latent" / "b").symlink_to("a")
    (split / "latent" / "a" / "latent_50.npy").symlink_to("latent_75.npy")
    store = TreeStore(split / "latent")
    assert store.names() == ["a", "b"]
    assert store.read("b", 50).array.shape == (4, 2, 2)


def test_what_the_user_names_may_be_a_link(split, tmp_path):
    """Datasets lie on other disks: `ROOT/train` and `ROOT/train/latent` are often links."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "train").symlink_to(split)
    assert len(NestedLatentWiderFaceDataset.of_split(tmp_path / "root" / "train")) == 1
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "latent").symlink_to(split / "latent")
    shutil.copy(split / "labels.txt", tmp_path / "other")
    assert len(NestedLatentWiderFaceDataset.of_split(tmp_path / "other")) == 1


@pytest.mark.parametrize("target", ["../../private", "/", "loop"])
def test_a_folder_of_a_picture_that_leads_out(target, split):
    (split / "latent" / "loop").symlink_to("loop")
    (split / "latent" / "b").symlink_to(target)
    if target == "loop":
        assert TreeStore(split / "latent").names() == ["a"]
        return
    with pytest.raises(LatentFaceError, match=rf"latent/b: {LEADS_OUT} .*latent; put there what it points to"):
        NestedLatentWiderFaceDataset.of_split(split)


def test_a_latent_that_leads_out(split):
    path = split / "latent" / "a" / "latent_75.npy"
    path.unlink()
    path.symlink_to("../../../private/latent_75.npy")
    with pytest.raises(LatentFaceError, match=rf"latent_75\.npy: {LEADS_OUT}"):
        NestedLatentWiderFaceDataset.of_split(split)
    with pytest.raises(LatentFaceError, match=LEADS_OUT):
        TreeStore(split / "latent").read("a", 75)
    assert read_latent(path).max() == 1  # named by the user, it is his own affair


@pytest.mark.parametrize("name", ["labels.txt", "latents.jsonl"])
def test_text_of_a_split_that_leads_out(name, split):
    (split / name).unlink(missing_ok=True)
    (split / name).symlink_to("../private/a.txt")
    with pytest.raises(LatentFaceError, match=rf"{name}: {LEADS_OUT}"):
        NestedLatentWiderFaceDataset.of_split(split)


def test_parts_of_a_pack_that_lead_out(split, drawn_dataset, tmp_path):
    from latentface.data.pack import PackConfig, run

    run(PackConfig(str(drawn_dataset), out=str(tmp_path / "packed"), splits=("val",)))
    folder = tmp_path / "packed" / "val"
    shard = folder / "shard_00000.safetensors"
    shard.rename(tmp_path / "elsewhere")
    shard.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LatentFaceError, match=LEADS_OUT):
        PackedStore(folder)


def test_photographs_and_predictions_that_lead_out(split, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.png").symlink_to("../private/a.png")
    with pytest.raises(LatentFaceError, match=rf"a\.png: {LEADS_OUT}"):
        find_pictures(photos)
    found = tmp_path / "found"
    (found / "event").mkdir(parents=True)
    (found / "event" / "a.txt").symlink_to("../../private/a.txt")
    with pytest.raises(LatentFaceError, match=rf"a\.txt: {LEADS_OUT}"):
        read_predictions(found)
    (found / "event" / "a.txt").unlink()
    (found / "other").symlink_to("../private")
    with pytest.raises(LatentFaceError, match=rf"other: {LEADS_OUT}"):
        read_predictions(found)


def test_detect_follows_no_link_out_of_a_folder(split, weights, tmp_path, capsys):
    (split / "latent" / "a" / "latent_25.npy").symlink_to("../../../private/latent_75.npy")
    assert main(["detect", str(split), "--rate", "25", "--weight", str(weights), "--out", str(tmp_path / "out")]) == 2
    assert LEADS_OUT in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# --- writing


def test_a_planted_link_in_the_place_of_a_temporary_file_is_not_written_through(tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (tmp_path / ".result.json.tmp").symlink_to(mine)
    with replacing(tmp_path / "result.json") as temporary:
        temporary.write_text("result")
    for name in ("weight.pth.part", ".weight.pth.tmp"):
        (tmp_path / name).symlink_to(mine)
    save_atomically({"a": 1}, tmp_path / "weight.pth")
    assert mine.read_text() == "mine"
    assert (tmp_path / "result.json").read_text() == "result"
    assert not (tmp_path / "result.json").is_symlink()


def test_a_link_in_the_place_of_a_result_is_replaced(tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (tmp_path / "result.json").symlink_to(mine)
    with replacing(tmp_path / "result.json") as temporary:
        temporary.write_text("result")
    assert mine.read_text() == "mine"


def test_folders_below_the_output_do_not_lead_out(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "event").symlink_to(tmp_path)
    with pytest.raises(LatentFaceError, match="a link in it leads out of"):
        make_folder(tmp_path / "out" / "event" / "deeper", "--out", within=tmp_path / "out")
    with pytest.raises(LatentFaceError, match="a link in it leads out of"):
        write_prediction(tmp_path / "out", "event/a", np.zeros((1, 4)), np.ones(1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_an_evaluation_clears_away_no_files_behind_a_link(split, drawn_dataset, weights, tmp_path, capsys):
    """It removes the predictions of an earlier run; `event` is not one of its folders."""
    out = tmp_path / "out" / "predictions_75"
    out.mkdir(parents=True)
    (out / "event").symlink_to(tmp_path / "private")
    arguments = ["--weight", str(weights), "--dataset_root", str(drawn_dataset), "--out", str(tmp_path / "out")]
    assert main(["evaluate", *arguments, "--rates", "75"]) == 2
    assert LEADS_OUT in capsys.readouterr().err
    assert (tmp_path / "private" / "a.txt").read_text() == "secret\n0\n"


def test_encoding_writes_through_no_link(tmp_path, capsys):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    Image.new("RGB", (32, 32)).save(photos / "a.png")
    arguments = [
        "encode",
        "--images",
        str(photos),
        "--out",
        str(out),
        "--rates",
        "75",
        "--size",
        "32",
        "--workers",
        "1",
    ]
    assert main(arguments) == 0
    shutil.rmtree(out / "latent" / "a")
    (tmp_path / "elsewhere").mkdir()
    (out / "latent" / "a").symlink_to(tmp_path / "elsewhere")
    assert main(arguments) == 2
    assert "a link in it leads out of" in capsys.readouterr().err
    assert list((tmp_path / "elsewhere").iterdir()) == []


# --- pipes, which would be waited for


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_are_not_waited_for(split, tmp_path):
    for name in ("pipe.npy", "pipe.png", "pipe.txt", "pipe.pth"):
        os.mkfifo(tmp_path / name)
    for work in (
        lambda: read_latent(tmp_path / "pipe.npy"),
        lambda: read_picture(tmp_path / "pipe.png"),
        lambda: read_predictions(tmp_path),
    ):
        with pytest.raises(LatentFaceError, match=r"pipe\.\w+: "):
            work()


def test_a_link_to_itself_is_no_file(tmp_path):
    (tmp_path / "a").symlink_to("a")
    refuse_link_outside(tmp_path / "a", tmp_path)
    with pytest.raises(LatentFaceError, match="no such file"):
        read_latent(tmp_path / "a")
