"""`latentface report`: tables and curves for other programs, and one HTML page."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image

from latentface.apps.report_runs import Run, find_runs
from latentface.cli import main
from latentface.data.labels import PictureLabels, write_labels
from latentface.data.manifest import LatentEntry, ManifestRow, write_manifest
from latentface.errors import LatentFaceError
from latentface.evaluation.wider import write_prediction

EVIL = "<script>alert(1)&<b>"
DASH = "\N{EN DASH}"
FACES = np.array([[10, 10, 50, 50], [60, 60, 80, 80]], np.float32)
VOID = {"meta", "br", "input", "image", "use", "rect", "path"}  # of what the page has


class Page(HTMLParser):
    """Fails on what is not well-formed; collects tables, headings, and everything that could load something."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.headings: list[tuple[str, str]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.caption = self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), (tag, attrs)
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("caption", "th", "td", "h1", "h2", "h3", "h4"):
            self.text = ""
        if tag == "tr":
            self.tables[self.caption].append([])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open.pop() == tag, self.getpos()
        text = " ".join(self.text.split())
        if tag == "caption":
            self.caption = text
            assert self.tables.setdefault(text, []) == []
        elif tag in ("th", "td"):
            self.tables[self.caption][-1].append(text)
        elif tag in ("h1", "h2", "h3", "h4"):
            self.headings.append((tag, text))

    def handle_data(self, data: str) -> None:
        self.text += data


def row(name: str) -> ManifestRow:
    return ManifestRow(name, {75: LatentEntry("pixels", None, None, 0.9, True)}, 1, 128, 128)


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """A picture of two faces, whose name is markup, and one without faces; attributes of WIDER FACE."""
    split, names = tmp_path / "val", (f"event/{EVIL}.png", "event/plain.png")
    attributes = np.array([[2, 0, 0, 0, 0], [0, 0, 0, 2, 1]], np.int8)
    labels = [
        PictureLabels(names[0], FACES, np.full((2, 5, 2), np.nan), np.zeros(2, bool), attributes=attributes),
        PictureLabels(names[1], FACES[:0], np.zeros((0, 5, 2)), np.zeros(0, bool)),
    ]
    for label in labels:
        (split / "latent" / label.base).mkdir(parents=True)
        np.save(split / "latent" / label.base / "latent_75.npy", np.full((3, 128, 128), 90, np.uint8))
    write_labels(split / "labels.txt", labels)
    write_manifest(split / "latents.jsonl", map(row, names))
    return split


def evaluated(folder: Path, split: Path, boxes: list[list[float]], scores: list[float], ap: float) -> Path:
    """What `latentface evaluate` would leave of a detector that found these boxes in the first picture."""
    write_prediction(folder / "predictions_75", f"event/{EVIL}.png", np.array(boxes), np.array(scores))
    write_prediction(folder / "predictions_75", "event/plain.png", np.zeros((0, 4)), np.zeros(0))
    protocol = {"name": "AP", "set": str(split), "weight": f"{folder.name}.pth", "confidence": 0.02}
    content = {"protocol": protocol, "rates": {"75": {"all": {"ap": ap}, "mean_bpp": 0.9}}}
    (folder / "evaluation.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def first(tmp_path: Path, split: Path) -> Path:
    """Finds the first face of two, and what is none: AP 0.5."""
    return evaluated(tmp_path / "first", split, [[10, 10, 50, 50], [90, 90, 120, 120]], [0.9, 0.8], 0.5)


@pytest.fixture
def second(tmp_path: Path, split: Path) -> Path:
    """Finds both faces: AP 1."""
    return evaluated(tmp_path / "second", split, FACES.tolist(), [0.9, 0.7], 1.0)


def page(*arguments: object, out: Path) -> Page:
    assert main(["report", *map(str, arguments), "--out", str(out)]) == 0
    return Page((out / "report.html").read_text(encoding="utf-8"))


def test_what_a_picture_costs(first: Path, second: Path, tmp_path: Path) -> None:
    file = second / "evaluation.json"
    cost = {"input": "picture", "gmac": 2.5, "ms": None, "device": "cpu", "threads": 1, "batch": 8}
    cost |= {"precision": "bfloat16", "batches": 2}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"cost": cost}))
    tables = page(first, second, out=tmp_path / "out").tables
    assert tables["What a picture costs"] == [
        ["Run", "from", "GMAC", "ms", "precision", "on"],
        ["second", "a picture", "2.50", DASH, "bfloat16", "1 thread, median of 2 of up to 8 pictures"],
    ]
    assert json.loads((tmp_path / "out" / "report.json").read_text())["costs"]["second"]["gmac"] == 2.5


