"""What WIDER FACE labels say of faces, blur, occlusion and pose, brought to the labels of a set."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from latentface.boxes import iou_matrix
from latentface.data.labels import ATTRIBUTES, PictureLabels
from latentface.data.latents import Picture
from latentface.data.manifest import source_base
from latentface.data.sizes import view_labels
from latentface.evaluation.outcomes import Count, Outcome

UNKNOWN = -1
SAME_FACE = 0.8  # IoU of one face's boxes in two label files
MEANINGS = {  # of the attributes that say why a face is hard; value 0 comes first
    "blur": ("clear", "normal blur", "heavy blur"),
    "occlusion": ("no occlusion", "partly occluded", "heavily occluded"),
    "pose": ("typical pose", "atypical pose"),
}


def attributes_of(picture: Picture, labels: PictureLabels, known: dict[str, PictureLabels] | None) -> np.ndarray:
    """[M, 5], UNKNOWN where nobody knows: out of the labels, or, given `known`, of the same box in those.

    `labels` are in picture pixels; `known` are of the photographs where a manifest says how these were placed.
    """
    unknown = np.full((len(labels.boxes), len(ATTRIBUTES)), UNKNOWN)
    if known is None:
        return unknown if labels.attributes is None else labels.attributes
    theirs = known.get(source_base(picture.row) if picture.row else picture.name)
    if theirs is not None and picture.row:
        theirs = view_labels(theirs, picture.row)
    if theirs is None or theirs.attributes is None or not len(theirs.boxes):
        return unknown
    overlaps = iou_matrix(labels.boxes.astype(np.float64), theirs.boxes.astype(np.float64))  # [M, K]
    same = overlaps.max(axis=1) >= SAME_FACE
    return np.where(same[:, None], theirs.attributes[overlaps.argmax(axis=1)], unknown)


def count_attributes(outcomes: Mapping[str, Outcome], attributes: Mapping[str, np.ndarray]) -> dict[str, Count]:
    """Meaning of an attribute's value -> faces that have it, and how many of them were found; by picture's name."""
    counts = {meaning: Count() for meanings in MEANINGS.values() for meaning in meanings}
    for name, values in attributes.items():
        for attribute, meanings in MEANINGS.items():
            column = values[:, ATTRIBUTES.index(attribute)]
            for value, meaning in enumerate(meanings):
                having = outcomes[name].counted & (column == value)
                counts[meaning].faces += int(having.sum())
                counts[meaning].found += int((outcomes[name].found & having).sum())
    return counts


def hardships(values: np.ndarray) -> list[str]:
    """What the attributes [5] of one face say, where it is out of the ordinary."""
    said = [(meanings, int(values[ATTRIBUTES.index(attribute)])) for attribute, meanings in MEANINGS.items()]
    return [meanings[value] for meanings, value in said if 0 < value < len(meanings)]
