"""The experiment directory: made once, held by one process, with the settings in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from latentface.errors import LatentFaceError
from latentface.files import make_folder, replacing, unwritable
from latentface.lock import sole_writer
from latentface.options import plain_values, plain_yaml
from latentface.training.config import LEFT_OPEN, OF_THE_MACHINE, SETTINGS_NAME, TrainConfig
from latentface.training.ranks import Ranks
from latentface.training.state import STATE_NAME


@contextmanager
def experiment_folder(config: TrainConfig, ranks: Ranks) -> Iterator[Path]:
    """The folder to continue in, or a new one with its settings in it, for this run alone; only the first process
    writes there, but all have to see it.

    Raises LatentFaceError for one that another process is training in, and for a new one that already holds a run.
    """
    if not ranks.first:
        yield Path(ranks.gather("")[0])
        return
    with _own_folder(config) as folder:
        ranks.gather(str(folder))
        yield folder


@contextmanager
def _own_folder(config: TrainConfig) -> Iterator[Path]:
    if config.resume:
        with sole_writer(Path(config.resume), "--resume"):
            yield Path(config.resume)
        return
    folder = make_folder(config.out, "--out") if config.out else _make_next(config)
    with sole_writer(folder, "--out"):
        if (folder / STATE_NAME).exists():
            raise LatentFaceError(
                f"{folder} already holds a run: continue it with --resume {folder}, or give another --out"
            )
        save_settings(config, folder)  # before anything that takes time: a killed run is resumed with them
        yield folder


def _make_next(config: TrainConfig) -> Path:
    """The first folder under runs/ that is not there yet; of two processes only one can make it."""
    runs = make_folder("runs", "--out")
    number = 1
    while True:
        folder = runs / f"{config.model}_{'_'.join(map(str, config.used_rates))}_{number:03d}"
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1
        except OSError as error:
            raise unwritable(folder, error) from error


def plain_settings(config: TrainConfig) -> dict[str, Any]:
    return plain_values(asdict(config))


def differing(config: TrainConfig, settings: dict[str, Any]) -> list[str]:
    """Which of a run's plain `settings` are not as `config` wants them; what it leaves open fits whatever it was."""
    wanted = _without_open(_kept(config))
    return [name for name in wanted if name not in settings or settings[name] != wanted[name]]


def changes(config: TrainConfig) -> list[str]:
    """What is otherwise than in the run that `config` resumes, `lr 0.001 -> 0.0001` each."""
    there, wanted = _without_open(_settings_in(Path(config.resume))), plain_settings(config)
    names = [name for name in differing(config, there) if name in there and name not in (*OF_THE_MACHINE, "out")]
    return [f"{name} {there[name]} -> {wanted[name]}" for name in names]


def _without_open(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in LEFT_OPEN or value != LEFT_OPEN[name]}


def has_settings(config: TrainConfig) -> bool:
    """Whether the run in `--out` was begun with the same settings."""
    there = _settings_in(Path(config.out))
    return bool(there) and not differing(config, there)


def _settings_in(folder: Path) -> dict[str, Any]:
    path = folder / SETTINGS_NAME
    return plain_yaml(path) if path.is_file() else {}


def _kept(config: TrainConfig) -> dict[str, Any]:
    return {name: value for name, value in plain_settings(config).items() if name != "resume"}


def save_settings(config: TrainConfig, folder: Path) -> dict[str, Any]:
    import yaml

    settings, kept = plain_settings(config), _kept(config)
    with replacing(folder / SETTINGS_NAME) as temporary:
        temporary.write_text(yaml.safe_dump(kept, sort_keys=False), encoding="utf-8")
    return settings
