"""Every architecture on generated 4×4 Sudokus, at equal parameters and at equal compute: how many it solves, at what
cost, and whether its answers follow the names of the digits.

    python benchmarks/family.py --results family.jsonl          # the whole table: 69 runs, 45 minutes of a free core
    python benchmarks/family.py --results family.jsonl --table                  # the table of the runs there are
    python benchmarks/family.py --results few.jsonl --steps 32 --seeds 1 --architectures trm urm        # a minute

All networks are two blocks (HRM: one in each of its two networks) of a width that makes their parameters equal but for
some convolutions. At equal parameters each takes as many steps as TRM; at equal compute as many as TRM's operations
pay for: those of the matrix products of a training step, counted. TRM's runs are the same in both. LDT is scored by one
chain, as all others are, and by several.

A run is `pretrain.py` in a process of its own with one thread, on the same puzzles, which all seeds share. What it
found is a line of the results file as soon as it ends; a run whose line is there is not made again.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import hydra
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.renaming import measure
from config.restored import Restored
from config.schema import PretrainConfig
from dataset import build_sudoku_dataset, generate_sudoku
from dataset.common import field_path
from dataset.puzzle_dataset import PuzzleDataset, PuzzleDatasetConfig
from evaluators.chains import Chains
from evaluators.loop import evaluate
from utils.distributed import World

BATCH, STEPS_AN_EPOCH, TEST = 64, 16, 512
REFERENCE = "trm"  # whose runs set both budgets
WIDTH = 32  # of most
ATTENTION = ["arch.num_heads=4", "arch.pos_encodings=rope2d"]
TRM_CYCLES = [*ATTENTION, "arch.H_cycles=2", "arch.L_cycles=2", "arch.L_layers=2", "arch.puzzle_emb_len=1"]
# Two blocks each, and three passes with a gradient where the architecture leaves a choice. The last four have other
# blocks, and so other widths for as many parameters.
ARCHITECTURES = {
    "trm": TRM_CYCLES,
    "trm_singlez": TRM_CYCLES,
    "trm_hier6": [*TRM_CYCLES, "arch.L_cycles=6"],
    "hrm": [*ATTENTION, "arch.H_cycles=2", "arch.L_cycles=2", "arch.L_layers=1", "arch.H_layers=1"],
    "urm": [*TRM_CYCLES, "arch.L_cycles=3"],
    "eqr": [*TRM_CYCLES, "arch.puzzle_emb_len=0"],
    "transformers_baseline": [*ATTENTION, "arch.H_layers=2"],
    "fprm": [*TRM_CYCLES, "arch.H_cycles=1", "arch.L_cycles=3"],
    "dec": ["arch.hidden_size=21", "arch.H_cycles=2", "arch.L_cycles=2", "arch.L_layers=2"],
    "se_rrm": [*TRM_CYCLES, "arch.hidden_size=30", "arch.head_dim=8", "arch.L_cycles=3", "arch.puzzle_emb_len=0",
               "arch.halt_exploration_prob=0.05"],
    "sotaku": [*ATTENTION, "arch.hidden_size=48", "arch.L_layers=2", "arch.L_cycles=3"],
    # as in experiment=ldt_sudoku4, but for its width, loops and positions
    "ldt": [*ATTENTION, "arch.hidden_size=48", "arch.L_layers=2", "arch.loops=3", "arch.second_pass=false",
            "arch.halt_max_steps=16", "arch.turns=[]", "arch.relabel=false"],
    "ldt_fields": ["arch.hidden_size=47", "arch.loops=3", "arch.halt_max_steps=16", "arch.turns=[]"]}
CHAINS, ROUNDS = 8, 50  # that LDT is scored by, beside one chain


def overrides(arch: str, folder: Path, args: argparse.Namespace) -> list[str]:
    """A run's settings but for its length, seed and directory."""
    return [f"arch={arch}", f"arch.hidden_size={WIDTH}", "arch.halt_max_steps=8", *ARCHITECTURES[arch],
            f"data_paths=[{folder}]", "evaluators=[]",
            f"global_batch_size={BATCH}", "optimizer=adamw", f"lr={args.lr}", f"puzzle_emb_lr={args.lr}",
            "lr_min_ratio=0.1", "weight_decay=0.1", "ema=true", "ema_rate=0.99",
            "eval_interval=null", "use_wandb=false", "device=cpu"]


