"""docs/choices.md says what its records say."""

from __future__ import annotations

from choices_page import PAGE, PLACE, alike_table, changes_table, filled, missed_table, random_table, views_table


def test_the_tables_are_those_of_the_record() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert [place[2] for place in PLACE.finditer(text)] == ["changes", "views", "random", "alike", "faces"]
    assert filled(text) == text, "python tests/docs/choices_page.py writes it anew"


def test_the_table_by_hand() -> None:
    base = {"first": [{"12": 0.5, "75": 0.7}], "second": [{"12": 0.52, "75": 0.68}, {"12": 0.5, "75": 0.66}]}
    worse = {"change": "worse", "first": {"12": 0.51, "75": 0.69}}
    better = {"change": "better", "second": {"12": 0.5, "75": 0.675}, "kept": "yes"}
    assert changes_table({"base": base, "rows": [worse, better]}).splitlines()[2:] == [
        "| none: AP of the base | 0.500 | 0.700 | 0.510 | 0.670 | |",
        "| better |  |  | -1.0 | +0.5 | yes |",
        "| worse | +1.0 | -1.0 |  |  |  |",
    ]


def test_views_by_hand() -> None:
    assert views_table({"few": {"12": 0.5, "75": 0.61}, "many": {"12": 0.55, "75": 0.7004}}).splitlines() == [
        "| trained on | rate 12 | rate 75 |",
        "|---|---|---|",
        "| few | 0.500 | 0.610 |",
        "| many | 0.550 | 0.700 |",
    ]


def test_random_weights_by_hand() -> None:
    assert random_table({"slow": [0.001, 0.01], "fast": [0.02, 0.3], "so": "no training"}).splitlines() == [
        "| | 10 px and more | 32-96 px |",
        "|---|---|---|",
        "| fast | 0.0200 | 0.3000 |",
        "| slow | 0.0010 | 0.0100 |",
    ]


def test_networks_trained_alike_by_hand() -> None:
    row = {"epochs": 6, "gmac": 2.06, "12": 0.0514, "75": 0.1296}
    assert alike_table({"small": row}).splitlines()[2:] == ["| small | 6 | 2.1 | 0.051 | 0.130 |"]


def test_what_is_missed_by_hand() -> None:
    one = {
        "by_height": {"all": {"faces": 2000, "found": 1000}, "under 16": {"faces": 4, "found": 1}},
        "by_attribute": {"heavy blur": {"faces": 3, "found": 2}},
        "missed": {"too small": {"all": 1003, "under 16": 3}},
    }
    assert missed_table({"rate 75": one}).splitlines() == [
        "| faces | number | rate 75 |",
        "|---|---|---|",
        "| all | 2,000 | 50.0 % |",
        "| 10-16 px | 4 | 25.0 % |",
        "| heavy blur | 3 | 66.7 % |",
        "",
        "| missed, as | rate 75 |",
        "|---|---|",
        "| too small | 1,003 |",
    ]
