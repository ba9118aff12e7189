from __future__ import annotations

import dataclasses
import math
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from compressai_checkpoints import random_model, write_checkpoint
from compressai_differences import differences

from latentface.codecs import COMPRESSAI, open_codec
from latentface.codecs.compressai import MODELS, CompressAiCodec, find_checkpoints, load_model
from latentface.codecs.compressai_networks import FactorizedDensity, Gdn, gaussian_bits
from latentface.errors import LatentFaceError

PACKAGE = "LATENTFACE_COMPRESSAI_PYTHON"  # names a Python that has the package


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Qualities 1 (12 channels) and 6 (20 channels) of every architecture."""
    path = tmp_path_factory.mktemp("checkpoints")
    for name in MODELS:
        write_checkpoint(path, name, 1, n=8, m=12)
        write_checkpoint(path, name, 6, n=8, m=20)
    return path


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)


def softplus_inverse(value: float) -> float:
    return math.log(math.expm1(value))


def test_the_names_are_those_that_open_codec_knows():
    assert tuple(MODELS) == COMPRESSAI


@pytest.mark.parametrize("inverse", [False, True])
def test_divisive_normalisation_by_its_formula(inverse):
    gdn = Gdn(3, inverse)
    beta, gamma = np.array([0.5, 1.0, 2.0]), np.array([[0.1, 0.0, 0.2], [0.3, 0.4, 0.0], [0.05, 0.6, 0.7]])
    gdn.beta.data = torch.tensor(np.sqrt(beta + 2.0**-36)).float()
    gdn.gamma.data = torch.tensor(np.sqrt(gamma + 2.0**-36)).float()
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5))
    norm = np.stack([np.sqrt(beta[i] + sum(gamma[i, j] * x[:, j] ** 2 for j in range(3))) for i in range(3)], axis=1)
    expected = x * norm if inverse else x / norm
    np.testing.assert_allclose(gdn(torch.from_numpy(x).float()).detach().numpy(), expected, rtol=1e-5)


def test_parameters_of_the_normalisation_have_a_lower_bound():
    gdn = Gdn(1)
    gdn.beta.data[:], gdn.gamma.data[:] = -5.0, -5.0  # below: beta counts as 1e-6, gamma as 0
    assert gdn(torch.tensor(2.0).reshape(1, 1, 1, 1)).item() == pytest.approx(2 / 1e-3, rel=1e-4)


def test_rounding_is_around_the_median():
    density = FactorizedDensity(2)
    density.quantiles.data = torch.tensor([[[-9.0, 0.25, 9.0]], [[-9.0, -1.5, 9.0]]])
    x = torch.tensor([[0.7, 0.8], [-1.9, 0.1]]).reshape(1, 2, 1, 2)
    # 0.45 -> 0, 0.55 -> 1 above 0.25; -0.4 -> 0, 1.6 -> 2 above -1.5
    assert density.quantise(x).flatten().tolist() == [0.25, 1.25, -1.5, 0.5]


def test_bits_of_a_logistic_distribution():
    """With layers that pass their input on, the cumulative is the sigmoid itself."""
    density = FactorizedDensity(1)
    for matrix in density.matrices:
        torch.nn.init.constant_(matrix, softplus_inverse(1 / matrix.shape[2]))
    sigmoid = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    values = [0.0, 1.0, -3.0]
    expected = sum(-math.log2(sigmoid(v + 0.5) - sigmoid(v - 0.5)) for v in values)
    assert density.bits(torch.tensor(values).reshape(1, 1, 1, 3)).item() == pytest.approx(expected, rel=1e-5)
    assert density.bits(torch.full((1, 1, 1, 1), 99.0)).item() == pytest.approx(-math.log2(1e-9))


def test_bits_of_any_learned_density_by_plain_loops():
    generator = torch.Generator().manual_seed(0)
    density = FactorizedDensity(2)
    for parameter in density.parameters():
        parameter.requires_grad_(False)
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator) - 1
    latents = np.array([[[[0.5, -1.0]], [[2.0, 0.0]]]])  # [1, 2, 1, 2]

    def cumulative(channel: int, x: float) -> float:
        layer = [x]
        for k, (matrix, bias) in enumerate(zip(density.matrices, density.biases, strict=True)):
            h = np.log1p(np.exp(matrix[channel].numpy().astype(float)))
            b = bias[channel].numpy()[:, 0]
            layer = [sum(h[i][j] * layer[j] for j in range(len(layer))) + b[i] for i in range(len(h))]
            if k < 4:
                factor = density.factors[k][channel].numpy()[:, 0]
                layer = [v + np.tanh(f) * np.tanh(v) for v, f in zip(layer, factor, strict=True)]
        return 1 / (1 + np.exp(-layer[0]))

    bits = [-np.log2(cumulative(c, v + 0.5) - cumulative(c, v - 0.5)) for c in range(2) for v in latents[0, c, 0]]
    assert max(bits) < 20
    expected = sum(bits)
    assert density.bits(torch.from_numpy(latents).float()).item() == pytest.approx(expected, rel=1e-4)


def test_bits_of_a_gaussian():
    cumulative = lambda x: 0.5 * (1 + math.erf(x / math.sqrt(2)))  # noqa: E731

    def bits(away: float, scale: float) -> float:
        return gaussian_bits(torch.full((1, 1, 1, 1), away), torch.full((1, 1, 1, 1), scale)).item()

    assert bits(0.0, 1.0) == pytest.approx(-math.log2(cumulative(0.5) - cumulative(-0.5)))
    assert bits(-2.0, 1.5) == pytest.approx(-math.log2(cumulative(-1) - cumulative(-2.5 / 1.5)), rel=1e-5)
    assert bits(1.0, -3.0) == bits(1.0, 0.11)  # no scale is below 0.11
    assert bits(40.0, 1.0) == pytest.approx(-math.log2(1e-9))


@pytest.mark.parametrize("name", MODELS)
def test_the_channels_are_the_files(folder, picture, name):
    codec = CompressAiCodec(name, folder)
    assert codec.rates == (1, 6)
    latents = codec.encode_rates(picture, (6, 1))
    sides = (4, 5) if name == "bmshj2018-factorized" else (4, 8)  # 50x70 becomes 64x80, else 64x128
    assert [latent.array.shape for latent in latents] == [(20, *sides), (12, *sides)]
    assert [latent.model_index for latent in latents] == [6, 1]
    assert latents[0].array.dtype == np.float32


def test_what_the_latent_says_of_itself(folder, picture):
    latent = CompressAiCodec("mbt2018-mean", folder).encode(picture, 1)
    assert (latent.codec, latent.rate, latent.stride, latent.step) == ("mbt2018-mean", 1, 16, 1.0)
    assert (latent.exact, latent.bpp_from) == (True, "entropy model")
    assert (latent.source_width, latent.source_height, latent.pad_right, latent.pad_bottom) == (70, 50, 58, 14)
    assert latent.bpp > 0


def test_padding_repeats_the_border_and_counts_no_pixels(folder, picture):
    codec = CompressAiCodec("bmshj2018-hyperprior", folder)
    padded = np.pad(picture, ((0, 14), (0, 58), (0, 0)), mode="edge")
    own, whole = codec.encode(picture, 1), codec.encode(padded, 1)
    assert np.array_equal(own.array, whole.array)
    assert own.bpp * 50 * 70 == pytest.approx(whole.bpp * 64 * 128)
    assert codec.encode_rates(picture, [1], pixels=70)[0].bpp == pytest.approx(own.bpp * 50)


@torch.no_grad()
def test_values_lie_on_each_architectures_lattice(folder, picture):
    padded = torch.from_numpy(np.pad(picture, ((0, 14), (0, 58), (0, 0)), mode="edge")).permute(2, 0, 1)[None] / 255

    def off(name: str) -> tuple[torch.Tensor, torch.Tensor, torch.nn.Module]:
        codec = CompressAiCodec(name, folder)
        network = load_model(codec.files[1], name)
        y = network.g_a(padded)[0]
        latent = torch.from_numpy(codec.encode(picture, 1).array)
        return latent, y[..., : latent.shape[2]], network

    latent, y, network = off("bmshj2018-factorized")
    symbols = latent - network.entropy_bottleneck.quantiles[:, 0, 1, None, None]
    assert (symbols - symbols.round()).abs().max() < 1e-5
    assert (latent - y)[..., :4].abs().max() <= 0.5 + 1e-5  # the last column saw another border
    assert symbols.round().unique().numel() > 5

    latent, y, _ = off("bmshj2018-hyperprior")
    assert torch.equal(latent, y.round())
    assert latent.unique().numel() > 5

    latent, y, network = off("mbt2018-mean")
    z = network.h_a(y[None])
    median = network.entropy_bottleneck.quantiles[:, 0, 1, None, None]
    means = network.h_s(torch.round(z - median) + median)[0, 12:]
    assert torch.equal(latent, torch.round(y - means) + means)
    assert means.abs().max() > 0.1


@pytest.mark.parametrize("name", MODELS)
def test_the_decoded_picture_is_what_the_synthesis_gives(folder, picture, name):
    codec = CompressAiCodec(name, folder)
    latent = codec.encode(picture, 6)
    with torch.no_grad():
        whole = load_model(codec.files[6], name).g_s(torch.from_numpy(latent.array)[None])[0]
    expected = np.rint(np.clip(whole.permute(1, 2, 0).numpy(), 0, 1) * 255)[:50, :70]
    decoded = codec.decode(latent)
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, expected)


@pytest.mark.parametrize("spelling", ["_matrix{}", "_matrices.{}"])
def test_older_names_of_the_weights(tmp_path, folder, picture, spelling):
    """The learned density's were called otherwise, and parallel training put `module.` before all."""
    file = find_checkpoints(folder, "mbt2018-mean")[1]
    plurals = {"matrices": "matri", "biases": "bias", "factors": "factor"}
    style = {"matri": spelling, "bias": spelling.replace("matrix", "bias").replace("matrices", "biases"),
             "factor": spelling.replace("matrix", "factor").replace("matrices", "factors")}  # fmt: skip
    renamed = {}
    for key, value in torch.load(file, weights_only=True).items():
        match = re.fullmatch(r"entropy_bottleneck\.(matrices|biases|factors)\.(\d)", key)
        old = f"entropy_bottleneck.{style[plurals[match[1]]].format(match[2])}" if match else key
        renamed["module." + old] = value
    torch.save({"epoch": 3, "state_dict": renamed}, tmp_path / "mbt2018-mean-1.pth")
    ours = CompressAiCodec("mbt2018-mean", tmp_path).encode(picture, 1)
    expected = CompressAiCodec("mbt2018-mean", folder).encode(picture, 1)
    assert np.array_equal(ours.array, expected.array)
    assert ours.bpp == expected.bpp


