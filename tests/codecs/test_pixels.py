"""Pictures in place of latents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from latentface.apps.demo import DemoConfig, draw_split
from latentface.cli import main
from latentface.codecs.dct import DctCodec
from latentface.codecs.pixels import DecodedCodec, PixelCodec
from latentface.data.latents import NestedLatentWiderFaceDataset
from latentface.data.manifest import read_manifest
from latentface.data.pictures import find_pictures, read_picture, render
from latentface.model.checkpoint import load_checkpoint

RGB = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)


def test_a_picture_is_its_own_latent() -> None:
    latent = PixelCodec().encode(RGB)
    assert (latent.array.shape, latent.array.dtype, latent.bpp, latent.stride) == ((3, 32, 48), np.uint8, 24.0, 1)
    np.testing.assert_array_equal(latent.array[:, 5, 7], RGB[5, 7])
    np.testing.assert_array_equal(PixelCodec().decode(latent), RGB)
    assert PixelCodec().encode_rates(RGB, [0], pixels=32 * 48 // 2)[0].bpp == 24.0  # half of it is padding


def test_decoded_pictures_carry_the_codecs_bits() -> None:
    codec = DctCodec()
    for found, coded in zip(
        DecodedCodec(codec).encode_rates(RGB, [12, 75]), codec.encode_rates(RGB, [12, 75]), strict=True
    ):
        np.testing.assert_array_equal(found.array.transpose(1, 2, 0), codec.decode(coded))
        assert (found.bpp, found.rate, found.codec, found.stride) == (coded.bpp, coded.rate, "pixels", 1)


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ROOT with photos/train; train/ of their pixels and val/ of the same, decoded at rate 75."""
    root = tmp_path_factory.mktemp("pixels")
    draw_split(root / "photos" / "train", "train", 4, DemoConfig(out=str(root), pictures=4, held_out=1, size=64))
    photos = root / "photos" / "train"
    arguments = ["encode", "--images", str(photos), "--labels", str(photos / "labels.txt"), "--size", "64"]
    arguments += ["--dtype", "uint8", "--workers", "1"]
    assert main([*arguments, "--codec", "pixels", "--rates", "0", "--out", str(root / "train")]) == 0
    assert main([*arguments, "--codec", "dct", "--decoded", "--rates", "75", "--out", str(root / "val")]) == 0
    return root


def test_trees_of_pixels(pixels: Path) -> None:
    dataset = NestedLatentWiderFaceDataset.of_split(pixels / "train", rates=(0,))
    rows = read_manifest(pixels / "train" / "latents.jsonl")
    for path in find_pictures(pixels / "photos" / "train"):
        wanted = render(read_picture(path), rows[path.stem]).transpose(2, 0, 1)
        number = [picture.name for picture in dataset.pictures].index(path.stem)
        np.testing.assert_array_equal(dataset[number].latent, wanted)
    decoded = NestedLatentWiderFaceDataset.of_split(pixels / "val", rates=(75,))
    assert (decoded.codec, decoded.stride, decoded[0].latent.dtype) == ("pixels", 1, np.uint8)
    assert all(0.5 < row.latents[75].bpp < 1 for row in read_manifest(pixels / "val" / "latents.jsonl").values())


def test_the_twin_trains_on_originals_and_is_held_against_decoded_pictures(
    pixels: Path, capsys: pytest.CaptureFixture
) -> None:
    run = pixels / "run"
    train = [
        "train",
        "--dataset_root",
        str(pixels),
        "--val_latent_dir",
        str(pixels / "train" / "latent"),
        "--model",
        "light",
    ]
    train += ["--rates", "0", "--epochs", "1", "--batch_size", "2", "--no_wandb", "--workers", "0", "--out", str(run)]
    assert main(train) == 0
    assert "light, on pixels" in capsys.readouterr().out
    config = load_checkpoint(run / "weight_final.pth").config
    assert (config.input, config.channels, config.stride) == ("picture", 3, 1)
    weight = ["--weight", str(run / "weight_final.pth")]
    assert main(["evaluate", *weight, "--dataset_root", str(pixels), "--out", str(pixels / "scores")]) == 0
    assert "75" in capsys.readouterr().out
    photo = find_pictures(pixels / "photos" / "train")[0]
    assert (
        main(["detect", str(photo), "--codec", "pixels", *weight, "--out", str(pixels / "found"), "--size", "64"]) == 0
    )


def test_uint8_is_for_pixels(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ["encode", "--images", str(tmp_path), "--out", str(tmp_path / "out"), "--codec", "dct"]
    assert main([*arguments, "--dtype", "uint8"]) == 2
    assert "--dtype uint8 is for pixels" in capsys.readouterr().err
