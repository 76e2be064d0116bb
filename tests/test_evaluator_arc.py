"""ARC answers against recorded votes and a plain count of grids; real processes; the gallery in a real browser."""
import csv
import json
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from dataset import build_arc_dataset
from dataset.arc import (
    COLOURS,
    FIRST_COLOUR,
    SIDE,
    VOCAB_SIZE,
    augment,
    augmentation_name,
    decode_grid,
    encode_grid,
    invert_augmentation,
    parse_augmentation,
)
from dataset.common import PuzzleDatasetMetadata
from dataset.puzzle_dataset import load_metadata
from evaluate import score
from evaluators.arc import ARC, NO_PREDICTION
from evaluators.arc_gallery import PALETTE, write_gallery
from evaluators.arc_votes import ORIGINAL, Answer, Attempt, grid_hashes, restored
from evaluators.loop import evaluate
from evaluators.test_time import build_strategy
from helpers import (
    ROOT,
    TINY_ARCH,
    evaluate_config,
    metric_lines,
    pretrain_config,
    random_arc_task,
    run_process,
    run_script,
    tiny_test_data,
    undecided_head,
    write_arc_source,
)
from pretrain import train
from utils.checkpoint import find_checkpoint
from utils.distributed import World

METADATA = PuzzleDatasetMetadata(pad_id=0, ignore_label_id=0, blank_identifier_id=0, vocab_size=VOCAB_SIZE,
                                 seq_len=SIDE * SIDE, num_puzzle_identifiers=1, total_groups=1, mean_puzzle_examples=1,
                                 total_puzzles=1, sets=["all"])
FILES = ("submission.json", "arc_tasks.csv", "gallery.html")
Batch = dict[str, torch.Tensor]


def random_grid(random: np.random.Generator, high: int = 8) -> list[list[int]]:
    return random.integers(0, COLOURS, random.integers(1, high, 2)).tolist()


def draw_augmentation(random: np.random.Generator) -> tuple[int, np.ndarray]:
    return int(random.integers(8)), random.permutation(COLOURS)


def write_tasks(folder: Path, tests: dict[str, int], augmentations: int = 6, seed: int = 0) -> Path:
    """test_puzzles.json and identifiers.json of random tasks: name and number of test inputs."""
    random = np.random.default_rng(seed)
    puzzles = {task: random_arc_task(random, tests=count, high=7) for task, count in tests.items()}
    names = ["<blank>", "training1"]
    for task in tests:
        names += [task, *(augmentation_name(task, *draw_augmentation(random)) for _ in range(augmentations))]
    folder.mkdir()
    (folder / "test_puzzles.json").write_text(json.dumps(puzzles))
    (folder / "identifiers.json").write_text(json.dumps([*names, "training1|||t3|||0123456789"]))
    return folder


def predictions(folder: Path, seed: int = 0, q_values: int = 4, skip: tuple[str, ...] = (), noise: float = 0.1
                ) -> Batch:
    """A prediction for each test input of each puzzle: often the truth or a common mistake, few distinct q."""
    random = np.random.default_rng((seed, 1))
    puzzles, names = (json.loads((folder / f"{name}.json").read_text()) for name in ("test_puzzles", "identifiers"))
    mistakes = {(task, i): random_grid(random) for task, puzzle in puzzles.items() for i in range(len(puzzle["test"]))}
    rows = []
    for identifier, name in enumerate(names[1:], start=1):
        task, *augmentation = parse_augmentation(name)
        if task not in puzzles or task in skip:
            continue
        for i, pair in enumerate(puzzles[task]["test"]):
            answer = [pair["output"], mistakes[task, i], random_grid(random)][random.choice(3, p=[0.35, 0.4, 0.25])]
            question, answer = (encode_grid(augment(np.array(grid), *augmentation)) for grid in (pair["input"], answer))
            if random.random() < noise:
                answer = random.integers(0, VOCAB_SIZE, SIDE * SIDE)  # no grid at all, or a small one
            rows.append((question, answer, identifier, float(random.integers(-q_values, q_values + 1))))
    inputs, preds, identifiers, q = zip(*[rows[i] for i in random.permutation(len(rows))])
    return {"inputs": torch.from_numpy(np.array(inputs).astype(np.int32)),
            "preds": torch.from_numpy(np.array(preds).astype(np.int32)),
            "puzzle_identifiers": torch.tensor(identifiers, dtype=torch.int32), "q_halt_logits": torch.tensor(q)}