def test_files_are_known_by_their_names(tmp_path):
    for name in (
        "bmshj2018-factorized-prior-3-5c6f152b.pth.tar", "bmshj2018-factorized-8.pth", "mbt2018-mean-10-x_y.pt",
        "mbt2018-mean-ms-ssim-1-5bf9c0b6.pth.tar", "bmshj2018-factorized-2.txt",
    ):  # fmt: skip
        (tmp_path / name).touch()
    assert list(find_checkpoints(tmp_path, "bmshj2018-factorized")) == [3, 8]
    assert list(find_checkpoints(tmp_path, "mbt2018-mean")) == [10]  # tuned for MS-SSIM: other networks
    (tmp_path / "mbt2018-mean-10.pth").touch()
    with pytest.raises(LatentFaceError, match=r"mbt2018-mean-10-x_y.pt and mbt2018-mean-10.pth are of one quality"):
        find_checkpoints(tmp_path, "mbt2018-mean")


def test_what_is_missing(tmp_path, folder, picture):
    with pytest.raises(LatentFaceError, match=r"no mbt2018-mean-<quality>.pth.tar in this folder"):
        CompressAiCodec("mbt2018-mean", tmp_path)
    with pytest.raises(LatentFaceError, match="no such folder; --codec_weights wants"):
        CompressAiCodec("mbt2018-mean", tmp_path / "nowhere")
    with pytest.raises(LatentFaceError, match="no rate 75: its rates are the qualities with a file, 1, 6"):
        CompressAiCodec("mbt2018-mean", folder).encode(picture, 75)
    with pytest.raises(LatentFaceError, match="codec mbt2018-mean needs --codec_weights DIR"):
        open_codec("mbt2018-mean")
    with pytest.raises(LatentFaceError, match="--precision bfloat16 is for jpegai"):
        open_codec("mbt2018-mean", folder, precision="bfloat16")


