"""The command line as a whole."""

from __future__ import annotations

import subprocess
import sys

import pytest

from latentface.cli import COMMANDS, main


def test_overview_lists_every_command(capsys: pytest.CaptureFixture) -> None:
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as left:
        main([name, "--help"])
    assert left.value.code == 0
    assert f"usage: latentface {name}" in capsys.readouterr().out


def test_misspelt_command(capsys: pytest.CaptureFixture) -> None:
    assert main(["trian"]) == 2
    assert capsys.readouterr().err == "latentface: error: no command 'trian'; did you mean train?\n"


def test_debug_shows_where_an_error_arose() -> None:
    with pytest.raises(Exception, match="no command 'trian'"):
        main(["--debug", "trian"])


def test_overview_imports_nothing_heavy() -> None:
    script = (
        "import sys; from latentface.cli import main; main([]); "
        "sys.exit(any(n in sys.modules for n in ('torch', 'numpy', 'cv2')))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60).returncode == 0
