"""The frame of every picture's labels: the coded picture, or the photograph where manifest or flags say so."""

from __future__ import annotations

from dataclasses import dataclass

from latentface.data.check_files import Split
from latentface.data.check_findings import Finding
from latentface.data.check_latents import Measured
from latentface.data.sizes import LabelFrame


@dataclass(frozen=True)
class Frame:
    """Of one picture."""

    width: float  # of the frame that its labels are meant in, pixels
    height: float
    scale: float  # picture pixels per pixel of that frame, vertically
    other: tuple[float, float] | None  # width and height of the frame that they could be meant in by mistake
    source: bool  # whether labels are meant in the photograph's pixels


def label_frames(split: Split, measured: Measured, frame: LabelFrame) -> tuple[dict[str, Frame], list[Finding]]:
    """By picture that has latents and labels; where nothing is known of its latent's size, it is left out.

    A picture whose latents were not read counts as of the size of the others, if they all have one.
    """
    sizes = {one.picture: (one.shape[2] * split.stride, one.shape[1] * split.stride) for one in measured.latents}
    usual = next(iter(sizes.values())) if len(set(sizes.values())) == 1 else None
    frames: dict[str, Frame] = {}
    findings: list[Finding] = []
    for name in split.pictures:
        size = sizes.get(name, usual)
        if name not in split.labels:
            continue
        if frame.sizes is not None and name not in frame.sizes and not _told_source(split, name):
            text = f"no size is known for {split.labels[name].name}"
            remedy, line = "add it to --image_sizes or --image_dir", split.labels[name].line
            findings.append(Finding("error", "no-size", str(split.label_file), text, remedy, line, name))
        elif found := _frame(split, name, size, frame):
            frames[name] = found
    return frames, findings


def _told_source(split: Split, name: str) -> bool:
    return name in split.rows and split.rows[name].label_frame == "source"


def _frame(split: Split, name: str, size: tuple[int, int] | None, frame: LabelFrame) -> Frame | None:
    """None where nothing is known. The order is that of `LabelFrame.to_picture`."""
    row = split.rows.get(name)
    if row is not None and row.label_frame == "source":
        coded = None if row.crop else (float(row.content_width), float(row.content_height))
        return Frame(row.source_width, row.source_height, row.scale_y, coded, source=True)
    if frame.sizes is not None:
        if size is None:
            return None
        width, height = frame.sizes[name]
        scales = size[0] / width, size[1] / height
        return Frame(width, height, min(scales) if frame.fit == "pad" else scales[1], size, source=True)
    if row is not None:
        photograph = None if row.crop else (float(row.source_width), float(row.source_height))
        return Frame(row.content_width, row.content_height, 1.0, photograph, source=False)
    return None if size is None else Frame(*size, 1.0, None, source=False)