def test_another_architecture_under_the_name(tmp_path, folder, picture):
    shutil.copy(find_checkpoints(folder, "bmshj2018-hyperprior")[1], tmp_path / "mbt2018-mean-1.pth.tar")
    with pytest.raises(LatentFaceError, match="holds a bmshj2018-hyperprior, not a mbt2018-mean"):
        CompressAiCodec("mbt2018-mean", tmp_path).encode(picture, 1)


def _cut_short(path: Path, state: dict) -> None:
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[:3000])


def _with_context(path: Path, state: dict) -> None:
    torch.save({**state, "context_prediction.weight": torch.zeros(24, 12, 5, 5)}, path)  # mbt2018 itself


def _without_a_weight(path: Path, state: dict) -> None:
    torch.save({key: value for key, value in state.items() if key != "g_s.3.gamma"}, path)


def _other_states(path: Path, state: dict) -> None:
    torch.save({"weight": torch.zeros(3)}, path)


@pytest.mark.parametrize("damage", [_cut_short, _with_context, _without_a_weight, _other_states])
def test_files_that_are_no_weights(tmp_path, folder, picture, damage):
    path = tmp_path / "mbt2018-mean-1.pth.tar"
    damage(path, torch.load(find_checkpoints(folder, "mbt2018-mean")[1], weights_only=True))
    with pytest.raises(LatentFaceError, match=r"mbt2018-mean-1.pth.tar: no "):
        CompressAiCodec("mbt2018-mean", tmp_path).encode(picture, 1)


