"""The table of docs/reliability.md, made from records/reliability.json.

    python tests/reliability/page.py

A section of the record with `rows` says of each: `item` (what was tried), `tried` (how often), `survived`, `lost` (in
words), perhaps a `note`. The sections `fuzz` and `mutants` have counts, of a reader and of a file, in place of rows.
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
    """A row per item, and below it the commands of sections with rows."""
    lines = ["| what was tried | how often | survived | lost | |", "|---|---|---|---|---|"]
    sections = [section for section in record.values() if "rows" in section]
    broken = [of_fuzzing(reader, counts) for reader, counts in record.get("fuzz", {}).items()]
    mutants = [of_mutants(record["mutants"]["files"])] if "mutants" in record else []
    for row in [*(row for section in sections for row in section["rows"]), *broken, *mutants]:
        cells = [row["item"], f"{row['tried']:,}", f"{row['survived']:,}", row["lost"], row.get("note", "")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(f"- `{section['command']}`" for section in sections), ""])


def of_fuzzing(reader: str, counts: dict[str, Any]) -> dict[str, Any]:
    """An input survives if it is read rightly or refused by one line."""
    inputs = counts["inputs"]
    note = f"{counts['read']:,} were read, {counts['refused']:,} refused"
    survived = inputs - counts["other_exceptions"]
    return {"item": f"broken input: {reader}", "tried": inputs, "survived": survived, "lost": "", "note": note}


def of_mutants(files: dict[str, dict[str, int]]) -> dict[str, Any]:
    """Of mutants alone it is good that few survive."""
    tried, survived = (sum(counts[name] for counts in files.values()) for name in ("tried", "survived"))
    note = f"tests noticed the other {1 - survived / tried:.1%}; see below"
    return {"item": f"small changes to {len(files)} files of code", "tried": tried, "survived": survived, "lost": "",
            "note": note}  # fmt: skip


def filled(page: str, record: dict[str, Any]) -> str:
    """The page with the table of the record in its place."""
    return PLACE.sub(lambda _: table(record), page)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), json.loads(RECORD.read_text())), encoding="utf-8")
