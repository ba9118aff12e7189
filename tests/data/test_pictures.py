from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentface.data.manifest import ManifestRow
from latentface.data.pictures import (
    crop_name,
    crop_row,
    find_pictures,
    match_pictures,
    picture_size,
    read_picture,
    render,
    whole_row,
)
from latentface.errors import LatentFaceError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.mark.parametrize(
    ("mode", "value", "suffix", "rgb"),
    [
        ("L", 77, ".png", (77, 77, 77)),
        ("1", 1, ".png", (255, 255, 255)),
        ("P", 1, ".gif", (10, 200, 30)),
        ("CMYK", (255, 0, 0, 0), ".tif", (0, 255, 255)),
        ("I;16", 257 * 100, ".png", (100, 100, 100)),
        ("RGB", (1, 2, 3), ".bmp", (1, 2, 3)),
        ("RGBA", (255, 0, 0, 255), ".png", (255, 0, 0)),
        ("RGBA", (255, 0, 0, 0), ".png", (128, 128, 128)),
        ("LA", (200, 0), ".png", (128, 128, 128)),
    ],
)
def test_every_kind_of_picture_becomes_rgb(tmp_path, mode, value, suffix, rgb):
    image = Image.new(mode, (5, 3), value)
    if mode == "P":
        image.putpalette([0, 0, 0, *rgb])
    image.save(tmp_path / f"a{suffix}")
    array = read_picture(tmp_path / f"a{suffix}")
    assert array.shape == (3, 5, 3)
    assert array.dtype == np.uint8
    assert (array == rgb).all()
    assert picture_size(tmp_path / f"a{suffix}") == (5, 3)


def test_orientation_is_applied(tmp_path):
    upright = np.zeros((4, 2, 3), np.uint8)
    upright[0] = 255  # a white top row
    image = Image.fromarray(np.rot90(upright))  # stored a quarter turn to the left: 4 wide, 2 high
    exif = Image.Exif()
    exif[0x0112] = 6  # show it turned a quarter to the right
    image.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), upright)
    assert picture_size(tmp_path / "a.png") == (2, 4)


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_an_unreadable_picture_is_one_line(tmp_path, content):
    path = tmp_path / "a.png"
    if content is None:  # cut in the middle
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 50, 3), np.uint8)).save(path)
        content = path.read_bytes()[:2000]
    path.write_bytes(content)
    with pytest.raises(LatentFaceError, match=r"a\.png: cannot be read as a picture \(.+\)$"):
        read_picture(path)


def test_find_pictures(tmp_path):
    touch(tmp_path, "b/x.JPG", "a.webp", "notes.txt", ".hidden.png", "b/c/y.png")
    assert [p.relative_to(tmp_path).as_posix() for p in find_pictures(tmp_path)] == ["a.webp", "b/c/y.png", "b/x.JPG"]
    with pytest.raises(LatentFaceError, match="no such folder"):
        find_pictures(tmp_path / "none")


def test_names_meet_files(tmp_path):
    touch(tmp_path, "p/a.jpg", "p/a.png", "p/b.webp", "q/c.jpg", "q/d.jpg", "r/d.jpg", "r/e.jpg")
    matched = match_pictures(tmp_path, ["p/a.jpg", "p/b.jpg", "c.jpg", "d.jpg", "f.jpg"])
    assert {name: path.relative_to(tmp_path).as_posix() for name, path in matched.found.items()} == {
        "p/a.jpg": "p/a.jpg",  # the very name
        "p/b.jpg": "p/b.webp",  # another suffix
        "c.jpg": "q/c.jpg",  # another folder
    }
    assert matched.missing == ["d.jpg", "f.jpg"]  # d could be either
    assert [path.name for path in matched.unnamed] == ["a.png", "d.jpg", "d.jpg", "e.jpg"]


def test_pad_keeps_the_shape():
    row = whole_row("a.jpg", 1000, 333, 640, "pad", 16)  # 333 * 0.64 = 213.12
    assert (row.content_width, row.content_height) == (640, 213)
    assert (row.pad_right, row.pad_bottom) == (0, 427)
    assert (row.scale_x, row.scale_y) == (0.64, 213 / 333)
    tall = whole_row("a.jpg", 100, 200, 640, "pad", 16)
    assert (tall.scale_x, tall.scale_y, tall.pad_right, tall.pad_bottom) == (3.2, 3.2, 320, 0)
    assert whole_row("a.jpg", 10_000, 1, 640, "pad", 16).content_height == 1


def test_stretch_fills_the_square():
    row = whole_row("a.jpg", 1280, 320, 640, "stretch", 16)
    assert (row.scale_x, row.scale_y, row.pad_right, row.pad_bottom) == (0.5, 2.0, 0, 0)


def test_render_pads_with_grey_at_the_right():
    rgb = np.full((40, 20, 3), (250, 10, 0), np.uint8)
    picture = render(rgb, whole_row("a.jpg", 20, 40, 32, "pad", 16))
    assert picture.shape == (32, 32, 3)
    assert (picture[:, :16] == (250, 10, 0)).all()
    assert (picture[:, 16:] == 128).all()


def test_render_cuts_enlarges_and_mirrors():
    rgb = np.zeros((20, 30, 3), np.uint8)
    rgb[4:12, 6:10] = 200  # the left half of the crop; cubic rings near its edge
    row = ManifestRow("a.jpg", {}, 16, 30, 20, 4.0, 4.0, crop=(6, 4, 8, 8), mirrored=True)
    picture = render(rgb, row)
    assert picture.shape == (32, 32, 3)
    assert (picture[:, 24:] == 200).all()
    assert (picture[:, :8] == 0).all()


def test_crops_are_squares_inside_of_the_documented_sizes():
    rows = [crop_row("p/a.jpg", 300, 100, 64, 16, 7, k) for k in range(200)]
    for row in rows:
        x, y, width, height = row.crop
        assert width == height
        assert 30 <= width <= 100
        assert 0 <= x <= 300 - width
        assert 0 <= y <= 100 - height
        assert (row.content_width, row.content_height) == (64, 64)
    assert 70 < sum(row.mirrored for row in rows) < 130
    assert len({row.crop for row in rows}) > 190
    assert min(row.crop[2] for row in rows) < 35
    assert max(row.crop[2] for row in rows) > 95


def test_a_crop_depends_on_seed_base_name_and_number_only():
    row = crop_row("p/a.jpg", 300, 100, 64, 16, 7, 3)
    assert crop_row("q/a.png", 300, 100, 64, 16, 7, 3).crop == row.crop
    others = [crop_row("p/b.jpg", 300, 100, 64, 16, 7, 3), crop_row("p/a.jpg", 300, 100, 64, 16, 8, 3)]
    assert all(other.crop != row.crop for other in others)
    assert row.name == crop_name("p/a.jpg", 3) == "p/a__crop3.jpg"


def test_the_smallest_photograph():
    row = crop_row("a.jpg", 1, 1, 16, 16, 0, 0)
    assert row.crop == (0, 0, 1, 1)
    assert (render(np.full((1, 1, 3), 9, np.uint8), row) == 9).all()
