"""Curves, BD-rate and BD-AP."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from latentface.errors import LatentFaceError
from latentface.evaluation.report import Point, difference, overlap, read_curves


def curve(bits: list[float], aps: list[float]) -> list[Point]:
    return [Point(str(number), bpp, [ap]) for number, (bpp, ap) in enumerate(zip(bits, aps, strict=True))]


def test_half_the_bits_for_the_same_ap() -> None:
    theirs = curve([0.2, 0.4, 0.8, 1.6], [0.3, 0.4, 0.5, 0.6])
    ours = curve([0.1, 0.2, 0.4, 0.8], [0.3, 0.4, 0.5, 0.6])
    found = difference("ours", ours, "theirs", theirs)
    assert found.bd_rate == pytest.approx(-50)
    assert found.ap_overlap == 1
    assert found.bd_ap == pytest.approx(0.1)  # a doubling of bits is worth 0.1, and both are straight in log-bits
    assert found.bpp_overlap == pytest.approx(2 / 4)  # doublings


def test_curves_that_cannot_be_compared() -> None:
    low, high = curve([0.1, 0.2], [0.1, 0.2]), curve([0.3, 0.4], [0.3, 0.4])
    apart = difference("high", high, "low", low)
    assert (apart.bd_rate, apart.bd_ap, apart.ap_overlap, apart.bpp_overlap) == (None, None, 0, 0)
    assert difference("one", curve([0.1], [0.2]), "low", low).bd_ap is None


def test_points_that_are_not_worth_their_bits_have_no_say_in_the_rate() -> None:
    theirs = curve([0.2, 0.4, 0.8, 1.6], [0.3, 0.4, 0.5, 0.6])
    ours = curve([0.1, 0.2, 0.4, 0.6, 0.8, 1.2], [0.3, 0.4, 0.5, 0.45, 0.6, 0.6])
    assert difference("ours", ours, "theirs", theirs).bd_rate == pytest.approx(-50)


def test_files_of_one_name_are_judged_alike(tmp_path: Path) -> None:
    for number, height in enumerate((0, 10)):
        content = {"protocol": {"min_height": height}, "rates": {"75": {"all": {"ap": 0.5}, "mean_bpp": 1.0}}}
        (tmp_path / f"{number}.json").write_text(json.dumps(content))
    items = [("a", tmp_path / f"{number}.json") for number in (0, 1)]
    with pytest.raises(LatentFaceError, match="min_height 10, in another file of a 0: judge them alike"):
        read_curves(items, "all")


def test_overlap_by_hand() -> None:
    assert overlap(np.array([0.0, 4.0]), np.array([1.0, 5.0])) == pytest.approx(3 / 5)
    assert overlap(np.array([0.0, 1.0]), np.array([2.0, 3.0])) == 0