def make_data(folder: Path, args: argparse.Namespace) -> None:
    """Puzzles in so many groups that an epoch, which takes one of each, is a few steps long."""
    if folder.exists():
        return
    generate_sudoku.main(["--size", str(args.size), "--train", str(args.puzzles), "--test", str(TEST),
                          "--output-dir", f"{folder}-csv", "--overwrite"])
    ungrouped = folder.with_name(f"{folder.name}-ungrouped")
    build_sudoku_dataset.main(["--source-dir", f"{folder}-csv", "--output-dir", str(ungrouped), "--overwrite"])
    groups = np.linspace(0, args.puzzles, STEPS_AN_EPOCH * BATCH + 1).astype(np.int32)
    np.save(field_path(ungrouped / "train", "all", "group_indices"), groups)
    metadata = ungrouped / "train" / "dataset.json"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"total_groups": len(groups) - 1}))
    ungrouped.rename(folder)


def describe(settings: list[str], folder: Path) -> dict[str, int]:
    """Parameters, and operations of the matrix products of one training step."""
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "config")):
        config = PretrainConfig.parse(hydra.compose("cfg_pretrain", settings))
    data = PuzzleDataset(PuzzleDatasetConfig(seed=0, dataset_paths=[str(folder)], global_batch_size=BATCH,
                                             test_set_mode=False))
    head = config.arch.build_head(data.metadata, BATCH, World()).train()
    batch = data.next_batch()
    with FlopCounterMode(display=False) as counter:
        head(carry=head.initial_carry(batch), batch=batch, return_keys=())[1].backward()
    return {"network": sum(p.numel() for p in head.parameters()), "flops": counter.get_total_flops(),
            "embedding": head.puzzle_embedding.weights.numel() if head.puzzle_embedding else 0}


def train(settings: list[str], folder: Path, steps: int, seed: int) -> dict[str, Any]:
    """What one run finds, and what it costs."""
    with tempfile.TemporaryDirectory() as run:
        command = [sys.executable, str(ROOT / "pretrain.py"), *settings, f"epochs={steps // STEPS_AN_EPOCH}",
                   f"lr_warmup_steps={min(50, steps // 4)}", f"seed={seed}", f"checkpoint.path={run}/run",
                   f"log_dir={run}"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT,
                                   env=os.environ | {"OMP_NUM_THREADS": "1"})
        errors = process.stderr.read()
        _, status, used = os.wait4(process.pid, 0)
        if status:
            sys.exit(f"{' '.join(command)}\n{errors[-2000:]}")
        lines = [json.loads(line) for line in Path(run, "run", "metrics.jsonl").read_text().splitlines()]
        renaming = measure(Path(run, "run"), folder)
        by_chains = score_chains(Path(run, "run"), folder) if "val/accepted" in lines[-1] else None
    speeds = [line["train/examples_per_s"] / BATCH for line in lines if "train/examples_per_s" in line]
    return {"exact": lines[-1]["val/exact_accuracy"], "cells": lines[-1]["val/accuracy"],
            "steps_per_s": statistics.median(speeds), "cpu_s": used.ru_utime + used.ru_stime,
            "peak_mb": used.ru_maxrss / 1024, "renaming": renaming,
            "chains": by_chains and {"1": lattice_scores(lines[-1]), str(CHAINS): lattice_scores(by_chains)}}


def score_chains(run: Path, folder: Path) -> dict[str, float]:
    """Test metrics by several chains a puzzle."""
    restored = Restored.read(run)
    data = restored.open_data([str(folder)], "test", World(), batch_size=TEST)
    return evaluate(restored.head(data), data, World(), strategy=Chains(CHAINS, ROUNDS))


def lattice_scores(metrics: dict[str, float]) -> dict[str, float | None]:
    """What LDT found without rules, and the share of its deductions that removed a true digit; None if it made none."""
    names = ("exact_accuracy", "accepted", "accepted_wrong", "deductions", "unsound_deductions")
    return {name: metrics.get(f"val/{name}") for name in names}


def budgets(facts: dict[str, dict], steps: int) -> dict[str, dict[str, int]]:
    """Training steps of each architecture, in whole epochs, under each budget."""
    paid = {arch: steps * facts[REFERENCE]["flops"] / facts[arch]["flops"] for arch in facts}
    return {"equal parameters": dict.fromkeys(facts, steps),
            "equal compute": {arch: max(1, round(n / STEPS_AN_EPOCH)) * STEPS_AN_EPOCH for arch, n in paid.items()}}


