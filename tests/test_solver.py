"""A checkpoint that answers puzzles of a user: from Python, and by evaluate.py solve=…"""
import csv
import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from config.puzzle_kind import kind_of_checkpoint, with_metadata
from config.restored import Restored
from dataset.common import FIELDS, write_split
from evaluate import evaluate, load_solver
from helpers import ROOT, TINY_ARCH, pretrain_config, run_script, write_tiny_dataset, write_tiny_regression
from pretrain import train
from utils.board_html import board_html
from utils.boards import Look
from utils.distributed import World
from utils.html import tag

QUICK = [*TINY_ARCH, "evaluators=[]", "global_batch_size=16", "epochs=1", "use_wandb=false"]
PUZZLE = "1...3.....4....2"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A run on strings of 6 tokens, with puzzle embeddings, whose data are gone."""
    folder = tmp_path_factory.mktemp("solver")
    write_tiny_dataset(folder / "data")
    run = train(pretrain_config(f"data_paths=[{folder / 'data'}]", f"checkpoint.path={folder / 'run'}",
                                f"log_dir={folder}", *QUICK), World())
    shutil.rmtree(folder / "data")
    return run


@pytest.fixture(scope="module")
def sudoku4(shared):
    return shared / "interop" / "sudoku4"


@pytest.fixture(scope="module")
def solver(sudoku4):
    return load_solver(sudoku4 / "checkpoint", device="cpu")


def test_a_published_checkpoint_alone_solves_puzzles(solver, sudoku4):
    inputs, labels = (np.load(sudoku4 / "test" / f"all__{field}.npy")[:64] for field in ("inputs", "labels"))
    solutions = solver.solve(inputs)
    solved = np.array([np.array_equal(solution.answer_tokens, label) for solution, label in zip(solutions, labels)])
    assert solved.mean() > 0.9  # 98% of all 512
    # every one of these puzzles has one solution, so the rules find the same ones right
    assert [solution.valid for solution in solutions] == solved.tolist()
    assert all(solution.steps == 8 and 0 < solution.confidence < 1 for solution in solutions)
    sure = np.array([solution.confidence for solution in solutions])
    assert solved.all() or sure[solved].mean() > sure[~solved].mean()


def test_answers_are_in_the_characters_of_the_question_and_compared_with_a_given_answer(solver):
    dots, zeros, given = solver.solve([PUZZLE, PUZZLE.replace(".", "0"),
                                       {"question": PUZZLE, "answer": "1234342121434311"}])
    assert dots.answer == zeros.answer == given.answer and dots.valid and dots.right is None and given.right is False
    assert solver.kind.parse(dots.answer).tolist() == dots.answer_tokens.tolist()
    with pytest.raises(ValueError, match="puzzle 1: the line has 3 characters"):
        solver.solve([PUZZLE, "123"])
    assert solver.solve([]) == []


def test_the_number_of_puzzles_in_a_call_changes_no_answer(solver):
    puzzles = [PUZZLE, "0301040000100234", "1" + "0" * 15, "0" * 16, "4..............1"]
    together, alone = solver.solve(puzzles), [solver.solve([puzzle])[0] for puzzle in puzzles]
    assert [one.answer for one in together] == [one.answer for one in alone]
    assert [one.confidence for one in together] == pytest.approx([one.confidence for one in alone], abs=1e-5)


def test_a_trace_ends_with_the_answer(solver):
    trace, solution = solver.trace(PUZZLE), solver.solve([PUZZLE])[0]
    (trajectory,) = trace.trajectories
    assert len(trajectory.preds) == 8 and np.array_equal(trajectory.preds[-1], solution.answer_tokens)
    assert trajectory.q[-1] == pytest.approx(solution.confidence, abs=1e-5)


def test_settings_of_evaluation_are_those_of_a_solver(sudoku4):
    assert load_solver(sudoku4 / "checkpoint", device="cpu", halt_max_steps=3).solve([PUZZLE])[0].steps == 3
    with pytest.raises(ValueError, match="did you mean halt_max_steps"):
        load_solver(sudoku4 / "checkpoint", halt_max_step=3)


def test_puzzles_that_were_not_trained_on_get_the_mean_embedding(tiny):
    mean, blank = load_solver(tiny, device="cpu"), load_solver(tiny, device="cpu", puzzle_identifiers="blank")
    table = next(value for name, value in Restored.read(tiny).weights().items() if name.endswith("puzzle_emb.weights"))
    assert len(table) == 65 and "mean" in mean.embedding and "blank" in blank.embedding
    assert torch.allclose(mean.head.puzzle_embedding.weights[mean.identifier], table.mean(0))
    assert torch.equal(blank.head.puzzle_embedding.weights[blank.identifier], table[0])
    assert mean.solve(["1 2 3 4 1 2"])[0].valid is None  # plain sequences have no rules


def test_a_kind_is_told_by_its_metadata_by_its_name_or_by_its_sizes(sudoku4, tiny, shared):
    def kind(where, name=None):
        restored = with_metadata(Restored.read(where), name)
        found, metadata = kind_of_checkpoint(restored, name, False)
        return str(found), metadata.seq_len

    assert kind(sudoku4 / "checkpoint") == kind(sudoku4 / "checkpoint", "sudoku") == ("Sudoku", 16)
    assert kind(shared / "checkpoints" / "sudoku9-h100-8min") == ("Sudoku", 81)
    assert kind(tiny) == ("Sequence", 6)
    with pytest.raises(ValueError, match="not fit the usual puzzles of the kind maze"):
        kind(sudoku4 / "checkpoint", "maze")
    with pytest.raises(ValueError, match="kind 'sudoku': Sudoku is a square board"):
        kind(tiny, "sudoku")


def test_floats_are_no_puzzles(tmp_path):
    write_tiny_regression(tmp_path / "data")
    run = train(pretrain_config(f"data_paths=[{tmp_path / 'data'}]", f"checkpoint.path={tmp_path / 'run'}",
                                f"log_dir={tmp_path}", "arch.loss.name=losses@ACTRegressionLossHead", *QUICK), World())
    with pytest.raises(ValueError, match="only models of puzzles"):
        load_solver(run)
    with pytest.raises(ValueError, match="eval_save_outputs"):
        evaluate(checkpoint=run, predictions=str(tmp_path / "a.csv"))


class Balanced(HTMLParser):
    """Checks that elements close, and collects their names and texts."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.names, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, name, attributes):
        self.open.append(name)
        self.names.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, text):
        self.texts.append(text)


