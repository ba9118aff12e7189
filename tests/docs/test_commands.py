"""Every command and every Python example of README and docs is run, in order, on a small dataset of drawn pictures.

What cannot run as it stands (hours of training, a server that never ends) is shortened by the rules below, and by
nothing else.
"""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from conftest import REPOSITORY, unpack_predictions, write_tree
from PIL import Image

from latentface import Detector
from latentface.apps.demo import DemoConfig, draw_split
from latentface.apps.drawing import draw_picture
from latentface.cli import COMMANDS, main
from latentface.data.labels import read_labels
from latentface.options import parse

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
SIZE = 128
RATES = (12, 25, 50, 75, 100)
OF_SHARED = {  # what a command names -> where it is among the real data
    "JPEG_AI_SOFTWARE": "jpegai",
    "mobilenet0.25_Final.pth": "peers/retinaface_mobilenet025.pth",
    "eval_tools/ground_truth": "widerface",
}
NOT_RUN = {  # first words of a line -> why it is only read
    "make": "the tests are part of it",
    "pip": "what runs the tests is installed already",
    "latentface serve": "never ends by itself, has a test of its own",
    "latentface bench": "takes a minute, has a test of its own",
    "latentface evaluate --weight runs/latents_0": "needs the 3,226 pictures of WIDER FACE val",
    "latentface import": "wants another program's files, has tests of its own",
    "latentface detect val/latent --ray": "needs the extra `ray`, has tests of its own",
    "latentface encode --ray": "needs the extra `ray`, has tests of its own",
    "latentface demo": "takes minutes, has a test of its own",
    "torchrun": "starts processes, has tests of its own",
}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def lines(page: Path) -> list[list[str]]:
    """The words of every command of a page."""
    joined = "".join(blocks(page, "bash")).replace("\\\n", " ")
    return [words for line in joined.splitlines() if (words := shlex.split(line, comments=True))]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the pages name."""
    root = tmp_path_factory.mktemp("home")
    for split, count in (("train", 6), ("val", 3)):
        write_tree(root / "retina-modify" / split, count, RATES, seed=count, size=SIZE)
    shutil.copytree(root / "retina-modify", root / "latents")
    shutil.copytree(root / "retina-modify" / "val", root / "val")
    (root / "picture").mkdir()
    shutil.copy(root / "val" / "latent" / "drawn_3_0" / "latent_75.npy", root / "picture")
    draw_split(root / "PHOTOS", "train", 4, DemoConfig(out=str(root), pictures=4, held_out=1, size=SIZE))
    (root / "PHOTOS" / "labels.txt").rename(root / "labels.txt")
    for number in range(3):  # those of retina-modify/val
        rgb = draw_picture(np.random.default_rng((3, number)), SIZE, SIZE, faces=number % 3).rgb
        Image.fromarray(rgb).save(root / "PHOTOS" / f"drawn_3_{number}.png")
    photograph = next((root / "PHOTOS").glob("*.png"))
    Image.open(photograph).convert("RGB").save(root / "photo.jpg")
    size = ["--size", str(SIZE), "--workers", "1"]
    sources = ["--images", str(root / "PHOTOS"), "--labels", str(root / "labels.txt")]
    for split in ("train", "val"):
        for name, kind in (("originals", ["pixels", "--rates", "0"]), ("decoded", ["dct", "--decoded"])):
            out = str(root / name / split)
            assert main(["encode", *sources, "--out", out, *size, "--dtype", "uint8", "--codec", *kind]) == 0
    more = ["--crops", "5", "--rates_per_view", "1", "--codec", "dct", "--out", str(root / "more" / "train")]
    assert main(["encode", *sources, *size, *more]) == 0
    train = ["--dataset_root", str(root / "retina-modify"), "--rates", *map(str, RATES), "--model", "light", "--bridge"]
    assert (
        main(["train", *train, "shuffle", "--epochs", "1", "--no_wandb", "--workers", "0", "--out", str(root / "r")])
        == 0
    )
    (root / "r" / "weight_final.pth").rename(root / "weight_final.pth")
    shutil.rmtree(root / "r")
    for name in ("before", "first", "second"):  # of a mean
        shutil.copy(root / "weight_final.pth", root / f"{name}.pth")
    write_wider_rows(root / "wider_face_val_bbx_gt.txt", root / "val" / "labels.txt")
    for name in ("a", "b"):
        weight = ["--weight", str(root / "weight_final.pth"), "--dataset_root", str(root / "retina-modify")]
        assert main(["evaluate", *weight, "--rates", "12", "75", "--out", str(root / name)]) == 0
    return root


def write_wider_rows(path: Path, labels: Path) -> None:
    """The same boxes as WIDER FACE's own files have them, six attributes each."""
    rows = []
    for name, picture in read_labels(labels).items():
        boxes = [f"{x1:.0f} {y1:.0f} {x2 - x1:.0f} {y2 - y1:.0f} 1 0 0 0 2 0" for x1, y1, x2, y2 in picture.boxes]
        rows += [name, str(len(boxes)), *(boxes or ["0 0 0 0 0 0 0 0 0 0"])]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


