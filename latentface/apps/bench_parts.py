"""The parts of `latentface bench`: which rows each of them measures, on which material."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latentface.apps.bench_config import BenchConfig
from latentface.apps.bench_networks import (
    Material,
    bridge_rows,
    latent_against_pixels,
    network_figures,
    postprocessing_row,
    random_model,
)
from latentface.apps.bench_reading import reading_rows
from latentface.apps.bench_timing import Row, matrix_throughput
from latentface.apps.bench_tools import batch_row, encode_row, folder_facts, help_seconds, memory_facts, wider_row
from latentface.apps.bench_training import compile_row, supply_row, training_row
from latentface.apps.drawing import draw_picture
from latentface.codecs import CODECS, PRECISIONS, open_codec
from latentface.codecs.base import BatchCodec
from latentface.data.labels import PictureLabels, write_labels
from latentface.data.latents import NestedLatentWiderFaceDataset
from latentface.data.pack import PackConfig
from latentface.data.pack import run as pack
from latentface.data.stores import PACK_NAME
from latentface.errors import LatentFaceError
from latentface.inference.detector import Detector
from latentface.inference.draw import save_picture
from latentface.inference.export import feed, quantise
from latentface.inference.graph import write_graph
from latentface.inference.runtime import TorchRuntime
from latentface.machine import cores
from latentface.model.checkpoint import Checkpoint, save_checkpoint
from latentface.model.config import RESNETS, ModelConfig, fits
from latentface.model.cost import gmac
from latentface.model.retinaface import RetinaFace

FAST_BRIDGE = "stride8"  # the fast one of a ResNet before `layer3` was measured: its rows stay comparable


def material(config: BenchConfig) -> Material:
    """Real latents of the dataset's val split, else drawn pictures by `dct`."""
    if config.dataset_root:
        return _real_material(config)
    side, codec = (160 if config.quick else 640), open_codec("dct")
    pictures = [draw_picture(np.random.default_rng(number), side, side, faces=6).rgb for number in range(4)]
    arrays = [codec.encode(picture, config.rate).array for picture in pictures]
    return Material(torch.from_numpy(np.stack(arrays)), config.rate, [None] * len(arrays), codec)


def _real_material(config: BenchConfig, pictures: int = 8) -> Material:
    dataset = NestedLatentWiderFaceDataset.of_split(Path(config.dataset_root) / "val", rates=(config.rate,))
    name = config.codec or dataset.codec
    if name not in CODECS:
        raise LatentFaceError(
            f"{config.dataset_root}: no manifest names the codec; give --codec, one of {', '.join(CODECS)}"
        )
    samples = [dataset[index] for index in range(min(pictures, len(dataset)))]
    rows = [picture.row for picture in dataset.pictures[: len(samples)]]
    shape = samples[0].latent.shape
    alike = [number for number, sample in enumerate(samples) if sample.latent.shape == shape]
    latents = torch.from_numpy(np.stack([samples[number].values for number in alike]))
    return Material(
        latents,
        config.rate,
        [rows[number] for number in alike],
        open_codec(name, config.codec_weights or None, config.device),
    )


def _detection(config: BenchConfig) -> Iterator[Row]:
    """Latent to faces in every runtime, beside decoding the same latents and the picture-input twin."""
    given = material(config)
    twin = random_model(ModelConfig(config.backbone, input="picture")).to(config.device)
    rates = torch.tensor([given.rate])
    picture_work = gmac(twin, given.decode(1).to(config.device), rates.to(config.device))
    channels, stride = given.latents.shape[1], given.codec.stride
    models = [
        (config.backbone, "bilinear", 0, 2.0, None),
        (config.backbone, FAST_BRIDGE, 0, 2.0, 5.0),
        (config.backbone, "layer3", 128, 2.0, 5.0),  # as for several rates
        ("mobilenet", "refined", 128, None, 20.0),  # as the weights that come along
        ("light", "shuffle", 0, None, 20.0),
    ]
    with tempfile.TemporaryDirectory() as folder:
        for backbone, bridge, projection, plain_goal, best_goal in models[-1:] if config.quick else models:
            if (config.models and backbone not in config.models) or not fits(backbone, bridge):
                continue
            shape = ModelConfig(backbone, bridge, "latent", channels, stride, projection=projection)
            model = random_model(shape)
            work = gmac(model, given.batch(1), rates)
            for name, detector in _runtimes(model, given, Path(folder), config):
                goal = plain_goal if name == "torch float32" else best_goal
                goal = goal if config.backbone == "resnet50" else None  # what the goals were set against
                for batch in (1, 8):
                    row = _detection_row(detector, given, twin, f"{backbone}, {bridge}, {name}", batch, goal, config)
                    row.facts.update(gmac=work, against_gmac_without_decoder=picture_work, projection=projection)
                    yield row


