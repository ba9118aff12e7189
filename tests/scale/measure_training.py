"""Training by one process and by two on the same machine, in turn, and how training grows with its set.

    python tests/scale/measure_training.py processes --record records/scale.json
    python tests/scale/measure_training.py growth --record records/scale.json

Drawn pictures as latents of the `dct` codec; every process has one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from conftest import write_tree

from latentface.data.pack import PackConfig, run
from latentface.machine import versions
from latentface.training.journal import read_rows

RATE, SIDE, BATCH = 75, 256, 16


def train(root: Path, out: Path, processes: int, epochs: int) -> tuple[list[dict[str, Any]], float]:
    """Rows of all epochs, and the seconds from start to end."""
    starter = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    words = [
        "-m", "latentface.cli", "train", "--dataset_root", root, "--model", "light", "--bridge", "shuffle", "--epochs",
        epochs, "--batch_size", BATCH, "--latent_type", f"latent_{RATE}.npy", "--no_wandb", "--no_check",
        "--workers", 0, "--device", "cpu", "--precision", "float32", "--out", out,
    ]  # fmt: skip
    began = time.monotonic()
    subprocess.run(
        [sys.executable, *starter, *map(str, words)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return read_rows(out / "metrics.jsonl"), time.monotonic() - began


# RssAnon, in KB, leaves mapped files out.
OPEN = """
import re, sys, time
from pathlib import Path
from latentface.data.latents import NestedLatentWiderFaceDataset
own = lambda: int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before, began = own(), time.monotonic()
dataset = NestedLatentWiderFaceDataset.of_split(sys.argv[1], rates=(75,))
print(time.monotonic() - began, (own() - before) / 1000)
"""


def opening(split: Path) -> tuple[float, float]:
    """Seconds and MB of its own memory that a process takes to open a split: index, names, labels."""
    done = subprocess.run([sys.executable, "-c", OPEN, str(split)], check=True, capture_output=True, text=True)
    seconds, memory = map(float, done.stdout.split())
    return round(seconds, 3), round(memory, 1)


def measure_processes(folder: Path, pictures: int = 192, repeats: int = 3) -> dict[str, Any]:
    """Pictures per second of the second epoch, without the start."""
    write_tree(folder / "set" / "train", pictures, (RATE,), seed=1, size=SIDE)
    write_tree(folder / "set" / "val", 32, (RATE,), seed=2, size=SIDE)
    speeds: dict[int, list[float]] = {1: [], 2: []}
    precision = {}
    for repeat in range(repeats):
        for processes in speeds:
            rows, _ = train(folder / "set", folder / f"run_{repeat}_{processes}", processes, epochs=2)
            speeds[processes].append(round(rows[-1]["pictures_per_second"], 2))
            precision[processes] = rows[-1]["val_ap"]
    results = {
        str(count): {"pictures_per_second": found, "val_ap": precision[count]} for count, found in speeds.items()
    }
    ratio = statistics.median(speeds[2]) / statistics.median(speeds[1])
    return {
        "what": f"{pictures} drawn pictures of {SIDE}x{SIDE}, light network, batches of {BATCH} in all, one thread a "
        "process, medians of runs in turn.",
        "rows": results,
        "ratio": round(ratio, 2),
    }  # fmt: skip


def measure_growth(folder: Path, sizes: tuple[int, ...] = (1_000, 4_000, 16_000)) -> dict[str, Any]:
    """Packed sets made of the same 40 latents of 128x128 again and again: what grows is only their number."""
    write_tree(folder / "few" / "train", 40, (RATE,), seed=1, size=128)
    labels = (folder / "few" / "train" / "labels.txt").read_text().split("# ")[1:]
    rows = {}
    for size in sizes:
        tree, packed = folder / "tree", folder / "packed"
        for number in range(size):
            place = tree / "train" / "latent" / f"p{number}"
            place.mkdir(parents=True)
            os.link(
                folder / "few" / "train" / "latent" / f"drawn_1_{number % 40}" / f"latent_{RATE}.npy",
                place / f"latent_{RATE}.npy",
            )
        text = "".join(f"# event/p{n}.jpg\n{labels[n % 40].partition(chr(10))[2]}" for n in range(size))
        (tree / "train" / "labels.txt").write_text(text)
        began = time.monotonic()
        run(PackConfig(str(tree), out=str(packed), dtype="int8"))
        packing = time.monotonic() - began
        seconds, memory = opening(packed / "train")
        found, whole = train(packed, folder / f"run_{size}", 1, epochs=1)
        rows[str(size)] = {
            "packed_bytes": sum(path.stat().st_size for path in packed.rglob("*") if path.is_file()),
            "packing_seconds": round(packing, 1),
            "pictures_per_second": round(found[-1]["pictures_per_second"], 1),
            "start_seconds": round(whole - found[-1]["seconds"], 1),
            "opening_seconds": seconds,
            "opening_mb": memory,
        }
        print(size, rows[str(size)], flush=True)
        shutil.rmtree(tree)
        shutil.rmtree(packed)
    return {
        "what": "Packed int8 latents of 128x128 pixels, light network, one process of one thread, one epoch.",
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("processes", "growth"))
    parser.add_argument("--record", type=Path, help="JSON to write the result into")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = (measure_processes if arguments.what == "processes" else measure_growth)(Path(folder))
    found |= {"command": " ".join(["python", "tests/scale/measure_training.py", *sys.argv[1:]]), "versions": versions()}
    print(json.dumps(found, indent=1))
    if arguments.record:
        record = json.loads(arguments.record.read_text()) if arguments.record.is_file() else {}
        record[arguments.what] = found
        arguments.record.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
