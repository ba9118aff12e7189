"""Kills training, packing and encoding at random moments by SIGKILL, and continues them until they are done.

    python tests/reliability/kills.py --train 200 --pack 100 --encode 60 --record records/reliability.json

One process imports PyTorch and forks off every victim, so that a kill costs less than a second. Half of the kills are
aimed: they wait until a file is being written. After each one everything under a final name has to be readable; a run
that is continued to its end has to equal, to the bit, one that was never killed. Exit status 1 where anything is not.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from victims import STEPS, Job, counter, difference, encoding, load_modules, make_data, packing, training

from latentface.machine import versions

LONGEST = 120.0  # seconds that a victim may take by itself
HANG = 15.0  # seconds after which a victim's own processes have to be gone


@dataclass
class Tally:
    """Of one job."""

    kills: int = 0
    aimed: int = 0  # of them, so many left a file that was being written
    survived: int = 0
    runs: int = 0
    equal: int = 0
    lost: int = 0  # steps at most
    problems: list[str] = field(default_factory=list)


def start(work: Callable[[Path], object], folder: Path, log: Path) -> int:
    """A process of its own group that works and ends with status 0, or 1 with the traceback in `log`."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        os.setsid()
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            try:
                work(folder)
                status = 0
            except BaseException:
                import traceback

                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
    finally:
        os._exit(status)


def wait(process: int, until: Callable[[], bool]) -> int | None:
    """The exit status, or None where `until` came first."""
    while not until():
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.0005)
    return None


def finish(work: Callable[[Path], object], folder: Path, log: Path) -> float:
    """Works without being killed; the seconds that took."""
    begun = time.monotonic()
    process = start(work, folder, log)
    if (status := wait(process, lambda: time.monotonic() > begun + LONGEST)) != 0:
        if status is None:
            os.killpg(process, signal.SIGKILL)
        raise RuntimeError(f"{folder.name}: exit status {status}\n{log.read_text()}")
    return time.monotonic() - begun


def being_written(folder: Path) -> bool:
    with suppress(FileNotFoundError):  # while it is looked for
        return any(folder.rglob(".*.tmp"))
    return False


def session(job: Job, folder: Path, log: Path, random: np.random.Generator, length: float) -> bool | None:
    """Starts or continues and kills; True where a file was being written then, None where the job was done first."""
    counter[:] = bytes(8)
    process = start(job.work, folder, log)
    moment = time.monotonic() + random.uniform(0, length)
    status = wait(process, lambda: time.monotonic() > moment)
    if status is None and random.random() < 0.5:
        status = wait(process, lambda: being_written(folder))
        time.sleep(random.uniform(0, 0.004))
    if status is None:
        if random.random() < 0.5:
            os.kill(process, signal.SIGKILL)  # its own processes have to notice
        else:
            with suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if status not in (0, -signal.SIGKILL):
        raise RuntimeError(f"{job.name}: exit status {status}\n{log.read_text()}")
    return None if status == 0 else being_written(folder)


def abuse(job: Job, root: Path, kills: int, random: np.random.Generator) -> Tally:
    """Runs of `job`, each killed again and again until it is done, until there were so many kills."""
    log, tally = root / "log.txt", Tally()
    whole = root / f"{job.name} whole"
    length = finish(job.work, whole, log)
    expected = job.result(whole)
    while tally.kills < kills:
        folder = root / f"{job.name} {tally.runs}"
        while (hit := session(job, folder, log, random, length)) is not None:
            tally.kills += 1
            tally.aimed += hit
            try:
                job.check(folder)
                tally.survived += 1
            except Exception as error:
                tally.problems.append(f"{folder.name} after kill {tally.kills}: {error}")
            done = int.from_bytes(counter[:], "little")
            tally.lost = max(tally.lost, done - job.saved(folder))
        tally.runs += 1
        left = [path.name for path in folder.rglob(".*")]
        other = difference(expected, job.result(folder))
        tally.equal += not (other or left)
        if other or left:
            tally.problems.append(f"{folder.name}: {f'another result, {other}' if other else f'left {left}'}")
    return tally


def row(job: Job, tally: Tally) -> dict[str, object]:
    """One line of the table in docs/reliability.md."""
    many = "s" * (tally.lost != 1)
    lost = f"at most {tally.lost} step{many}, of {STEPS} in an epoch" if tally.lost else "nothing that was finished"
    return {
        "item": f"kill -9: {job.name}",
        "tried": tally.kills,
        "survived": tally.survived,
        "lost": lost,
        "note": f"{tally.aimed} of them while a file was being written; {tally.runs} runs were continued to their end, "
        f"{tally.equal} equal to the bit",
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=3, help="kills of training")
    parser.add_argument("--pack", type=int, default=3, help="kills of packing")
    parser.add_argument("--encode", type=int, default=3, help="kills of encoding")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", type=Path, help="JSON to write the section `kills` into")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    random = np.random.default_rng(arguments.seed)
    rows, problems = [], []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        load_modules(root)
        finish(make_data, root, root / "log.txt")  # not here: threads that computed are missing in what is forked off
        plan = [
            (training(root, save_minutes=1e-9, workers=0), arguments.train // 2),
            (training(root, save_minutes=10.0, workers=1), arguments.train - arguments.train // 2),
            (packing(root), arguments.pack),
            (encoding(root), arguments.encode),
        ]
        for job, kills in plan:
            begun = time.monotonic()
            tally = abuse(job, root, kills, random)
            rows.append(row(job, tally))
            problems += tally.problems
            print(json.dumps(rows[-1] | {"seconds": round(time.monotonic() - begun)}), flush=True)
    print("\n".join(problems) or "all is well")
    if arguments.record:
        record = json.loads(arguments.record.read_text()) if arguments.record.is_file() else {}
        command = " ".join(["python", "tests/reliability/kills.py", *sys.argv[1:]])
        record["kills"] = {"command": command, "versions": versions(), "rows": rows, "problems": problems}
        arguments.record.write_text(json.dumps(record, indent=1) + "\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