def _detection_row(
    detector: Detector,
    given: Material,
    twin: RetinaFace,
    name: str,
    batch: int,
    goal: float | None,
    config: BenchConfig,
) -> Row:
    def ours(latents: torch.Tensor) -> None:
        detector(list(latents), rate=given.rate, batch_size=batch)

    rounds = config.rounds if batch == 1 else max(1, config.rounds // 2)
    comparison = latent_against_pixels(given, ours, twin, batch=batch, rounds=rounds, device=config.device)
    facts = {"batch": batch, "pictures_per_second": batch / comparison.seconds}
    if config.device != "cpu":
        torch.cuda.reset_peak_memory_stats(config.device)
        before = torch.cuda.memory_allocated(config.device)
        ours(given.batch(batch))
        facts["peak_gpu_mb_beside_weights"] = (torch.cuda.max_memory_allocated(config.device) - before) / 1e6
    against = f"{given.codec.name} decoding, {twin.config.backbone} on pictures"
    return Row(f"latent to faces: {name}, batch {batch}", against, comparison, goal if batch == 1 else None, facts)


def _runtimes(model: RetinaFace, given: Material, folder: Path, config: BenchConfig) -> Iterator[tuple[str, Detector]]:
    """The same model in everything that can run it here."""
    facts = {"rates": [given.rate]}
    checkpoint = Checkpoint(model.config, model.state_dict(), facts)
    yield "torch float32", Detector(TorchRuntime(checkpoint, config.device))
    yield "torch bfloat16", Detector(TorchRuntime(checkpoint, config.device, "bfloat16"))
    if config.device != "cpu" or find_spec("onnx") is None or find_spec("onnxruntime") is None:
        return
    path = folder / "model.onnx"
    write_graph(model, facts, path)
    yield "ONNX Runtime float32", Detector.load(path)
    quantise(path, [feed(latent[None].numpy(), given.rate) for latent in given.latents])
    yield "ONNX Runtime int8", Detector.load(path)


def _limits(config: BenchConfig) -> Iterator[dict[str, Any]]:
    """What the machine can do at most, and what each network makes of it."""
    limits = matrix_throughput(512 if config.quick else 2048, device=config.device)
    yield {"item": "matrix product", "gmac_per_second": limits}
    given = material(config)
    latent, rates = given.batch(1), torch.tensor([given.rate])
    channels, stride = latent.shape[1], given.codec.stride
    picture = given.decode(1)
    for backbone, bridge, kind in _networks(config):
        model = random_model(ModelConfig(backbone, bridge, kind, channels, stride)).to(config.device)
        inputs = ((picture if kind == "picture" else latent).to(config.device), rates.to(config.device))
        figures = network_figures(model, inputs, limits["float32"], rounds=config.rounds, device=config.device)
        yield {
            "item": f"{backbone} on {kind}s, {bridge} bridge" if kind == "latent" else f"{backbone} on pictures"
        } | figures
    yield {"item": "latentface --help", "seconds": help_seconds(config.rounds), "at_most": 0.3}


def _networks(config: BenchConfig) -> list[tuple[str, str, str]]:
    latent = [
        ("light", "shuffle", "latent"),
        ("resnet18", FAST_BRIDGE, "latent"),
        (config.backbone, FAST_BRIDGE, "latent"),
    ]
    return [*latent, (config.backbone, "bilinear", "picture")]


def _bridges(config: BenchConfig) -> list[Row]:
    backbones = RESNETS[:1] if config.quick else RESNETS
    return bridge_rows(material(config), rounds=config.rounds, device=config.device, backbones=backbones)


def _training(config: BenchConfig) -> Iterator[Row]:
    latents = material(config).batch(2 if config.quick else 8)
    networks = [("resnet18", "bilinear"), ("resnet18", FAST_BRIDGE)]
    if config.device != "cpu":
        networks.append((config.backbone, "bilinear"))
    for backbone, bridge in [("light", "shuffle")] if config.quick else dict.fromkeys(networks):
        yield training_row(latents, config.device, backbone=backbone, bridge=bridge, rounds=config.rounds)


def _compile(config: BenchConfig) -> Iterator[Row]:
    latents = material(config).batch(2 if config.quick else 8)
    backbone, bridge = ("light", "shuffle") if config.quick else ("resnet18", FAST_BRIDGE)
    try:
        yield compile_row(latents, config.device, backbone=backbone, bridge=bridge, rounds=config.rounds)
    except Exception as error:  # torch has many ways to say that a compiler is missing
        reason = str(error).partition("\n")[0]
        print(f"note: torch.compile does not work here, so it is left out ({type(error).__name__}: {reason})")


def _postprocessing(config: BenchConfig) -> Iterator[Row]:
    latents = material(config).batch(1)
    model = random_model(ModelConfig("light", "shuffle", channels=latents.shape[1])).to(config.device)
    for confidence in (0.5, 0.02):
        yield postprocessing_row(model, latents, rounds=5 * config.rounds, device=config.device, confidence=confidence)


def _encode(config: BenchConfig) -> Iterator[Row]:
    name = config.codec or ("jpegai" if config.codec_weights else "dct")
    on_gpu = config.device != "cpu"
    processes = cores() if on_gpu else 2
    pictures = 4 if config.quick and not on_gpu else 12 * processes  # on a GPU each of them takes several at a time
    rounds = min(3, config.rounds)
    with tempfile.TemporaryDirectory() as folder:
        photographs = Path(config.photographs) if config.photographs else _drawn_photographs(Path(folder), pictures)
        codec = open_codec(name, config.codec_weights or None, config.device) if on_gpu else None
        if isinstance(codec, BatchCodec):
            yield batch_row(photographs, codec, rounds=config.rounds, device=config.device)
        for precision in PRECISIONS if name == "jpegai" else PRECISIONS[:1]:
            of = {"pictures": pictures, "rounds": rounds, "precision": precision}
            where = {"device": config.device, "processes": processes}
            yield encode_row(photographs, name, config.codec_weights, **of, **where)  # type: ignore[arg-type]


def _drawn_photographs(folder: Path, pictures: int) -> Path:
    for number in range(pictures):
        save_picture(folder / f"picture_{number}.png", draw_picture(np.random.default_rng(number), 640, 640, 6).rgb)
    return folder


def _wider(config: BenchConfig) -> Iterator[Row]:
    """Nothing where the files of the protocol are not given: there is no drawing them."""
    if config.wider_predictions and config.wider_ground_truth and config.wider_reference:
        predictions, truth = Path(config.wider_predictions), Path(config.wider_ground_truth)
        reference = Path(config.wider_reference)
        yield wider_row(predictions, truth, reference, config.wider_python, rounds=min(3, config.rounds))


def _memory(config: BenchConfig) -> Iterator[dict[str, Any]]:
    yield {"item": "memory of whole commands", **memory_facts(50 if config.quick else config.samples, print)}
    given = material(config)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = random_model(ModelConfig("light", "shuffle", channels=given.latents.shape[1]))
        facts = {"rates": [given.rate]}
        save_checkpoint(folder / "light.pth", model, facts)
        write_graph(model, facts, folder / "light.onnx")
        for weight in ("light.onnx", "light.pth"):
            yield {"item": f"detection in a folder, {weight}"} | folder_facts(
                given.latents, given.rate, folder / weight
            )


def _reading(config: BenchConfig) -> Iterator[Row | dict[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root, split = _larger_split(folder, config)
        packed = {}
        for dtype in ("int8", "float16"):
            out = folder / dtype
            pack(PackConfig(str(root), out=str(out), dtype=dtype, rates=(config.rate,), splits=(split,)))
            packed[dtype] = out / split
            info = json.loads((out / split / PACK_NAME).read_text(encoding="utf-8"))
            facts = {name: info["error"][name] for name in ("mean", "worst")}
            yield {"item": f"error of packing as {dtype}, deviations of a channel", **facts}
        for workers in (0, 2):
            yield from reading_rows(root / split, packed, rounds=config.rounds, workers=workers)


def _supply(config: BenchConfig) -> Iterator[Row]:
    """Reading beside training, by the network that reads fastest and by a ResNet."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root, split = _larger_split(folder, config)
        pack(PackConfig(str(root), out=str(folder / "int8"), dtype="int8", rates=(config.rate,), splits=(split,)))
        networks = (("light", "shuffle"), ("resnet18", FAST_BRIDGE))
        for backbone, bridge in networks[: 1 if config.quick else 2]:
            for workers in (0, 2) if config.device == "cpu" else (2, min(8, cores())):
                where = {"backbone": backbone, "bridge": bridge, "workers": workers, "rounds": config.rounds}
                yield supply_row(folder / "int8" / split, config.device, **where)  # type: ignore[arg-type]


def _larger_split(folder: Path, config: BenchConfig) -> tuple[Path, str]:
    """Where the latents are: the given dataset, or a drawn one that is made in `folder`; train where there is one."""
    root = Path(config.dataset_root) if config.dataset_root else _drawn_tree(folder / "tree", config)
    return root, "train" if (root / "train" / "latent").is_dir() else "val"


def _drawn_tree(root: Path, config: BenchConfig, pictures: int = 32) -> Path:
    """A tree of the drawn material, each latent several times."""
    given, labels = material(config), []
    for number in range(pictures):
        folder = root / "val" / "latent" / f"picture_{number}"
        folder.mkdir(parents=True)
        np.save(folder / f"latent_{config.rate}.npy", given.latents[number % len(given.latents)].numpy())
        labels.append(PictureLabels(f"{folder.name}.jpg", np.zeros((0, 4)), np.zeros((0, 5, 2)), np.zeros(0, bool)))
    write_labels(root / "val" / "labels.txt", labels)
    return root


MEASURES: dict[str, Callable[[BenchConfig], Any]] = {
    "limits": _limits,
    "detection": _detection,
    "bridges": _bridges,
    "postprocessing": _postprocessing,
    "training": _training,
    "compile": _compile,
    "reading": _reading,
    "supply": _supply,
    "encode": _encode,
    "wider": _wider,
    "memory": _memory,
}
