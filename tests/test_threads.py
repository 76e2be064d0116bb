"""CPU threads: no more than may run, the environment's word, and waiting that sleeps."""
import os
import subprocess
import sys

import pytest

from helpers import ROOT
from utils.threads import LEAST_WORK, usable_cpus


@pytest.mark.parametrize("files, most", [
    ({}, 10**6), ({"cpu.max": "max 100000"}, 10**6), ({"cpu.max": "250000 100000"}, 2),
    ({"cpu.max": "50000 100000"}, 1),
    ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 10**6),
    ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1)])
def test_a_container_has_the_cpus_that_it_has_the_time_of(tmp_path, monkeypatch, files, most):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    allowed = len(os.sched_getaffinity(0))
    assert usable_cpus(tmp_path) == min(allowed, most)


def told(*elements: int, first: str = "", **environment: str) -> list[str]:
    """Policy, and what is said of each number of elements, in a process of its own: PyTorch reads its environment once.
    """
    code = (f"{first}\nimport sys, os; sys.path.insert(0, {str(ROOT)!r}); import utils.threads as t, torch\n"
            f"t.usable_cpus = lambda: 6\nprint(os.environ['OMP_WAIT_POLICY'])\nfor elements in {elements}:\n"
            "    t.use_threads(elements)\n    assert t.told_threads().startswith(f'{torch.get_num_threads()} CPU')\n"
            "    print(t.told_threads())")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "MKL_"))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False,
                          env=variables | environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_there_are_as_many_as_there_is_work_for_and_waiting_ones_sleep():
    assert told(100 * LEAST_WORK, 3 * LEAST_WORK + 5, 10) == [
        "PASSIVE", *(f"{many} (OMP_NUM_THREADS sets another number)" for many in
                     ("6 CPU threads", "3 CPU threads", "1 CPU thread"))]
    assert told(100 * LEAST_WORK, LOCAL_WORLD_SIZE="4")[1].startswith("1 CPU thread ")


def test_that_pytorch_was_loaded_first_is_said_where_threads_wait():
    late = "; PyTorch was loaded first, so those that wait spin"
    assert told(100 * LEAST_WORK, 10, first="import torch") == [
        "PASSIVE", f"6 CPU threads (OMP_NUM_THREADS sets another number{late})",
        "1 CPU thread (OMP_NUM_THREADS sets another number)"]
    assert late not in "".join(told(100 * LEAST_WORK, first="import torch", OMP_WAIT_POLICY="PASSIVE"))


def test_what_the_environment_says_is_heeded():
    assert told(10, OMP_NUM_THREADS="2", OMP_WAIT_POLICY="ACTIVE") == ["ACTIVE", "2 CPU threads (by OMP_NUM_THREADS)"]


@pytest.mark.parametrize("script", ["pretrain.py", "evaluate.py"])
def test_the_scripts_settle_it_before_pytorch_is_loaded(script):
    lines = (ROOT / script).read_text().splitlines()
    imports = [line.split()[1].partition(".")[0] for line in lines if line.startswith(("import ", "from "))]
    others = {"torch", "numpy", "hydra", "config"} & {*imports}
    assert others and imports.index("utils") < min(map(imports.index, others))
