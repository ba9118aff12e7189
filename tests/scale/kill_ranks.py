"""Kills one of two training processes at random moments; torchrun starts them anew: `python kill_ranks.py --help`.

What counts: the run ends by itself, and its weights are those of a run that nobody killed, to the bit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from conftest import write_tree

from latentface.machine import versions
from latentface.model.checkpoint import load_checkpoint
from latentface.training.journal import read_rows

PICTURES, SIDE, EPOCHS = 48, 64, 8


def start(root: Path, out: Path) -> subprocess.Popen:
    words = [
        "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--max-restarts=3", "-m", "latentface.cli",
        "train", "--dataset_root", root, "--model", "light", "--bridge", "shuffle", "--epochs", EPOCHS, "--batch_size",
        8, "--no_wandb", "--no_check", "--workers", 0, "--device", "cpu", "--precision", "float32", "--save_minutes",
        1e-9, "--sync_bn", "--out", out,
    ]  # fmt: skip
    return subprocess.Popen(
        [sys.executable, *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def kill_one(torchrun: subprocess.Popen, generator: random.Random) -> bool:
    """Whether one of its processes was there to be killed."""
    try:
        children = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text().split()
        os.kill(int(generator.choice(children)), signal.SIGKILL)
    except (OSError, IndexError):
        return False
    return True


def same(first: Path, second: Path) -> bool:
    one, two = (load_checkpoint(folder / "weight_final.pth").state for folder in (first, second))
    return one.keys() == two.keys() and all(one[name].equal(two[name]) for name in one)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--record", type=Path, help="JSON to write the result into")
    arguments = parser.parse_args()
    generator, runs, kills, ended, equal, inside = random.Random(0), 0, 0, 0, 0, 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_tree(root / "train", PICTURES, (75,), seed=1, size=SIDE)
        write_tree(root / "val", 8, (75,), seed=2, size=SIDE)
        began = time.monotonic()
        assert start(root, root / "whole").wait() == 0
        length = time.monotonic() - began
        while kills < arguments.kills:
            out = root / f"run_{runs}"
            torchrun, runs = start(root, out), runs + 1
            time.sleep(generator.uniform(0.1, 1.0) * length)
            if not kill_one(torchrun, generator):
                torchrun.wait()
                continue
            kills += 1
            inside += (out / "state.pth").is_file() and not (out / "weight_final.pth").is_file()
            ended += torchrun.wait() == 0 and read_rows(out / "metrics.jsonl")[-1]["epoch"] == EPOCHS
            equal += (out / "weight_final.pth").is_file() and same(root / "whole", out)
            print(kills, ended, equal, inside, flush=True)
    found = {
        "what": f"{PICTURES} drawn pictures of {SIDE}x{SIDE}, light network, {EPOCHS} epochs, two processes; one of "
        f"the two is killed (SIGKILL) at a random moment of the {length:.0f} seconds that such a run takes, torchrun "
        "--max-restarts=3 starts both anew, and the weights are held against those of a run that nobody killed.",
        "kills": kills, "inside_training": inside, "ended_by_itself": ended, "equal_to_the_bit": equal,
        "command": " ".join(["python", "tests/scale/kill_ranks.py", *sys.argv[1:]]), "versions": versions(),
    }  # fmt: skip
    print(json.dumps(found, indent=1))
    if arguments.record:
        record = json.loads(arguments.record.read_text()) if arguments.record.is_file() else {}
        arguments.record.write_text(json.dumps(record | {"kills": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
