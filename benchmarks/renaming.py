"""Whether a network's answers follow the names of the digits: if a puzzle's digits are renamed, is its answer renamed
alike?

    python benchmarks/renaming.py checkpoints/RUN data/sudoku4

DEC and SE-RRM are made so that it is; any other network has to learn it. The largest difference of a probability is
told after the first supervision step and after the last. Networks with random numbers answer otherwise by chance alone:
how often, is told beside it.
"""
import argparse
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch
from torch import Tensor

from config.restored import Restored
from dataset.puzzle_dataset import Batch
from evaluators.rows import supervision_steps
from losses.head import LossHead
from models.act import Carry
from utils.distributed import World

PUZZLES = 128  # that are compared


def cycles(digits: Tensor, vocab_size: int, rows: int) -> Tensor:
    """New names (B, V) of all tokens: in each row the digits (F,) change places along a random cycle through all of
    them, so none keeps its name; other tokens do."""
    order = digits[torch.rand(rows, len(digits), generator=torch.Generator().manual_seed(0)).argsort(1)]
    return torch.arange(vocab_size).repeat(rows, 1).scatter(1, order, order.roll(1, 1))


def renamed_start(head: LossHead, batch: Batch, names: Tensor) -> Carry:
    """A carry from which the renamed puzzles begin. Where each digit has a random start of its own, as in DEC, it is
    renamed with its digit; all other random numbers are those that `batch` gets without renaming."""
    carry = head.model.refill(head.initial_carry(batch), batch)
    if not (head.model.inner.draws_initial_latents and hasattr(head.model.inner, "digits")):
        return carry
    digits = head.model.inner.digits
    fields = torch.searchsorted(digits, names.argsort(1)[:, digits])  # (B, F), whose start each field gets
    return replace(carry, latents=tuple(z[torch.arange(len(z))[:, None], fields] for z in carry.latents))


@torch.no_grad()
def follow_names(head: LossHead, batch: Batch, names: Tensor) -> dict[str, float]:
    """Compare the answers to puzzles with those to the same puzzles under other names (B, V), set back.

    `first` and `last`: the largest difference of a probability after the first and after the last supervision step;
    `changed`: the share of puzzles whose answer differs; `by_chance`: that with other random numbers, not other names.
    """
    head.eval()
    renamed = batch | {"inputs": names.gather(1, batch["inputs"].long()).to(batch["inputs"].dtype)}
    plain = list(supervision_steps(head, batch))
    other = list(supervision_steps(head, renamed, renamed_start(head, renamed, names)))
    chance = list(supervision_steps(head, {name: value.roll(1, 0) for name, value in batch.items()}))[-1]

    def difference(step: int) -> float:
        before, after = (head.probabilities(steps[step]["logits"]) for steps in (plain, other))
        return (after.gather(-1, names[:, None].expand_as(after)) - before).abs().max().item()

    def share(preds: Tensor) -> float:
        return (preds != plain[-1]["preds"]).any(1).float().mean().item()

    return {"first": difference(0), "last": difference(-1),
            "changed": share(names.argsort(1).gather(1, other[-1]["preds"].long())),
            "by_chance": share(chance["preds"].roll(-1, 0))}


def measure(checkpoint: str | Path, folder: str | Path) -> dict[str, float]:
    """`follow_names` on the first test puzzles of a data set of Sudokus, without noise in passes."""
    restored = Restored.read(checkpoint)
    if "noise_scale" in restored.arch.options:
        restored = replace(restored, overrides={"noise_scale": 0})
    data = restored.open_data([str(folder)], "test", World())
    head, count = restored.head(data), min(PUZZLES, data.num_examples)
    vocab_size = head.model.config.vocab_size
    digits = torch.arange(2, vocab_size)  # after padding and the blank
    return follow_names(head, data.examples(range(count)), cycles(digits, vocab_size, count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path, help="a folder of build_sudoku_dataset")
    args = parser.parse_args()
    found = measure(args.checkpoint, args.data)
    print("largest difference of a probability after the first step: "
          f"{found['first']:.2g}, after the last: {found['last']:.2g}")
    print(f"answers that change by renaming: {found['changed']:.1%}, by other random numbers: {found['by_chance']:.1%}")


if __name__ == "__main__":
    main()
