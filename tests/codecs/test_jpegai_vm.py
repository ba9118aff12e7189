"""Exact JPEG AI latents by a stand-in for the reference software, which needs weights and an environment of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latentface.cli import main
from latentface.codecs import VmSettings, open_codec
from latentface.codecs.jpegai_vm import PROOFS, JpegAiVmCodec, _model_index
from latentface.codecs.vm_process import Software
from latentface.data.manifest import read_manifest
from latentface.errors import LatentFaceError, PictureError

STANDIN = Path(__file__).with_name("vm_standin")


def checkout(folder: Path) -> Path:
    return Path(shutil.copytree(STANDIN, folder / "vm", ignore=shutil.ignore_patterns("__pycache__")))


def settings(vm: Path, **values) -> VmSettings:
    return VmSettings(**{"folder": str(vm), "python": sys.executable, "timeout": 60.0, **values})


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """70 x 90, every pixel of a cell alike: 5 x 6 cells."""
    cells = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    return np.ascontiguousarray(cells.repeat(16, axis=0).repeat(16, axis=1)[:70, :90])


@pytest.fixture(scope="module")
def trusted(tmp_path_factory) -> JpegAiVmCodec:
    """A codec whose one process counts as proved: starting one for each command takes seconds."""
    codec = JpegAiVmCodec(settings(checkout(tmp_path_factory.mktemp("trusted"))))
    codec._proofs = PROOFS
    return codec


@pytest.fixture
def behave(trusted):
    """Says how the trusted codec's software behaves."""
    file = trusted.software.folder / "behaviour"
    yield file.write_text
    file.unlink(missing_ok=True)


def processes(folder: Path) -> Counter[str]:
    """Which process has run how many encoders."""
    return Counter(line.split()[0] for line in (folder / "commands").read_text().splitlines())


def test_the_standin_writes_what_torch_saves(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(STANDIN / "src"))
    import tensors

    tensors.save(tmp_path / "tensor", [0.5, 1, 2, 3, 4, -5.25], [1, 3, 2, 1])
    expected = torch.tensor([0.5, 1, 2, 3, 4, -5.25]).reshape(1, 3, 2, 1)
    assert torch.equal(torch.load(tmp_path / "tensor", weights_only=True), expected)


def test_latents_are_those_that_the_software_writes(trusted, picture):
    latent, other = trusted.encode_rates(picture, (75, 12))
    assert latent.array.shape == (256, 5, 6)
    assert latent.array.dtype == np.float32
    red, blue = (np.array(Image.fromarray(picture).resize((6, 5), Image.Resampling.BOX))[..., k] for k in (0, 2))
    np.testing.assert_allclose(latent.array[7], red * np.float32(7) / 75, rtol=1e-6)
    np.testing.assert_allclose(latent.array[160 + 95], blue * np.float32(95) / 75, rtol=1e-6)
    np.testing.assert_allclose(other.array[7], red * np.float32(7) / 12, rtol=1e-6)


def test_what_the_latent_says_of_itself(trusted, picture):
    latent, other = trusted.encode_rates(picture, (75, 12), pixels=630)
    assert (latent.codec, latent.rate, latent.model_index, latent.step, latent.exact) == ("jpegai", 75, 2, None, True)
    assert (latent.bpp, latent.bpp_from) == (8 * round(1.02 * 0.75 * 6300 / 8) / 630, "bitstream")
    assert (latent.source_width, latent.source_height, latent.pad_right, latent.pad_bottom) == (90, 70, 6, 10)
    assert other.model_index == 0


def test_one_process_for_many_pictures_where_it_proves_itself(tmp_path, picture):
    codec = JpegAiVmCodec(settings(checkout(tmp_path)))
    for _ in range(4):
        latent = codec.encode(picture, 75)
    counts = processes(codec.software.folder)
    assert sorted(counts.values()) == [1] * PROOFS + [4]  # each of the first two alone too, and all four in one
    codec._distrust("for this test")
    assert np.array_equal(latent.array, codec.encode(picture, 75).array)
    profile = {line.split(maxsplit=3)[3] for line in (codec.software.folder / "commands").read_text().splitlines()}
    assert profile == {"cfg/tools_off.json cfg/profiles/main.json"}


