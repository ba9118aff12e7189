"""Changes the code in small ways and counts the changes that no test notices; into records/reliability.json.

    pip install mutmut==3.8.1
    python tests/mutation/run.py                          # every file
    python tests/mutation/run.py latentface/boxes.py      # one of them
    python tests/mutation/run.py --most 80                # at most 80 mutants of each, drawn at random

Only tests that concern a file run against its mutants, and none that needs ../shared. Linux only. `.mutants` keeps what
became of each mutant: those that died are not tried again until the file changes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from datetime import date
from importlib.metadata import version
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(Path(__file__).parent)]

from forks import run  # noqa: E402

RECORD = REPOSITORY / "records" / "reliability.json"
KNOWN = REPOSITORY / ".mutants"

HOSTILE = [
    f"tests/hostile/test_pictures_and_graphs.py::test_{name}"
    for name in (
        "scipy_reads_the_same",
        "files_that_claim_more_than_they_hold",
        "decompression_ends_at_a_limit",
        "cells_in_cells_have_an_end",
        "ground_truth_of_other_kinds",
        "indices_of_no_face",
    )
]
TESTS = {
    "latentface/boxes.py": ["tests/test_boxes.py"],
    "latentface/model/postprocess.py": ["tests/model/test_postprocess.py"],
    "latentface/model/loss.py": ["tests/model/test_loss.py", "tests/model/test_later_losses.py"],
    "latentface/model/anchors.py": [
        "tests/test_boxes.py",
        "tests/model/test_anchors.py",
        "tests/model/test_later_losses.py",
    ],
    "latentface/data/labels.py": ["tests/data/test_labels.py"],
    "latentface/data/label_rows.py": ["tests/data/test_labels.py"],
    "latentface/evaluation/average_precision.py": ["tests/evaluation/test_average_precision.py"],
    "latentface/evaluation/outcomes.py": ["tests/evaluation/test_outcomes.py"],
    "latentface/evaluation/ground_truth.py": ["tests/evaluation/test_wider.py", *HOSTILE],
    "latentface/evaluation/mat_file.py": ["tests/hostile/test_mat_files.py", *HOSTILE],
    "latentface/evaluation/wider.py": ["tests/evaluation/test_wider.py"],
    "latentface/evaluation/report.py": ["tests/evaluation/test_report.py"],
}
DESELECTED = "not published_figures and not real_label"  # real data
DESELECTED += " and not predicted_faces and not prediction_in_half"  # whole networks


def one_file(path: str, most: int) -> None:
    """In a process of its own."""
    KNOWN.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        known = KNOWN / f"{path.replace('/', '.')}.json"
        mutants, ends = run(Path(path), TESTS[path], DESELECTED, most, Path(folder) / "pytest", known)
    counted = Counter(ends.values())
    counts = {
        "mutants": mutants,
        "tried": len(ends),
        **{end: counted[end] for end in ("killed", "timeouts", "survived")},
    }
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    section = record.setdefault("mutants", {})
    command = "python tests/mutation/run.py" + (f" --most {most}" if most < mutants else "")
    section.update(tool="mutmut", version=version("mutmut"), date=str(date.today()), command=command)
    section.setdefault("files", {})[path] = counts
    RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(f"\n{path}: {counts}", flush=True)


def main() -> None:
    os.chdir(REPOSITORY)
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("files", nargs="*", metavar="FILE")
    arguments.add_argument("--most", type=int, default=sys.maxsize, help="mutants of each file, drawn at random")
    given = arguments.parse_args()
    if unknown := set(given.files) - set(TESTS):
        arguments.error(f"{', '.join(sorted(unknown))}: there are {', '.join(TESTS)}")
    for path in given.files or TESTS:
        child = os.fork()
        if not child:
            one_file(path, given.most)
            sys.exit()
        if os.waitpid(child, 0)[1]:
            sys.exit(f"{path}: went wrong")


if __name__ == "__main__":
    main()