def test_decoding_needs_its_own_latents(folder, picture):
    codec = CompressAiCodec("mbt2018-mean", folder)
    latent = codec.encode(picture, 1)
    with pytest.raises(LatentFaceError, match="a latent of codec 'dct' cannot be decoded by 'mbt2018-mean'"):
        codec.decode(dataclasses.replace(latent, codec="dct"))
    with pytest.raises(LatentFaceError, match=r"a mbt2018-mean latent is \[20, h, w\]"):
        codec.decode(dataclasses.replace(latent, model_index=6))
    assert np.array_equal(codec.decode(dataclasses.replace(latent, model_index=None)), codec.decode(latent))


def test_random_models_are_no_trivial_ones(picture):
    """What the tests above rest on: the learned density and the hints matter."""
    model = random_model("mbt2018-mean", 8, 12)
    with torch.no_grad():
        latents, bits = model.code(torch.from_numpy(np.tile(picture, (2, 1, 1))[:64, :64]).permute(2, 0, 1)[None] / 255)
    assert latents.std() > 1
    assert bits.item() > latents.numel() / 4


@pytest.mark.skipif(PACKAGE not in os.environ, reason=f"{PACKAGE} has to name a Python with the compressai package")
def test_ours_is_what_the_package_computes(tmp_path):
    for row in differences(os.environ[PACKAGE], tmp_path):
        assert row["y"] < 1e-5, row
        assert row["y_hat"] < 1e-5, row
        assert row["decoded"] < 1e-5, row
        assert row["bits"] < 1e-5, row
        # a value on the edge between two steps may fall the other way where a sum is taken in another order
        assert row["symbols_rounded_otherwise"] <= 3, row