def split(batch: Batch, size: int) -> list[Batch]:
    return [dict(zip(batch, parts)) for parts in zip(*(value.split(size) for value in batch.values()))]


def feed(evaluator: ARC, batches: list[Batch]) -> None:
    evaluator.begin_eval()
    for batch in batches:
        evaluator.update_batch({name: batch[name] for name in ("inputs", "puzzle_identifiers")},
                               {name: batch[name] for name in ("preds", "q_halt_logits")})


def evaluated(folder: Path, batches: list[Batch], out: Path | None = None, **options) -> dict[str, float]:
    evaluator = ARC(str(folder), METADATA, **options)
    feed(evaluator, batches)
    return evaluator.result(out, 0, 1, None)


def table(out: Path) -> list[dict[str, str]]:
    with open(out / "arc_tasks.csv") as f:
        return list(csv.DictReader(f))


TASKS = {"aaa": 1, "bbb": 2, "ccc": 1, "ddd": 3, "eee": 1}


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_tasks(tmp_path / "data", TASKS)


def counted(folder: Path, batch: Batch) -> dict[tuple, list[tuple]]:
    """(votes, mean q, grid) of the candidates for each (task, input), one prediction after the other; best first."""
    names, votes = json.loads((folder / "identifiers.json").read_text()), {}
    for tokens, pred, identifier, logit in zip(*(batch[name].numpy() for name in (
            "inputs", "preds", "puzzle_identifiers", "q_halt_logits"))):
        task, *augmentation = parse_augmentation(names[identifier])
        question, answer = (str(invert_augmentation(decode_grid(x), *augmentation).tolist()) for x in (tokens, pred))
        votes.setdefault((task, question), {}).setdefault(answer, []).append(1 / (1 + np.exp(-np.float64(logit))))
    return {question: sorted(((len(q), float(np.mean(q)), answer) for answer, q in answers.items() if answer != "[]"),
                             reverse=True)
            for question, answers in votes.items()}


@pytest.mark.parametrize("most", [0, 3, 6, 99])
def test_so_many_augmentations_vote_beside_the_task_itself(folder, tmp_path, most):
    batch, names = predictions(folder, noise=0), json.loads((folder / "identifiers.json").read_text())
    seven = 7  # each task and its six augmentations, in the order of identifiers.json
    voters = torch.tensor([(identifier - 2) % seven <= most for identifier in batch["puzzle_identifiers"].tolist()])
    assert names[2:2 + seven * len(TASKS):seven] == list(TASKS)
    metrics = evaluated(folder, split(batch, 9), tmp_path / "some", voting_augmentations=most)
    kept = {name: value[voters] for name, value in batch.items()}
    assert metrics == evaluated(folder, split(kept, 9), tmp_path / "all")
    assert table(tmp_path / "some") == table(tmp_path / "all")
    assert {line["votes"] for line in table(tmp_path / "some")} == {str(min(most, 6) + 1)}
    if most >= 6:
        assert metrics == evaluated(folder, [batch])


@pytest.mark.parametrize("seed", range(8))
def test_votes_are_those_of_a_plain_count(tmp_path, seed):
    folder = write_tasks(tmp_path / "data", TASKS, augmentations=12, seed=seed)
    batch = predictions(folder, seed, q_values=10**6)
    batch["q_halt_logits"] = batch["q_halt_logits"] / 3e5  # so that no two candidates are equal
    metrics = evaluated(folder, split(batch, 7), tmp_path / "out", pass_Ks=[1, 2, 3, 50])
    plain, solved = counted(folder, batch), {K: [] for K in (1, 2, 3, 50)}
    lines, submission = iter(table(tmp_path / "out")), json.loads((tmp_path / "out" / "submission.json").read_text())
    for task, puzzle in json.loads((folder / "test_puzzles.json").read_text()).items():
        ranks = []
        for i, pair in enumerate(puzzle["test"]):
            candidates = plain[task, str(pair["input"])]
            answers, line = [answer for *_, answer in candidates], next(lines)
            rank = answers.index(str(pair["output"])) + 1 if str(pair["output"]) in answers else None
            assert (line["task"], line["test_input"], line["votes"], line["candidates"], line["truth_rank"]) == (
                task, str(i), str(sum(votes for votes, *_ in candidates)), str(len(candidates)), str(rank or ""))
            assert line["solved"] == str(int(rank is not None and rank <= 2))
            attempts = [str(submission[task][i][f"attempt_{n}"]) for n in (1, 2)]
            assert "[]" not in attempts
            assert attempts == (answers + answers[:1])[:2]
            ranks.append(rank or np.inf)
        for K, rates in solved.items():
            rates.append(np.mean([rank <= K for rank in ranks]))
    assert metrics == pytest.approx({f"pass@{K}": np.mean(rates) for K, rates in solved.items()}
                                    | {"accuracy": np.mean(solved[2])})


