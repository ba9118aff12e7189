from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentface.data.label_rows import read_rows
from latentface.data.labels import (
    PictureLabels,
    base_name,
    clip_labels,
    crop_labels,
    read_labels,
    transform_labels,
    write_labels,
)
from latentface.errors import LatentFaceError

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
POINTS = [[20, 30], [40, 30], [30, 40], [22, 50], [38, 50]]
TRIPLES = " ".join(f"{x} {y} 0.0" for x, y in POINTS)
PAIRS = " ".join(f"{x} {y}" for x, y in POINTS)
UNKNOWN = " ".join(["-1 -1 -1"] * 5)


def labels_of(tmp_path, text):
    path = tmp_path / "labels.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_labels(path)


def make(boxes, landmarks=None, ignore=None, name="a.jpg"):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    if landmarks is None:
        landmarks = np.full((len(boxes), 5, 2), np.nan)
    ignore = np.zeros(len(boxes), bool) if ignore is None else np.array(ignore, bool)
    return PictureLabels(name, boxes, np.array(landmarks, np.float32).reshape(-1, 5, 2), ignore)


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("0--Parade/0_Parade_Parade_0_1014.jpg", "0_Parade_Parade_0_1014"),
        ("a\\b.PNG", "b"),
        ("a/foo.v2", "foo.v2"),
        ("a/foo.v2.webp", "foo.v2"),
        ("1014", "1014"),
        (".jpg", ".jpg"),
    ],
)
def test_base_name(name, base):
    assert base_name(name) == base


def test_wider_rows(tmp_path):
    text = (
        "p/a.jpg\n2\n10 20 30 40 0 0 0 0 0 0\n1.5 2.5 3 4 2 0 1 1 0 0\np/none.jpg\n0\n0 0 0 0 0 0 0 0 0 0\np/b.jpg\n1\n"
    )
    found = labels_of(tmp_path, text + "5 6 7 8 0 0 0 0 0 0\n")
    assert list(found) == ["a", "none", "b"]
    assert found["a"].boxes.tolist() == [[10, 20, 40, 60], [1.5, 2.5, 4.5, 6.5]]
    assert found["a"].boxes.dtype == np.float32
    assert found["a"].ignore.tolist() == [False, True]
    assert np.isnan(found["a"].landmarks).all()
    assert found["a"].landmarks.shape == (2, 5, 2)
    assert found["a"].attributes.tolist() == [[0, 0, 0, 0, 0], [2, 0, 1, 0, 0]]
    assert found["none"].boxes.shape == (0, 4)
    assert found["none"].dropped == 0
    assert (found["b"].name, found["b"].line) == ("p/b.jpg", 8)


def test_attributes_follow_their_faces(tmp_path):
    """Blur, expression, illumination, occlusion, pose; the second box is dropped, the third is cut off."""
    text = "a.jpg\n4\n10 20 30 40 1 0 1 0 2 1\n0 0 0 9 2 2 2 1 2 2\n200 0 9 9 2 0 0 0 0 0\n50 60 20 20 0 1 0 1 300 0\n"
    placed = clip_labels(transform_labels(labels_of(tmp_path, text)["a"], 2, 2), 300, 300)
    assert placed.attributes.tolist() == [[1, 0, 1, 2, 1], [0, 1, 0, 127, 0]]
    assert placed.ignore.tolist() == [False, True]
    write_labels(tmp_path / "again.txt", [placed])
    assert (tmp_path / "again.txt").read_text().splitlines()[2] == "20.00 40.00 60.00 80.00 1 0 1 0 2 1"
    assert read_labels(tmp_path / "again.txt")["a"].attributes.tolist() == placed.attributes.tolist()
    assert labels_of(tmp_path, f"# a.jpg\n10 20 30 40 {TRIPLES}\n")["a"].attributes is None


@pytest.mark.parametrize("row", [f"10 20 30 40 {TRIPLES} 0.9", f"10 20 30 40 {TRIPLES}", f"10 20 30 40 {PAIRS}"])
def test_rows_with_landmarks(tmp_path, row):
    found = labels_of(tmp_path, f"# p/a.jpg\n{row}\n# p/b.jpg\n{row}\n{row}\n")
    assert found["a"].boxes.tolist() == [[10, 20, 40, 60]]
    assert found["a"].landmarks.tolist() == [POINTS]
    assert not found["a"].ignore.any()
    assert len(found["b"].boxes) == 2


