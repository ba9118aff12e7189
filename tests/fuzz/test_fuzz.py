"""A short run of what `run.py` does at length: records/reliability.json has what came of it."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
from broken import LARGEST, mutate
from readers import READERS
from run import RECORD, fuzz_plainly


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READERS)
def test_a_line_or_a_right_answer(name: str, tmp_path: Path) -> None:
    tally = fuzz_plainly(READERS[name], tmp_path, inputs=200, seed=0)
    assert tally.others == {}
    assert (tally.inputs, tally.read + tally.refused) == (200, 200)
    assert tally.refused > 20  # inputs that nothing is wrong with would test nothing
    assert tally.longest < 5


@pytest.mark.parametrize("name", READERS)
def test_files_that_are_taken_apart_go_together_again(name: str) -> None:
    reader = READERS[name]
    for content in reader.seeds:
        parts = reader.parts(content)
        assert reader.parts(reader.join(parts)) == parts


def test_a_seed_is_an_input() -> None:
    first, second, third = (mutate(Random(seed), b"some text 123\n" * 9, (b"word",), b"other") for seed in (1, 1, 2))
    assert first == second != third
    assert len(mutate(Random(3), bytes(2 * LARGEST), ())) <= LARGEST


def test_the_recorded_runs_found_nothing() -> None:
    record = json.loads(RECORD.read_text(encoding="utf-8"))["fuzz"]
    assert record.keys() <= READERS.keys()
    for name, run in record.items():
        assert run["other_exceptions"] == 0, name
        assert run["read"] + run["refused"] == run["inputs"], name