@pytest.mark.parametrize("word", ["remember", "crash the second time"])
def test_a_software_that_can_only_code_one(tmp_path, picture, capsys, word):
    """Whose second picture in one process comes out otherwise, or not at all."""
    codec = JpegAiVmCodec(settings(checkout(tmp_path)))
    codec._proofs = 1  # the first was coded both ways and was the same
    first = codec._run(codec._kept(), _png(tmp_path, picture), 75, picture.shape[:2])
    (codec.software.folder / "behaviour").write_text(word)
    latents = [codec.encode(picture, 75) for _ in range(2)]
    for latent in latents:
        assert np.array_equal(latent.array, first.array)
    assert codec._server is None
    assert capsys.readouterr().err.count("a process for each command from now on") == 1


def _png(folder: Path, picture: np.ndarray) -> Path:
    Image.fromarray(picture).save(folder / "picture.png")
    return folder


FAILURES = {
    "crash": "encoder failed .*RuntimeError: the encoder's own reason",
    "leave": "encoder failed .*left early",
    "die": "encoder failed .killed by signal 9; out of memory",
    "write nothing": "encoder ended well at rate 25, but wrote no bitstream",
    "write an empty file": "wrote no bitstream",
    "crash in the decoder": "decoder failed .*ValueError: the decoder's own reason",
    "dump nothing": "decoder ended well, but wrote 0 files of model_y.y_hat",
    "wrong shape": r"wrote luma of shape \[160, 6, 5\]; a picture of 90x70 has \[C, 5, 6\]",
    "not finite": "model_uv.y_hat cannot be read: .*NaN or infinite",
    "pickle": "model_y.y_hat cannot be read: .*more than tensors and plain values",
    "no tensor": "model_y.y_hat cannot be read: .*0 arrays",
}


@pytest.mark.parametrize("word", FAILURES)
def test_every_way_to_fail_is_said_in_one_line(trusted, picture, behave, word):
    behave(word)
    with pytest.raises(PictureError, match=FAILURES[word]) as caught:
        trusted.encode(picture, 25)
    assert "\n" not in str(caught.value)
    assert not (trusted.software.folder / "executed").exists()
    assert not Path("executed").exists()
    behave("")
    assert trusted._proofs == PROOFS  # the picture is to blame, not the process


@pytest.mark.parametrize("proofs", [PROOFS, None])
def test_what_takes_too_long_is_ended_with_its_children(tmp_path, picture, proofs):
    vm = checkout(tmp_path)
    (vm / "behaviour").write_text("hang")
    codec = JpegAiVmCodec(settings(vm, timeout=2.0))
    codec._proofs = proofs
    start = time.monotonic()
    with pytest.raises(PictureError, match="encoder did not end within 2 s; allow more with --vm_timeout"):
        codec.encode(picture, 75)
    assert time.monotonic() - start < 20
    child = Path("/proc") / (vm / "child").read_text()
    for _ in range(50):
        if not child.exists() or (child / "stat").read_text().split()[2] == "Z":
            break
        time.sleep(0.1)
    else:
        pytest.fail("the software's own child runs on")


def test_nothing_is_left_behind(trusted, picture, behave, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    trusted.encode(picture, 75)
    behave("crash")
    with pytest.raises(PictureError):
        trusted.encode(picture, 75)
    assert list(tmp_path.iterdir()) == []


def test_chroma_on_half_the_grid(trusted, picture, behave):
    behave("chroma on half the grid")
    latent = trusted.encode(picture, 75)
    assert latent.array.shape == (160 + 64, 5, 6)
    assert latent.array[161].tolist() == [  # the second of 3 x 3 cells
        [9, 9, 10, 10, 11, 11], [9, 9, 10, 10, 11, 11], [12, 12, 13, 13, 14, 14], [12, 12, 13, 13, 14, 14],
        [15, 15, 16, 16, 17, 17],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("begin brm of the tool id  2", 2),
        ("begin brm of the tool id 1\nbest model is 3 best beta displacment", 3),
        ("model_idx: 1", 1),
        ("model id=0", 0),
        ("tool id 17", None),
        ("nothing of the kind, 2 models", None),
    ],
)
def test_the_model_index_is_read_from_what_is_printed(tmp_path, text, index):
    (tmp_path / "log").write_text(f"Codec/Encoder: name=x, version=2\n{text}\n")
    assert _model_index(tmp_path / "log") == index


def test_a_software_that_does_not_say_its_model(trusted, picture, behave):
    behave("say no model")
    assert trusted.encode(picture, 12).model_index is None


def _without(name: str):
    return lambda vm: (vm / name).unlink()


