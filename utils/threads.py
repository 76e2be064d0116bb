"""CPU threads: how many, and that those which wait sleep. Import it before PyTorch.

PyTorch takes all cores of the machine, whoever else uses them, and a thread that waits for the others spins for
milliseconds: where CPUs are shared, a small step on two threads then costs several times the work of one. So waiting
threads sleep (OMP_WAIT_POLICY, which is read once, when PyTorch is loaded), and there are no more of them than the
process may use CPUs, nor than the work divides into.
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
    """Compute tensors of so many elements on a sensible number of threads, unless the environment says how many."""
    if not any(os.environ.get(name) for name in CHOSEN):
        of_machine = usable_cpus() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, min(of_machine, elements // LEAST_WORK)))


def told_threads() -> str:
    """How many there are, and who said so or can."""
    count = torch.get_num_threads()
    given = next((name for name in CHOSEN if os.environ.get(name)), None)
    who = f"by {given}" if given else f"{CHOSEN[0]} sets another number"
    spins = "; PyTorch was loaded first, so those that wait spin" if TOO_LATE and count > 1 else ""
    return f"{count} CPU thread{'s' * (count > 1)} ({who}{spins})"


def usable_cpus(control_groups: Path = Path("/sys/fs/cgroup")) -> int:
    """CPUs on which the process may run, and no more than its control group (a container, a job) has the time of."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *_quotas(control_groups)]))


def _quotas(control_groups: Path) -> list[int]:
    """CPUs' worth of time, in whole CPUs, that control groups of version 2 or 1 allow."""
    quotas = []
    for names in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        files = [control_groups / name for name in names]
        if all(file.is_file() for file in files):
            quota, period = " ".join(file.read_text() for file in files).split()
            if quota.isdigit():  # else "max", or -1: as much as there is
                quotas.append(int(quota) // int(period))
    return quotas
