"""The table of docs/reliability.md, made from records/reliability.json.

    python tests/reliability/page.py

The record has a section for each kind of trial: the `command` that repeats it, `versions`, and `rows`, of which each
has `item` (what was tried), `tried` (how often), `survived`, `lost` (in words), and may have a `note`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE, RECORD = REPOSITORY / "docs" / "reliability.md", REPOSITORY / "records" / "reliability.json"
PLACE = re.compile(r"(?<=<!-- from records/reliability.json -->\n).*?(?=<!-- end -->)", re.DOTALL)


def table(record: dict[str, Any]) -> str:
    """A row per item of every section, and below it the commands."""
    lines = ["| what was tried | how often | survived | lost | |", "|---|---|---|---|---|"]
    for section in record.values():
        for row in section["rows"]:
            cells = [row["item"], f"{row['tried']:,}", f"{row['survived']:,}", row["lost"], row.get("note", "")]
            lines.append("| " + " | ".join(cells) + " |")
    commands = [section["command"] for section in record.values()]
    return "\n".join([*lines, "", "```bash", *commands, "```", ""])


def filled(page: str, record: dict[str, Any]) -> str:
    """The page with the table of the record in its place."""
    return PLACE.sub(lambda _: table(record), page)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), json.loads(RECORD.read_text())), encoding="utf-8")
