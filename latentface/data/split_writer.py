"""A split of the documented tree as it is being written: what is there already, and how more is added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from latentface.data.labels import PictureLabels, read_labels, write_labels
from latentface.data.manifest import MANIFEST_NAME, ManifestRow, append, recover_manifest, source_base, write_manifest
from latentface.data.sizes import view_labels
from latentface.errors import LatentFaceError
from latentface.files import make_folder


class SplitWriter:
    """`rows`: the manifest by base name; `labels`: what `close` has written, by base name too.

    `settings` are what all rows of the manifest share. Raises LatentFaceError for a folder that holds something else.
    """

    def __init__(self, folder: str | Path, settings: dict[str, Any]):
        self.folder = Path(folder)
        self.manifest = self.folder / MANIFEST_NAME
        self.label_file = self.folder / "labels.txt"
        self.rows = recover_manifest(self.manifest) if self.manifest.exists() else {}
        self.labels: dict[str, PictureLabels] = {}
        self._refuse_others_work(settings)

    def _refuse_others_work(self, settings: dict[str, Any]) -> None:
        latents = self.folder / "latent"
        if not self.manifest.exists() and (self.label_file.exists() or (latents.is_dir() and any(latents.iterdir()))):
            raise LatentFaceError(f"{self.folder}: has labels or latents of another origin; give another --out")
        for row in self.rows.values():
            for name, value in settings.items():
                if row.encoder.get(name) != value:
                    made = row.encoder.get(name, "unknown")
                    raise LatentFaceError(
                        f"{self.manifest}: made with {name} {made}, now it is {value}; give the same or another --out"
                    )

    def path(self, base: str, rate: int) -> Path:
        """Of a latent, whether it is there or not."""
        return self.folder / "latent" / base / f"latent_{rate}.npy"

    def open(self) -> None:
        """Makes the folders; from now on the manifest ends in a complete line."""
        make_folder(self.folder / "latent", "--out", within=self.folder)
        write_manifest(self.manifest, self.rows.values())

    def add(self, rows: Sequence[ManifestRow]) -> None:
        """Notes pictures whose files are in place; rates that were there before stay."""
        merged = []
        for row in rows:
            old = self.rows.get(row.base)
            merged.append(replace(row, name=old.name, latents={**old.latents, **row.latents}) if old else row)
        self.rows.update((row.base, row) for row in merged)
        append(self.manifest, merged)

    def close(self, labels: dict[str, PictureLabels] | None) -> None:
        """Sorts the manifest, writes the labels of all pictures in it."""
        self.rows = dict(sorted(self.rows.items()))
        write_manifest(self.manifest, self.rows.values())
        if labels is None:
            return
        earlier = read_labels(self.label_file) if self.label_file.exists() else {}
        for base, row in self.rows.items():
            source = labels.get(source_base(row))
            if source is not None:
                self.labels[base] = view_labels(source, row)
            elif base in earlier:  # of an earlier run with other labels
                self.labels[base] = earlier[base]
        write_labels(self.label_file, self.labels.values())
