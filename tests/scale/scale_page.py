"""The tables of docs/scale.md, made from records/scale.json: `python tests/scale/scale_page.py`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE, RECORD = REPOSITORY / "docs" / "scale.md", REPOSITORY / "records" / "scale.json"
BENCH = REPOSITORY / "records" / "bench_epyc_2_cores_mobilenet.json"
PRICE = 0.04  # dollars
PLACE = re.compile(r"(?<=<!-- from records/scale.json: )(\w+)( -->\n).*?(?=<!-- end -->)", re.DOTALL)


def order(section: dict[str, Any]) -> list[str]:
    """A row per order, a column per seed."""
    seeds = sorted({run["seed"] for run in section["runs"]})
    lines = ["| AP of | " + " | ".join(f"seed {seed}" for seed in seeds) + " |", "|---|" + "---|" * len(seeds)]
    for name, words in (("pictures", "pictures drawn from the whole set"), ("shards", "windows of shards")):
        found = {run["seed"]: run["ap"] for run in section["runs"] if run["order"] == name}
        lines.append(f"| {words} | " + " | ".join(f"{found[seed]:.3f}" for seed in seeds) + " |")
    return lines


def store(section: dict[str, Any]) -> list[str]:
    """A row per place: the fastest of its repeats, the median, the slowest."""
    lines = ["| samples per second | fastest | median | slowest |", "|---|---|---|---|"]
    for name, row in section["rows"].items():
        speeds = sorted(row["samples_per_second"])
        lines.append(f"| {name} | {speeds[-1]:.0f} | {speeds[len(speeds) // 2]:.0f} | {speeds[0]:.0f} |")
    return lines


def processes(section: dict[str, Any]) -> list[str]:
    """A row per number of processes."""
    lines = ["| processes | pictures per second, each run | validation AP |", "|---|---|---|"]
    for count, row in section["rows"].items():
        speeds = ", ".join(f"{speed:.1f}" for speed in row["pictures_per_second"])
        lines.append(f"| {count} | {speeds} | {', '.join(f'{ap:.4f}' for ap in row['val_ap'].values())} |")
    return [*lines, "", f"Two processes are {section['ratio']:.2f} times as fast as one."]


def growth(section: dict[str, Any]) -> list[str]:
    """A row per number of pictures, and the straight line through the smallest and the largest."""
    head = (
        "| pictures | packed, KB a picture | packing, s | start, s | of it opening the set, s | training, pictures/s |"
    )
    lines = [f"{head} memory of the open set, MB |", "|---|---|---|---|---|---|---|"]
    for count, row in section["rows"].items():
        lines.append(
            f"| {int(count):,} | {row['packed_bytes'] / int(count) / 1000:.1f} | {row['packing_seconds']:.0f} "
            f"| {row['start_seconds']:.0f} | {row['opening_seconds']:.2f} | {row['pictures_per_second']:.0f} "
            f"| {row['opening_mb']:.1f} |"
        )
    memory, start = slopes(section)
    return [*lines, "", f"A thousand pictures more take {memory:.2f} MB and {start:.3f} s to open."]


def slopes(section: dict[str, Any]) -> tuple[float, float]:
    """MB of memory and seconds of opening that a thousand pictures more take."""
    rows = {int(count): row for count, row in section["rows"].items()}
    few, many = min(rows), max(rows)
    names = ("opening_mb", "opening_seconds")
    memory, start = (1000 * (rows[many][name] - rows[few][name]) / (many - few) for name in names)
    return memory, start


def far(section: dict[str, Any], detection: dict[str, Any]) -> list[str]:
    """What a million and a hundred million latents of 640x640 pictures take, by the formulas beside the figures."""
    seconds = detection["seconds"] / detection["pictures"]  # of one latent on two cores
    memory, start = slopes(section)
    lines = ["| | formula | a million | a hundred million |", "|---|---|---|---|"]
    for name, formula, unit, each in (
        ("packed as int8, one rate", "256 x 40 x 40 bytes a latent", "TB", 256 * 40 * 40 / 1e12),
        ("detection", f"{1000 * seconds:.1f} ms on two cores", "hours of such a machine", seconds / 3600),
        ("its price", f"at {PRICE} dollars for a core and hour", "dollars", 2 * seconds / 3600 * PRICE),
        ("index and labels in memory of each process", f"{memory:.2f} KB a picture", "GB", memory / 1e6),
        ("opening it", f"{start:.3f} ms a picture", "hours", start / 1000 / 3600),
    ):
        lines.append(f"| {name} | {formula} | {1e6 * each:,.3g} {unit} | {1e8 * each:,.5g} {unit} |")
    return lines


def kills(section: dict[str, Any]) -> list[str]:
    """How many runs went on."""
    lines = ["| training by two processes | |", "|---|---|"]
    for name, words in (
        ("kills", "kills"),
        ("inside_training", "of them after the first saved state, before the last"),
        ("ended_by_itself", "runs that went on to their end"),
        ("equal_to_the_bit", "runs with the weights of one that nobody killed, to the bit"),
    ):
        lines.append(f"| {words} | {section[name]} |")
    return lines


TABLES = {"kills": kills, "order": order, "store": store, "processes": processes, "growth": growth}


def _detection() -> dict[str, Any]:
    """Of the weights that come along, eight latents at a time in bfloat16."""
    rows = json.loads(BENCH.read_text())["rows"]["detection"]
    item = "latent to faces: mobilenet, refined, torch bfloat16, batch 8"
    return {"seconds": next(row for row in rows if row["item"] == item)["comparison"]["seconds"], "pictures": 8}


def filled(page: str, record: dict[str, Any]) -> str:
    """The page with its tables, each followed by what was measured and the command."""

    def table(place: re.Match[str]) -> str:
        section = record[place[1]]
        lines = [*TABLES[place[1]](section), "", f"{section['what']} `{section['command']}`", ""]
        if place[1] == "growth":
            lines += [*far(section, _detection()), ""]
        return place[1] + place[2] + "\n".join(lines)

    return PLACE.sub(table, page)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), json.loads(RECORD.read_text())), encoding="utf-8")
