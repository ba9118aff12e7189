"""Where a packed split is written to: a folder, or a URL to which each shard is uploaded as soon as it is whole.

Behind a URL `written.json` notes size, checksum and error of the shards that are there: a run that goes on would have
to fetch them for that.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from latentface.data import remote
from latentface.data.packed import PackInfo, Shard, open_shard, parse_info, read_info
from latentface.data.stores import PACK_NAME
from latentface.errors import LatentFaceError
from latentface.files import make_folder, parse_json, replacing, sha256
from latentface.lock import sole_writer

ORIGIN = "latentface"  # the entry of a shard's metadata that says which packing it belongs to
NOTES_NAME = "written.json"
FIRST_SHARD = "shard_00000.safetensors"

Written = tuple[Shard, dict[str, float]]  # with its errors


@dataclass(frozen=True)
class FolderTarget:
    """A split in a local folder."""

    folder: Path

    def __str__(self) -> str:
        return str(self.folder)

    def info(self) -> PackInfo | None:
        """Of a packing that is complete."""
        return read_info(self.folder) if (self.folder / PACK_NAME).is_file() else None

    def has_others(self, fingerprint: str) -> bool:
        """Whether there are shards of another packing."""
        first = self.folder / FIRST_SHARD
        return first.is_file() and self.kept(FIRST_SHARD, 0, fingerprint) is None

    def room_needed(self, size: int, shard: int) -> tuple[Path, int]:
        """A folder, and the bytes that are still wanted on its disk for `size` bytes in shards of `shard`."""
        there = sum(path.stat().st_size for path in self.folder.glob("shard_*.safetensors"))
        return self.folder.parent, max(0, size - there)

    def kept(self, name: str, latents: int, fingerprint: str) -> Written | None:
        """A shard that an earlier run of the same packing has finished."""
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            origin = json.loads((open_shard(path).metadata() or {})[ORIGIN])
            return (_facts(path, latents), origin["error"]) if origin["fingerprint"] == fingerprint else None
        except (LatentFaceError, KeyError, TypeError, ValueError):
            return None

    def path(self, name: str) -> Path:
        """Where to write a shard."""
        return make_folder(self.folder, "--out", within=self.folder.parent) / name

    def done(self, path: Path, latents: int, error: dict[str, float], fingerprint: str) -> Written:
        """A shard is whole."""
        return _facts(path, latents), error

    def copy(self, source: Path) -> None:
        """Adds a small file under its name."""
        with replacing(self.folder / source.name) as temporary:
            shutil.copyfile(source, temporary)

    def finish(self, info: PackInfo) -> None:
        """Says that all is there."""
        with replacing(self.folder / PACK_NAME) as temporary:
            temporary.write_text(info.to_json() + "\n", encoding="utf-8")


@dataclass
class UrlTarget:
    """A split behind a URL; `staging` holds one shard at a time, as long as it takes to send it."""

    url: str
    staging: Path
    fingerprint: str = ""
    written: dict[str, Written] = field(default_factory=dict)

    def __post_init__(self) -> None:
        text = remote.read_text(f"{self.url}/{NOTES_NAME}")
        if text is None:
            return
        try:
            values = parse_json(text)
            self.fingerprint = str(values["fingerprint"])
            self.written = {one["shard"]["file"]: (Shard(**one["shard"]), one["error"]) for one in values["written"]}
        except (ValueError, KeyError, TypeError) as error:
            raise LatentFaceError(f"{self.url}/{NOTES_NAME}: not of a packing ({error}); remove it") from error

    def __str__(self) -> str:
        return self.url

    def info(self) -> PackInfo | None:
        text = remote.read_text(f"{self.url}/{PACK_NAME}")
        return None if text is None else parse_info(text, f"{self.url}/{PACK_NAME}")

    def has_others(self, fingerprint: str) -> bool:
        if self.fingerprint:
            return self.fingerprint != fingerprint
        return remote.size(f"{self.url}/{FIRST_SHARD}") is not None

    def room_needed(self, size: int, shard: int) -> tuple[Path, int]:
        return self.staging, min(size, shard)

    def kept(self, name: str, latents: int, fingerprint: str) -> Written | None:
        written = self.written.get(name) if self.fingerprint == fingerprint else None
        if written is None or remote.size(f"{self.url}/{name}") != written[0].bytes:
            return None
        return written

    def path(self, name: str) -> Path:
        return self.staging / name

    def done(self, path: Path, latents: int, error: dict[str, float], fingerprint: str) -> Written:
        written = _facts(path, latents), error
        remote.upload(path, f"{self.url}/{path.name}")
        path.unlink()
        if self.fingerprint != fingerprint:
            self.fingerprint, self.written = fingerprint, {}
        self.written[path.name] = written
        notes = [{"shard": asdict(shard), "error": error} for shard, error in self.written.values()]
        remote.write_text(f"{self.url}/{NOTES_NAME}", json.dumps({"fingerprint": fingerprint, "written": notes}))
        return written

    def copy(self, source: Path) -> None:
        remote.upload(source, f"{self.url}/{source.name}")

    def finish(self, info: PackInfo) -> None:
        remote.write_text(f"{self.url}/{PACK_NAME}", info.to_json() + "\n")


Target = FolderTarget | UrlTarget


@contextmanager
def targets(out: str, splits: Iterable[str]) -> Iterator[dict[str, Target]]:
    """Those of a dataset's splits, for this process alone where the place can be locked, which a URL cannot."""
    if remote.is_url(out):
        with TemporaryDirectory(prefix="latentface-") as staging:
            yield {name: UrlTarget(remote.join(out, name), Path(staging)) for name in splits}
        return
    with sole_writer(Path(out), "--out"):
        yield {name: FolderTarget(Path(out, name)) for name in splits}


def _facts(path: Path, latents: int) -> Shard:
    return Shard(path.name, latents, path.stat().st_size, sha256(path))