def test_a_landmark_may_lie_outside_the_picture(tmp_path):
    found = labels_of(tmp_path, f"# a.jpg\n1 2 3 4 -5 6 {PAIRS.split(' ', 2)[2]}\n")
    assert found["a"].landmarks[0, 0].tolist() == [-5, 6]


def test_rows_know_their_lines(tmp_path):
    (tmp_path / "labels.txt").write_text("a.jpg\n2\n1 2 3 4\n\n1 2 3 4\n# b.jpg\n1 2 3 4\n# c.jpg\n")
    assert [(rows.name, rows.line, rows.lines) for rows in read_rows(tmp_path / "labels.txt")] == [
        ("a.jpg", 1, (3, 5)), ("b.jpg", 6, (7,)), ("c.jpg", 8, ()),
    ]  # fmt: skip


def test_unknown_landmarks(tmp_path):
    partly = f"10 20 30 40 20 30 0 {' '.join(['-1 -1 -1'] * 4)} 0.5"
    found = labels_of(tmp_path, f"# a.jpg\n10 20 30 40 {UNKNOWN} 0\n{partly}\n")
    assert np.isnan(found["a"].landmarks[0]).all()
    assert found["a"].landmarks[1, 0].tolist() == [20, 30]
    assert np.isnan(found["a"].landmarks[1, 1:]).all()


@pytest.mark.parametrize("header", ["a.jpg\n", "a.jpg\n1\n", "# a.jpg\n", "#a.jpg\n1\n", "\ufeffa.jpg\r\n\r\n1\r\n"])
def test_any_row_under_any_header(tmp_path, header):
    for row in ("1 2 3 4", "1 2 3 4 0 0 0 0 0 0", f"1 2 3 4 {PAIRS}", f"1 2 3 4 {TRIPLES} 1"):
        found = labels_of(tmp_path, f"{header}{row}\n\nb.jpg\n" if header[0] != "#" else f"{header}{row}\n# b.jpg\n")
        assert list(found) == ["a", "b"]
        assert found["a"].boxes.tolist() == [[1, 2, 4, 6]]


def test_all_numeric_names(tmp_path):
    assert list(labels_of(tmp_path, "# 1014\n1 2 3 4\n# 1015\n")) == ["1014", "1015"]
    assert list(labels_of(tmp_path, "1014\n1\n1 2 3 4\n7\n0\n1015\n0\n0 0 0 0 0 0 0 0 0 0\n")) == ["1014", "7", "1015"]


def test_names_with_spaces(tmp_path):
    assert list(labels_of(tmp_path, "my trip 2.jpg\n1 2 3 4\n12 years.jpg\n1\n1 2 3 4\nplain\n")) == [
        "my trip 2",
        "12 years",
        "plain",
    ]


def test_a_name_of_digits_ends_the_rows_before_it(tmp_path):
    assert list(labels_of(tmp_path, "a.jpg\n1 2 3 4\n1015\n1\n5 6 7 8\n")) == ["a", "1015"]


def test_an_empty_file_has_no_pictures(tmp_path):
    assert labels_of(tmp_path, "\n \n") == {}


