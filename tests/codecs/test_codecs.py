"""What the codecs share: helpers of base.py, and opening a codec by name."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from latentface.codecs import open_codec
from latentface.codecs.base import (
    check_rgb,
    entropy_bits,
    pad_to_stride,
    rgb_to_ycbcr,
    ycbcr_to_rgb,
)
from latentface.codecs.dct import DctCodec
from latentface.errors import LatentFaceError

colours = arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 5), st.just(3)))
symbols = arrays(np.int64, st.tuples(st.integers(1, 4), st.integers(1, 30)), elements=st.integers(-3, 3))


def test_entropy_counts_every_channel_with_its_own_histogram():
    assert entropy_bits(np.array([[7, 7, 7, 7]])) == 0
    assert entropy_bits(np.array([[0, 1, 0, 1]])) == 4  # one bit each
    assert entropy_bits(np.array([[0, 0, 0, 0], [1, 2, 3, 4]])) == 8  # nothing, and two bits each
    assert entropy_bits(np.array([[0, 0, 0, 1]])) == pytest.approx(3 * np.log2(4 / 3) + 2)


@given(symbols)
def test_entropy_is_the_sum_of_minus_log2_of_the_frequencies(values):
    expected = sum(-np.log2(Counter(row)[value] / len(row)) for row in values.tolist() for value in row)
    assert entropy_bits(values) == pytest.approx(expected, abs=1e-9)
    assert entropy_bits(np.sort(values, axis=1), is_sorted=True) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("rgb", "ycbcr"),
    [
        ((255, 255, 255), (255, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((255, 0, 0), (0.2126 * 255, -0.2126 * 255 / 1.8556, 127.5)),
        ((0, 255, 0), (0.7152 * 255, -0.7152 * 255 / 1.8556, -0.7152 * 255 / 1.5748)),
        ((0, 0, 255), (0.0722 * 255, 127.5, -0.0722 * 255 / 1.5748)),
    ],
)
def test_colours_are_bt709_full_range(rgb, ycbcr):
    planes = rgb_to_ycbcr(np.array(rgb, np.uint8).reshape(1, 1, 3))
    assert planes.dtype == np.float32
    assert planes[:, 0, 0] == pytest.approx(ycbcr, abs=0.01)


@given(colours)
def test_colour_conversion_loses_nothing(rgb):
    assert np.array_equal(ycbcr_to_rgb(rgb_to_ycbcr(rgb)), rgb)


def test_padding_repeats_the_last_row_and_column():
    rgb = np.arange(18 * 31 * 3, dtype=np.uint8).reshape(18, 31, 3)
    padded, right, bottom = pad_to_stride(rgb, 16)
    assert (padded.shape, right, bottom) == ((32, 32, 3), 1, 14)
    assert np.array_equal(padded[:18, :31], rgb)
    assert np.array_equal(padded[:18, 31], rgb[:, 30])
    assert (padded[18:] == padded[17]).all()


def test_no_padding_at_a_multiple_of_the_stride():
    assert pad_to_stride(np.zeros((32, 16, 3), np.uint8), 16)[1:] == (0, 0)


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        [[1, 2, 3]],
    ],
)
def test_what_is_no_rgb_picture_is_refused(picture):
    with pytest.raises(LatentFaceError, match=r"expected uint8 \[height, width, 3\], found"):
        check_rgb(picture)


def test_open_codec_by_name():
    assert isinstance(open_codec("dct"), DctCodec)


def test_open_codec_suggests_the_nearest_name():
    with pytest.raises(LatentFaceError, match=r"unknown codec 'jpgai'; did you mean jpegai\?"):
        open_codec("jpgai")
    with pytest.raises(LatentFaceError, match="choose from dct, jpegai"):
        open_codec("zzz")


def test_jpegai_asks_for_its_weights():
    with pytest.raises(LatentFaceError, match="--codec_weights DIR, the folder with encoder_Y_"):
        open_codec("jpegai")


def test_the_cosine_codec_opens_without_torch_or_scipy():
    program = (
        "import sys; from latentface.codecs import open_codec; open_codec('dct'); "
        "print([name for name in ('torch', 'scipy') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
