from __future__ import annotations

import dataclasses
import math
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from latentface.codecs import open_codec
from latentface.codecs.base import rgb_to_ycbcr
from latentface.codecs.jpegai import (
    BETAS,
    ChromaAnalysis,
    ChromaSynthesis,
    GatedActivation,
    JpegAiCodec,
    LumaAnalysis,
    LumaSynthesis,
    _yuv,
    find_weights,
)
from latentface.errors import LatentFaceError

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
REFERENCE = SHARED / "jpegai" / "reference.npz"
PHOTOGRAPH = SHARED / "wider/dev/images/57--Angler/57_Angler_peoplefishing_57_206.webp"
NETWORKS = {
    "encoder_Y": LumaAnalysis,
    "encoder_UV": ChromaAnalysis,
    "decoder_Y": LumaSynthesis,
    "decoder_UV": ChromaSynthesis,
}
with_weights = pytest.mark.skipif(not REFERENCE.is_file(), reason="the JPEG AI networks are not in ../shared")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Random networks in the layout of the reference software's files; the last layer gains so that symbols vary."""
    path = tmp_path_factory.mktemp("checkout") / "models" / "VM_bop"
    path.mkdir(parents=True)
    torch.manual_seed(0)
    for beta in BETAS:
        for part, network in NETWORKS.items():
            state = network().state_dict()
            if part.startswith("encoder"):
                state["conv5.weight"] *= 100
            torch.save({**state, "epoch": 1}, path / f"{part}_{beta}.pth")
    return path


@pytest.fixture(scope="module")
def codec(folder) -> JpegAiCodec:
    return JpegAiCodec(folder)


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)


def test_the_activation_by_hand():
    activation = GatedActivation(4, groups=4)
    torch.nn.init.dirac_(activation.conv.weight, groups=4)  # both convolutions pass their input on
    torch.nn.init.dirac_(activation.conv2.weight)
    x = torch.tensor([-1.0, 0.5, 2.0, 7.0]).reshape(1, 4, 1, 1)
    assert activation(x).flatten().tolist() == [-1, 0.75, 6, 49]  # x (1 + min(max(x, 0), 6))


def test_what_the_latent_says_of_itself(codec, picture):
    latent = codec.encode(picture, 75)
    assert latent.array.dtype == np.float32
    assert latent.array.shape == (256, 4, 5)
    assert latent.array.flags.c_contiguous
    assert (latent.codec, latent.rate, latent.model_index, latent.exact, latent.stride) == ("jpegai", 75, 2, False, 16)
    assert (latent.source_width, latent.source_height, latent.pad_right, latent.pad_bottom) == (70, 50, 10, 14)


def test_rates_have_their_models_and_steps(codec, picture):
    latents = codec.encode_rates(picture, (12, 25, 50, 75, 100))
    assert [latent.rate for latent in latents] == [12, 25, 50, 75, 100]
    assert [latent.model_index for latent in latents] == [0, 1, 2, 2, 3]
    assert [latent.step for latent in latents] == pytest.approx([1, 1, math.exp(184 * 0.001565), 1, 1])


@pytest.mark.parametrize("rate", [12, 50])
def test_latents_lie_on_a_lattice_around_the_mean_of_their_channel(codec, picture, rate):
    latent = codec.encode(picture, rate)
    y = codec.encode_unquantised(picture, latent.model_index).array
    symbols = (latent.array - y.mean(axis=(1, 2), keepdims=True)) / latent.step
    assert np.abs(symbols - np.rint(symbols)).max() < 1e-3
    assert np.abs(latent.array - y).max() <= latent.step / 2 + 1e-4
    rows = np.rint(symbols).astype(int).reshape(256, -1).tolist()
    bits = sum(-n * np.log2(n / len(row)) for row in rows for n in Counter(row).values())
    assert bits > 0
    assert latent.bpp == pytest.approx(bits / (50 * 70), rel=1e-6)


def test_a_model_runs_once_for_all_its_rates(folder, picture):
    codec = JpegAiCodec(folder)
    alone = codec.encode_rates(picture, [50])[0]
    runs = []
    codec._network("encoder", 2).register_forward_hook(lambda *_: runs.append(2))
    together = codec.encode_rates(picture, [75, 50])
    assert runs == [2]
    assert np.array_equal(together[1].array, alone.array)


def test_networks_are_read_when_needed_and_kept(folder, picture):
    codec = JpegAiCodec(folder)
    assert codec._networks == {}
    codec.encode(picture, 12)
    network = codec._networks["encoder", 0]
    codec.encode(picture, 12)
    assert codec._networks == {("encoder", 0): network}


def test_a_batch_is_its_pictures_one_by_one(codec, picture):
    other = picture[::-1].copy()
    batch = codec.encode_batch([picture, other], [[12, 100], [100]], [None, 50 * 70])
    for latents, rgb, rates in zip(batch, (picture, other), ([12, 100], [100]), strict=True):
        for latent, alone in zip(latents, codec.encode_rates(rgb, rates), strict=True):
            # a sum in another order may move a value that lies on a rounding edge: one step, and rarely
            assert np.mean(np.abs(latent.array - alone.array) > 1e-3) < 1e-3
            assert latent.bpp == pytest.approx(alone.bpp, rel=1e-2)


def test_pixels_become_luma_and_chroma_about_zero(picture):
    planes = rgb_to_ycbcr(np.pad(picture, ((0, 14), (0, 10), (0, 0)), mode="edge"))
    planes[0] -= 127.5
    np.testing.assert_allclose(_yuv([picture], torch.device("cpu"))[0].numpy(), planes / 128, atol=1e-6)