def test_metrics_and_submission_are_the_recorded_ones(shared, tmp_path):
    folder = shared / "interop"
    with np.load(folder / "arc-votes.npz") as recorded:
        meta = json.loads(str(recorded["meta"]))
        batches = [{name: torch.from_numpy(recorded[f"b{i}/{name}"]) for name in (
            "inputs", "puzzle_identifiers", "preds", "q_halt_logits")} for i in range(3)]  # padding rows included
    evaluator = ARC(str(folder / "arc-small"), load_metadata(folder / "arc-small", "test"))
    feed(evaluator, batches)
    metrics = evaluator.result(tmp_path, 0, 1, None)
    assert {f"ARC/{name}": value for name, value in metrics.items() if name != "accuracy"} == meta["metrics"]
    assert metrics["accuracy"] == metrics["pass@2"] and not (tmp_path / "gallery.html").exists()
    submission, without_grid = json.loads((tmp_path / "submission.json").read_text()), 0
    for task, tests in meta["submission"].items():
        for recorded, test in zip(tests, submission[task], strict=True):
            grids = [grid for grid in recorded.values() if grid]  # theirs has [] for an answer
            assert list(test.values())[:len(grids)] == grids and all(test.values())
            without_grid += 2 - len(grids)
    assert without_grid == 2 and submission.keys() == meta["submission"].keys()


# Hashes

def tokens_and_values(grids: list[np.ndarray], augmentations: list[tuple[int, np.ndarray]]):
    tokens = np.array([encode_grid(augment(grid, *augmentation)) for grid, augmentation in zip(grids, augmentations)])
    transforms, permutations = zip(*augmentations)
    values = np.zeros((len(grids), VOCAB_SIZE), np.uint8)
    values[:, FIRST_COLOUR:] = np.argsort(permutations, axis=1) + 1
    return tokens, np.array(transforms), values


def test_a_grid_has_one_hash_under_every_augmentation_and_is_restored_from_each():
    random = np.random.default_rng(0)
    grids = [np.array(random_grid(random, SIDE + 1), np.uint8) for _ in range(64)]
    originals = grid_hashes(np.array([encode_grid(g) for g in grids]), np.zeros(64, int), np.tile(ORIGINAL, (64, 1)))
    assert len(set(originals.tolist())) == len({str(grid.tolist()) for grid in grids})
    for transform in range(8):
        augmented = tokens_and_values(grids, [(transform, random.permutation(COLOURS)) for _ in grids])
        np.testing.assert_array_equal(grid_hashes(*augmented), originals)
        for grid, row in zip(grids, zip(*augmented)):
            np.testing.assert_array_equal(restored(*row), encode_grid(grid))


def test_different_grids_have_different_hashes():
    grids = [np.full(shape, colour) for shape in np.ndindex(31, 31) if min(shape) for colour in range(COLOURS)]
    base = np.full((30, 30), 4)
    for cell in np.ndindex(base.shape):
        changed = base.copy()
        changed[cell] = 5
        grids.append(changed)
    for period in range(1, 6):  # stripes and boards, whose differences cancel in weaker sums
        y, x = np.indices((16, 16)) // period
        grids += [v % 2 for v in (y, x, x + y)] + [(v + 1) % 2 for v in (y, x, x + y)]
    grids += [np.array(bits).reshape(3, 4) for bits in np.ndindex(*[2] * 12)][1:-1]
    tokens = np.array([encode_grid(np.array(grid)) for grid in grids])
    hashes = grid_hashes(tokens, np.zeros(len(grids), int), np.tile(ORIGINAL, (len(grids), 1)))
    distinct = {row.tobytes() for row in tokens}
    assert len(distinct) > 14_000 and len(set(hashes.tolist())) == len(distinct) and 0 not in hashes


