"""A split behind a URL as a local folder: its small files are fetched into it, latents only when they are read.

    CACHE/sets/<of the URL>/val/    pack.json, labels.txt, latents.jsonl, exclude.txt; of a tree also latent/, empty

So labels, manifest and description are read as those of any split; `open_store` gives the latents.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from latentface.data.cache import Blob, Cache
from latentface.data.exclusions import EXCLUDE_NAME
from latentface.data.manifest import MANIFEST_NAME
from latentface.data.remote import download, files_below, is_url
from latentface.data.stores import PACK_NAME
from latentface.errors import LatentFaceError
from latentface.files import make_folder, name_problem

LABELS = "labels.txt"
VERSION_FACTS = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "updated", "created", "mtime")

_mirrors: dict[Path, Mirror] = {}  # of this process, by folder
_files: dict[Path, str] = {}  # single files, with their URLs


@dataclass(frozen=True)
class Mirror:
    """`folder` stands for what is at `url`."""

    url: str
    folder: Path
    cache: Cache

    @cached_property
    def latents(self) -> dict[tuple[str, int], Blob]:
        """Of a tree: picture and rate -> file. Listed once; files of other names are left alone."""
        found = {}
        for path, facts in files_below(f"{self.url}/latent").items():
            matched = re.fullmatch(r"([^/\\]+)/latent_([0-9]{1,8})\.npy", path)
            if matched and not name_problem(matched[1]):
                found[matched[1], int(matched[2])] = _blob(f"{self.url}/latent/{path}", facts)
        return found

    def refresh(self) -> None:
        """Fetches the small files; what is not there (any more) goes here too."""
        latent_dir = self.folder / "latent"
        with self.cache.lock(self.folder.parent.name):
            make_folder(self.folder, "--cache_dir")
            packed = self._fetch(PACK_NAME)
            if not packed and self.latents:
                make_folder(latent_dir, "--cache_dir")
                self._fetch(f"latent/{LABELS}")
            else:
                shutil.rmtree(latent_dir, ignore_errors=True)  # labels and single latents that were fetched
            for name in (LABELS, MANIFEST_NAME, EXCLUDE_NAME):
                self._fetch(name)
            with suppress(OSError):  # where there was nothing
                self.folder.rmdir()
                self.folder.parent.rmdir()

    def fetch(self, name: str) -> None:
        """A file of any name, into the folder. Raises LatentFaceError where it is not there."""
        with self.cache.lock(self.folder.parent.name):
            make_folder((self.folder / name).parent, "--cache_dir")
            if not self._fetch(name):
                raise LatentFaceError(f"{self.url}/{name}: no such file")

    def _fetch(self, name: str) -> bool:
        path = self.folder / name
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            download(f"{self.url}/{name}", temporary, self.cache.limit)
            temporary.replace(path)
            return True
        except FileNotFoundError:
            path.unlink(missing_ok=True)
            return False
        finally:
            temporary.unlink(missing_ok=True)


def local(place: str | Path, cache: Cache | None = None) -> Path:
    """The folder that a user's word names: itself, or of a URL its mirror, freshly fetched the first time.

    Where there is neither a packed split nor a tree behind the URL, the folder holds neither.
    """
    if not is_url(place):
        return Path(place)
    url = str(place).rstrip("/")
    if url.endswith("/latent"):
        return local(url.removesuffix("/latent"), cache) / "latent"
    mirror = _mirror(url, cache)
    if _mirrors.get(mirror.folder) != mirror:
        mirror.refresh()
        _mirrors[mirror.folder] = mirror
    return mirror.folder


def local_file(place: str | Path, cache: Cache | None = None) -> Path:
    """A single file that a user's word names; of a URL freshly fetched the first time.

    A latent of a tree comes with the tree's manifest, which says how its photograph lies in the picture.
    """
    if not is_url(place):
        return Path(place)
    url = str(place)
    if name_problem(url.rpartition("/")[2]):
        raise LatentFaceError(f"{place}: no name of a file at its end")
    in_tree = re.fullmatch(r"(.+://.+)/(latent/[^/\\]+/latent_[0-9]{1,8}\.npy)", url)
    folder, name = in_tree.groups() if in_tree else url.rsplit("/", 1)
    mirror = _mirror(folder, cache)
    path = mirror.folder / name
    if path not in _files:
        if in_tree:
            with suppress(LatentFaceError):  # not there; some stores call that forbidden
                mirror.fetch(MANIFEST_NAME)
        mirror.fetch(name)
        _files[path] = url
    return path


def mirror_of(folder: Path) -> Mirror | None:
    """Of a split's folder or its `latent/`, where `local` has made it."""
    return _mirrors.get(folder) or (_mirrors.get(folder.parent) if folder.name == "latent" else None)


def shown(path: str | Path) -> str:
    """How to name a file or folder to the user: by its URL where it is a mirror's."""
    if not _mirrors and not _files:
        return str(path)
    path = Path(path)
    for folder in (path, *path.parents):
        if mirror := _mirrors.get(folder):
            return "/".join([mirror.url, *path.relative_to(folder).parts])
    return _files.get(path, str(path))


def unshown(name: str) -> Path:
    """The path that `shown` has named, in a process that knows the same mirrors."""
    for folder, mirror in _mirrors.items():
        if name.startswith(f"{mirror.url}/"):
            return folder / name[len(mirror.url) + 1 :]
    return next((path for path, url in _files.items() if url == name), Path(name))


def _mirror(url: str, cache: Cache | None) -> Mirror:
    cache = cache or Cache.of()
    name = url.rpartition("/")[2]
    if name_problem(name) or "::" in url or not url.partition("://")[2].strip("/"):
        raise LatentFaceError(f"{url}: no URL of a dataset; expected one like s3://bucket/packed")
    return Mirror(url, cache.folder / "sets" / hashlib.sha256(url.encode()).hexdigest()[:16] / name, cache)


def _blob(url: str, facts: dict[str, Any]) -> Blob:
    """Its key changes with whatever the store says of another version."""
    if not isinstance(facts.get("size"), int):
        raise LatentFaceError(f"{url}: the server does not say how large its files are; pack the tree and upload that")
    version = json.dumps(
        [url, facts["size"], {name: facts[name] for name in VERSION_FACTS if name in facts}], default=str
    )
    return Blob(url, facts["size"], hashlib.sha256(version.encode()).hexdigest())
