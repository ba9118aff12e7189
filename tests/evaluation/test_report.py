"""Curves, BD-rate and BD-AP."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentface.cli import main
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
    items = tuple(f"a={tmp_path / f'{number}.json'}" for number in (0, 1))
    with pytest.raises(LatentFaceError, match="min_height 10, in another file of a 0: judge them alike"):
        read_curves(items, "all")


def test_overlap_by_hand() -> None:
    assert overlap(np.array([0.0, 4.0]), np.array([1.0, 5.0])) == pytest.approx(3 / 5)
    assert overlap(np.array([0.0, 1.0]), np.array([2.0, 3.0])) == 0


def evaluation(path: Path, rates: dict[str, tuple[float | None, float]]) -> Path:
    scores = {rate: {"all": {"ap": ap}, "mean_bpp": bpp} for rate, (bpp, ap) in rates.items()}
    path.write_text(json.dumps({"protocol": {"name": "AP", "weight": path.name}, "rates": scores}))
    return path


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    one = evaluation(tmp_path / "a.json", {"12": (0.1, 0.30), "75": (0.7, 0.5)})
    two = evaluation(tmp_path / "b.json", {"12": (0.1, 0.34), "75": (0.7, 0.5)})
    theirs = evaluation(tmp_path / "c.json", {"12": (0.1, 0.2), "75": (0.7, 0.6)})
    original = evaluation(tmp_path / "d.json", {"0": (24.0, 0.65)})
    items = [f"latents={one}", f"latents={two}", f"decoded={theirs}", f"original={original}"]
    assert main(["report", *items, "--anchor", "decoded", "--out", str(tmp_path / "report")]) == 0
    text = capsys.readouterr().out
    assert "| latents |  | 0.3200 ± 0.0283 (0.100 bpp) | 0.5000 ± 0.0000 (0.700 bpp) |" in text
    assert "| original | 0.6500 (24.000 bpp) |  |  |" in text
    assert (tmp_path / "report" / "report.md").read_text() in text
    found = json.loads((tmp_path / "report" / "report.json").read_text())["differences"]
    assert [one["name"] for one in found] == ["latents", "original"]
    assert found[0]["ap_overlap"] == pytest.approx(0.18 / 0.4)
    with Image.open(tmp_path / "report" / "curves.png") as picture:
        assert picture.size == (1050, 675)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing to report"),
        (["file.json"], "file.json: expected NAME=evaluation.json"),
        (["a=gone.json"], "gone.json: cannot be read as JSON"),
        (["a={good}", "--anchor", "b"], "--anchor b: there are a"),
        (["a={good}", "--faces", "huge"], "no AP of 'huge' at rate 12; there are all"),
        (["a={other}"], "other.json: not the evaluation of weights"),
        (["a={good}", "a={bits}"], "rate 12 of a has 0.2 bpp here, 0.1 in another file"),
    ],
)
def test_mistakes_get_one_line(tmp_path: Path, capsys: pytest.CaptureFixture, arguments: list[str], words: str) -> None:
    good = evaluation(tmp_path / "good.json", {"12": (0.1, 0.3)})
    bits = evaluation(tmp_path / "bits.json", {"12": (0.2, 0.3)})
    (tmp_path / "other.json").write_text('{"protocol": {}}')
    given = [a.format(good=good, bits=bits, other=tmp_path / "other.json") for a in arguments]
    assert main(["report", *given, "--out", str(tmp_path / "report")]) == 2
    assert words in capsys.readouterr().err