def test_a_batch_is_of_one_size(codec, picture):
    with pytest.raises(LatentFaceError, match=r"differ in height and width: \[50, 70\] and \[40, 70\]"):
        codec.encode_batch([picture, picture[:40]], [[12], [12]], [None, None])


def test_padding_repeats_the_border(codec, picture):
    padded = np.pad(picture, ((0, 14), (0, 10), (0, 0)), mode="edge")
    own = codec.encode_unquantised(picture, 1)
    assert np.array_equal(own.array, codec.encode_unquantised(padded, 1).array)
    assert own.step is None
    assert math.isnan(own.bpp)


def test_the_decoded_picture_has_the_size_of_the_photograph(codec, picture):
    decoded = codec.decode(codec.encode(picture, 100))
    assert decoded.dtype == np.uint8
    assert decoded.shape == picture.shape


def test_unknown_rates_are_refused_before_any_work(codec):
    with pytest.raises(LatentFaceError, match="jpegai has no rate 60; its rates are 12, 25, 50, 75, 100"):
        codec.encode(None, 60)


def test_decoding_needs_a_model_and_its_own_latents(codec, picture):
    latent = codec.encode(picture, 12)
    with pytest.raises(LatentFaceError, match="does not say which model made it"):
        codec.decode(dataclasses.replace(latent, model_index=None))
    with pytest.raises(LatentFaceError, match="jpegai has no model 4"):
        codec.decode(dataclasses.replace(latent, model_index=4))
    with pytest.raises(LatentFaceError, match="a latent of codec 'dct' cannot be decoded by 'jpegai'"):
        codec.decode(dataclasses.replace(latent, codec="dct"))


def test_weights_are_found_below_the_folder(folder):
    assert find_weights(folder.parents[1]) == folder
    assert open_codec("jpegai", str(folder.parents[1])).folder == folder


def test_the_base_operating_point_is_preferred(tmp_path):
    for name in ("A_hop", "VM_BOP", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "encoder_Y_0.002.pth").touch()
    assert find_weights(tmp_path) == tmp_path / "VM_BOP"


def test_a_folder_without_weights(tmp_path):
    with pytest.raises(LatentFaceError, match=r"no encoder_Y_0.002.pth in this folder or below; --codec_weights wants"):
        JpegAiCodec(tmp_path)
    with pytest.raises(LatentFaceError, match="no such folder"):
        JpegAiCodec(tmp_path / "nowhere")


def test_decoders_may_be_absent_until_something_is_decoded(folder, tmp_path, picture):
    for beta in ("0.002", "0.012"):
        shutil.copy(folder / f"encoder_Y_{beta}.pth", tmp_path)
    shutil.copy(folder / "encoder_UV_0.002.pth", tmp_path)
    codec = JpegAiCodec(tmp_path)
    latent = codec.encode(picture, 12)
    with pytest.raises(LatentFaceError, match=r"decoder_Y_0.002.pth: missing"):
        codec.decode(latent)
    with pytest.raises(LatentFaceError, match=r"encoder_UV_0.012.pth: missing"):
        codec.encode(picture, 25)


def _pointer(path: Path, folder: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 2000000\n")


def _cut_short(path: Path, folder: Path) -> None:
    path.write_bytes((folder / path.name).read_bytes()[:5000])


def _empty(path: Path, folder: Path) -> None:
    path.touch()


def _other_network(path: Path, folder: Path) -> None:
    shutil.copy(folder / "encoder_UV_0.002.pth", path)


def _no_state_dict(path: Path, folder: Path) -> None:
    torch.save([1, 2], path)


@pytest.mark.parametrize("damage", [_pointer, _cut_short, _empty, _other_network, _no_state_dict])
def test_files_that_are_no_weights(folder, tmp_path, picture, damage):
    damage(tmp_path / "encoder_Y_0.002.pth", folder)
    with pytest.raises(LatentFaceError, match=r"encoder_Y_0.002.pth: no network of the JPEG AI reference software"):
        JpegAiCodec(tmp_path).encode(picture, 12)


@with_weights
@pytest.mark.parametrize("model_index", range(4))
def test_analysis_is_that_of_the_reference_software(model_index):
    reference = np.load(REFERENCE)
    expected = reference[f"y_{BETAS[model_index]}"]
    y = JpegAiCodec(SHARED / "jpegai").encode_unquantised(reference["image"], model_index).array
    assert np.abs(y - expected).max() < 1e-3 * expected.std()


@with_weights
@pytest.mark.skipif(not PHOTOGRAPH.is_file(), reason="the photographs are not in ../shared")
@pytest.mark.parametrize(("model_index", "whole", "rounded"), [(0, 32, 25), (1, 40, 32), (2, 46, 39), (3, 48.5, 44.5)])
def test_synthesis_undoes_analysis(model_index, whole, rounded):
    """Decibels of a 640x640 photograph without rounding and rounded to whole numbers; sharp ones are alike."""
    cv2 = pytest.importorskip("cv2")
    bgr = cv2.resize(cv2.imread(str(PHOTOGRAPH)), (640, 640), interpolation=cv2.INTER_AREA)
    picture = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    codec = JpegAiCodec(SHARED / "jpegai")
    latent = codec.encode_unquantised(picture, model_index)
    quality = []
    for array in (latent.array, np.rint(latent.array)):
        decoded = codec.decode(dataclasses.replace(latent, array=array))
        quality.append(-10 * np.log10(((decoded.astype(float) - picture) ** 2).mean() / 255**2))
    assert quality == pytest.approx([whole, rounded], abs=2.5)
