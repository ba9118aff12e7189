"""The pages can be built, and no warning is overlooked: dead links, missing pages, names that the API lacks."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

pytest.importorskip("sphinx")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-b",
        "html",
        str(REPOSITORY / "docs"),
        str(out),
    ]
    built = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    return out


def test_links_lead_to_pages_and_headings_that_exist(site: Path) -> None:
    pages = {path: path.read_text(encoding="utf-8") for path in site.glob("*.html")}
    assert len(pages) > 8
    for path, text in pages.items():
        article = text[text.index("<article") : text.index("</article>")]
        for target in re.findall(r'(?:href|src)="([^"]+)"', article):
            if target.startswith(("https://", "http://", "data:")):
                continue
            file, _, anchor = target.partition("#")
            other = path.parent / file if file else path
            assert other.is_file(), f"{path.name}: {target}"
            if anchor and other in pages:
                assert f'id="{anchor}"' in pages[other], f"{path.name}: {target}"


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for path in site.glob("*.html"):
        loaded = re.findall(
            r'<(?:script|img)[^>]+src="([^"]+)"|<link[^>]+rel="stylesheet"[^>]+href="([^"]+)"', path.read_text()
        )
        assert not [address for pair in loaded for address in pair if "//" in address], path.name
