"""The commands against an S3-compatible server on this machine."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latentface.cli import main
from latentface.data import remote

moto = pytest.importorskip("moto.server", reason="needs the extra `test`")
pytest.importorskip("s3fs", reason="needs the extra `s3`")


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """`s3://bucket`, empty."""
    import s3fs

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name, value in (("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b"), ("DEFAULT_REGION", "us-east-1")):
            patch.setenv(f"AWS_{name}", value)
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("bucket")
        yield "s3://bucket"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture(scope="module")
def packed(bucket: str, drawn_dataset: Path) -> str:
    assert main(["pack", str(drawn_dataset), "--out", f"{bucket}/packed"]) == 0
    return f"{bucket}/packed"


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "users"))
    monkeypatch.setattr(remote, "PAUSES", (0.0,))
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)  # two would wait for each other most of the time


def test_evaluate_and_detect_give_what_they_give_of_local_files(packed, drawn_dataset, weights):
    assert main(["pack", str(drawn_dataset), "--out", "here"]) == 0
    for root in ("here", packed):
        out = f"of_{Path(root).name}"
        weight = ["--weight", str(weights), "--device", "cpu"]
        assert main(["evaluate", *weight, "--dataset_root", root, "--out", out]) == 0
        assert main(["detect", f"{root}/val", *weight, "--rate", "75", "--out", f"{out}/found", "--no_pictures"]) == 0
    here, there = (json.loads(Path(f"of_{name}/evaluation.json").read_text()) for name in ("here", "packed"))
    assert here["rates"]["75"]["all"] == there["rates"]["75"]["all"]
    assert there["protocol"]["set"] == there["data"]["latent_dir"] == f"{packed}/val"
    assert there["data"]["label_file"] == f"{packed}/val/labels.txt"
    assert main(["report", "of_packed", "--out", "report"]) == 0  # reads the set again, for what was missed
    results = sorted(Path("of_here/found").glob("*.json"))
    assert len(results) == 3
    for path in results:
        a, b = json.loads(path.read_text()), json.loads(Path("of_packed/found", path.name).read_text())
        assert a["faces"] == b["faces"]
        assert b["latent"] == f"{packed}/val/{path.stem.removesuffix('_latent_75')}/latent_75.npy"
    assert list(Path("users/latentface/blobs").iterdir())  # by default they lie in the user's own cache folder


def test_archives_are_read_by_other_processes(packed, weights):
    words = ["detect", f"{packed}/val", "--weight", str(weights), "--rate", "75", "--device", "cpu", "--conf", "0.1"]
    assert main([*words, "--rows", "jsonl", "--processes", "1", "--out", "rows"]) == 0
    assert main([*words, "--out", "plain", "--no_pictures"]) == 0
    rows = [json.loads(line) for line in Path("rows/part-00000.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    for row in rows:
        name = row["latent"].split("/")[-2]
        plain = json.loads(Path(f"plain/{name}_latent_75.json").read_text())
        assert row["error"] is None
        assert (row["latent"], row["faces"]) == (plain["latent"], plain["faces"])


def test_a_single_latent_may_be_named(bucket, drawn_dataset, weights):
    import s3fs

    path = "tree/val/latent/drawn_2_0/latent_75.npy"
    s3fs.S3FileSystem().put_file(str(drawn_dataset / path.removeprefix("tree/")), f"bucket/{path}")
    assert main(["detect", f"{bucket}/{path}", "--weight", str(weights), "--out", "out", "--no_pictures"]) == 0
    found = json.loads(Path("out/drawn_2_0_latent_75.json").read_text())
    assert found["latent"] == f"{bucket}/{path}"
    assert found["picture_width"] == 128


def test_a_single_latent_comes_with_its_manifest(bucket, packed, weights):
    """Which says how the photograph lies in the picture; the split may be opened beside it."""
    import s3fs

    Image.fromarray(np.full((40, 80, 3), 90, np.uint8)).save("wide.png")
    encode = ["encode", "--images", ".", "--out", "mine/val", "--size", "64", "--rates", "75", "--workers", "1"]
    assert main(encode) == 0
    s3fs.S3FileSystem().put("mine", "bucket/mine", recursive=True)
    place = f"{bucket}/mine/val/latent/wide/latent_75.npy"
    assert main(["detect", place, "--weight", str(weights), "--out", "out", "--no_pictures"]) == 0
    one = json.loads(Path("out/wide_latent_75.json").read_text())
    assert (one["photograph"]["source_width"], one["photograph"]["source_height"]) == (80, 40)
    words = ["--weight", str(weights), "--rate", "75", "--no_pictures"]
    assert main(["detect", f"{bucket}/mine/val", *words, "--out", "all"]) == 0
    assert json.loads(Path("all/wide_latent_75.json").read_text()) == one


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--dataset_root", "s3://nobucket/packed"], "s3://nobucket/packed/train/latent: no such folder"),
        (
            ["evaluate", "--weight", "WEIGHT", "--dataset_root", "s3://nobucket/x"],
            "s3://nobucket/x/val/latent: no",
        ),
        (["detect", "--weight", "WEIGHT", "s3://bucket/packed"], "s3://bucket/packed: neither pack.json nor latent/"),
        (["detect", "--weight", "WEIGHT", "s3://bucket/a.npy"], "s3://bucket/a.npy: no such file"),
        (["pack", "TREE", "--out", "s3://nobucket/new"], "s3://nobucket/new/train/shard_00000.safetensors: cannot be"),
        (["pack", "s3://bucket/packed", "--out", "new"], "s3://bucket/packed: no split in it"),
        (
            ["train", "--dataset_root", "TREE", "--model", "light", "--bridge", "shuffle", "--out", "s3://bucket/run"],
            "--out s3://bucket/run: a URL, which only",
        ),
        (["pack", "s3://bucket/packed", "--verify"], "--verify s3://bucket/packed: for local folders"),
    ],
)
def test_what_is_not_there_is_one_line(arguments, message, packed, weights, drawn_dataset, capsys):
    names = {"WEIGHT": str(weights), "TREE": str(drawn_dataset)}
    assert main([names.get(word, word) for word in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_no_permission_is_one_line(packed, capsys):
    import s3fs

    system = s3fs.S3FileSystem()
    denied = {"Effect": "Deny", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::bucket/packed/*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [denied]})
    system.call_s3("put_bucket_policy", Bucket="bucket", Policy=policy)
    try:
        assert main(["train", "--dataset_root", packed, "--no_wandb", "--out", "run"]) == 2
    finally:
        system.call_s3("delete_bucket_policy", Bucket="bucket")
    error = capsys.readouterr().err
    assert f"{packed}/train/pack.json: no permission (" in error
    assert error.count("\n") == 1
    assert not Path("run").exists()
