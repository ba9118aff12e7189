"""Peak memory of the running process, without importing anything that would add to it."""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def peak_mb() -> float:
    """The most resident memory (MB) that this process, or any it has waited for, ever had."""
    unit = 1024**2 if sys.platform == "darwin" else 1024
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / unit
    status = Path("/proc/self/status")
    if not status.is_file():
        return max(children, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return max(children, int(line.split()[1]) / 1024)
