"""Every recipe printed in docs/ that a CPU can follow reaches what it says, for three seeds, as printed.

Each runs in a copy of the project, from a shell in which `python` is this one. `make test-long` runs them.
"""
import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from documents import commands, page, printed, write_examples
from helpers import ROOT, random_arc_task, run_process, write_arc_source

pytestmark = pytest.mark.long
SEEDS = (0, 1, 2)
OWN_DATA, OWN_MODEL = "docs/your-own-data.md", "docs/your-own-model.md"
REGRESSION, RECIPES = "docs/regression-and-latents.md", "docs/recipes.md"


@pytest.fixture
def project(tmp_path) -> Path:
    """A copy of the project with an environment that `make` takes for installed."""
    folders = ("benchmarks", "config", "dataset", "docs", "evaluators", "losses", "models", "utils")
    for folder in folders:
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in (*ROOT.glob("*.py"), *ROOT.glob("*.txt"), ROOT / "Makefile"):
        shutil.copy(file, tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (tmp_path / ".venv" / "installed").touch()
    return tmp_path


def run_printed(commands: str, project: Path) -> str:
    """What the commands, a line each, print in a shell that stops at the first that fails."""
    done = run_process(["bash", "-ec", commands], project, 1800,  # a limit against hanging
                       PATH=f"{project / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def evaluation(project: Path, run: str) -> dict[str, float]:
    return json.loads((project / run / "evaluation" / "metrics.json").read_text())


def last_validation(project: Path, run: str) -> dict[str, float]:
    lines = map(json.loads, (project / run / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "val/loss" in line][-1]


@pytest.fixture
def make(project):
    if not shutil.which("make"):
        pytest.skip("the demos need make")
    return lambda target, seed: run_printed(f"make {target} SEED={seed}", project)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_demo_solves_sudokus_whose_grids_it_never_saw(make, project, seed):
    assert "A network of two layers has learned 4x4 Sudoku" in make("demo", seed)
    metrics = evaluation(project, f"checkpoints/demo/seed{seed}")
    assert metrics["val/exact_accuracy"] > 0.99 and metrics["eval/sudoku/solved"] == metrics["val/exact_accuracy"]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_demo_of_regression_halves_the_error_of_ridge_regression(make, project, seed):
    make("demo-regression", seed)
    metrics = evaluation(project, f"checkpoints/demo/seed{seed}-regression")
    assert "| 0.137 | ridge regression 0.278 |" in page(REGRESSION)
    assert metrics["val/rmse"] < 0.145 and metrics["eval/ridge/ridge_rmse"] == pytest.approx(0.278, abs=0.001)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_demo_of_latents_predicts_a_chaotic_system_ten_steps_ahead(make, project, seed):
    make("demo-latents", seed)
    metrics = evaluation(project, f"checkpoints/demo/seed{seed}-latents")
    assert "| 0.7 to 1.2 by the seed | linear autoregression 8.08 |" in page(REGRESSION)
    assert metrics["eval/rollout/model/rmse@10"] < 1.6
    assert metrics["eval/rollout/linear/rmse@10"] == pytest.approx(8.08, abs=0.01)


def reversed_strings(project: Path) -> None:
    write_examples(OWN_DATA, project, "my_dataset.py")
    run_printed(printed(OWN_DATA, "my_dataset.py"), project)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_data_set_of_ones_own_is_learned(project, seed):
    reversed_strings(project)
    run_printed(f"{printed(OWN_DATA, 'data/reverse')} checkpoint.path=run seed={seed}", project)
    assert last_validation(project, "run")["val/exact_accuracy"] > 0.98


@pytest.mark.parametrize("seed", SEEDS)
def test_a_model_of_ones_own_learns_it_too(project, seed):
    reversed_strings(project)
    write_examples(OWN_MODEL, project, "models/recursive_reasoning/gated.py", "config/arch/gated.yaml")
    run_printed(f"{printed(OWN_MODEL, 'pretrain.py arch=gated')} seed={seed}", project)
    assert last_validation(project, "checkpoints/gated")["val/exact_accuracy"] > 0.98


@pytest.mark.parametrize("seed", SEEDS)
def test_series_of_ones_own_are_predicted_better_than_by_ridge_regression(project, seed):
    write_examples(REGRESSION, project, "my_series.py")
    run_printed(printed(REGRESSION, "my_series.py"), project)
    run_printed(f"{printed(REGRESSION, '[data/walks]')} seed={seed}", project)
    run_printed(printed(REGRESSION, "checkpoints/walks evaluators"), project)
    metrics = evaluation(project, "checkpoints/walks")
    assert metrics["val/rmse"] < 0.5 * metrics["eval/ridge/ridge_rmse"]
    assert (project / "checkpoints" / "walks" / "evaluation" / "solution_steps.png").is_file()


def test_supervision_steps_in_training_and_at_test_make_a_table_as_printed(project):
    """All commands of the section, at a width and a length that show nothing but that they run."""
    text = page(RECIPES)
    section = text[text.index("## Ablations"):text.index("**Augmentations in training")]
    small = "arch.hidden_size=16 arch.num_heads=2 epochs=1"
    lines = [line + (f" {small}" if "pretrain.py" in line else "") for line in commands(section)
             if "seed=0,1" not in line and "checkpoints/ablate-sudoku4" not in line and "family.py" not in line]
    run_printed("\n".join(lines), project)
    table = (project / "depth.md").read_text()
    assert len(re.findall(r"halt_max_steps_\d", table)) == 16 and (project / "depth.png").is_file()


def test_votes_of_augmentations_are_compared_as_printed(project, tmp_path):
    random = np.random.default_rng(0)
    prefix = write_arc_source(tmp_path / "source", {"few": {f"task{i}": random_arc_task(random) for i in range(3)}})
    run_printed(f"python -m dataset.build_arc_dataset --input-file-prefix {prefix} --subsets few --test-fraction 0.5 "
                "--num-aug 2 --output-dir data/few", project)
    run_printed('python pretrain.py data_paths="[data/few]" arch.hidden_size=16 arch.num_heads=2 '
                "arch.halt_max_steps=2 epochs=2 eval_interval=2 global_batch_size=4 use_wandb=false "
                "checkpoint.path=checkpoints/PROJECT/RUN", project)
    run_printed(printed(RECIPES, "votes_"), project)
    table = (project / "votes.md").read_text()
    assert "pass@1" in table and "pass@2" in table
