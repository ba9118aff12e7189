from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from latentface.errors import LatentFaceError
from latentface.model.config import ModelConfig
from latentface.model.faces import Faces, Thresholds
from latentface.model.postprocess import postprocess
from latentface.model.predict import pick_device, predict
from latentface.model.retinaface import RetinaFace

# As corners: a whole, its upper 60 %, its lower 39 % and a box elsewhere. IoU 0.6 and 0.39 with the first.
BOXES = [[0, 0, 100, 100], [0, 0, 100, 60], [0, 61, 100, 100], [200, 0, 220, 20]]


def as_priors(boxes: Sequence[Sequence[float]]) -> Tensor:
    x1, y1, x2, y2 = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4).T
    return torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], dim=1)


def found(
    boxes: Sequence[Sequence[float]], scores: Sequence[float], width: int = 640, height: int = 640, **thresholds: Any
) -> Faces:
    """One picture whose priors are the boxes themselves and whose predictions are all zero but the scores."""
    predictions = {
        "scores": torch.tensor([[[0.0, math.log(p / (1 - p))] for p in scores]]),
        "boxes": torch.zeros(1, len(boxes), 4),
        "landmarks": torch.zeros(1, len(boxes), 10),
    }
    (faces,) = postprocess(
        predictions, as_priors(boxes), width=width, height=height, thresholds=Thresholds(**thresholds)
    )
    return faces


def test_the_weaker_of_two_overlapping_boxes_goes():
    faces = found(BOXES, [0.9, 0.8, 0.7, 0.6])
    assert faces.boxes.tolist() == [BOXES[0], BOXES[2], BOXES[3]]
    assert faces.scores == pytest.approx([0.9, 0.7, 0.6])
    assert len(faces) == 3


def test_a_suppressed_box_suppresses_nothing():
    """The second box overlaps the first and third by 0.6 and 5/9 = 0.56, which do not overlap each other enough."""
    boxes = [[0, 0, 100, 100], [0, 25, 100, 125], [0, 50, 100, 150]]
    assert found(boxes, [0.9, 0.8, 0.7]).boxes.tolist() == [boxes[0], boxes[2]]
    assert found(boxes, [0.8, 0.9, 0.7]).boxes.tolist() == [boxes[1]]


def test_faces_come_best_first_and_keep_their_landmarks():
    faces = found(BOXES, [0.3, 0.2, 0.9, 0.6])
    assert faces.scores == pytest.approx([0.9, 0.6, 0.3])
    centres = [[50, 80.5], [210, 10], [50, 50]]
    assert faces.landmarks.tolist() == [[centre] * 5 for centre in centres]


def test_offsets_are_decoded():
    predictions = {
        "scores": torch.tensor([[[0.0, 1.0]]]),
        "boxes": torch.tensor([[[1.0, -1.0, 5 * math.log(2), 0.0]]]),
        "landmarks": torch.tensor([[[1.0, 0, 0, 2, 0, 0, -1, 0, 0, -2]]]),
    }
    (faces,) = postprocess(
        predictions, torch.tensor([[50.0, 50, 20, 20]]), width=100, height=100, thresholds=Thresholds()
    )
    assert faces.boxes == pytest.approx(np.array([[32.0, 38, 72, 58]]))
    assert faces.landmarks == pytest.approx(np.array([[[52.0, 50], [50, 54], [50, 50], [48, 50], [50, 46]]]))
    assert faces.scores == pytest.approx([1 / (1 + math.exp(-1))])


def test_the_confidence_threshold_is_inclusive():
    assert found(BOXES, [0.5, 0.4, 0.49, 0.1], confidence=0.5).scores.tolist() == [0.5]


def test_only_the_best_enter_suppression_and_only_the_best_leave():
    scores = [0.9, 0.8, 0.7, 0.6]
    assert found(BOXES, scores, before_nms=2).boxes.tolist() == [BOXES[0]]
    assert found(BOXES, scores, before_nms=3).boxes.tolist() == [BOXES[0], BOXES[2]]
    assert found(BOXES, scores, keep=2).boxes.tolist() == [BOXES[0], BOXES[2]]


def test_equal_scores_keep_the_order_of_the_priors():
    boxes = [[40 * i, 0, 40 * i + 20, 20] for i in range(12)]
    assert found(boxes, [0.75] * 12).boxes.tolist() == boxes
    assert found(boxes, [0.75] * 12, before_nms=5).boxes.tolist() == boxes[:5]


def test_boxes_are_clipped_to_the_picture_and_landmarks_are_not():
    faces = found([[-20, -10, 60, 90], [100, 20, 300, 80]], [0.9, 0.8], width=120, height=50)
    assert faces.boxes.tolist() == [[0, 0, 60, 50], [100, 20, 120, 50]]
    assert faces.landmarks[1, 0].tolist() == [200, 50]


