"""Labels, manifests, prediction files and settings from strangers."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import pytest

from latentface.apps.experiment import read_plan
from latentface.apps.report import ReportConfig, run
from latentface.cli import main
from latentface.data.labels import read_labels, write_labels
from latentface.data.manifest import LatentEntry, ManifestRow, read_manifest, write_manifest
from latentface.data.sizes import read_sizes
from latentface.errors import LONGEST, LatentFaceError
from latentface.evaluation.wider import read_predictions
from latentface.files import name_problem
from latentface.options import plain_yaml

DEEP = ["[" * 100_000, '{"a":' * 100_000, '{"a": ' + "[" * 100_000]


# --- one line, whatever is in it


def test_a_message_is_one_line_that_steers_no_terminal():
    error = LatentFaceError("a.txt: \x1b[2J\x1b]0;title\x07 one\ntwo\r\u2028three\x9b1m \u202e ü 顔")
    assert str(error) == "a.txt: ?[2J?]0;title? one two  three?1m ? ü 顔"


def test_a_long_line_is_cut_in_its_middle():
    text = str(LatentFaceError("begin" + "x" * 1_000_000 + "end"))
    assert len(text) == LONGEST + len(" ... ")
    assert text.startswith("beginxxx")
    assert text.endswith("xxxend")


def test_names_that_are_no_text_are_printed(monkeypatch):
    """A file's name is bytes; on the way to the screen it must not stop the command."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="utf-8"))
    assert main(["--version"]) == 0
    print(os.fsdecode(b"caf\xe9.npy"), flush=True)
    assert written.getvalue().splitlines()[1] == b"caf\\udce9.npy"


# --- names


@pytest.mark.parametrize(
    "name",
    ["../a.jpg", "a/../../b.jpg", "/etc/passwd", "\\\\server\\share\\a.jpg", "C:\\a.jpg", "C:a.jpg", "a/C:b.jpg", "..",
     ".", "a/..", "a\\..\\b", "", " a", "a\x00b", "a\x1bb", "a\x7fb", "a\x85b", "a\u2028b", "a\ud800b", "\ufeffa"],
)  # fmt: skip
def test_names_that_lead_out_or_steer_something(name, tmp_path):
    assert name_problem(name) is not None
    row = ManifestRow(name, {}, 16, 640, 480)
    write_manifest(tmp_path / "latents.jsonl", [row])
    with pytest.raises(LatentFaceError, match=r"latents\.jsonl:1: .*cannot be used as a name"):
        read_manifest(tmp_path / "latents.jsonl")
    if name and name == name.strip() and "\ud800" not in name:
        (tmp_path / "labels.txt").write_text(f"first.jpg\n0\n# {name}\n1 2 3 4\n", encoding="utf-8")
        with pytest.raises(LatentFaceError, match=r"labels\.txt:\d: .*cannot be used as a picture's name"):
            read_labels(tmp_path / "labels.txt")


@pytest.mark.parametrize(
    "name", ["a.jpg", "0--Parade/0_Parade_1.jpg", "zwölf/顔 12:30.png", "..a", "a..b", "k\u3000k", "~", "a b"]
)
def test_names_that_are_none_of_these(name):
    assert name_problem(name) is None


def test_a_name_of_a_megabyte_is_one_line(tmp_path):
    """It is read, and refused by the file system where it becomes a folder."""
    name = "n" * 1_000_000
    (tmp_path / "labels.txt").write_text(f"{name}.jpg\n1\n1 2 3 4\n")
    labels = read_labels(tmp_path / "labels.txt")
    assert list(labels) == [name]
    (tmp_path / "labels.txt").write_text(f"# {name}/../x\n1 2 3 4\n")
    with pytest.raises(LatentFaceError, match="cannot be used as a picture's name") as caught:
        read_labels(tmp_path / "labels.txt")
    assert len(str(caught.value)) < 1100
    with pytest.raises(LatentFaceError, match="cannot be written"):
        write_labels(tmp_path / ("f" * 300), labels.values())


