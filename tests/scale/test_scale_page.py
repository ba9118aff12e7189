"""docs/scale.md says what records/scale.json says."""

from __future__ import annotations

import json

from scale_page import PAGE, PLACE, RECORD, far, filled, growth, order, processes, store


def test_the_tables_are_those_of_the_record() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert PLACE.search(text)
    assert filled(text, json.loads(RECORD.read_text())) == text, "python tests/scale/scale_page.py writes it anew"


def few_and_far(memory: int, start: float) -> dict[str, float]:
    return {"opening_mb": memory, "opening_seconds": start}


def test_tables_by_hand() -> None:
    runs = [("pictures", 0, 0.5), ("shards", 0, 0.51239), ("shards", 1, 0.6), ("pictures", 1, 0.25)]
    found = order({"runs": [{"order": name, "seed": seed, "ap": ap} for name, seed, ap in runs]})
    assert found[2:] == [
        "| pictures drawn from the whole set | 0.500 | 0.250 |",
        "| windows of shards | 0.512 | 0.600 |",
    ]
    assert store({"rows": {"local": {"samples_per_second": [30.4, 10.0, 20.0]}}})[2:] == ["| local | 30 | 20 | 10 |"]
    section = {"rows": {"1000": few_and_far(700, 4.0), "3000": few_and_far(710, 5.0)}}  # 5 KB and 0.5 ms a picture
    assert far(section, {"seconds": 0.08, "pictures": 8})[2:] == [  # 10 ms a latent
        "| packed as int8, one rate | 256 x 40 x 40 bytes a latent | 0.41 TB | 40.96 TB |",
        "| detection | 10.0 ms on two cores | 2.78 hours of such a machine | 277.78 hours of such a machine |",
        "| its price | at 0.04 dollars for a core and hour | 0.222 dollars | 22.222 dollars |",
        "| index and labels in memory of each process | 5.00 KB a picture | 5 GB | 500 GB |",
        "| opening it | 0.500 ms a picture | 0.139 hours | 13.889 hours |",
    ]
    rows = {"1": {"pictures_per_second": [10.0, 12.0], "val_ap": {"75": 0.5}}}
    assert processes({"rows": rows, "ratio": 1.5})[2:] == [
        "| 1 | 10.0, 12.0 | 0.5000 |",
        "",
        "Two processes are 1.50 times as fast as one.",
    ]
    fixed = {"packing_seconds": 3.0, "pictures_per_second": 50.0, "start_seconds": 4.0}
    few = fixed | {"packed_bytes": 20_000_000, "opening_seconds": 0.5, "opening_mb": 700}
    many = fixed | {"packed_bytes": 60_000_000, "opening_seconds": 1.5, "opening_mb": 710}
    assert growth({"rows": {"1000": few, "3000": many}})[3:] == [
        "| 3,000 | 20.0 | 3 | 4 | 1.50 | 50 | 710.0 |",
        "",
        "A thousand pictures more take 5.00 MB and 0.500 s to open.",
    ]
