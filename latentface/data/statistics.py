"""Mean and standard deviation of every channel, measured on a training set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from latentface.codecs.base import UNKNOWN_INDEX
from latentface.data.latents import NestedLatentWiderFaceDataset
from latentface.errors import LatentFaceError
from latentface.progress import progress


@dataclass(frozen=True)
class ChannelStatistics:
    """One row per model index, or per rate where the index is unknown.

    Where rows differ in their number of channels, C is the largest and what a row lacks is 0.
    """

    mean: np.ndarray  # float32 [G, C]
    deviation: np.ndarray  # float32 [G, C]
    rates: tuple[int, ...]
    rate_rows: tuple[int, ...]  # the row that most pictures of each rate belong to
    indices: tuple[int, ...]
    index_rows: tuple[int, ...]
    channels: tuple[int, ...]  # of each row


def measure_statistics(
    dataset: NestedLatentWiderFaceDataset, pictures: int = 256, among: Iterable[str] | None = None
) -> ChannelStatistics:
    """Over up to `pictures` latents of each rate, spread evenly over the set, or over the names in `among`.

    Raises LatentFaceError where latents of one row differ in their number of channels.
    """
    sums: dict[tuple[str, int], np.ndarray] = {}  # float64 [3, C]: count, sum, sum of squares
    names = None if among is None else set(among)
    members: dict[int, Counter[tuple[str, int]]] = {rate: Counter() for rate in dataset.rates}
    for rate in dataset.rates:
        at_rate = dataset.at_rate(rate)
        if not len(at_rate):
            raise LatentFaceError(f"{dataset.latent_dir}: no picture has a latent of rate {rate}; leave the rate out")
        there = [index for index, picture in enumerate(at_rate.pictures) if names is None or picture.name in names]
        there = there or list(range(len(at_rate)))
        places = np.unique(np.linspace(0, len(there) - 1, min(pictures, len(there))).astype(int))
        chosen = [there[place] for place in places]
        for index in progress(chosen, f"statistics at rate {rate}", unit="latent"):
            sample = at_rate[index]
            group = ("index", sample.model_index) if sample.model_index != UNKNOWN_INDEX else ("rate", rate)
            members[rate][group] += 1
            found = _sums(sample.values)
            total = sums.setdefault(group, np.zeros_like(found))
            _check_channels(total, found, sample.name, rate)
            total += found
    groups = sorted(sums)
    channels = tuple(sums[group].shape[1] for group in groups)
    rows = [np.pad(sums[group], ((0, 0), (0, max(channels) - sums[group].shape[1]))) for group in groups]
    count, first, second = np.stack(rows, axis=1)  # each [G, C]
    count = np.maximum(count, 1)  # of channels that a row lacks
    mean = first / count
    deviation = np.sqrt(np.maximum(second / count - mean**2, 0))
    indices = [group for group in groups if group[0] == "index"]
    return ChannelStatistics(
        mean=mean.astype(np.float32),
        deviation=deviation.astype(np.float32),
        rates=tuple(dataset.rates),
        rate_rows=tuple(groups.index(members[rate].most_common(1)[0][0]) for rate in dataset.rates),
        indices=tuple(group[1] for group in indices),
        index_rows=tuple(groups.index(group) for group in indices),
        channels=channels,
    )


def _sums(latent: np.ndarray) -> np.ndarray:
    values = latent.reshape(len(latent), -1).astype(np.float64)
    return np.stack([np.full(len(values), values.shape[1]), values.sum(axis=1), (values**2).sum(axis=1)])


def _check_channels(total: np.ndarray, found: np.ndarray, name: str, rate: int) -> None:
    if total.shape != found.shape:
        raise LatentFaceError(
            f"{name}/latent_{rate}.npy has {found.shape[1]} channels, others of its rate and codec model "
            f"{total.shape[1]}; remove what was made by another codec"
        )
