"""What the recipes would cost on 1, 4 and 8 H100 cards: a model, not a measurement.

    python benchmarks/recipe_cost.py
    python benchmarks/recipe_cost.py --experiments dec_sudoku ldt_sudoku --cards 1 --teraflops 150

A step's operations are those of its matrix products, counted without computing them (PyTorch's `meta` device). Its time
is operations / rate, with the rate that Sudoku's step was measured to have on an H100 (ANCHOR). Its memory is counted
likewise: what the layers save for the backward pass, times the ratio of the measured to the counted memory of that
Sudoku step; then weights, gradients, moments, averages, carry and the table of puzzle embeddings. Where that is more
than a card holds, micro_batch_size is halved until it fits. How well the rate holds at 916 positions is not known, nor
for networks narrower than that of the measured step (512); they will have less. Every step is counted at full depth
and length: a curriculum makes the early ones shorter.
"""
import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import hydra

from benchmarks.speed.limits import ProductCount
from config.schema import PretrainConfig
from dataset.common import PuzzleDatasetMetadata
from losses.head import LossHead
from utils.distributed import World

GIB = 2**30
CONFIG = Path(__file__).resolve().parents[1] / "config"
MOMENTS = {"adam_atan2": 2, "adamw": 2, "lion": 1, "muon": 1}  # copies of the weights that an optimizer keeps
OVERHEAD_S = 0.017  # of a whole run's step beside forward and backward: 76 - 59 ms, measured on Sudoku
EXCHANGE = 1.02  # several cards over one: the model of communication of docs/BENCHMARKS.md, over PCIe


@dataclass(frozen=True)
class Facts:
    """What a data set decides: tasks, examples of an epoch (one variant of each task), inputs of the tests (one
    variant), variants of a task, bytes on disk. The builder prints all of them. And its cells and tokens."""

    tasks: int
    examples: int
    tests: int
    variants: float
    disk: float
    cells: int = 900
    tokens: int = 12

    def metadata(self) -> PuzzleDatasetMetadata:
        return PuzzleDatasetMetadata(
            pad_id=0, ignore_label_id=0, blank_identifier_id=0, vocab_size=self.tokens, seq_len=self.cells,
            num_puzzle_identifiers=1 + round(self.tasks * self.variants), total_groups=self.tasks,
            mean_puzzle_examples=1, total_puzzles=self.tasks, sets=["all"])


# Variants: of 1,001 that are drawn some are equal; 876,000 / 960 of ARC-AGI-1, taken for ARC-AGI-2, too.
ARC1, ARC2 = (960, 3988, 419), (1280, 5573, 172)
DATA = {"arc1concept-aug-1000": Facts(*ARC1, 912.5, 7e9), "arc2concept-aug-1000": Facts(*ARC2, 912.5, 10e9),
        "arc1concept-aug-100": Facts(*ARC1, 101, 0.8e9), "arc2concept-aug-100": Facts(*ARC2, 101, 1.1e9),
        "arc1concept-aug-8": Facts(*ARC1, 9, 0.07e9),
        # a variant: none of them has embeddings, or is tested; 422,786 test puzzles, and 256 held out
        "sudoku-extreme-1k-val": Facts(1000, 1000, 423_042, 1, 0.07e9, 81, 11),
        "sudoku-extreme-1k-val-aug-1000": Facts(1000, 1000, 423_042, 1, 0.23e9, 81, 11),
        "sudoku-extreme-full-rated": Facts(3_831_994, 3_831_994, 422_786, 1, 0.7e9, 81, 11)}
# Sudoku, 384 rows, 88 positions, bfloat16, compiled, on an H100: 59.2 ms of forward and backward, 220 TFLOP/s, 10.4 GiB
ANCHOR_SETTINGS = ["sudoku_mlp", "global_batch_size=384", "arch.puzzle_emb_len=7"]
ANCHOR_ROWS, ANCHOR_GIB, ANCHOR_TERAFLOPS = 384, 10.4, 220.0
SUDOKU = DATA["sudoku-extreme-1k-val"].metadata()


@dataclass(frozen=True)
class Step:
    """Of one row: operations of a training step and of its evaluation, bytes that its backward pass keeps, bytes of its
    carry. Of the model: its weights, without the table of puzzle embeddings."""

    train: float
    evaluate: float
    saved: float
    carry: float
    parameters: int


def composed(experiment: str, *settings: str) -> PretrainConfig:
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONFIG)):
        words = [f"experiment={experiment}", "arch.forward_dtype=bfloat16", *settings]
        return PretrainConfig.parse(hydra.compose("cfg_pretrain", words), words)


def built(config: PretrainConfig, data: PuzzleDatasetMetadata, rows: int) -> tuple[LossHead, dict]:
    """The loss head and a batch, without storage; of a model that guesses, which looks at its candidates, with it."""
    device = torch.device("cpu" if config.arch.model_class.GUESSES else "meta")
    with device:
        head = config.arch.build_head(data, rows, World(device=device))
        cells = torch.zeros(rows, data.seq_len, dtype=torch.int32)
        return head, {"inputs": cells, "labels": cells, "puzzle_identifiers": torch.zeros(rows, dtype=torch.int32)}


