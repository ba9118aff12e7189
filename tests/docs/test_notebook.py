"""The Kaggle notebook, executed whole and unchanged beside a small dataset like the demo's."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from conftest import REPOSITORY, write_tree

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
NOTEBOOK = REPOSITORY / "notebooks" / "kaggle.ipynb"


def printed(notebook) -> str:
    return "".join(out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", []))


def test_notebook_runs_whole_and_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for split, count in (("train", 6), ("val", 3)):
        write_tree(tmp_path / "demo" / split, count, (75,), seed=count)
    shutil.copy(NOTEBOOK, tmp_path)
    for expected in ("done: ", "nothing to do: "):
        notebook = nbformat.read(NOTEBOOK, as_version=4)
        nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
        assert expected in printed(notebook)
    assert not (tmp_path / "packed").exists()  # made again by every session
    for name in ("runs/kaggle/weight_final.pth", "evaluation/evaluation.json", "model.onnx"):
        assert (tmp_path / name).exists(), name
    assert len(list((tmp_path / "detections").glob("*.png"))) == 3


def test_notebook_holds_no_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)
