"""What the README says: its figures come from records, its links and commands exist."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import shlex
from pathlib import Path

import pytest
from conftest import REPOSITORY

from latentface.apps.bench import table
from latentface.apps.experiment import read_plan
from latentface.cli import COMMANDS
from latentface.model.config import BRIDGE_ENTERS, fits

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def page(name: str) -> str:
    return (REPOSITORY / "docs" / f"{name}.md").read_text(encoding="utf-8")


SCRIPTS = {"train_retinaface.py": "train", "train.py": "train", "detection.py": "detect"}


def commands() -> list[list[str]]:
    """The words of every latentface command and script in the README's code blocks."""
    blocks = "".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL)).replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in blocks.splitlines()]
    return [words for words in lines if words and words[0] in ("latentface", "python")]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_have_the_flags_that_the_readme_gives_them(words: list[str]) -> None:
    command = COMMANDS[words[1] if words[0] == "latentface" else SCRIPTS[words[1]]]
    config = getattr(importlib.import_module(command.module), command.config)
    known = {"--" + field.name for field in dataclasses.fields(config)}
    assert {word for word in words if word.startswith("--")} <= known


def headings_of(text: str) -> set[str]:
    return {re.sub(r"[^a-z]+", "-", line.lower()) for line in re.findall(r"^## (.+)$", text, re.MULTILINE)}


def test_links_lead_somewhere() -> None:
    headings = headings_of(README)
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif not target.startswith("https://"):
            path, _, place = target.partition("#")
            assert (REPOSITORY / path).is_file(), target
            assert not place or place in headings_of((REPOSITORY / path).read_text(encoding="utf-8")), target


def test_the_plan_in_the_docs_is_one(tmp_path: Path) -> None:
    [plan] = re.findall(r"```yaml\n(.*?)```", page("evaluation"), re.DOTALL)
    (tmp_path / "plan.yaml").write_text(plan)
    found = read_plan(str(tmp_path / "plan.yaml"))
    names = {way.name if place == way.name else f"{way.name} {place}" for way in found.ways for place in way.sets}
    assert set(found.anchor) <= names


def test_demo_figures_are_those_of_the_record() -> None:
    record = json.loads((REPOSITORY / "records" / "demo.json").read_text())
    rates = record["rates"].values()
    assert "| bits per pixel | " + " | ".join(f"{rate['mean_bpp']:.2f}" for rate in rates) + " |" in README
    assert " | ".join(f"{rate['ap']:.3f}" for rate in rates) in README
    assert f"training {record['seconds']['training'] / 60:.1f} minutes" in README
    assert all(rate["ap"] >= 0.90 for rate in rates)


def test_the_first_minutes_are_those_of_the_record() -> None:
    record = json.loads((REPOSITORY / "records" / "first_minutes.json").read_text())
    seconds, disk = record["seconds"], record["GiB on disk"]
    assert f"the environment takes {disk['.venv']} GiB of disk, the demo {disk['demo']}." in README
    assert f"{(seconds['install'] + seconds['first detection']) / 60:.1f} minutes from a clone" in README


def test_protocol_figures_are_those_of_the_record() -> None:
    wider = json.loads((REPOSITORY / "records" / "wider_protocol.json").read_text())["wider"]
    assert " / ".join(f"{wider[name]:.4f}" for name in ("easy", "medium", "hard")) in README


WEIGHTS = {  # what the README calls a way of the record
    "**latents, `mobilenet_jpegai`**": "mobilenet_jpegai",
    "decoded, then the published detector": "published detector on decoded JPEG AI",
    "**latents, `mobilenet_dct`**": "mobilenet_dct",
}


@pytest.mark.parametrize("label", WEIGHTS)
def test_figures_of_the_weights_are_those_of_the_record(label: str) -> None:
    ways = json.loads((REPOSITORY / "records" / "weights.json").read_text())["ways"]
    rates = ways[WEIGHTS[label]].values()
    assert f"| {label} | " + " | ".join(f"{rate['all']['ap']:.3f}" for rate in rates) + " |" in README
    assert " | ".join(f"{rate['mean_bpp']:.2f}" for rate in rates) in README
    assert f"reaches {ways['published detector on originals']['0']['all']['ap']:.3f} on the uncompressed" in README


def test_the_preview_is_as_near_as_the_record_says() -> None:
    decibels = json.loads((REPOSITORY / "records" / "weights.json").read_text())["preview"]["decibels"]
    assert f"PSNR of {decibels['75']:.1f} dB at rate 75 and of {decibels['12']:.1f} dB at rate 12" in page("codecs")


def test_what_int8_loses_is_that_of_the_record() -> None:
    ap = json.loads((REPOSITORY / "records" / "int8.json").read_text())["ap"]
    assert f"lose {100 * (ap['float32'] - ap['int8']):.1f} points of AP by int8" in README


def test_what_a_training_step_without_bfloat16_does() -> None:
    record = json.loads((REPOSITORY / "records" / "bench_epyc_avx2_2_cores.json").read_text())
    for row in record["rows"]["training"]:
        operations = row["facts"]["operations"]
        share = operations["aten::convolution_backward"] + operations["aten::mkldnn_convolution"]
        assert f"{share:.0%} of its time goes".replace("%", " %") in README


