"""RUN of `latentface report` -> what there is of it: evaluations, training, settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentface.errors import LatentFaceError
from latentface.evaluation.report import read_evaluation
from latentface.options import plain_yaml
from latentface.training.config import SETTINGS_NAME
from latentface.training.journal import Row, read_rows

EVALUATION, METRICS = "evaluation.json", "metrics.jsonl"
DEFAULT_FOLDER = "evaluation"  # of `latentface evaluate`: says nothing about the run


@dataclass(frozen=True)
class Run:
    """What is compared under one name; several files of a kind are several seeds."""

    name: str
    evaluations: tuple[Path, ...] = ()
    trainings: tuple[Path, ...] = ()  # experiment directories


@dataclass(frozen=True)
class Training:
    """The epochs of one training run, one at least."""

    run: str
    label: str  # tells seeds apart
    rows: list[Row]

    @property
    def epochs(self) -> int:
        return self.rows[-1]["epoch"]

    @property
    def loss(self) -> float | None:
        """The last one."""
        return self.rows[-1].get("loss")

    @property
    def validated(self) -> list[float]:
        """Mean AP over rates, of the epochs that were validated."""
        return [ap for row in self.rows if (ap := mean_ap(row)) is not None]

    @property
    def hours(self) -> float:
        return sum(row.get("seconds", 0.0) for row in self.rows) / 3600


@dataclass(frozen=True)
class Setting:
    """One line of the settings: its value in each run, empty where a run has none."""

    name: str
    values: list[str]

    @property
    def differs(self) -> bool:
        return len(set(self.values)) > 1


@dataclass(frozen=True)
class Settings:
    """Of several runs, those lines that differ first."""

    runs: list[str]
    lines: list[Setting]


def find_runs(items: tuple[str, ...]) -> list[Run]:
    """`PATH` or `NAME=PATH` each, in the order given. Raises LatentFaceError for what is no run."""
    files: dict[str, tuple[list[Path], list[Path]]] = {}
    unnamed: dict[str, Path] = {}
    for item in items:
        name, path = _split(item)
        folder = path.parent if path.is_file() else path
        own = name or _name(folder)
        if not name and unnamed.setdefault(own, _place(folder)) != _place(folder):
            raise LatentFaceError(f"{path}: there would be two runs named {own!r}; give them names, NAME={path}")
        evaluations = _evaluations(path, own)
        for curve, evaluation in evaluations:
            files.setdefault(curve, ([], []))[0].append(evaluation)
        if path.is_dir() and _is_training(path):
            for curve in dict(evaluations) or [own]:
                files.setdefault(curve, ([], []))[1].append(path)
    return [Run(name, tuple(found), _trainings(found, trained)) for name, (found, trained) in files.items()]


def _split(item: str) -> tuple[str, Path]:
    """Name, empty where none is given, and a path that exists."""
    name, _, path = item.rpartition("=") if not Path(item).exists() else ("", "", item)
    if not Path(path).exists():
        name, _, path = item.partition("=")
        raise LatentFaceError(f"{path or name}: no such file or folder; give an evaluation or an experiment directory")
    return name, Path(path)


def _name(folder: Path) -> str:
    """Of a run that was given none: its folder's; where that says nothing the one's above, or the weights'."""
    if weight := _weight(folder):
        return weight.resolve().parent.name if _is_training(weight.parent) else weight.stem
    folder = folder.resolve()
    says_nothing = folder.name == DEFAULT_FOLDER or folder.name.startswith("seed_")
    return (folder.parent.name if says_nothing else folder.name) or DEFAULT_FOLDER


def _place(folder: Path) -> Path:
    """Seeds of one way share it, and so do an experiment directory and the evaluation of its weights."""
    if (weight := _weight(folder)) and _is_training(weight.parent):
        return weight.parent.resolve()
    folder = folder.resolve()
    return folder.parent if folder.name.startswith("seed_") else folder


def _weight(folder: Path) -> Path | None:
    """What was evaluated, of an evaluation in the folder that it goes to unless told otherwise."""
    if folder.resolve() != Path(DEFAULT_FOLDER).resolve() or not (folder / EVALUATION).is_file():
        return None
    weight = str(read_evaluation(folder / EVALUATION)["protocol"].get("weight", ""))
    return Path(weight) if weight else None


