"""`latentface bench`: every stage beside what a user would do instead, measured in turn in one run.

Each row has two sides. They run alternately, so that what slows the machine down slows both down; the ratio is the
median over the rounds, with its quartiles. Networks have random weights that see no face (their cost does not depend
on the weights); the accuracy of what is timed here is another command's business (`latentface evaluate`).
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

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
from latentface.files import make_folder, replacing
from latentface.inference.detector import Detector
from latentface.inference.draw import save_picture
from latentface.inference.export import feed, quantise
from latentface.inference.graph import write_graph
from latentface.inference.runtime import TorchRuntime
from latentface.machine import cores, keep_memory, versions
from latentface.model.checkpoint import Checkpoint, save_checkpoint
from latentface.model.config import RESNETS, ModelConfig, fits
from latentface.model.cost import gmac
from latentface.model.retinaface import RetinaFace
from latentface.options import option

FAST_BRIDGE = "stride8"  # of the bridges for a ResNet, the one that the table shows beside the documented one
PARTS = (
    "limits",
    "detection",
    "bridges",
    "postprocessing",
    "training",
    "compile",
    "reading",
    "supply",
    "encode",
    "wider",
    "memory",
)


@dataclass
class BenchConfig:
    """Measures every stage beside what one would do instead; writes a JSON file and a Markdown table."""

    dataset_root: str = option("", "dataset with real latents (its val split is used); empty: drawn pictures by dct")
    rate: int = option(75, "rate of the latents looked at")
    codec: str = option("", "codec that decodes them, where no manifest says it", choices=("", *CODECS))
    codec_weights: str = option("", "folder of the codec's networks (jpegai)")
    photographs: str = option("", "folder of photographs to encode; empty: drawn ones")
    wider_predictions: str = option(
        "", "folder of prediction files, to time WIDER evaluation, which needs all of --wider_...; empty: not timed"
    )
    wider_ground_truth: str = option("", "folder of the official wider_*_val.mat files")
    wider_reference: str = option("", "built folder with the reference's evaluation.py")
    wider_python: str = option("python3", "Python that it was built for")
    parts: tuple[str, ...] = option(PARTS, "what to measure", choices=PARTS)
    backbone: str = option("resnet50", "backbone of the pixel side and of the large model")
    models: tuple[str, ...] = option((), "of detection, only models of these backbones; empty: all")
    rounds: int = option(7, "how often each pair is measured")
    samples: int = option(2000, "very small samples on which the memory of whole commands is measured")
    threads: int = option(0, "threads of every network; 0: one per core")
    device: str = option("cpu", "where networks run, e.g. cuda:0")
    quick: bool = option(False, "small pictures, two rounds: only to see that everything runs")
    out: str = option("records", "folder for bench_<machine>.json and bench_<machine>.md")
    machine: str = option("", "name of the machine in the files' names; empty: its processor, or the GPU of --device")


def run(config: BenchConfig) -> Path:
    """Measures the wanted parts one after another; what is done is kept in the file as it comes."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler talks to itself
    torch.set_num_threads(config.threads or cores())
    keep_memory()  # as training and detection do; else reading would be faster after a part that has a network
    out = make_folder(config.out, "--out")
    name = config.machine or _device_name(config.device).lower().replace(" ", "_")
    target = out / f"bench_{name}.json"
    result, with_what = _earlier(target) | _about(), _with_what(config)
    rows: dict[str, list[dict[str, Any]]] = result.setdefault("rows", {})
    for part in config.parts:
        print(f"{part} ...", flush=True)
        found = [row.plain() if isinstance(row, Row) else row for row in MEASURES[part](config)]
        found = [row | {"measured_with": with_what} for row in found]
        again = {row["item"] for row in found}
        if found:
            rows[part] = [row for row in rows.get(part, []) if row["item"] not in again] + found
        _write(target, result)
        print(table(found), flush=True)
    print(f"{target}\n{target.with_suffix('.md')}")
    return target


def _earlier(target: Path) -> dict[str, Any]:
    """Rows of an earlier run on this machine stay until they are measured again."""
    return json.loads(target.read_text(encoding="utf-8")) if target.is_file() else {}


def _device_name(device: str) -> str:
    gpu = torch.device(device).type == "cuda"
    return torch.cuda.get_device_name(device) if gpu else platform.processor() or platform.machine()


def _about() -> dict[str, Any]:
    processor = next((line for line in _cpuinfo() if line.startswith("model name")), platform.processor())
    return {
        "machine": {"processor": processor.split(":")[-1].strip(), "cores": cores(), "system": platform.system()},
    }


def _with_what(config: BenchConfig) -> dict[str, Any]:
    """Kept with every row, as rows of one file may come from several runs."""
    return {
        "device": _device_name(config.device),
        "threads": torch.get_num_threads(),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", ""),  # whether threads that wait spin or sleep
        "settings": {name: getattr(config, name) for name in ("rate", "rounds", "backbone", "quick")},
        "versions": versions("numpy", "onnxruntime", "safetensors"),
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def _write(target: Path, result: dict[str, Any]) -> None:
    with replacing(target) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    with replacing(target.with_suffix(".md")) as temporary:
        temporary.write_text(table([row for rows in result["rows"].values() for row in rows]) + "\n", encoding="utf-8")


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as Markdown: both sides in milliseconds, the ratio with its quartiles, what it should reach at least."""
    lines = ["| item | ms | against | ms | ratio (quartiles) | at least |", "|---|---|---|---|---|---|"]
    for row in rows:
        if "comparison" not in row:
            continue
        c = row["comparison"]
        goal = f"{row['at_least']:g}" if row["at_least"] else ""
        lines.append(
            f"| {row['item']} | {1000 * c['seconds']:.1f} | {row['against']} | {1000 * c['against_seconds']:.1f} | "
            f"{c['ratio']:.2f} ({c['spread'][0]:.2f} to {c['spread'][1]:.2f}) | {goal} |"
        )
    return "\n".join(lines)


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