# What does not change the result, and what does

def test_the_order_of_predictions_and_batches_changes_nothing(folder, tmp_path):
    batch = predictions(folder, q_values=1)  # full of equal candidates
    expected = evaluated(folder, [batch], tmp_path / "a", gallery=5)
    shuffled = {name: value.flip(0) for name, value in batch.items()}
    assert evaluated(folder, split(shuffled, 3), tmp_path / "b", gallery=5) == expected
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_distinct_grid_is_kept_once(folder):
    evaluator = ARC(str(folder), METADATA)
    batch = predictions(folder)
    feed(evaluator, split(batch, 4) * 3)
    kept = sum(len(tokens) for _, _, tokens, *_ in evaluator.votes.candidates)
    assert kept == sum(map(len, counted(folder, batch).values())) < len(batch["preds"])


def test_votes_end_with_their_evaluation_unless_they_are_aggregated(folder):
    first, second = predictions(folder, 1), predictions(folder, 2)
    evaluator, aggregating = ARC(str(folder), METADATA), ARC(str(folder), METADATA, aggregated_voting=True)
    for batch in (first, second):
        feed(evaluator, [batch])
        feed(aggregating, [batch])
    assert evaluator.result(None, 0, 1, None) == evaluated(folder, [second])
    both = evaluated(folder, [first, second])
    assert aggregating.result(None, 0, 1, None) == {f"aggregated_{name}": value for name, value in both.items()}


def test_test_inputs_that_are_equal_share_their_votes(folder, tmp_path):
    puzzles = json.loads((folder / "test_puzzles.json").read_text())
    puzzles["bbb"]["test"][1] = puzzles["bbb"]["test"][0]
    puzzles["ccc"]["test"][0]["input"] = puzzles["aaa"]["test"][0]["input"]  # of another task: apart
    (folder / "test_puzzles.json").write_text(json.dumps(puzzles))
    evaluated(folder, [predictions(folder, noise=0)], tmp_path / "out")
    votes = [int(line["votes"]) for line in table(tmp_path / "out")]
    assert votes == [7, 14, 14, 7, 7, 7, 7, 7]


def test_every_test_input_is_submitted(folder, tmp_path):
    metrics = evaluated(folder, [predictions(folder, skip=("aaa", "ddd"))], tmp_path / "out", submission_K=3, gallery=9)
    submission = json.loads((tmp_path / "out" / "submission.json").read_text())
    assert {task: len(tests) for task, tests in submission.items()} == TASKS
    assert all(list(test) == ["attempt_1", "attempt_2", "attempt_3"] for tests in submission.values() for test in tests)
    assert submission["aaa"] == [dict.fromkeys(["attempt_1", "attempt_2", "attempt_3"], NO_PREDICTION)]
    assert metrics["accuracy"] <= 3 / 5 and "no prediction" in (tmp_path / "out" / "gallery.html").read_text()


def test_a_prediction_without_a_grid_is_no_attempt(folder, tmp_path):
    batch = predictions(folder, noise=0)
    batch["preds"][batch["puzzle_identifiers"] % 7 != 2, 0] = 1  # all but the tasks' own begin with no colour
    metrics = evaluated(folder, [batch], tmp_path / "out")
    kept = {name: value[batch["puzzle_identifiers"] % 7 == 2] for name, value in batch.items()}
    assert metrics == evaluated(folder, [kept], tmp_path / "kept") and metrics["pass@1"] > 0
    for name in FILES[:2]:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "kept" / name).read_bytes()
    batch["preds"][:, 0] = 0
    evaluator = ARC(str(folder), METADATA)
    feed(evaluator, [batch])
    assert set(evaluator.result(tmp_path / "none", 0, 1, None).values()) == {0}
    assert "test inputs got no valid grid from the model; submission.json has a stand-in" in evaluator.told[-1]
    submission = json.loads((tmp_path / "none" / "submission.json").read_text())
    assert all(test == {"attempt_1": NO_PREDICTION, "attempt_2": NO_PREDICTION} for tests in submission.values()
               for test in tests)


