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
`OUT/report/` the curves, each named `<way> <set>`, or `<way>` where a set has the way's own name. What is there is
kept: the same command continues.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from latentface.apps import report
from latentface.data.remote import is_url
from latentface.data.stores import latent_folder
from latentface.errors import LatentFaceError
from latentface.evaluation.report import read_evaluation
from latentface.files import make_folder, name_problem
from latentface.inference import evaluate
from latentface.options import option, plain_yaml, values_of
from latentface.training.config import OF_THE_MACHINE, PRETRAINED, SETTINGS_NAME, TrainConfig
from latentface.training.folder import differing, plain_settings
from latentface.training.loop import train
from latentface.training.state import STATE_NAME

# Settings of an evaluation that its result does not depend on.
JUDGING_ASIDE = ("weight", "out", "batch_size", "device", "workers", "json", "cache_dir", "cache_gb")
KEYS = {"train", "evaluate", "seeds", "ways", "anchor", "faces"}


@dataclass
class ExperimentConfig:
    """Trains and judges several ways of finding faces alike, and reports them; continues where it was stopped."""

    plan: str = option(help="YAML file of what is compared", positional=True)
    out: str = option("experiment", "folder for everything that is made")
    ways: tuple[str, ...] = option((), "only these ways of the plan")


@dataclass(frozen=True)
class Way:
    """One line of the comparison."""

    name: str
    train: dict[str, Any] | None  # settings; None: nothing is trained
    weight: str  # where nothing is trained
    sets: dict[str, dict[str, Any]]  # settings of an evaluation by name of the set

    def curve(self, place: str) -> str:
        """The name in the report of what one set says of this way."""
        return self.name if place == self.name else f"{self.name} {place}"


@dataclass(frozen=True)
class Plan:
    """The YAML file, checked."""

    ways: list[Way]
    seeds: list[int]
    anchor: tuple[str, ...]
    faces: str


def run(config: ExperimentConfig) -> Path:
    """Every way, every seed, then the report of all that is there."""
    plan = read_plan(config.plan)
    names = [way.name for way in plan.ways]
    for name in config.ways:
        if name not in names:
            raise LatentFaceError(f"--ways {name}: {config.plan} has {', '.join(names)}")
    chosen = [way for way in plan.ways if not config.ways or way.name in config.ways]
    for way in chosen:
        _refuse_missing(config.plan, way)
    out = make_folder(config.out, "--out")
    for way in chosen:
        for seed in plan.seeds if way.train else plan.seeds[:1]:
            folder = out / way.name / f"seed_{seed}"
            for place in (folder, *(folder / name for name in way.sets)):
                make_folder(place, "--out", within=out)
            carry_out(way, seed, folder)
    done = list(results(plan, out))
    there = {name for name, _ in done}
    items = tuple(f"{name}={path}" for name, path in done)
    anchor = tuple(name for name in plan.anchor if name in there)
    return report.run(report.ReportConfig(items, anchor, plan.faces, out=str(out / "report")))


def carry_out(way: Way, seed: int, folder: Path) -> None:
    """Trains one way with one seed, or goes on with it, then judges it on each of its sets."""
    weight = folder / "weight_final.pth" if way.train is not None else Path(way.weight)
    if way.train is not None and not weight.is_file():
        print(f"== {way.name}, seed {seed}", flush=True)
        if (folder / STATE_NAME).is_file():  # it goes on as it began, also where a later version would begin otherwise
            _refuse_another_plan(folder, way.train)
            own = {name: value for name, value in way.train.items() if name in OF_THE_MACHINE}
            settings = {**asdict(_trained(folder)), **own, "resume": str(folder)}
        else:
            settings = {**way.train, "seed": seed, "no_wandb": True, "out": str(folder)}
        train(TrainConfig(**settings))
        if not weight.is_file():  # Ctrl-C or --max_hours: the state is saved
            raise KeyboardInterrupt
    if way.train is not None:
        _refuse_another_plan(folder, way.train)
    given = str(weight) if way.weight != PRETRAINED else ""  # `evaluate` then takes what comes along for the codec
    for name, settings in way.sets.items():
        place = folder / name
        judging = evaluate.EvaluateConfig(**{**settings, "weight": given, "out": str(place)})
        done = place / "evaluation.json"
        changed = _judged_otherwise(done, judging) if done.is_file() else ""
        if changed or not done.is_file():
            print(f"== {way.name}, seed {seed}: {name}{changed and f', anew: {changed}'}", flush=True)
            evaluate.run(judging)


def _judged_otherwise(done: Path, wanted: evaluate.EvaluateConfig) -> str:
    """Which settings of an evaluation the plan now wants otherwise, `min_height 0.0 -> 10.0`; empty: none."""
    settings = read_evaluation(done).get("settings", {})  # earlier versions kept none: taken as they are
    now = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(wanted).items()}
    names = [name for name in now if name in settings and name not in JUDGING_ASIDE and settings[name] != now[name]]
    return ", ".join(f"{name} {settings[name]} -> {now[name]}" for name in names)