CONTROLS = {  # what the README calls a curve of the record
    "a detector of originals": "trained on originals, decoded",
    "a detector of decoded pictures": "trained on decoded",
    "that one trained on as long as it gained": "trained on decoded, mean of the two",
    "and one stage more": "trained on decoded, a stage more",
}


def test_bits_saved_are_those_of_the_record() -> None:
    record = json.loads((REPOSITORY / "records" / "experiment.json").read_text())
    found = {(row["name"], row["anchor"]): row["bd_rate"] for row in record["differences"]}
    decoded = {name for name in record["curves"] if name.startswith("trained on decoded")}
    strongest = max(decoded, key=lambda name: found["latents, trained on", name])
    assert CONTROLS["that one trained on as long as it gained"] == strongest
    views = record["views seen"]
    for row, control in CONTROLS.items():
        seeds = {1: "one seed", 2: "two seeds", 3: "three seeds"}[len(record["curves"][control]["75"]["ap"])]
        [line] = [line for line in README.splitlines() if line.startswith(f"| {row}, {seeds} |")]
        assert line.endswith(f"| {-found['latents, trained on', control]:.1f} % |")
        if control in views:
            theirs = views[control]
            assert f"| {theirs['different']:,} views, {theirs['in training']:,} with repetition |" in line
    text = README.replace("\n", " ")
    alike = [found["latents", control] for control in list(CONTROLS.values())[:2]]
    assert f"they need {alike[0]:.1f} and {alike[1]:.1f} % more bits than the first two" in text
    ours = views["latents, trained on"]
    seen = f"Ours saw {ours['different']:,} views, {ours['in training']:,} with repetition and another"
    assert f"{seen} {ours['in fitting the entry']:,} while its entry was fitted" in text


def test_points_beside_decoding_are_those_of_the_record() -> None:
    curves = json.loads((REPOSITORY / "records" / "experiment.json").read_text())["curves"]
    ours, theirs = curves["latents, trained on"], curves[CONTROLS["that one trained on as long as it gained"]]
    points = {rate: 100 * (ours[rate]["mean"] - theirs[rate]["mean"]) for rate in ours}
    text = README.replace("\n", " ")
    ahead = f"ahead by {points['12']:.1f} points at rate 12, {points['25']:.1f} at 25, {points['50']:.1f} at 50"
    assert f"{ahead} and {points['75']:.1f} at 75, and behind by {-points['100']:.1f} at 100" in text
    assert max(map(abs, points.values())) <= 1
    rows = {
        "the same, mean of three seeds of the last epoch, of which it is the first": ours,
        "decoded, then that one trained on decoded pictures as long as it gained": theirs,
    }
    for name, curve in rows.items():
        assert f"| {name} | " + " | ".join(f"{point['mean']:.3f}" for point in curve.values()) + " |" in README
    weights = json.loads((REPOSITORY / "records" / "weights.json").read_text())["ways"]["mobilenet_jpegai"]
    assert {rate: point["ap"][0] for rate, point in ours.items()} == {r: one["all"]["ap"] for r, one in weights.items()}


def test_the_speed_beside_the_published_detector_is_that_of_the_record() -> None:
    record = json.loads((REPOSITORY / "records" / "bench_epyc_2_cores_mobilenet.json").read_text())
    rows = {row["item"]: row["comparison"] for row in record["rows"]["detection"]}
    row = rows["latent to faces: mobilenet, refined, torch bfloat16, batch 8"]
    ours, theirs = (f"{1000 * row[name]:.0f}" for name in ("seconds", "against_seconds"))
    assert f"takes {ours} in place of {theirs} ms, {row['ratio']:.1f} times less" in README
    one = rows["latent to faces: mobilenet, refined, torch bfloat16, batch 1"]
    assert f"640x640 pixels: {1000 * one['seconds']:.0f} ms by the weights" in README
    assert f"on the pixels: {1000 * one['against_seconds']:.0f} ms (" in README.replace("\n", " ")
    both = f"({1000 * one['seconds']:.0f} ms against {1000 * one['against_seconds']:.0f} above, in a run of its own)"
    quartiles = " to ".join(f"{quartile:.1f}" for quartile in one["spread"])
    faster = f"{one['ratio']:.1f} times as fast in bfloat16, the median over rounds (quartiles {quartiles})"
    assert f"{both} the weights that come along are {faster}" in README.replace("\n", " ")


def test_errors_of_packing_are_those_of_the_record() -> None:
    errors = json.loads((REPOSITORY / "records" / "packing.json").read_text())["error_in_deviations_of_the_channel"]
    assert f"int8 is {errors['int8']['mean']} of a channel's" in README
    assert f"({errors['int8']['worst']} at worst), float16 {errors['float16']['mean']} " in README


