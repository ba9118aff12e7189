"""The WIDER FACE protocol: its rules on small sets worked out by hand, and the published figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import unpack_predictions
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from latentface.errors import LatentFaceError
from latentface.evaluation.ground_truth import GroundTruth, _boxes, _mask, read_ground_truth
from latentface.evaluation.wider import (
    _curves,
    _first_threshold,
    evaluate_wider,
    prediction_name,
    read_predictions,
    write_prediction,
)

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
FACES = [[0, 0, 9, 9], [100, 0, 9, 9], [200, 0, 9, 9]]  # x y width height; 10 x 10 pixels by the protocol's count


def cells(items) -> np.ndarray:
    """A MATLAB cell array [len, 1]."""
    column = np.empty((len(items), 1), dtype=object)
    for index, item in enumerate(items):
        column[index, 0] = item
    return column


def write_truth(folder: Path, pictures: dict[str, list], kept: dict[str, list[list[int]]]) -> Path:
    """Ground truth as the official files hold it: one event `0--Parade`, `kept` counting from 1 for each picture."""
    folder.mkdir(exist_ok=True)
    boxes = [np.array(faces, dtype=np.int32).reshape(-1, 4) for faces in pictures.values()]
    lists = {
        "event_list": cells(["0--Parade"]),
        "file_list": cells([cells(list(pictures))]),
        "face_bbx_list": cells([cells(boxes)]),
    }
    savemat(folder / "wider_face_val.mat", lists)
    for name, indices in kept.items():
        column = cells([np.array(index, dtype=np.uint8).reshape(-1, 1) for index in indices])
        savemat(folder / f"wider_{name}_val.mat", lists | {"gt_list": cells([column])})
    return folder


def same_for_all(indices: list[list[int]]) -> dict[str, list[list[int]]]:
    return {"easy": indices, "medium": indices, "hard": indices}


def write_rows(folder: Path, name: str, rows: list[list[float]], event: str = "0--Parade") -> None:
    """A prediction file with `x y width height score` rows in the order given."""
    path = folder / event / f"{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [name, str(len(rows)), *(" ".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def three_faces(tmp_path) -> Path:
    return write_truth(tmp_path / "truth", {"a": FACES}, {"easy": [[1]], "medium": [[1, 2]], "hard": [[1, 2, 3]]})


def five_detections(scores) -> list[list[float]]:
    """Right, nowhere near a face, right, the first face again, right."""
    places = [FACES[0], [300, 0, 9, 9], FACES[1], FACES[0], FACES[2]]
    return [[*place, score] for place, score in zip(places, scores, strict=True)]


def test_hand_worked_set(tmp_path, three_faces):
    write_rows(tmp_path / "found", "a", five_detections([1.0, 0.75, 0.5, 0.25, 0.0]))
    score = evaluate_wider(tmp_path / "found", three_faces)
    assert score.easy == pytest.approx(1)  # the only face comes first
    assert score.medium == pytest.approx((1 + 2 / 3) / 2)
    assert score.hard == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    assert (score.pictures, score.missing, score.empty, score.unknown) == (1, 0, 0, 0)
    assert [score.curves[name].faces for name in ("easy", "medium", "hard")] == [1, 2, 3]


def test_curve_steps_at_the_thresholds_of_the_protocol(tmp_path, three_faces):
    write_rows(tmp_path / "found", "a", five_detections([1.0, 0.75, 0.5, 0.25, 0.0]))
    hard = evaluate_wider(tmp_path / "found", three_faces).curves["hard"]
    # Thresholds are 1 - (t + 1) / 1000, so 0.75 enters at t = 249, 0.5 at 499, 0.25 at 749 and 0 at 999.
    at = [0, 248, 249, 498, 499, 748, 749, 998, 999]
    assert hard.precision.shape == hard.recall.shape == (1000,)
    assert hard.precision[at].tolist() == pytest.approx([1, 1, 1 / 2, 1 / 2, 2 / 3, 2 / 3, 1 / 2, 1 / 2, 3 / 5])
    assert (hard.recall[at] * 3).tolist() == pytest.approx([1, 1, 1, 1, 2, 2, 2, 2, 3])


def test_detections_of_ignored_faces_are_no_proposals(tmp_path, three_faces):
    write_rows(tmp_path / "found", "a", five_detections([1.0, 0.75, 0.5, 0.25, 0.0]))
    curves = evaluate_wider(tmp_path / "found", three_faces).curves
    assert curves["easy"].precision[-1] == pytest.approx(1 / 3)  # two detections are of ignored faces
    assert curves["medium"].precision[-1] == pytest.approx(2 / 4)


def test_scores_of_any_range_and_order_of_lines_do_not_matter(tmp_path, three_faces):
    rows = five_detections([6.0, 5.0, 4.0, 3.0, 2.0])
    write_rows(tmp_path / "found", "a", rows[::-1])
    assert evaluate_wider(tmp_path / "found", three_faces).hard == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)


def test_scores_are_normalised_over_the_whole_set(tmp_path):
    truth = write_truth(tmp_path / "truth", {"a": FACES[:1], "b": FACES[:1]}, same_for_all([[1], [1]]))
    write_rows(tmp_path / "found", "a", [[*FACES[0], 0.5], [*FACES[1], 0.25]])
    write_rows(tmp_path / "found", "b", [[*FACES[0], 0.0], [*FACES[1], 0.375]])
    hard = evaluate_wider(tmp_path / "found", truth).curves["hard"]
    # 0.375 is 0.75 of the range of both files: right at 1, wrong at 0.75 and 0.5, right at 0.
    assert hard.precision[[248, 249, 499, 999]].tolist() == pytest.approx([1, 1 / 2, 1 / 3, 1 / 2])


def test_one_single_score_counts_at_every_threshold(tmp_path, three_faces):
    write_rows(tmp_path / "found", "a", [[*FACES[0], 0.4], [*FACES[1], 0.4]])
    score = evaluate_wider(tmp_path / "found", three_faces)
    assert (score.easy, score.hard) == (1, pytest.approx(2 / 3))


def test_a_box_is_one_pixel_larger_than_its_numbers(tmp_path):
    truth = write_truth(tmp_path / "truth", {"a": [[0, 0, 1, 0]]}, same_for_all([[1]]))  # 2 x 1 pixels
    write_rows(tmp_path / "found", "a", [[0, 0, 0, 0, 0.9]])  # 1 x 1 pixel: IoU 1/2
    assert evaluate_wider(tmp_path / "found", truth).easy == 1
    assert evaluate_wider(tmp_path / "found", truth, iou=0.51).easy == 0
    truth = write_truth(tmp_path / "truth", {"a": [[0, 0, 0, 1]]}, same_for_all([[1]]))  # 1 x 2 pixels
    assert evaluate_wider(tmp_path / "found", truth).easy == 1
    assert evaluate_wider(tmp_path / "found", truth, iou=0.51).easy == 0


def test_a_detection_is_held_against_its_nearest_face_only(tmp_path):
    faces = [[0, 0, 9, 9], [2, 0, 9, 9]]  # IoU 80 / 120
    truth = write_truth(tmp_path / "truth", {"a": faces}, same_for_all([[1, 2]]))
    write_rows(tmp_path / "found", "a", [[*faces[0], 0.9], [*faces[0], 0.8]])
    curve = evaluate_wider(tmp_path / "found", truth).curves["easy"]
    assert (curve.precision[-1], curve.recall[-1]) == (0.5, 0.5)


def test_pictures_without_any_annotated_face_do_not_count(tmp_path):
    names = {"a": FACES[:1], "b": [], "c": FACES[:1]}
    truth = write_truth(tmp_path / "truth", names, same_for_all([[1], [], [1]]))
    for name, score in (("a", 0.5), ("b", 0.9), ("c", 0.4)):
        write_rows(tmp_path / "found", name, [[*FACES[0], score]])
    curve = evaluate_wider(tmp_path / "found", truth).curves["easy"]
    assert (curve.precision[-1], curve.recall[-1]) == (1, 1)


def test_missing_empty_and_unknown_files(tmp_path):
    names = {"a": FACES[:1], "b": FACES[:1], "c": FACES[:1], "d": FACES[:1]}
    truth = write_truth(tmp_path / "truth", names, same_for_all([[1]] * 4))
    found = tmp_path / "found"
    write_rows(found, "a", [[*FACES[0], 0.5]])
    write_rows(found, "b", [])
    (found / "0--Parade" / "c.txt").write_bytes(b"")
    (found / "notes.txt").write_text("not a prediction")
    write_rows(found, "a", [], event="99--Elsewhere")
    with pytest.raises(LatentFaceError, match=r"1 of 4 .*0--Parade/d\.txt.*--allow_missing"):
        evaluate_wider(found, truth)
    score = evaluate_wider(found, truth, allow_missing=True)
    assert (score.pictures, score.missing, score.empty, score.unknown) == (4, 1, 2, 2)
    assert score.easy == pytest.approx(1 / 4)


def test_all_files_empty_scores_zero(tmp_path, three_faces):
    write_rows(tmp_path / "found", "a", [])
    score = evaluate_wider(tmp_path / "found", three_faces)
    assert (score.easy, score.medium, score.hard, score.empty) == (0, 0, 0, 1)


def test_folders_without_predictions_are_refused(tmp_path, three_faces):
    (tmp_path / "found" / "0--Parade").mkdir(parents=True)
    with pytest.raises(LatentFaceError, match="no prediction files"):
        evaluate_wider(tmp_path / "found", three_faces, allow_missing=True)
    write_rows(tmp_path / "found", "other", [])
    with pytest.raises(LatentFaceError, match=r"none of its 1 files.*0--Parade/a\.txt"):
        evaluate_wider(tmp_path / "found", three_faces, allow_missing=True)
    with pytest.raises(LatentFaceError, match="predict first"):
        evaluate_wider(tmp_path / "absent", three_faces)
    (tmp_path / "found.tar.xz").write_bytes(b"")
    with pytest.raises(LatentFaceError, match="extract it"):
        evaluate_wider(tmp_path / "found.tar.xz", three_faces)


def test_ground_truth_that_is_absent_or_something_else(tmp_path, three_faces):
    (three_faces / "wider_medium_val.mat").unlink()
    with pytest.raises(LatentFaceError, match=r"wider_medium_val\.mat: not found; .*shuoyang1213\.me"):
        read_ground_truth(three_faces)
    (three_faces / "wider_medium_val.mat").write_bytes(b"<html>not a mat file</html>" * 20)
    with pytest.raises(LatentFaceError, match=r"wider_medium_val\.mat: no WIDER FACE ground truth"):
        read_ground_truth(three_faces)
    savemat(three_faces / "wider_medium_val.mat", {"something": 1})
    with pytest.raises(LatentFaceError, match=r"wider_medium_val\.mat: no WIDER FACE ground truth"):
        read_ground_truth(three_faces)
    savemat(three_faces / "wider_medium_val.mat", {"gt_list": cells([cells([np.ones((1, 1))] * 2)])})
    with pytest.raises(LatentFaceError, match=r"wider_medium_val\.mat: 2 pictures where wider_face_val\.mat has 1"):
        read_ground_truth(three_faces)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"event_list": "0--Parade"}, "no cells"),
        ({"event_list": cells([np.ones((1, 1))])}, "a name is no text"),
        ({"face_bbx_list": cells([cells(["boxes"])])}, "no numbers"),
        ({"face_bbx_list": cells([cells([np.array([[0, 0, 9, np.inf]])])])}, "a box is not finite"),
        ({"face_bbx_list": cells([cells([np.ones((3, 4))] * 2)])}, "not as many lists of boxes as names"),
        ({"gt_list": cells([cells([np.array([[4.0]])])])}, "an index of no face"),
        ({"gt_list": cells([cells([np.array([[1.0], [0.0]])])])}, "an index of no face"),
        ({"gt_list": cells([cells([np.array([[1.5]])])])}, "an index of no face"),
    ],
)
def test_why_ground_truth_is_none(three_faces, changed, why):
    """Said by --debug only; the one line names the file."""
    name = "wider_hard_val.mat" if "gt_list" in changed else "wider_face_val.mat"
    truth = {"event_list": cells(["0--Parade"]), "file_list": cells([cells(["a"])]),
             "face_bbx_list": cells([cells([np.array(FACES)])])}  # fmt: skip
    savemat(three_faces / name, truth | changed)
    with pytest.raises(LatentFaceError) as caught:
        read_ground_truth(three_faces)
    source = "get it from eval_tools.zip, folder ground_truth, from http://shuoyang1213.me/WIDERFACE/"
    assert str(caught.value) == f"{three_faces / name}: no WIDER FACE ground truth; {source}"
    assert str(caught.value.__cause__) == why


def test_nothing_at_all_is_no_faces():
    """An empty element of a file is an empty list."""
    assert _boxes([]).shape == (0, 4)
    assert _mask([], 2).tolist() == [False, False]


def test_read_ground_truth(three_faces):
    truth = read_ground_truth(three_faces)
    assert truth.names == ("0--Parade/a",)
    assert truth.boxes[0].tolist() == FACES
    assert truth.kept["medium"][0].tolist() == [True, True, False]


def test_read_predictions_takes_event_folders_and_loose_files(tmp_path):
    write_rows(tmp_path, "a.b", [[1, 2, 3, 4, 0.5]])
    (tmp_path / "0--Parade" / "loose ends.txt").write_bytes(b"caf\xe9.jpg\r\n1\r\n 1.5 2 3 4 5e-1 \r\n\r\n")
    (tmp_path / "c.txt").write_text("c\n0\n")
    (tmp_path / "0--Parade" / "ignored.json").write_text("{}")
    predictions = read_predictions(tmp_path)
    assert sorted(predictions) == ["0--Parade/a.b", "0--Parade/loose ends", "c"]
    assert predictions["0--Parade/a.b"].tolist() == [[1, 2, 3, 4, 0.5]]
    assert predictions["0--Parade/loose ends"].tolist() == [[1.5, 2, 3, 4, 0.5]]
    assert predictions["c"].shape == (0, 5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\n", r"a\.txt:2: expected the number of faces, found ''"),
        ("a\n1 2 3 4 0.5\n", r"a\.txt:2: expected the number of faces, found '1 2 3 4 0\.5'"),
        ("a\n-1\n", r"a\.txt:2: expected the number of faces"),
        ("a\n2\n1 2 3 4 0.5\n1 2 3 4\n", r"a\.txt:4: 4 columns"),
        ("a\n1\n1 2 3 4 0.5 6\n", r"a\.txt:3: 6 columns"),
        ("a\n1\n1,2,3,4,0.5\n", r"a\.txt:3: 1 columns"),
        ("a\n1\n1 2 3 4 0.5 # sure\n", r"a\.txt:3: 7 columns; expected `x y width height score`$"),
        ("a\n1\n1 2 3 4 #5\n", r"a\.txt:3: not five numbers: '1 2 3 4 #5'"),
        ("a\n1\n1 2 three 4 0.5\n", r"a\.txt:3: not five numbers: '1 2 three 4 0\.5'"),
        ("a\n1\n1 2 3_0 4 0.5\n", r"a\.txt:3: not five numbers"),
        ("a\n2\n1 2 3 4 0.5\n1 2 3 4 nan\n", r"a\.txt:4: not finite"),
        ("a\n1\n1 2 inf 4 0.5\n", r"a\.txt:3: not finite"),
        ("a\n2\n1 2 3 4 0.5\n", r"a\.txt:2: 2 faces announced, 1 lines follow"),
        ("a\n0\n1 2 3 4 0.5\n", r"a\.txt:2: 0 faces announced, 1 lines follow"),
        ("a\n2\n1 2 3 4 0.5\n\n1 2 3 4 0.5\n", r"a\.txt:4: 0 columns"),
        ("a\n" + "1" * 19 + "\n", r"a\.txt:2: expected the number of faces, found '1111111111111111111'"),
        ("a\n" + "1" * 18 + "\n", r"a\.txt:2: 111111111111111111 faces announced, 0 lines follow"),
        ("a\n" + "x" * 99 + "\n", r"a\.txt:2: expected the number of faces, found 'x{40}'; write the file again$"),
        ("a\n٣\n", r"a\.txt:2: expected the number of faces, found '٣'"),
        ("a\n1\n 1 2 3 4 " + "x" * 99 + "\n", r"a\.txt:3: not five numbers: '1 2 3 4 x{52}'; write the file again$"),
        ("a\n1\n1 2 3 4 nan" + " " * 60 + "\n5 6\n", r"a\.txt:3: not finite: '1 2 3 4 nan'; check the weights that"),
    ],
)
def test_malformed_files_are_named_with_their_line(tmp_path, content, message):
    (tmp_path / "a.txt").write_text(content)
    with pytest.raises(LatentFaceError, match=message) as caught:
        read_predictions(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("0--Parade/a.jpg", "0--Parade/a"),
        ("data/0--Parade/a.v2.PNG", "0--Parade/a.v2"),
        ("data\\0--Parade\\a.jpg", "0--Parade/a"),
        ("a.jpg", "a"),
        ("a", "a"),
    ],
)
def test_what_prediction_files_call_a_picture(label, name):
    assert prediction_name(label) == name


def test_the_first_threshold_that_is_not_above_a_score():
    """Thresholds are 0.999, 0.998, ... 0.001, 0 of the range from 2 to 4."""
    scores = np.array([4.0, 3.998, 3.9979, 3.0, 2.0])
    assert _first_threshold(scores, 2.0, 4.0).tolist() == [0, 0, 1, 499, 999]
    assert _first_threshold(np.array([0.4, 0.4]), 0.4, 0.4).tolist() == [0, 0]


def test_a_folder_in_the_place_of_a_file(tmp_path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(
        LatentFaceError, match=r"a\.txt: cannot be read \(not a file\); check what it is and its rights$"
    ):
        read_predictions(tmp_path)


def test_write_prediction_writes_the_format_best_first(tmp_path):
    boxes = np.array([[1.0, 2.0, 4.5, 6.0], [10.0, 20.0, 30.0, 60.0]])
    path = write_prediction(tmp_path, "0--Parade/0_Parade_1.jpg", boxes, np.array([0.25, 0.75]))
    assert path == tmp_path / "0--Parade" / "0_Parade_1.txt"
    assert path.read_text() == ("0_Parade_1\n2\n10.000 20.000 20.000 40.000 0.75\n1.000 2.000 3.500 4.000 0.25\n")
    assert [file.name for file in path.parent.iterdir()] == ["0_Parade_1.txt"]


def test_of_equal_scores_the_first_is_written_first(tmp_path):
    boxes = np.array([[number, 0, number + 1, 1] for number in range(50)])
    write_prediction(tmp_path, "a/b", boxes, np.array([0.25, 0.5] * 25))
    assert read_predictions(tmp_path)["a/b"][:, 0].tolist() == [*range(1, 50, 2), *range(0, 50, 2)]


def test_write_then_read(tmp_path):
    write_prediction(tmp_path, "0--Parade/a.b", np.zeros((0, 4)), np.zeros(0))
    write_prediction(tmp_path, "0--Parade/c.PNG", np.array([[0, 0, 1, 1]], dtype=np.float32), np.array([0.9999999]))
    write_prediction(tmp_path, "flat.jpg", np.zeros((1, 4)), np.ones(1))
    predictions = read_predictions(tmp_path)
    assert {name: rows.tolist() for name, rows in predictions.items()} == {
        "0--Parade/a.b": [],
        "0--Parade/c": [[0, 0, 1, 1, 0.9999999]],
        "flat": [[0, 0, 0, 0, 1]],
    }


@pytest.mark.parametrize(
    "name", ["../a", "a/../../b", "/a/b", "", ".", "..", "a\\..\\b", "a\\b", "C:a", "a/b/c", "a/b\nc"]
)
def test_names_that_are_no_event_and_name_are_refused(tmp_path, name):
    with pytest.raises(LatentFaceError, match="not a picture name"):
        write_prediction(tmp_path / "found", name, np.zeros((0, 4)), np.zeros(0))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("corner", "score"), [(np.nan, 0.5), (1.0, np.inf)])
def test_predictions_that_are_not_finite_are_not_written(tmp_path, corner, score):
    with pytest.raises(LatentFaceError, match="0--Parade/a: a predicted box or score is not finite"):
        write_prediction(tmp_path, "0--Parade/a", np.array([[0, 0, corner, 1]]), np.array([score]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not (SHARED / "widerface").is_dir(), reason="the shared WIDER FACE files are not here")
def test_published_figures(tmp_path):
    unpack_predictions(SHARED, tmp_path)
    score = evaluate_wider(tmp_path, SHARED / "widerface")
    assert [round(ap, 4) for ap in (score.easy, score.medium, score.hard)] == [0.9070, 0.8816, 0.7383]
    assert (score.pictures, score.missing, score.empty, score.unknown) == (3226, 0, 0, 0)
    assert [score.curves[name].faces for name in ("easy", "medium", "hard")] == [7211, 13319, 31958]


# --- the protocol once more, step by step as its published tools go


def overlap_plus_one(a: list[float], b: list[float]) -> float:
    """Of `x y width height`, whose last pixels belong to the boxes."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0]) + 1
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] + 1) * (a[3] + 1) + (b[2] + 1) * (b[3] + 1) - both)


