"""Runs commands of the JPEG AI reference software one after the other in one process: its networks are read once.

Started in the software's checkout by its own Python, which may be as old as 3.7: nothing here is newer, and nothing is
imported from elsewhere. Reads a line of JSON for each command, {"module", "arguments", "log"}, and answers each with
a line, {"error": null or a text}. What the software prints goes to the log.
"""

import importlib
import json
import os
import sys
import traceback


def coder_of(module):
    """The software's own object for many pictures: a class `...Process` with a method `process(arguments)`."""
    for name, value in vars(module).items():
        if isinstance(value, type) and name.endswith("Process") and value.__module__ == module.__name__:
            return value(None)
    raise RuntimeError("no class for many pictures in " + module.__name__)


def run(coders, module, arguments, log):
    """Runs one command; the error's text, or None."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    sys.argv = [module, *arguments]
    try:
        if module not in coders:
            coders[module] = coder_of(importlib.import_module(module))
        coders[module].process(arguments)
        return None
    except BaseException as error:  # whatever it is, sys.exit too: the process lives on
        traceback.print_exc()
        return "{}: {}".format(type(error).__name__, error)  # noqa: UP032  as old as the rest
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def main():
    """Answers commands until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    sys.path[0] = os.getcwd()  # noqa: PTH109  as `python -m` has it
    coders: dict = {}
    for line in sys.stdin:
        answers.write(json.dumps({"error": run(coders, **json.loads(line))}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
