"""`latentface <command>`: a name, a config dataclass, a function. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from latentface import options
from latentface.errors import LatentFaceError


class Command(NamedTuple):
    """Where a command lives. `function(config)` may return an exit code; anything else it returns means success."""

    group: str
    summary: str
    module: str
    config: str
    function: str


COMMANDS = {
    "demo": Command(
        "Start", "draw, encode, train, detect: all in a few minutes", "latentface.apps.demo", "DemoConfig", "run"
    ),
    "encode": Command("Data", "photographs -> a dataset of latents", "latentface.data.encode", "EncodeConfig", "run"),
    "check": Command(
        "Data", "what is wrong with a dataset, and what to do about it", "latentface.data.check", "CheckConfig", "run"
    ),
    "import": Command(
        "Data", "other programs' latents -> a dataset of latents", "latentface.data.importing", "ImportConfig", "run"
    ),
    "pack": Command(
        "Data", "a dataset of latents -> few files, quick to read", "latentface.data.pack", "PackConfig", "run"
    ),
    "train": Command("Train", "latents -> weights", "latentface.training.loop", "TrainConfig", "train"),
    "mean": Command(
        "Train", "weights of several trainings -> their mean", "latentface.training.mean", "MeanConfig", "run"
    ),
    "evaluate": Command(
        "Train",
        "AP of weights on a dataset, or of prediction files",
        "latentface.inference.evaluate",
        "EvaluateConfig",
        "run",
    ),
    "experiment": Command(
        "Train", "several ways, trained and judged alike", "latentface.apps.experiment", "ExperimentConfig", "run"
    ),
    "report": Command(
        "Train", "runs side by side: one HTML page, curves, pictures", "latentface.apps.report", "ReportConfig", "run"
    ),
    "detect": Command("Use", "faces in latents or photographs", "latentface.inference.detect", "DetectConfig", "run"),
    "export": Command(
        "Use", "weights -> one ONNX file, float32 or int8", "latentface.inference.export", "ExportConfig", "run"
    ),
    "bench": Command(
        "Use", "every stage beside what one would do instead", "latentface.apps.bench", "BenchConfig", "run"
    ),
    "serve": Command("Use", "a page in the browser to look at latents", "latentface.apps.serve", "ServeConfig", "run"),
}


def main(arguments: Sequence[str] | None = None, defaults: Mapping[str, Any] | None = None) -> int:
    """Runs one command; 0 when all went well, 2 for a mistake that one line explains, 130 when interrupted.

    `defaults` stand in place of the command's own.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    with suppress(AttributeError):  # names of files may be no text: they are shown as \\udcff, as on stderr
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        return _dispatch(words, defaults)
    except LatentFaceError as error:
        if debug:
            raise
        print(f"latentface: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("latentface: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone: `latentface ... | head`
        sys.stderr.close()
        return 141
    except OSError as error:  # of the machine: a log on a full disk, a drive that fails
        if debug:
            raise
        print(f"latentface: error: {error.filename or 'output'}: {error.strerror or error}", file=sys.stderr)
        return 2


def _dispatch(words: list[str], defaults: Mapping[str, Any] | None) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if words[0] == "--version":
        from latentface import __version__

        print(f"latentface {__version__}")
        return 0
    name = words[0]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        raise LatentFaceError(f"no command {name!r}; {hint}")
    command = COMMANDS[name]
    module = importlib.import_module(command.module)
    config = options.parse(getattr(module, command.config), words[1:], f"latentface {name}", defaults)
    outcome = getattr(module, command.function)(config)
    return outcome if isinstance(outcome, int) else 0


def _overview() -> str:
    lines = ["latentface: faces straight from the latents of learned image codecs", ""]
    for group in dict.fromkeys(command.group for command in COMMANDS.values()):
        lines.append(f"{group}:")
        lines += [f"  {name:<12}{c.summary}" for name, c in COMMANDS.items() if c.group == group]
    return "\n".join([*lines, "", "latentface <command> --help explains each; --debug shows where an error arose."])


if __name__ == "__main__":
    sys.exit(main())
