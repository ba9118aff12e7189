"""What several tests share: the folder of real data, and a tiny dataset of drawn pictures."""

from __future__ import annotations

import os
import re
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from latentface.apps.drawing import draw_picture
from latentface.codecs.dct import DctCodec
from latentface.data.labels import PictureLabels, write_labels

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first, so that the other process is not left without work at the end."""
    items.sort(key=lambda item: item.path.name != "test_commands.py")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real photographs, networks and ground truth, which are no part of the project."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs ../shared, real data that is not part of the project")
    return folder


def unpack_predictions(shared: Path, folder: Path) -> None:
    """A published detector's prediction files, `folder/<event>/<name>.txt`."""
    with tarfile.open(shared / "widerface" / "predictions_mobilenet025.tar.xz") as archive:
        for member in archive:
            if content := archive.extractfile(member):
                path = folder.joinpath(*Path(member.name).parts[-2:])
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.read())


def write_tree(split: Path, pictures: int, rates: tuple[int, ...], seed: int, size: int = 128) -> Path:
    """A split of the documented tree: drawn pictures as dct latents, no manifest."""
    codec, labels = DctCodec(), []
    for number in range(pictures):
        picture = draw_picture(np.random.default_rng((seed, number)), size, size, faces=number % 3)
        name = f"drawn_{seed}_{number}"
        folder = split / "latent" / name
        folder.mkdir(parents=True)
        for latent in codec.encode_rates(picture.rgb, rates):
            np.save(folder / f"latent_{latent.rate}.npy", latent.array)
        ignore = np.zeros(len(picture.boxes), dtype=bool)
        labels.append(PictureLabels(f"event/{name}.jpg", picture.boxes, picture.landmarks, ignore))
    write_labels(split / "labels.txt", labels)
    return split


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A Ray cluster of this machine with two processors, which `--ray local` then takes."""
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'latentface[ray]'")
    path = {"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}}  # where functions of tests are found
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=path)
    yield
    ray.shutdown()


@pytest.fixture(params=["", "local"], ids=["processes", "ray"])
def where(request: pytest.FixtureRequest) -> str:
    """`Engine.ray`: both ways in which workers are run."""
    if request.param:
        request.getfixturevalue("ray_cluster")
    return request.param


@pytest.fixture(scope="session")
def drawn_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ROOT with train/ (7 pictures of 128x128) and val/ (3), rates 25 and 75."""
    root = tmp_path_factory.mktemp("drawn")
    write_tree(root / "train", 7, (25, 75), seed=1)
    write_tree(root / "val", 3, (25, 75), seed=2)
    return root


@pytest.fixture(scope="session")
def weights(drawn_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A light model after one epoch on the drawn pictures, rates 25 and 75."""
    from latentface.training.config import TrainConfig
    from latentface.training.loop import train

    settings = TrainConfig(
        dataset_root=str(drawn_dataset), out=str(tmp_path_factory.mktemp("run") / "run"), model="light",
        bridge="shuffle", epochs=1, no_wandb=True, workers=0, rates=(25, 75),
    )  # fmt: skip
    return train(settings) / "weight_final.pth"


@pytest.fixture(scope="session")
def exported(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The light model of rates 25 and 75 as float32 ONNX."""
    from latentface.inference.export import ExportConfig, run

    return run(ExportConfig(str(weights), out=str(tmp_path_factory.mktemp("export") / "model.onnx")))


@pytest.fixture(scope="session")
def drawn_photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ROOT with photos/train and train/: six drawn pictures and a crop of each, encoded by dct with a manifest."""
    from latentface.apps.demo import DemoConfig, draw_split
    from latentface.data.encode import EncodeConfig, encode

    root = tmp_path_factory.mktemp("photographs")
    settings = DemoConfig(out=str(root), pictures=6, held_out=1, size=96)
    draw_split(root / "photos" / "train", "train", 6, settings)
    images, labels = str(root / "photos" / "train"), str(root / "photos" / "train" / "labels.txt")
    encode(
        EncodeConfig(images=images, labels=labels, out=str(root / "train"), rates=(75,), size=96, crops=1, workers=1)
    )
    return root


@pytest.fixture(autouse=True)
def _threads() -> None:
    torch.set_num_threads(2)  # the same on every machine: sums depend on it


MOST = 200  # MB; the bombs here ask for gigabytes


@contextmanager
def _little_memory() -> Iterator[None]:
    """Fails where the block takes more than MOST megabytes at any time; looks away where that cannot be seen."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    try:
        reset.write_text("5")  # the highest so far is what there is now
        before = _megabytes(status, "VmHWM")
    except OSError:
        yield
        return
    yield
    assert _megabytes(status, "VmHWM") - before < MOST


def _megabytes(status: Path, name: str) -> float:
    found = re.search(rf"{name}:\s+(\d+) kB", status.read_text())
    assert found
    return int(found[1]) / 1000


@pytest.fixture
def little_memory():
    return _little_memory
