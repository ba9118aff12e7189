"""What only a GPU can show: the numbers of the processor again; training, evaluation and the bench at work there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from latentface.apps.drawing import draw_picture
from latentface.cli import main
from latentface.codecs.base import RATES
from latentface.codecs.jpegai import JpegAiCodec
from latentface.data.encode import EncodeConfig, encode
from latentface.data.labels import PictureLabels, read_labels, write_labels
from latentface.data.manifest import read_manifest
from latentface.inference.detector import Detector
from latentface.inference.draw import save_picture
from latentface.model.config import ModelConfig
from latentface.model.loss import MultiTaskLoss, Targets
from latentface.model.retinaface import RetinaFace
from latentface.training.config import TrainConfig
from latentface.training.journal import read_rows
from latentface.training.loop import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`photographs/`, drawn, and `labels.txt` with their faces."""
    folder = tmp_path_factory.mktemp("drawn")
    (folder / "photographs").mkdir()
    labels = []
    for number in range(6):
        picture = draw_picture(np.random.default_rng(number), 200, 160, faces=4)
        save_picture(folder / "photographs" / f"drawn_{number}.png", picture.rgb)
        ignore = np.zeros(len(picture.boxes), bool)
        labels.append(PictureLabels(f"drawn_{number}.png", picture.boxes, picture.landmarks, ignore))
    write_labels(folder / "labels.txt", labels)
    return folder


def _encode(drawn: Path, out: Path, **options) -> None:
    images, labels = str(drawn / "photographs"), str(drawn / "labels.txt")
    encode(EncodeConfig(images=images, labels=labels, out=str(out), size=160, crops=2, **options))


@pytest.fixture(scope="module")
def dataset(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    for split in ("train", "val"):
        _encode(drawn, folder / split, rates=(50, 75), workers=1)
    return folder


@pytest.mark.parametrize("decoded", [False, True])
def test_pictures_are_encoded_as_on_the_processor(drawn: Path, shared: Path, tmp_path: Path, decoded: bool) -> None:
    options = {"codec": "jpegai", "codec_weights": str(shared / "jpegai"), "decoded": decoded, "workers": 2}
    for device in ("cpu", "cuda"):
        _encode(drawn, tmp_path / device, device=device, **options)
    rows, on_gpu = (read_manifest(tmp_path / device / "latents.jsonl") for device in ("cpu", "cuda"))
    assert rows.keys() == on_gpu.keys()
    assert len(rows) == 18
    worst = 2 if decoded else 1e-3  # grey levels, where a symbol differs; else all but rounding edges are the same
    for name, row in rows.items():
        for rate in RATES:
            ours, theirs = (
                np.load(tmp_path / device / "latent" / name / f"latent_{rate}.npy").astype(np.float32)
                for device in ("cuda", "cpu")
            )
            assert np.mean(np.abs(ours - theirs) > worst) < 5e-3
            assert on_gpu[name].latents[rate].bpp == pytest.approx(row.latents[rate].bpp, rel=1e-2)


def test_float32_codecs_do_not_round_to_tf32(shared: Path) -> None:
    picture = draw_picture(np.random.default_rng(0), 160, 160, faces=3).rgb
    on_gpu, on_cpu = (
        JpegAiCodec(shared / "jpegai", device).encode_unquantised(picture, 2).array for device in ("cuda", "cpu")
    )
    assert np.abs(on_gpu - on_cpu).max() < 1e-4 * on_cpu.std()


@pytest.mark.parametrize(("precision", "pixels"), [("float32", 0.5), ("float16", 2), ("bfloat16", 6)])
def test_the_same_faces_are_found(dataset: Path, precision: str, pixels: float) -> None:
    name = read_labels(dataset / "val" / "labels.txt").popitem()[0]
    latent = np.load(dataset / "val" / "latent" / name / "latent_75.npy")
    on_cpu, on_gpu = (
        Detector.pretrained("dct", device=device, precision=kind)(latent, rate=75, confidence=0.1)
        for device, kind in (("cpu", "float32"), ("cuda", precision))
    )
    sure = on_cpu.boxes[on_cpu.scores > 0.3]
    assert len(sure)
    assert np.abs(sure[:, None] - on_gpu.boxes).max(axis=2).min(axis=1).max() < pixels


def _settings(dataset: Path, **more) -> TrainConfig:
    usual = {"model": "light", "bridge": "shuffle", "rates": (50, 75), "batch_size": 6, "epochs": 1, "device": "cuda"}
    return TrainConfig(**usual | {"dataset_root": str(dataset), "no_wandb": True, "workers": 0} | more)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_training(dataset: Path, tmp_path: Path, precision: str) -> None:
    losses = {}
    for device in ("cpu", "cuda"):
        places = {"device": device, "precision": precision if device == "cuda" else "float32"}
        train(_settings(dataset, out=str(tmp_path / device), epochs=2, workers=2, **places))
        losses[device] = [row["loss"] for row in read_rows(tmp_path / device / "metrics.jsonl")]
    assert losses["cuda"][0] == pytest.approx(losses["cpu"][0], rel=0.02 if precision == "float32" else 0.1)
    assert losses["cuda"][1] < losses["cuda"][0]


def test_a_run_continues_on_the_gpu(dataset: Path, tmp_path: Path) -> None:
    train(_settings(dataset, average=0.9, out=str(tmp_path / "run")))
    train(_settings(dataset, average=0.9, resume=str(tmp_path / "run"), epochs=2))
    assert [row["epoch"] for row in read_rows(tmp_path / "run" / "metrics.jsonl")] == [1, 2]


def test_a_compiled_network_learns_alike(dataset: Path, tmp_path: Path) -> None:
    losses = []
    for compiled in (False, True):
        out = tmp_path / str(compiled)
        train(_settings(dataset, out=str(out), precision="float32", compile=compiled))
        losses.append(read_rows(out / "metrics.jsonl")[0]["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_a_resnet50_trains_in_15_gb() -> None:
    """A batch of eight latents of 640x640 photographs, mixed precision, as two T4 would take it."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    model = RetinaFace(ModelConfig("resnet50", "bilinear")).cuda().train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    boxes = torch.tensor([[[100.0, 100, 200, 220]]]).repeat(8, 1, 1)
    flags = torch.ones(8, 1, dtype=torch.bool)
    targets = Targets(boxes, torch.full((8, 1, 10), torch.nan), flags, ~flags).to(torch.device("cuda"))
    for _ in range(3):
        with torch.autocast("cuda", dtype=torch.float16):
            predictions = model(torch.randn(8, 256, 40, 40, device="cuda"), torch.full((8,), 75, device="cuda"))
        MultiTaskLoss()(predictions, targets, model.priors(40, 40, torch.device("cuda")))["total"].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert torch.cuda.max_memory_allocated() < 14e9


def test_evaluation_and_the_bench(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--dataset_root", str(dataset), "--rates", "50", "75", "--device", "cuda"]
    assert main(["evaluate", *arguments, "--out", str(tmp_path / "scores")]) == 0
    rates = json.loads((tmp_path / "scores" / "evaluation.json").read_text())["rates"]
    assert rates["75"]["all"]["ap"] > 0.1
    parts = ["limits", "detection", "bridges", "postprocessing", "training", "compile"]
    out = ["--out", str(tmp_path / "bench"), "--machine", "gpu"]
    assert main(["bench", "--quick", "--device", "cuda:0", *out, "--parts", *parts]) == 0, capsys.readouterr().err
    assert [*json.loads((tmp_path / "bench" / "bench_gpu.json").read_text())["rows"]] == parts
