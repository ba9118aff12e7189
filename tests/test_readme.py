"""What the README says: its figures come from records, its links and commands exist."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import shlex

import pytest
from conftest import REPOSITORY

from latentface.cli import COMMANDS

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
SCRIPTS = {"train_retinaface.py": "train", "train.py": "train", "detection.py": "detect"}


def commands() -> list[list[str]]:
    """The words of every latentface command and script in the README's code blocks."""
    blocks = "".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL)).replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in blocks.splitlines()]
    return [words for words in lines if words and words[0] in ("latentface", "python")]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_have_the_flags_that_the_readme_gives_them(words: list[str]) -> None:
    command = COMMANDS[words[1] if words[0] == "latentface" else SCRIPTS[words[1]]]
    config = getattr(importlib.import_module(command.module), command.config)
    known = {"--" + field.name for field in dataclasses.fields(config)}
    assert {word for word in words if word.startswith("--")} <= known


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (REPOSITORY / target).is_file(), target


def test_demo_figures_are_those_of_the_record() -> None:
    record = json.loads((REPOSITORY / "records" / "demo.json").read_text())
    rates = record["rates"].values()
    assert "| bits per pixel | " + " | ".join(f"{rate['mean_bpp']:.2f}" for rate in rates) + " |" in README
    assert " | ".join(f"{rate['ap']:.3f}" for rate in rates) in README
    assert f"training {record['seconds']['training'] / 60:.1f} minutes" in README
    assert all(rate["ap"] >= 0.90 for rate in rates)


def test_protocol_figures_are_those_of_the_record() -> None:
    wider = json.loads((REPOSITORY / "records" / "wider_protocol.json").read_text())["wider"]
    assert " / ".join(f"{wider[name]:.4f}" for name in ("easy", "medium", "hard")) in README