def without_answers(folder: Path, *tasks: str) -> None:
    puzzles = json.loads((folder / "test_puzzles.json").read_text())
    for task in tasks:
        for test in puzzles[task]["test"]:
            del test["output"]
    (folder / "test_puzzles.json").write_text(json.dumps(puzzles))


def test_what_has_no_solution_is_submitted_and_not_scored(folder, tmp_path):
    batch = predictions(folder)
    evaluated(folder, [batch], tmp_path / "known")
    whole = table(tmp_path / "known")
    without_answers(folder, "aaa", "ddd")
    evaluator = ARC(str(folder), METADATA, gallery=9)
    assert evaluator.notices == [f"{folder} has no solutions to 4 of its 8 test inputs, which are submitted and not "
                                 "scored; pass@K is of the others"]
    feed(evaluator, [batch])
    metrics = evaluator.result(tmp_path / "some", 0, 1, None)
    by_task = {task: np.mean([line["solved"] == "1" for line in whole if line["task"] == task])
               for task in ("bbb", "ccc", "eee")}
    assert metrics["accuracy"] == pytest.approx(np.mean(list(by_task.values())))
    for line, known in zip(table(tmp_path / "some"), whole, strict=True):
        hidden = dict.fromkeys(("truth_rank", "truth_votes", "solved"), "") if line["task"] in ("aaa", "ddd") else {}
        assert line == known | hidden
    page = (tmp_path / "some" / "gallery.html").read_text()
    assert page.count("no solution known") == 2 and page.count(">not known<") == 4

    without_answers(folder, "bbb", "ccc", "eee")
    evaluator = ARC(str(folder), METADATA, gallery=9)
    assert evaluator.notices[0].endswith("no pass@K is reported")
    feed(evaluator, [batch])
    assert evaluator.result(tmp_path / "none", 0, 1, None) == {}
    for file in ("known", "some", "none"):
        assert (tmp_path / file / "submission.json").read_text() == (tmp_path / "known" / "submission.json").read_text()


def test_the_stand_ins_of_the_published_builder_are_no_solutions(folder):
    puzzles = json.loads((folder / "test_puzzles.json").read_text())
    for puzzle in puzzles.values():
        for test in puzzle["test"]:
            test["output"] = [[0]]
    (folder / "test_puzzles.json").write_text(json.dumps(puzzles))
    evaluator = ARC(str(folder), METADATA)
    assert "each answer is a single black cell" in evaluator.notices[0]
    feed(evaluator, [predictions(folder)])
    assert evaluator.result(None, 0, 1, None) == {}
    puzzles["ccc"]["test"][0]["output"] = [[1]]
    (folder / "test_puzzles.json").write_text(json.dumps(puzzles))
    assert ARC(str(folder), METADATA).notices == []


def test_files_are_written_where_a_str_or_a_path_says(folder, tmp_path):
    """Published evaluators are given a str."""
    for path in (tmp_path / "path", str(tmp_path / "str")):
        evaluator = ARC(str(folder), METADATA)
        feed(evaluator, [predictions(folder)])
        evaluator.result(path, 0, 1, None)
    assert (tmp_path / "path" / "submission.json").read_text() == (tmp_path / "str" / "submission.json").read_text()


def test_an_evaluation_without_a_prediction_scores_nothing(folder):
    assert set(evaluated(folder, []).values()) == {0}


TWO = """
import json, sys, torch
from pathlib import Path
from test_evaluator_arc import METADATA, feed
from evaluators.arc import ARC
from utils.distributed import joined_world
with joined_world("cpu") as world:
    evaluator = ARC("data", METADATA, gallery=3)
    batches = torch.load("batches.pt")
    feed(evaluator, batches[world.rank::2] if batches else [])
    metrics = evaluator.result(Path("two"), world.rank, world.size, None)
    assert (metrics is None) == (world.rank == 1)
    if metrics:
        Path("metrics.json").write_text(json.dumps(metrics))
"""


