"""`pretrain.py` on bad days: faults from the environment, each at a step of the run.

    FAULT_SLOW_DISK=0.3     each checkpoint is half written for so many seconds
    FAULT_SLOW_STEP=0.02    each step takes so many seconds more
    FAULT_SIGNAL=TERM:7     this process sends itself a signal in step 7 (rank 0 only)
    FAULT_KILL=1:7          rank 1 is killed in step 7, once: a file in the working directory remembers
    FAULT_NAN=5,6           the loss of these steps is not a number, on the last rank
    FAULT_FULL_DISK=3:9     from step 3 to step 9 no file can grow beyond 20 kB
    FAULT_READ_ONLY=3:9     from step 3 to step 9 the run's directory takes no new file
"""
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import pretrain
import utils.checkpoint
from utils.command_line import run_script

FAULTS = {name.removeprefix("FAULT_"): value for name, value in os.environ.items() if name.startswith("FAULT_")}
RANK, RANKS = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
real_step, real_save = pretrain.train_step, utils.checkpoint._save


def faulty_step(state, batch, config, total_steps):
    step = state.step + 1
    time.sleep(float(FAULTS.get("SLOW_STEP", 0)))
    name, _, at = FAULTS.get("SIGNAL", "").partition(":")
    if at == str(step) and RANK == 0:
        os.kill(os.getpid(), getattr(signal, f"SIG{name}"))
        time.sleep(0.1)  # until it is noted
    if FAULTS.get("KILL") == f"{RANK}:{step}" and not Path("killed").exists():
        Path("killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if "FULL_DISK" in FAULTS:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        limit = 20_000 if within("FULL_DISK", step) else resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    if "READ_ONLY" in FAULTS:
        set_read_only(config.checkpoint.path, within("READ_ONLY", step))
    if str(step) in FAULTS.get("NAN", "").split(",") and RANK == RANKS - 1:
        return real_step(replace_loss(state), batch, config, total_steps)
    return real_step(state, batch, config, total_steps)


def within(fault: str, step: int) -> bool:
    first, last = map(int, FAULTS[fault].split(":"))
    return first <= step <= last


def set_read_only(directory: str, read_only: bool) -> None:
    """For root, whom permissions do not stop, by the attribute of the file system."""
    if os.geteuid() == 0:
        subprocess.run(["chattr", "+i" if read_only else "-i", directory], check=True)
    else:
        Path(directory).chmod(0o555 if read_only else 0o755)


def replace_loss(state):
    """The state, its head giving a loss without value once."""
    def without_value(module, args, kwargs, output):
        hook.remove()
        carry, loss, *rest = output
        return carry, loss * torch.nan, *rest

    hook = state.head.register_forward_hook(without_value, with_kwargs=True)
    return state


def slow_save(payload, file):
    real_save(payload, file)
    if "SLOW_DISK" in FAULTS:
        whole = file.read_bytes()
        file.write_bytes(whole[:len(whole) // 2])
        time.sleep(float(FAULTS["SLOW_DISK"]))
        file.write_bytes(whole)


if __name__ == "__main__":
    pretrain.train_step, utils.checkpoint._save = faulty_step, slow_save
    run_script(pretrain.main, "cfg_pretrain")