def slow_curve(pictures: list[tuple], iou: float) -> tuple[list[float], list[float]]:
    """(predictions, boxes, kept) of each picture -> precision and recall at each of a thousand thresholds."""
    scores = [row[4] for predictions, _, _ in pictures for row in predictions]
    low, high = (min(scores), max(scores)) if scores else (0.0, 1.0)
    proposals, hits, faces = [0] * 1000, [0] * 1000, 0
    for predictions, boxes, kept in pictures:
        faces += sum(kept)
        if not predictions or not boxes:
            continue
        order = sorted(range(len(predictions)), key=lambda i: (-predictions[i][4], i))
        found = [0] * len(boxes)  # -1: an ignored face, 1: found
        recalled, proposed = [], []  # after each detection
        counts = [1] * len(predictions)
        for rank, index in enumerate(order):
            overlaps = [overlap_plus_one(predictions[index], box) for box in boxes]
            best = overlaps.index(max(overlaps))
            if overlaps[best] >= iou:
                if not kept[best]:
                    found[best] = -1
                    counts[rank] = 0
                elif found[best] == 0:
                    found[best] = 1
            recalled.append(sum(value == 1 for value in found))
            proposed.append(sum(counts[: rank + 1]))
        for step in range(1000):
            limit = 1 - (step + 1) / 1000
            normal = [(predictions[i][4] - low) / (high - low) if high > low else 1.0 for i in order]
            above = [rank for rank, value in enumerate(normal) if value >= limit]
            if above:
                proposals[step] += proposed[above[-1]]
                hits[step] += recalled[above[-1]]
    return [h / p if p else 0.0 for h, p in zip(hits, proposals, strict=True)], [
        h / faces for h in hits
    ] if faces else []


