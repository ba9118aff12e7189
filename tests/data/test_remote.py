"""Datasets behind URLs: the same samples as from a local disk, packing to them, and what goes wrong."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from object_server import ObjectServer, serving

from latentface.cli import main
from latentface.data import pack as pack_module
from latentface.data import remote
from latentface.data.batches import EpochBatches, SampleKey, collate
from latentface.data.cache import Cache
from latentface.data.latents import NestedLatentWiderFaceDataset
from latentface.data.mirror import local, mirror_of, shown
from latentface.data.pack import PackConfig, run
from latentface.data.reading import load_batches
from latentface.data.stores import available_rates, latent_folder, open_store
from latentface.errors import LatentFaceError
from latentface.training.config import TrainConfig
from latentface.training.loop import train

fsspec = pytest.importorskip("fsspec", reason="needs the extra `s3`")
SHARD = 2 * 256 * 8 * 8 * 2  # bytes of two latents as float16: one picture of two rates


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSES", (0.0, 0.0, 0.0))


@pytest.fixture(scope="module")
def packed(drawn_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn dataset, one picture a shard."""
    root = tmp_path_factory.mktemp("packed") / "packed"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack_module, "SHARD_BYTES", SHARD)
        run(PackConfig(str(drawn_dataset), out=str(root)))
    assert len(list((root / "train").glob("shard_*"))) == 7
    return root


@pytest.fixture
def memory(packed: Path, drawn_dataset: Path) -> Iterator[str]:
    """A URL with packed/ and tree/."""
    system = fsspec.filesystem("memory")
    system.put(str(packed), "/bucket/packed", recursive=True)
    system.put(str(drawn_dataset), "/bucket/tree", recursive=True)
    yield "memory://bucket"
    system.rm("/bucket", recursive=True)


@pytest.fixture
def server(packed: Path, tmp_path: Path) -> Iterator[ObjectServer]:
    pytest.importorskip("aiohttp", reason="needs the extra `s3`")
    shutil.copytree(packed, tmp_path / "served")
    with serving(tmp_path / "served") as server:
        yield server


def both(place: str, here: Path, cache: Cache, **options) -> list[NestedLatentWiderFaceDataset]:
    return [
        NestedLatentWiderFaceDataset.of_split(split, **options)
        for split in (here / "train", local(f"{place}/train", cache))
    ]


@pytest.mark.parametrize("kind", ["packed", "tree"])
def test_samples_are_those_of_the_local_disk(kind, memory, packed, drawn_dataset, tmp_path):
    here = packed if kind == "packed" else drawn_dataset
    a, b = both(f"{memory}/{kind}", here, Cache(tmp_path, 10**7), rates=(25, 75), crop=5, seed=3)
    assert len(a) == len(b) == 7
    for key in (0, 3, SampleKey(3, 0), SampleKey(6, 1), SampleKey(2, 1)):
        for one, other in ((a[key], b[key]), (a[key], pickle.loads(pickle.dumps(b))[key])):
            assert (one.name, one.rate, one.latent.dtype) == (other.name, other.rate, other.latent.dtype)
            assert np.array_equal(one.latent, other.latent)
            assert np.array_equal(one.boxes, other.boxes)
    assert [b.drawn(SampleKey(index, 1)) for index in range(7)] == [(s.name, s.rate) for s in samples(b, 1)]


def samples(dataset, epoch):
    return [dataset[SampleKey(index, epoch)] for index in range(len(dataset))]


@pytest.mark.parametrize("kind", ["packed", "tree"])
def test_a_store_knows_names_rates_and_places(kind, memory, tmp_path):
    latent_dir = latent_folder(local(f"{memory}/{kind}/train", Cache(tmp_path, 10**7)))
    store = open_store(latent_dir)
    assert store.names() == [f"drawn_1_{number}" for number in range(7)]
    assert available_rates(latent_dir) == [25, 75]
    assert store.has("drawn_1_3", 25)
    assert not store.has("drawn_1_3", 50)
    number = sorted(store.names(), key=lambda name: hashlib.sha256(name.encode()).hexdigest()).index("drawn_1_3")
    assert store.place("drawn_1_3", 25) == f"{memory}/{kind}/train/" + (
        f"shard_0000{number}.safetensors: drawn_1_3/latent_25" if kind == "packed" else "latent/drawn_1_3/latent_25.npy"
    )
    assert shown(latent_dir) == f"{memory}/{kind}/train" + "/latent" * (kind == "tree")
    assert not (tmp_path / "blobs").exists()  # nothing of all this takes a latent
    if kind == "packed":
        assert store.shape("drawn_1_3", 25) == (256, 8, 8)
        assert not (tmp_path / "blobs").exists()