def test_boxes_without_area_are_dropped_and_counted(tmp_path):
    found = labels_of(
        tmp_path, "a.jpg\n3\n1 2 0 4 0 0 0 0 0 0\n897.8 414.8 -1.8 20.1 2 0 0 0 2 0\n1 2 3 4 0 0 0 0 0 0\n"
    )
    assert found["a"].boxes.tolist() == [[1, 2, 4, 6]]
    assert found["a"].dropped == 2
    plain = labels_of(tmp_path, "# a.jpg\n1 2 0 4\n1 2 0.5 4\n")["a"]
    assert (plain.boxes.tolist(), plain.dropped) == ([[1, 2, 1.5, 6]], 1)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a.jpg\n1\n1 2 3\n", 3, "3 columns"),
        (f"# a.jpg\n1 2 3 4 {TRIPLES} 1 0 0\n", 2, "22 columns"),
        ("# a.jpg\n10 20 x 40\n", 2, "'x' is not a number"),
        ("# a.jpg\nx 20 30 40\n", 2, "'x' is not a number"),
        ("a.jpg\n1 2 3 4\nx 20 30 40\n", 3, "'x' is not a number"),
        ("# a.jpg\n1_0 20 30 40\n", 2, "'1_0' is not a number"),
        ("# a.jpg\n1 2 3 4\nb.jpg\n", 3, "'b.jpg' is not a number"),
        ("# a.jpg\n1 2 nan 4\n", 2, "NaN"),
        ("# a.jpg\n1 2 inf 4\n", 2, "infinite"),
        ("# a.jpg\n1 2 3 1e39\n", 2, "larger than any picture"),
        ("# a.jpg\n1 2 3 99999994\n", 2, "larger than any picture"),
        ("1 2\n0\n", 1, "belongs to no name"),
        ("a.jpg\n2\n1 2 3 4\n", 2, "the count says 2 faces, but 1 rows follow"),
        ("a.jpg\n2\n1 2 3 4\nb.jpg\n1\n1 2 3 4", 2, "but 1 rows follow"),
        ("a.jpg\n" + "9" * 5000 + "\n1 2 3 4\n", 2, "but 1 rows follow"),
        ("a.jpg\n1\n1 2 3 4\n5 6 7 8\n", 4, "belongs to no name"),
        ("a.jpg\n0\n5 6 7 8\n", 3, "belongs to no name"),
        ("a.jpg\n-1\n", 2, "whole number"),
        ("a.jpg\n2.5\n", 2, "whole number"),
        ("\n1 2 3 4\na.jpg\n", 2, "belongs to no name"),
        ("x/a.jpg\n0\n\ny/a.png\n0\n", 4, "x/a.jpg in line 1"),
        ("# a.jpg\n1 2 -3 4\n", 2, "negative"),
        (f"# a.jpg\n1 2 3 4 {PAIRS}\n1 2 3 -4 {PAIRS}\n", 3, "negative"),
        ("# /etc/a.jpg\n", 1, "absolute"),
        ("C:\\a.jpg\n", 1, "absolute"),
        ("a.jpg\n0\n../b.jpg\n0\n", 3, "leaves the folder"),
        ("a\\..\\b.jpg\n", 1, "leaves the folder"),
        ("...jpg\n", 1, "leaves the folder"),
        ("#\n", 1, "empty"),
        (b"a.jpg\n0\n\xff\xfe.jpg\n0\n", 3, "not UTF-8"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path, text, line, words):
    with pytest.raises(LatentFaceError) as caught:
        labels_of(tmp_path, text)
    assert f"labels.txt:{line}: " in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(LatentFaceError, match=r"none\.txt: the label file cannot be read"):
        read_labels(tmp_path / "none.txt")


