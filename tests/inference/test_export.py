"""Exported graphs: the same faces from another runtime, and what is refused."""

from __future__ import annotations

import builtins
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from latentface import Detector
from latentface.cli import main
from latentface.errors import LatentFaceError
from latentface.inference.export import ExportConfig, run
from latentface.inference.graph import DecodedRetinaFace
from latentface.inference.runtime import OnnxRuntime
from latentface.model.anchors import decode_boxes, decode_landmarks
from latentface.model.checkpoint import load_checkpoint
from latentface.model.faces import Thresholds


@pytest.fixture(scope="module")
def integer(weights: Path, drawn_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in int8."""
    out = tmp_path_factory.mktemp("export") / "model_int8.onnx"
    return run(ExportConfig(str(weights), out=str(out), int8=True, calibration=str(drawn_dataset / "train")))


def latents(*shape: int) -> np.ndarray:
    return 20 * np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def test_the_decoded_graph_is_the_model_and_its_priors(weights):
    model = load_checkpoint(weights).build().eval()
    batch, rates, indices = torch.from_numpy(latents(2, 256, 5, 3)), torch.tensor([25, 75]), torch.tensor([-1, -1])
    with torch.inference_mode():
        raw = model(batch, rates, indices)
        boxes, scores, landmarks = DecodedRetinaFace(model)(batch, rates, indices)
    priors = model.priors(5, 3, torch.device("cpu"))
    assert torch.equal(boxes, decode_boxes(raw["boxes"], priors))
    assert torch.equal(landmarks, decode_landmarks(raw["landmarks"], priors))
    assert torch.allclose(scores, raw["scores"].softmax(-1)[..., 1], atol=1e-7)


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (5, 3), (2, 13)])
@pytest.mark.parametrize("batch", [1, 3])
def test_onnx_runtime_finds_what_torch_finds(shape, batch, weights, exported):
    """To 0.01 px and 1e-4 of a score, for every size and batch, both rates in one batch."""
    torch_way, onnx_way = Detector.load(weights), Detector.load(exported)
    assert isinstance(onnx_way.runtime, OnnxRuntime)
    items = list(latents(batch, 256, *shape))
    rates = [25, 75, 25][:batch]
    thresholds = {"confidence": 0.02, "nms": 0.4}
    for a, b in zip(torch_way(items, rates, **thresholds), onnx_way(items, rates, **thresholds), strict=True):
        assert len(a) == len(b)
        order_a, order_b = np.lexsort(a.boxes.round(1).T), np.lexsort(b.boxes.round(1).T)  # equal scores may swap
        assert np.allclose(a.boxes[order_a], b.boxes[order_b], atol=0.01)
        assert np.allclose(a.scores[order_a], b.scores[order_b], atol=1e-4)
        assert np.allclose(a.landmarks[order_a], b.landmarks[order_b], atol=0.01)


def test_it_says_what_it_is(weights, exported):
    torch_way, onnx_way = Detector.load(weights), Detector.load(exported)
    assert onnx_way.rates == torch_way.rates == (25, 75)
    assert onnx_way.stride == 16
    assert onnx_way.codec == torch_way.codec
    assert onnx_way.runtime.config == torch_way.runtime.config
    assert onnx_way.facts["precision"] == "float32"
    with pytest.raises(LatentFaceError, match=r"rate 12 is unknown to this model \(it was trained on 25, 75\)"):
        onnx_way(latents(256, 4, 4), 12)
    with pytest.raises(LatentFaceError, match="holds a light, not a resnet50"):
        Detector.load(exported, network="resnet50")
    with pytest.raises(LatentFaceError, match="exported models run on the CPU here"):
        Detector.load(exported, device="cuda:0")


def test_an_exported_model_keeps_its_precision(exported):
    with pytest.raises(LatentFaceError, match="--precision bfloat16: an exported model keeps its own"):
        Detector.load(exported, precision="bfloat16")


def test_int8_is_near_and_smaller(weights, exported, integer, drawn_dataset):
    """Scores within 0.1, on average within 0.01, of a latent that it was not calibrated on."""
    latent = np.load(drawn_dataset / "val" / "latent" / "drawn_2_1" / "latent_75.npy")[None]
    feed = torch.from_numpy(latent), torch.tensor([75]), torch.tensor([-1])
    every = Thresholds(confidence=0.0, nms=1.0, before_nms=10**6, keep=10**6)
    scores = []
    for path in (exported, integer):
        runtime = OnnxRuntime(path)
        inputs = dict(zip(("latents", "rates", "model_indices"), (t.numpy() for t in feed), strict=True))
        scores.append(runtime.session.run(["scores"], inputs)[0])
        assert len(runtime.predict(*feed, every)[0]) > 0
    off = np.abs(scores[0] - scores[1])
    assert 0 < off.mean() < 0.01
    assert off.max() < 0.1
    assert integer.stat().st_size < 0.45 * exported.stat().st_size
    assert Detector.load(integer).facts["precision"] == "int8"


def test_detect_and_evaluate_take_an_exported_file(weights, exported, drawn_dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found = {}
    for way, weight in (("torch", weights), ("onnx", exported)):
        arguments = ["--weight", str(weight), "--out", way]
        assert main(["detect", str(drawn_dataset / "val" / "latent"), "--rate", "75", "--conf", "0.1", *arguments]) == 0
        assert main(["evaluate", "--dataset_root", str(drawn_dataset), "--rates", "75", *arguments]) == 0
        files = sorted(Path(way).glob("*_latent_75.json"))
        assert len(files) == 3
        found[way] = [json.loads(path.read_text())["faces"] for path in files]
        found[way].append(json.loads((Path(way) / "evaluation.json").read_text())["rates"]["75"]["all"]["ap"])
    assert found["torch"][-1] == pytest.approx(found["onnx"][-1], abs=1e-3)
    assert [len(faces) for faces in found["torch"][:-1]] == [len(faces) for faces in found["onnx"][:-1]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["W", "--int8"], "--int8 needs --calibration DIR"),
        (["W", "--out", "model.bin"], "give it the suffix .onnx"),
        (["W", "--out", "none/model.onnx"], "no folder none; make it first"),
        (["missing.pth"], "missing.pth: no such file"),
        (["W", "--network", "resnet50"], "holds a light, not a resnet50"),
        (["W", "--int8", "--calibration", "nowhere"], "nowhere: no folder latent/ in it"),
    ],
)
def test_mistakes_get_a_line(arguments, message, weights, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["export", *(word.replace("W", str(weights)) for word in arguments)]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


class Bomb:
    def __reduce__(self):
        return Path.mkdir, (Path("exploded"),)


@pytest.mark.parametrize("content", [b"", b"no model", pickle.dumps(Bomb()), b"\x08\x08" * 50])
def test_what_is_no_onnx_file_is_refused(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("model.onnx").write_bytes(content)
    with pytest.raises(LatentFaceError, match=r"model.onnx: (not an ONNX file|an ONNX file, but not written)"):
        Detector.load("model.onnx")
    assert not Path("exploded").exists()


def test_graphs_of_others_are_refused(exported, tmp_path):
    import onnx

    graph = onnx.load(exported)
    for entry in graph.metadata_props:
        if entry.key == "format":
            entry.value = "something/1"
    onnx.save(graph, tmp_path / "other.onnx")
    with pytest.raises(LatentFaceError, match="an ONNX file, but not written by latentface export"):
        Detector.load(tmp_path / "other.onnx")


def test_weights_outside_the_file_are_not_read(exported, tmp_path):
    """A graph that names another file for its weights, here /etc/hostname, does not get it."""
    import onnx

    graph = onnx.load(exported)
    tensor = max(graph.graph.initializer, key=lambda t: len(t.raw_data))
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../../../../../etc/hostname"
    (tmp_path / "model.onnx").write_bytes(graph.SerializeToString())
    with pytest.raises(LatentFaceError, match="not an ONNX file that can be run"):
        Detector.load(tmp_path / "model.onnx")


@pytest.mark.parametrize(("missing", "path"), [("onnxscript", "export"), ("onnxruntime", "load")])
def test_missing_packages_get_the_install_line(missing, path, weights, exported, tmp_path, monkeypatch):
    real = builtins.__import__

    def absent(name, *rest, **options):
        if name == missing:
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    work = {
        "export": lambda: run(ExportConfig(str(weights), out=str(tmp_path / "model.onnx"))),
        "load": lambda: Detector.load(exported),
    }
    with pytest.raises(LatentFaceError, match=r"pip install 'latentface\[export\]'"):
        work[path]()
    assert list(tmp_path.iterdir()) == []
