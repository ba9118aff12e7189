"""Runs commands on disks that are really full or read-only, without being root; for `test_disks.py`.

    python tests/reliability/disks.py PLAN.json RESULT.json [--without_namespaces]

A plan is a list of cases: `folder` with whatever is in it becomes a disk of its own, which is `full` but for `room`
bytes, or `read-only`, or its shared memory has `room` bytes (`shared memory`); then `arguments` go to latentface's
command line. Of each: exit status, what was printed, and the folder's files before and after. `limit` is the
largest file where full disks cannot be had, `keep` a place to copy the folder to.

In a user namespace of its own any process may mount file systems. Where the system has none, a limit on the size of
files stands in for full disks, and permissions (from root: its right to ignore them is given up) for read-only ones.
"""

from __future__ import annotations

import ctypes
import hashlib
import io
import json
import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

NEW_USER, NEW_MOUNTS = 0x10000000, 0x00020000  # of unshare, as in sched.h
READ_ONLY, REMOUNT, DETACH = 1, 32, 2  # of mount and umount2
CAPABILITY_CALLS = {"x86_64": (125, 126), "aarch64": (90, 91)}  # numbers of capget and capset
VERSION_3, IGNORE_PERMISSIONS = 0x20080522, (1, 2)  # capability.h: CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
libc = ctypes.CDLL(None, use_errno=True)


def check(outcome: int) -> None:
    if outcome:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def enter_namespace() -> bool:
    """Whether this process may mount from now on, unseen by others. It must not have threads yet."""
    user, group = os.getuid(), os.getgid()
    try:
        check(libc.unshare(NEW_USER | NEW_MOUNTS))
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        with tempfile.TemporaryDirectory() as trial, disk(Path(trial), 1 << 12):
            return True
    except OSError:
        return False


@contextmanager
def disk(folder: Path, size: int) -> Iterator[None]:
    """A file system in memory at `folder`, of `size` bytes in pages of 4096."""
    check(libc.mount(b"none", os.fsencode(folder), b"tmpfs", 0, f"size={size}".encode()))
    try:
        yield
    finally:
        check(libc.umount2(os.fsencode(folder), DETACH))


@contextmanager
def made_so(case: dict[str, Any]) -> Iterator[None]:
    """The folder of a case in its condition, by mounting."""
    folder, room = Path(case["folder"]), case.get("room", 1 << 30)
    if case["kind"] == "shared memory":
        with disk(Path("/dev/shm"), room):
            yield
        return
    with tempfile.TemporaryDirectory() as place:
        kept = shutil.copytree(folder, Path(place) / "kept")
        pages = sum(-(-path.stat().st_size // 4096) for path in kept.rglob("*") if path.is_file())
        with disk(folder, pages * 4096 + room):
            shutil.copytree(kept, folder, dirs_exist_ok=True)
            if case["kind"] == "read-only":
                check(libc.mount(b"none", os.fsencode(folder), b"tmpfs", READ_ONLY | REMOUNT, None))
            yield


@contextmanager
def nearly_so(case: dict[str, Any]) -> Iterator[None]:
    """The same where nothing can be mounted."""
    if case["kind"] == "shared memory":
        yield
        return
    if case["kind"] == "full":
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (case["limit"], hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        return
    places = [Path(case["folder"]), *Path(case["folder"]).rglob("*")]
    modes = {path: path.stat().st_mode for path in places}
    for path in places:
        path.chmod(modes[path] & ~0o222)
    try:
        yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def give_up_rights() -> None:
    """From here on root has to obey permissions like anybody else."""
    get, change = CAPABILITY_CALLS[os.uname().machine]
    header, sets = (ctypes.c_uint32 * 2)(VERSION_3, 0), (ctypes.c_uint32 * 6)()
    check(libc.syscall(get, header, sets))
    sets[0] &= ~sum(1 << right for right in IGNORE_PERMISSIONS)  # of what is in force
    check(libc.syscall(change, header, sets))


def files(folder: Path) -> dict[str, str]:
    """Name -> checksum of everything in it."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def carry_out(case: dict[str, Any], mounts: bool) -> dict[str, Any]:
    from latentface.cli import main as command_line

    folder, out, err = Path(case["folder"]), io.StringIO(), io.StringIO()
    with (made_so if mounts else nearly_so)(case):
        before = files(folder)
        with redirect_stdout(out), redirect_stderr(err):
            status = command_line(case["arguments"])
        after = files(folder)
        if case.get("keep"):
            with suppress(FileNotFoundError):
                shutil.copytree(folder, case["keep"])
    return {"status": status, "out": out.getvalue(), "err": err.getvalue(), "before": before, "after": after}


def main() -> None:
    mounts = "--without_namespaces" not in sys.argv and enter_namespace()
    if not mounts and os.geteuid() == 0:
        give_up_rights()
    import torch

    torch.set_num_threads(1)
    cases = json.loads(Path(sys.argv[1]).read_text())
    results = {case["name"]: carry_out(case, mounts) for case in cases}
    Path(sys.argv[2]).write_text(json.dumps({"mounts": mounts, "results": results}))


if __name__ == "__main__":
    main()