def test_a_notebook_shows_boards(solver):
    solutions = solver.solve([PUZZLE] * 2)
    shown = Balanced(solutions._repr_html_())
    assert shown.names.count("svg") == 4 and "script" not in shown.names and "obeys the rules" in shown.texts[-1]
    digits = [text for text in Balanced(solutions[0]._repr_html_()).texts if text in "1234"]
    assert "".join(digits) == PUZZLE.replace(".", "") + solutions[0].answer
    maze = Look((1, 3), ["padding", "wall", "free"], ["#ffffff", "#3b3b3b", "#f2f2f2"], as_text=False)
    drawn = Balanced(board_html(np.array([1, 2, 1]), maze, "maze"))
    assert drawn.names.count("path") == 2 and "maze: wall free wall" in drawn.texts
    named = Look((1, 1), ["<b>&"], ["#ffffff"], as_text=True)
    assert "<b>" not in board_html(np.array([0]), named, '"') and tag("p", "<i>", title='"') == \
        '<p title="&quot;">&lt;i&gt;</p>'


def solve(checkpoint, *words, cwd, **more):
    return run_script("evaluate.py", f"checkpoint={checkpoint}", "device=cpu", f"output_dir={cwd / 'out'}", *words,
                      cwd=cwd, **more)


def test_a_file_of_puzzles_becomes_a_file_of_answers(sudoku4, tmp_path):
    (tmp_path / "mine.csv").write_text(
        f"question,answer\n{PUZZLE},1234342121434312\n123\x1b[31m,\n{PUZZLE.replace('.', '0')},\n")
    done = solve(sudoku4 / "checkpoint", "solve=mine.csv", cwd=tmp_path)
    assert done.returncode == 1 and "not solved: mine.csv, line 3: the line has 8 characters" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr and "val/exact_accuracy" in done.stdout
    with open(tmp_path / "answers.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["question"] for row in rows] == [PUZZLE, PUZZLE.replace(".", "0")]
    assert [row["valid"] for row in rows] == ["true"] * 2 and [row["right"] for row in rows] == ["true", ""]
    assert rows[0]["answer"] == "1234342121434312" and float(rows[0]["confidence"]) > 0.9 and rows[0]["steps"] == "8"
    again = solve(sudoku4 / "checkpoint", "solve=mine.csv", cwd=tmp_path)
    assert again.returncode == 2 and "answers.csv exists already" in again.stderr
    other = solve(sudoku4 / "checkpoint", "solve=mine.csv", "predictions=b.jsonl", "halt_max_steps=2", cwd=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert other.returncode == 1 and [line["steps"] for line in lines] == [2, 2] and "right" not in lines[1]


@pytest.mark.parametrize("typed", [PUZZLE, "1000300000400002", "0000300000400002", "1234.23412341234",
                                   "12342341234.2341"])
def test_a_puzzle_is_solved_as_it_is_typed(typed, sudoku4, tmp_path):
    """Hydra would take some of these for numbers."""
    done = solve(sudoku4 / "checkpoint", f"solve={typed}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"\n{typed}\n" in done.stdout and not (tmp_path / "answers.csv").exists()


def test_standard_input_is_solved(sudoku4, tmp_path):
    done = subprocess.run([sys.executable, str(ROOT / "evaluate.py"), f"checkpoint={sudoku4 / 'checkpoint'}", "solve=-",
                           f"output_dir={tmp_path}", "device=cpu"], input=f"{PUZZLE}\n\n12\n", text=True, cwd=tmp_path,
                          capture_output=True, timeout=120, check=False)
    assert done.returncode == 1 and PUZZLE in done.stdout and "standard input, line 3: " in done.stderr


def test_several_processes_give_the_answers_of_one(sudoku4, tmp_path):
    (tmp_path / "mine.txt").write_text("\n".join([PUZZLE, "0" * 16, "0301040000100234"]))
    for ranks, name in ((1, "one.csv"), (2, "two.csv")):
        done = solve(sudoku4 / "checkpoint", "solve=mine.txt", f"predictions={name}", "global_batch_size=2",
                     cwd=tmp_path, ranks=ranks)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "one.csv").read_text() == (tmp_path / "two.csv").read_text()


def test_the_answers_to_a_data_set_are_written(sudoku4, tmp_path):
    file = tmp_path / "all.csv"
    data = tmp_path / "data"  # the first 32 puzzles
    arrays = {field: np.load(sudoku4 / "test" / f"all__{field}.npy") for field in FIELDS}
    arrays = {field: array[:33 if field.endswith("indices") else 32] for field, array in arrays.items()}
    write_split(data / "test", arrays, 6)
    metrics = evaluate(checkpoint=str(sudoku4 / "checkpoint"), data_paths=[str(data)], device="cpu",
                       output_dir=str(tmp_path / "out"), predictions=str(file))
    with open(file, newline="") as answers:
        rows = list(csv.DictReader(answers))
    assert len(rows) == 32 and np.mean([row["right"] == "true" for row in rows]) == metrics["val/exact_accuracy"]
    with pytest.raises(ValueError, match="exists already"):
        evaluate(checkpoint=str(sudoku4 / "checkpoint"), data_paths=[str(data)], predictions=str(file))
    with pytest.raises(ValueError, match=r"must end in \.csv or \.jsonl"):
        evaluate(checkpoint=str(sudoku4 / "checkpoint"), data_paths=[str(data)], predictions="a.txt")
    with pytest.raises(ValueError, match="solve= is empty"):
        evaluate(checkpoint=str(sudoku4 / "checkpoint"), solve="")
    with pytest.raises(ValueError, match="data_paths has no effect"):
        evaluate(checkpoint=str(sudoku4 / "checkpoint"), data_paths=[str(data)], solve=PUZZLE)


def test_own_files_of_the_run_stay(tiny, tmp_path):
    before = (tiny / "best.ckpt").read_bytes()
    metrics = evaluate(checkpoint=tiny, solve="1 2 3", device="cpu")
    assert (tiny / "solved" / "metrics.json").is_file() and "solve/unread" not in metrics
    assert (tiny / "best.ckpt").read_bytes() == before


@pytest.mark.parametrize("settings", [
    {"trajectories": 2, "noise": 0.3, "noise_on": "z_L", "select": "vote"}, {"augment": 3, "select": "residual"},
    {"early_exit": True, "patience": 2}, {"until": "valid", "budget": 3, "noise": 0.3, "noise_on": "z_H"},
    {"steps": 12, "init": "random", "trajectories": 2, "select": "valid"}, {"per_step": True},
    {"trajectories": 2, "noise": 0.2, "noise_on": "z_L", "curve": True}])
def test_settings_of_test_time_compute_work_on_own_puzzles(settings, sudoku4, tmp_path):
    (tmp_path / "a.txt").write_text(f"{PUZZLE}\n0301040000100234\n")
    file = tmp_path / "answers.csv"
    evaluate(checkpoint=sudoku4 / "checkpoint", solve=str(tmp_path / "a.txt"), device="cpu", predictions=str(file),
             output_dir=str(tmp_path / "out"), **settings)
    assert len(file.read_text().splitlines()) == 3
    if "curve" not in settings and "per_step" not in settings:
        (solution,) = load_solver(sudoku4 / "checkpoint", device="cpu", **settings).solve([PUZZLE])
        with open(file, newline="") as lines:
            first = next(csv.DictReader(lines))
        assert (first["answer"], int(first["steps"])) == (solution.answer, solution.steps)