def counted(config: PretrainConfig, data: PuzzleDatasetMetadata, rows: int = 2) -> Step:
    """Count a supervision step of `rows` rows, of which everything is linear."""
    head, batch = built(config, data, rows)
    saved: dict[int, int] = {}
    kept: list[torch.Tensor] = []
    operations: dict[bool, float] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        scores = tensor.ndim >= 2 and tensor.shape[-1] == tensor.shape[-2] >= data.seq_len  # fused attention keeps none
        if not scores and not isinstance(tensor, torch.nn.Parameter):
            kept.append(tensor)  # else its storage may be freed, and its number be another's
            saved[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    for training in (True, False):
        head.train(training)
        carry = head.initial_carry(batch)
        # attention as two products each, which are counted; the fused kernel of a CPU is not known to the count
        with ProductCount() as count, torch.set_grad_enabled(training), sdpa_kernel(SDPBackend.MATH), \
                saved_tensors_hooks(keep, lambda kept: kept):
            loss = head(carry=carry, batch=batch, return_keys=())[1]
            if training:
                loss.backward()
        operations[training] = sum(flops for flops, _ in count.products) / rows
    sizes: list[int] = []
    carry.map(lambda tensor: sizes.append(tensor.nbytes))
    return Step(train=operations[True], evaluate=operations[False], saved=sum(saved.values()) / rows,
                carry=sum(sizes) / rows, parameters=sum(p.numel() for p in head.parameters()))


def memory_ratio() -> float:
    """Measured bytes of ANCHOR's step for each counted one: compiled code saves less, and needs room to work."""
    step = counted(composed(*ANCHOR_SETTINGS), SUDOKU)
    return ANCHOR_GIB * GIB / (ANCHOR_ROWS * step.saved)


def cost(config: PretrainConfig, step: Step, cards: int, rate: float, ratio: float,
         card_gib: float) -> dict[str, float]:
    """Hours, GiB and GB of a recipe on `cards` cards of `rate` operations a second each. `rows`: of a card, at once."""
    facts = DATA[Path(config.data_paths[0]).name]
    batch, rows = config.global_batch_size, config.global_batch_size / cards
    steps = config.epochs * facts.examples / batch
    exchange = EXCHANGE if cards > 1 else 1
    train = steps * (batch * step.train * exchange / (cards * rate) + OVERHEAD_S)
    inputs = min(facts.tests * facts.variants, (config.test_puzzles or float("inf")) + config.val_puzzles)
    evaluations = config.epochs / (config.eval_interval or config.epochs)
    evaluation = inputs * config.arch.options["halt_max_steps"] * step.evaluate / (cards * rate)
    copies = 2 + MOMENTS[config.optimizer] + config.ema  # weights and gradients, moments, averages; all in float32
    table = 4 * facts.tasks * facts.variants * config.arch.options.get("puzzle_emb_ndim", 0)
    fixed = table + 4 * copies * step.parameters + rows * step.carry
    at_once = rows
    while fixed + at_once * step.saved * ratio > card_gib * GIB and at_once > 1:
        at_once /= 2
    state = table + 4 * (copies - 1) * step.parameters + batch * step.carry
    return {"cards": cards, "steps": steps, "tflop": batch * step.train / 1e12,
            "step_s": train / steps, "train_h": train / 3600, "evaluations": evaluations,
            "evaluate_h": evaluations * evaluation / 3600,
            "gib": (fixed + at_once * step.saved * ratio) / GIB, "rows": at_once, "checkpoint_gb": state / 1e9,
            "disk_gb": (facts.disk + ((config.checkpoint.keep_last or 1) + 1) * state) / 1e9}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", nargs="+", help="recipes whose data DATA has",
                        default=["arc1", "arc2", "urm_arc1", "urm_arc2", "se_rrm_arc1", "arc1_small"])
    parser.add_argument("--cards", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--teraflops", type=float, default=ANCHOR_TERAFLOPS, help="of a card, 10¹² operations/s")
    parser.add_argument("--memory", type=float, default=72, help="GiB of a card that a step may take")
    args = parser.parse_args()
    ratio = memory_ratio()
    print(f"measured / counted bytes of a step: {ratio:.2f}; {args.teraflops:g} TFLOP/s a card\n")
    print("| `experiment=` | cards | steps | TFLOP a step | s a step | training, h | evaluations, h | GiB a card (rows "
          "at once) | on disk, GB (of it a checkpoint) |\n|" + " --- |" * 9)
    for experiment in args.experiments:
        config = composed(experiment)
        step = counted(config, DATA[Path(config.data_paths[0]).name].metadata())
        for cards in args.cards:
            told = cost(config, step, cards, args.teraflops * 1e12, ratio, args.memory)
            hours = format(told["train_h"], ",.0f" if told["train_h"] >= 9.95 else ".2g")
            print("| {experiment} | {cards} | {steps:,.0f} | {tflop:.0f} | {step_s:.2f} | {hours} | "
                  "{evaluate_h:,.1f} ({evaluations:.0f}) | {gib:.0f} ({rows:.0f}) | "
                  "{disk_gb:.0f} ({checkpoint_gb:.1f}) |".format(
                      experiment=experiment, hours=hours, **told))


if __name__ == "__main__":
    main()
