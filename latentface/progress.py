"""Progress of long work: a bar with an estimate of the time left, on a terminal only."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def progress(items: Iterable[Item], description: str, total: int | None = None, unit: str = "it") -> Iterator[Item]:
    """Yields `items`. Quiet where stderr is no terminal, and without a bar where tqdm is not installed.

    Of several processes that torchrun started only the first shows bars.
    """
    try:
        from tqdm import tqdm
    except ImportError:  # the Kaggle instructions do not install it
        yield from items
        return
    quiet = not sys.stderr.isatty() or os.environ.get("RANK", "0") != "0"
    yield from tqdm(items, desc=description, total=total, unit=unit, leave=False, disable=quiet)
