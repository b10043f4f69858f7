"""Freed memory stays in a training process."""

import subprocess
import sys

import pytest

COUNT = """
import resource, sys, torch
from training.cpu.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def touch():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(6):
        torch.ones(2**24)  # 64 MiB: more than what malloc keeps by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(4):  # where the first tensors lie is left to chance, and up to nine of them find no room that fits
    touch()
print(touch())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_pages_are_touched_for_the_first_time_only() -> None:
    faults = {
        way: int(subprocess.run([sys.executable, "-c", COUNT, way], capture_output=True, text=True, check=True).stdout)
        for way in ("usual", "kept")
    }
    assert faults["kept"] < 0.1 * faults["usual"], faults