def test_written_wider_rows(tmp_path):
    pictures = [make([[1, 2, 4.126, 6], [5, 5, 9, 9]], ignore=[False, True]), make([], name="p/b.jpg")]
    write_labels(tmp_path / "labels.txt", pictures)
    assert (tmp_path / "labels.txt").read_text() == (
        "a.jpg\n2\n1.00 2.00 3.13 4.00 0 0 0 0 0 0\n5.00 5.00 4.00 4.00 0 0 0 1 0 0\np/b.jpg\n0\n0 0 0 0 0 0 0 0 0 0\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["labels.txt"]


def test_written_retinaface_rows_have_twenty_columns_unless_ignored(tmp_path):
    pictures = [
        make([[1, 2, 4, 6], [1, 2, 4, 6]], [POINTS, np.full((5, 2), np.nan)], [False, True]),
        make([], name="b"),
    ]
    write_labels(tmp_path / "labels.txt", pictures)
    lines = (tmp_path / "labels.txt").read_text().splitlines()
    assert lines[0] == "# a.jpg"
    assert lines[1].startswith("1.00 2.00 3.00 4.00 20.00 30.00 0 40.00 30.00 0 ")
    assert len(lines[1].split()) == 20
    assert lines[1].endswith(" 38.00 50.00 0 1")
    assert lines[2] == f"1.00 2.00 3.00 4.00 {UNKNOWN} 0 1"
    assert lines[3:] == ["# b"]


def test_written_numbers_are_rounded_before_sides_are_taken(tmp_path):
    labels = make([[-0.001, -0.004, 1.008, 1.008], [0.004, 0.004, 1.008, 1.008]], [POINTS] * 2)
    labels.landmarks[0, :2] = [[-0.001, 0.1251], [0.1251, -0.004]]
    write_labels(tmp_path / "marked.txt", [labels])
    first, second = (tmp_path / "marked.txt").read_text().splitlines()[1:]
    assert first.startswith("0.00 0.00 1.01 1.01 0.00 0.13 0 0.13 0.00 0 ")
    assert second.startswith("0.00 0.00 1.01 1.01 20.00 ")
    write_labels(tmp_path / "plain.txt", [make(labels.boxes)])
    assert (tmp_path / "plain.txt").read_text().splitlines()[2].startswith("0.00 0.00 1.01 1.01 ")


def test_what_is_read_is_narrow(tmp_path):
    found = labels_of(tmp_path, f"# a.jpg\n10 20 30 40 {TRIPLES} 0.9\n")
    assert {found["a"].boxes.dtype, found["a"].landmarks.dtype} == {np.dtype(np.float32)}
    assert found["a"].ignore.dtype == bool
    assert labels_of(tmp_path, "a.jpg\n1\n1 2 3 4 0 0 0 0 0 0\n")["a"].attributes.dtype == np.int8


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("old")
    with pytest.raises(LatentFaceError, match="cannot hold the name"):
        write_labels(path, [make([], name="../a.jpg")])
    with pytest.raises(LatentFaceError, match="cannot be written"):
        write_labels(path / "deeper" / "labels.txt", [make([])])
    assert path.read_text() == "old"


hundredths = st.integers(-50_000, 200_000).map(lambda n: n / 100)
sides = st.integers(1, 100_000).map(lambda n: n / 100)
points = st.one_of(st.none(), st.tuples(hundredths, hundredths).filter(lambda p: p != (-1, -1)))
faces = st.tuples(hundredths, hundredths, sides, sides, st.booleans(), st.lists(points, min_size=5, max_size=5))
names = st.text(st.characters(codec="utf-8", exclude_characters="/\\.", exclude_categories=("C", "Z")), min_size=1)
some_pictures = st.dictionaries(names.filter(lambda n: n[1:2] != ":"), st.lists(faces, max_size=4), max_size=4)


@settings(max_examples=60, deadline=None)
@given(content=some_pictures, with_landmarks=st.booleans(), prefix=st.sampled_from(["", "# ", "a b/", "1 2 3 "]))
def test_reading_gives_back_what_was_written(tmp_path_factory, content, with_landmarks, prefix):
    pictures = []
    for name, some in content.items():
        boxes = [[x, y, x + w, y + h] for x, y, w, h, _, _ in some]
        marks = [[p if p and with_landmarks else (np.nan, np.nan) for p in five] for *_, five in some]
        pictures.append(make(boxes, marks, [flag for *_, flag, _ in some], prefix + name))
    path = tmp_path_factory.getbasetemp() / "round_trip.txt"
    write_labels(path, pictures)
    first = path.read_bytes()
    found = read_labels(path)
    assert [p.name for p in found.values()] == [p.name for p in pictures]
    for picture in pictures:
        again = found[picture.base]
        np.testing.assert_allclose(again.boxes, picture.boxes, atol=1e-3)
        np.testing.assert_allclose(again.landmarks, picture.landmarks, atol=1e-3)
        assert again.ignore.tolist() == picture.ignore.tolist()
        assert again.dropped == 0
    write_labels(path, found.values())
    assert path.read_bytes() == first


def test_clip_to_the_frame():
    labels = make([[-5, 10, 20, 30], [90, 40, 120, 60], [99.5, 0, 120, 9], [200, 0, 210, 9]], [POINTS] * 4)
    clipped = clip_labels(labels, 100, 50)
    assert clipped.boxes.tolist() == [[0, 10, 20, 30], [90, 40, 100, 50]]
    assert clipped.landmarks.tolist() == [POINTS, POINTS]
    assert clipped.dropped == 2
    assert clip_labels(clipped, 25, 50).dropped == 3
    assert clip_labels(make([[0, 0, 9, 9], [5, 5, 9, 9], [50, 0, 60, 9]]), 40, 40).dropped == 1
    assert len(clip_labels(make([[0, 0, 1, 9], [0, 0, 9, 1], [0, 0, 9, 0.9]]), 40, 40).boxes) == 2


def test_transform_by_hand():
    labels = make([[20, 30, 60, 70]], [[[25, 40], [55, 41], [40, 50], [30, 60], [50, 61]]])
    moved = transform_labels(labels, 2, 0.5, 10, 20)
    assert moved.boxes.tolist() == [[20, 5, 100, 25]]
    assert moved.boxes.dtype == moved.landmarks.dtype == np.float32
    assert moved.landmarks[0].tolist() == [[30, 10], [90, 10.5], [60, 15], [40, 20], [80, 20.5]]
    mirrored = transform_labels(labels, 2, 0.5, 10, 20, mirror_width=200)
    assert mirrored.boxes.tolist() == [[100, 5, 180, 25]]
    assert mirrored.landmarks[0].tolist() == [[110, 10.5], [170, 10], [140, 15], [120, 20.5], [160, 20]]
    assert labels.boxes.tolist() == [[20, 30, 60, 70]]  # untouched


def test_mirroring_twice_changes_nothing():
    labels = make([[20, 30, 60, 70]], [[[25, 40], [np.nan, np.nan], [40, 50], [30, 60], [50, 61]]])
    twice = transform_labels(transform_labels(labels, 1, 1, mirror_width=128), 1, 1, mirror_width=128)
    np.testing.assert_array_equal(twice.boxes, labels.boxes)
    np.testing.assert_array_equal(twice.landmarks, labels.landmarks)


def test_shifted():
    moved = make([[20, 30, 60, 70]], [POINTS]).shifted(-10, 5)
    assert moved.boxes.tolist() == [[10, 35, 50, 75]]
    assert moved.landmarks[0, 0].tolist() == [10, 35]


def test_the_border_of_a_crop():
    """From 10, 20 to 50, 60: a centre on the left or upper border is inside, one on the right or lower is not."""
    on_border = [[0, 30, 20, 50], [20, 10, 40, 30], [40, 30, 60, 50], [20, 50, 40, 70]]
    crop = crop_labels(make(on_border), 10, 20, 40, 40)
    assert crop.boxes.tolist() == on_border
    assert crop.ignore.tolist() == [False, False, True, True]


def test_little_of_a_face_is_background():
    boxes = [
        [43, 30, 63, 50],  # 7 of 20 columns: more than 30 %
        [40, 30, 90, 50],  # 10 of 50
        [48, 48, 208, 208],  # 4 of 25,600 pixels
        [300, 300, 310, 310],  # far away in both directions
        [52, 21, 53, 59],  # beside it, narrow
    ]
    crop = crop_labels(make(boxes), 10, 20, 40, 40)
    assert (crop.boxes.tolist(), crop.ignore.tolist(), crop.dropped) == ([boxes[0]], [True], 4)


def test_faces_of_a_crop():
    boxes = [
        [10, 10, 30, 30],  # inside
        [95, 40, 115, 60],  # centre at 105, 50: inside, a quarter of it beyond the edge
        [-6, 40, 14, 60],  # centre at 4: outside, 70 % of the width beyond
        [97, 60, 142, 80],  # centre at 119.5: inside
        [104, 60, 144, 80],  # centre at 124: outside, 40 % visible
        [108, 60, 148, 80],  # 30 % visible: not more than that
        [300, 10, 310, 20],  # far away
    ]
    crop = crop_labels(make(boxes, ignore=[True] + [False] * 6), 8, 0, 112, 112)
    assert crop.boxes.tolist() == [boxes[i] for i in (0, 1, 3, 4)]
    assert crop.ignore.tolist() == [True, False, False, True]


@pytest.mark.skipif(not (SHARED / "wider").is_dir(), reason="no photographs in ../shared/wider")
@pytest.mark.parametrize("split", ["train", "dev"])
def test_real_label_files_agree_with_each_other(split):
    wider = read_labels(SHARED / "wider" / split / "labels.txt")
    marked = read_labels(SHARED / "wider" / split / "labels_landmarks.txt")
    assert len(wider) == {"train": 2260, "dev": 487}[split]
    assert wider.keys() == marked.keys()
    for base, picture in wider.items():
        np.testing.assert_array_equal(picture.boxes, marked[base].boxes)
    assert any(picture.ignore.any() for picture in wider.values())
    assert any(np.isfinite(picture.landmarks).any() for picture in marked.values())