def test_counts_of_two_runs_side_by_side(first: Path, second: Path, tmp_path: Path) -> None:
    tables = page(first, f"better={second}", out=tmp_path / "out").tables
    found = json.loads((tmp_path / "out" / "report.json").read_text())["faces_found"]["first, rate 75"]
    assert (found["pictures"], found["by_height"]["all"]) == (2, {"faces": 2, "found": 1, "false": 1})
    assert found["missed"]["nothing there"] == {"all": 1, "under 16": 0, "16-32": 1, "32-96": 0, "over 96": 0}
    assert found["false"]["no face there"]["all"] == 1
    assert found["by_attribute"]["heavily occluded"] == {"faces": 1, "found": 0}
    assert tables["AP by rate, and bits per pixel"] == [
        ["Run", "75"], ["first", "0.50000.900 bpp"], ["better", "1.00000.900 bpp"],
    ]  # fmt: skip
    assert tables["Found, missed and false by height"][1:7] == [
        ["all", "first, rate 75", "2", "1", "1", "50.0 %", "1", "50.0 %"],
        ["better, rate 75", "2", "2", "0", "100.0 %", "0", "100.0 %"],
        ["under 16", "first, rate 75", "0", "0", "0", DASH, "0", DASH],
        ["better, rate 75", "0", "0", "0", DASH, "0", DASH],
        ["16-32", "first, rate 75", "1", "0", "1", "0.0 %", "1", "0.0 %"],
        ["better, rate 75", "1", "1", "0", "100.0 %", "0", "100.0 %"],
    ]
    missed = {line[0]: line[2:] for line in tables["Missed faces"][1:]}
    assert missed["nothing there"] == ["1 (100.0 %)", "0"]
    assert missed["score too low"] == ["0 (0.0 %)", "0"]
    assert missed["together"] == ["1", "0"]
    assert {line[0]: line[2:] for line in tables["False detections"][1:]}["no face there"] == ["1 (100.0 %)", "0"]
    said = {line[0]: line[1:] for line in tables["Faces found, by what their labels say of them"][1:]}
    assert said["heavy blur"] == ["100.0 % (1 of 1)", "100.0 % (1 of 1)"]
    assert said["heavily occluded"] == ["0.0 % (0 of 1)", "100.0 % (1 of 1)"]
    assert said["normal blur"] == [f"{DASH} (0 of 0)"] * 2
    assert tables["The same faces in two runs"][1] == ["first, rate 75", "better, rate 75", "1", "0", "1", "0"]
    settings = {line[0]: line[1:] for line in tables["Settings of evaluation"][1:]}
    assert settings["weight (differs)"] == ["first.pth", "second.pth"]
    assert settings["confidence"] == ["0.02", "0.02"]


def test_another_confidence_counts_other_faces(second: Path, tmp_path: Path) -> None:
    tables = page(second, "--conf", "0.8", out=tmp_path / "out").tables
    assert tables["Found, missed and false by height"][1][2:5] == ["2", "1", "1"]
    assert {line[0]: line[2] for line in tables["Missed faces"]}["score too low"] == "1 (100.0 %)"


