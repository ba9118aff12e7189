"""Learning from a teacher: its file, its loss, and the pictures that it looks at."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from latentface.data.batches import SampleKey, collate
from latentface.data.encode import EncodeConfig, encode
from latentface.data.labels import PictureLabels, read_labels, write_labels
from latentface.data.latents import NestedLatentWiderFaceDataset
from latentface.data.manifest import read_manifest, write_manifest
from latentface.data.pack import PackConfig
from latentface.data.pack import run as pack
from latentface.data.pictures import find_pictures, read_picture, render, whole_row
from latentface.data.sizes import view_labels
from latentface.errors import LatentFaceError
from latentface.evaluation.average_precision import PictureResult, evaluate_pictures
from latentface.files import base_name
from latentface.model.checkpoint import load_checkpoint, save_checkpoint
from latentface.model.config import ModelConfig
from latentface.model.predict import predict
from latentface.model.retinaface import RetinaFace
from latentface.training.distillation import Distillation, feature_loss, output_loss
from latentface.training.setup import _averaged
from latentface.training.teacher import load_teacher


def test_features_are_compared_relative_to_the_teachers_variance_and_weighted_to_faces() -> None:
    goal = torch.tensor([[[[1.0, -1.0]]]])  # [1, 1, 1, 2]: variance 2 (unbiased)
    level = torch.tensor([[[[1.0, 1.0]], [[9.0, 9.0]]]])  # a second channel of its own, which is not looked at
    face = torch.tensor([[0.0, 0.0, 0.5, 1.0]])  # two priors at each of two positions: 0 and 1 at most
    # squared errors 0 and 4: mean 2, where faces are 4; (2 + 4) / (2 * 2)
    assert feature_loss([level], [goal], face).item() == pytest.approx(1.5)


def test_outputs_by_hand() -> None:
    face = torch.tensor([[0.8, 0.1]])
    odds = torch.tensor([[0.0, 0.0]])  # the student says 0.5 to both
    scores = torch.stack([torch.zeros(1, 2), odds], dim=-1)
    predictions = {"scores": scores, "boxes": torch.zeros(1, 2, 4), "landmarks": torch.zeros(1, 2, 10)}
    goals = {"boxes": torch.full((1, 2, 4), 2.0), "landmarks": torch.zeros(1, 2, 10)}
    classes = (0.3**2 * math.log(2) + 0.4**2 * math.log(2)) / 1.0  # weights sum to 0.9, at least 1 divides
    boxes = 0.8 * 4 * 1.5 / 1.0  # smooth L1 of 2 is 1.5; the second prior is not sure enough to count
    assert output_loss(predictions, goals, face).item() == pytest.approx(classes + boxes)


def test_an_equal_student_is_told_nothing() -> None:
    torch.manual_seed(0)
    levels = [torch.randn(2, 3, side, side) for side in (4, 2, 1)]
    odds = torch.full((2, 2 * 21), 40.0)  # sure of everything: no entropy is left
    scores = torch.stack([torch.zeros_like(odds), odds], dim=-1)
    outputs = {"scores": scores, "boxes": torch.randn(2, 42, 4), "landmarks": torch.randn(2, 42, 10)}
    assert feature_loss(levels, levels, torch.sigmoid(odds)).item() == 0
    assert output_loss(outputs, outputs, torch.sigmoid(odds)).item() == pytest.approx(0, abs=1e-6)


def test_a_published_detector_finds_the_faces_of_real_pictures(shared: Path) -> None:
    teacher = load_teacher(shared / "peers" / "retinaface_mobilenet025.pth")
    labels = read_labels(shared / "wider" / "dev" / "labels.txt")
    results = []
    for path in find_pictures(shared / "wider" / "dev" / "images")[::16]:
        rgb = read_picture(path)
        row = whole_row(path.name, rgb.shape[1], rgb.shape[0], 320, "pad", 16)
        picture = torch.from_numpy(render(rgb, row)).permute(2, 0, 1)[None].float()
        faces = predict(teacher, picture, torch.zeros(1))[0]
        truth = view_labels(labels[base_name(path.name)], row)
        result = PictureResult(faces.boxes, faces.scores, faces.landmarks, truth.boxes, truth.landmarks, truth.ignore)
        results.append(result)
    assert evaluate_pictures(results, min_height=16).ap > 0.6  # of 31 pictures at half the usual size; 0.0 if miswired


def test_files_that_are_no_teachers(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "latents.pth", RetinaFace(ModelConfig("light", "shuffle")), {})
    with pytest.raises(LatentFaceError, match=r"--teacher .*: a detector of latents; a teacher looks at pictures"):
        load_teacher(tmp_path / "latents.pth")
    torch.save({"module.body.stage1.0.0.weight": torch.zeros(8, 3, 3, 3)}, tmp_path / "other.pth")
    with pytest.raises(LatentFaceError, match="is missing"):
        load_teacher(tmp_path / "other.pth")


def test_samples_hold_the_picture_that_was_encoded(drawn_photographs: Path) -> None:
    options = {"rates": (75,), "photographs": drawn_photographs / "photos" / "train"}
    dataset = NestedLatentWiderFaceDataset.of_split(drawn_photographs / "train", **options)
    from latentface.codecs.dct import DctCodec

    for index, picture in enumerate(dataset.pictures):
        sample = dataset[index]
        again = DctCodec().encode_rates(sample.picture, [75], picture.row.content_width * picture.row.content_height)[0]
        np.testing.assert_array_equal(again.array, sample.latent)
    batch = collate([dataset[0], dataset[1]])
    np.testing.assert_array_equal(batch.pictures[1].numpy(), dataset[1].picture.transpose(2, 0, 1))


def test_a_crop_of_cells_is_the_same_part_of_the_picture(drawn_photographs: Path) -> None:
    options = {"rates": (75,), "photographs": drawn_photographs / "photos" / "train", "crop": 2}
    dataset = NestedLatentWiderFaceDataset.of_split(drawn_photographs / "train", **options)
    whole = dataset[0]
    part = dataset[SampleKey(0, epoch=3)]
    places = [(y, x) for y in range(5) for x in range(5)]
    found = [
        (y, x) for y, x in places
        if np.array_equal(whole.latent[:, y : y + 2, x : x + 2], part.latent)
        and np.array_equal(whole.picture[16 * y : 16 * y + 32, 16 * x : 16 * x + 32], part.picture)
    ]  # fmt: skip
    assert len(found) == 1


def test_photographs_that_are_missing(drawn_photographs: Path, drawn_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(LatentFaceError, match="no photograph of"):
        NestedLatentWiderFaceDataset.of_split(drawn_photographs / "train", photographs=tmp_path)
    with pytest.raises(LatentFaceError, match="no manifest says where it lies"):
        NestedLatentWiderFaceDataset.of_split(
            drawn_dataset / "train", photographs=drawn_photographs / "photos" / "train"
        )


def test_pictures_may_be_ready_made(drawn_photographs: Path, tmp_path: Path) -> None:
    files = drawn_photographs / "photos" / "train"
    sizes = {"images": str(files), "size": 64, "crops": 2, "workers": 1}
    encode(EncodeConfig(**sizes, out=str(tmp_path / "latents"), rates=(75,), seed=3))
    pixels = {"codec": "pixels", "dtype": "uint8"}
    encode(EncodeConfig(**sizes, **pixels, out=str(tmp_path / "pixels"), seed=3))
    encode(EncodeConfig(**sizes, **pixels, out=str(tmp_path / "others"), seed=4))
    encode(EncodeConfig(**sizes | {"size": 80}, **pixels, out=str(tmp_path / "larger"), seed=3))
    encode(EncodeConfig(**sizes, **pixels, out=str(tmp_path / "wider"), crop_range=(0.9, 1.0), seed=3))
    half = read_manifest(tmp_path / "pixels" / "latents.jsonl")[base_name(find_pictures(files)[0].name)].scale_x / 2
    changed = {"narrow": {"scale_x": half, "pad_right": 32}, "elsewhere": {"source_width": 999}}
    for name, changes in changed.items():
        shutil.copytree(tmp_path / "pixels", tmp_path / name)
        rows = read_manifest(tmp_path / name / "latents.jsonl").values()
        write_manifest(tmp_path / name / "latents.jsonl", [replace(row, **changes) for row in rows])
    names = [row.name for row in read_manifest(tmp_path / "latents" / "latents.jsonl").values()]
    empty = np.zeros((0, 4)), np.zeros((0, 5, 2)), np.zeros(0, bool)
    write_labels(tmp_path / "latents" / "labels.txt", [PictureLabels(name, *empty) for name in names])
    rendered, ready = (
        NestedLatentWiderFaceDataset.of_split(tmp_path / "latents", photographs=folder)
        for folder in (files, tmp_path / "pixels")
    )
    assert len(rendered) == 3 * len(list(files.glob("*.png")))
    for index in range(len(rendered)):
        np.testing.assert_array_equal(ready[index].picture, rendered[index].picture)
    write_labels(tmp_path / "pixels" / "labels.txt", [PictureLabels(name, *empty) for name in names])
    shutil.copytree(tmp_path / "pixels", tmp_path / "root" / "train")
    for dtype in ("float16", "int8"):
        pack(PackConfig(str(tmp_path / "root"), out=str(tmp_path / dtype), dtype=dtype, rates=(0,), splits=("train",)))
        packed = NestedLatentWiderFaceDataset.of_split(tmp_path / "latents", photographs=tmp_path / dtype / "train")
        off = np.abs(packed[0].picture.astype(int) - rendered[0].picture)
        assert off.max() <= (0 if dtype == "float16" else 2)
    encode(EncodeConfig(**sizes, out=str(tmp_path / "decoded"), rates=(75,), decoded=True, dtype="uint8", seed=3))
    (tmp_path / "pixels" / "latent" / base_name(names[0]) / "latent_0.npy").unlink()
    for folder, said in (
        ("others", "is not the view that the latent is of; encode it with the same --crop_range and --seed"),
        ("wider", "encode it with the same --crop_range and --seed"),
        ("larger", "encode it with the same --size$"),
        ("narrow", "encode it with the same --fit$"),
        ("elsewhere", "encode it with the same photographs, --size$"),
        ("latents", "holds no uncompressed"),
        ("decoded", "holds no uncompressed"),
        ("pixels", f"holds no uncompressed {base_name(names[0])} "),
        ("root", "a dataset, not photographs; name its split of pixels, .*root/train"),
    ):
        with pytest.raises(LatentFaceError, match=f"{folder}: .*{said}"):
            NestedLatentWiderFaceDataset.of_split(tmp_path / "latents", photographs=tmp_path / folder)


def test_the_moving_average_by_hand() -> None:
    average, latest = [torch.tensor([0.0]), torch.tensor([10.0])], [torch.tensor([1.0]), torch.tensor([20.0])]
    _averaged(0.5, average, latest, torch.tensor(1))  # early: decay 2 / 11
    assert [value.item() for value in average] == pytest.approx([9 / 11, 200 / 11])
    _averaged(0.5, average, latest, torch.tensor(100))
    assert [value.item() for value in average] == pytest.approx([10 / 11, 210 / 11])
    counts = [torch.tensor(3)]
    _averaged(0.5, counts, [torch.tensor(7)], torch.tensor(100))
    assert counts[0].item() == 7


def test_a_student_is_taught_averaged_and_resumed(drawn_photographs: Path, tmp_path: Path) -> None:
    from latentface.training.config import TrainConfig
    from latentface.training.journal import read_rows
    from latentface.training.loop import train

    torch.manual_seed(0)
    teacher = tmp_path / "twin.pth"
    save_checkpoint(teacher, RetinaFace(ModelConfig("light", input="picture", channels=3, stride=1)), {})

    def settings(epochs: int, out: Path, resume: bool = False) -> TrainConfig:
        return TrainConfig(
            dataset_root=str(drawn_photographs), model="light", bridge="deep", projection=32, no_wandb=True, workers=0,
            teacher=str(teacher), photographs=str(drawn_photographs / "photos" / "train"), average=0.5, epochs=epochs,
            batch_size=4, resume=str(out) if resume else "", out="" if resume else str(out), precision="float32",
            schedule="step", optimizer="adamw", warmup=0.0,
        )  # fmt: skip

    train(settings(2, tmp_path / "whole"))
    train(settings(1, tmp_path / "parts"))
    train(settings(2, tmp_path / "parts", resume=True))
    one, two = (load_checkpoint(tmp_path / name / "weight_final.pth") for name in ("whole", "parts"))
    assert all(torch.equal(one.state[name], two.state[name]) for name in one.state)
    row = read_rows(tmp_path / "whole" / "metrics.jsonl")[-1]
    assert row["loss_features"] > 0
    assert row["loss_outputs"] > 0
    trained = torch.load(tmp_path / "whole" / "state.pth", weights_only=True)["model"]
    assert not torch.equal(trained["entry.block.conv1.weight"], one.state["entry.block.conv1.weight"])  # the average


def test_a_teacher_that_is_wider_than_the_student(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "twin.pth", RetinaFace(ModelConfig("resnet18", input="picture")), {})
    distillation = Distillation(load_teacher(tmp_path / "twin.pth"))
    distillation.check(ModelConfig("resnet50"))
    with pytest.raises(LatentFaceError, match="neck of 128 channels, light one of 64"):
        distillation.check(ModelConfig("light", "shuffle"))
    levels, outputs = distillation.look(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), torch.device("cpu"))
    assert [tuple(level.shape) for level in levels] == [(1, 128, 8, 8), (1, 128, 4, 4), (1, 128, 2, 2)]
    assert outputs["scores"].shape == (1, 168, 2)


def test_teacher_and_photographs_belong_together() -> None:
    from latentface.training.config import TrainConfig

    with pytest.raises(LatentFaceError, match="--teacher and --photographs belong together"):
        TrainConfig(teacher="twin.pth")
