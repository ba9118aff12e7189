"""When to stop early: Ctrl-C, a signal to end, or the time that was given."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from types import FrameType, TracebackType

REASONS = {"SIGINT": "interrupted", "SIGTERM": "asked to terminate", "SIGHUP": "the terminal is gone"}


class StopRequest:
    """`with StopRequest(max_hours) as stop:` and look at `stop.reason` after every step.

    The time counts from the making, signals count inside the block. The first two only set the reason, so that what
    follows can save; a third one interrupts at once.
    """

    def __init__(self, max_hours: float = 0.0) -> None:
        self.deadline = time.monotonic() + max_hours * 3600 if max_hours else float("inf")
        self._signal_reason = ""
        self._signals = 0
        self._previous: dict[int, object] = {}

    @property
    def reason(self) -> str:
        return self._signal_reason or ("the time is up" if time.monotonic() > self.deadline else "")

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # signals cannot be caught elsewhere
            for number in (getattr(signal, name) for name in REASONS if hasattr(signal, name)):
                if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup leaves it
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            if signal.getsignal(number) == self._note:  # nobody has decided otherwise meanwhile
                signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        self._signal_reason = self._signal_reason or REASONS[signal.Signals(number).name]
        if self._signals > 2:
            raise KeyboardInterrupt
        say = "stopping after this step, then saving" if self._signals == 1 else "still saving; once more stops at once"
        with suppress(OSError):  # print cannot be used here: it may be what was interrupted
            os.write(2, f"{self._signal_reason}: {say}\n".encode())
