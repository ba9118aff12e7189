"""Running the JPEG AI reference software: each command in a process of its own, or many in one that stays.

Never through a shell; a command that takes too long is ended with all that it has started.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from latentface.errors import LatentFaceError, PictureError

SERVER = Path(__file__).with_name("vm_server.py")
PROBE = "import importlib.util as u, sys; print(*sys.version_info[:2], u.find_spec('torch') is not None)"
PROBE_SECONDS = 60
# Of this program's own Python, and nothing to another one.
OWN_VARIABLES = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONEXECUTABLE", "__PYVENV_LAUNCHER__")


class CommandFailedError(PictureError):
    """The software ended with an error, or died."""


@dataclass(frozen=True)
class Software:
    """An installed reference software: its checkout, the Python of its environment, seconds for each command."""

    folder: Path
    python: str
    timeout: float

    def start(self, arguments: Sequence[str], **streams: Any) -> subprocess.Popen[bytes]:
        """A process of its Python in its checkout, leading a process group of its own."""
        environment = {name: value for name, value in os.environ.items() if name not in OWN_VARIABLES}
        try:
            return subprocess.Popen(
                [self.python, *arguments], cwd=self.folder, env=environment, start_new_session=True, **streams
            )
        except OSError as error:
            raise LatentFaceError(
                f"--python {self.python}: cannot be started ({error.strerror}); give the Python that the JPEG AI "
                "reference software was installed for"
            ) from error

    def check(self) -> None:
        """Raises LatentFaceError unless the Python is one, 3.7 or newer, with torch."""
        process = self.start(["-c", PROBE], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            words = process.communicate(timeout=PROBE_SECONDS)[0].decode(errors="replace").split()
        except subprocess.TimeoutExpired:
            words = []
        finally:
            end(process)
        if len(words) != 3 or not words[0].isdecimal() or not words[1].isdecimal():
            raise LatentFaceError(f"--python {self.python}: no Python; give the one of the software's environment")
        if (int(words[0]), int(words[1])) < (3, 7):
            raise LatentFaceError(f"--python {self.python}: Python {words[0]}.{words[1]}; 3.7 or newer is needed")
        if words[2] != "True":
            raise LatentFaceError(
                f"--python {self.python}: has no torch; give the Python of the environment that the JPEG AI reference "
                "software was installed into"
            )


class Runner(Protocol):
    """Runs `python -m module arguments`; what it prints is added to the file `log`.

    Raises CommandFailedError where it fails, PictureError where it takes too long.
    """

    def run(self, module: str, arguments: Sequence[str], log: Path) -> None: ...


class Alone:
    """A process for each command."""

    def __init__(self, software: Software) -> None:
        self.software = software

    def run(self, module: str, arguments: Sequence[str], log: Path) -> None:
        """See `Runner`."""
        with log.open("ab") as file:
            process = self.software.start(
                ["-m", module, *arguments], stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
            )
            try:
                code = process.wait(self.software.timeout)
            except subprocess.TimeoutExpired as error:
                raise too_long(module, self.software.timeout) from error
            finally:
                end(process)
        if code:
            raise CommandFailedError(f"{module} failed ({_meaning(code)}): {last_line(log)}")


class Server:
    """One process for all commands; see `vm_server.py`. After an error of any kind it has ended."""

    def __init__(self, software: Software) -> None:
        self.software = software
        self.process = software.start(
            ["-u", str(SERVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._answers: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def run(self, module: str, arguments: Sequence[str], log: Path) -> None:
        """See `Runner`."""
        try:
            self._ask({"module": module, "arguments": list(arguments), "log": str(log)}, log)
        except BaseException:
            self.close()
            raise

    def _ask(self, request: dict[str, Any], log: Path) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
            answer = self._answers.get(timeout=self.software.timeout)
            error = json.loads(answer)["error"]
        except queue.Empty as empty:
            raise too_long(request["module"], self.software.timeout) from empty
        except (OSError, ValueError, KeyError, TypeError) as died:
            raise CommandFailedError(f"{request['module']} died: {last_line(log)}") from died
        if error is not None:
            raise CommandFailedError(f"{request['module']} failed: {error}")

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._answers.put(line)
        self._answers.put(b"")  # it has ended

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        end(self.process)
        self.process.stdin.close()


def end(process: subprocess.Popen[bytes]) -> None:
    """Kills a process with its group, if it still runs, and waits for it."""
    if process.poll() is None:
        with suppress(ProcessLookupError):  # it has just ended by itself
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
    process.wait()


def too_long(module: str, seconds: float) -> PictureError:
    return PictureError(f"{module} did not end within {seconds:g} s; allow more with --vm_timeout")


def last_line(log: Path) -> str:
    """Of what was printed: there a traceback has its reason."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.is_file() else []
    printed = [line.strip() for line in lines if line.strip()]
    return printed[-1][:300] if printed else "it printed nothing"


def _meaning(code: int) -> str:
    return f"killed by signal {-code}; out of memory?" if code < 0 else f"exit code {code}"
