"""Fuzzes one reader and notes what came of it in records/reliability.json.

    python tests/fuzz/run.py --reader labels --inputs 1000000 --seed 0

With the package `atheris` inputs are led by coverage: those that reach new lines of latentface are changed further.
Without it, or with --plain, they are changes of the valid files alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(Path(__file__).parent)]

from broken import LARGEST, mutate  # noqa: E402

RECORD = REPOSITORY / "records" / "reliability.json"
MEMORY = Path("/dev/shm")  # a file system in memory, where there is one


class Tally:
    """One reader on many inputs: how they ended."""

    def __init__(self, reader, folder: Path) -> None:
        self.reader, self.path = reader, folder / reader.file
        self.inputs = self.read = self.refused = 0
        self.longest = 0.0  # seconds of the processor, for one input
        self.others: Counter[str] = Counter()  # exceptions that should not be
        self.examples: dict[str, bytes] = {}
        for content in reader.seeds:  # valid files have to be read; the first also imports what the reader needs
            self.path.write_bytes(content)
            reader.read(self.path)

    def __call__(self, content: bytes) -> None:
        from latentface.errors import LatentFaceError

        self.path.write_bytes(content)
        start = time.process_time()
        try:
            self.reader.read(self.path)
            self.read += 1
        except LatentFaceError as error:
            self.refused += 1
            if "\n" in str(error):
                self._note(AssertionError("more than one line"), content)
        except Exception as error:
            self._note(error, content)
        seconds = time.process_time() - start
        if seconds > self.longest:
            self.longest, self.examples["slowest"] = seconds, content
        self.inputs += 1

    def _note(self, error: Exception, content: bytes) -> None:
        name = f"{type(error).__name__}: {str(error)[:80]}"
        self.others[name] += 1
        self.examples.setdefault(name, content)


def changed(random: Random, reader, content: bytes) -> bytes:
    """A valid file with changes, half of the time inside one of its parts, which then is put together again."""
    other = random.choice(reader.seeds)
    if random.random() < 0.5:
        try:
            parts = reader.parts(content)
            place = random.randrange(len(parts))
            parts[place] = mutate(random, parts[place], reader.words, other)
            return reader.join(parts)[:LARGEST]
        except Exception:  # changed before, and no file any more that can be taken apart
            return changed(random, reader, other)
    return mutate(random, content, reader.words, other)


def fuzz_plainly(reader, folder: Path, inputs: int, seed: int) -> Tally:
    """`inputs` changed valid files."""
    random, tally = Random(seed), Tally(reader, folder)
    for _ in range(inputs):
        tally(changed(random, reader, random.choice(reader.seeds)))
    return tally


def fuzz_by_coverage(reader, folder: Path, inputs: int, seed: int, done: Callable[[Tally], None]) -> None:
    """The same with libFuzzer's choice of what to change further; `done` is called, and the process ends."""
    import atheris

    corpus = folder / "corpus"
    corpus.mkdir()
    for number, content in enumerate(reader.seeds):
        (corpus / str(number)).write_bytes(content)
    tally = Tally(reader, folder)

    def one(content: bytes) -> None:
        tally(content)
        if tally.inputs == inputs:
            done(tally)
            os._exit(0)  # libFuzzer takes any other end for a crash

    def mutator(content: bytes, most: int, number: int) -> bytes:
        random = Random(number)
        if random.random() < 0.3:
            return atheris.Mutate(content, most)
        return changed(random, reader, content)[:most]

    flags = [f"-seed={seed + 1}", f"-max_len={LARGEST}", "-timeout=60", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], one, custom_mutator=mutator)
    atheris.Fuzz()


def save(name: str, tally: Tally, command: str, seconds: float, guided: bool) -> None:
    """Into the record, beside what is there of others."""
    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
    record.setdefault("fuzz", {})[name] = {
        "inputs": tally.inputs,
        "read": tally.read,
        "refused": tally.refused,
        "other_exceptions": sum(tally.others.values()),
        "longest_ms": round(1000 * tally.longest, 1),
        "seconds": round(seconds),
        "led_by_coverage": guided,
        "command": command,
    }
    RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--reader", required=True)
    arguments.add_argument("--inputs", type=int, default=1_000_000)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--plain", action="store_true", help="not led by coverage")
    arguments.add_argument(
        "--examples", default="", help="folder for the slowest input, and for those that ended in another exception"
    )
    given = arguments.parse_args()
    warnings.simplefilter("ignore")
    guided = not given.plain
    if guided:
        try:
            import atheris
        except ImportError:
            guided = False
    if guided:
        with atheris.instrument_imports(include=["latentface"]):
            from readers import READERS
    else:
        from readers import READERS
    reader = READERS[given.reader]
    folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
    start = time.monotonic()

    def done(tally: Tally) -> None:
        command = f"python tests/fuzz/run.py --reader {given.reader} --inputs {given.inputs} --seed {given.seed}"
        save(given.reader, tally, command, time.monotonic() - start, guided)
        shutil.rmtree(folder)
        print(f"{given.reader}: {tally.inputs} inputs, {tally.read} read, {tally.refused} refused, longest "
              f"{1000 * tally.longest:.1f} ms; other exceptions: {dict(tally.others)}", flush=True)  # fmt: skip
        for number, content in enumerate(tally.examples.values()):
            if given.examples:
                Path(given.examples, f"{given.reader}_{number}").write_bytes(content)  # the first is the slowest

    if guided:
        fuzz_by_coverage(reader, folder, given.inputs, given.seed, done)
    else:
        done(fuzz_plainly(reader, folder, given.inputs, given.seed))


if __name__ == "__main__":
    main()
