"""The tables of docs/choices.md, made from records: `python tests/docs/choices_page.py`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import mean
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE, RECORDS = REPOSITORY / "docs" / "choices.md", REPOSITORY / "records"
PLACE = re.compile(r"(<!-- from records/(?:choices|missed).json: (\w+) -->\n).*?(?=<!-- end -->)", re.DOTALL)
VIEWS = "how many views: AP on 487 dev photographs after one epoch, faces of 10 px and more"  # the record's words
RANDOM = "from random weights behind the projection that comes along"  # so the record's words begin
RATES = ("12", "75")


def changes_table(changes: dict[str, Any]) -> str:
    """AP of the base, then the points that each change gains or loses, those that gain most at rate 75 first."""
    base = {name: {rate: mean(run[rate] for run in runs) for rate in RATES} for name, runs in changes["base"].items()}
    heads = [f"{name}, rate {rate}" for name in base for rate in RATES]
    lines = [f"| change | {' | '.join(heads)} | kept |", "|---" * (len(heads) + 2) + "|"]
    seeds = " | ".join(f"{base[name][rate]:.3f}" for name in base for rate in RATES)
    lines.append(f"| none: AP of the base | {seeds} | |")

    def gain(row: dict[str, Any], name: str, rate: str) -> float | None:
        return 100 * (row[name][rate] - base[name][rate]) if rate in row.get(name, {}) else None

    def order(row: dict[str, Any]) -> float:
        return -mean(g for name in base if (g := gain(row, name, "75")) is not None)

    for row in sorted(changes["rows"], key=order):
        gains = (gain(row, name, rate) for name in base for rate in RATES)
        cells = ["" if g is None else f"{g:+.1f}" for g in gains]
        lines.append(f"| {row['change']} | {' | '.join(cells)} | {row.get('kept', '')} |")
    return "\n".join([*lines, ""])


def views_table(views: dict[str, dict[str, float]]) -> str:
    """AP by rate after every training, in the order of the record."""
    rates = list(next(iter(views.values())))
    lines = ["| trained on | " + " | ".join(f"rate {rate}" for rate in rates) + " |", "|---" * (len(rates) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(f"{ap[rate]:.3f}" for rate in rates) + " |" for name, ap in views.items()]
    return "\n".join([*lines, ""])


def random_table(trainings: dict[str, Any]) -> str:
    """AP of all faces and of those of 32 to 96 px after each training, the best first."""
    rows = [(name, ap) for name, ap in trainings.items() if isinstance(ap, list)]
    lines = ["| | 10 px and more | 32-96 px |", "|---|---|---|"]
    lines += [f"| {name} | {ap[0]:.4f} | {ap[1]:.4f} |" for name, ap in sorted(rows, key=lambda row: -row[1][0])]
    return "\n".join([*lines, ""])


def alike_table(rows: dict[str, dict[str, float]]) -> str:
    """Networks and bridges trained alike: how long, what a picture costs, and AP at two rates."""
    lines = ["| | epochs | GMAC | rate 12 | rate 75 |", "|---|---|---|---|---|"]
    for name, row in rows.items():
        ap = " | ".join(f"{row[rate]:.3f}" for rate in RATES)
        lines.append(f"| {name} | {row['epochs']} | {row['gmac']:.1f} | {ap} |")
    return "\n".join([*lines, ""])


def missed_table(ways: dict[str, Any]) -> str:
    """Found of all faces, by height and by what the labels say of them; then the missed ones by kind."""
    lines = [f"| faces | number | {' | '.join(ways)} |", "|---" * (len(ways) + 2) + "|"]
    first = next(iter(ways.values()))
    for part in ("by_height", "by_attribute"):
        for name, counts in first[part].items():
            shares = (f"{100 * one[part][name]['found'] / one[part][name]['faces']:.1f} %" for one in ways.values())
            lines.append(f"| {_named(name)} | {counts['faces']:,} | {' | '.join(shares)} |")
    lines += ["", f"| missed, as | {' | '.join(ways)} |", "|---" * (len(ways) + 1) + "|"]
    for kind in first["missed"]:
        lines.append(f"| {kind} | " + " | ".join(f"{one['missed'][kind]['all']:,}" for one in ways.values()) + " |")
    return "\n".join([*lines, ""])


def _named(faces: str) -> str:
    if faces == "under 16":
        return "10-16 px"  # lower ones are left out
    return faces if faces[0].isalpha() and faces.split()[0] != "over" else f"{faces} px"


def filled(page: str) -> str:
    """The page with the tables of the records in their places."""
    choices, missed = (json.loads((RECORDS / f"{name}.json").read_text()) for name in ("choices", "missed"))
    tables = {
        "changes": changes_table(choices["changes"]),
        "views": views_table(choices[VIEWS]),
        "random": random_table(next(value for name, value in choices.items() if name.startswith(RANDOM))),
        "alike": alike_table(choices["trained alike from random weights"]["rows"]),
        "faces": missed_table(missed["ways"]),
    }
    return PLACE.sub(lambda place: place[1] + tables[place[2]], page)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
