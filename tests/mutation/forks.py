"""Tests against the mutants of one file, each in a fork of one process that has imported and collected everything.

`mutmut run` starts pytest anew for every mutant; here a mutant takes as long as the tests that kill it. The mutants are
mutmut's: its copy of the file has all of them, and a variable of the environment chooses one.
"""

from __future__ import annotations

import difflib
import functools
import gc
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import CodeType

import pytest
import torch
from _pytest.runner import runtestprotocol
from hypothesis import Phase, settings
from mutmut.mutation import trampoline
from mutmut.mutation.file_mutation import MutatedFile, mutate_file_contents

MEMORY = 2 << 30  # bytes that a mutant may take beside what its parent has
SECONDS = 3  # of the processor for a mutant, beside ten times what the same tests took without it
EXAMPLES, MOST_EXAMPLES = "_hypothesis_internal_use_settings", 30  # Hypothesis has no public way to ask for fewer
SIGNS = {signal.SIGXCPU: "timeouts", signal.SIGALRM: "timeouts"}


class Instead(importlib.machinery.SourceFileLoader, importlib.abc.MetaPathFinder):
    """Imports one module from other source."""

    def __init__(self, module: str, path: Path, source: str) -> None:
        super().__init__(module, str(path))
        self.source = source

    def find_spec(self, name, path=None, target=None):
        return importlib.util.spec_from_loader(name, self) if name == self.name else None

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.source, self.path, "exec")


class Mutants:
    """A pytest plugin: in place of the tests once, once without a mutant, then once for each of them."""

    def __init__(
        self, module: str, mutated: MutatedFile, most: int, ends: dict[str, str], note: Callable[[], None]
    ) -> None:
        """`ends` is what became of mutants so far: those that died are not tried again. `note` is called after each."""
        self.module, self.mutated, self.ends, self.note = module, mutated, ends, note
        names = list(mutated.mutant_names)
        random.Random(0).shuffle(names)  # so that the first of them say something of all
        first = set(names[:most])
        self.names = [name for name in names if ends.get(name, "survived" if name in first else "") == "survived"]
        self.forked = False

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        for test in session.items:
            if given := getattr(test.obj, EXAMPLES, None):
                setattr(test.obj, EXAMPLES, settings(given, max_examples=min(given.max_examples, MOST_EXAMPLES)))
        reached = self._reached(session.items)
        for cache in gc.get_objects():  # what was computed without a mutant
            if type(cache) is functools._lru_cache_wrapper:
                cache.cache_clear()
        gc.freeze()
        for name in self.names:
            tests = reached.get(f"{self.module}.{name.partition('__mutmut_')[0]}", {})
            self.ends[name] = self._end(f"{self.module}.{name}", tests)
            self.note()
            if self.ends[name] == "survived":
                print(f"\n{name}: survives {len(tests)} tests\n{self._difference(name)}", flush=True)
        return True

    def _reached(self, tests: list[pytest.Item]) -> dict[str, dict[pytest.Item, float]]:
        """Function -> the tests that call it, with the seconds that each takes, the quickest first."""
        reached: dict[str, dict[pytest.Item, float]] = {}
        hits: set[str] = set()
        trampoline.record_trampoline_hit = lambda name, caller=None: hits.add(name)
        trampoline.set_mutant_under_test("stats")
        for test in tests:
            hits.clear()
            start = time.process_time()
            reports = runtestprotocol(test, log=False, nextitem=None)
            if any(report.failed for report in reports):
                raise pytest.UsageError(f"{test.nodeid} fails without any mutant")
            for function in hits:
                reached.setdefault(function, {})[test] = time.process_time() - start
        return {name: dict(sorted(of.items(), key=lambda pair: pair[1])) for name, of in reached.items()}

    def _end(self, mutant: str, tests: dict[pytest.Item, float]) -> str:
        child = os.fork()
        if not child:
            try:
                self._try(mutant, tests)
                os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            return SIGNS.get(signal.Signals(os.WTERMSIG(status)), "killed")
        return "killed" if os.WEXITSTATUS(status) else "survived"

    def _try(self, mutant: str, tests: dict[pytest.Item, float]) -> None:
        self.forked = True
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        seconds = SECONDS + int(10 * sum(tests.values()))
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.alarm(60 * seconds)  # of the clock: for one that sleeps
        trampoline.set_mutant_under_test(mutant)
        for test in tests:
            runtestprotocol(test, log=False, nextitem=None)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo) -> None:
        if self.forked and call.excinfo and not call.excinfo.errisinstance(pytest.skip.Exception):
            os._exit(1)

    def _difference(self, name: str) -> str:
        lines, spans = self.mutated.code.splitlines(), self.mutated.line_span_by_function_name
        before, after = (
            lines[spans[function].start : spans[function].end]
            for function in (f"{name.partition('__mutmut_')[0]}__mutmut_orig", name)
        )
        return "\n".join(line for line in difflib.unified_diff(before, after, "", "", "", "", 0, "")
                         if line[:2] not in ("--", "++", "@@"))  # fmt: skip


def run(
    path: Path, tests: list[str], deselected: str, most: int, folder: Path, known: Path
) -> tuple[int, dict[str, str]]:
    """Number of mutants, and mutant -> end of those that were tried; once in a process.

    `path` is a file of latentface, from the repository's root, `known` the file of ends: it holds as long as the
    source is the same, as tests only become more.
    """
    torch.set_num_threads(1)
    torch.set_num_threads = lambda number: None  # threads of OpenMP do not outlive a fork
    settings.register_profile("mutants", phases=(Phase.explicit, Phase.generate), derandomize=True, database=None,
                              deadline=None)  # fmt: skip
    settings.load_profile("mutants")
    source, module = path.read_text(encoding="utf-8"), ".".join(path.with_suffix("").parts)
    before = json.loads(known.read_text(encoding="utf-8")) if known.is_file() else {}
    ends: dict[str, str] = before["ends"] if before.get("source") == source else {}
    mutated = mutate_file_contents(str(path), source)
    sys.meta_path.insert(0, Instead(module, path.resolve(), mutated.code))

    def note() -> None:
        temporary = known.with_suffix(".tmp")
        temporary.write_text(json.dumps({"source": source, "ends": ends}), encoding="utf-8")
        temporary.replace(known)

    mutants = Mutants(module, mutated, most, ends, note)
    options = ["-s", "--assert=plain", "-p", "no:cacheprovider", f"--basetemp={folder}", "-k", deselected]
    if mutants.names and pytest.main([*options, *tests], plugins=[mutants]):
        raise SystemExit(f"{path}: the tests could not be run")
    return len(mutated.mutant_names), ends
