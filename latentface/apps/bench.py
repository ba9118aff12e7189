"""`latentface bench`: every stage beside what a user would do instead, measured in turn in one run.

Each row has two sides. They run alternately, so that what slows the machine down slows both down; the ratio is the
median over the rounds, with its quartiles. Networks have random weights that see no face (their cost does not depend
on the weights); the accuracy of what is timed here is another command's business (`latentface evaluate`).
"""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from latentface.apps.bench_config import BenchConfig
from latentface.apps.bench_parts import MEASURES
from latentface.apps.bench_timing import Row
from latentface.files import make_folder, replacing
from latentface.machine import cores, keep_memory, versions


def run(config: BenchConfig) -> Path:
    """Measures the wanted parts one after another; what is done is kept in the file as it comes."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler talks to itself
    torch.set_num_threads(config.threads or cores())
    keep_memory()  # as training and detection do; else reading would be faster after a part that has a network
    out = make_folder(config.out, "--out")
    name = config.machine or _device_name(config.device).lower().replace(" ", "_")
    target = out / f"bench_{name}.json"
    result, with_what = _earlier(target) | _about(), _with_what(config)
    rows: dict[str, list[dict[str, Any]]] = result.setdefault("rows", {})
    for part in config.parts:
        print(f"{part} ...", flush=True)
        found = [row.plain() if isinstance(row, Row) else row for row in MEASURES[part](config)]
        found = [row | {"measured_with": with_what} for row in found]
        again = {row["item"] for row in found}
        if found:
            rows[part] = [row for row in rows.get(part, []) if row["item"] not in again] + found
        _write(target, result)
        print(table(found), flush=True)
    print(f"{target}\n{target.with_suffix('.md')}")
    return target


def _earlier(target: Path) -> dict[str, Any]:
    """Rows of an earlier run on this machine stay until they are measured again."""
    return json.loads(target.read_text(encoding="utf-8")) if target.is_file() else {}


def _device_name(device: str) -> str:
    gpu = torch.device(device).type == "cuda"
    return torch.cuda.get_device_name(device) if gpu else platform.processor() or platform.machine()


def _about() -> dict[str, Any]:
    processor = next((line for line in _cpuinfo() if line.startswith("model name")), platform.processor())
    return {
        "machine": {"processor": processor.split(":")[-1].strip(), "cores": cores(), "system": platform.system()},
    }


def _with_what(config: BenchConfig) -> dict[str, Any]:
    """Kept with every row, as rows of one file may come from several runs."""
    return {
        "device": _device_name(config.device),
        "threads": torch.get_num_threads(),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", ""),  # whether threads that wait spin or sleep
        "settings": {name: getattr(config, name) for name in ("rate", "rounds", "backbone", "quick")},
        "versions": versions("numpy", "onnxruntime", "safetensors"),
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def _write(target: Path, result: dict[str, Any]) -> None:
    with replacing(target) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    with replacing(target.with_suffix(".md")) as temporary:
        temporary.write_text(table([row for rows in result["rows"].values() for row in rows]) + "\n", encoding="utf-8")


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as Markdown: both sides in milliseconds, the ratio with its quartiles, what it should reach at least."""
    lines = ["| item | ms | against | ms | ratio (quartiles) | at least |", "|---|---|---|---|---|---|"]
    for row in rows:
        if "comparison" not in row:
            continue
        c = row["comparison"]
        goal = f"{row['at_least']:g}" if row["at_least"] else ""
        lines.append(
            f"| {row['item']} | {1000 * c['seconds']:.1f} | {row['against']} | {1000 * c['against_seconds']:.1f} | "
            f"{c['ratio']:.2f} ({c['spread'][0]:.2f} to {c['spread'][1]:.2f}) | {goal} |"
        )
    return "\n".join(lines)
