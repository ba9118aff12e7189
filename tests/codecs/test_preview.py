"""Previews: the map that `fit` finds, and the one that comes along, on real latents."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentface.codecs import open_codec
from latentface.codecs.at_hand import decoder_at_hand
from latentface.codecs.base import Latent
from latentface.codecs.jpegai import MODEL_OF_RATE
from latentface.codecs.preview import Preview, fit, preview_of_jpegai
from latentface.data.pictures import read_picture, render, whole_row
from latentface.errors import LatentFaceError

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
PHOTOGRAPH = SHARED / "wider/dev/images/57--Angler/57_Angler_peoplefishing_57_206.webp"


def latent(array: np.ndarray, rate: int = 75, model: int | None = 0, **facts: int) -> Latent:
    height, width = (side * 16 for side in array.shape[1:])
    return Latent(array, "jpegai", rate, model, None, 0.0, width, height, exact=False, **facts)


def flat_cells(array: np.ndarray) -> np.ndarray:
    """A codec of three channels: the colours 0 to 255 of cells that are of one colour each."""
    return array.transpose(1, 2, 0).repeat(16, axis=0).repeat(16, axis=1).astype(np.uint8)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 5))
def test_a_linear_codec_is_undone(seed, rows, columns):
    generator = np.random.default_rng(seed)
    examples = [(0, cells, flat_cells(cells)) for cells in generator.integers(0, 256, (40, 3, 4, 4)).astype(np.float32)]
    preview = fit(examples, {75: 0})
    cells = generator.integers(0, 256, (3, rows, columns)).astype(np.float32)
    seen = preview.decode(latent(cells)).astype(int)
    assert seen.shape == (16 * rows, 16 * columns, 3)
    middles = seen[8::16, 8::16]  # beside other colours the enlargement mixes them
    assert np.abs(middles - cells.transpose(1, 2, 0)).max() <= 3


def test_each_model_has_a_map_of_its_own_and_the_neighbours_count():
    """Model 1's picture is what lies in the cell to the left."""
    generator = np.random.default_rng(0)
    arrays = generator.integers(0, 256, (60, 3, 4, 4)).astype(np.float32)
    left = [(1, cells, flat_cells(np.pad(cells, ((0, 0), (0, 0), (1, 0)), mode="edge")[:, :, :-1])) for cells in arrays]
    preview = fit([*((0, cells, flat_cells(cells)) for cells in arrays), *left], {12: 0, 75: 1})
    cells = arrays[0]
    assert np.abs(preview.decode(latent(cells, 12, None))[8, 24].astype(int) - cells[:, 0, 1]).max() <= 3
    assert np.abs(preview.decode(latent(cells, 75, None))[8, 24].astype(int) - cells[:, 0, 0]).max() <= 3


def test_padding_is_cut_off_and_the_nearest_rate_is_taken():
    preview = Preview(np.zeros((2, 16, 192), np.float16), {12: 0, 75: 1})
    assert preview.decode(latent(np.zeros((3, 2, 3), np.float32), pad_right=10, pad_bottom=1)).shape == (31, 38, 3)
    assert [preview.usual_model(rate) for rate in (1, 12, 40, 44, 100)] == [0, 0, 0, 1, 1]
    with pytest.raises(LatentFaceError, match=r"a jpegai latent is \[3, h, w\]"):
        preview.decode(latent(np.zeros((4, 2, 3), np.float32)))


def test_what_is_saved_is_what_is_read(tmp_path, monkeypatch):
    shipped = preview_of_jpegai()
    shipped.save(tmp_path / "preview.npz")
    monkeypatch.setattr("latentface.codecs.preview.FILE", tmp_path / "preview.npz")
    again = preview_of_jpegai.__wrapped__()
    assert np.array_equal(again.maps, shipped.maps)
    assert again.model_of_rate == shipped.model_of_rate == MODEL_OF_RATE
    assert (shipped.channels, shipped.maps.shape) == (256, (4, 1281, 192))


@pytest.mark.skipif(not PHOTOGRAPH.is_file(), reason="the JPEG AI networks and photographs are not in ../shared")
@pytest.mark.parametrize(("rate", "decibels"), [(12, 21), (75, 27)])
def test_a_real_latent_is_recognised(rate, decibels):
    """A photograph that the maps were not fitted on."""
    rgb = read_picture(PHOTOGRAPH)
    picture = render(rgb, whole_row("a.webp", rgb.shape[1], rgb.shape[0], 320, "pad", 16))
    coded = open_codec("jpegai", SHARED / "jpegai").encode(picture, rate)
    seen = preview_of_jpegai().decode(coded)
    assert seen.shape == picture.shape
    assert 10 * np.log10(255**2 / np.mean((seen.astype(float) - picture) ** 2)) > decibels
    found = decoder_at_hand(("",), coded.array, rate)
    assert found.usual_model(rate) == MODEL_OF_RATE[rate]
    misnamed = 75 if rate == 12 else 12
    assert decoder_at_hand(("",), coded.array, misnamed).usual_model(misnamed) == MODEL_OF_RATE[rate]


@pytest.mark.parametrize(
    ("names", "channels", "expected"),
    [
        (("dct", "jpegai"), 256, "dct"),
        (("", "unknown", "pixels"), 3, "pixels"),
        (("jpegai-vm",), 256, "jpegai"),
        (("", "jpegai and jpegai-vm"), 256, "jpegai"),  # of a detector that was trained on both
        (("", "unknown"), 256, None),
        (("", "unknown"), 192, None),
        (("mbt2018-mean",), 256, None),
        (("jpegai",), 192, None),
    ],
)
def test_what_shows_a_latent(names, channels, expected):
    decoder = decoder_at_hand(names, np.zeros((channels, 2, 2), np.float32), 75)
    assert (decoder.name if decoder else None) == expected


@pytest.mark.parametrize("rate", MODEL_OF_RATE)
def test_latents_of_another_codec_are_not_taken_for_jpeg_ais(rate):
    generator = np.random.default_rng(0)
    noise = [size * generator.standard_normal((256, 6, 6)).astype(np.float32) for size in (0.05, 0.2, 1, 3, 8, 20)]
    picture = cv2.resize(generator.integers(0, 256, (5, 5, 3), np.uint8), (96, 96))
    for array in (*noise, open_codec("dct").encode(picture, rate).array):
        assert decoder_at_hand(("unknown",), array, rate) is None
        assert decoder_at_hand(("jpegai",), array, rate) is preview_of_jpegai()  # where it is said, it is believed


def test_a_model_that_the_codec_does_not_have_is_shown_as_the_usual_one():
    cells = np.random.default_rng(0).standard_normal((256, 2, 2)).astype(np.float32)
    preview = preview_of_jpegai()
    assert np.array_equal(preview.decode(latent(cells, 75, 9)), preview.decode(latent(cells, 75, 2)))
