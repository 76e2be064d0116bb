"""A fresh symmetry for every example of training: the same for any number of ranks, and after a resume."""
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from dataset.augmentation import FreshSymmetries
from dataset.common import write_split
from dataset.example_set import say_once
from dataset.kinds.arc import ARC
from dataset.kinds.kind import Kind
from dataset.kinds.maze import Maze
from dataset.kinds.sudoku import Sudoku
from dataset.puzzle_dataset import PuzzleDataset, PuzzleDatasetConfig
from helpers import assert_same_run, pretrain_config, resume, write_tiny_dataset, write_tiny_regression
from pretrain import load_data, train
from test_kinds import puzzles
from utils.checkpoint import read_checkpoint
from utils.distributed import World


def write(path: Path, kind: Kind, name: str, count: int = 24, others: int = 0) -> Path:
    """`others`: so many other solutions of each puzzle, the labels with one cell marked that is not."""
    inputs, labels = puzzles(kind, count)
    each = np.arange(count + 1, dtype=np.int32)
    more = {}
    if others:
        more["other_labels"] = labels[:, None].repeat(others, 1).astype(np.uint8)
        for solution in range(others):
            more["other_labels"][each[1:] - 1, solution, np.argsort(labels == 5, 1, kind="stable")[:, solution]] = 5
    for split in ("train", "test"):
        write_split(path / split, {"inputs": inputs, "labels": labels, "puzzle_identifiers": 0 * each[1:],
                                   "puzzle_indices": each, "group_indices": each} | more, kind.vocab_size, kind=name)
    return path


def stream_of(*paths: Path, rank: int = 0, ranks: int = 1, split: str = "train", **changes) -> PuzzleDataset:
    return PuzzleDataset(PuzzleDatasetConfig(**{
        "seed": 0, "dataset_paths": [str(path) for path in paths], "global_batch_size": 8, "rank": rank,
        "num_replicas": ranks, "test_set_mode": split == "test", "augment": "fresh"} | changes), split)


def fields_of(data: PuzzleDataset, batches: int = 6) -> dict[str, np.ndarray]:
    drawn = [data.next_batch() for _ in range(batches)]
    return {name: torch.cat([batch[name] for batch in drawn]).numpy() for name in drawn[0]}


@pytest.mark.parametrize("kind, name", [(Sudoku(16, 6), "sudoku"), (Sudoku(256, 18), "sudoku"), (Maze(9, 6), "maze"),
                                        (ARC(900, 12), "arc")])
def test_each_example_is_a_new_symmetric_puzzle_with_its_answer(kind, name, tmp_path):
    path = write(tmp_path, kind, name)
    stored, fresh = fields_of(stream_of(path, augment=None)), fields_of(stream_of(path))
    assert all(array.dtype == np.int32 for array in fresh.values())
    for field in ("inputs", "labels"):  # each row holds as many of its tokens as before, under other names
        assert all(np.array_equal(*(np.sort(np.unique(row, return_counts=True)[1]) for row in pair))
                   for pair in zip(stored[field], fresh[field]))
    before, after = (kind.rules(batch["inputs"], batch["labels"]) for batch in (stored, fresh))
    assert all(np.array_equal(before[rule], after[rule]) for rule in kind.rule_names)
    first, second = (fresh["inputs"][half][np.lexsort(stored["inputs"][half].T)]
                     for half in (slice(24), slice(24, 48)))  # two epochs, their puzzles in the same order
    assert (first != second).any(1).mean() > 0.6 and (fresh["inputs"] != stored["inputs"]).any(1).mean() > 0.6


def test_ranks_and_a_resumed_stream_draw_what_one_process_does(tmp_path):
    path = write(tmp_path, Sudoku(16, 6), "sudoku")
    whole, halves = stream_of(path), [stream_of(path, rank=rank, ranks=2) for rank in (0, 1)]
    resumed = stream_of(path)
    for _ in range(4):
        state = whole.stream.state_dict()
        batch, parts = whole.next_batch(), [half.next_batch() for half in halves]
        resumed.stream.load_state_dict(state)
        again = resumed.next_batch()
        for name in batch:
            assert torch.equal(batch[name], torch.cat([part[name] for part in parts]))
            assert torch.equal(batch[name], again[name])
    assert not torch.equal(stream_of(path, seed=1).next_batch()["inputs"], stream_of(path).next_batch()["inputs"])


def test_first_batches_examples_and_test_splits_stay_as_stored(tmp_path):
    path = write(tmp_path, Sudoku(16, 6), "sudoku")
    plain, fresh = stream_of(path, augment=None), stream_of(path)
    assert torch.equal(plain.first_batch()["inputs"], fresh.first_batch()["inputs"])
    assert torch.equal(plain.examples([3])["labels"], fresh.examples([3])["labels"])
    tests = [next(iter(stream_of(path, split="test", augment=augment)))[1]["inputs"] for augment in (None, "fresh")]
    assert torch.equal(*tests)


def test_data_without_symmetries_are_refused(tmp_path):
    for path, message in ((write_tiny_dataset(tmp_path / "strings"), "Sequence has no symmetries; use augment=null"),
                          (write_tiny_regression(tmp_path / "floats"), "of puzzles, and the data hold none")):
        with pytest.raises(ValueError, match=message):
            load_data(pretrain_config(f"data_paths=[{path}]", "augment=fresh",
                                      *(["arch.loss.name=losses@ACTRegressionLossHead"]
                                        if "floats" in path.name else [])), World())
    with pytest.raises(ValueError, match="augment=.*should be 'fresh'"):
        pretrain_config("augment=stale")


