from __future__ import annotations

import dataclasses
from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import dctn, idctn

from latentface.codecs.base import RATES
from latentface.codecs.dct import (
    LARGEST_STEP,
    SMALLEST_STEP,
    DctCodec,
    dct_matrix,
    inverse_transform,
    transform,
    zigzag,
)
from latentface.errors import LatentFaceError

PLANES = ((0, 0, 160), (1, 160, 48), (2, 208, 48))  # plane, its first channel, how many


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noise whose amplitude falls as 1 / frequency, as in natural pictures: uint8 [H, W, 3]."""
    noise = np.random.default_rng(seed).standard_normal((height, width, 3))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    frequency[0, 0] = 1
    smooth = np.fft.ifft2(np.fft.fft2(noise, axes=(0, 1)) / frequency[..., None], axes=(0, 1)).real
    return np.clip(128 + 40 * smooth / smooth.std(), 0, 255).astype(np.uint8)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(((a.astype(float) - b) ** 2).mean() / 255**2))


def test_the_matrix_is_orthonormal():
    assert np.allclose(dct_matrix(16) @ dct_matrix(16).T, np.eye(16), atol=1e-6)


def test_zigzag_of_four():
    assert zigzag(4).tolist() == [0, 1, 4, 8, 5, 2, 3, 6, 9, 12, 13, 10, 7, 11, 14, 15]


def test_zigzag_visits_every_coefficient_by_touching_steps():
    order = zigzag(16)
    assert sorted(order) == list(range(256))
    rows, columns = np.divmod(order, 16)
    assert np.maximum(abs(np.diff(rows)), abs(np.diff(columns))).tolist() == [1] * 255


def test_channels_are_the_transform_of_each_block():
    planes = np.random.default_rng(1).uniform(-128, 128, (3, 32, 48)).astype(np.float32)
    coefficients = transform(planes)
    assert coefficients.shape == (256, 2, 3)
    for (plane, first, count), row, column in product(PLANES, range(2), range(3)):
        block = planes[plane, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
        expected = dctn(block, norm="ortho").ravel()[zigzag(16)[:count]]
        assert np.allclose(coefficients[first : first + count, row, column], expected, atol=1e-2)
    rows = np.arange(16)[:, None]
    assert np.allclose(dct_matrix(16)[1:], np.cos(np.pi * rows[1:] * (2 * rows.T + 1) / 32) / np.sqrt(8), atol=1e-6)


def test_planes_are_the_inverse_transform_of_each_block():
    coefficients = np.random.default_rng(3).normal(0, 50, (256, 2, 3)).astype(np.float32)
    planes = inverse_transform(coefficients)
    for (plane, first, count), row, column in product(PLANES, range(2), range(3)):
        block = np.zeros(256)
        block[zigzag(16)[:count]] = coefficients[first : first + count, row, column]
        expected = idctn(block.reshape(16, 16), norm="ortho")
        found = planes[plane, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
        assert np.allclose(found, expected, atol=1e-2)


def test_the_inverse_keeps_energy_and_gives_the_coefficients_back():
    coefficients = np.random.default_rng(2).normal(0, 50, (256, 3, 2)).astype(np.float32)
    planes = inverse_transform(coefficients)
    assert planes.shape == (3, 48, 32)
    assert np.sum(planes**2) == pytest.approx(np.sum(coefficients**2), rel=1e-5)
    assert np.allclose(transform(planes), coefficients, atol=1e-3)


def test_mid_grey_is_nothing_at_all():
    grey = np.full((32, 32, 3), 128, np.uint8)
    latent = DctCodec().encode(grey, 75)
    assert np.abs(latent.array).max() == 0
    assert latent.bpp == 0
    assert np.array_equal(DctCodec().decode(latent), grey)


def test_a_flat_picture_has_only_its_mean():
    array = DctCodec().encode_unquantised(np.full((16, 16, 3), 138, np.uint8)).array
    assert array[0, 0, 0] == pytest.approx(16 * 10, abs=1e-3)  # orthonormal: the mean times the side of the block
    assert np.abs(array[1:]).max() < 1e-3


def test_a_picture_of_kept_coefficients_comes_back_but_for_rounding():
    codec = DctCodec()
    coefficients = np.zeros((256, 3, 4), np.float32)
    amplitudes = np.random.default_rng(3).normal(0, 20, coefficients.shape)
    for first, count in ((0, 160), (160, 48), (208, 48)):  # every kept frequency, together well inside 0..255
        coefficients[first : first + count] = amplitudes[first : first + count]
    blank = codec.encode_unquantised(np.zeros((48, 64, 3), np.uint8))
    picture = codec.decode(dataclasses.replace(blank, array=coefficients))
    assert picture.min() > 0
    assert picture.max() < 255
    again = codec.decode(codec.encode_unquantised(picture))
    # rounding to 8 bits is 1/sqrt(12) grey levels of noise, part of it outside the kept frequencies
    assert psnr(again, picture) > 10 * np.log10(255**2 * 12)
    assert np.abs(again.astype(int) - picture).max() <= 1


@pytest.mark.parametrize("rate", RATES)
def test_the_rate_is_met_and_true(rate):
    height, width = 250, 330  # no multiples of 16: bits are per pixel of the photograph
    latent = DctCodec().encode(photograph(height, width), rate)
    symbols = latent.array.reshape(256, -1) / latent.step
    assert np.abs(symbols - np.rint(symbols)).max() < 1e-3
    rows = np.rint(symbols).astype(int).tolist()
    bits = sum(-n * np.log2(n / len(row)) for row in rows for n in Counter(row).values())
    assert latent.bpp == pytest.approx(bits / (height * width), rel=1e-6)
    assert latent.bpp == pytest.approx(rate / 100, rel=0.02)


def test_a_higher_rate_is_a_better_picture():
    picture = photograph(160, 160)
    codec = DctCodec()
    latents = codec.encode_rates(picture, RATES)
    quality = [psnr(codec.decode(latent), picture) for latent in latents]
    assert quality == sorted(quality)
    assert quality[-1] > quality[0] + 2
    assert [latent.step for latent in latents] == sorted((latent.step for latent in latents), reverse=True)


def test_rates_together_are_the_rates_one_by_one():
    picture = photograph(64, 80)
    for together, rate in zip(DctCodec().encode_rates(picture, (100, 12)), (100, 12), strict=True):
        alone = DctCodec().encode(picture, rate)
        assert np.array_equal(together.array, alone.array)
        assert (together.step, together.bpp, together.rate) == (alone.step, alone.bpp, rate)


def test_what_the_latent_says_of_itself():
    latent = DctCodec().encode(photograph(33, 50), 75)
    assert latent.array.dtype == np.float32
    assert latent.array.shape == (256, 3, 4)
    assert (latent.codec, latent.rate, latent.model_index, latent.exact, latent.stride) == ("dct", 75, 0, True, 16)
    assert (latent.source_width, latent.source_height, latent.pad_right, latent.pad_bottom) == (50, 33, 14, 15)


def test_a_picture_too_plain_for_the_rate_gets_the_finest_step():
    ramp = np.tile(np.arange(64, dtype=np.uint8)[None, :, None], (64, 1, 3))
    latent = DctCodec().encode(ramp, 1000)
    assert latent.step == SMALLEST_STEP
    assert 0 < latent.bpp < 1  # and says so


def test_the_coarsest_step_leaves_nothing():
    assert np.rint(16 * 128 / LARGEST_STEP) == 0  # the largest coefficient: a block 128 above mid grey


@settings(max_examples=20, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40))
def test_the_decoded_picture_has_the_size_of_the_photograph(height, width):
    picture = photograph(40, 40)[:height, :width]
    codec = DctCodec()
    decoded = codec.decode(codec.encode(picture, 100))
    assert decoded.dtype == np.uint8
    assert decoded.shape == picture.shape


@pytest.mark.parametrize("rate", [0, 1001, 7.5, "75"])
def test_rates_that_are_none(rate):
    with pytest.raises(LatentFaceError, match="is no whole number from 1 to 1000"):
        DctCodec().encode(photograph(16, 16), rate)


def test_decoding_refuses_other_latents():
    latent = DctCodec().encode(photograph(16, 16), 75)
    with pytest.raises(LatentFaceError, match="a latent of codec 'jpegai' cannot be decoded by 'dct'"):
        DctCodec().decode(dataclasses.replace(latent, codec="jpegai"))
    with pytest.raises(LatentFaceError, match=r"a dct latent is \[256, h, w\], found \[1, 256, 1, 1\]"):
        DctCodec().decode(dataclasses.replace(latent, array=latent.array[None]))


def test_bits_are_counted_on_the_pixels_that_are_photograph():
    """Half the pixels: the same rate buys half the bits, and bits per counted pixel meet the target."""
    picture = photograph(160, 160)
    half = DctCodec().encode_rates(picture, (50,), 160 * 80)[0]
    assert half.bpp == pytest.approx(0.50, rel=0.02)
    assert half.step == pytest.approx(DctCodec().encode(picture, 25).step, rel=0.05)
