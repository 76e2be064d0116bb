"""How many CPU threads PyTorch uses, and that waiting threads sleep. Import this before PyTorch.

By itself PyTorch uses all cores, and a thread that waits for others spins for milliseconds. Where several processes
share the cores, a small step on two threads then costs several times the work of one. So waiting threads sleep
(OMP_WAIT_POLICY, read once, when PyTorch is loaded), and there are at most as many threads as the process has CPUs and
the work has parts.
"""
import os
import sys
from pathlib import Path

TOO_LATE = "torch" in sys.modules and "OMP_WAIT_POLICY" not in os.environ  # as in a notebook that has loaded PyTorch
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch  # noqa: E402

CHOSEN = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # by the user, or by torchrun; PyTorch heeds them
LEAST_WORK = 2**15  # elements of a tensor that PyTorch gives to one thread


def use_threads(elements: int) -> None:
    """Set a sensible number of threads for tensors of so many elements, unless the environment sets one."""
    if not any(os.environ.get(name) for name in CHOSEN):
        of_machine = usable_cpus() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, min(of_machine, elements // LEAST_WORK)))


def told_threads() -> str:
    """A phrase with the number of threads, and the variable that set it or can set it."""
    count = torch.get_num_threads()
    given = next((name for name in CHOSEN if os.environ.get(name)), None)
    who = f"by {given}" if given else f"{CHOSEN[0]} sets another number"
    spins = "; PyTorch was loaded first, so those that wait spin" if TOO_LATE and count > 1 else ""
    return f"{count} CPU thread{'s' * (count > 1)} ({who}{spins})"


def usable_cpus(control_groups: Path = Path("/sys/fs/cgroup")) -> int:
    """How many CPUs the process may use, by its affinity and by the limit of its control group (a container, a job)."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *_quotas(control_groups)]))


def _quotas(control_groups: Path) -> list[int]:
    """The CPU time that control groups (version 2 or 1) allow, in whole CPUs."""
    quotas = []
    for names in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        files = [control_groups / name for name in names]
        if all(file.is_file() for file in files):
            quota, period = " ".join(file.read_text() for file in files).split()
            if quota.isdigit():  # else "max", or -1: as much as there is
                quotas.append(int(quota) // int(period))
    return quotas