small_box = st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(0, 8), st.integers(0, 8)).map(list)
a_picture = st.tuples(
    st.lists(st.tuples(small_box, st.integers(0, 40)).map(lambda row: [*row[0], row[1] / 40]), max_size=6),
    st.lists(st.tuples(small_box, st.booleans()), max_size=4),
)


@settings(max_examples=40, deadline=None)
@given(pictures=st.lists(a_picture, min_size=1, max_size=4), iou=st.sampled_from([0.5, 0.3]))
def test_the_protocol_agrees_with_the_slow_implementation(pictures, iou):
    slow = [(rows, [box for box, _ in faces], [keep for _, keep in faces]) for rows, faces in pictures]
    boxes = tuple(np.array(of, float).reshape(-1, 4) for _, of, _ in slow)
    kept = tuple(np.array(of, bool) for _, _, of in slow)
    truth = GroundTruth(tuple(map(str, range(len(slow)))), boxes, same_for_all(kept))
    curve = _curves([np.array(rows, float).reshape(-1, 5) for rows, _, _ in slow], truth, iou)["hard"]
    precision, recall = slow_curve(slow, iou)
    assert curve.faces == sum(map(sum, (of for _, _, of in slow)))
    assert curve.precision.tolist() == pytest.approx(precision)
    assert np.isnan(curve.recall).all() if not curve.faces else curve.recall.tolist() == pytest.approx(recall)
