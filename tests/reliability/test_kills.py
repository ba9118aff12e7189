"""A short run of what `kills.py` does two hundred times and more: records/reliability.json has what came of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from conftest import REPOSITORY


def test_a_few_kills(tmp_path: Path) -> None:
    script = REPOSITORY / "tests" / "reliability" / "kills.py"
    record = tmp_path / "record.json"
    record.write_text('{"other": {"kept": true}}')
    done = subprocess.run(
        [sys.executable, str(script), "--train", "2", "--pack", "2", "--encode", "2", "--record", str(record)],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("all is well\n")
    content = json.loads(record.read_text())
    assert content["other"] == {"kept": True}
    rows = content["kills"]["rows"]
    assert [row["item"] for row in rows] == [
        "kill -9: training, saved at every step",
        "kill -9: training, saved at the end of an epoch",
        "kill -9: packing",
        "kill -9: encoding",
    ]
    assert all(row["tried"] == row["survived"] >= 1 for row in rows)