def read_results(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def found(results: list[dict], settings: list[str], steps: int) -> dict[int, dict]:
    """By seed, the runs there are of these settings and this length."""
    return {line["seed"]: line for line in results if (line["settings"], line["steps"]) == (settings, steps)}


def print_table(facts: dict[str, dict], args: argparse.Namespace, results: list[dict]) -> None:
    for budget, lengths in budgets(facts, args.steps).items():
        print(f"\n### {budget.capitalize()}\n\n| architecture | exact, % (each seed) | cells, % | network | embedding "
              "| steps | GFLOP a step | steps/s | CPU s | peak MB |\n|" + " --- |" * 10)
        for arch, steps in lengths.items():
            fact = facts[arch]
            runs = list(found(results, fact["settings"], steps).values())
            if not runs:
                continue
            exact, cells, speed, cpu, peak = ([run[key] for run in runs] for key in
                                              ("exact", "cells", "steps_per_s", "cpu_s", "peak_mb"))
            spread = f" ± {100 * statistics.stdev(exact):.1f}" if len(runs) > 1 else ""
            each = ", ".join(f"{100 * value:.1f}" for value in exact)
            print(f"| `{arch}` | {100 * statistics.mean(exact):.1f}{spread} ({each}) | "
                  f"{100 * statistics.mean(cells):.1f} | {fact['network']:,} | {fact['embedding']} | {steps} | "
                  f"{fact['flops'] / 1e9:.2f} | {max(speed):.1f} | {min(cpu):.0f} | {max(peak):.0f} |")
    print_renaming(facts, args, results)
    print_chains(facts, args, results)


def print_renaming(facts: dict[str, dict], args: argparse.Namespace, results: list[dict]) -> None:
    print("\n### Renamed digits, at equal parameters\n\n| architecture | largest difference of a probability after the "
          "first step | after the last | answers that change, % | by chance, % |\n|" + " --- |" * 5)
    for arch, fact in facts.items():
        runs = [run["renaming"] for run in found(results, fact["settings"], args.steps).values()]
        if runs:
            first, last = (max(run[key] for run in runs) for key in ("first", "last"))
            changed, chance = (100 * statistics.mean(run[key] for run in runs) for key in ("changed", "by_chance"))
            print(f"| `{arch}` | {first:.1g} | {last:.1g} | {changed:.1f} | {chance:.1f} |")


def print_chains(facts: dict[str, dict], args: argparse.Namespace, results: list[dict]) -> None:
    print("\n### Chains\n\n| architecture | steps | seed | chains | deductions a puzzle | exact, % | accepted, % "
          "| accepted and wrong, % | deductions of the true digit, % |\n|" + " --- |" * 9)
    for arch, fact in facts.items():
        for steps in dict.fromkeys(lengths[arch] for lengths in budgets(facts, args.steps).values()):
            for seed, run in found(results, fact["settings"], steps).items():
                for chains, by in (run["chains"] or {}).items():
                    shares = [None if by[key] is None else 100 * by[key] for key in (
                        "exact_accuracy", "accepted", "accepted_wrong", "unsound_deductions")]
                    told = " | ".join("none" if share is None else f"{share:.2f}" for share in shares)
                    print(f"| `{arch}` | {steps} | {seed} | {chains} | {by['deductions']:.1f} | {told} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="JSON lines, one a run; kept and added to")
    parser.add_argument("--architectures", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=320, help=f"of {REFERENCE}, a multiple of {STEPS_AN_EPOCH}")
    parser.add_argument("--size", type=int, choices=(4, 6), default=4, help="digits of a Sudoku")
    parser.add_argument("--puzzles", type=int, default=8192, help="training puzzles")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--table", action="store_true", help="train nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = ROOT / "data" / f"family-sudoku{args.size}-{args.puzzles}"
    make_data(folder, args)
    facts = {}
    for arch in dict.fromkeys([REFERENCE, *args.architectures]):
        settings = overrides(arch, folder.relative_to(ROOT), args)
        facts[arch] = describe(settings, folder) | {"settings": settings}
    for seed in range(0 if args.table else args.seeds):  # seeds outermost: a table cut short compares alike
        for lengths in budgets(facts, args.steps).values():
            for arch, steps in lengths.items():
                settings = facts[arch]["settings"]
                if arch in args.architectures and seed not in found(read_results(args.results), settings, steps):
                    run = {"settings": settings, "steps": steps, "seed": seed} | train(settings, folder, steps, seed)
                    with open(args.results, "a") as file:
                        file.write(json.dumps(run) + "\n")
                    print(f"{arch}, {steps} steps, seed {seed}: {100 * run['exact']:.1f}% exact", flush=True)
    print_table(facts, args, read_results(args.results))


if __name__ == "__main__":
    main()