@pytest.fixture
def at_home(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it, entered; what a page puts into a bucket goes with it."""
    shutil.copytree(home, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield tmp_path / "home"
    bucket = fsspec.filesystem("memory")
    if bucket.exists("/bucket"):
        bucket.rm("/bucket", recursive=True)


def shortened(words: list[str]) -> list[str]:
    """Seconds in place of hours: one epoch, no download, small pictures, a few steps, no object store."""
    short = [word.replace("s3://", "memory://") for word in words]
    training = "train" in words[1] or words[0:2] == ["python", "train.py"]
    if training and "--resume" not in words:
        if "--epochs" not in words:
            short += ["--epochs", "1"]
        elif int(words[words.index("--epochs") + 1]) > 2:
            short[words.index("--epochs") + 1] = "1"
        if "light" not in words and "mobilenet" not in words:
            short += ["--backbone_weights", "none"]
        short += ["--workers", "0"]
        if "--fit_entry" in words and "--fit_steps" not in words:
            short += ["--fit_steps", "2"]
    if "--fit_steps" in short:
        short[short.index("--fit_steps") + 1] = "2"
    if words[1] == "encode":
        short += ["--workers", "1"]
        if "--size" in words:
            short[words.index("--size") + 1] = str(SIZE)
        else:
            short += ["--size", str(SIZE)]
    if words[0:3] == ["latentface", "detect", "photo.jpg"]:
        short += ["--size", str(SIZE)]
    if "--network" in words and "weight_final.pth" in " ".join(words):
        short[words.index("--network") + 1] = "light"
    return [word.replace("/path/to/latent_75.npy", "picture/latent_75.npy").replace("/path/to/", "") for word in short]


def run(words: list[str]) -> int:
    if words[0] == "latentface":
        return main(words[1:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words[1:])
        try:
            runpy.run_path(str(REPOSITORY / words[1]), run_name="__main__")
        except SystemExit as end:
            return int(end.code or 0)
    return 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_do_what_the_page_says(page: Path, at_home: Path, request: pytest.FixtureRequest) -> None:
    for text in blocks(page, "yaml"):
        (at_home / "plan.yaml").write_text(text.replace("[0, 1, 2]", "[0]").replace("epochs: 3", "epochs: 1"))
    left_out = []
    for words in lines(page):
        if any(" ".join(words).startswith(first) for first in NOT_RUN):
            if words[0] == "latentface":
                command = COMMANDS[words[1]]
                module = __import__(command.module, fromlist=[command.config])
                parse(getattr(module, command.config), words[2:], words[1])
            continue
        named = [*words, *(Path("plan.yaml").read_text().split() if "plan.yaml" in words else [])]
        wanted = [name for name in OF_SHARED if name in named]
        if wanted and not (REPOSITORY.parent / "shared").is_dir():
            left_out.append(" ".join(words))
            continue
        for name in wanted:
            target = at_home / name
            target.parent.mkdir(exist_ok=True)
            if not target.exists():
                target.symlink_to(REPOSITORY.parent / "shared" / OF_SHARED[name])
        if "--predictions" in words:
            unpack_predictions(REPOSITORY.parent / "shared", at_home / "predictions")
        assert words[0] in ("latentface", "python"), words
        if words[1] == "encode":  # the page makes it anew, perhaps by another codec
            shutil.rmtree(words[words.index("--out") + 1], ignore_errors=True)
        assert run(shortened(words)) == 0, " ".join(words)
    if left_out:
        pytest.skip(f"needs ../shared, real data that is not part of the project: {len(left_out)} commands")


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem)
def test_python_examples_run(page: Path, at_home: Path) -> None:
    latent = np.load("picture/latent_75.npy")
    names = {"latent": latent, "first": latent, "second": latent, "Detector": Detector}
    for example in blocks(page, "python"):
        exec(compile(example, str(page), "exec"), names)  # our own pages
