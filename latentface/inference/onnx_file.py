"""Opening an exported file: what it says of itself, and what is refused. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from latentface.errors import LatentFaceError
from latentface.files import parse_json
from latentface.model.config import ChannelCounts, ModelConfig

FORMAT = "latentface-onnx/1"
INPUTS = ("latents", "rates", "model_indices")
OUTPUTS = ("boxes", "scores", "landmarks")
TYPES = ("tensor(float)", "tensor(int64)", "tensor(int64)", "tensor(float)", "tensor(float)", "tensor(float)")
LARGEST_FILE = 2 << 30  # bytes; ONNX's own limit for one file
INSTALL = "pip install 'latentface[export]'"


def open_session(path: Path, threads: int) -> Any:
    """An ONNX Runtime session on the CPU.

    Raises LatentFaceError for a file that is missing or no graph. It is opened from memory: there, weights "outside"
    the file, which a stranger's graph could ask for anywhere on this machine, cannot be had.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise LatentFaceError(f"{path}: running ONNX files needs onnxruntime: {INSTALL}") from error
    if not path.is_file():
        raise LatentFaceError(f"{path}: no such file; latentface export writes one")
    if path.stat().st_size > LARGEST_FILE:
        raise LatentFaceError(f"{path}: larger than an ONNX file can be; export the weights again")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a kind of its own for every way a file can be wrong
        raise LatentFaceError(f"{path}: not an ONNX file that can be run, or a damaged one") from error


def widened(latents: np.ndarray, channels: int) -> np.ndarray:
    """[B, c, h, w] -> [B, C, h, w], as a graph takes them: zeros for channels that these latents do not have."""
    return np.ascontiguousarray(np.pad(latents, ((0, 0), (0, channels - latents.shape[1]), (0, 0), (0, 0))))


def read_properties(session: Any, path: Path) -> tuple[ModelConfig, tuple[int, ...], dict[str, Any], ChannelCounts]:
    """Configuration, rates, facts and numbers of channels out of a session; LatentFaceError for a graph of others."""
    found = session.get_modelmeta().custom_metadata_map
    names = tuple(i.name for i in session.get_inputs()), tuple(o.name for o in session.get_outputs())
    types = tuple(tensor.type for tensor in (*session.get_inputs(), *session.get_outputs()))
    if found.get("format") != FORMAT or names != (INPUTS, OUTPUTS) or types != TYPES:
        raise LatentFaceError(f"{path}: an ONNX file, but not written by latentface export; export the weights again")
    try:
        model, rates, facts = (parse_json(found[key]) for key in ("model", "rates", "facts"))
        config = ModelConfig.of(model)
        same = ChannelCounts({}, {}, config.channels)  # of files that were written before rates could differ
        channels = ChannelCounts.of_json(parse_json(found["channels"])) if "channels" in found else same
        return config, tuple(int(rate) for rate in rates), dict(facts), channels
    except (LatentFaceError, KeyError, ValueError, TypeError, OverflowError) as error:
        raise LatentFaceError(f"{path}: its description is damaged ({error}); export the weights again") from error
