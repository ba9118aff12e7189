"""How `latentface bench` measures: two sides in turn, ratios of neighbours, medians."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Comparison:
    """Seconds of one call of either side, and how often ours fits into theirs."""

    seconds: float
    against_seconds: float
    ratio: float  # median of theirs / ours over the rounds
    spread: tuple[float, float]  # quartiles of it
    rounds: int


@dataclass(frozen=True)
class Row:
    """One line of the table. `at_least` is what the ratio should reach; None: there is no such promise."""

    item: str
    against: str
    comparison: Comparison
    at_least: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def compare(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    *,
    rounds: int,
    device: str | torch.device = "cpu",
    before: Callable[[], object] = lambda: None,
) -> Comparison:
    """Runs both once to warm up, then in turn `rounds` times: what slows the machine down slows both down.

    `before` is done ahead of every turn and not timed.
    """
    sides = (ours, theirs)
    seconds = np.empty((rounds, 2))
    for work in sides:
        work()
    for turn in range(rounds):
        for side in (0, 1) if turn % 2 == 0 else (1, 0):
            before()
            seconds[turn, side] = elapsed(sides[side], device)
    return comparison_of(seconds)


def comparison_of(seconds: np.ndarray) -> Comparison:
    """[rounds, 2] seconds of ours and theirs -> Comparison."""
    ratios = seconds[:, 1] / seconds[:, 0]
    low, high = np.quantile(ratios, (0.25, 0.75))
    ours, theirs = np.median(seconds, axis=0)
    return Comparison(float(ours), float(theirs), float(np.median(ratios)), (float(low), float(high)), len(seconds))


def elapsed(work: Callable[[], object], device: str | torch.device = "cpu") -> float:
    """Seconds of one call; on a GPU by its own events, which do not count the launch of the first kernel."""
    if torch.device(device).type == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize(device)
        return begin.elapsed_time(end) / 1000
    begin_time = time.perf_counter()
    work()
    return time.perf_counter() - begin_time


def operations_of(work: Callable[[], object]) -> dict[str, float]:
    """The six operations of torch that most of a call's time goes to, and their shares of it.

    It is the processor's time: for a GPU that of giving it work.
    """
    with torch.profiler.profile() as profile:
        work()
    time_of: Counter[str] = Counter()
    for event in profile.key_averages():
        time_of[event.key] += event.self_cpu_time_total
    total = sum(time_of.values())
    return {name: round(spent / total, 3) for name, spent in time_of.most_common(6)}


def matrix_throughput(size: int = 2048, rounds: int = 5, device: str = "cpu") -> dict[str, float]:
    """GMAC/s of the device's matrix product: the limit that networks are compared with.

    In floating point the faster of torch's product and a 1x1 convolution, which is the same arithmetic: they go
    through different libraries, and on some processors the product's is half as fast. int8 with int32 sums is missing
    where this build of torch has none for the processor.
    """
    left = torch.randn(size, size, device=device)
    small = torch.randint(-9, 9, (size, size), dtype=torch.int8, device=device)
    half = left.bfloat16()
    sides: list[tuple[str, Callable[[], object]]] = [
        ("float32", lambda: left @ left),
        ("float32", partial(_as_convolution, left)),
        ("bfloat16", lambda: half @ half),
        ("bfloat16", partial(_as_convolution, half)),
        ("int8", lambda: torch._int_mm(small, small)),
    ]
    found: dict[str, float] = {}
    for name, work in sides:
        try:
            work()
        except (RuntimeError, NotImplementedError):
            continue
        reached = size**3 / 1e9 / min(elapsed(work, device) for _ in range(rounds))
        found[name] = max(reached, found.get(name, 0.0))
    return found


def _as_convolution(square: Tensor) -> Tensor:
    """square @ square.T as a 1x1 convolution: [1, C, 1, pixels], the rows of `square` taken for pixels and filters."""
    size = len(square)
    pixels = square.view(1, 1, size, size).permute(0, 3, 1, 2)  # [1, C, 1, pixels], channels last as it lies
    return F.conv2d(pixels, square[:, :, None, None])


def run_measured(arguments: Sequence[str]) -> tuple[float, float]:
    """Seconds and peak resident memory (MB) of `python -m latentface.cli ARGUMENTS` and the processes it started.

    Of several processes the largest counts. Raises RuntimeError with its last words where it fails.
    """
    # Not RUSAGE_SELF: on Linux it begins with the memory of the process that started this one.
    script = (
        "import sys; from latentface.cli import main; from latentface.apps.bench_peak import peak_mb; "
        "code = main(sys.argv[1:]); print('peak', peak_mb(), file=sys.stderr); sys.exit(code)"
    )
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise RuntimeError(f"latentface {' '.join(arguments)}: {done.stderr[-500:]}")
    return seconds, float(done.stderr.split()[-1])
