"""The order of an epoch."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from latentface.data.batches import EpochBatches
from latentface.data.order import ShardOrder

SHARDS = np.array([0] * 3 + [1] * 5 + [2] * 2 + [3] * 4 + [4] * 1)  # 15 pictures


def order(window: int, seed: int = 0) -> ShardOrder:
    return ShardOrder(lambda epoch: SHARDS, seed, window)


@pytest.mark.parametrize("window", [1, 2, 5, 9])
def test_every_picture_comes_once_and_every_shard_in_one_window(window):
    for epoch in range(3):
        pictures = order(window)(epoch)
        assert sorted(pictures) == list(range(15))
        came = SHARDS[pictures]
        seen: list[int] = list(dict.fromkeys(came))
        start = 0
        for first in range(0, 5, window):  # by the sizes of its shards a window has a stretch of its own
            length = 0
            members = set(came[start : start + 1])
            while len(members) <= window and start + length < 15 and len(members | {came[start + length]}) <= window:
                members.add(came[start + length])
                length += 1
            assert length == sum((shard == SHARDS).sum() for shard in members)
            start += length
            assert len(members) == min(window, 5 - first)
        assert start == 15
        assert len(seen) == 5


def test_pictures_of_a_window_are_mixed_and_shards_shuffled():
    came = [tuple(SHARDS[order(2)(epoch)]) for epoch in range(20)]
    runs = [1 + sum(a != b for a, b in pairwise(row)) for row in came]
    assert np.mean(runs) > 7  # without mixing there are 5
    assert len({row[0] for row in came}) == 5


def test_the_order_follows_from_seed_and_epoch():
    assert np.array_equal(order(2)(7), order(2)(7))
    assert not np.array_equal(order(2)(7), order(2)(8))
    assert not np.array_equal(order(2, seed=1)(7), order(2)(7))


def test_the_first_window_is_how_the_first_epoch_begins():
    first = order(2).first()
    assert np.array_equal(first, order(2)(0)[: len(first)])
    assert len(np.unique(SHARDS[first])) == 2
    assert not set(SHARDS[first]) & set(SHARDS[order(2)(0)[len(first) :]])


def test_batches_go_on_inside_an_epoch():
    batches = EpochBatches(15, 4, 0, order(2))
    batches.epoch = 3
    whole = list(batches)
    assert [key.picture for batch in whole for key in batch] == list(order(2)(3))
    batches.first_batch = 2
    assert list(batches) == whole[2:]


def test_without_an_order_pictures_are_drawn_from_the_whole_set():
    """As before there was a choice: runs that were begun then continue."""
    keys = [key.picture for batch in EpochBatches(9, 4, 5) for key in batch]
    assert keys == np.random.default_rng((5, 0)).permutation(9).tolist()