@pytest.mark.parametrize(
    "shape",
    [
        ["a", "b", "c"],
        [[1], [2], [3]],
        [-8, -8, 256],
        [1.5, 2.5, 3],
        [10**400, 1, 1],
        [True, 8, 256],
        [8, 256],
        7,
        [1 << 20] * 3,
    ],
)
def test_a_strangers_shapes_are_looked_at(shape, packed, tmp_path):
    """The beginning of a shard with the right checksum, of which one latent has a shape that none has."""
    root = tmp_path / "strange"
    shutil.copytree(packed / "train", root / "train")
    path = root / "train" / "shard_00000.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    next(entry for name, entry in header.items() if name != "__metadata__")["shape"] = shape
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    about = json.loads((root / "train" / "pack.json").read_text())
    about["shards"][0] |= {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    (root / "train" / "pack.json").write_text(json.dumps(about))
    system = fsspec.filesystem("memory")
    system.put(str(root), "/strange", recursive=True)
    try:
        with pytest.raises(LatentFaceError, match=r"shard_00000\.safetensors: ") as raised:
            open_store(local("memory://strange/train", Cache(tmp_path / "cache", 10**7)))
        assert "\n" not in str(raised.value)
    finally:
        system.rm("/strange", recursive=True)


def test_what_changes_behind_the_url_is_seen(memory, tmp_path):
    system = fsspec.filesystem("memory")
    cache = Cache(tmp_path, 10**7)
    before = open_store(local(f"{memory}/tree/train", cache) / "latent").read("drawn_1_0", 25).values
    content = system.cat_file("/bucket/tree/train/latent/drawn_1_1/latent_25.npy")
    system.pipe_file("/bucket/tree/train/latent/drawn_1_0/latent_25.npy", content)
    cache = Cache(tmp_path, 10**7 + 1)  # as another process would: listed anew
    after = open_store(local(f"{memory}/tree/train", cache) / "latent")
    assert not np.array_equal(after.read("drawn_1_0", 25).values, before)
    assert np.array_equal(after.read("drawn_1_0", 25).values, after.read("drawn_1_1", 25).values)
    system.rm("/bucket/tree/train", recursive=True)
    system.put_file(str(tmp_path / "used"), "/bucket/tree/train/other.txt")
    assert not (local(f"{memory}/tree/train", Cache(tmp_path, 10**7 + 2)) / "latent").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_fetches_every_shard_once(workers, server, tmp_path):
    """By a cache of three shards and a bit, where pictures drawn from the whole set would fetch them again."""
    size = (server.folder / "train" / "shard_00000.safetensors").stat().st_size
    cache = Cache(tmp_path / "cache", int(3.5 * size))
    dataset = NestedLatentWiderFaceDataset.of_split(local(f"{server.url}/train", cache), rates=(25, 75))
    config = TrainConfig(window=1, no_wandb=True)
    from latentface.training.setup import build_order

    batches = EpochBatches(7, 1, 0, build_order(config, dataset))
    assert server.whole == {"train/pack.json": 1, "train/labels.txt": 1}
    loader = load_batches(dataset, collate, workers, batch_sampler=batches)
    for epoch in range(2):
        batches.epoch = epoch
        names = [batch.names[0] for batch in loader]
        assert sorted(names) == [f"drawn_1_{number}" for number in range(7)]
        shards = {name: count for name, count in server.whole.items() if "shard" in name}
        assert len(shards) == 7
        assert sum(shards.values()) <= 7 * (epoch + 1)
        assert max(shards.values()) <= epoch + 1
    assert sum(path.stat().st_size for path in (tmp_path / "cache" / "blobs").iterdir()) <= cache.limit


def test_what_is_looked_at_in_turn_comes_shard_by_shard(server, tmp_path):
    """By a cache of one shard and a bit: validation, evaluation and detection take each of them once."""
    size = (server.folder / "train" / "shard_00000.safetensors").stat().st_size
    cache = Cache(tmp_path / "cache", int(1.5 * size))
    dataset = NestedLatentWiderFaceDataset.of_split(local(f"{server.url}/train", cache), rates=(25, 75))
    sorted_names = [picture.name for picture in dataset.pictures]
    for rate in (25, 75):
        view = dataset.at_rate(rate).by_shard()
        names = [sample.name for sample in view]
        assert names == dataset.store.names_at(rate)
        assert [dataset.store.shard_of(name, rate) for name in names] == list(range(7))
        assert sorted(names) == sorted_names
    assert dataset.store.names_at(50) == []
    assert {count for name, count in server.whole.items() if "shard" in name} == {2}  # for each of the rates


def test_a_server_may_know_no_ranges(server, tmp_path):
    server.ranges = False
    cache = Cache(tmp_path / "cache", 10**7)
    dataset = NestedLatentWiderFaceDataset.of_split(local(f"{server.url}/train", cache))
    assert len([dataset[index] for index in range(7)]) == 7
    assert {count for name, count in server.whole.items() if "shard" in name} == {2}  # its beginning, and all of it


def test_training_from_a_url_is_training_from_the_disk_to_the_bit(server, packed, tmp_path):
    torch.set_num_threads(1)  # steps are so small that two only wait for each other
    rows = []
    for root, options in ((str(packed), {"order": "shards"}), (server.url, {"cache_gb": 0.00025})):
        config = TrainConfig(
            dataset_root=root, out=str(tmp_path / f"run{len(rows)}"), model="light", bridge="shuffle", epochs=2,
            batch_size=4, rates=(25, 75), crop=6, no_wandb=True, workers=0, precision="float32", window=1,
            cache_dir=str(tmp_path / "cache"), **options,
        )  # fmt: skip
        lines = (train(config) / "metrics.jsonl").read_text().splitlines()
        rows.append([[json.loads(line)[name] for name in ("loss", "loss_boxes", "val_ap")] for line in lines])
    assert rows[0] == rows[1]
    assert len(rows[0]) == 2


def test_packing_to_a_url_gives_the_files_of_packing_here(memory, packed, tmp_path, monkeypatch):
    """From a tree behind a URL, too; stopped after the third shard it goes on, and sends none again."""
    monkeypatch.setattr(pack_module, "SHARD_BYTES", SHARD)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    write, written = pack_module._write_shard, []

    def stop_at_the_fourth(path: Path, *rest):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path.name)
        assert len(list(path.parent.glob("*"))) == 0  # the disk holds one shard at a time
        return write(path, *rest)

    config = PackConfig(f"{memory}/tree", out=f"{memory}/new", cache_dir=str(tmp_path / "cache"), splits=("train",))
    monkeypatch.setattr(pack_module, "_write_shard", stop_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    assert remote.size(f"{memory}/new/train/pack.json") is None
    monkeypatch.setattr(
        pack_module, "_write_shard", lambda path, *rest: written.append(path.name) or write(path, *rest)
    )
    run(config)
    assert written == [f"shard_{number:05d}.safetensors" for number in range(7)]
    run(config)  # nothing is left to do
    assert len(written) == 7
    system = fsspec.filesystem("memory")
    there = {Path(name).name: system.cat_file(name) for name in system.find("/bucket/new/train")}
    del there["written.json"]
    assert there == {path.name: path.read_bytes() for path in (packed / "train").iterdir()}
    assert not [path for path in Path(tmp_path).iterdir() if path.name.startswith("latentface-")]


def test_another_packing_is_not_written_over(memory, drawn_dataset, monkeypatch):
    monkeypatch.setattr(pack_module, "SHARD_BYTES", SHARD)
    config = {"root": str(drawn_dataset), "out": f"{memory}/packed", "splits": ("val",)}
    with pytest.raises(LatentFaceError, match=r"memory://bucket/packed/val: already holds another packing \(float16"):
        run(PackConfig(**config, dtype="int8"))
    fsspec.filesystem("memory").rm("/bucket/packed/val/pack.json")
    with pytest.raises(LatentFaceError, match="memory://bucket/packed/val: holds shards of another packing"):
        run(PackConfig(**config))


def read_first(split: Path) -> None:
    NestedLatentWiderFaceDataset.of_split(split).by_shard()[0]


def change_pack(memory: str, change) -> None:
    system = fsspec.filesystem("memory")
    info = json.loads(system.cat_file("/bucket/packed/train/pack.json"))
    change(info["shards"][0])
    system.pipe_file("/bucket/packed/train/pack.json", json.dumps(info).encode())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file": "../../evil.safetensors"}, "leaves the folder"),
        ({"file": "/etc/passwd"}, "leaves the folder"),
        ({"sha256": "../../evil"}, "no size and checksum of shard_00000"),
        ({"bytes": -1}, "no size and checksum of shard_00000"),
        ({"bytes": "many"}, "no size and checksum of shard_00000"),
        ({"sha256": "0" * 64}, "its checksum is not the one of pack.json"),
        ({"bytes": 10**8}, "100000000|do not fit a cache of"),
        ({"file": "gone.safetensors"}, "gone.safetensors: not there, but pack.json names it"),
        ({"file": "labels.txt"}, "labels.txt: does not begin as a shard"),
    ],
)
def test_a_strangers_pack_is_held_against_what_it_says(changes, message, memory, tmp_path):
    change_pack(memory, lambda shard: shard.update(changes))
    with pytest.raises(LatentFaceError, match=message):
        read_first(local(f"{memory}/packed/train", Cache(tmp_path / "c", 10**7)))
    assert {path.name for path in tmp_path.iterdir()} <= {"c"}
    blobs = tmp_path / "c" / "blobs"
    assert not blobs.exists() or not list(blobs.iterdir())


