"""Photographs, ONNX files and ground truth from strangers."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat, savemat

from latentface import Detector
from latentface.data.manifest import ManifestRow
from latentface.data.pictures import picture_size, read_picture, render
from latentface.errors import LatentFaceError
from latentface.evaluation import mat_file
from latentface.evaluation.ground_truth import read_ground_truth
from latentface.evaluation.mat_file import read_mat

# --- photographs


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A grey picture of any size, however little is in it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def test_a_picture_that_unpacks_to_gigabytes_is_one_line(tmp_path, little_memory):
    (tmp_path / "a.png").write_bytes(png(100_000, 100_000))
    for read in (read_picture, picture_size):
        with little_memory(), pytest.raises(LatentFaceError, match=r"a\.png: cannot be read as a picture \(Image size"):
            read(tmp_path / "a.png")


def test_a_large_photograph_gives_no_warning(tmp_path):
    """Pillow warns from 89 megapixels on; cameras have 100."""
    (tmp_path / "a.ppm").write_bytes(b"P6\n11000 10000\n255\n")
    program = "import sys; from latentface.data.pictures import picture_size; print(picture_size(sys.argv[1]))"
    command = [sys.executable, "-c", program, str(tmp_path / "a.ppm")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("(11000, 10000)\n", "")


def test_postscript_is_not_run_whatever_its_suffix(tmp_path, monkeypatch):
    """Pillow hands it to Ghostscript."""
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was asked"))
    Image.new("RGB", (4, 4)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.format == "EPS"  # Pillow alone would take it
    with pytest.raises(LatentFaceError, match=r"a\.jpg: cannot be read as a picture"):
        read_picture(tmp_path / "a.jpg")


def test_a_photograph_of_another_size_than_the_manifest_says(little_memory):
    row = ManifestRow("a.jpg", {}, 16, 640, 480, pad_bottom=160)
    assert render(np.zeros((480, 640, 3), np.uint8), row).shape == (640, 640, 3)
    with pytest.raises(
        LatentFaceError, match=r"a\.jpg: the photograph has 64x48 pixels, the one that was encoded 640x480"
    ):
        render(np.zeros((48, 64, 3), np.uint8), row)


# --- graphs


@pytest.fixture(scope="module")
def onnx():
    return pytest.importorskip("onnx")


CONFIG = {"backbone": "light", "bridge": "shuffle", "input": "latent", "channels": 4, "stride": 16,
          "prior_sizes": [[16, 32], [64, 128], [256, 512]], "projection": 0}  # fmt: skip


def graph(
    onnx, path: Path, shapes: dict[str, list[int]] | None = None, types: dict[str, int] | None = None, **facts
) -> Path:
    """Looks like one of ours: same names; its outputs are zeros of any shape."""
    helper, float32, int64 = onnx.helper, onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    shapes = {"boxes": [1, 3, 4], "scores": [1, 3], "landmarks": [1, 3, 10]} | (shapes or {})
    types = {"latents": float32, "rates": int64, "model_indices": int64} | (types or {})
    inputs = [
        helper.make_tensor_value_info(name, types[name], ["b"] if name != "latents" else ["b", 4, "h", "w"])
        for name in ("latents", "rates", "model_indices")
    ]
    nodes, initial = [], []
    for name, shape in shapes.items():
        initial.append(helper.make_tensor(f"{name}_shape", int64, [len(shape)], shape))
        nodes.append(helper.make_node("ConstantOfShape", [f"{name}_shape"], [name]))
    outputs = [helper.make_tensor_value_info(name, float32, None) for name in shapes]
    made = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs, initial),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    described = {"format": "latentface-onnx/1", "model": json.dumps(CONFIG), "rates": "[75]", "facts": "{}"} | facts
    onnx.helper.set_model_props(made, described)
    path.write_bytes(made.SerializeToString())
    return path


def test_a_graph_made_by_hand_is_run(onnx, tmp_path):
    detector = Detector.load(graph(onnx, tmp_path / "model.onnx"))
    assert len(detector(np.zeros((4, 2, 2), np.float32), confidence=0)) == 0  # boxes without area


@pytest.mark.parametrize(
    "facts",
    [
        {"model": "[]"},
        {"model": "7"},
        {"model": "[" * 100_000},
        {"model": json.dumps(CONFIG | {"channels": "4"})},
        {"model": json.dumps(CONFIG | {"channels": 0})},
        {"model": json.dumps(CONFIG | {"stride": 2**40})},
        {"model": json.dumps(CONFIG | {"prior_sizes": 16})},
        {"model": json.dumps({"colour": "blue"})},
        {"rates": "[Infinity]"},
        {"rates": "[1e400]"},
        {"rates": "null"},
        {"rates": '["x"]'},
        {"facts": "[1]"},
        {"facts": "null"},
    ],
)
def test_descriptions_of_graphs(facts, onnx, tmp_path):
    with pytest.raises(LatentFaceError, match=r"model\.onnx: its description is damaged") as caught:
        Detector.load(graph(onnx, tmp_path / "model.onnx", **facts))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "shapes",
    [
        {"boxes": [1, 3, 5]},
        {"boxes": [1, 2, 4]},
        {"boxes": [12]},
        {"scores": [2, 3]},
        {"scores": [1, 3, 1]},
        {"scores": [3]},
        {"scores": []},
        {"landmarks": [1, 3, 4]},
        {"landmarks": [0]},
    ],
)
def test_outputs_of_other_shapes(shapes, onnx, tmp_path):
    detector = Detector.load(graph(onnx, tmp_path / "model.onnx", shapes))
    with pytest.raises(LatentFaceError, match=r"model\.onnx: (its outputs have other shapes|cannot be run)"):
        detector(np.zeros((4, 2, 2), np.float32), confidence=0)


def test_inputs_of_other_types(onnx, tmp_path):
    path = graph(onnx, tmp_path / "model.onnx", types={"rates": onnx.TensorProto.FLOAT})
    with pytest.raises(LatentFaceError, match=r"model\.onnx: an ONNX file, but not written by latentface export"):
        Detector.load(path)


# --- ground truth


def element(kind: int, data: bytes) -> bytes:
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def matrix(kind: int, shape: list[int], name: bytes = b"", content: bytes = b"") -> bytes:
    head = (
        element(6, struct.pack("<II", kind, 0)) + element(5, struct.pack(f"<{len(shape)}i", *shape)) + element(1, name)
    )
    return element(14, head + content)


def mat(content: bytes) -> bytes:
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + content


NAMES = ("event_list", "file_list", "face_bbx_list")
NUMBERS = element(9, struct.pack("<4d", 1, 2, 3, 4))
TEXT = matrix(4, [1, 1], content=element(16, b"a"))


def test_scipy_reads_the_same(tmp_path):
    """Of every kind of content, in small elements and large ones, compressed or not."""
    cell = np.empty((2, 2), object)
    cell[0, 0], cell[1, 0], cell[0, 1], cell[1, 1] = "ünï", np.arange(6.0).reshape(2, 3), "", np.zeros((0, 4))
    values = {"cell": cell, "text": "a" * 30, "one": np.uint8(7), "many": np.arange(24, dtype=np.int16).reshape(4, 6)}
    for compressed in (False, True):
        savemat(tmp_path / "a.mat", values, do_compression=compressed)
        found = dict(zip(values, read_mat(tmp_path / "a.mat", *values), strict=True))
        wanted = loadmat(tmp_path / "a.mat")
        assert found["text"] == wanted["text"].item()
        for name in ("one", "many"):
            assert np.array_equal(found[name], wanted[name])
        assert [found["cell"][0], found["cell"][2]] == ["ünï", ""]
        for index, place in ((1, (1, 0)), (3, (1, 1))):
            assert np.array_equal(found["cell"][index], wanted["cell"][place])


@pytest.mark.parametrize(
    "content",
    [
        matrix(1, [500_000_000, 1], b"event_list"),  # SciPy takes 4 GB for it
        matrix(1, [2**31 - 1, 2**31 - 1], b"event_list"),
        matrix(4, [1, 2_000_000_000], b"event_list"),
        matrix(6, [100_000, 100_000], b"event_list", NUMBERS),
        matrix(6, [-1, -4], b"event_list", NUMBERS),
        matrix(6, [4], b"event_list", NUMBERS),
        matrix(6, [1, 4], b"event_list", element(14, bytes(32))),
        matrix(2, [1, 1], b"event_list", NUMBERS),
        matrix(5, [1, 4], b"event_list", NUMBERS),
        matrix(1, [1, 1], b"event_list", matrix(1, [1, 1], b"", b"")),
        matrix(1, [1, 1], b"event_list", NUMBERS),
        struct.pack("<II", 14, 2**32 - 1) + bytes(64),
        struct.pack("<II", 15, 2**32 - 1) + bytes(64),
        element(15, b"no zlib stream  "),
        element(15, zlib.compress(matrix(1, [1, 1], b"event_list"))[:20]),
        element(3, bytes(8)),
        b"\x01",
        b"",
    ],
    ids=range(18),
)
def test_files_that_claim_more_than_they_hold(content, tmp_path, little_memory):
    (tmp_path / "wider_face_val.mat").write_bytes(mat(content))
    with little_memory(), pytest.raises(LatentFaceError, match=r"wider_face_val\.mat: no WIDER FACE ground truth"):
        read_ground_truth(tmp_path)


def test_decompression_ends_at_a_limit(tmp_path, monkeypatch):
    """For all elements of a file together."""
    one = element(15, zlib.compress(matrix(9, [1, 1000], b"x", element(2, bytes(1000)))))
    (tmp_path / "a.mat").write_bytes(mat(one + one))
    for most, fits in ((2500, True), (1500, False), (500, False)):
        monkeypatch.setattr(mat_file, "MOST_BYTES", most)
        if fits:
            assert read_mat(tmp_path / "a.mat", "x")[0].tolist() == [[0] * 1000]
        else:
            with pytest.raises(ValueError, match="larger than any ground truth"):
                read_mat(tmp_path / "a.mat", "x")


def test_cells_in_cells_have_an_end(tmp_path):
    content = matrix(1, [0, 0])
    for _ in range(2000):
        content = matrix(1, [1, 1], b"", content)
    (tmp_path / "wider_face_val.mat").write_bytes(mat(matrix(1, [1, 1], b"event_list", content)))
    with pytest.raises(LatentFaceError, match="no WIDER FACE ground truth"):
        read_ground_truth(tmp_path)


def cells(*items) -> np.ndarray:
    column = np.empty((len(items), 1), dtype=object)
    for index, item in enumerate(items):
        column[index, 0] = item
    return column


def truth(folder: Path, gt_list=None, **changed) -> Path:
    lists = {"event_list": cells("e"), "file_list": cells(cells("a")), "face_bbx_list": cells(cells(np.ones((2, 4))))}
    savemat(folder / "wider_face_val.mat", lists | changed)
    for difficulty in ("easy", "medium", "hard"):
        kept = cells(cells(np.array([[1.0], [2.0]]))) if gt_list is None else gt_list
        savemat(folder / f"wider_{difficulty}_val.mat", {"gt_list": kept})
    return folder


@pytest.mark.parametrize(
    "changed",
    [
        {"event_list": cells(np.ones((1, 1)))},
        {"event_list": cells("e", "f")},
        {"event_list": "e"},
        {"file_list": cells("a")},
        {"file_list": cells(cells(cells("a")))},
        {"face_bbx_list": cells(cells(np.ones((2, 3))))},
        {"face_bbx_list": cells(cells(np.full((2, 4), np.nan)))},
        {"face_bbx_list": cells(cells("boxes"))},
        {"face_bbx_list": cells(cells(np.ones((2, 4)), np.ones((2, 4))))},
        {"face_bbx_list": np.ones((2, 4))},
    ],
)
def test_ground_truth_of_other_kinds(changed, tmp_path):
    with pytest.raises(LatentFaceError, match=r"wider_face_val\.mat: no WIDER FACE ground truth"):
        read_ground_truth(truth(tmp_path, **changed))


@pytest.mark.parametrize("index", [0, 3, -1, 1.5, 2**40, np.nan])
def test_indices_of_no_face(index, tmp_path):
    """0 would count as the last face by Python's way of counting."""
    assert read_ground_truth(truth(tmp_path)).kept["easy"][0].tolist() == [True, True]
    with pytest.raises(LatentFaceError, match=r"wider_easy_val\.mat: no WIDER FACE ground truth"):
        read_ground_truth(truth(tmp_path, cells(cells(np.array([[float(index)]])))))