def _evaluations(path: Path, name: str) -> list[tuple[str, Path]]:
    """Name of the curve and file: the run's own, or one for each set below an experiment directory."""
    if path.is_file():
        return [(name, path)]
    if (path / EVALUATION).is_file():
        return [(name, path / EVALUATION)]
    below = sorted(path.glob(f"*/{EVALUATION}"))
    if not below and any(path.glob("*/seed_*")):
        raise LatentFaceError(f"{path}: of `latentface experiment`; give a run in it, WAY/seed_N, or see its report/")
    if not below and not _is_training(path):
        raise LatentFaceError(
            f"{path}: neither an evaluation ({EVALUATION}) nor an experiment directory ({SETTINGS_NAME}, {METRICS})"
        )
    if len(below) == 1:
        return [(name, below[0])]
    return [(name if file.parent.name == name else f"{name} {file.parent.name}", file) for file in below]


def _is_training(folder: Path) -> bool:
    return (folder / SETTINGS_NAME).is_file() or (folder / METRICS).is_file()


def _trainings(evaluations: list[Path], given: list[Path]) -> tuple[Path, ...]:
    """The experiment directories given, and those that the evaluated weights lie in."""
    weights = [Path(str(read_evaluation(path)["protocol"].get("weight", ""))) for path in evaluations]
    found = [weight.parent for weight in weights if weight.name and _is_training(weight.parent)]
    return tuple({folder.resolve(): folder for folder in (*given, *found)}.values())


def trainings(runs: list[Run]) -> list[Training]:
    """What metrics.jsonl says of each run and seed, where there is one."""
    found = []
    for run in runs:
        for number, folder in enumerate(run.trainings, start=1):
            rows = read_rows(folder / METRICS)
            if not all(map(_is_epoch, rows)):
                raise LatentFaceError(f"{folder / METRICS}: a line is no epoch of a training run; give another folder")
            if rows:
                seed = f", {number} of {len(run.trainings)}" if len(run.trainings) > 1 else ""
                found.append(Training(run.name, run.name + seed, rows))
    return found


def _is_epoch(row: Any) -> bool:
    if not isinstance(row, dict) or not isinstance(row.get("epoch"), int):
        return False
    return all(isinstance(row.get(name, 0.0), (int, float)) for name in ("loss", "seconds"))


def mean_ap(row: Row) -> float | None:
    """Of a row of metrics.jsonl, over its rates; None where it was not validated."""
    scores = row.get("val_ap")
    values = [ap for ap in scores.values() if isinstance(ap, (int, float))] if isinstance(scores, dict) else []
    return sum(values) / len(values) if values else None


def settings(runs: list[Run]) -> dict[str, Settings]:
    """ "evaluation" and "training" -> every setting of the runs that have any."""
    parts = {
        "evaluation": [_merged([_evaluation_settings(path) for path in run.evaluations]) for run in runs],
        "training": [_merged([_training_settings(folder) for folder in run.trainings]) for run in runs],
    }
    names = [run.name for run in runs]
    found = {part: {n: v for n, v in zip(names, values, strict=True) if v} for part, values in parts.items()}
    return {part: _beside(values) for part, values in found.items() if values}


def _evaluation_settings(path: Path) -> dict[str, str]:
    content = read_evaluation(path)
    versions = content.get("versions")
    more = {f"version of {name}": value for name, value in versions.items()} if isinstance(versions, dict) else {}
    return {name: _shown(value) for name, value in {**content["protocol"], **more}.items()}


def _training_settings(folder: Path) -> dict[str, str]:
    path = folder / SETTINGS_NAME
    return {str(name): _shown(value) for name, value in plain_yaml(path).items()} if path.is_file() else {}


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _merged(seeds: list[dict[str, str]]) -> dict[str, str]:
    """Values of several seeds as one: each once, in order."""
    names = dict.fromkeys(name for values in seeds for name in values)
    return {name: ", ".join(dict.fromkeys(values[name] for values in seeds if name in values)) for name in names}


def _beside(runs: dict[str, dict[str, str]]) -> Settings:
    names = dict.fromkeys(name for values in runs.values() for name in values)
    lines = [Setting(name, [values.get(name, "") for values in runs.values()]) for name in names]
    return Settings(list(runs), sorted(lines, key=lambda line: not line.differs))