def test_nothing_found():
    faces = found(BOXES, [0.01] * 4)
    assert len(faces) == 0
    assert [faces.boxes.shape, faces.scores.shape, faces.landmarks.shape] == [(0, 4), (0,), (0, 5, 2)]
    assert {faces.boxes.dtype, faces.scores.dtype, faces.landmarks.dtype} == {np.dtype(np.float32)}


def test_pictures_of_a_batch_do_not_mix():
    scores = torch.full((2, 4, 2), -5.0)
    scores[0, 3, 1] = scores[1, 0, 1] = 5.0
    predictions = {"scores": scores, "boxes": torch.zeros(2, 4, 4), "landmarks": torch.zeros(2, 4, 10)}
    first, second = postprocess(
        predictions, as_priors(BOXES), width=640, height=640, thresholds=Thresholds(confidence=0.9)
    )
    assert (first.boxes.tolist(), second.boxes.tolist()) == ([BOXES[3]], [BOXES[0]])


def test_every_picture_has_scores_boxes_and_landmarks():
    whole = {"scores": torch.ones(2, 4, 2), "boxes": torch.zeros(2, 4, 4), "landmarks": torch.zeros(2, 4, 10)}
    for name in whole:
        with pytest.raises(ValueError, match="zip"):
            postprocess(whole | {name: whole[name][:1]}, as_priors(BOXES), width=9, height=9, thresholds=Thresholds())


def test_predictions_of_half_precision_give_float32():
    predictions = {
        "scores": torch.ones(1, 4, 2).bfloat16(),
        "boxes": torch.zeros(1, 4, 4).bfloat16(),
        "landmarks": torch.zeros(1, 4, 10).bfloat16(),
    }
    (faces,) = postprocess(predictions, as_priors(BOXES), width=640, height=640, thresholds=Thresholds())
    assert faces.boxes.tolist() == [BOXES[0], BOXES[2], BOXES[3]]
    assert faces.boxes.dtype == faces.landmarks.dtype == np.float32


def suppress_slowly(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        overlaps = False
        for j in kept:
            width = min(boxes[i, 2], boxes[j, 2]) - max(boxes[i, 0], boxes[j, 0])
            height = min(boxes[i, 3], boxes[j, 3]) - max(boxes[i, 1], boxes[j, 1])
            shared = max(width, 0) * max(height, 0)
            areas = [(boxes[k, 2] - boxes[k, 0]) * (boxes[k, 3] - boxes[k, 1]) for k in (i, j)]
            overlaps |= shared / (sum(areas) - shared) > threshold
        if not overlaps:
            kept.append(int(i))
    return kept


@pytest.mark.parametrize("seed", range(10))
def test_suppression_agrees_with_a_slow_loop(seed):
    random = np.random.default_rng(seed)
    corner = random.integers(0, 60, (80, 2))
    boxes = np.concatenate([corner, corner + random.integers(8, 40, (80, 2))], axis=1)
    scores = random.permutation(80) / 100 + 0.1
    threshold = random.choice([0.21, 0.41, 0.61]) + 1e-4  # no fraction of small whole numbers
    kept = suppress_slowly(boxes.astype(float), scores, threshold)
    assert 1 < len(kept) < 80
    faces = found(boxes.tolist(), scores.tolist(), nms=threshold)
    assert faces.boxes.tolist() == boxes[kept].tolist()
    assert faces.scores == pytest.approx(scores[kept], abs=1e-6)


def test_defaults_are_those_of_the_wider_face_test():
    assert Thresholds() == Thresholds(confidence=0.02, nms=0.4, before_nms=5000, keep=750)


def test_predicted_faces_lie_in_the_picture():
    torch.manual_seed(0)
    model = RetinaFace(ModelConfig(backbone="light", channels=4)).eval()
    pictures = predict(model, torch.randn(2, 4, 3, 5), torch.tensor([75, 12]))
    assert len(pictures) == 2
    for faces in pictures:
        assert 0 < len(faces) <= 750
        assert faces.boxes.min() >= 0
        assert (faces.boxes.max(axis=0) <= [80, 48, 80, 48]).all()  # 5 x 3 cells of 16 pixels
        assert (np.diff(faces.scores) <= 0).all()
    none = predict(model, torch.randn(1, 4, 3, 5), torch.tensor([75]), thresholds=Thresholds(confidence=1.1))
    assert len(none[0]) == 0


def test_prediction_in_half_precision_is_close():
    torch.manual_seed(0)
    model = RetinaFace(ModelConfig(backbone="light", channels=4)).eval()
    latents, rates, every = torch.randn(1, 4, 2, 2), torch.tensor([75]), Thresholds(confidence=0, nms=1)
    full = predict(model, latents, rates, thresholds=every)[0]
    half = predict(model, latents, rates, thresholds=every, precision=torch.bfloat16)[0]
    assert half.scores == pytest.approx(full.scores, abs=0.02)
    assert half.scores.tolist() != full.scores.tolist()


def test_devices():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "cpu:x"])
def test_a_device_that_is_not_there(name):
    with pytest.raises(LatentFaceError, match=f"--device {name}: not available here"):
        pick_device(name)
