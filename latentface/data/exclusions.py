"""`exclude.txt` of a split: the pictures that every reader leaves out, in training, validation and evaluation alike.

One picture per line, by its name in the label file or its directory's; lines that begin with `#` are comments.
`latentface check --fix` writes it, an editor will do as well. A picture is left out with its labels, at all rates, and
whoever reads the split says how many are: nothing is hidden. Nothing is deleted either: taking a line out brings the
picture back.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from latentface.errors import LatentFaceError
from latentface.files import base_name, refuse_link_outside, replacing
from latentface.words import counted

EXCLUDE_NAME = "exclude.txt"
_HEAD = (
    "# Pictures to leave out, one name per line; written by `latentface check --fix`. Remove a line to have it back.\n"
)


def read_exclusions(split: Path) -> dict[str, int]:
    """Base names of the pictures to leave out -> line in `split/exclude.txt`; empty where there is no such file."""
    path = split / EXCLUDE_NAME
    refuse_link_outside(path, split)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise LatentFaceError(f"{path}: cannot be read ({error}); save it as UTF-8 text, or remove it") from error
    numbered = ((number, line.strip()) for number, line in enumerate(text.split("\n"), start=1))
    return {base_name(line): number for number, line in numbered if line and not line.startswith("#")}


def add_exclusions(split: Path, reasons: Mapping[str, str]) -> Path:
    """Adds pictures, each under a comment that says why; what is in the file stays as it is."""
    path = split / EXCLUDE_NAME
    there = read_exclusions(split)
    before = path.read_text(encoding="utf-8-sig") if path.is_file() else _HEAD
    if not before.endswith("\n"):
        before += "\n"
    new = [f"# {' '.join(reason.split())}\n{name}\n" for name, reason in reasons.items() if name not in there]
    with replacing(path) as temporary:
        temporary.write_text(before + "".join(new), encoding="utf-8")
    return path


def exclusion_notes(split: Path, excluded: Mapping[str, int], names: set[str]) -> list[str]:
    """What whoever reads the split has to say; `names` are those of its latents and labels."""
    path = split / EXCLUDE_NAME
    unknown = [name for name in excluded if name not in names]
    known = len(excluded) - len(unknown)
    notes = [f"{counted(known, 'picture')} left out by {path}"] if known else []
    if unknown:
        notes.append(f"{path}:{excluded[unknown[0]]}: no picture is called {unknown[0]} ({len(unknown)} such names)")
    return notes
