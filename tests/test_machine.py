"""What the machine gives, and what is asked of it."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from latentface.machine import full_float32

FAULTS = """
import resource, sys, numpy as np
from latentface.machine import keep_memory
if sys.argv[1] == "keep":
    keep_memory()
np.ones(10_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(10_000_000)  # 80 MB, freed at once
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep freed memory")
def test_freed_memory_is_kept() -> None:
    faults = {
        word: int(
            subprocess.run([sys.executable, "-c", FAULTS, word], capture_output=True, text=True, check=True).stdout
        )
        for word in ("keep", "plain")
    }
    assert faults["keep"] < 100 <= faults["plain"]


def test_float32_without_tf32_lasts_as_long_as_it_is_asked_for() -> None:
    """The setting can be read without a GPU too; for a codec on the processor nothing is touched."""
    cudnn = torch.backends.cudnn
    before = cudnn.allow_tf32
    with full_float32(torch.device("cpu")):
        assert cudnn.allow_tf32 == before
    with full_float32(torch.device("cuda")):
        with full_float32(torch.device("cuda")):
            assert not cudnn.allow_tf32
        assert not cudnn.allow_tf32
    assert cudnn.allow_tf32 == before