# --- labels


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("nan 2 3 4", "NaN, infinite or larger than any picture"),
        ("1 inf 3 4", "NaN, infinite or larger"),
        ("1 2 1e400 4", "NaN, infinite or larger"),
        ("1 2 99999999 4", "NaN, infinite or larger"),
        (" ".join(["1e308"] * 10), "NaN, infinite or larger"),
        ("1 2 0x10 4", "'0x10' is not a number"),
        ("1 2 1_0 4", "is not a number"),
        ("1 2 3", "3 columns"),
        (" ".join(["1"] * 1_000_000), "1000000 columns"),
        ("1 2 3 " + "9" * 1_000_000 + "x", "is not a number"),
        ("1 2 -3 4", "negative width or height"),
    ],
)
def test_numbers_that_are_none(row, message, tmp_path):
    (tmp_path / "labels.txt").write_text(f"# a.jpg\n{row}\n")
    with pytest.raises(LatentFaceError, match=message) as caught:
        read_labels(tmp_path / "labels.txt")
    assert "labels.txt:2: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_count_of_any_size_takes_no_memory(tmp_path, little_memory):
    for count in ("1000000000000", "9" * 5000):
        (tmp_path / "labels.txt").write_text(f"a.jpg\n{count}\n1 2 3 4\n")
        with little_memory(), pytest.raises(LatentFaceError, match=r"labels\.txt:2: the count says \d+ faces, but 1"):
            read_labels(tmp_path / "labels.txt")


# --- manifests

ROW = ManifestRow("a.jpg", {75: LatentEntry("dct", 0, 2.0, 0.7, True)}, 16, 640, 480, pad_bottom=160)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pad_right": 10**12}, "'pad_right': 1000000000000 is not a whole number up to"),
        ({"pad_right": 500_000}, "a picture of 640 pixels and 500000 of padding a side"),
        ({"scale_x": 1e9}, "a picture of 640000000000 pixels"),
        ({"scale_y": 1e-9}, "a picture of 0 pixels"),
        ({"source_width": 10**400}, "'source_width'"),
        ({"source_width": 10**7}, "'source_width'"),
        ({"crop": [600, 0, 100, 100]}, "'crop': reaches out of a photograph of 640x480"),
        ({"crop": [0, 0, 0, 100]}, "'crop'"),
        ({"crop": [-1, 0, 10, 10]}, "'crop'"),
        ({"stride": 2**31}, "'stride'"),
        ({"encoder": {"size": 1e999}}, "not JSON"),
        ({"encoder": [1]}, "is not an object"),
        (
            {"latents": {"75": {"codec": "dct", "model_index": 10**9, "step": 1, "bpp": 1, "exact": True}}},
            "'model_index'",
        ),
        ({"latents": {"7" * 30: {}}}, "is not a rate"),
        ({"latents": {"-75": {}}}, "is not a rate"),
    ],
)
def test_rows_that_ask_for_memory_or_contradict_themselves(values, message, tmp_path):
    path = tmp_path / "latents.jsonl"
    write_manifest(path, [ROW])
    path.write_text(json.dumps(json.loads(path.read_text()) | values) + "\n")
    with pytest.raises(LatentFaceError, match=message) as caught:
        read_manifest(path)
    assert "latents.jsonl:1: " in str(caught.value)


def test_numbers_that_json_reads_as_infinite(tmp_path):
    path = tmp_path / "latents.jsonl"
    write_manifest(path, [ROW])
    path.write_text(path.read_text().replace('"encoder": {}', '"encoder": {"size": 1e999}'))
    with pytest.raises(LatentFaceError, match=r"latents\.jsonl:1: "):
        read_manifest(path)


def test_a_picture_has_the_cells_of_its_latent():
    assert ROW.cells == (40, 40)
    ROW.check_cells((256, 40, 40), "a")
    with pytest.raises(LatentFaceError, match="a: 40x30 cells, by the manifest 40x40"):
        ROW.check_cells((256, 40, 30), "a")


@pytest.mark.parametrize("text", [*DEEP, "9" * 5000, "NaN", "\xff"])
def test_json_that_goes_too_far(text, tmp_path):
    path = tmp_path / "file.json"
    path.write_text(text + "\n" + text + "\n", encoding="latin-1")
    with pytest.raises(LatentFaceError, match=r"file\.json:1: "):
        read_manifest(path)
    with pytest.raises(LatentFaceError, match=r"file\.json: cannot be read as JSON"):
        read_sizes(path)
    with pytest.raises(LatentFaceError, match=r"file\.json: cannot be read as JSON"):
        run(ReportConfig((f"a={path}",)))