def _refuse_missing(plan: str, way: Way) -> None:
    """Raises LatentFaceError for weights and folders that are not there, before hours of training."""
    if way.train is None and way.weight != PRETRAINED and not Path(way.weight).is_file():
        raise LatentFaceError(f"{plan}: ways: {way.name}: weight {way.weight}: no such file")
    for name, settings in way.sets.items():
        config = evaluate.EvaluateConfig(**{**settings, "weight": "weight"})
        split = Path(config.dataset_root) / config.split
        if not config.latent_dir and not is_url(config.dataset_root) and not latent_folder(split).is_dir():
            raise LatentFaceError(f"{plan}: ways: {way.name}: {name}: {split}: no latents there; give dataset_root")


def _refuse_another_plan(folder: Path, settings: dict[str, Any]) -> None:
    """Raises LatentFaceError where a run learnt by other settings than the plan now has."""
    trained = plain_settings(_trained(folder))
    planned = TrainConfig(**settings)
    for name in differing(planned, trained):
        if name not in (*OF_THE_MACHINE, "seed", "out"):
            wanted = plain_settings(planned)[name]
            raise LatentFaceError(
                f"{folder}: trained with {name} {trained[name]}, the plan says {wanted}: give another --out, or write "
                f"{name}: {trained[name]} into the plan"
            )


def _trained(folder: Path) -> TrainConfig:
    """The settings of the run in `folder`; those that its version did not have are today's defaults."""
    settings = values_of(TrainConfig, plain_yaml(str(folder / SETTINGS_NAME)), folder / SETTINGS_NAME)
    return TrainConfig(**{**settings, "resume": str(folder)})


def results(plan: Plan, out: Path) -> Iterator[tuple[str, Path]]:
    """Name of the curve and evaluation file of everything that is done."""
    for way in plan.ways:
        for name in way.sets:
            for seed in plan.seeds:
                path = out / way.name / f"seed_{seed}" / name / "evaluation.json"
                if path.is_file():
                    yield way.curve(name), path


def read_plan(path: str) -> Plan:
    """Raises LatentFaceError, naming file and place, for anything that a command would refuse later."""
    content = plain_yaml(path)
    unknown = content.keys() - KEYS
    if unknown or not isinstance(content.get("ways"), dict):
        wanted = f"unknown {sorted(unknown)[0]!r}" if unknown else "no `ways`"
        raise LatentFaceError(f"{path}: {wanted}; a plan has {', '.join(sorted(KEYS))}")
    training, judging = (_mapping(path, key, content.get(key, {})) for key in ("train", "evaluate"))
    seeds = content.get("seeds", [0])
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise LatentFaceError(f"{path}: seeds: expected a list of whole numbers")
    ways = [_way(path, str(name), way, training, judging) for name, way in content["ways"].items()]
    anchor = content.get("anchor", [])
    anchors = tuple(anchor if isinstance(anchor, list) else [anchor])
    curves = [way.curve(place) for way in ways for place in way.sets]
    for name in anchors:
        if name not in curves:
            raise LatentFaceError(f"{path}: anchor: no curve {name!r}; there will be {', '.join(curves)}")
    return Plan(ways, seeds, anchors, str(content.get("faces", "all")))


def _way(path: str, name: str, content: Any, training: dict[str, Any], judging: dict[str, Any]) -> Way:
    where = f"ways: {name}"
    _refuse_no_folder(path, where, name)
    way = _mapping(path, where, content)
    if unknown := way.keys() - {"train", "weight", "evaluate"}:
        name = min(map(str, unknown))
        raise LatentFaceError(f"{path}: {where}: unknown {name!r}; give `train` or `weight`, and `evaluate`")
    if ("train" in way) == ("weight" in way):
        raise LatentFaceError(f"{path}: {where}: give either `train` or `weight`, and `evaluate`")
    settings = None
    if "train" in way:
        own = _mapping(path, f"{where}: train", way["train"])
        settings = values_of(TrainConfig, {**training, **own}, f"{path}: {where}")
        if places := settings.keys() & {"out", "resume"}:
            raise LatentFaceError(f"{path}: {where}: {min(places)}: runs lie in --out, by way and seed; leave it out")
        _try(path, where, TrainConfig, settings)
    sets = {}
    for place, own in _mapping(path, f"{where}: evaluate", way.get("evaluate")).items():
        _refuse_no_folder(path, f"{where}: evaluate: {place}", str(place))
        both = {**judging, **_mapping(path, f"{where}: {place}", own)}
        sets[str(place)] = values_of(evaluate.EvaluateConfig, both, f"{path}: {where}: {place}")
        _try(path, f"{where}: {place}", evaluate.EvaluateConfig, {**sets[str(place)], "weight": "weight"})
    return Way(name, settings, str(way.get("weight", "")), sets)


def _try(path: str, where: str, config: type, settings: dict[str, Any]) -> None:
    """What a command would refuse later is refused now, with the place in the plan."""
    try:
        config(**settings)
    except LatentFaceError as error:
        raise LatentFaceError(f"{path}: {where}: {error}") from error


def _refuse_no_folder(path: str, where: str, name: str) -> None:
    """Names of ways and sets become folders below `--out`, and curves of the report."""
    if name_problem(name) or any(letter in name for letter in "/\\="):
        raise LatentFaceError(f"{path}: {where}: no name of a folder; use letters, digits and spaces")


def _mapping(path: str, where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise LatentFaceError(f"{path}: {where}: expected `name: value` lines")
    return value
