"""A dataclass is a command line, a YAML file and a record in one.

Fields declared with `option(...)` become flags (`--batch_size 8`, also `--batch-size 8`), keys of `--config
file.yaml`, and the settings kept in a checkpoint. Built on argparse and not on a library, because the training
scripts have to run with nothing but the packages that the Kaggle instructions install, and help has to come at once.
"""

from __future__ import annotations

import argparse
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, field, fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from latentface.errors import LatentFaceError

Config = TypeVar("Config")
LONGEST_YAML = 100_000  # characters
DEEPEST_YAML = 20
SHORTEST_BEGINNING = len("--conf")  # of an unknown flag, that is taken for what was meant


def option(
    default: Any = MISSING,
    help: str = "",
    *,
    choices: Sequence | None = None,
    positional: bool = False,
    settings_file: str = "",
    group: str = "",
) -> Any:
    """A dataclass field with its help.

    `choices` limits the values; `positional` takes it without a flag; `settings_file`: the value is a folder whose
    file of that name holds the settings to start from; `group`: the help has this heading above it.
    """
    metadata = {"help": help, "choices": choices, "positional": positional, "settings_file": settings_file}
    return field(default=default, metadata=metadata | {"group": group})


def parse(
    config_class: type[Config], arguments: Sequence[str] | None, program: str, defaults: Mapping[str, Any] | None = None
) -> Config:
    """Command line -> config. Precedence: flags, a `settings_file`, `--config file.yaml`, `defaults`, the class's own.

    Raises LatentFaceError for an unknown flag or key (with the nearest one that exists) and for a bad value.
    """
    parser = _parser(config_class, program, defaults or {})
    namespace, unknown = parser.parse_known_intermixed_args(arguments)
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        raise LatentFaceError(f"unknown argument {unknown[0]}{_suggestion(unknown[0], flags)}; see {program} --help")
    given = vars(namespace)
    settings: tuple[Field, ...] = fields(config_class)  # type: ignore[arg-type]
    config_file = given.pop("config", None)
    values = {**(defaults or {}), **(read_yaml(config_class, config_file) if config_file else {})}
    for setting in settings:
        folder = given.get(setting.name) or values.get(setting.name)
        if folder and setting.metadata.get("settings_file"):
            values.update(_read_settings(config_class, setting, folder))
    values.update({name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})
    missing = [s.name for s in settings if s.default is MISSING and s.name not in values]
    if missing:
        raise LatentFaceError(f"missing: {', '.join('--' + name for name in missing)}; see {program} --help")
    return config_class(**values)


def _read_settings(config_class: type, setting: Field, folder: str) -> dict[str, Any]:
    path = Path(folder) / setting.metadata["settings_file"]
    if not path.is_file():
        raise LatentFaceError(f"--{setting.name} {folder}: no {path.name} there; give the folder of an earlier run")
    values = read_yaml(config_class, path)
    if not values:
        raise LatentFaceError(f"{path}: empty; the settings of that run are lost")
    return values


def read_yaml(config_class: type, path: str | Path) -> dict[str, Any]:
    """Values for a config out of a YAML file; raises LatentFaceError naming the file and the key."""
    return values_of(config_class, plain_yaml(path), path)


def plain_values(settings: Mapping[str, Any]) -> dict[str, Any]:
    """As YAML and JSON have them: lists for tuples."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}


def plain_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file of `name: value` lines; raises LatentFaceError naming file and line."""
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
        _refuse_bombs(text)
        values = yaml.safe_load(text) or {}
    except Exception as error:  # besides YAMLError whatever comes to its constructors of dates and numbers
        mark = getattr(error, "problem_mark", None)  # where a YAML mistake is; its own text is several lines long
        reason = f"line {mark.line + 1}: {error.problem}" if mark else " ".join(str(error).split())  # type: ignore
        raise LatentFaceError(f"{path}: cannot be read as YAML ({reason})") from error
    if not isinstance(values, dict):
        raise LatentFaceError(f"{path}: expected `name: value` lines")
    return values


def _refuse_bombs(text: str) -> None:
    """ValueError for what takes minutes or gigabytes: ten lines of references can stand for a billion values."""
    import yaml

    if len(text) > LONGEST_YAML:
        raise ValueError(f"{len(text)} characters; settings have at most {LONGEST_YAML}")
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 0
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST_YAML:
            raise ValueError(f"line {line}: nested too deeply")
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"line {line}: references such as *{event.anchor} are not read; write it out")


def values_of(config_class: type, values: dict[str, Any], where: str | Path) -> dict[str, Any]:
    """Plain values of a file -> arguments of a config; raises LatentFaceError naming `where` and the key."""
    known = {f.name: f for f in fields(config_class)}
    for name in values:
        if name not in known:
            raise LatentFaceError(f"{where}: unknown setting {name!r}{_suggestion(str(name), list(known))}")
    hints = typing.get_type_hints(config_class)
    return {name: _from_yaml(where, known[name], hints[name], value) for name, value in values.items()}


