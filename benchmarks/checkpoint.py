"""How long saving blocks training, how long the write takes, and the memory it needs, at the size of ARC.

    python benchmarks/checkpoint.py                     # 7M parameters, a table of 876,000 × 512, Lion, EMA: 1.9 GB
    python benchmarks/checkpoint.py --identifiers 1000  # small

The ratio to a plain `torch.save` of the same payload on the training thread is taken in the same run. Then the state is
read as a run that goes on reads it: the newest step file, and best.ckpt for its step.
"""
import argparse
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.speed.ours import build
from benchmarks.speed.workload import workload
from models.ema import EMA
from utils.checkpoint import CheckpointConfig, Checkpoints, step_file
from utils.run_directory import newest_checkpoint, set_aside_after


def build_payload(identifiers: int) -> dict:
    """A checkpoint's parts that cost: weights, table, averages, Lion's momentum, and a carry of 16 rows."""
    sizes = workload(16, 900, 12, 512, "attention", T=3, n=6, prefix=16) | {"identifiers": identifiers}
    head = build(sizes, torch.device("cpu"))
    momentum = {i: {"exp_avg": torch.randn_like(p)} for i, p in enumerate(head.parameters())}
    latents = tuple(torch.randn(16, 916, 512) for _ in range(2))
    return {"step": 3, "model_state": head.state_dict(), "ema_state": EMA(head, 0.999).state_dict(),
            "optimizer_states": [{"state": momentum}], "carry": {"latents": latents}}


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def measure(payload: dict, folder: Path) -> None:
    tensors = [*payload["model_state"].values(), *payload["ema_state"].values(), *payload["carry"]["latents"]]
    size = sum(t.numel() * t.element_size() for t in tensors)
    settings = CheckpointConfig(path=None, enabled=True, monitor=None, mode="min", keep_last=1, every_minutes=None,
                                resume=False, resume_from=None, overwrite=False)
    checkpoints, before = Checkpoints(folder, settings), peak_gb()
    blocked, written = [], []
    for step in (1, 2, 3):
        started = time.perf_counter()
        checkpoints.save(payload, step)
        blocked.append(time.perf_counter() - started)
        checkpoints.wait()
        written.append(time.perf_counter() - started)
    extra = peak_gb() - before
    started = time.perf_counter()
    torch.save(payload, folder / "plain.pt")
    plain = time.perf_counter() - started
    print(f"state of {size / 1e9:.2f} GB: training waits {max(blocked):.2f} s at most, the write takes "
          f"{max(written):.2f} s, extra memory {extra:.2f} GB")
    print(f"torch.save on the training thread, not synced to disk: {plain:.2f} s; blocked / plain "
          f"{sorted(blocked)[1] / plain:.2f}")


def measure_resume(folder: Path) -> None:
    """Of the files that `measure` left."""
    shutil.copyfile(folder / step_file(3), folder / "best.ckpt")
    started = time.perf_counter()
    newest = newest_checkpoint(folder, print)
    assert newest is not None
    file, payload = newest
    read = time.perf_counter() - started
    set_aside_after(folder, payload["step"], known=file)
    print(f"a run that goes on reads its state in {time.perf_counter() - started:.2f} s, {read:.2f} s of it the newest "
          "file and the rest the step of best.ckpt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--identifiers", type=int, default=876_000, help="rows of the table (default: 876,000)")
    parser.add_argument("--folder", help="where to write (default: a temporary folder)")
    args = parser.parse_args()
    payload = build_payload(args.identifiers)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        measure(payload, Path(folder))
        measure_resume(Path(folder))


if __name__ == "__main__":
    main()
