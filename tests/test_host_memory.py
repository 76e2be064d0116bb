"""Freed memory stays with the process, where the C library is glibc and the user has not chosen otherwise."""
import platform
import sys

import pytest

from helpers import ROOT, run_process
from utils.host_memory import SETTINGS

FAULTS = """
import resource, sys
{first}
import torch
def passes():
    for _ in range(20):
        blocks = [torch.ones(4 << 20) for _ in range(3)]  # 16 MB each
passes()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
passes()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() / (20 * 3 * (16 << 20)))
"""


def cleared_again(first: str = "import utils.threads", **environment) -> float:
    """The part of the memory of 20 passes that the system had to hand out anew."""
    unset: dict[str, str | None] = dict.fromkeys(SETTINGS)
    done = run_process([sys.executable, "-c", FAULTS.format(first=first)], ROOT, OMP_NUM_THREADS="1",
                       **unset | environment)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_memory_that_a_pass_frees_serves_the_next_one():
    assert cleared_again() < 0.1
    user = cleared_again(MALLOC_MMAP_THRESHOLD_="65536")  # each block is given back, as the user says
    assert user > 0.4
