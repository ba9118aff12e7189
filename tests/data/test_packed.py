"""Packing and what is read from it."""

from __future__ import annotations

import json
import pickle
import shutil
from collections import Counter, namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from latentface.cli import main
from latentface.data import pack as pack_module
from latentface.data.batches import EpochBatches, SampleKey, collate
from latentface.data.latents import NestedLatentWiderFaceDataset
from latentface.data.manifest import LatentEntry, ManifestRow, write_manifest
from latentface.data.pack import PackConfig, run
from latentface.data.pack_values import measure_spread, plan_quantiser
from latentface.data.packed import PackedStore, group_of, read_info
from latentface.data.stores import TreeStore, available_rates, open_store
from latentface.errors import LatentFaceError
from latentface.training.config import TrainConfig
from latentface.training.loop import train


@pytest.fixture(scope="module")
def packed(drawn_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The drawn dataset in every dtype."""
    root = tmp_path_factory.mktemp("packed")
    for dtype in ("float32", "float16", "int8"):
        run(PackConfig(str(drawn_dataset), out=str(root / dtype), dtype=dtype))
    return {dtype: root / dtype for dtype in ("float32", "float16", "int8")}


def both(
    drawn_dataset: Path, packed: Path, **options
) -> tuple[NestedLatentWiderFaceDataset, NestedLatentWiderFaceDataset]:
    return tuple(NestedLatentWiderFaceDataset.of_split(root / "train", **options) for root in (drawn_dataset, packed))  # type: ignore[return-value]


def test_float32_gives_the_same_samples_to_the_bit(drawn_dataset, packed):
    tree, pack = both(drawn_dataset, packed["float32"], rates=(25, 75), crop=5, seed=3)
    assert len(tree) == len(pack) == 7
    for index in range(7):
        for key in (index, SampleKey(index, 0), SampleKey(index, 1)):
            a, b = tree[key], pack[key]
            assert (a.name, a.rate, a.model_index) == (b.name, b.rate, b.model_index)
            assert all(
                np.array_equal(getattr(a, name), getattr(b, name), equal_nan=True)
                for name in ("latent", "boxes", "landmarks", "ignore")
            )
            assert b.latent.strides[0] == 4  # channels last


def test_float16_rounds_each_value(drawn_dataset, packed):
    tree, pack = both(drawn_dataset, packed["float16"])
    for index in range(len(tree)):
        assert pack[index].latent.dtype == np.float16
        assert np.array_equal(pack[index].values, tree[index].latent.astype(np.float16).astype(np.float32))


def test_int8_is_at_most_half_a_step_off(drawn_dataset, packed):
    """A sample of all latents has seen every value, so nothing is clipped."""
    tree, pack = both(drawn_dataset, packed["int8"])
    for index in range(len(tree)):
        sample = pack[index]
        assert sample.latent.dtype == np.int8
        off = np.abs(sample.values - tree[index].latent)
        assert (off <= 0.5001 * sample.scale[:, None, None]).all()
    info = read_info(packed["int8"] / "train")
    assert info.error["clipped"] == 0
    assert 0 < info.error["mean"] < info.error["worst"]


def test_a_batch_decodes_to_what_its_samples_are_worth(packed):
    for dtype, stored in (("int8", torch.int8), ("float16", torch.float16), ("float32", torch.float32)):
        dataset = NestedLatentWiderFaceDataset.of_split(packed[dtype] / "train", rates=(25, 75))
        samples = [dataset[SampleKey(index, 0)] for index in range(4)]
        batch = collate(samples)
        assert batch.latents.dtype == stored
        assert batch.latents.is_contiguous(memory_format=torch.channels_last)
        decoded = batch.decoded()
        assert decoded.dtype == torch.float32
        assert torch.allclose(decoded, torch.from_numpy(np.stack([s.values for s in samples])), atol=0, rtol=1e-6)


def test_smaller_latents_are_padded_in_the_dtype_they_have(packed):
    dataset = NestedLatentWiderFaceDataset.of_split(packed["int8"] / "train")
    whole = dataset[0]
    part = dataset[1]
    cut = type(part)(**{**vars(part), "latent": part.latent[:, :5, :3]})
    batch = collate([whole, cut])
    assert torch.equal(batch.latents[1, :, :5, :3], torch.from_numpy(np.ascontiguousarray(cut.latent)))
    assert torch.equal(batch.latents[1, :, 5:, :3], batch.latents[1, :, 4:5, :3].expand(-1, 3, -1))
    assert torch.equal(batch.latents[1, :, :, 3:], batch.latents[1, :, :, 2:3].expand(-1, -1, 5))


def test_training_on_a_float32_pack_gives_the_same_losses(drawn_dataset, packed, tmp_path):
    losses = []
    for root in (drawn_dataset, packed["float32"]):
        config = TrainConfig(
            dataset_root=str(root), out=str(tmp_path / root.name), model="light", bridge="shuffle", epochs=2,
            batch_size=3, rates=(25, 75), crop=6, no_wandb=True, workers=0, precision="float32",
        )  # fmt: skip
        rows = [json.loads(line) for line in (train(config) / "metrics.jsonl").read_text().splitlines()]
        losses.append([(row["loss"], row["loss_boxes"], row["val_ap"]) for row in rows])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_many_workers_read_the_same(packed, context):
    dataset = NestedLatentWiderFaceDataset.of_split(packed["int8"] / "train")
    dataset[0]  # opens files in this process before others are made
    alone = list(DataLoader(dataset, batch_sampler=EpochBatches(7, 3, 0), collate_fn=collate))
    shared = DataLoader(
        dataset, batch_sampler=EpochBatches(7, 3, 0), collate_fn=collate, num_workers=2, multiprocessing_context=context
    )
    for a, b in zip(alone, shared, strict=True):
        assert a.names == b.names
        assert torch.equal(a.latents, b.latents)


def test_a_dataset_that_has_read_can_be_pickled(packed):
    dataset = NestedLatentWiderFaceDataset.of_split(packed["float16"] / "val")
    first = dataset[0]
    again = pickle.loads(pickle.dumps(dataset))[0]
    assert np.array_equal(first.latent, again.latent)


def test_the_store_knows_shapes_rates_and_places(packed, drawn_dataset):
    store = open_store(packed["float16"] / "train")
    assert isinstance(store, PackedStore)
    assert store.names() == TreeStore(drawn_dataset / "train" / "latent").names()
    assert available_rates(packed["float16"] / "train") == [25, 75]
    name = store.names()[0]
    assert store.shape(name, 25) == (256, 8, 8)
    assert store.has(name, 75)
    assert not store.has(name, 12)
    assert store.place(name, 75).endswith(f"train/shard_00000.safetensors: {name}/latent_75")
    with pytest.raises(LatentFaceError, match="latent_12 in it; pack it again"):
        store.read(name, 12)


# --- groups


def test_int8_has_a_scale_of_its_own_for_each_model(tmp_path):
    """Two latents of one rate by two models, one of them a hundred times as strong."""
    rows = []
    for name, model, strength in (("weak", 0, 1), ("strong", 1, 100)):
        folder = tmp_path / "tree" / "train" / "latent" / name
        folder.mkdir(parents=True)
        values = strength * np.linspace(-1, 1, 2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
        np.save(folder / "latent_50.npy", values)
        entry = LatentEntry("jpegai", model, 1.0, 0.5, False)
        rows.append(ManifestRow(f"{name}.jpg", {50: entry}, 16, 64, 48))
    write_manifest(tmp_path / "tree" / "train" / "latents.jsonl", rows)
    (tmp_path / "tree" / "train" / "labels.txt").write_text("weak.jpg\n1\n1 1 9 9\nstrong.jpg\n1\n1 1 9 9\n")
    run(PackConfig(str(tmp_path / "tree"), out=str(tmp_path / "out"), dtype="int8"))
    info = read_info(tmp_path / "out" / "train")
    assert info.scale.keys() == info.mean.keys() == {"model 0", "model 1"}
    # channel 0 of `weak` goes from -1 to -1/23: half of that with a margin of a tenth, over 127 levels
    assert info.scale["model 0"][0] == pytest.approx((1 - 1 / 23) / 2 * 1.1 / 127)
    assert info.offset["model 1"][0] == pytest.approx(-100 * (1 + 1 / 23) / 2)
    assert info.stride == 16
    store = PackedStore(tmp_path / "out" / "train")
    assert store.read("weak", 50).scale[0] == pytest.approx(store.read("strong", 50).scale[0] / 100)


@pytest.mark.parametrize(("index", "group"), [(2, "model 2"), (0, "model 0"), (None, "rate 75"), (-1, "rate 75")])
def test_group(index, group):
    assert group_of(index, 75) == group


@settings(max_examples=50, deadline=None)
@example(np.full((3, 4, 5), [0, 0, 0, 0, 1e-45], np.float32))  # too close together for a step between them
@given(arrays(np.float32, (3, 4, 5), elements=st.floats(-300, 300, width=32)))
@example(np.eye(12, dtype=np.float32).reshape(3, 4, 12)[..., :5] * np.float32(1e-45))  # a step that float32 cannot hold
def test_values_within_the_sample_are_half_a_step_off_at_most(latent):
    quantiser = plan_quantiser("int8", {"rate 75": measure_spread([latent])})
    stored, clipped = quantiser.encode(latent, "rate 75", "here")
    assert clipped == 0
    step = quantiser.scale["rate 75"][:, None, None]
    assert (np.abs(quantiser.decode(stored, "rate 75") - latent) <= 0.5 * step + 1e-4).all()


def test_values_beyond_the_sample_are_clipped_and_counted():
    spread = measure_spread([np.array([[[-1.0, 1.0]]], dtype=np.float32)])
    quantiser = plan_quantiser("int8", {"rate 75": spread})
    stored, clipped = quantiser.encode(np.array([[[5.0, -0.5]]], dtype=np.float32), "rate 75", "here")
    assert clipped == 1
    assert quantiser.decode(stored, "rate 75")[0, 0] == pytest.approx([1.1, -0.5], abs=0.005)
    error = spread.error(np.array([[[5.0, 1.0]]]), np.array([[[1.1, 1.0]]]))  # the deviation is 1
    assert error == {"worst": pytest.approx(3.9), "mean": pytest.approx(1.95), "values": 2}


# --- what is refused, and what survives


def test_float16_does_not_take_what_it_cannot_hold(tmp_path):
    folder = tmp_path / "tree" / "train" / "latent" / "a"
    folder.mkdir(parents=True)
    np.save(folder / "latent_75.npy", np.full((2, 2, 2), 70_000, dtype=np.float32))
    (tmp_path / "tree" / "train" / "labels.txt").write_text("a.jpg\n1\n1 1 9 9\n")
    with pytest.raises(LatentFaceError, match=r"a/latent_75.npy: values over 65504 do not fit float16"):
        run(PackConfig(str(tmp_path / "tree"), out=str(tmp_path / "out"), dtype="float16"))


def test_what_is_not_finite_is_named(tmp_path):
    folder = tmp_path / "tree" / "train" / "latent" / "a"
    folder.mkdir(parents=True)
    np.save(folder / "latent_75.npy", np.full((2, 2, 2), np.nan, dtype=np.float32))
    (tmp_path / "tree" / "train" / "labels.txt").write_text("a.jpg\n1\n1 1 9 9\n")
    with pytest.raises(LatentFaceError, match=r"a/latent_75.npy: NaN or infinite values"):
        run(PackConfig(str(tmp_path / "tree"), out=str(tmp_path / "out")))


def test_packing_goes_on_where_it_stopped(drawn_dataset, tmp_path, monkeypatch, packed):
    """Shards of two latents; stopped in the third of train, seven pictures at two rates."""
    monkeypatch.setattr(pack_module, "SHARD_BYTES", 2 * 256 * 8 * 8)
    config = PackConfig(str(drawn_dataset), out=str(tmp_path / "out"), dtype="int8")
    write, written = pack_module._write_shard, []

    def stop_at_the_third(path, *rest):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path.name)
        return write(path, *rest)

    monkeypatch.setattr(pack_module, "_write_shard", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    folder = tmp_path / "out" / "train"
    assert sorted(path.name for path in folder.iterdir()) == ["shard_00000.safetensors", "shard_00001.safetensors"]
    first = (folder / "shard_00000.safetensors").stat().st_mtime_ns
    written.clear()
    monkeypatch.setattr(
        pack_module, "_write_shard", lambda path, *rest: written.append(path.name) or write(path, *rest)
    )
    run(config)
    assert written[0] == "shard_00002.safetensors"
    assert (folder / "shard_00000.safetensors").stat().st_mtime_ns == first
    whole, parts = PackedStore(packed["int8"] / "train"), PackedStore(folder)
    assert len(parts.info.shards) == 7
    assert all(
        np.array_equal(whole.read(name, rate).array, parts.read(name, rate).array)
        for name in whole.names()
        for rate in (25, 75)
    )
    assert parts.info.error == pytest.approx(whole.info.error)


def test_every_part_of_a_packed_set_is_as_varied_as_the_whole():
    """Ten events of a hundred pictures, in ten shards: sorted by name each shard would hold one event."""
    names = [f"{number // 100}--Event_{number:03d}" for number in range(1000)]
    order = pack_module.mixed(names)
    assert sorted(order) == names
    assert pack_module.mixed(reversed(names)) == order
    of_event = [Counter(name[0] for name in order[start : start + 100]) for start in range(0, 1000, 100)]
    assert all(len(counts) == 10 and max(counts.values()) <= 25 for counts in of_event)  # of 10 to be expected


def test_what_an_earlier_version_packed_is_left_alone(drawn_dataset, tmp_path, monkeypatch, capsys):
    """In the order of the names: begun anew in another one, it would lose the latents that are not there yet."""
    monkeypatch.setattr(pack_module, "SHARD_BYTES", 2 * 256 * 8 * 8)
    config = PackConfig(str(drawn_dataset), out=str(tmp_path / "out"), dtype="int8")
    with monkeypatch.context() as patch:
        patch.setattr(pack_module, "mixed", list)
        run(config)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out" / "train").iterdir()}
    with pytest.raises(LatentFaceError, match="already packed, from other latents or in another order"):
        run(config)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out" / "train").iterdir()} == before


def test_another_packing_in_the_same_folder_is_refused(drawn_dataset, packed, capsys):
    assert main(["pack", str(drawn_dataset), "--out", str(packed["int8"]), "--dtype", "float16"]) == 2
    assert "already holds another packing (int8, rates 25, 75); give another --out" in capsys.readouterr().err
    assert main(["pack", str(drawn_dataset), "--out", str(packed["int8"]), "--dtype", "int8"]) == 0  # the same is fine


def test_a_full_disk_is_told_beforehand(drawn_dataset, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 1000))
    with pytest.raises(LatentFaceError, match=r"are needed and 1 KB free: give another --out, fewer --rates"):
        run(PackConfig(str(drawn_dataset), out=str(tmp_path / "out")))
    assert not list((tmp_path / "out").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ROOT"], "missing: --out"),
        (["ROOT/none", "--out", "x"], "none: no split in it; expected"),
        (["ROOT", "--out", "x", "--rates", "12"], "no latent of rate 12 in it"),
        (["ROOT", "--out", "x", "--splits", "test"], "test/latent: no such folder; name splits of"),
        (["ROOT", "--verify"], "no packed split in it"),
    ],
)
def test_mistakes_get_a_line(arguments, message, drawn_dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["pack", *(word.replace("ROOT", str(drawn_dataset)) for word in arguments)]) == 2
    assert message in capsys.readouterr().err


def test_verify_finds_a_flipped_bit(packed, tmp_path, capsys):
    root = tmp_path / "copy"
    shutil.copytree(packed["float16"], root)
    assert main(["pack", str(root), "--verify"]) == 0
    assert "all is well (train, val)" in capsys.readouterr().out
    shard = root / "val" / "shard_00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert main(["pack", str(root), "--verify"]) == 2
    said = capsys.readouterr()
    assert "val/shard_00000.safetensors: its checksum is not the one of pack.json" in said.err
    assert "1 problems; pack it again" in said.out
    shard.unlink()
    assert main(["pack", str(root), "--verify"]) == 2
    assert "cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"format": "latentface-pack/2"}',
        '{"format": "latentface-pack/1", "dtype": "float16"}',
        '{"format": "latentface-pack/1", "dtype": "object", "rates": [75], "stride": 16, "shards": [], "mean": {}, '
        '"deviation": {}}',
        '{"format": "latentface-pack/1", "dtype": "int8", "rates": [75], "stride": 16, "shards": [{"file": "../x", '
        '"latents": 1, "bytes": 1, "sha256": ""}], "mean": {}, "deviation": {}}',
    ],
)  # fmt: skip
def test_a_description_by_a_stranger_is_refused(content, tmp_path):
    (tmp_path / "pack.json").write_text(content)
    with pytest.raises(LatentFaceError, match="not the description of a packed set"):
        open_store(tmp_path)


@pytest.mark.parametrize("damage", ["missing", "empty", "huge header", "text"])
def test_a_damaged_shard_is_named(damage, packed, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(packed["float16"] / "val", root)
    shard = root / "shard_00000.safetensors"
    if damage == "missing":
        shard.unlink()
    else:
        shard.write_bytes({"empty": b"", "huge header": b"\xff" * 8 + b"{}", "text": b"no shard at all"}[damage])
    with pytest.raises(LatentFaceError, match=r"shard_00000.safetensors: missing or damaged; pack it again"):
        open_store(root)


def test_shards_of_strangers_are_not_taken_for_finished_ones(drawn_dataset, tmp_path):
    folder = tmp_path / "out" / "train"
    folder.mkdir(parents=True)
    save_file({"x": torch.zeros(1)}, folder / "shard_00000.safetensors")
    with pytest.raises(LatentFaceError, match="holds shards of another packing"):
        run(PackConfig(str(drawn_dataset), out=str(tmp_path / "out")))


def test_detect_and_evaluate_read_a_pack(drawn_dataset, packed, weights, tmp_path, monkeypatch, capsys):
    """Of float32: the same files as from the tree."""
    monkeypatch.chdir(tmp_path)
    split = {"tree": drawn_dataset / "val" / "latent", "packed": packed["float32"] / "val"}
    for way, root in (("tree", drawn_dataset), ("packed", packed["float32"])):
        arguments = ["--weight", str(weights), "--out", way]
        assert main(["detect", str(split[way]), "--rate", "75", "--conf", "0.1", "--no_pictures", *arguments]) == 0
        assert main(["evaluate", "--dataset_root", str(root), *arguments]) == 0
    names = sorted(path.name for path in Path("tree").glob("drawn*.json"))
    assert len(names) == 3
    for name in names:
        a, b = (json.loads((Path(way) / name).read_text()) for way in ("tree", "packed"))
        assert a["faces"] == b["faces"]
    a, b = (json.loads((Path(way) / "evaluation.json").read_text())["rates"] for way in ("tree", "packed"))
    assert a["25"]["all"] == b["25"]["all"]
    assert main(["detect", str(split["packed"]), "--rate", "12", "--weight", str(weights)]) == 2
    assert "packed" in capsys.readouterr().err
