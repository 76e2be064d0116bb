"""Time of one training step, eager and compiled in turn, and their ratio.

    python benchmarks/train_step.py                        # the demo's size
    python benchmarks/train_step.py --size paper --eager   # TRM for Sudoku as published, batch 32
    python benchmarks/train_step.py --size paper --device cuda --batch-size 768
"""
import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from config.schema import ArchConfig
from dataset.common import PuzzleDatasetMetadata
from utils.distributed import World, pick_device

COMMON = {"name": "recursive_reasoning.trm@TRM",
          "loss": {"name": "losses@ACTLossHead", "loss_type": "stablemax_cross_entropy"},
          "L_layers": 2, "expansion": 4.0, "mlp_t": True, "pos_encodings": "none", "halt_exploration_prob": 0.1}
SIZES = {  # architecture, batch, tokens, vocabulary
    "demo": (dict(hidden_size=64, num_heads=4, H_cycles=2, L_cycles=2, halt_max_steps=8, puzzle_emb_ndim=64,
                  puzzle_emb_len=1), 128, 16, 6),
    "paper": (dict(hidden_size=512, num_heads=8, H_cycles=3, L_cycles=6, halt_max_steps=16, puzzle_emb_ndim=512,
                   puzzle_emb_len=16), 32, 81, 11)}


class Step:
    """A training step without the optimizer, on one random batch."""

    def __init__(self, size: str, device: torch.device, compiled: bool, batch_size: int | None):
        arch, rows, tokens, vocabulary = SIZES[size]
        self.rows = batch_size or rows
        data = PuzzleDatasetMetadata(pad_id=0, ignore_label_id=0, blank_identifier_id=0, vocab_size=vocabulary,
                                     seq_len=tokens, num_puzzle_identifiers=1, total_groups=1, mean_puzzle_examples=1,
                                     total_puzzles=1, sets=["all"])
        self.head = ArchConfig(**COMMON, **arch).build_head(data, self.rows, World(device=device)).train()
        if compiled:
            self.head.compile_recursion()
        cells = torch.randint(1, vocabulary, (self.rows, tokens), dtype=torch.int32, device=device)
        self.batch = {"inputs": cells, "labels": cells,
                      "puzzle_identifiers": torch.zeros(self.rows, dtype=torch.int32, device=device)}
        self.carry = self.head.initial_carry(self.batch)

    def __call__(self) -> float:
        """Seconds of one step, the device's work included."""
        started = time.perf_counter()
        self.carry, loss, *_ = self.head(carry=self.carry, batch=self.batch, return_keys=())
        (loss / self.rows).backward()
        self.head.zero_grad(set_to_none=True)
        if loss.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="demo")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch-size", type=int, help="rows (default: 128 for demo, 32 for paper)")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--eager", action="store_true", help="leave the compiled step out")
    args = parser.parse_args()
    device = pick_device(args.device)
    modes = (False,) if args.eager else (False, True)
    steps = [Step(args.size, device, compiled, args.batch_size) for compiled in modes]
    first = [step() for step in steps]
    rounds = [[step() for step in steps] for _ in range(args.rounds)]  # in turn, so that drift hits both alike
    for name, warm_up, times in zip(("eager", "compiled"), first, zip(*rounds)):
        print(f"{name}: {1000 * statistics.median(times):.1f} ms a step of {steps[0].rows} (median of {args.rounds}), "
              f"{steps[0].rows / statistics.median(times):.0f} examples/s; first step {warm_up:.1f} s")
    if len(steps) == 2:
        print(f"compiled / eager: {statistics.median(b / a for a, b in rounds):.2f}")


if __name__ == "__main__":
    main()
