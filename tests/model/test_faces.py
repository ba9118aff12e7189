"""Suppression in NumPy against torchvision's."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou, nms

from latentface.model.bridge import BRIDGES
from latentface.model.config import BRIDGE_ENTERS
from latentface.model.faces import BLOCK, Thresholds, best_candidates, suppress


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3 * BLOCK), st.floats(0.0, 1.0), st.integers(0, 1000))
def test_suppression_is_that_of_torchvision(count, threshold, seed):
    random = np.random.default_rng(seed)
    corner = random.uniform(0, 60, (count, 2))
    boxes = np.concatenate([corner, corner + random.uniform(1, 40, (count, 2))], axis=1).astype(np.float32)
    tensor = torch.from_numpy(boxes)
    iou = box_iou(tensor, tensor).numpy()
    if (np.abs(iou - threshold) < 1e-5).any():  # the last bit decides there
        threshold = 0.4142
    expected = nms(tensor, torch.arange(count, 0, -1).float(), threshold).tolist()
    assert suppress(boxes, threshold).tolist() == expected


def test_more_than_one_block_of_equal_boxes_leaves_one():
    assert suppress(np.tile(np.float32([[0, 0, 9, 9]]), (3 * BLOCK, 1)), 0.4).tolist() == [0]


def test_a_chain_over_a_block_border_is_followed():
    """Each box overlaps the next by 1/3: with a threshold of 0.3 every second one stays, whatever the block size."""
    left = 5.0 * np.arange(2 * BLOCK + 6, dtype=np.float32)
    boxes = np.stack([left, np.zeros_like(left), left + 10, np.full_like(left, 10)], axis=1)
    assert suppress(boxes, 0.3).tolist() == list(range(0, len(boxes), 2))
    assert suppress(boxes, 0.34).tolist() == list(range(len(boxes)))


def test_candidates_are_the_best_in_order():
    scores = np.array([0.1, 0.9, 0.5, 0.9, 0.01], dtype=np.float32)
    assert best_candidates(scores, Thresholds(confidence=0.05)).tolist() == [1, 3, 2, 0]
    assert best_candidates(scores, Thresholds(confidence=0.05, before_nms=2)).tolist() == [1, 3]
    assert best_candidates(scores, Thresholds(confidence=0.95)).tolist() == []


def test_every_bridge_has_its_entry():
    assert BRIDGES.keys() == BRIDGE_ENTERS.keys()


@pytest.mark.parametrize("module", ["model.faces", "model.config", "inference.detect", "inference.detector", "boxes"])
def test_what_detects_with_onnx_runtime_needs_no_torch(module):
    script = f"import sys, latentface.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
