"""The YAML file of `latentface experiment`, read and checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from latentface.errors import LatentFaceError
from latentface.files import name_problem
from latentface.inference import evaluate
from latentface.options import plain_yaml, values_of
from latentface.training.config import TrainConfig

KEYS = {"train", "evaluate", "seeds", "ways", "anchor", "faces"}


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
    faces = str(content.get("faces", "all"))
    _refuse_unlike_heights(path, ways, faces)
    return Plan(ways, seeds, anchors, faces)


def _refuse_unlike_heights(path: str, ways: list[Way], faces: str) -> None:
    """AP of all faces from different heights on cannot be set side by side; AP by height is always of all of them."""
    curves: dict[float, str] = {}
    for way in ways:
        for name, settings in way.sets.items():
            curves.setdefault(float(settings.get("min_height", 0)), way.curve(name))
    if faces == "all" and len(curves) > 1:
        said = " and ".join(f"min_height {height:g} of {curve}" for height, curve in list(curves.items())[:2])
        raise LatentFaceError(f"{path}: evaluate: {said}: AP of other faces, give them one")


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