SPEED = {  # what the README calls a row of the benchmark's record
    "latent to faces: resnet50, documented bridge, PyTorch float32":
        "latent to faces: resnet50, bilinear, torch float32, batch 1",
    "resnet50, `layer3` bridge, PyTorch float32": "latent to faces: resnet50, layer3, torch float32, batch 1",
    "resnet50, `layer3` bridge, PyTorch bfloat16": "latent to faces: resnet50, layer3, torch bfloat16, batch 1",
    "resnet50, `layer3` bridge, ONNX Runtime int8": "latent to faces: resnet50, layer3, ONNX Runtime int8, batch 1",
    "as the weights that come along, PyTorch float32": "latent to faces: mobilenet, refined, torch float32, batch 1",
    "as the weights that come along, PyTorch bfloat16": "latent to faces: mobilenet, refined, torch bfloat16, batch 1",
    "as the weights that come along, ONNX Runtime int8":
        "latent to faces: mobilenet, refined, ONNX Runtime int8, batch 1",
    "training step of 8 pictures, resnet18, documented bridge": "training step, resnet18, bilinear bridge",
    "reading 128 latents, int8 pack, warm": "reading int8, page cache warm",
    "reading 128 latents, float16 pack, warm": "reading float16, page cache warm",
    "reading 128 latents, int8 pack, cold": "reading int8, page cache cold",
    "encoding a photograph at five rates, two processes": "encode, jpegai, two processes, one picture at five rates",
    "the same in bfloat16": "encode, jpegai in bfloat16, two processes, one picture at five rates",
    "WIDER FACE evaluation of 3,226 files": "WIDER evaluation of 3,226 prediction files",
}  # fmt: skip


def bench_rows() -> dict[str, dict]:
    record = json.loads((REPOSITORY / "records" / "bench_epyc_2_cores.json").read_text())
    return {row["item"]: row for rows in record["rows"].values() for row in rows}


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.{1 if seconds < 0.02 else 0}f}"


def speed_line(label: str, row: dict) -> str:
    c = row["comparison"]
    ours, theirs = milliseconds(c["seconds"]), milliseconds(c["against_seconds"])
    return f"| {label} | {ours} | {row['against']} | {theirs} | {c['ratio']:.1f} |"


@pytest.mark.parametrize("label", SPEED)
def test_speed_figures_are_those_of_the_record(label: str) -> None:
    assert speed_line(label, bench_rows()[SPEED[label]]) in README


def test_times_of_the_whole_benchmark_are_those_of_the_record() -> None:
    text, rows = page("full_run"), bench_rows()

    def seconds(item: str) -> float:
        return rows[item]["comparison"]["seconds"]

    encoding = "encode, jpegai{}, two processes, one picture at five rates"
    plain, halved = seconds(encoding.format("")), seconds(encoding.format(" in bfloat16"))
    assert f"16,106 pictures x {plain:.3f} s for five rates | {16106 * plain / 3600:.1f} hours" in text
    assert f"16,106 x {halved:.3f} s | {16106 * halved / 3600:.1f} hours" in text
    step = seconds("training step, resnet18, bilinear bridge")
    assert f"1,610 steps x {step:.2f} s | {1610 * step / 60:.0f} minutes" in text
    detection = seconds("latent to faces: resnet50, layer3, torch bfloat16, batch 1")
    assert f"16,130 x {detection:.3f} s | {16130 * detection / 60:.0f} minutes" in text
    scoring = seconds("WIDER evaluation of 3,226 prediction files")
    assert f"5 x {scoring:.1f} s | {5 * scoring:.0f} seconds" in text


def test_cost_in_the_model_card_is_that_of_the_record() -> None:
    card = (REPOSITORY / "latentface" / "weights" / "README.md").read_text(encoding="utf-8")
    item = "latent to faces: mobilenet, refined, {}, batch 1"
    names = ("torch float32", "torch bfloat16", "ONNX Runtime int8")
    first, second, third = (milliseconds(bench_rows()[item.format(n)]["comparison"]["seconds"]) for n in names)
    assert f"{first} ms in float32, {second} in bfloat16, {third} as int8" in card


@pytest.mark.parametrize("name", ["bench_epyc_2_cores", "bench_epyc_2_cores_mobilenet", "bench_epyc_avx2_2_cores"])
def test_the_table_of_a_benchmark_was_made_from_its_record(name: str) -> None:
    record = json.loads((REPOSITORY / "records" / f"{name}.json").read_text())
    rows = [row for rows in record["rows"].values() for row in rows]
    assert (REPOSITORY / "records" / f"{name}.md").read_text() == table(rows) + "\n"


@pytest.mark.parametrize("bridge", [bridge for bridge in BRIDGE_ENTERS if fits("resnet50", bridge)])
def test_costs_of_bridges_are_those_of_the_record(bridge: str) -> None:
    rows = [bench_rows()[f"bridge {bridge}, {backbone}"]["facts"] for backbone in ("resnet18", "resnet50")]
    costs = [" / ".join(f"{row[name]:.1f}" for row in rows) for name in ("gmac", "whole_network_gmac")]
    assert re.search(rf"\| `{bridge}` .*\| {costs[0]} \| {costs[1]} \|", page("training"))
