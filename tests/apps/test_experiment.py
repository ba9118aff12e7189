"""Several ways, trained and judged alike."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from latentface.apps import experiment
from latentface.apps.experiment_plan import Plan, Way
from latentface.cli import main
from latentface.data.pretrained import pretrained
from latentface.errors import LatentFaceError
from latentface.files import sha256
from latentface.inference.evaluate import EvaluateConfig
from latentface.options import plain_values
from latentface.training.config import TrainConfig
from latentface.training.folder import save_settings

PLAN = """
train: {{model: light, backbone_weights: imagenet, epochs: 1, batch_size: 4, workers: 0, dataset_root: {root}}}
evaluate: {{dataset_root: {root}, workers: 0}}
seeds: [0, 1]
ways:
  latents:
    train: {{rates: [25, 75]}}
    evaluate: {{latents: {{}}}}
  given:
    weight: {weights}
    evaluate: {{here: {{rates: [75]}}}}
anchor: latents
"""


def test_a_plan_is_carried_out_once(
    drawn_dataset: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    plan, out = tmp_path / "plan.yaml", tmp_path / "out"
    plan.write_text(PLAN.format(root=drawn_dataset, weights=weights))
    assert main(["experiment", str(plan), "--out", str(out), "--ways", "given"]) == 0
    assert not (out / "latents").exists()
    assert main(["experiment", str(plan), "--out", str(out)]) == 0
    curves = json.loads((out / "report" / "report.json").read_text())["curves"]
    assert {name: [(p["rate"], len(p["ap"])) for p in points] for name, points in curves.items()} == {
        "latents": [("25", 2), ("75", 2)],
        "given here": [("75", 1)],
    }
    assert "faces found" in (out / "report" / "report.html").read_text()
    files = sorted(out.glob("*/seed_*/**/*.*"))
    stamps = [path.stat().st_mtime_ns for path in files]
    capsys.readouterr()
    assert main(["experiment", str(plan), "--out", str(out)]) == 0
    assert "==" not in capsys.readouterr().out
    assert [path.stat().st_mtime_ns for path in files] == stamps
    plan.write_text(
        PLAN.format(root=drawn_dataset, weights=weights).replace("{rates: [75]}", "{rates: [75], nms: 0.3}")
    )
    assert main(["experiment", str(plan), "--out", str(out)]) == 0
    anew = [line for line in capsys.readouterr().out.splitlines() if line.startswith("==")]
    assert anew == ["== given, seed 0: here, anew: nms 0.4 -> 0.3"]
    assert json.loads((out / "given/seed_0/here/evaluation.json").read_text())["protocol"]["nms"] == 0.3
    seeds = [json.loads((out / f"latents/seed_{n}/metrics.jsonl").read_text().splitlines()[-1])["loss"] for n in (0, 1)]
    assert seeds[0] != seeds[1]


def test_the_weights_that_come_along_may_be_a_way(drawn_photographs: Path, tmp_path: Path) -> None:
    plan, way = tmp_path / "plan.yaml", "{weight: pretrained, evaluate: {here: {rates: [75], split: train}}}"
    plan.write_text(f"evaluate: {{dataset_root: {drawn_photographs}}}\nways: {{ours: {way}}}")
    assert main(["experiment", str(plan), "--out", str(tmp_path / "out")]) == 0
    protocol = json.loads((tmp_path / "out/ours/seed_0/here/evaluation.json").read_text())["protocol"]
    assert protocol["weight"] == str(pretrained("dct"))


BEGUN = {"model": "light", "epochs": 2, "weight": "pretrained", "precision": "auto", "max_hours": 1.0}


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[TrainConfig]:
    """A run in `tmp_path` that was stopped; what it is gone on with is kept in the list."""
    settled = {"bridge": "deep", "projection": 64, "precision": "float32", "workers": 3}
    save_settings(TrainConfig(**BEGUN | settled | {"seed": 5}), tmp_path)
    (tmp_path / "state.pth").touch()
    seen: list[TrainConfig] = []

    def trained(config: TrainConfig) -> None:
        seen.append(config)
        (tmp_path / "weight_final.pth").touch()

    monkeypatch.setattr(experiment, "train", trained)
    return seen


def test_a_begun_run_goes_on_as_it_began(tmp_path: Path, begun: list[TrainConfig]) -> None:
    """Also where what the plan leaves open would be settled otherwise today; on another machine with its settings."""
    plan = BEGUN | {"max_hours": 9.0, "device": "cpu"}
    experiment.carry_out(Way("latents", plan, "", {}), 5, tmp_path)
    (config,) = begun
    assert config.resume == str(tmp_path)
    assert (config.bridge, config.projection, config.precision, config.seed) == ("deep", 64, "float32", 5)
    assert (config.max_hours, config.device, config.workers, config.save_minutes) == (9.0, "cpu", -1, 10.0)
    experiment.carry_out(Way("latents", plan, "", {}), 5, tmp_path)
    assert len(begun) == 1  # it is done


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epochs": 3}, "trained with epochs 2, the plan says 3: give another --out, or write epochs: 2 into the plan"),
        ({"bridge": "shuffle"}, "trained with bridge deep, the plan says shuffle: "),
        ({"projection": 0}, "trained with projection 64, the plan says 0: "),
        ({"weight": "w.pth"}, "trained with weight pretrained, the plan says w.pth: "),
        ({"rates": (12,)}, r"trained with rates \[\], the plan says \[12\]: "),
    ],
)
@pytest.mark.parametrize("done", [False, True])
def test_a_run_of_another_plan_is_not_taken_for_this_one(
    tmp_path: Path, begun: list[TrainConfig], done: bool, changes: dict, said: str
) -> None:
    if done:
        (tmp_path / "weight_final.pth").touch()
    experiment._refuse_another_plan(Way("latents", BEGUN, "", {}), {5: tmp_path})
    with pytest.raises(LatentFaceError, match=said):
        experiment._refuse_another_plan(Way("latents", BEGUN | changes, "", {}), {5: tmp_path})
    left_out = {name: value for name, value in BEGUN.items() if name != "epochs"}
    with pytest.raises(LatentFaceError, match="trained with epochs 2, the plan says 20: "):
        experiment._refuse_another_plan(Way("latents", left_out, "", {}), {5: tmp_path})


def test_a_plan_that_is_refused_has_changed_nothing(
    drawn_dataset: Path, weights: Path, tmp_path: Path, judged: list[EvaluateConfig], capsys: pytest.CaptureFixture
) -> None:
    """The way that comes first would be judged, the other one was trained by another plan."""
    folder = tmp_path / "out" / "second" / "seed_0"
    folder.mkdir(parents=True)
    save_settings(TrainConfig(**BEGUN), folder)
    (folder / "state.pth").touch()
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        f"ways: {{first: {{weight: {weights}, evaluate: {{here: {{dataset_root: {drawn_dataset}}}}}}},"
        f" second: {{train: {{dataset_root: {drawn_dataset}}}, evaluate: {{}}}}}}"
    )
    assert main(["experiment", str(plan), "--out", str(tmp_path / "out")]) == 2
    assert "second/seed_0: trained with " in capsys.readouterr().err
    assert not judged


@pytest.fixture
def judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[EvaluateConfig]:
    """What is judged from here on; its evaluation.json is written as `evaluate` does."""
    seen: list[EvaluateConfig] = []

    def judge(config: EvaluateConfig) -> None:
        seen.append(config)
        checksum = sha256(Path(config.weight))
        facts = {"settings": plain_values(asdict(config)), "weight_sha256": checksum}
        content = {"protocol": {"min_height": 0}, "rates": {"75": {}}} | facts
        Path(config.out).mkdir(parents=True, exist_ok=True)
        (Path(config.out) / "evaluation.json").write_text(json.dumps(content))

    monkeypatch.setattr(experiment, "judge", judge)
    return seen


def test_what_other_weights_reached_is_not_kept(
    tmp_path: Path, begun: list[TrainConfig], judged: list[EvaluateConfig], capsys: pytest.CaptureFixture
) -> None:
    for name in "ab":
        (tmp_path / f"{name}.pth").write_text(name)
    given = [Way("one", None, str(tmp_path / f"{name}.pth"), {"here": {}}) for name in "aab"]
    trained = Way("one", BEGUN, "", {"here": {}})
    for way in (*given, trained, trained):
        experiment.carry_out(way, 5, tmp_path)
    assert [Path(config.weight).name for config in judged] == ["a.pth", "b.pth", "weight_final.pth"]
    shutil.copytree(tmp_path, moved := tmp_path / "moved")
    experiment.carry_out(trained, 5, moved)
    assert len(judged) == 3  # an experiment may move
    (tmp_path / "weight_final.pth").write_text("trained on")
    capsys.readouterr()
    experiment.carry_out(trained, 5, tmp_path)
    others = f"its weights are others than {tmp_path / 'weight_final.pth'}"
    assert capsys.readouterr().out == f"== one, seed 5: here, anew: {others}\n"


def test_evaluations_of_earlier_versions_are_known_by_their_protocol(
    tmp_path: Path, judged: list[EvaluateConfig], capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "a.pth").touch()
    protocol = {"min_height": 10, "confidence": 0.02, "nms": 0.4, "keep": 750}
    (tmp_path / "here" / "evaluation.json").write_text(json.dumps({"protocol": protocol, "rates": {"75": {}}}))
    for height in (10, 0):
        experiment.carry_out(Way("one", None, str(tmp_path / "a.pth"), {"here": {"min_height": height}}), 0, tmp_path)
    assert capsys.readouterr().out == "== one, seed 0: here, anew: min_height 10 -> 0\n"


def test_what_is_done_needs_its_data_no_more_and_what_is_judged_otherwise_is_left_out(
    tmp_path: Path, judged: list[EvaluateConfig], capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "a.pth").touch()
    plan = Plan([Way("one", None, str(tmp_path / "a.pth"), {"here": {"dataset_root": "gone"}})], [0], (), "all")
    folders = experiment._folders(plan, plan.ways[0], tmp_path)
    with pytest.raises(LatentFaceError, match=r"^plan: gone/val/latent: no such file or folder$"):
        experiment._refuse_missing("plan", plan.ways[0], folders)
    experiment.carry_out(plan.ways[0], 0, folders[0])
    (tmp_path / "a.pth").unlink()
    experiment._refuse_missing("plan", plan.ways[0], folders)
    assert list(experiment.results(plan, tmp_path)) == [("one here", folders[0] / "here" / "evaluation.json")]
    other = replace(plan, ways=[replace(plan.ways[0], sets={"here": {"dataset_root": "gone", "nms": 0.3}})])
    assert list(experiment.results(other, tmp_path)) == []
    assert "one/seed_0/here (nms 0.4 -> 0.3)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ways: 3", "no `ways`; a plan has anchor"),
        ("wais: {}", "unknown 'wais'"),
        ("ways: {a: {evaluate: {}}}", "ways: a: give either `train` or `weight`"),
        ("ways: {a: {weigth: w, evaluate: {}}}", "ways: a: unknown 'weigth'; give `train` or `weight`, and"),
        ("ways: {a: {weight: pretrained, evaluate: {b: {dataset_root: c}}}}", "ways: a: c/val/latent: no such file or"),
        ("ways: {a: {train: {dataset_root: b}, evaluate: {}}}", "ways: a: b/train/latent: no such file or folder"),
        ("ways: {a: {train: {latent_dir: ., weight: b}, evaluate: {}}}", "ways: a: b: no such file or folder"),
        ("ways: {a: {weight: b, evaluate: {c: {latent_dir: .}}}}", "ways: a: b: no such file or folder"),
        (
            "ways: {a: {weight: b, evaluate: {c: {}, d: {min_height: 10}}}}",
            "evaluate: min_height 0 of a c and min_height 10 of a d: AP of other faces, give them one",
        ),
        ("ways: {a: {train: {modle: light}}}", "ways: a: unknown setting 'modle' (did you mean model?)"),
        ("ways: {a: {train: {epochs: 0}}}", "--epochs 0: has to be 1 or more"),
        ("ways: {a: {weight: w, evaluate: {here: {batch: 2}}}}", "ways: a: here: unknown setting 'batch'"),
        ("seeds: [x]\nways: {}", "seeds: expected a list of whole numbers"),
    ],
)
def test_mistakes_get_one_line_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture, text: str, words: str
) -> None:
    (tmp_path / "plan.yaml").write_text(text)
    assert main(["experiment", str(tmp_path / "plan.yaml"), "--out", str(tmp_path / "out")]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
