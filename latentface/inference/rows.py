"""Rows of faces as JSON lines or Parquet: `describe` of a latent, and `error`, which is null where all went well."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from latentface.errors import LatentFaceError

Rows = list[dict[str, Any]]


def row_writer(kind: str) -> Callable[[Path, Rows], None]:
    """For `jsonl` or `parquet`. Raises LatentFaceError where the library for it is missing."""
    if kind == "jsonl":
        return _write_lines
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise LatentFaceError("--rows parquet needs pyarrow: pip install 'latentface[parquet]'") from error
    return _write_parquet


def _write_lines(path: Path, rows: Rows) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def _write_parquet(path: Path, rows: Rows) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = pa.list_(pa.float64())
    photograph = [
        ("source_width", pa.int64()),
        ("source_height", pa.int64()),
        ("scale_x", pa.float64()),
        ("scale_y", pa.float64()),
        ("crop", pa.list_(pa.int64())),
        ("mirrored", pa.bool_()),
    ]
    face = [
        ("box", numbers),
        ("score", pa.float64()),
        ("landmarks", pa.list_(numbers)),
        ("photograph_box", numbers),
        ("photograph_landmarks", pa.list_(numbers)),
    ]
    schema = pa.schema(
        [
            ("latent", pa.string()),
            ("codec", pa.string()),
            ("rate", pa.int32()),
            ("picture_width", pa.int32()),
            ("picture_height", pa.int32()),
            ("photograph", pa.struct(photograph)),
            ("faces", pa.list_(pa.struct(face))),
            ("error", pa.string()),
        ]
    )
    texts = [row | {"latent": _text(row["latent"]), "error": row["error"] and _text(row["error"])} for row in rows]
    pq.write_table(pa.Table.from_pylist(texts, schema), path)


def _text(text: str) -> str:
    """Names of files may be no text: bytes that are none are shown as \\udcff, as JSON shows them."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