def test_two_processes_find_what_one_does(folder, tmp_path):
    (tmp_path / "script.py").write_text(TWO)
    batches = split(predictions(folder, q_values=1), 9)
    torch.save(batches, tmp_path / "batches.pt")
    alone = evaluated(folder, batches, tmp_path / "one", gallery=3)
    done = run_process([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
                        "script.py"], tmp_path, PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "metrics.json").read_text()) == alone
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_run_is_scored_as_it_trained_by_two_processes(tmp_path):
    """From tasks to a submission, evaluators as by default."""
    random = np.random.default_rng(0)
    tasks = {f"task{i}": random_arc_task(random, tests=tests) for i, tests in enumerate((1, 2, 1))}
    prefix = write_arc_source(tmp_path / "source", {"all": tasks})
    build_arc_dataset.main(["--input-file-prefix", prefix, "--output-dir", str(tmp_path / "data"), "--subsets", "all",
                            "--test-set-name", "all", "--num-aug", "3", "--num-workers", "1"])
    run_dir = train(pretrain_config(
        *TINY_ARCH, f"data_paths=[{tmp_path / 'data'}]", f"checkpoint.path={tmp_path / 'run'}", "global_batch_size=6",
        "epochs=1", "lr=1e-3", "lr_warmup_steps=0", "use_wandb=false", f"log_dir={tmp_path}"), World())
    logged = {name: value for name, value in metric_lines(run_dir)[-1].items() if name.startswith("eval/")}
    assert list(logged) == [*(f"eval/arc/pass@{K}" for K in (1, 2, 5, 10, 100, 1000)), "eval/arc/accuracy"]
    trained, = run_dir.glob("evaluation_step_*")
    done = run_script("evaluate.py", f"checkpoint={run_dir}", "output_dir=out", "global_batch_size=10",
                      "evaluators=[{name: arc@ARC, gallery: 2}]", cwd=tmp_path, ranks=2, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    assert json.loads((out / "metrics.json").read_text()).items() >= logged.items()
    for name in ("submission.json", "arc_tasks.csv"):
        assert (out / name).read_bytes() == (trained / name).read_bytes()
    assert [line["votes"] for line in table(out)] == ["4"] * 4 and (out / "gallery.html").is_file()
    submitted = json.loads((trained / "submission.json").read_text()).values()
    assert any(test["attempt_1"] for tests in submitted for test in tests)  # what it predicts are grids


def test_of_several_trajectories_the_surest_one_of_each_augmentation_votes(tmp_path):
    """PTRM's way: best q within an augmentation, then votes. By hand: the surest of the attempts that were seen."""
    random = np.random.default_rng(0)
    tasks = {f"task{i}": random_arc_task(random, tests=tests) for i, tests in enumerate((1, 2))}
    prefix = write_arc_source(tmp_path / "source", {"all": tasks})
    build_arc_dataset.main(["--input-file-prefix", prefix, "--output-dir", str(tmp_path / "data"), "--subsets", "all",
                            "--test-set-name", "all", "--num-aug", "2", "--num-workers", "1"])
    data = tiny_test_data(tmp_path / "data", 4)
    folder, size = str(tmp_path / "data"), {"seq_len": SIDE * SIDE, "vocab_size": VOCAB_SIZE, "halt_max_steps": 2}
    head = undecided_head(num_puzzle_identifiers=data.metadata.num_puzzle_identifiers, **size)
    strategy, seen = build_strategy(trajectories=3, noise=1.0, noise_on="z_L"), {}
    strategy.watch = lambda rows: seen.update({(n, a): (rows.data["inputs"][i], rows.data["puzzle_identifiers"][i],
                                                        rows.outputs["preds"][i], rows.score[i])
                                               for i, (n, a) in enumerate(zip(rows.numbers, rows.attempts))})
    metrics = evaluate(head, data, World(), {"eval/arc": (folder, ARC(folder, data.metadata))},
                       save_path=tmp_path / "out", strategy=strategy)
    best = [max((seen[number, attempt] for attempt in range(3)), key=lambda one: one[3])
            for number in range(data.num_examples)]
    inputs, identifiers, preds, q = zip(*best)
    assert any(one is not seen[number, 0] for number, one in enumerate(best))
    batch = {"inputs": torch.stack(inputs), "puzzle_identifiers": torch.stack(identifiers),
             "preds": torch.stack(preds), "q_halt_logits": torch.tensor(q)}
    (tmp_path / "by_hand").mkdir()
    by_hand = ARC(folder, data.metadata)
    feed(by_hand, [batch])
    counted_by_hand = by_hand.result(tmp_path / "by_hand", 0, 1, None)
    assert counted_by_hand == {name: metrics[f"eval/arc/{name}"] for name in by_hand.names()}
    for name in ("submission.json", "arc_tasks.csv"):
        assert (tmp_path / "by_hand" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    with pytest.raises(ValueError, match="augment: an ARC model knows a task by its puzzle embedding"):
        build_strategy(augment=2).prepare(head, data)


def test_a_run_without_solutions_keeps_the_newest_checkpoint(tmp_path, capsys):
    random = np.random.default_rng(0)
    prefix = write_arc_source(tmp_path / "source", {name: {f"{name}{i}": random_arc_task(random) for i in range(2)}
                                                    for name in ("known", "secret")})
    Path(f"{prefix}_secret_solutions.json").unlink()
    build_arc_dataset.main(["--input-file-prefix", prefix, "--output-dir", str(tmp_path / "data"), "--subsets", "known",
                            "secret", "--test-set-name", "secret", "--num-aug", "1", "--num-workers", "1"])
    run_dir = train(pretrain_config(
        *TINY_ARCH, f"data_paths=[{tmp_path / 'data'}]", f"checkpoint.path={tmp_path / 'run'}", "global_batch_size=4",
        "epochs=4", "eval_interval=2", "lr=1e-3", "lr_warmup_steps=0", "use_wandb=false", f"log_dir={tmp_path}"),
        World())
    told = capsys.readouterr().out
    assert told.count("has no solutions: its test set all has no labels, so val/… is not reported") == 1
    assert told.count("has no solutions to 2 of its 2 test inputs") == 1 and "val_loss=NA" in told
    assert not any(name.startswith(("val/", "eval/")) for line in metric_lines(run_dir) for name in line)
    assert not (run_dir / "best.ckpt").exists() and (run_dir / "train_vs_val_loss.png").is_file()
    assert find_checkpoint(run_dir) == run_dir / (run_dir / "latest.txt").read_text().strip()
    assert len(list(run_dir.glob("evaluation_step_*/submission.json"))) == 2
    assert score(evaluate_config(f"checkpoint={run_dir}"), World()) == {}
    assert json.loads((run_dir / "evaluation" / "submission.json").read_text()).keys() == {"secret0", "secret1"}


# What is refused

@pytest.mark.parametrize("missing", ["identifiers.json", "test_puzzles.json"])
def test_a_data_set_that_is_not_arc_is_refused_at_the_start(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(ValueError, match=f"arc@ARC scores ARC data sets only, and .*{missing} is missing; use eval"):
        ARC(str(folder), METADATA)


def test_what_does_not_fit_is_named(folder):
    with pytest.raises(ValueError, match="ARC has 900 cells and 12 tokens, this data set 81 and 12"):
        ARC(str(folder), METADATA.model_copy(update={"seq_len": 81}))
    with pytest.raises(ValueError, match="unknown key evaluators.arc@ARC.galery; did you mean evaluators.arc@ARC.gall"):
        ARC(str(folder), METADATA, galery=3)
    with pytest.raises(ValueError, match="^evaluators.arc@ARC.submission_K=0: "):
        ARC(str(folder), METADATA, submission_K=0)
    batch = predictions(folder)
    batch["inputs"][3, 0] = FIRST_COLOUR + (batch["inputs"][3, 0] - FIRST_COLOUR + 1) % COLOURS
    with pytest.raises(ValueError, match="data: the test split has inputs that are not in test_puzzles.json"):
        evaluated(folder, [batch])


# The gallery

def test_the_gallery_shows_tasks_attempts_and_votes_and_loads_nothing(folder, tmp_path):
    evaluated(folder, [predictions(folder)], tmp_path, gallery=4)
    page, lines = (tmp_path / "gallery.html").read_text(), table(tmp_path)
    assert [task for task in TASKS if f"<h2>{task}</h2>" in page] == list(TASKS)[:4]
    assert not re.search(r"https?:|src=|@import|url\(|<script|<link", page)
    shown = [line for line in lines if line["task"] != "eee"]
    right = sum(line["solved"] == "1" for line in shown)
    assert page.count('<figure class="right">') == right > 0
    assert page.count("Demonstrations") == 4 and page.count(">Truth<") == len(shown) == 7
    for line in shown:
        told = f"candidate <b>{line['truth_rank']}</b> of {line['candidates']}, {line['truth_votes']} vote" \
            if line["truth_rank"] else "nobody voted for it"
        assert told in page
    grids = json.loads((tmp_path / "submission.json").read_text())["aaa"][0]["attempt_1"]
    cells = {(x, y): colour for y, row in enumerate(grids) for x, colour in enumerate(row)}
    drawing = re.search(r"Attempt 1.*?(<svg.*?</svg>)", page)[1]
    drawn = {(int(x) // 10, int(y) // 10): int(colour)
             for colour, path in re.findall(r'class="c(\d)" d="([^"]*)"', drawing)
             for x, y in re.findall(r"M(\d+) (\d+)h", path)}
    assert drawn == cells


@pytest.mark.parametrize("cell", ['0"/><script>alert(1)</script>', "1", 1.0, True, 10, -1, [1], None])
def test_what_is_no_colour_is_refused_before_anything_is_written(folder, cell):
    for place in ("train", "test"):
        file = folder / "test_puzzles.json"
        tasks = json.loads(whole := file.read_text())
        tasks["bbb"][place][-1]["input"][0][0] = cell
        file.write_text(json.dumps(tasks))
        with pytest.raises(ValueError, match=f"test_puzzles.json, task bbb, {place} input .: the grid holds "):
            ARC(str(folder), METADATA)
        file.write_text(whole)


@pytest.mark.parametrize("name, content, message", [
    ("test_puzzles.json", "[" * 100_000, "test_puzzles.json is not JSON"), ("test_puzzles.json", "[1]", "does not map"),
    ("test_puzzles.json", '{"a": {"train": 3}}', "task a: expected a list of pairs"),
    ("identifiers.json", "{}", "no list of names"), ("identifiers.json", '["<blank>", 3]', "no list of names")])
def test_files_of_another_kind_are_one_message(folder, name, content, message):
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        ARC(str(folder), METADATA)


def test_names_of_tasks_are_text_on_the_page_and_in_the_table(tmp_path):
    names = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "=HYPERLINK(1)", "@SUM(1)", "-1e-3"]
    folder = write_tasks(tmp_path / "data", dict.fromkeys(names, 1))
    evaluated(folder, [predictions(folder)], tmp_path, gallery=len(names))
    page = (tmp_path / "gallery.html").read_text()
    assert not re.search(r"<script|<img", page)
    assert [unescape(title) for title in re.findall("<h2>(.*?)</h2>", page)] == names
    assert [line["task"] for line in table(tmp_path)] == [*names[:2], "'=HYPERLINK(1)", "'@SUM(1)", "-1e-3"]
    assert list(json.loads((tmp_path / "submission.json").read_text())) == names


def test_whatever_the_gallery_is_given_it_writes_as_text(tmp_path):
    evil = '0"><script>alert(1)</script>'
    grid = [[evil, 1]]
    pairs = [{"input": grid, "output": grid}]
    answer = Answer(evil, 0, [Attempt(grid, 1, 0.5)], 1, 1, 1, 1, True)
    write_gallery({evil: {"train": pairs, "test": pairs}}, [answer], {evil: 0.5}, 1, 2, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page and page.count("&lt;script&gt;") == 7  # names of task and metric, five drawings


def test_a_browser_draws_the_gallery_in_the_colours_of_arc(folder, tmp_path):
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("there is no chromium to draw the gallery")
    evaluated(folder, [predictions(folder)], tmp_path, gallery=2)
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}",
         "--window-size=1240,1400", f"--screenshot={tmp_path / 'page.png'}", f"file://{tmp_path / 'gallery.html'}"],
        capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    pixels = np.round(plt.imread(tmp_path / "page.png")[:, :, :3] * 255).astype(int)
    drawn = {"#{:02x}{:02x}{:02x}".format(*colour) for colour in np.unique(pixels.reshape(-1, 3), axis=0)}
    page = (tmp_path / "gallery.html").read_text()
    assert drawn >= {PALETTE[i] for i in range(COLOURS) if f'class="c{i}"' in page}
