"""What is fetched from URLs: whole or not at all, bounded, shared by processes, ahead of the reader."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from object_server import ObjectServer, serving

from latentface.data import remote
from latentface.data.cache import Blob, Cache, fetched_ahead
from latentface.errors import LatentFaceError
from latentface.lock import turn_at

pytest.importorskip("aiohttp", reason="needs the extra `s3`")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSES", (0.0, 0.0, 0.0))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ObjectServer]:
    (tmp_path / "served").mkdir()
    with serving(tmp_path / "served") as server:
        yield server


def blob(server: ObjectServer, name: str, size: int = 40) -> Blob:
    content = hashlib.sha512(name.encode()).digest() * (size // 64 + 1)
    (server.folder / name).write_bytes(content[:size])
    digest = hashlib.sha256(content[:size]).hexdigest()
    return Blob(f"{server.url}/{name}", size, digest, digest)


def kept(cache: Cache) -> set[str]:
    return {path.name for path in (cache.folder / "blobs").iterdir()}


def test_a_file_is_fetched_once(server, tmp_path):
    cache, one = Cache(tmp_path / "cache", 100), blob(server, "one")
    for _ in range(3):
        assert cache.get(one).read_bytes() == (server.folder / "one").read_bytes()
    assert server.whole == {"one": 1}
    assert kept(cache) == {one.key}


def test_what_was_used_longest_ago_goes_first(server, tmp_path):
    cache = Cache(tmp_path / "cache", 100)
    one, two, three = (blob(server, name) for name in ("one", "two", "three"))
    for number, each in enumerate((one, two, one)):
        os.utime(cache.get(each), (number, number))
    cache.get(three)
    assert kept(cache) == {one.key, three.key}
    assert (cache.folder / "used").read_text() == "80"


def test_a_file_that_goes_stays_with_whoever_has_it_mapped(server, tmp_path):
    cache = Cache(tmp_path / "cache", 50)
    mapped = np.memmap(cache.get(blob(server, "one")), mode="r")
    cache.get(blob(server, "two"))
    assert len(kept(cache)) == 1
    assert mapped.tobytes() == (server.folder / "one").read_bytes()


def test_files_that_somebody_removed_are_fetched_again_and_no_longer_counted(server, tmp_path):
    cache = Cache(tmp_path / "cache", 100)
    one, two, three = (blob(server, name) for name in ("one", "two", "three"))
    for each in (one, two):
        cache.get(each).unlink()
    cache.get(three)
    cache.get(one)
    assert kept(cache) == {one.key, three.key}


def test_a_file_that_was_cut_short_is_fetched_again(server, tmp_path):
    cache, one = Cache(tmp_path / "cache", 100), blob(server, "one")
    cache.get(one).write_bytes(b"half")
    assert cache.get(one).read_bytes() == (server.folder / "one").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bytes": 101}, r"1.01e-07 GB do not fit a cache of 1e-07 GB; give more --cache_gb"),
        ({"bytes": 41}, r"one: 40 bytes, expected 41; pack or upload it again"),
        ({"bytes": 39}, r"gives more than the 39 bytes"),
        ({"sha256": "0" * 64}, r"one: its checksum is not the one of pack.json"),
        ({"url": "http://127.0.0.1:1/one"}, r"cannot be reached .* tried 4 times; check URL"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(change, message, server, tmp_path):
    one = blob(server, "one")
    cache = Cache(tmp_path / "cache", 100)
    with pytest.raises(LatentFaceError, match=message):
        cache.get(Blob(**{**vars(one), **change}))
    assert not (cache.folder / "blobs").exists() or not kept(cache)
    assert server.whole["one"] == (0 if change.get("bytes") == 101 or "url" in change else 1)


def test_a_lost_connection_is_tried_again(server, tmp_path):
    server.drops = 2
    cache, one = Cache(tmp_path / "cache", 10**6), blob(server, "one", 200_000)
    assert cache.get(one).stat().st_size == 200_000
    assert server.whole["one"] == 3


def test_after_four_tries_there_is_a_line(server, tmp_path):
    server.drops = 99
    with pytest.raises(LatentFaceError, match=r"one: cannot be reached \(.*\), tried 4 times") as error:
        Cache(tmp_path / "cache", 10**6).get(blob(server, "one", 200_000))
    assert "\n" not in str(error.value)
    assert server.whole["one"] == 4


@pytest.mark.parametrize(("status", "message"), [(403, "no permission"), (404, "not there")])
def test_refusals_are_not_tried_again(status, message, server, tmp_path):
    one = blob(server, "one")
    server.status = status
    start = time.monotonic()
    with pytest.raises(LatentFaceError, match=f"one: {message}"):
        Cache(tmp_path / "cache", 100).get(one)
    assert time.monotonic() - start < 5


def test_a_server_that_never_ends_is_left(server, tmp_path):
    server.endless = True
    with pytest.raises(LatentFaceError, match="gives more than the 40 bytes"):
        Cache(tmp_path / "cache", 100).get(blob(server, "one"))


def _read_all(cache: Cache, blobs: list[Blob], wrong: multiprocessing.Queue) -> None:
    for each in blobs:
        content = b""
        while not content:
            try:
                content = cache.get(each).read_bytes()
            except FileNotFoundError:  # the other process needed room
                continue
        if hashlib.sha256(content).hexdigest() != each.sha256:
            wrong.put(each.url)
    wrong.put("")


def test_two_processes_share_a_cache_that_is_smaller_than_the_set(server, tmp_path):
    blobs = [blob(server, f"{number}", 1000) for number in range(20)]
    cache = Cache(tmp_path / "cache", 5500)
    context = multiprocessing.get_context("spawn")
    wrong = context.Queue()
    orders = (blobs * 3, blobs[::-1] * 3)
    processes = [context.Process(target=_read_all, args=(cache, order, wrong)) for order in orders]
    for process in processes:
        process.start()
    most = 0
    while any(process.is_alive() for process in processes):
        if (cache.folder / "blobs").is_dir():
            with turn_at(cache.folder / "locks" / "all"):  # nothing goes or is begun while they are counted
                most = max(most, len({name.partition(".")[0] for name in kept(cache)}))
        time.sleep(0.002)
    assert [wrong.get(timeout=5) for _ in range(2)] == ["", ""]
    assert 3 <= most <= 5
    assert len(kept(cache)) <= 5


def _get(cache: Cache, one: Blob) -> None:
    cache.get(one)


def test_two_processes_that_want_the_same_fetch_it_once(server, tmp_path):
    one = blob(server, "one", 3_000_000)
    cache = Cache(tmp_path / "cache", 10**7)
    processes = [multiprocessing.get_context("fork").Process(target=_get, args=(cache, one)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert server.whole["one"] == 1


def test_the_next_files_are_fetched_while_one_is_read(server, tmp_path):
    blobs = [blob(server, f"{number}", 1000) for number in range(9)]
    cache = Cache(tmp_path / "cache", 9000)  # a third of it are three files
    coming = fetched_ahead(range(18), lambda batch: [blobs[batch // 2]], cache)
    assert next(coming) == 0
    deadline = time.monotonic() + 10
    while not all(cache.has(each) for each in blobs[:3]) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert set(server.whole) == {"0", "1", "2"}
    assert list(coming) == list(range(1, 18))
    for each in blobs:
        cache.get(each)
    assert server.whole == {str(number): 1 for number in range(9)}


@pytest.mark.parametrize("gigabytes", [0, -1, float("nan"), float("inf")])
def test_a_cache_has_a_size(gigabytes):
    with pytest.raises(LatentFaceError, match=r"--cache_gb .* has to be above 0"):
        Cache.of("x", gigabytes)


def test_the_users_own_folder_is_the_default(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert Cache.of() == Cache(Path("/somewhere/latentface"), 10 * 10**9)