def test_predictions_in_pixels_of_the_photograph(second: Path, split: Path, tmp_path: Path) -> None:
    """Those of `evaluate --frame source`, here of photographs twice the size."""
    half = {"source_width": 256, "source_height": 256, "scale_x": 0.5, "scale_y": 0.5}
    write_manifest(split / "latents.jsonl", [replace(row(f"event/{name}.png"), **half) for name in (EVIL, "plain")])
    write_prediction(second / "predictions_75", f"event/{EVIL}.png", 2 * FACES, np.array([0.9, 0.7]))
    evaluation = json.loads((second / "evaluation.json").read_text())
    evaluation["protocol"]["frame"] = "source"
    (second / "evaluation.json").write_text(json.dumps(evaluation))
    counts = page(second, out=tmp_path / "out").tables["Found, missed and false by height"]
    assert counts[1][2:7] == ["2", "2", "0", "100.0 %", "0"]


def test_the_page_is_whole_by_itself_and_escapes_names(first: Path, second: Path, tmp_path: Path) -> None:
    found = page(f"{EVIL}$x$={first}", f"_better={second}", "--title", EVIL, out=tmp_path / "out")
    assert "script" not in {tag for tag, _ in found.tags}
    assert "b" not in {tag for tag, _ in found.tags}
    for tag, attributes in found.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href", "data", "action"):
                assert value.startswith(("data:image/jpeg;base64,", "#")), (tag, value[:40])
        if tag in ("img", "link", "iframe", "object"):
            pytest.fail(tag)
        if tag == "svg" and attributes.get("class") == "boxed":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
        if tag == "th":
            assert attributes["scope"] in ("col", "row", "rowgroup")
    html = (tmp_path / "out" / "report.html").read_text()
    assert "url(http" not in html
    assert "@import" not in html
    assert html.count("alert(1)") == html.count("&lt;script&gt;alert(1)&amp;&lt;b&gt;") > 5
    levels = [int(tag[1]) for tag, _ in found.headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {attributes["href"][1:] for tag, attributes in found.tags if tag == "a"}
    assert targets <= set(ids)


def test_boxes_and_pictures(first: Path, second: Path, tmp_path: Path) -> None:
    """One picture with faces, as both runs have it, over one copy of its pixels; crops of what is wrong."""
    found = page(first, second, "--pictures", "1", "--crops", "1", out=tmp_path / "out")
    start = [number for number, (tag, at) in enumerate(found.tags) if tag == "section" and at.get("id") == "pictures"]
    end = [number for number, (tag, at) in enumerate(found.tags) if tag == "section" and at.get("id") == "missed"]
    pictures = found.tags[start[0] : end[0]]
    groups = [at["class"] for tag, at in pictures if tag == "g"]
    assert groups == ["found", "missed", "false", "found", "found"]
    assert [tag for tag, _ in pictures if tag in ("image", "use")] == ["image", "use"]
    lines = [at for tag, at in pictures if tag == "rect" and at["class"] == "line" and "width" in at]
    assert {name: lines[-1][name] for name in ("x", "y", "width", "height")} == {
        "x": "60.0", "y": "60.0", "width": "20.0", "height": "20.0",
    }  # fmt: skip
    alts = [at["aria-label"] for tag, at in found.tags if tag == "svg" and at.get("class") == "boxed"]
    assert f"20.0 px high, no detection touches it, heavily occluded, atypical pose, in {EVIL}" in alts
    assert f"30.0 px high, score 0.80, touches no labelled face, in {EVIL}" in alts
    assert "first, rate 75: 1 of 2 faces found, 1 missed, 1 false, F1 0.50" in alts


def test_photographs_behind_the_boxes(first: Path, tmp_path: Path) -> None:
    Image.new("RGB", (128, 128), "red").save(tmp_path / f"{EVIL}.png")
    (tmp_path / "none").mkdir()
    page(first, "--images", tmp_path, out=tmp_path / "out")
    html = (tmp_path / "out" / "report.html").read_text()
    assert "first, rate 75: the photograph, or the picture that the detector saw." in html
    assert main(["report", str(first), "--images", str(tmp_path / "none"), "--out", str(tmp_path / "two")]) == 2
    assert not (tmp_path / "two").exists()


def test_attributes_of_photographs(first: Path, split: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    lines = (split / "labels.txt").read_text()
    known = tmp_path / "known.txt"
    known.write_text(lines)
    (split / "labels.txt").write_text(lines.replace(" 2 0 0 0 0 0", " 0 0 0 0 0 0").replace(" 0 0 0 0 2 1", " 0" * 6))
    caption = "Faces found, by what their labels say of them"
    assert caption not in page(first, out=tmp_path / "out").tables
    told = page(first, "--attributes", known, out=tmp_path / "out").tables[caption]
    assert ["heavy blur", "100.0 % (1 of 1)"] in told
    known.write_text(lines.replace("10.00 10.00", "30.00 10.00").replace("60.00 60.00", "70.00 60.00"))
    assert main(["report", str(first), "--attributes", str(known), "--out", str(tmp_path / "two")]) == 2
    assert "none of its boxes with attributes is a face here" in capsys.readouterr().err


@pytest.mark.parametrize("case", ["no predictions", "one is missing", "other labels", "no set", "no such rate"])
def test_what_is_not_there_is_said_in_one_line(
    first: Path, split: Path, tmp_path: Path, capsys: pytest.CaptureFixture, case: str
) -> None:
    arguments, words = [], ""
    if case == "no predictions":
        (first / "predictions_75").rename(first / "elsewhere")
        words = f"{first / 'predictions_75'}: no prediction files; evaluate again"
    elif case == "one is missing":
        (first / "predictions_75" / "event" / "plain.txt").unlink()
        words = "no prediction file of event/plain; evaluate again"
    elif case == "other labels":
        labels = (split / "labels.txt").read_text()
        (split / "labels.txt").write_text(labels.replace("60.00 60.00 20.00 20.00", "90.00 90.00 30.00 30.00"))
        words = "rate 75 has AP 0.5000, its prediction files give 1.0000"
    elif case == "no set":
        split.rename(tmp_path / "moved")
        words = "say where with --sets NAME=SPLIT"
    else:
        arguments, words = ["--rate", "12"], "no rate 12; there are 75"
    found = page(first, *arguments, out=tmp_path / "out")
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("left out: faces of first: ")
    assert words in line
    assert "Left out of this page" in (tmp_path / "out" / "report.html").read_text()
    assert list(found.tables) == ["AP by rate, and bits per pixel", "Settings of evaluation"]
    if case == "no set":
        assert "Missed faces" in page(first, "--sets", f"first={tmp_path / 'moved'}", out=tmp_path / "out").tables


def test_a_real_run_with_its_training(drawn_dataset: Path, weights: Path, tmp_path: Path) -> None:
    """Evaluated with labels that lie elsewhere, in another folder than the run's; the page finds both."""
    labels, place = tmp_path / "mine.txt", tmp_path / "run 1" / "evaluation"
    labels.write_text((drawn_dataset / "val" / "labels.txt").read_text())
    latents = ["--latent_dir", str(drawn_dataset / "val" / "latent"), "--label_file", str(labels)]
    assert main(["evaluate", "--weight", str(weights), *latents, "--workers", "0", "--out", str(place)]) == 0
    found = page(place, "--rate", "25", out=tmp_path / "out")
    [line] = found.tables["Training in figures"][1:]
    assert line[:2] == ["run 1", "1"]
    rows = [json.loads(line) for line in (weights.parent / "metrics.jsonl").read_text().splitlines()]
    assert line[2] == f"{rows[-1]['loss']:.4f}"
    assert ["model", "light"] in found.tables["Settings of training"]
    faces = found.tables["Found, missed and false by height"][1]
    evaluation = json.loads((place / "evaluation.json").read_text())["rates"]["25"]["all"]
    assert faces[:3] == ["all", "run 1, rate 25", str(evaluation["truths"])]
    html = (tmp_path / "out" / "report.html").read_text()
    assert "the latent itself, its three strongest channels as colours" in html


def test_training_alone_makes_a_page(weights: Path, tmp_path: Path) -> None:
    found = page(f"mine={weights.parent}", out=tmp_path / "out")
    assert list(found.tables) == ["Training in figures", "Settings of training"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.html"]


def test_what_a_run_is(tmp_path: Path) -> None:
    def evaluation(path: str, weight: str = "") -> Path:
        file = tmp_path / path / "evaluation.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({"protocol": {"weight": weight}, "rates": {"75": {}}}))
        return file

    seeds = [tmp_path / "way" / f"seed_{number}" for number in (0, 1)]
    files = [evaluation(f"way/seed_{number}/{name}") for number in (0, 1) for name in ("decoded", "way")]
    for seed in seeds:
        (seed / "config.yaml").write_text("epochs: 1")
    plain, other = evaluation("a/evaluation", str(seeds[0] / "w.pth")), evaluation("b/evaluation")
    assert find_runs(tuple(map(str, seeds))) == [
        Run("way decoded", (files[0], files[2]), tuple(seeds)),
        Run("way", (files[1], files[3]), tuple(seeds)),
    ]
    assert find_runs((str(plain.parent), f"x={other}")) == [Run("a", (plain,), (seeds[0],)), Run("x", (other,))]
    assert find_runs((f"x={plain}", f"x={other.parent}")) == [Run("x", (plain, other), (seeds[0],))]
    evaluation("c/a/evaluation")
    with pytest.raises(LatentFaceError, match="there would be two runs named 'a'; give them names, NAME="):
        find_runs((str(plain.parent), str(tmp_path / "c" / "a" / "evaluation")))


def test_a_run_in_the_default_folder_is_named_by_its_weights(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("evaluation").mkdir()
    file, scores = Path("evaluation/evaluation.json"), {"75": {"all": {"ap": 0.5}, "mean_bpp": 1.0}}
    for weight, name in (("mine/mobilenet_dct.pth", "mobilenet_dct"), ("runs/night/weight_final.pth", "night")):
        Path("runs/night").mkdir(parents=True, exist_ok=True)
        Path("runs/night/config.yaml").touch()
        file.write_text(json.dumps({"protocol": {"name": "AP", "weight": weight}, "rates": scores}))
        assert [run.name for run in find_runs(("evaluation",))] == [name]
    together = Run("night", (file,), (Path("runs/night"),))  # as the README has it
    assert find_runs(("runs/night", "evaluation")) == [together]
    [run] = find_runs(("runs/night", str(Path("evaluation").resolve())))
    assert (run.name, len(run.evaluations), run.trainings) == ("night", 1, (Path("runs/night"),))
    file.write_text(json.dumps({"protocol": {"name": "AP"}, "rates": scores}))
    assert [run.name for run in find_runs(("evaluation",))] == [tmp_path.name]


def test_one_curve_has_nothing_to_be_held_against(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    one = judged(tmp_path / "a.json", {"12": (0.1, 0.30), "75": (0.7, 0.5)})
    found = page(f"mine={one}", out=tmp_path / "report")
    assert "BD-rate" not in capsys.readouterr().out
    assert not any(caption.startswith("One curve") for caption in found.tables)


def test_what_the_page_is_made_of_gets_installed() -> None:
    [data] = re.findall(r"^latentface = \[(.*)\]$", (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)
    installed = {path for pattern in re.findall(r'"(.+?)"', data) for path in (REPOSITORY / "latentface").glob(pattern)}
    made_of = {path for path in (REPOSITORY / "latentface" / "apps").iterdir() if path.suffix in (".html", ".css")}
    assert len(made_of) == 3
    assert made_of <= installed


def judged(path: Path, rates: dict[str, tuple[float | None, float]]) -> Path:
    scores = {rate: {"all": {"ap": ap}, "mean_bpp": bpp} for rate, (bpp, ap) in rates.items()}
    path.write_text(json.dumps({"protocol": {"name": "AP", "weight": path.name}, "rates": scores}))
    return path


def test_tables_and_curves_for_other_programs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    one = judged(tmp_path / "a.json", {"12": (0.1, 0.30), "75": (0.7, 0.5)})
    two = judged(tmp_path / "b.json", {"12": (0.1, 0.34), "75": (0.7, 0.5)})
    theirs = judged(tmp_path / "c.json", {"12": (0.1, 0.2), "75": (0.7, 0.6)})
    original = judged(tmp_path / "d.json", {"0": (24.0, 0.65)})
    items = [f"latents={one}", f"latents={two}", f"decoded={theirs}", f"original={original}"]
    found = page(*items, "--anchor", "decoded", out=tmp_path / "report")
    text = capsys.readouterr().out
    assert "| latents |  | 0.3200 ± 0.0283 (0.100 bpp) | 0.5000 ± 0.0000 (0.700 bpp) |" in text
    assert "| original | 0.6500 (24.000 bpp) |  |  |" in text
    assert (tmp_path / "report" / "report.md").read_text() in text
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    differences = content["differences"]
    assert content["units"]["bd_rate"] == "percent of bits at equal AP"
    assert [one["name"] for one in differences] == ["latents", "original"]
    assert differences[0]["ap_overlap"] == pytest.approx(0.18 / 0.4)
    with Image.open(tmp_path / "report" / "curves.png") as picture:
        assert picture.size == (1050, 675)
    assert found.tables["AP by rate, and bits per pixel"][1] == [
        "latents", DASH, "0.3200 ± 0.02830.100 bpp", "0.5000 ± 0.00000.700 bpp",
    ]  # fmt: skip
    assert [line[0] for line in found.tables["One curve against another, where they overlap"][1:]] == [
        "latents",
        "original",
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing to report"),
        (["file.json"], "file.json: no such file or folder; give an evaluation or an experiment directory"),
        (["a=gone.json"], "gone.json: no such file or folder"),
        (["a={empty}"], "neither an evaluation (evaluation.json) nor an experiment directory"),
        (["{many}"], "many: of `latentface experiment`; give a run in it, WAY/seed_N, or see its report/"),
        (["a={text}"], "text.json: cannot be read as JSON"),
        (["a={good}", "--anchor", "b"], "--anchor b: there are a"),
        (["a={good}", "--sets", "b=c"], "--sets b: there are a"),
        (["a={good}", "--sets", "b"], "--sets b: expected NAME=SPLIT"),
        (["a={good}", "--conf", "1.5"], "--conf lies between 0 and 1"),
        (["a={good}", "--attributes", "gone.txt"], "gone.txt: the label file cannot be read"),
        (["a={good}", "--faces", "huge"], "no AP of 'huge' at rate 12; there are all"),
        (["a={other}"], "other.json: not the evaluation of weights"),
        (["a={odd}"], "odd.json: not the evaluation of weights"),
        (["a={good}", "a={bits}"], "rate 12 of a has 0.2 bpp here, 0.1 in another file"),
        (["a={run}"], "metrics.jsonl: a line is no epoch of a training run"),
    ],
)
def test_mistakes_get_one_line(tmp_path: Path, capsys: pytest.CaptureFixture, arguments: list[str], words: str) -> None:
    places = {name: tmp_path / f"{name}.json" for name in ("good", "bits", "other", "odd", "text")}
    judged(places["good"], {"12": (0.1, 0.3)})
    judged(places["bits"], {"12": (0.2, 0.3)})
    places["other"].write_text('{"protocol": {}}')
    places["odd"].write_text('{"protocol": {}, "rates": {"12": {"all": {"ap": "high"}}}}')
    places["text"].write_text("AP 0.5")
    for name in ("empty", "run", "many"):
        places[name] = tmp_path / name
        places[name].mkdir()
    (places["many"] / "latents" / "seed_0").mkdir(parents=True)
    (places["run"] / "metrics.jsonl").write_text('{"epoch": 1, "loss": "low"}\n')
    given = [argument.format(**places) for argument in arguments]
    assert main(["report", *given, "--out", str(tmp_path / "report")]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.splitlines()[-1].startswith("latentface: error: ")
    assert not (tmp_path / "report").exists()
