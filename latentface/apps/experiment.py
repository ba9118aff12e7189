"""`latentface experiment`: several ways of finding faces, trained alike and judged on the same pictures.

A YAML file says what is compared:

    train: {model: light, epochs: 3, optimizer: adamw}        # settings of `latentface train` for every way
    evaluate: {min_height: 10}                                # settings of `latentface evaluate` for every set
    seeds: [0, 1, 2]
    ways:
      latents:
        train: {dataset_root: latents, rates: [12, 75], bridge: deep}
        evaluate: {latents: {dataset_root: latents}}
      trained on originals:
        train: {dataset_root: originals, rates: [0]}
        evaluate: {original: {dataset_root: originals}, decoded: {dataset_root: decoded}}
      published:
        weight: detector.pth                 # nothing is trained; pretrained: the weights that come along
        evaluate: {decoded: {dataset_root: decoded}}
    anchor: [trained on originals decoded]                    # what `latentface report` holds the others against

`OUT/<way>/seed_<n>/` is an experiment directory of its own; `OUT/<way>/seed_<n>/<set>/evaluation.json` what came of it;
`OUT/report/` the curves, each named `<way> <set>`, or `<way>` where a set has the way's own name. The same
command continues: trainings that are there are kept, and evaluations, but for those that the plan now wants otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from latentface.apps import report
from latentface.apps.experiment_plan import Plan, Way, read_plan
from latentface.data.remote import is_url
from latentface.data.stores import latent_folder
from latentface.errors import LatentFaceError
from latentface.evaluation.report import read_evaluation
from latentface.files import make_folder, sha256
from latentface.inference.evaluate import EvaluateConfig
from latentface.inference.evaluate import run as judge
from latentface.options import option, plain_values, plain_yaml, values_of
from latentface.training.config import OF_THE_MACHINE, PRETRAINED, SETTINGS_NAME, TrainConfig
from latentface.training.folder import differing, plain_settings
from latentface.training.loop import FINAL_NAME, train
from latentface.training.state import STATE_NAME

# Settings of an evaluation that its result does not depend on; weights go by their checksum.
ASIDE = ("weight", "out", "batch_size", "device", "workers", "json", "cache_dir", "cache_gb")
# What earlier versions kept of the settings, by the name in the protocol.
IN_PROTOCOL = {"min_height": "min_height", "conf": "confidence", "nms": "nms", "keep": "keep"}


@dataclass
class ExperimentConfig:
    """Trains and judges several ways of finding faces alike, and reports them; continues where it was stopped."""

    plan: str = option(help="YAML file of what is compared", positional=True)
    out: str = option("experiment", "folder for everything that is made")
    ways: tuple[str, ...] = option((), "only these ways of the plan")


def run(config: ExperimentConfig) -> Path:
    """Every way, every seed, then the report of all that is there."""
    plan = read_plan(config.plan)
    names = [way.name for way in plan.ways]
    for name in config.ways:
        if name not in names:
            raise LatentFaceError(f"--ways {name}: {config.plan} has {', '.join(names)}")
    chosen = [way for way in plan.ways if not config.ways or way.name in config.ways]
    for way in chosen:  # all of them first: what is refused has changed nothing
        _refuse_another_plan(way, _folders(plan, way, Path(config.out)))
        _refuse_missing(f"{config.plan}: ways: {way.name}", way, _folders(plan, way, Path(config.out)))
    out = make_folder(config.out, "--out")
    for way in chosen:
        for seed, folder in _folders(plan, way, out).items():
            for place in (folder, *(folder / name for name in way.sets)):
                make_folder(place, "--out", within=out)
            carry_out(way, seed, folder)
    done = list(results(plan, out))
    there = {name for name, _ in done}
    items = tuple(f"{name}={path}" for name, path in done)
    anchor = tuple(name for name in plan.anchor if name in there)
    return report.run(report.ReportConfig(items, anchor, plan.faces, out=str(out / "report")))


def _folders(plan: Plan, way: Way, out: Path) -> dict[int, Path]:
    """Of each seed; what is not trained has one."""
    return {seed: out / way.name / f"seed_{seed}" for seed in (plan.seeds[:1] if way.train is None else plan.seeds)}


def carry_out(way: Way, seed: int, folder: Path) -> None:
    """Trains one way with one seed, or goes on with it, then judges it on each of its sets."""
    if way.train is not None:
        if not (folder / FINAL_NAME).is_file():
            print(f"== {way.name}, seed {seed}", flush=True)
            begun = (folder / STATE_NAME).is_file()
            train(_going_on(folder, way.train) if begun else _beginning(folder, way.train, seed))
        if not (folder / FINAL_NAME).is_file():  # Ctrl-C or --max_hours: the state is saved
            raise KeyboardInterrupt
    for name in way.sets:
        wanted = _judging(way, name, folder)
        changed = _to_do(wanted)
        if changed is not None:
            print(f"== {way.name}, seed {seed}: {name}{changed and f', anew: {changed}'}", flush=True)
            judge(wanted)


def _beginning(folder: Path, settings: dict[str, Any], seed: int) -> TrainConfig:
    return TrainConfig(**{**settings, "seed": seed, "no_wandb": True, "out": str(folder)})


def _going_on(folder: Path, settings: dict[str, Any]) -> TrainConfig:
    """As the run began, also where a later version would begin otherwise; but for what is of the machine."""
    planned = TrainConfig(**{**settings, "no_wandb": True})
    own = {name: getattr(planned, name) for name in OF_THE_MACHINE}
    return TrainConfig(**{**asdict(_trained(folder)), **own, "resume": str(folder)})


def _judging(way: Way, name: str, folder: Path) -> EvaluateConfig:
    """How the plan wants a way to be judged on a set; without `weight` by what comes along for the codec."""
    weight = str(folder / FINAL_NAME) if way.train is not None else way.weight
    own = {"weight": "" if weight == PRETRAINED else weight, "out": str(folder / name)}
    return EvaluateConfig(**{**way.sets[name], **own})


def _to_do(wanted: EvaluateConfig) -> str | None:
    """None where an evaluation is there as the plan wants it; else what is otherwise, empty where there is none."""
    done = Path(wanted.out) / "evaluation.json"
    if not done.is_file():
        return ""
    content, now = read_evaluation(done), plain_values(asdict(wanted))
    then = _judged_by(content)
    names = [name for name in now if name in then and name not in ASIDE and then[name] != now[name]]
    changed = [f"{name} {then[name]} -> {now[name]}" for name in names]
    if _by_others(content, wanted.weight):
        changed.append(f"its weights are others than {wanted.weight}")
    return ", ".join(changed) or None


def _judged_by(content: dict[str, Any]) -> dict[str, Any]:
    """The settings of an evaluation."""
    kept, protocol = content.get("settings"), content["protocol"]
    if isinstance(kept, dict):
        return kept
    return {name: protocol[other] for name, other in IN_PROTOCOL.items() if other in protocol}


def _by_others(content: dict[str, Any], weight: str) -> bool:
    """Whether an evaluation is of other weights: by their checksum, which earlier versions did not keep."""
    checksum = content.get("weight_sha256")
    return bool(checksum and weight) and Path(weight).is_file() and sha256(Path(weight)) != checksum


def _refuse_missing(where: str, way: Way, folders: dict[int, Path]) -> None:
    """Raises LatentFaceError for files and folders that are still needed and not there, before hours of training."""
    needed = []
    if way.train is not None and not all((folder / FINAL_NAME).is_file() for folder in folders.values()):
        needed = _needed(TrainConfig(**way.train))
    for name in way.sets:
        wanted = [_judging(way, name, folder) for folder in folders.values()]
        if any(_to_do(one) is not None for one in wanted):
            latents = _latents(wanted[0].dataset_root, wanted[0].split, wanted[0].latent_dir)
            needed += [latents] if way.train is not None else [wanted[0].weight, latents]
    for place in needed:
        if place and not is_url(place) and not Path(place).exists():
            raise LatentFaceError(f"{where}: {place}: no such file or folder")


def _needed(config: TrainConfig) -> list[str]:
    """What a training reads."""
    weight = config.weight if config.weight != PRETRAINED else ""
    return [_latents(config.dataset_root, "train", config.latent_dir), weight, config.teacher, config.photographs]


def _latents(root: str, split: str, folder: str) -> str:
    """Where the latents of a split are: `folder`, if it is given."""
    return folder or (root if is_url(root) else str(latent_folder(Path(root) / split)))


def _refuse_another_plan(way: Way, folders: dict[int, Path]) -> None:
    """Raises LatentFaceError where a run learnt by other settings than the plan now has."""
    for folder in folders.values():
        if way.train is None or not ((folder / STATE_NAME).is_file() or (folder / FINAL_NAME).is_file()):
            continue
        planned, trained = TrainConfig(**way.train), plain_settings(_trained(folder))
        for name in differing(planned, trained):
            if name not in (*OF_THE_MACHINE, "seed", "out"):
                raise LatentFaceError(
                    f"{folder}: trained with {name} {trained[name]}, the plan says {plain_settings(planned)[name]}: "
                    f"give another --out, or write {name}: {trained[name]} into the plan"
                )


def _trained(folder: Path) -> TrainConfig:
    """The settings of the run in `folder`; those that its version did not have are today's defaults."""
    settings = values_of(TrainConfig, plain_yaml(str(folder / SETTINGS_NAME)), folder / SETTINGS_NAME)
    return TrainConfig(**{**settings, "resume": str(folder)})


def results(plan: Plan, out: Path) -> Iterator[tuple[str, Path]]:
    """Name of the curve and evaluation file of everything that is done as the plan says."""
    for way in plan.ways:
        for name in way.sets:
            for folder in _folders(plan, way, out).values():
                changed = _to_do(_judging(way, name, folder))
                if changed is None:
                    yield way.curve(name), folder / name / "evaluation.json"
                elif changed:
                    print(f"left out, without --ways it is judged anew: {folder / name} ({changed})")
