"""The table of docs/choices.md, made from `changes` in records/choices.json: `python tests/docs/choices_page.py`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import mean
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE, RECORD = REPOSITORY / "docs" / "choices.md", REPOSITORY / "records" / "choices.json"
PLACE = re.compile(r"(?<=<!-- from records/choices.json -->\n).*?(?=<!-- end -->)", re.DOTALL)
SERIES, RATES = ("first", "second"), ("12", "75")


def table(changes: dict[str, Any]) -> str:
    """AP of the base, then the points that each change gains or loses, those that gain most at rate 75 first."""
    base = {name: {rate: mean(run[rate] for run in changes["base"][name]) for rate in RATES} for name in SERIES}
    heads = [f"{name}, rate {rate}" for name in SERIES for rate in RATES]
    lines = [f"| change | {' | '.join(heads)} | kept |", "|---" * (len(heads) + 2) + "|"]
    seeds = " | ".join(f"{base[name][rate]:.3f}" for name in SERIES for rate in RATES)
    lines.append(f"| none: AP of the base | {seeds} | |")

    def gain(row: dict[str, Any], name: str, rate: str) -> float | None:
        return 100 * (row[name][rate] - base[name][rate]) if rate in row.get(name, {}) else None

    def order(row: dict[str, Any]) -> float:
        return -mean(g for name in SERIES if (g := gain(row, name, "75")) is not None)

    for row in sorted(changes["rows"], key=order):
        gains = (gain(row, name, rate) for name in SERIES for rate in RATES)
        cells = ["" if g is None else f"{g:+.1f}" for g in gains]
        lines.append(f"| {row['change']} | {' | '.join(cells)} | {row.get('kept', '')} |")
    return "\n".join([*lines, ""])


def filled(page: str, record: dict[str, Any]) -> str:
    """The page with the table of the record in its place."""
    return PLACE.sub(lambda _: table(record["changes"]), page)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), json.loads(RECORD.read_text())), encoding="utf-8")