@pytest.mark.parametrize(
    ("damage", "values", "words"),
    [
        (_without("cfg/tools_off.json"), {}, "cfg/tools_off.json is missing"),
        (_without("cfg/profiles/main.json"), {}, "no cfg/profiles/main.json or cfg/profiles/base.json; there are high"),
        (_without("src/dump/coders/decoder.py"), {}, "no checkout of .*: no src/dump/coders/decoder.py"),
        (None, {"profile": "low"}, "no cfg/profiles/low.json; there are high, main: name one with --vm_profile"),
        (None, {"python": "/nowhere/python"}, r"--python /nowhere/python: cannot be started \(No such file"),
        (None, {"python": "/bin/echo"}, "--python /bin/echo: no Python"),
        (None, {"python": "/bin/false"}, "--python /bin/false: no Python"),
        (None, {"python": None}, "needs --vm DIR, .* and --python PATH"),
        (None, {"folder": "/nowhere"}, "no checkout of the JPEG AI reference software"),
        (None, {"timeout": 0.0}, "--vm_timeout 0: has to be above 0"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(tmp_path, damage, values, words):
    vm = checkout(tmp_path)
    if damage:
        damage(vm)
    with pytest.raises(LatentFaceError, match=words):
        open_codec("jpegai-vm", vm=settings(vm, **values))


def test_a_python_without_torch(tmp_path):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho 3 7 False\n")
    script.chmod(0o755)
    with pytest.raises(LatentFaceError, match="has no torch; give the Python of the environment"):
        JpegAiVmCodec(settings(checkout(tmp_path), python=str(script)))
    script.write_text("#!/bin/sh\necho 3 6 True\n")
    with pytest.raises(LatentFaceError, match=r"Python 3.6; 3.7 or newer is needed"):
        JpegAiVmCodec(settings(tmp_path / "vm", python=str(script)))


def test_the_software_gets_nothing_of_our_own_python(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/ours")
    monkeypatch.setenv("ANYTHING", "else")
    program = "import os; print(os.environ.get('PYTHONPATH'), os.environ.get('ANYTHING'), os.getcwd())"
    process = Software(tmp_path, sys.executable, 60.0).start(["-c", program], stdout=subprocess.PIPE)
    assert process.communicate()[0].decode().split() == ["None", "else", str(tmp_path)]


def test_profiles(tmp_path):
    vm = checkout(tmp_path)
    assert JpegAiVmCodec(settings(vm, profile="high")).name == "jpegai-high"  # other networks, other latents
    (vm / "cfg/profiles/main.json").rename(vm / "cfg/profiles/base.json")
    codec = JpegAiVmCodec(settings(vm))
    assert (codec.profile, codec.name) == ("base", "jpegai")


def test_small_pictures_are_refused(trusted):
    with pytest.raises(LatentFaceError, match="no picture of 100x48: 64 pixels a side at least"):
        trusted.encode(np.zeros((48, 100, 3), np.uint8), 75)


def test_the_command_skips_the_picture_that_fails(tmp_path, capsys):
    """The whole way: the manifest has the true bits, the model index, and says exact."""
    vm = checkout(tmp_path)
    (vm / "behaviour").write_text("crash on red pictures")
    (tmp_path / "photos").mkdir()
    for name, colour in (("a.png", (200, 10, 90)), ("b.png", (255, 0, 0)), ("c.png", (0, 0, 0))):
        Image.new("RGB", (64, 64), colour).save(tmp_path / "photos" / name)
    arguments = [
        "encode", "--images", str(tmp_path / "photos"), "--out", str(tmp_path / "train"), "--codec", "jpegai-vm",
        "--vm", os.path.relpath(vm), "--python", sys.executable, "--rates", "50", "--size", "64", "--workers", "1",
    ]  # fmt: skip
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert "2 pictures, 0 crops (2 written now), 1 skipped" in said.out
    assert "b.png: src.reco.coders.encoder failed (exit code 1): RuntimeError: the encoder's own reason" in said.err
    rows = read_manifest(tmp_path / "train/latents.jsonl")
    entry = rows["a"].latents[50]
    assert (entry.codec, entry.model_index, entry.exact, entry.bpp_from) == ("jpegai", 2, True, "bitstream")
    assert entry.bpp == 8 * round(1.02 * 0.5 * 4096 / 8) / 4096
    assert np.load(tmp_path / "train/latent/c/latent_50.npy").shape == (256, 4, 4)
    assert sorted(rows) == ["a", "c"]
    assert rows["a"].encoder["codec"] == "jpegai-vm"