def _from_yaml(path: str | Path, setting: Field, hint: Any, value: Any) -> Any:
    kind, many, optional = _unwrap(hint)
    if value is None and optional:
        return None
    wanted = value if many and isinstance(value, list) else [value]
    if any(not isinstance(v, (bool, int, float, str)) or (isinstance(v, bool) and kind is not bool) for v in wanted):
        raise LatentFaceError(f"{path}: {setting.name}: {value!r} is not of type {kind.__name__}")
    try:
        converted = [v if isinstance(v, kind) else _convert(kind, v) for v in wanted]
    except (ValueError, OverflowError) as error:
        raise LatentFaceError(f"{path}: {setting.name}: {value!r} is not of type {kind.__name__}") from error
    choices = setting.metadata.get("choices")
    for v in converted:
        if choices and v not in choices:
            raise LatentFaceError(f"{path}: {setting.name}: {v!r} is none of {', '.join(map(str, choices))}")
    return tuple(converted) if many else converted[0]


def _convert(kind: type, value: Any) -> Any:
    if kind is bool or (kind is int and float(value) != int(float(value))):
        raise ValueError(value)
    return kind(value)


def _unwrap(hint: Any) -> tuple[type, bool, bool]:
    """A field's annotation -> (type of one value, whether it takes many, whether None is allowed)."""
    optional = False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        optional = type(None) in typing.get_args(hint)
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    many = typing.get_origin(hint) is tuple
    return (typing.get_args(hint)[0] if many else hint), many, optional


class _Help(argparse.HelpFormatter):
    """Names each flag once: the spelling with dashes goes without saying, and so do all flags in the first line."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.option_strings[0] == "-h":
            return super()._format_action_invocation(action)
        flags = [flag for flag in action.option_strings if "-" not in flag[2:] or flag.startswith("--no-")]
        values = "" if action.nargs == 0 else " " + self._format_args(action, action.dest.upper())
        return ", ".join(flags) + values

    def _format_usage(self, usage: Any, actions: Any, groups: Any, prefix: Any) -> str:
        places = [str(action.metavar) for action in actions if not action.option_strings]
        return f"usage: {' '.join([self._prog, *places, '[--flag value ...]'])}\n\n"


class _Parser(argparse.ArgumentParser):
    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            there = [str(choice) for choice in action.choices if choice != ""]
            text = f"{value!r} is none of {', '.join(there)}{_suggestion(str(value), there)}"
            raise argparse.ArgumentError(action, text)

    def _get_value(self, action: argparse.Action, text: str) -> Any:
        try:
            return super()._get_value(action, text)
        except argparse.ArgumentError as error:
            expected = {int: "no whole number", float: "no number"}[action.type]  # type: ignore[index]
            raise argparse.ArgumentError(None, f"--{action.dest}: {text!r} is {expected}") from error

    def error(self, message: str) -> NoReturn:
        raise LatentFaceError(f"{message}; see {self.prog} --help")


def _parser(config_class: type, program: str, defaults: Mapping[str, Any]) -> argparse.ArgumentParser:
    description = (config_class.__doc__ or "").strip()
    parser = _Parser(prog=program, description=description, allow_abbrev=False, formatter_class=_Help)
    hints, group = typing.get_type_hints(config_class), parser
    for setting in fields(config_class):
        shown = defaults.get(setting.name, setting.default)
        if heading := setting.metadata.get("group"):
            group = parser.add_argument_group(heading)  # type: ignore[assignment]
        _add(group, setting, shown, *_unwrap(hints[setting.name]))
    parser.add_argument("--config", metavar="FILE", default=argparse.SUPPRESS, help="settings from a YAML file")
    return parser


def _add(parser: argparse.ArgumentParser, setting: Field, shown: Any, kind: type, many: bool, optional: bool) -> None:
    text = setting.metadata.get("help", "").replace("%", "%%")
    if shown is not MISSING and shown is not None and shown != "" and shown != () and shown is not False:
        text += f" (default: {' '.join(map(str, shown)) if isinstance(shown, tuple) else shown})"
    keywords: dict[str, Any] = {"help": text, "default": argparse.SUPPRESS}
    if kind is bool:
        keywords["action"] = argparse.BooleanOptionalAction if shown is True else "store_true"
    else:
        keywords.update(type=kind, choices=setting.metadata.get("choices"))
        if many:
            keywords["nargs"] = "+"
    if setting.metadata.get("positional"):
        if shown is not MISSING:
            keywords["nargs"] = "*" if many else "?"
        parser.add_argument(setting.name, metavar=setting.name.upper(), **keywords)
        return
    if kind is not bool and not keywords.get("choices"):
        keywords["metavar"] = setting.name.upper() if kind is str else kind.__name__.upper()
    flags = list(dict.fromkeys(["--" + setting.name, "--" + setting.name.replace("_", "-")]))
    parser.add_argument(*flags, dest=setting.name, **keywords)


def _suggestion(word: str, known: Sequence[str]) -> str:
    word = word.split("=")[0]
    begun = [name for name in known if len(name) >= SHORTEST_BEGINNING and word.startswith(name)]  # --confidence
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.8) or sorted(begun, key=len)[-1:]
    near = near or difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {near[0]}?)" if near else ""
