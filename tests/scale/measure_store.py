"""Samples per second of one epoch's batches from a local disk and from an S3-compatible server on this machine, by an
empty and by a filled cache: `python measure_store.py OUT`. Writes OUT/store.json.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from latentface.data import pack
from latentface.data.batches import EpochBatches, collate
from latentface.data.cache import Cache
from latentface.data.labels import PictureLabels, write_labels
from latentface.data.latents import NestedLatentWiderFaceDataset
from latentface.data.mirror import local
from latentface.data.order import ShardOrder
from latentface.data.reading import load_batches

PICTURES, CELLS, BATCH, SHARD_MB, WINDOW, REPEATS = 400, 40, 8, 16, 4, 3
PORT = 5757


def make_set(out: Path) -> None:
    generator, labels = np.random.default_rng(0), []
    for number in range(PICTURES):
        folder = out / "tree" / "train" / "latent" / f"a{number:04d}"
        folder.mkdir(parents=True)
        np.save(folder / "latent_75.npy", generator.normal(size=(256, CELLS, CELLS)).astype(np.float16))
        box = np.array([[10, 10, 90, 90]], np.float32)
        nothing = np.full((1, 5, 2), np.nan, np.float32)
        labels.append(PictureLabels(folder.name, box, nothing, np.zeros(1, bool)))
    write_labels(out / "tree" / "train" / "labels.txt", labels)
    pack.SHARD_BYTES = SHARD_MB << 20
    pack.run(pack.PackConfig(str(out / "tree"), out=str(out / "packed")))
    shutil.rmtree(out / "tree")


def rate(split: str | Path, cache: Cache, workers: int) -> tuple[float, float]:
    """Seconds until the set is open, samples per second of an epoch after that."""
    start = time.monotonic()
    dataset = NestedLatentWiderFaceDataset.of_split(local(str(split), cache))
    opened = time.monotonic() - start
    batches = EpochBatches(len(dataset), BATCH, 0, ShardOrder(dataset.shards, 0, WINDOW))
    start = time.monotonic()
    seen = sum(len(batch.names) for batch in load_batches(dataset, collate, workers, batch_sampler=batches))
    return opened, seen / (time.monotonic() - start)


def measure(out: Path, url: str) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {}
    for repeat in range(REPEATS):
        for workers in (0, 2):
            folder = out / f"cache_{repeat}_{workers}"
            cache = Cache(folder, 10**10)
            for name, split in (("local", out / "packed" / "train"), ("s3 cold", url), ("s3 warm", url)):
                opened, speed = rate(split, cache, workers)
                row = found.setdefault(f"{name}, {workers} workers", {"opened_seconds": [], "samples_per_second": []})
                row["opened_seconds"].append(round(opened, 2))
                row["samples_per_second"].append(round(speed, 1))
                print(name, workers, round(opened, 2), round(speed, 1), flush=True)
            shutil.rmtree(folder)
    return found


def main(out: Path) -> None:
    if not (out / "packed" / "train" / "pack.json").is_file():
        make_set(out)
    os.environ |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{PORT}", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    program = "from moto.server import main; main()"
    server = subprocess.Popen([sys.executable, "-c", program, "-H", "127.0.0.1", "-p", str(PORT)],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        import s3fs

        system = s3fs.S3FileSystem()
        for _ in range(60):
            with suppress(Exception):  # until it listens
                system.mkdir("bucket")
                break
            time.sleep(1)
        system.put(str(out / "packed"), "bucket/packed", recursive=True)
        found = measure(out, "s3://bucket/packed/train")
    finally:
        server.terminate()
    result = {
        "set": f"{PICTURES} random latents [256, {CELLS}, {CELLS}] as float16, shards of {SHARD_MB} MB, "
        f"window {WINDOW}, batches of {BATCH}",
        "server": "moto on the same machine, a process of its own",
        "rows": found,
    }
    (out / "store.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