@pytest.mark.parametrize("size", [[0, 5], [10**9, 5], [5], [5.0, 5], [True, 5], ["5", 5], {"width": 5}, None, 5])
def test_sizes_that_are_none(size, tmp_path):
    (tmp_path / "sizes.json").write_text(json.dumps({"a.jpg": size}))
    with pytest.raises(LatentFaceError, match=r"sizes\.json: a\.jpg: expected \[width, height\] in pixels"):
        read_sizes(tmp_path / "sizes.json")


# --- prediction files


@pytest.mark.parametrize("count", ["9" * 30, "9" * 5000, "\u0661", "1.0", "+1", "0x1"])
def test_counts_that_are_none(count, tmp_path):
    (tmp_path / "a.txt").write_text(f"a\n{count}\n1 2 3 4 0.5\n", encoding="utf-8")
    with pytest.raises(LatentFaceError, match=r"a\.txt:2: expected the number of faces"):
        read_predictions(tmp_path)


def test_a_count_that_no_file_could_hold(tmp_path, little_memory):
    (tmp_path / "a.txt").write_text(f"a\n{'9' * 18}\n1 2 3 4 0.5\n")
    with little_memory(), pytest.raises(LatentFaceError, match=r"a\.txt:2: 9+ faces announced, 1 lines follow"):
        read_predictions(tmp_path)


# --- settings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [lol, lol]\nb: *a\n", "line 2: references such as *a are not read; write it out"),
        ("a: &a {lol: 1}\nb:\n  <<: [*a, *a]\n", "line 3: references such as *a"),
        ("a: &a\n  b: *a\n", "line 2: references such as *a"),
        ("a: " + "[" * 50_000, "line 1: nested too deeply"),
        ("a: " + "{b: " * 20_000, "line 1: nested too deeply"),
        ("".join(" " * n + "a:\n" for n in range(400)), "line 21: nested too deeply"),
        ("- " * 10_000, "line 1: nested too deeply"),
        ("a: " + "x" * 200_000, "200003 characters; settings have at most 100000"),
        ("a: " + "1" * 5000, "cannot be read as YAML"),
        ("a: 2020-99-99", "cannot be read as YAML"),
        ("a: 0b_", "cannot be read as YAML"),
        ("a: !!timestamp x", "cannot be read as YAML"),
        ("a: !!int x", "cannot be read as YAML"),
        ("a: !!python/name:os.system", "cannot be read as YAML"),
        ("a: !!python/object/new:os.system [touch exploded]", "cannot be read as YAML"),
        ("? [1]\n: 2", "cannot be read as YAML"),
    ],
)
def test_settings_of_strangers(text, message, tmp_path, monkeypatch, little_memory):
    monkeypatch.chdir(tmp_path)
    Path("file.yaml").write_text(text)
    with little_memory(), pytest.raises(LatentFaceError) as caught:
        plain_yaml("file.yaml")
    assert str(caught.value).startswith("file.yaml: cannot be read as YAML (")
    assert message in str(caught.value)
    assert not Path("exploded").exists()


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "a/b", "..", "a\\b", "a=b", "''", "C:x"])
def test_plans_name_no_folders_outside(name, tmp_path):
    path = tmp_path / "plan.yaml"
    for text in (
        f"ways:\n  {name}:\n    weight: w.pth\n    evaluate: {{s: {{dataset_root: x}}}}\n",
        f"ways:\n  good:\n    weight: w.pth\n    evaluate:\n      {name}: {{dataset_root: x}}\n",
    ):
        path.write_text(text)
        with pytest.raises(LatentFaceError, match=r"plan\.yaml: ways: .*no name of a folder"):
            read_plan(str(path))


@pytest.mark.parametrize("setting", ["out", "resume"])
def test_plans_do_not_say_where_runs_are_written(setting, tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(f"ways:\n  good:\n    train: {{dataset_root: x, {setting}: /tmp/elsewhere}}\n    evaluate: {{}}\n")
    with pytest.raises(LatentFaceError, match=rf"ways: good: {setting}: runs lie in --out"):
        read_plan(str(path))


def test_a_config_from_a_stranger_is_one_line_on_the_command_line(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("lr: &x [0.1]\nepochs: *x\n")
    assert main(["train", "--config", str(tmp_path / "c.yaml")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
