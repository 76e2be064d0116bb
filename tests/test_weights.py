"""The weights in weights/: small, whole, described, and able to answer. How they come there: weights/release.py."""
import hashlib
import importlib.util
import json
import shutil

import numpy as np
import pytest

from config.solver import load_solver
from dataset.kinds.sudoku import digits_of, valid_grids
from helpers import ROOT, TINY_ARCH, pretrain_config, run_script, write_tiny_dataset
from pretrain import train
from utils.distributed import World

WEIGHTS = ROOT / "weights"
RELEASED = sorted(path.name for path in WEIGHTS.iterdir() if (path / "model.safetensors").is_file())
PARTS = {"README.md", "config.yaml", "identifiers.json", "metadata.json", "model.safetensors"}
NAMELESS = {"ldt-sudoku9", "ldt-fields-sudoku9"}  # without puzzle embeddings, and so without their names
SAID = {"trained": "64 strings", "scored": "10 strings", "cost": "a second"}


def parts_of(name: str) -> set[str]:
    return PARTS - {"identifiers.json"} if name in NAMELESS else PARTS


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("release", WEIGHTS / "release.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_weights_are_small_enough_for_a_repository(tool):
    tool.refuse_large(tool.files(WEIGHTS))
    assert (tool.LARGEST, tool.TOGETHER) == (20_000_000, 25_000_000)
    everything = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in everything) < tool.TOGETHER


def test_every_file_of_the_weights_is_the_one_that_was_released():
    listed = dict(reversed(line.split("  ")) for line in (WEIGHTS / "SHA256SUMS").read_text().splitlines())
    assert listed == {f"{name}/{part}": hashlib.sha256((WEIGHTS / name / part).read_bytes()).hexdigest()
                      for name in RELEASED for part in parts_of(name)}


@pytest.mark.parametrize("name", RELEASED)
def test_a_card_says_what_was_trained_on_scored_and_under_which_licence(name):
    card = (WEIGHTS / name / "README.md").read_text()
    assert all(part in card for part in ("license: apache-2.0", "| trained on |", "| scored on |", "| time and "))
    assert f"({name}/README.md)" in (WEIGHTS / "README.md").read_text()
    texts = [(WEIGHTS / name / part).read_text() for part in parts_of(name) - {"model.safetensors"}]
    assert not any(f"{place}/" in text for text in texts for place in ("/tmp", "/home", "/work", "/root"))


def test_the_demo_weights_solve_a_sudoku_from_the_command_line(tmp_path):
    shutil.copytree(WEIGHTS / "demo-sudoku4", tmp_path / "weights" / "demo-sudoku4")  # answers are kept beside weights
    done = run_script("evaluate.py", "checkpoint=weights/demo-sudoku4", "solve=1...3.....4....2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answer = load_solver(str(WEIGHTS / "demo-sudoku4")).solve(["1...3.....4....2"])[0]
    assert answer.answer in done.stdout
    grid = np.array(digits_of(answer.answer))
    assert valid_grids(grid[None], (2, 2)).all()
    assert [grid[i] for i in (0, 4, 10, 15)] == [1, 3, 4, 2]


@pytest.mark.parametrize("name, preset", [("ldt-sudoku9", "ldt_laptop"), ("ldt-fields-sudoku9", "ldt_fields")])
def test_the_9x9_weights_solve_a_hard_sudoku_by_search_without_rules(name, preset):
    clues = ".1.2.....5......6...216..5.8.93......2.7.84...4....98.4..95........17....5...269."  # of docs/recipes.md
    answer, = load_solver(str(WEIGHTS / name), tta=preset).solve([clues])
    assert valid_grids(np.array([digits_of(answer.answer)]), (3, 3)).all()
    assert all(clue in (".", digit) for clue, digit in zip(clues, answer.answer))
    assert answer.steps > 2 and answer.confidence > 0.5
    brief = {"name": "chains@Chains", "chains": 1, "rounds": 2}
    given_up, = load_solver(str(WEIGHTS / name), tta=preset, strategy=brief).solve([clues])
    assert (given_up.answer, given_up.confidence, given_up.steps) == (clues, 0, 2)


def test_a_checkpoint_is_released_with_card_and_sums_and_one_that_is_too_large_is_refused(tool, tmp_path, monkeypatch):
    data = write_tiny_dataset(tmp_path / "data")
    run = train(pretrain_config(f"data_paths=[{data}]", f"checkpoint.path={tmp_path / 'run'}", *TINY_ARCH, "epochs=1",
                                "global_batch_size=16", "evaluators=[]", "use_wandb=false"), World())
    shelf = tmp_path / "weights"
    made = tool.release(str(run), "tiny", ["evaluators=[]"], SAID, shelf)
    assert {path.name for path in made.iterdir()} == PARTS
    assert (shelf / "SHA256SUMS").read_text() == tool.sums(shelf) and len(tool.sums(shelf).splitlines()) == len(PARTS)
    facts, card = json.loads((made / "metadata.json").read_text()), (made / "README.md").read_text()
    assert f"after {facts['step']} steps" in card and f"| val/loss | {facts['metrics']['val/loss']:.4g} |" in card
    before = tool.sums(shelf)
    monkeypatch.setattr(tool, "LARGEST", 1000)
    with pytest.raises(ValueError, match=r"config.yaml: .* release it elsewhere"):
        tool.release(str(run), "other", ["evaluators=[]"], SAID, shelf)
    assert tool.sums(shelf) == before and not (shelf / "other").exists()
    monkeypatch.setattr(tool, "LARGEST", 10**9)
    monkeypatch.setattr(tool, "TOGETHER", 1000)
    with pytest.raises(ValueError, match="in all; remove one"):
        tool.refuse_large(tool.files(shelf))
