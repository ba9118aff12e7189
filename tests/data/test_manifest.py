import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentface.data.manifest import (
    LatentEntry,
    ManifestRow,
    append,
    read_manifest,
    recover_manifest,
    write_manifest,
)
from latentface.errors import LatentFaceError

ENTRY = LatentEntry("dct", 0, 12.5, 0.75, True, "bitstream")
ROW = ManifestRow(
    "p/a.jpg", {12: ENTRY, 75: LatentEntry("jpegai", None, None, None, False)}, 16, 1024, 768, 0.625, 0.625, 0, 160
)
CROP = ManifestRow("p/a__crop0.jpg", {75: ENTRY}, 16, 1024, 768, 2.0, 2.0, 0, 0, (10, 20, 320, 320), True)


def test_a_row_as_it_stands_in_the_file(tmp_path):
    path = tmp_path / "latents.jsonl"
    write_manifest(path, [ROW])
    assert json.loads(path.read_text()) == {
        "name": "p/a.jpg",
        "latents": {
            "12": {"codec": "dct", "model_index": 0, "step": 12.5, "bpp": 0.75, "exact": True, "bpp_from": "bitstream"},
            "75": {"codec": "jpegai", "model_index": None, "step": None, "bpp": None, "exact": False, "bpp_from": ""},
        },
        "stride": 16,
        "source_width": 1024,
        "source_height": 768,
        "scale_x": 0.625,
        "scale_y": 0.625,
        "pad_right": 0,
        "pad_bottom": 160,
        "crop": None,
        "mirrored": False,
        "label_frame": "picture",
        "encoder": {},
    }


def test_rows_of_earlier_versions_do_not_say_where_bits_were_counted(tmp_path):
    path = tmp_path / "latents.jsonl"
    write_manifest(path, [ROW])
    path.write_text(path.read_text().replace(', "bpp_from": "bitstream"', ""))
    assert read_manifest(path)["a"].latents[12] == replace(ENTRY, bpp_from="")


def test_rows_come_back_by_base_name(tmp_path):
    path = tmp_path / "latents.jsonl"
    write_manifest(path, [ROW])
    append(path, [CROP])
    assert read_manifest(path) == {"a": ROW, "a__crop0": CROP}


def test_content_is_the_picture_without_padding():
    assert (ROW.part, ROW.content_width, ROW.content_height) == ((0, 0, 1024, 768), 640, 480)
    assert (CROP.part, CROP.content_width, CROP.content_height) == ((10, 20, 320, 320), 640, 640)


def test_of_two_rows_the_later_counts(tmp_path):
    path = tmp_path / "latents.jsonl"
    later = replace(ROW, latents={75: ENTRY})
    append(path, [ROW, later])
    assert read_manifest(path) == {"a": later}


def test_unknown_keys_are_tolerated(tmp_path):
    path = tmp_path / "latents.jsonl"
    write_manifest(path, [ROW])
    path.write_text(json.dumps(json.loads(path.read_text()) | {"colour": "blue"}))  # and no line end
    assert read_manifest(path) == {"a": ROW}


def test_a_torn_last_line(tmp_path):
    path = tmp_path / "latents.jsonl"
    write_manifest(path, [ROW, CROP])
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(LatentFaceError, match=r"latents\.jsonl:2: .* run the same encode command again"):
        read_manifest(path)
    assert recover_manifest(path) == {"a": ROW}


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(0))
def test_a_file_cut_anywhere_keeps_its_complete_rows(tmp_path_factory, cut):
    path = tmp_path_factory.getbasetemp() / "cut.jsonl"
    write_manifest(path, [ROW, CROP])
    content = path.read_bytes()
    content = content[: cut % (len(content) + 1)]
    path.write_bytes(content)
    complete = [line for line in content.split(b"\n") if line.endswith(b"{}}")]  # `encoder` is the last and empty
    assert list(recover_manifest(path).values()) == [ROW, CROP][: len(complete)]


def change(**values):
    return lambda row: row | values


def drop(key):
    return lambda row: {k: v for k, v in row.items() if k != key}


def entry(**values):
    return lambda row: row | {"latents": {"75": row["latents"]["75"] | values}}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (drop("stride"), "'stride' is missing"),
        (drop("latents"), "'latents' is missing"),
        (change(stride=0), "'stride': 0 is not a whole number from 1 to"),
        (change(source_width=True), "'source_width': true"),
        (change(scale_x="1"), "'scale_x'"),
        (change(scale_y=0), "'scale_y'"),
        (change(scale_x=float("nan")), "not JSON (NaN is no number of JSON)"),
        (change(scale_x=10**400), "'scale_x'"),
        (change(crop=[1, 2, 3]), "'crop'"),
        (change(mirrored=1), "'mirrored'"),
        (change(label_frame="world"), "'label_frame'"),
        (change(name="../a.jpg"), "cannot be used as a name"),
        (change(name=3), "'name'"),
        (change(latents={"high": {}}), "rate"),
        (change(latents=[]), "'latents'"),
        (entry(bpp="high"), "'bpp'"),
        (entry(model_index=-1), "'model_index'"),
        (entry(exact="yes"), "'exact'"),
        (lambda row: [row], "not an object"),
    ],
)
def test_a_wrong_row_is_said_with_its_line(tmp_path, damage, words):
    path = tmp_path / "latents.jsonl"
    write_manifest(path, [ROW])
    good = path.read_text()
    path.write_text(good + "\n" + json.dumps(damage(json.loads(good))) + "\n")
    for read in (read_manifest, recover_manifest):
        with pytest.raises(LatentFaceError) as caught:
            read(path)
        assert "latents.jsonl:3: " in str(caught.value)
        assert words in str(caught.value)


@pytest.mark.parametrize("line", [b"{", b"\xff{}", b"[" * 100_000])
def test_what_is_no_json_is_said_with_its_line(tmp_path, line):
    path = tmp_path / "latents.jsonl"
    path.write_bytes(line + b"\n")
    with pytest.raises(LatentFaceError, match=r"latents\.jsonl:1: "):
        recover_manifest(path)


def test_two_pictures_of_one_base_name(tmp_path):
    path = tmp_path / "latents.jsonl"
    write_manifest(path, [ROW, replace(ROW, name="q/a.jpg")])
    with pytest.raises(LatentFaceError, match=r":2: q/a.jpg and p/a.jpg share a base name"):
        read_manifest(path)


def test_files_that_cannot_be_opened(tmp_path):
    with pytest.raises(LatentFaceError, match="cannot be read"):
        read_manifest(tmp_path / "none.jsonl")
    with pytest.raises(LatentFaceError, match="cannot be written"):
        append(tmp_path / "none" / "latents.jsonl", [ROW])
