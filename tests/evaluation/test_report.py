"""Curves, BD-rate and BD-AP."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from latentface.errors import LatentFaceError
from latentface.evaluation.report import (
    STYLES,
    Cost,
    Difference,
    Point,
    _apart,
    _rising,
    difference,
    draw,
    few_rates,
    markdown,
    overlap,
    plain,
    rates_of,
    read_costs,
    read_curves,
    read_evaluation,
)


def curve(bits: list[float], aps: list[float]) -> list[Point]:
    return [Point(str(number), bpp, [ap]) for number, (bpp, ap) in enumerate(zip(bits, aps, strict=True), start=1)]


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
    nothing = Difference("one", "low", None, 0.0, None, 0.0)
    assert difference("one", curve([0.1], [0.2]), "low", low) == nothing
    assert difference("low", low, "one", curve([0.1], [0.2])) == Difference("low", "one", None, 0.0, None, 0.0)


def test_two_points_make_a_curve_and_points_without_bits_belong_to_none() -> None:
    theirs = [*curve([0.2, 0.8], [0.3, 0.5]), Point("0", None, [0.9])]
    ours = [Point("0", 0.0, [0.9]), *curve([0.1, 0.4], [0.3, 0.5])]
    found = difference("ours", ours, "theirs", theirs)
    assert (found.name, found.anchor) == ("ours", "theirs")
    assert found.bd_rate == pytest.approx(-50)
    assert found.bd_ap == pytest.approx(0.1)
    assert (found.ap_overlap, found.bpp_overlap) == (1, pytest.approx(1 / 3))  # doublings


def test_curves_of_different_ap_are_compared_where_both_are() -> None:
    """Doublings of bits at equal AP: -2/3 at 0.3, -4/3 at 0.5, straight between."""
    ours, theirs = curve([0.1, 0.4], [0.25, 0.55]), curve([0.2, 0.8], [0.3, 0.5])
    found = difference("ours", ours, "theirs", theirs)
    assert found.bd_rate == pytest.approx(-50)
    assert found.ap_overlap == pytest.approx(2 / 3)


def test_without_the_package_a_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bjontegaard", None)
    with pytest.raises(LatentFaceError, match=r"^report needs bjontegaard: pip install bjontegaard$"):
        difference("ours", curve([0.1], [0.5]), "theirs", curve([0.1], [0.5]))


def test_a_curve_that_only_falls_has_no_rate() -> None:
    found = difference("falls", curve([0.1, 0.2], [0.5, 0.4]), "rises", curve([0.1, 0.2], [0.4, 0.6]))
    assert (found.bd_rate, found.ap_overlap) == (None, 0)
    assert found.bd_ap == pytest.approx(-0.05)
    assert found.bpp_overlap == 1


def test_points_that_are_not_worth_their_bits_have_no_say_in_the_rate() -> None:
    theirs = curve([0.2, 0.4, 0.8, 1.6], [0.3, 0.4, 0.5, 0.6])
    ours = curve([0.1, 0.2, 0.4, 0.6, 0.8, 1.2], [0.3, 0.4, 0.5, 0.45, 0.6, 0.6])
    assert difference("ours", ours, "theirs", theirs).bd_rate == pytest.approx(-50)


def test_files_of_one_name_are_judged_alike(tmp_path: Path) -> None:
    for number, height in enumerate((0, 10)):
        content = {"protocol": {"min_height": height}, "rates": {"75": {"all": {"ap": 0.5}, "mean_bpp": 1.0}}}
        (tmp_path / f"{number}.json").write_text(json.dumps(content))
    items = [("a", tmp_path / f"{number}.json") for number in (0, 1)]
    with pytest.raises(
        LatentFaceError,
        match=r"min_height 10, in another file of a 0: judge them alike, or give them names of their own$",
    ):
        read_curves(items, "all")


def test_overlap_by_hand() -> None:
    assert overlap(np.array([0.0, 4.0]), np.array([1.0, 5.0])) == pytest.approx(3 / 5)
    assert overlap(np.array([0.0, 1.0]), np.array([2.0, 3.0])) == 0
    assert overlap(np.array([0.0, 4.0]), np.array([1.0, 2.0])) == pytest.approx(1 / 4)
    assert overlap(np.array([0.1, 0.2]), np.array([0.2, 0.3])) == 0
    assert overlap(np.array([0.25, 0.75]), np.array([0.75, 0.25])) == 1
    assert overlap(np.array([0.5]), np.array([0.5])) == 0


def test_points_that_reach_more_than_every_cheaper_one() -> None:
    points = np.array([[0.1, 0.3], [0.2, 0.3], [0.3, 0.2], [0.4, 0.5], [0.5, 0.4], [0.6, 0.6]])
    assert _rising(points).tolist() == [[0.1, 0.3], [0.4, 0.5], [0.6, 0.6]]
    assert _rising(-points)[:, 1].tolist() == [-0.3, -0.2]


def test_mean_and_spread_over_seeds() -> None:
    assert Point("75", 1.0, [0.5, 0.75]).mean == 0.625
    assert Point("75", 1.0, [0.5, 0.75]).spread == pytest.approx(0.25 / math.sqrt(2))  # of a sample
    assert (Point("75", 1.0, [0.5]).mean, Point("75", 1.0, [0.5]).spread) == (0.5, 0)


def evaluation(path: Path, rates: dict, **protocol) -> Path:
    path.write_text(json.dumps({"protocol": {"min_height": 10} | protocol, "rates": rates}))
    return path


def scores(ap: float | None, bpp: float | None, **more) -> dict:
    return {"all": {"ap": ap}, "16-32": {"ap": None}, "landmarks": {"nme": 0.1}, "mean_bpp": bpp} | more


def test_curves_of_several_files(tmp_path: Path) -> None:
    first = {"75": scores(0.5, 1.0), "0": {"all": {"ap": 0.7}}, "12": scores(0.3, 0.2)}
    second = {"75": scores(0.6, 1.0), "0": {"all": {"ap": 0.8}}, "12": scores(0.4, 0.2)}
    files = [
        ("a", evaluation(tmp_path / "1.json", first, weight="seed 1")),
        ("a", evaluation(tmp_path / "2.json", second, weight="seed 2")),
        ("b", evaluation(tmp_path / "3.json", {"100": scores(0.1, 2.0)}, weight="b", codec="dct")),
    ]
    curves, protocols = read_curves(files, "all")
    assert curves == {
        "a": [Point("12", 0.2, [0.3, 0.4]), Point("75", 1.0, [0.5, 0.6]), Point("0", None, [0.7, 0.8])],
        "b": [Point("100", 2.0, [0.1])],
    }
    assert protocols == [{"min_height": 10}, {"min_height": 10, "codec": "dct"}]


def test_ap_of_other_faces_is_not_set_beside(tmp_path: Path) -> None:
    paths = [evaluation(tmp_path / f"{least}.json", {"75": scores(0.5, 1.0)}, min_height=least) for least in (10, 0)]
    with pytest.raises(LatentFaceError) as caught:
        read_curves(list(zip("ab", paths, strict=True)), "all")
    wanted = f"{paths[1]}: min_height 0, in {paths[0]} 10: AP of other faces, judge them alike by latentface evaluate"
    assert str(caught.value) == wanted
    for path, least in zip(paths, (10, 0), strict=True):
        evaluation(path, {"75": {"16-32": {"ap": 0.5}, "mean_bpp": 1.0}}, min_height=least)
    assert len(read_curves(list(zip("ab", paths, strict=True)), "16-32")[0]) == 2  # of all faces of that height


def test_figures_of_few_rates_are_said_to_be_so() -> None:
    long, short = ([Point(str(n), n / 10, [n / 20]) for n in range(1, count + 1)] for count in (4, 2))
    curves = {"ours": long, "theirs": short}
    found = [difference("ours", long, "theirs", short)]
    assert markdown(curves, found, [], "all").splitlines()[-1] == (
        "BD figures of fewer than 4 rates say little: theirs has 2."
    )
    assert "say little" not in markdown(curves, [difference("ours", long, "ours", long)], [], "all")
    unknown = {"ours": long, "theirs": [*short, Point("75", None, [0.9]), Point("100", None, [0.9])]}
    assert few_rates(unknown, found) == "BD figures of fewer than 4 rates say little: theirs has 2."
    apart = Difference("ours", "theirs", None, 0.0, 0.1, 0.5)
    assert few_rates(curves, [apart]) == few_rates(unknown, found)
    assert few_rates(curves, [replace(apart, bd_ap=None)]) == ""


def test_an_ap_that_is_not_there(tmp_path: Path) -> None:
    path = evaluation(tmp_path / "1.json", {"75": scores(0.5, 1.0)})
    for faces in ("16-32", "landmarks", "under 16"):
        with pytest.raises(LatentFaceError) as caught:
            read_curves([("a", path)], faces)
        assert str(caught.value) == f"{path}: no AP of '{faces}' at rate 75; there are all, 16-32"


def test_one_rate_of_one_name_has_one_number_of_bits(tmp_path: Path) -> None:
    paths = [evaluation(tmp_path / f"{bpp}.json", {"75": scores(0.5, bpp)}) for bpp in (1.0, 2.0)]
    with pytest.raises(LatentFaceError) as caught:
        read_curves([("a", path) for path in paths], "all")
    assert str(caught.value) == f"{paths[1]}: rate 75 of a has 2.0 bpp here, 1.0 in another file"
    assert len(read_curves([("a", paths[0]), ("b", paths[1])], "all")[0]) == 2


def test_an_evaluation_is_read_as_it_is(tmp_path: Path) -> None:
    rates = {"75": scores(None, None), "0": {"all": {"ap": 1}}, "none": {}}
    path = evaluation(tmp_path / "a.json", rates, min_height=None, weight="ü")
    assert read_evaluation(path) == {"protocol": {"min_height": None, "weight": "ü"}, "rates": rates}
    path.write_text('{"protocol": {}, "rates": {"75": {}}}')
    assert read_evaluation(path)["protocol"] == {}


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        None,
        {"rates": {"75": {}}},
        {"protocol": {}},
        {"protocol": {}, "rates": {}},
        {"protocol": [], "rates": {"75": {}}},
        {"protocol": {}, "rates": ["75"]},
        {"protocol": {}, "rates": {"75": 0.5}},
        {"protocol": {}, "rates": {"12": {}, "75": {"mean_bpp": "1"}}},
        {"protocol": {}, "rates": {"12": {"all": {"ap": "0.5"}}, "75": {}}},
        {"protocol": {"min_height": "10"}, "rates": {"75": {}}},
    ],
)
def test_what_is_no_evaluation(tmp_path: Path, content) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    with pytest.raises(LatentFaceError) as caught:
        read_evaluation(path)
    assert str(caught.value) == f"{path}: not the evaluation of weights that `latentface evaluate` writes"


@pytest.mark.parametrize("content", [b"{", b"", b'"\xff"', None])
def test_what_is_no_json(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(LatentFaceError, match=r"a\.json: cannot be read as JSON \(.+\)"):
        read_evaluation(tmp_path / "a.json")


def test_tables_by_hand() -> None:
    curves = {"a": [Point("12", 0.25, [0.4]), Point("75", 1.0, [0.5, 0.7])], "b": [Point("75", None, [0.6])]}
    differences = [
        Difference("b", "a", -12.34, 0.5, 0.01234, 0.25),
        Difference("c", "a", None, 0.0, None, 1.0),
    ]
    protocols = [{"iou": 0.5, "frame": "", "rates": [], "min_height": 10}, {"iou": 0.3}]
    assert markdown(curves, differences, protocols, "all") == (
        "AP of faces: all\n"
        "iou 0.5; min_height 10\n"
        "iou 0.3\n"
        "\n"
        "| | 12 | 75 |\n"
        "|---|---|---|\n"
        "| a | 0.4000 (0.250 bpp) | 0.6000 ± 0.1414 (1.000 bpp) |\n"
        "| b |  | 0.6000 |\n"
        "\n"
        "| | against | BD-rate | AP overlap | BD-AP | bits overlap |\n"
        "|---|---|---|---|---|---|\n"
        "| b | a | -12.3 % | 50% | +0.0123 | 25% |\n"
        "| c | a | - | 0% | - | 100% |\n"
        "\n"
        "BD figures of fewer than 4 rates say little: a has 2, b has 0.\n"
    )


def test_rates_rise_as_numbers_do_and_names_come_first() -> None:
    curves = {"a": curve([1], [1]), "b": [Point(rate, None, [0.5]) for rate in ("100", "12", "0", "none", "75", "12")]}
    assert rates_of(curves) == ["0", "none", "1", "12", "75", "100"]


def test_figures_of_an_axis_keep_apart() -> None:
    assert _apart([0.0, 1.0, 1.12, 1.13, 1.26, 1.27]) == [1.0, 1.13, 1.27]
    assert _apart([]) == []


def test_names_as_matplotlib_has_to_be_given_them() -> None:
    assert [plain(name) for name in ("a_b", "_a", "$a$")] == ["a_b", " _a", r"\$a\$"]


def test_the_figure_shows_every_curve_once() -> None:
    curves = {
        "_ours": [Point("12", 0.1, [0.3, 0.5]), Point("75", 0.804, [0.6, 0.6])],
        "original": [Point("0", 24.0, [0.7])],
        "no bits": [Point("75", None, [0.65])],
        "half": [Point("12", 0.1, [0.2]), Point("75", None, [0.4])],
        "one": [Point("75", 0.4, [0.55])],
    }
    (axes,) = draw(curves, "under 16", "a $ title").axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    for place, (name, height) in enumerate((("original", 0.7), ("no bits", 0.65)), start=1):
        assert list(lines[name].get_ydata()) == [height, height]
        assert (lines[name].get_linestyle(), lines[name].get_color()) == ("--", STYLES[place][0])
    ours, one = axes.containers
    assert (ours.get_label(), one.get_label()) == (" _ours", "one")
    assert ours[0].get_xydata().tolist() == [[0.1, 0.4], [0.804, 0.6]]
    assert one[0].get_xydata().tolist() == [[0.4, 0.55]]
    assert (ours[0].get_color(), ours[0].get_marker()) == STYLES[0]
    assert (one[0].get_color(), one[0].get_marker()) == STYLES[4]
    spread = 0.2 / math.sqrt(2)
    assert ours[2][0].get_segments()[0][:, 1].tolist() == pytest.approx([0.4 - spread, 0.4 + spread])
    assert len(ours[1]) == 2  # caps
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["original", "no bits", " _ours", "one"]
    assert not axes.texts


def test_the_axes_of_the_figure() -> None:
    curves = {"a": curve([0.1, 0.111, 0.3, 0.804], [0.3, 0.4, 0.5, 0.6]), "original": [Point("0", 24.0, [0.7])]}
    (axes,) = draw(curves, "all", "a $ title").axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
    assert axes.get_xlabel() == "bits per pixel, measured mean"
    assert axes.get_ylabel() == "AP (all)"
    assert axes.get_title() == r"a \$ title"
    assert axes.get_xticks().tolist() == [0.1, 0.3, 0.8]  # 0.11 would lie over 0.1; the original has no place here
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.1", "0.3", "0.8"]
    assert {label.get_rotation() for label in axes.get_xticklabels()} == {45}
    assert axes.get_xticks(minor=True).tolist() == []
    assert axes.get_ylim()[0] == 0
    assert draw(curves, "all").axes[0].get_title() == ""


def test_a_figure_of_nothing_says_so() -> None:
    (axes,) = draw({"a": [Point("12", 0.1, [0.2]), Point("75", None, [0.4])]}, "all").axes
    assert [text.get_text() for text in axes.texts] == ["bits per pixel are unknown"]
    assert axes.get_legend() is None


def test_costs_stand_below_the_tables(tmp_path: Path) -> None:
    """Of seeds the first file's; files of earlier versions, and broken ones, say nothing."""
    said = {"input": "latent", "gmac": 2.386, "ms": 31.04, "device": "cpu", "threads": 2, "batch": 8}
    said |= {"precision": "float32", "batches": 60}
    of_pictures = said | {"input": "picture", "gmac": None, "ms": None, "device": "cuda:0"}
    files = []
    for number, (name, cost) in enumerate(
        [("a", said), ("a", of_pictures), ("b", of_pictures), ("c", None), ("d", {"gmac": "much"})]
    ):
        path = evaluation(tmp_path / f"{number}.json", {"75": scores(0.5, 1.0)})
        path.write_text(json.dumps(json.loads(path.read_text()) | {"cost": cost}))
        files.append((name, path))
    costs = read_costs(files)
    assert costs == {
        "a": Cost("latent", 2.386, 31.04, "float32", "2 threads, median of 60 of up to 8 pictures"),
        "b": Cost("picture", None, None, "float32", "cuda:0, median of 60 of up to 8 pictures"),
    }
    table = markdown({}, [], [], "all", costs).split("\n\n")[-2]
    assert table.splitlines() == [
        "| of a picture | GMAC | ms | precision | on |",
        "|---|---|---|---|---|",
        "| a, from a latent | 2.39 | 31.04 | float32 | 2 threads, median of 60 of up to 8 pictures |",
        "| b, from a picture | - | - | float32 | cuda:0, median of 60 of up to 8 pictures |",
    ]