def test_files_of_a_tree_with_odd_names_are_left_alone(memory, tmp_path):
    system = fsspec.filesystem("memory")
    for name in ("../../evil/latent_25.npy", "a/b/latent_25.npy", " x/latent_25.npy", "drawn_1_0/notes.txt"):
        system.pipe_file(f"/bucket/tree/train/latent/{name}", b"x")
    mirror = mirror_of(local(f"{memory}/tree/train", Cache(tmp_path, 10**7)))
    assert sorted(mirror.latents) == [(f"drawn_1_{number}", rate) for number in range(7) for rate in (25, 75)]


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("memory://nothing/there", "memory://nothing/there/train/latent: no such folder"),
        ("nonsense://a/b", "nonsense://a/b/train/pack.json: no URL that can be opened"),
        ("http://127.0.0.1:1/a", "http://127.0.0.1:1/a/train/pack.json: cannot be reached"),
        ("simplecache::memory://a/b", "no such folder"),
        ("memory://a::b/c", "no URL of a dataset"),
    ],
)
def test_a_wrong_url_is_one_line(root, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["train", "--dataset_root", root, "--no_wandb", "--cache_dir", "cache"]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not [path for path in Path("cache").rglob("*") if path.is_file() and path.parent.name != "locks"]


def test_a_cache_that_cannot_hold_three_windows_is_refused(memory, tmp_path, capsys):
    arguments = ["train", "--dataset_root", f"{memory}/packed", "--no_wandb", "--out", str(tmp_path / "run")]
    assert main([*arguments, "--cache_dir", str(tmp_path / "c"), "--cache_gb", "0.0002", "--window", "2"]) == 2
    assert "--cache_gb 0.0002: three times 2 shards of up to 6.6e-05 GB are needed; give 0.000396 or more" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "run").exists()


def test_an_order_by_shards_wants_shards(drawn_dataset, tmp_path, capsys):
    arguments = ["--dataset_root", str(drawn_dataset), "--order", "shards", "--no_wandb", "--out", str(tmp_path / "r")]
    assert main(["train", *arguments]) == 2
    assert "is not packed; latentface pack does that" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["fsspec", "fsspec.core"])
def test_without_the_extra_a_url_gets_the_command_that_installs_it(missing, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, missing, None)
    arguments = ["--dataset_root", "s3://bucket/packed", "--no_wandb", "--cache_dir", str(tmp_path)]
    assert main(["train", *arguments]) == 2
    assert "needs more packages: pip install 'latentface[s3]'" in capsys.readouterr().err