def test_4x4_sudokus_get_a_notice_that_symmetries_show_the_test_grids(tmp_path, capsys):
    say_once.cache_clear()
    stream_of(write(tmp_path / "a", Sudoku(36, 8), "sudoku"))
    assert "solution grids" not in capsys.readouterr().out
    stream_of(write(tmp_path / "b", Sudoku(16, 6), "sudoku"))
    assert "augment=fresh on 4×4 Sudokus shows the test's solution grids" in capsys.readouterr().out


def test_sets_of_two_kinds_are_refused(tmp_path):
    a, b = write(tmp_path / "a", Sudoku(16, 6), "sudoku"), write(tmp_path / "b", Maze(16, 6), "maze")
    with pytest.raises(ValueError, match="one kind of puzzle, and .*a holds Sudoku, .*b Maze"):
        stream_of(a, b)


def test_the_symmetries_of_a_batch_depend_on_its_place_alone(tmp_path):
    data = stream_of(write(tmp_path, Sudoku(16, 6), "sudoku"), augment=None)
    fields = {name: value.numpy() for name, value in data.examples(range(8)).items()}
    fresh, again = (FreshSymmetries(list(data.sets.values()), seed=0) for _ in range(2))
    places = [fresh.change(fields, place, 8, slice(8))["inputs"] for place in ((0, 0), (0, 8), (1, 0))]
    assert np.array_equal(places[1], again.change(fields, (0, 8), 8, slice(8))["inputs"])
    assert not any(np.array_equal(a, b) for a, b in pairwise(places))


def test_other_solutions_come_through_batches_and_change_with_their_puzzle(tmp_path):
    """Through a stream of several ranks, one that goes on, and fresh symmetries, as stored."""
    kind = Maze(9, 6)
    path = write(tmp_path, kind, "maze", others=3)
    inputs, others = (np.load(path / "train" / f"all__{field}.npy") for field in ("inputs", "other_labels"))
    stored = fields_of(stream_of(path, augment=None))
    assert stored["other_labels"].dtype == np.uint8 and stored["other_labels"].shape == (48, 3, 9)
    for row, told in zip(stored["inputs"], stored["other_labels"]):
        assert any(np.array_equal(told, others[each]) for each in np.flatnonzero((inputs == row).all(1)))
    whole, halves = stream_of(path), [stream_of(path, rank=rank, ranks=2) for rank in (0, 1)]
    for _ in range(5):
        batch, parts = whole.next_batch(), [half.next_batch() for half in halves]
        assert all(torch.equal(batch[name], torch.cat([part[name] for part in parts])) for name in batch)
        for each in range(3):  # each stored solution is the label with one more cell marked
            changed = (batch["other_labels"][:, each] != batch["labels"]).sum(1)
            assert changed.tolist() == [1] * 8
    going_on = stream_of(path)
    going_on.stream.load_state_dict(whole.stream.state_dict())
    assert all(torch.equal(*pair) for pair in zip(whole.next_batch().values(), going_on.next_batch().values()))
    test = stream_of(path, split="test")
    assert [len(batch["other_labels"]) for _, batch, _ in test] == [8, 8, 8]
    held_out = stream_of(path, val_puzzles=3).held_out()
    (_, batch, count), = held_out
    assert count == 3 and batch["other_labels"].shape == (8, 3, 9)


def test_data_with_and_without_other_solutions_do_not_mix_and_losses_that_drop_them_are_refused(tmp_path):
    several = write(tmp_path / "several", Maze(9, 6), "maze", others=3)
    one = write(tmp_path / "one", Maze(9, 6), "maze")
    with pytest.raises(ValueError, match="other_labels is 3 in .*several and 0 in .*one; train on them separately"):
        stream_of(several, one)
    words = [f"data_paths=[{several}]", "global_batch_size=8"]
    with pytest.raises(ValueError, match="3 solutions of each puzzle besides its labels, and arch.loss.name=losses@.* "
                                         "would drop them; use arch=ldt, or build the data without --paths"):
        load_data(pretrain_config(*words), World())
    load_data(pretrain_config(*words, "arch=ldt", "arch.blank=2", "arch.fills=[2,5]", "arch.relabel=false"), World())


def test_a_run_on_puzzles_of_several_solutions_resumes_to_the_bit(tmp_path):
    """Under fresh symmetries, with rows whose puzzles and other solutions the carry keeps over the stop."""
    data = write(tmp_path / "data", Maze(9, 6), "maze", others=3)
    words = [f"data_paths=[{data}]", "arch=ldt", "arch.blank=2", "arch.fills=[2,5]", "arch.relabel=false",
             "arch.hidden_size=16", "arch.num_heads=2", "arch.L_layers=1", "arch.loops=2", "arch.halt_max_steps=6",
             "augment=fresh", "global_batch_size=8", "epochs=4", "eval_interval=2", "lr=1e-2", "lr_warmup_steps=0",
             "evaluators=[]", "use_wandb=false", f"log_dir={tmp_path}"]
    train(pretrain_config(*words, f"checkpoint.path={tmp_path / 'whole'}"), World())
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    carry = read_checkpoint(tmp_path / "again" / "step_00000006.ckpt")["carry"]
    assert not carry["halted"].all() and carry["current_data"]["other_labels"].shape == (8, 3, 9)
    (tmp_path / "again" / "step_00000012.ckpt").unlink()
    resume(tmp_path / "again", "checkpoint.resume_from=step_00000006.ckpt")
    assert_same_run(tmp_path / "whole", tmp_path / "again")
