"""An archive of small latents, detected while a worker is killed half way; what came out goes into a record.

    python tests/scale/archive.py make ARCHIVE --latents 100000
    python tests/scale/archive.py detect ARCHIVE --kill --record records/scale.json -- --processes 2
    python tests/scale/archive.py detect ARCHIVE --kill --record records/scale.json -- --ray local --processes 2

What stands behind `--` goes to `latentface detect`. Exit status 1 unless every latent has exactly one row.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from latentface.apps.drawing import draw_picture
from latentface.codecs.dct import DctCodec
from latentface.data.packed import PackInfo, Shard, tensor_name
from latentface.data.pretrained import pretrained
from latentface.files import replacing, sha256
from latentface.machine import versions

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from processes import kill_a_worker

RATE, CELLS, PICTURES, LATENTS_PER_SHARD = 75, 8, 40, 10_000


def make(out: Path, count: int) -> None:
    """A packed split of `count` latents [256, 8, 8]: squares, drawn at random, of 40 drawn pictures of 256x256."""
    out.mkdir(parents=True)
    rng, codec, shards = np.random.default_rng(0), DctCodec(), []
    pictures = [draw_picture(np.random.default_rng((9, n)), 256, 256, faces=1 + n % 3).rgb for n in range(PICTURES)]
    wholes = [codec.encode_rates(rgb, [RATE])[0].array for rgb in pictures]
    for first in range(0, count, LATENTS_PER_SHARD):
        tensors = {}
        for number in range(first, min(first + LATENTS_PER_SHARD, count)):
            whole = wholes[rng.integers(PICTURES)]
            y, x = (rng.integers(side - CELLS + 1) for side in whole.shape[1:])
            square = whole[:, y : y + CELLS, x : x + CELLS].transpose(1, 2, 0)
            tensors[tensor_name(f"p{number:07d}", RATE)] = torch.from_numpy(np.ascontiguousarray(square, np.float16))
        path = out / f"shard_{len(shards):05d}.safetensors"
        save_file(tensors, path)
        shards.append(Shard(path.name, len(tensors), path.stat().st_size, sha256(path)))
    (out / "pack.json").write_text(PackInfo("float16", (RATE,), 16, tuple(shards), {}, {}).to_json())


def detect(inputs: str, more: list[str], kill: bool) -> dict[str, object]:
    """Runs the command; what is in its rows, how long it took, and what the parent process held at most."""
    out = Path(tempfile.mkdtemp()) / "rows"
    words = ["detect", str(inputs), "--weight", str(pretrained("dct")), "--rows", "jsonl", "--batch_size", "64"]
    words += ["--out", str(out), *more]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "latentface.cli", *words], start_new_session=True)
    peak, killed = 0, ""
    while process.poll() is None:
        peak = max(peak, _peak(process.pid))
        if kill and not killed and _half_done(out):
            killed = kill_a_worker(process.pid)
        time.sleep(0.2)
    seconds, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    rows = [json.loads(line) for part in sorted(out.glob("part-*.jsonl")) for line in part.open()]
    found = {
        "command": " ".join(["latentface detect ARCHIVE --rows jsonl --batch_size 64 --out OUT", *more]),
        "exit_status": process.returncode,
        "inputs": json.loads((out / "_parts.json").read_text())["inputs"],
        "rows": len(rows),
        "distinct": len({row["latent"] for row in rows}),
        "errors": sum(row["error"] is not None for row in rows),
        "faces": sum(len(row["faces"]) for row in rows),
        "killed": killed,
        "seconds": round(seconds, 1),
        "inputs_per_second": round(len(rows) / seconds, 1),
        "processor_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "parent_peak_mb": round(peak / 1024),
        "load_average_at_end": round(os.getloadavg()[1], 1),  # of the last five minutes
    }
    shutil.rmtree(out.parent)
    return found


def _half_done(out: Path) -> bool:
    if not (out / "_parts.json").exists():
        return False
    about = json.loads((out / "_parts.json").read_text())
    return 2 * len(list(out.glob("part-*.jsonl"))) * about["settings"]["part"] >= about["inputs"]


def _peak(process: int) -> int:
    """The most memory that a process has held so far, kB."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1])
    return 0


def record(path: Path, name: str, found: dict[str, object]) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    content.setdefault("archive", {})[name] = found | {"versions": versions("ray")}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def main() -> int:
    """See the module's docstring."""
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("make", "detect"))
    parser.add_argument("archive", type=str)
    parser.add_argument("--latents", type=int, default=100_000)
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--record", type=Path)
    parser.add_argument("--name", default="", help="of the entry in the record")
    chosen, more = parser.parse_args(words[:cut]), words[cut + 1 :]
    if chosen.what == "make":
        make(Path(chosen.archive), chosen.latents)
        return 0
    found = detect(chosen.archive, more, chosen.kill)
    print(json.dumps(found, indent=1))
    if chosen.record:
        record(chosen.record, chosen.name or " ".join(more), found)
    good = found["inputs"] == found["rows"] == found["distinct"] and found["exit_status"] == 0
    return 0 if good and bool(found["killed"]) == chosen.kill else 1


if __name__ == "__main__":
    sys.exit(main())
