"""`latentface pack DIR --verify`: whether a packed dataset is what it says."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from latentface.data.labels import read_labels
from latentface.data.packed import PackedStore, Shard, open_shard, read_info
from latentface.data.stores import PACK_NAME
from latentface.errors import LatentFaceError
from latentface.files import sha256
from latentface.progress import progress


def verify(root: Path) -> int:
    """Reads everything once; a line for each problem. 0 where there is none, else 2."""
    splits = sorted(path.parent for path in root.glob(f"*/{PACK_NAME}")) or (
        [root] if (root / PACK_NAME).is_file() else []
    )
    if not splits:
        raise LatentFaceError(
            f"{root}: no packed split in it (expected {root}/train/{PACK_NAME}); latentface pack makes one"
        )
    problems = [problem for split in splits for problem in _problems(split)]
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{root}: {'all is well' if not problems else f'{len(problems)} problems; pack it again'} "
          f"({', '.join(split.name for split in splits)})")  # fmt: skip
    return 2 if problems else 0


def _problems(split: Path) -> Iterator[str]:
    try:
        info = read_info(split)
        labels = read_labels(split / "labels.txt")
    except LatentFaceError as error:
        yield str(error)
        return
    for shard in progress(info.shards, f"verifying {split.name}", unit="file"):
        yield from _problems_of_shard(split / shard.file, shard, info.dtype)
    try:
        names = set(PackedStore(split).names())
    except LatentFaceError as error:
        yield str(error)
        return
    if not names & labels.keys():
        yield f"{split}/labels.txt: no label belongs to any latent"


def _problems_of_shard(path: Path, shard: Shard, dtype: str) -> Iterator[str]:
    try:
        if sha256(path) != shard.sha256:
            yield f"{path}: its checksum is not the one of {PACK_NAME}"
            return
        handle = open_shard(path)
    except (OSError, LatentFaceError) as error:
        yield f"{path}: cannot be read ({error})"
        return
    if len(list(handle.keys())) != shard.latents:
        yield f"{path}: {len(list(handle.keys()))} latents where {PACK_NAME} has {shard.latents}"
    for name in handle.keys():  # noqa: SIM118  no dictionary
        tensor = handle.get_tensor(name)
        if tensor.dim() != 3 or str(tensor.dtype) != f"torch.{dtype}":
            yield f"{path}: {name} is {tensor.dtype} {list(tensor.shape)}, expected {dtype} [h, w, C]"
        elif tensor.is_floating_point() and not tensor.isfinite().all():
            yield f"{path}: {name} has values that are not finite"
