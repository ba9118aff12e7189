"""`latentface detect --rows`: one row for every input, whatever happens to the processes."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import kill_a_worker

from latentface.cli import main
from latentface.inference import archive
from latentface.workers import Failure, run_items

LATENTS = 7  # of the drawn training split


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No processes, for what is not about them: each takes seconds to start. One thread, as two have on two cores."""

    def run(items: list[archive.Part], start: Any, engine: object) -> Iterator[tuple[archive.Part, object]]:
        work = start() if items else None
        yield from ((item, work(item)) for item in items)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the archive's own; with another number the last bits differ
    monkeypatch.setattr(archive, "cores", lambda: 2)
    monkeypatch.setattr(archive, "run_items", run)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def detect(drawn_dataset: Path, weights: Path) -> Callable[..., int]:
    """The command on the latents of the training split, or on other inputs."""

    def run(*words: str, inputs: str = str(drawn_dataset / "train" / "latent")) -> int:
        settings = ["--rate", "75", "--weight", str(weights), "--conf", "0.01", "--batch_size", "3"]
        return main(["detect", inputs, *settings, *words])

    return run


def read(folder: str) -> list[dict[str, Any]]:
    """All rows, in the order of their parts."""
    parts = sorted(Path(folder).glob("part-*"))
    if parts[0].suffix == ".jsonl":
        return [json.loads(line) for part in parts for line in part.read_text().splitlines()]
    import pyarrow.parquet as pq

    return [row for part in parts for row in pq.read_table(part).to_pylist()]


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_rows_are_what_detect_writes_for_each_latent(
    kind: str, detect: Callable[..., int], capsys: pytest.CaptureFixture
) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'latentface[parquet]'")
    assert detect("--no_pictures", "--out", "plain") == 0
    assert detect("--rows", kind, "--part", "3", "--out", "rows") == 0
    plain = [json.loads(path.read_text()) for path in sorted(Path("plain").glob("*.json"))]
    settings = {tuple(content.pop(name) for name in ("weight", "confidence", "nms")) for content in plain}
    assert settings == {("weight_final.pth", 0.01, 0.4)}
    rows = read("rows")
    assert rows == [content | {"error": None} for content in plain]
    faces = sum(len(row["faces"]) for row in rows)
    assert faces > 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"7 inputs in 3 parts, 3 of them written now: {faces} faces, 0 inputs with errors; rows in rows/"
    )
    names = [f"part-0000{number}.{kind}" for number in range(3)]
    assert sorted(path.name for path in Path("rows").iterdir()) == ["_inputs.jsonl", "_parts.json", *names]


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("packed", [False, True], ids=["tree", "packed"])
def test_a_latent_that_cannot_be_read_has_a_row(
    packed: bool, drawn_dataset: Path, detect: Callable[..., int], capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(drawn_dataset / "val", "val")
    if packed:
        shutil.copytree(drawn_dataset / "train", "train")
        assert main(["pack", ".", "--out", "packed", "--dtype", "float32", "--rates", "75"]) == 0
    first, second, third = sorted(Path("val", "latent").glob("*/latent_75.npy"))
    second.write_bytes(second.read_bytes()[:1000])
    third.unlink()
    np.save(third, np.full((256, 8, 8), np.nan, np.float32))
    paths = [first, second, third, Path("val/latent/gone/latent_75.npy")]
    paths += [Path("packed/val/drawn_2_0/latent_75.npy"), Path("packed/val/gone/latent_75.npy")] * packed
    Path("list.txt").write_text("".join(f"{path}\n" for path in paths))
    assert detect("--rows", "jsonl", "--out", "rows", inputs="@list.txt") == 0
    rows = read("rows")
    assert [row["latent"] for row in rows] == list(map(str, paths))
    errors = [row["error"] for row in rows]
    assert errors[0] is None
    assert errors[1].startswith(f"{second}: ")
    assert errors[2:4] == [
        f"{third}: NaN or infinite values; write this latent again",
        "val/latent/gone/latent_75.npy: no such file",
    ]
    assert rows[1] == {
        "latent": str(second), "codec": None, "rate": None, "picture_width": None, "picture_height": None,
        "photograph": None, "faces": [], "error": errors[1],
    }  # fmt: skip
    if packed:
        assert rows[4]["faces"] == rows[0]["faces"]
        assert "no gone/latent_75 in it" in errors[5]
    assert f"{3 + packed} inputs with errors" in capsys.readouterr().out


def test_parquet_without_its_library(
    detect: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert detect("--rows", "parquet", "--out", "rows") == 2
    wanted = "latentface: error: --rows parquet needs pyarrow: pip install 'latentface[parquet]'\n"
    assert capsys.readouterr().err == wanted
    assert not Path("rows").exists()


@pytest.mark.usefixtures("in_this_process")
def test_nothing_but_errors_is_no_success(detect: Callable[..., int]) -> None:
    Path("list.txt").write_text("a/latent_75.npy\nb/latent_75.npy\n")
    assert detect("--rows", "jsonl", "--out", "rows", inputs="@list.txt") == 2
    assert [row["error"] for row in read("rows")] == [f"{name}/latent_75.npy: no such file" for name in "ab"]


@pytest.mark.usefixtures("in_this_process")
def test_a_run_that_is_started_again_makes_what_is_missing(
    detect: Callable[..., int], capsys: pytest.CaptureFixture
) -> None:
    words = ("--rows", "jsonl", "--part", "2", "--out", "rows")
    assert detect(*words) == 0
    parts = sorted(Path("rows").glob("part-*"))
    rows, before = read("rows"), {part: part.stat().st_ino for part in parts}
    parts[1].unlink()
    parts[3].unlink()
    Path("rows/.part-00001.jsonl.0123.tmp").write_text("of a worker that was killed")
    assert detect(*words) == 0
    assert "7 inputs in 4 parts, 2 of them written now: " in capsys.readouterr().out
    assert read("rows") == rows
    assert [part.stat().st_ino == before[part] for part in (parts[0], parts[2])] == [True, True]
    assert not list(Path("rows").glob(".part*"))
    assert detect(*words) == 0
    assert "7 inputs in 4 parts, all of which were there already" in capsys.readouterr().out


@pytest.mark.usefixtures("in_this_process")
def test_other_work_in_the_same_folder_is_refused(
    drawn_dataset: Path, detect: Callable[..., int], capsys: pytest.CaptureFixture
) -> None:
    rows = ("--rows", "jsonl", "--out", "rows")
    assert detect(*rows) == 0
    before = {path: path.read_bytes() for path in Path("rows").iterdir()}
    capsys.readouterr()
    for words, inputs, message in (
        (("--nms", "0.3"), "train", "rows: begun with nms 0.4, now it is 0.3; give the same or another --out"),
        (("--part", "5"), "train", "rows: begun with part 1000, now it is 5; give the same or another --out"),
        ((), "val", "rows: begun with other inputs (7); give the same or another --out"),
    ):
        assert detect(*rows, *words, inputs=str(drawn_dataset / inputs / "latent")) == 2
        assert capsys.readouterr().err == f"latentface: error: {message}\n"
    assert {path: path.read_bytes() for path in Path("rows").iterdir()} == before
    Path("rows/_parts.json").unlink()
    assert detect(*rows) == 2
    assert "rows: has parts but no _parts.json that says what of" in capsys.readouterr().err
    Path("rows/_parts.json").write_text("{}")
    assert detect(*rows) == 2
    assert "rows/_parts.json: not the description of an archive" in capsys.readouterr().err


@pytest.mark.usefixtures("in_this_process")
def test_an_archive_of_rows_with_other_fields_does_not_go_on(
    detect: Callable[..., int], capsys: pytest.CaptureFixture
) -> None:
    rows = ("--rows", "jsonl", "--out", "rows")
    assert detect(*rows) == 0
    path = Path("rows/_parts.json")
    content = json.loads(path.read_text())
    assert content["weight"].endswith(".pth")
    path.write_text(json.dumps(content | {"fields": 1}))
    assert detect(*rows) == 2
    assert capsys.readouterr().err == (
        "latentface: error: rows: begun by another version, whose rows have other fields; give another --out\n"
    )


def test_a_worker_killed_half_way_loses_and_doubles_nothing(
    where: str,
    drawn_dataset: Path,
    detect: Callable[..., int],
    capfd: pytest.CaptureFixture,
    in_this_process: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    latents = sorted((drawn_dataset / "train" / "latent").glob("*/latent_75.npy")) * 20
    Path("list.txt").write_text("".join(f"{path}\n" for path in latents))
    rows = ["--rows", "jsonl", "--processes", "2"]
    assert detect(*rows, "--part", "60", "--out", "undisturbed", inputs="@list.txt") == 0
    monkeypatch.setattr(archive, "run_items", run_items)
    killed: list[str] = []

    def kill() -> None:
        while not list(Path("rows").glob("part-*")):
            time.sleep(0.001)
        killed.append(kill_a_worker(os.getpid()))

    thread = threading.Thread(target=kill)
    thread.start()
    words = [
        "--rows",
        "jsonl",
        "--part",
        "3",
        "--out",
        "rows",
        "--processes",
        "2",
        *(["--ray", where] if where else []),
    ]
    assert detect(*words, inputs="@list.txt") == 0
    thread.join()
    assert killed == ["ray::MapWorker" if where else "multiprocessing-fork"]
    assert len(list(Path("rows").glob("part-*.jsonl"))) == 47  # 140 / 3
    found = read("rows")
    assert [row["latent"] for row in found] == list(map(str, latents))
    assert found == read("undisturbed")
    if not where:
        assert "a worker process died (exit code -9)" in capfd.readouterr().err


@pytest.mark.usefixtures("in_this_process")
def test_a_part_whose_workers_die_is_named_and_the_others_are_finished(
    detect: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    run = archive.run_items

    def fail_the_second(items: list[archive.Part], start: Any, engine: Any) -> Iterator[Any]:
        yield items[1], Failure()
        yield from run([items[0], items[2]], start, engine)

    monkeypatch.setattr(archive, "run_items", fail_the_second)
    assert detect("--rows", "jsonl", "--part", "3", "--out", "rows") == 2
    third = json.loads(Path("rows/_inputs.jsonl").read_text().splitlines()[3])
    message = capsys.readouterr().err
    assert message.startswith(
        "latentface: error: rows/part-00001.jsonl: the process at work on it died 3 times (out of memory?); it holds 3 "
        f"inputs from {third}, "
    )
    assert "; 2 other parts were written: run the same command again" in message
    assert sorted(path.name for path in Path("rows").glob("part-*")) == ["part-00000.jsonl", "part-00002.jsonl"]


def test_the_list_of_inputs_is_not_held_in_memory(tmp_path: Path) -> None:
    names = (Path(f"picture_{number:06d}/latent_75.npy") for number in range(60_000))
    tracemalloc.start()
    parts, _ = archive._cut(names, 100, tmp_path / "_inputs.jsonl")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8e6  # bytes; the paths alone would be 20 million, Python's table of interned names takes up to 4
    assert [part.length for part in parts] == [100] * 600
    assert parts[1] == (1, 100 * len('"picture_000000/latent_75.npy"\n'), 100)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ray", "local"], "--processes and --ray go with --rows: say --rows jsonl or --rows parquet"),
        (["--rows", "jsonl", "--image", "x.png"], "--rows draws no pictures: leave --image out"),
        (["--rows", "jsonl", "--part", "0"], "--part has to be 1 or more"),
        (["--rows", "jsonl", "@gone.txt"], "@gone.txt: the list cannot be read (No such file or directory)"),
    ],
)
def test_mistakes(words: list[str], message: str, detect: Callable[..., int], capsys: pytest.CaptureFixture) -> None:
    assert detect(*words) == 2
    assert message in capsys.readouterr().err
