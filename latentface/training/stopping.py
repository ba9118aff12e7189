"""When to stop early: Ctrl-C or SIGTERM once, or the time that was given."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType


class StopRequest:
    """`with StopRequest(max_hours) as stop:` and look at `stop.reason` after every step.

    The first Ctrl-C or SIGTERM only sets the reason; a second one interrupts at once.
    """

    def __init__(self, max_hours: float = 0.0) -> None:
        self.deadline = time.monotonic() + max_hours * 3600 if max_hours else float("inf")
        self._signal_reason = ""
        self._previous: dict[int, object] = {}

    @property
    def reason(self) -> str:
        return self._signal_reason or ("the time is up" if time.monotonic() > self.deadline else "")

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # signals cannot be caught elsewhere
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal_reason:
            raise KeyboardInterrupt
        self._signal_reason = "interrupted" if number == signal.SIGINT else "asked to terminate"
