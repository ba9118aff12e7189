"""`latentface pack`: the documented tree -> a few large files that are quick to read (`packed.py` has the layout).

A shard is written whole or not at all, and one that is there already is kept: a run that was stopped continues. Which
latents a shard holds follows from the names and rates alone, and every shard holds a bit of everything: see `mixed`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from latentface.data.cache import CACHE_GB, Cache, fetched_ahead
from latentface.data.exclusions import EXCLUDE_NAME, exclusion_notes, read_exclusions
from latentface.data.manifest import MANIFEST_NAME, ManifestRow, read_manifest
from latentface.data.mirror import local, shown
from latentface.data.pack_target import ORIGIN, Target, targets
from latentface.data.pack_values import Quantiser, Spread, measure_spread, plan_quantiser
from latentface.data.pack_verify import verify
from latentface.data.packed import DTYPES, PackInfo, group_of, tensor_name
from latentface.data.remote import folders_in, is_url, join
from latentface.data.remote_stores import RemoteTree
from latentface.data.stores import LatentStore, available_rates, find_labels, open_store
from latentface.errors import LatentFaceError
from latentface.files import make_folder, replacing
from latentface.options import option
from latentface.progress import progress
from latentface.words import counted, disk_size

SHARD_BYTES = 128 << 20  # of a shard: large enough to be few, small enough to be held in memory twice
SAMPLE = 512  # latents of each group that ranges and errors are estimated on

Key = tuple[str, int]  # picture, rate


@dataclass
class PackConfig:
    """Packs a dataset tree into few memory-mapped files that train, evaluate and detect read in place of it."""

    root: str = option(
        help="dataset with train/ and val/ (or whatever splits it has), or its URL; with --verify a packed one",
        positional=True,
    )
    out: str = option("", "folder or URL (s3://...) for the packed dataset")
    dtype: str = option("float16", "numbers: float16 (half the disk), int8 (a quarter) or float32", choices=DTYPES)
    rates: tuple[int, ...] = option((), "rates to pack; empty: all")
    splits: tuple[str, ...] = option((), "splits to pack; empty: every folder below ROOT with latent/ in it")
    verify: bool = option(False, "read a packed dataset whole and compare it with its checksums")
    cache_dir: str = option("", "folder for what is fetched from URLs; empty: latentface in your cache folder")
    cache_gb: float = option(CACHE_GB, "most that this folder may hold, in GB; shared by all processes that use it")

    def __post_init__(self) -> None:
        if not self.verify and not self.out:
            raise LatentFaceError("missing: --out, a folder for the packed dataset")


@dataclass(frozen=True)
class Split:
    """What is to be packed of one split."""

    store: LatentStore
    labels: Path
    rows: dict[str, ManifestRow]
    keys: list[Key]  # in their order on disk
    rates: tuple[int, ...]

    def group(self, key: Key) -> str:
        """Whose statistics and scale a latent has."""
        row = self.rows.get(key[0])
        entry = row.latents.get(key[1]) if row else None
        return group_of(entry.model_index if entry else None, key[1])

    def coming(self, keys: Iterable[Key]) -> Iterable[Key]:
        """The keys, while the files of the next ones are fetched where they are behind a URL."""
        store = self.store
        if not isinstance(store, RemoteTree):
            return keys
        return fetched_ahead(keys, lambda key: [store.blob(*key)], store.cache)

    def values(self, key: Key) -> np.ndarray:
        """float32 [C, h, w]; raises LatentFaceError for a latent with values that are not finite."""
        array = self.store.read(*key).values
        if not np.isfinite(array).all():
            raise LatentFaceError(
                f"{self.store.place(*key)}: NaN or infinite values; write this latent again or remove its folder"
            )
        return array


def run(config: PackConfig) -> int:
    """Packs split after split, or checks what is packed."""
    root = config.root
    if config.verify:
        if is_url(root):
            raise LatentFaceError(
                f"--verify {root}: for local folders; what is read from a URL is checked when fetched"
            )
        return verify(Path(root))
    splits = {name: _open_split(join(root, name), config) for name in config.splits or _splits_of(root)}
    if not is_url(config.out):
        make_folder(config.out, "--out")
    plans = {name: _plan(split, config) for name, split in splits.items()}
    with targets(config.out, splits) as places:
        _refuse_without_room(splits, plans, places)
        for name, split in splits.items():
            _pack_split(split, places[name], *plans[name])
    print(f"{config.out}: give it as --dataset_root in place of {root}")
    return 0


def mixed(names: Iterable[str]) -> list[str]:
    """The names in an order that looks drawn and is always the same one.

    Pictures of neighbouring names are often alike (one event, one photograph's crops); training by windows of shards
    sees only some shards at a time, so that each should be as varied as the whole.
    """
    return sorted(names, key=lambda name: hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest())


def _splits_of(root: str) -> list[str]:
    if is_url(root):
        found = [name for name in folders_in(root) if "latent" in folders_in(join(root, name))]
    else:
        folder = Path(root)
        found = sorted(p.name for p in folder.iterdir() if (p / "latent").is_dir()) if folder.is_dir() else []
    if not found:
        raise LatentFaceError(f"{root}: no split in it; expected {root}/train/latent/<picture>/latent_75.npy")
    return found


def _open_split(place: str, config: PackConfig) -> Split:
    folder = local(place, Cache.of(config.cache_dir, config.cache_gb))
    latent_dir = folder / "latent"
    if not latent_dir.is_dir():
        raise LatentFaceError(f"{shown(latent_dir)}: no such folder; name splits of {config.root} with --splits")
    store = open_store(latent_dir)
    rates = tuple(sorted(config.rates or available_rates(latent_dir)))
    names, excluded = store.names(), read_exclusions(folder)
    for note in exclusion_notes(folder, excluded, set(names)):
        print(f"note: {note}")
    kept = mixed(name for name in names if name not in excluded)
    keys = [(name, rate) for name in kept for rate in rates if store.has(name, rate)]
    if not keys:
        raise LatentFaceError(f"{shown(latent_dir)}: no latent of rate {', '.join(map(str, rates)) or 'any'} in it")
    manifest = folder / MANIFEST_NAME
    rows = read_manifest(manifest) if manifest.is_file() else {}
    return Split(store, find_labels(latent_dir), rows, keys, rates)


def _plan(split: Split, config: PackConfig) -> tuple[Quantiser, dict[str, Spread]]:
    """How values are stored, from a sample that is spread over the split; says what it will cost."""
    members: dict[str, list[Key]] = {}
    for key in split.keys:
        members.setdefault(split.group(key), []).append(key)
    spreads = {}
    for group, keys in members.items():
        chosen = keys[:: max(1, len(keys) // SAMPLE)][:SAMPLE]
        spreads[group] = measure_spread(
            split.values(key)
            for key in progress(split.coming(chosen), f"measuring {group}", len(chosen), unit="latent")
        )
    return plan_quantiser(config.dtype, spreads), spreads


def _expected_error(
    split: Split, quantiser: Quantiser, spreads: dict[str, Spread], latents: int = 32
) -> dict[str, float]:
    """Of a few latents, before anything is written."""
    chosen = split.keys[:: max(1, len(split.keys) // latents)][:latents]
    return _total([_stored(split, key, quantiser, spreads)[1] for key in chosen])


def _stored(
    split: Split, key: Key, quantiser: Quantiser, spreads: dict[str, Spread]
) -> tuple[np.ndarray, dict[str, float]]:
    """One latent as it will be stored, [C, h, w], and the error of that."""
    group, values = split.group(key), split.values(key)
    if len(values) != len(spreads[group].mean):
        raise LatentFaceError(
            f"{split.store.place(*key)}: {len(values)} channels, others of {group} have {len(spreads[group].mean)}; "
            "remove what was made by another codec"
        )
    stored, clipped = quantiser.encode(values, group, split.store.place(*key))
    return stored, spreads[group].error(values, quantiser.decode(stored, group)) | {"clipped": clipped}


def _bytes(split: Split, quantiser: Quantiser) -> int:
    """Of all latents, taking the first of each group for all of it."""
    first: dict[str, Key] = {}
    members = Counter(split.group(key) for key in split.keys if first.setdefault(split.group(key), key))
    values = sum(count * int(np.prod(split.store.shape(*first[group]))) for group, count in members.items())
    return values * quantiser.itemsize


def _refuse_without_room(
    splits: dict[str, Split], plans: dict[str, tuple[Quantiser, dict[str, Spread]]], places: dict[str, Target]
) -> None:
    """States size and expected error of every split, and stops where the disk has no room for what is still missing."""
    needed, disk = 0, Path()
    for name, split in splits.items():
        quantiser, spreads = plans[name]
        size, error = _bytes(split, quantiser), _expected_error(split, quantiser, spreads)
        disk, more = places[name].room_needed(size, SHARD_BYTES)
        needed += more
        rates = f"rate{'s' * (len(split.rates) > 1)} {', '.join(map(str, split.rates))}"
        print(
            f"{name}: {counted(len(split.keys), 'latent')} of {rates}, {disk_size(size)} as "
            f"{quantiser.dtype}; expected {_in_words(error)}"
        )
    free = shutil.disk_usage(disk).free
    if needed * 1.01 > free:
        raise LatentFaceError(
            f"{disk}: {disk_size(needed)} are needed and {disk_size(free)} free: give another --out, fewer "
            "--rates or --dtype int8"
        )


def _pack_split(split: Split, target: Target, quantiser: Quantiser, spreads: dict[str, Spread]) -> None:
    info = PackInfo(
        dtype=quantiser.dtype,
        rates=split.rates,
        stride=next((row.stride for row in split.rows.values()), None),
        shards=(),
        mean={group: spread.mean.tolist() for group, spread in spreads.items()},
        deviation={group: spread.deviation.tolist() for group, spread in spreads.items()},
        scale={group: table.tolist() for group, table in quantiser.scale.items()},
        offset={group: table.tolist() for group, table in quantiser.offset.items()},
    )
    fingerprint = hashlib.sha256((info.to_json() + json.dumps(split.keys)).encode()).hexdigest()
    _refuse_other(target, info, fingerprint)
    per_shard = max(1, SHARD_BYTES // (_bytes(split, quantiser) // len(split.keys)))
    parts = [split.keys[start : start + per_shard] for start in range(0, len(split.keys), per_shard)]
    shards, errors = [], []
    for number, keys in enumerate(progress(parts, Path(str(target)).name, unit="shard")):
        path = target.path(f"shard_{number:05d}.safetensors")
        written = target.kept(path.name, len(keys), fingerprint)
        if written is None:
            error = _write_shard(path, split, keys, quantiser, spreads, fingerprint)
            written = target.done(path, len(keys), error, fingerprint)
        shards.append(written[0])
        errors.append(written[1])
    for source in (split.labels, split.store.split / MANIFEST_NAME, split.store.split / EXCLUDE_NAME):
        if source.is_file():
            target.copy(source)
    error = _total(errors)
    target.finish(replace(info, shards=tuple(shards), error=error))
    size = sum(shard.bytes for shard in shards)
    amount = f"{counted(len(split.keys), 'latent')} in {counted(len(shards), 'file')}, {disk_size(size)}"
    print(f"{target}: {amount}; {_in_words(error)}")


def _in_words(error: dict[str, float]) -> str:
    return (
        f"error in deviations of the channel: worst {error['worst']:.2g}, mean {error['mean']:.2g}; "
        f"{error['clipped']:.0f} values clipped"
    )


def _refuse_other(target: Target, info: PackInfo, fingerprint: str) -> None:
    """What is there has to be the beginning, or the whole, of the same packing."""
    there, others = target.info(), target.has_others(fingerprint)
    if there and (there.dtype, there.rates) != (info.dtype, info.rates):
        raise LatentFaceError(
            f"{target}: already holds another packing ({there.dtype}, rates "
            f"{', '.join(map(str, there.rates))}); give another --out"
        )
    if there and (others or replace(there, shards=(), error={}) != info):
        raise LatentFaceError(
            f"{target}: already packed, from other latents or in another order, as earlier versions did it; use it as "
            "it is, or give another --out"
        )
    if others:
        raise LatentFaceError(f"{target}: holds shards of another packing; remove them or give another --out")


def _write_shard(
    path: Path, split: Split, keys: list[Key], quantiser: Quantiser, spreads: dict[str, Spread], fingerprint: str
) -> dict[str, float]:
    """Writes one file and returns its errors, which it also carries."""
    import torch
    from safetensors.torch import save

    tensors, errors = {}, []
    for key in split.coming(keys):
        stored, error = _stored(split, key, quantiser, spreads)
        errors.append(error)
        tensors[tensor_name(*key)] = torch.from_numpy(np.ascontiguousarray(stored.transpose(1, 2, 0)))
    total = _total(errors)
    origin = json.dumps(
        {"fingerprint": fingerprint, "error": total}
    )  # one entry: safetensors writes several in any order
    with replacing(path) as temporary:
        # not save_file: it writes beside `temporary`, under a name that nobody would clear away after a kill
        temporary.write_bytes(save(tensors, metadata={ORIGIN: origin}))
    return total


def _total(errors: list[dict[str, float]]) -> dict[str, float]:
    """Worst of all, mean over all values, number of clipped ones."""
    count = sum(error["values"] for error in errors)
    return {
        "worst": max(error["worst"] for error in errors),
        "mean": sum(error["mean"] * error["values"] for error in errors) / max(count, 1),
        "clipped": sum(error["clipped"] for error in errors),
        "values": count,
    }
