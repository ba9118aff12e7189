"""The same checkpoint gives the same faces, whatever runs it and however latents are batched.

`python tests/inference/test_sameness.py` measures the differences on many cases and notes them in
records/reliability.json; the tests hold a few cases against the tolerances that docs/reliability.md states.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latentface import Detector
from latentface.data.pretrained import pretrained
from latentface.inference.export import ExportConfig, run
from latentface.model.faces import Faces
from latentface.model.predict import predict
from latentface.model.retinaface import RetinaFace

SCORE, PIXELS = 1e-4, 0.05  # of torch against ONNX Runtime, and of one batch against another
RATES = (25, 75)  # of the fixtures' weights

Raw = tuple[np.ndarray, np.ndarray, np.ndarray]  # scores [A], boxes [A, 4], landmarks [A, 10]


def latent(seed: int, rows: int, columns: int) -> np.ndarray:
    """Of about the range that JPEG AI latents have, smooth enough for faces to be found in some."""
    random = np.random.default_rng(seed)
    return (random.normal(0, 20, (256, 1, 1)) * random.normal(0, 1, (256, rows, columns))).astype(np.float32)


def torch_raw(detector: Detector, batch: np.ndarray, rates: np.ndarray) -> list[Raw]:
    """Everything that the network says, before anything is left out."""
    from latentface.inference.graph import DecodedRetinaFace

    model: RetinaFace = detector.runtime.model
    with torch.inference_mode():
        boxes, scores, points = DecodedRetinaFace(model)(
            torch.from_numpy(batch), torch.from_numpy(rates), torch.full((len(batch),), -1)
        )
    return [(s.numpy(), b.numpy(), p.numpy()) for s, b, p in zip(scores, boxes, points, strict=True)]


def onnx_raw(detector: Detector, batch: np.ndarray, rates: np.ndarray) -> list[Raw]:
    boxes, scores, points = detector.runtime._run((batch, rates, np.full(len(batch), -1)))
    return list(zip(scores, boxes, points, strict=True))


def largest(first: list[Raw], second: list[Raw]) -> tuple[float, float]:
    """Difference of a score, and of a box's or landmark's coordinate where either way sees a face at all, pixels."""
    score = pixels = 0.0
    for one, other in zip(first, second, strict=True):
        score = max(score, float(np.abs(one[0] - other[0]).max()))
        seen = np.maximum(one[0], other[0]) > 0.02  # the confidence that evaluation begins at
        for place in (1, 2):
            pixels = max(pixels, float(np.abs(one[place][seen] - other[place][seen]).max(initial=0.0)))
    return score, pixels


class Ways:
    """One checkpoint, loaded by both runtimes."""

    def __init__(self, weight: Path, exported: Path) -> None:
        self.torch, self.onnx = Detector.load(weight, device="cpu"), Detector.load(exported)

    def torch_against_onnx(self, batch: np.ndarray, rates: np.ndarray) -> tuple[float, float]:
        return largest(torch_raw(self.torch, batch, rates), onnx_raw(self.onnx, batch, rates))

    def batch_against_singles(self, batch: np.ndarray, rates: np.ndarray) -> tuple[float, float]:
        return max(self._singles(torch_raw, self.torch, batch, rates), self._singles(onnx_raw, self.onnx, batch, rates))

    @staticmethod
    def _singles(way: Callable, detector: Detector, batch: np.ndarray, rates: np.ndarray) -> tuple[float, float]:
        singles = [way(detector, batch[i : i + 1], rates[i : i + 1])[0] for i in range(len(batch))]
        return largest(way(detector, batch, rates), singles)


@pytest.fixture(scope="module")
def ways(weights: Path, exported: Path) -> Ways:
    return Ways(weights, exported)


cases = given(
    seed=st.integers(0, 1000),
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    rates=st.lists(st.sampled_from(RATES), min_size=8, max_size=8),
)
few = settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def made(seed: int, rows: int, columns: int, rates: list[int]) -> tuple[np.ndarray, np.ndarray]:
    return np.stack([latent(seed + i, rows, columns) for i in range(len(rates))]), np.array(rates)


@few
@cases
def test_torch_and_onnx_runtime_say_the_same(ways, seed, rows, columns, rates):
    """All priors of eight latents at a time, rates mixed, sides that are no multiples of anything."""
    score, pixels = ways.torch_against_onnx(*made(seed, rows, columns, rates))
    assert score < SCORE
    assert pixels < PIXELS


@few
@cases
def test_a_batch_of_eight_says_what_its_latents_say_alone(ways, seed, rows, columns, rates):
    score, pixels = ways.batch_against_singles(*made(seed, rows, columns, rates))
    assert score < SCORE
    assert pixels < PIXELS


def paired(first: Faces, second: Faces) -> None:
    """The same faces, but for those whose score or overlap lies so near a threshold that rounding decides."""
    assert len(first) == len(second)
    assert np.allclose(first.scores, second.scores, atol=SCORE)
    assert np.allclose(first.boxes, second.boxes, atol=PIXELS)
    assert np.allclose(first.landmarks, second.landmarks, atol=PIXELS)


@few
@given(
    seed=st.integers(0, 1000),
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=2, max_size=6),
    batch_size=st.integers(1, 8),
)
def test_latents_of_many_sizes_are_not_padded(ways, seed, sizes, batch_size):
    """Each gives in a list what it gives alone: those of one size are batched, none is made larger."""
    latents = [latent(seed + number, *size) for number, size in enumerate(sizes)]
    rates = [RATES[number % len(RATES)] for number in range(len(sizes))]
    for detector in (ways.torch, ways.onnx):
        together = detector(latents, rates, confidence=0.3, batch_size=batch_size)
        for array, rate, found in zip(latents, rates, together, strict=True):
            paired(found, detector(array, rate, confidence=0.3))


def test_a_padded_batch_says_the_same_where_padding_is_out_of_sight(ways):
    """Training pads the smaller latents of a batch by their last cells; what lies 20 cells away does not see it."""
    small = latent(3, 6, 30)
    padded = np.concatenate([small, np.repeat(small[:, :, -1:], 10, axis=2)], axis=2)
    model = ways.torch.runtime.model
    alone, beside = (torch_raw(ways.torch, array[None], np.array([75]))[0] for array in (small, padded))
    centres = [model.priors(6, columns, torch.device("cpu"))[:, 0].numpy() for columns in (30, 40)]
    near = [centre < 16 * 10 for centre in centres]
    differences = [np.abs(a[near[0]] - b[near[1]]).max() for a, b in zip(alone, beside, strict=True)]
    assert differences[0] < SCORE
    assert max(differences[1:]) < PIXELS


def test_predictions_do_not_depend_on_the_number_of_threads(ways):
    batch, rates = made(5, 7, 8, [25, 75, 75])
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(torch_raw(ways.torch, batch, rates))
    score, pixels = largest(*found)
    assert score < SCORE
    assert pixels < PIXELS


def test_validation_and_detection_are_one_computation(ways):
    model = ways.torch.runtime.model
    array = latent(7, 6, 5)
    (validated,) = predict(model, torch.from_numpy(array).float()[None], torch.tensor([75]))
    detected = ways.torch(array, 75, confidence=0.02)
    for name in ("boxes", "scores", "landmarks"):
        assert np.array_equal(getattr(validated, name), getattr(detected, name))


def measure(folder: Path, count: int = 100) -> dict[str, dict[str, float]]:
    """The largest differences over `count` random batches, of the JPEG AI weights that come along."""
    weight = pretrained("jpegai")
    ways = Ways(weight, run(ExportConfig(str(weight), out=str(folder / "model.onnx"))))
    random = np.random.default_rng(0)
    found = {"torch_against_onnx": (0.0, 0.0), "batch_of_8_against_singles": (0.0, 0.0)}
    for number in range(count):
        rows, columns = (int(side) for side in random.integers(1, 21, 2))
        case = made(10_000 + 8 * number, rows, columns, random.choice(ways.torch.rates, 8).tolist())
        for name, way in (
            ("torch_against_onnx", ways.torch_against_onnx),
            ("batch_of_8_against_singles", ways.batch_against_singles),
        ):
            found[name] = tuple(map(max, found[name], way(*case)))  # type: ignore[assignment]
    return {
        name: {"score": float(f"{score:.2g}"), "pixels": float(f"{pixels:.2g}"), "batches": count}
        for name, (score, pixels) in found.items()
    }


if __name__ == "__main__":
    import tempfile

    record = Path(__file__).resolve().parents[2] / "records" / "reliability.json"
    content = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        content.setdefault("sameness", {}).update(measure(Path(folder)))
    record.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
