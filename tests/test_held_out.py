"""Puzzles held out of training: which they are, that no batch has them, and that they are scored and choose."""
import numpy as np
import pytest

from config.run_data import load_data
from evaluate import evaluate
from helpers import (
    TINY_ARCH,
    metric_lines,
    pretrain_config,
    resume,
    write_tiny_dataset,
    write_tiny_episodes,
)
from pretrain import train
from utils.checkpoint import read_checkpoint
from utils.distributed import World

GROUPS = [[2, 1], [1], [1, 1, 1], [3], [1, 2], [1]] * 2  # sizes of puzzles, by group: 34 examples
FIRST = np.array([group[0] for group in GROUPS])


@pytest.fixture
def settings(tmp_path):
    data = write_tiny_dataset(tmp_path / "data", train=GROUPS)
    return [f"data_paths=[{data}]", f"checkpoint.path={tmp_path / 'run'}", f"log_dir={tmp_path}", *TINY_ARCH,
            "global_batch_size=4", "evaluators=[]", "use_wandb=false"]


def numbers_of(inputs, data) -> set[int]:
    """The numbers of the examples with these inputs, all of which differ."""
    every = next(iter(data.sets.values())).inputs
    return {int(np.flatnonzero((every == row).all(1))[0]) for row in np.asarray(inputs)}


def test_no_example_of_a_held_out_group_is_trained_on_and_the_first_puzzle_of_each_is_scored(settings):
    train_data, _ = load_data(pretrain_config(*settings, "val_puzzles=5"), World())
    seen = numbers_of(np.concatenate([train_data.next_batch()["inputs"] for _ in range(400)]), train_data)
    held_out = train_data.held_out()
    scored = numbers_of(np.concatenate([batch["inputs"][:count] for _, batch, count in held_out]), train_data)

    group_of = np.repeat(np.arange(len(GROUPS)), [sum(group) for group in GROUPS])
    left_out = sorted({int(group_of[number]) for number in scored})
    assert len(left_out) == 5
    assert seen == {number for number in range(len(group_of)) if group_of[number] not in left_out}
    assert len(scored) == held_out.num_examples == FIRST[left_out].sum()
    starts = np.cumsum([0] + [sum(group) for group in GROUPS])
    assert scored == {number for group in left_out for number in range(starts[group], starts[group] + FIRST[group])}


def test_a_run_scores_some_test_puzzles_and_evaluate_all(tmp_path, capsys):
    """Always the same ones; a larger number than there are is all."""
    data = write_tiny_dataset(tmp_path / "data", train=GROUPS, test=[[1]] * 9)
    words = [f"data_paths=[{data}]", f"log_dir={tmp_path}", *TINY_ARCH, "global_batch_size=4", "evaluators=[]",
             "use_wandb=false", "epochs=1", "eval_interval=1"]
    some, again, all_of_them = (load_data(pretrain_config(*words, *more), World())[1] for more in (
        ["test_puzzles=4"], ["test_puzzles=4", "seed=1"], ["test_puzzles=50"]))
    scored = [numbers_of(np.concatenate([batch["inputs"][:count] for _, batch, count in one]), all_of_them)
              for one in (some, again, all_of_them)]
    assert scored[0] == scored[1] and len(scored[0]) == some.num_puzzles == 4 and scored[2] == {*range(9)}
    run = train(pretrain_config(*words, "test_puzzles=4", f"checkpoint.path={tmp_path / 'run'}"), World())
    assert "evaluations score 4 of 9 test puzzles (test_puzzles); evaluate.py scores all" in capsys.readouterr().out
    assert "val/exact_accuracy" in metric_lines(run)[-1]
    several = write_tiny_dataset(tmp_path / "several", train=GROUPS, test=GROUPS)
    with pytest.raises(ValueError, match="test_puzzles=4: the 12 test groups of .*several hold 20 puzzles, over which"):
        load_data(pretrain_config(*words, f"data_paths=[{several}]", "test_puzzles=4"), World())


def test_an_epoch_is_shorter_by_what_is_held_out(settings):
    expected = np.array([np.mean(group) for group in GROUPS])
    whole, _ = load_data(pretrain_config(*settings), World())
    assert whole.stream.examples_per_epoch == pytest.approx(expected.sum())
    part, _ = load_data(pretrain_config(*settings, "val_puzzles=7"), World())
    left = np.delete(expected, part.stream.held_out)
    assert part.stream.examples_per_epoch == pytest.approx(left.sum()) and len(left) == 5


def test_runs_of_other_seeds_hold_out_the_same_puzzles(settings):
    streams = [load_data(pretrain_config(*settings, "val_puzzles=4", f"seed={seed}"), World())[0].stream
               for seed in (0, 1)]
    assert np.array_equal(streams[0].held_out, streams[1].held_out)
    assert not np.array_equal(streams[0].take(8), streams[1].take(8))


def test_held_out_episodes_are_whole_ones(tmp_path):
    data = write_tiny_episodes(tmp_path / "data", train=[5, 6, 7, 8, 9], test=[5])
    train_data, _ = load_data(pretrain_config(
        f"data_paths=[{data}]", "val_puzzles=2", "global_batch_size=2", "evaluators=[]",
        "arch.loss.name=losses@ACTRegressionLossHead", *TINY_ARCH), World())
    lengths = np.array([4, 5, 6, 7, 8])  # transitions
    held_out = train_data.stream.held_out
    assert train_data.held_out().num_examples == lengths[held_out].sum()
    assert train_data.stream.examples_per_epoch == np.delete(lengths, held_out).sum()
    episode_of = np.repeat(np.arange(5), lengths)
    epoch = train_data.stream.take(int(train_data.stream.examples_per_epoch))
    assert sorted(epoch) == [n for n in range(lengths.sum()) if episode_of[n] not in held_out]


def test_a_run_scores_held_out_puzzles_and_they_can_choose_its_best_checkpoint(settings, tmp_path, capsys):
    config = pretrain_config(*settings, "val_puzzles=4", "epochs=8", "eval_interval=2", "lr=3e-2",
                             "checkpoint.monitor=val/held_out/loss")
    lines = metric_lines(train(config, World()))
    scored = {line["step"]: line["val/held_out/loss"] for line in lines if "val/held_out/loss" in line}
    assert len(scored) == 4 and all("val/loss" in line for line in lines if "val/held_out/loss" in line)
    assert all(line["val/held_out/loss"] != line["val/loss"] for line in lines if "val/loss" in line)
    best = read_checkpoint(tmp_path / "run" / "best.ckpt")
    assert best["step"] == min(scored, key=scored.get)
    assert "4 training puzzles are held out, and scored as val/held_out/…" in capsys.readouterr().out


def test_held_out_puzzles_are_scored_as_in_the_run(settings, tmp_path):
    run = train(pretrain_config(*settings, "val_puzzles=4", "epochs=4"), World())
    scores = evaluate(checkpoint=str(run), held_out=True, device="cpu")
    assert scores["val/loss"] == pytest.approx(metric_lines(run)[-1]["val/held_out/loss"], rel=1e-5)
    assert (run / "evaluation_held_out_puzzles" / "metrics.json").is_file()
    plain = train(pretrain_config(*settings, "epochs=2", f"checkpoint.path={tmp_path / 'plain'}"), World())
    with pytest.raises(ValueError, match="the run held no puzzles out; held_out=True is for runs with val_puzzles=N"):
        evaluate(checkpoint=str(plain), held_out=True, device="cpu")
    with pytest.raises(ValueError, match="held_out=True and data_paths"):
        evaluate(checkpoint=str(run), held_out=True, data_paths=["elsewhere"], device="cpu")


@pytest.mark.parametrize("change, message", [
    (["val_puzzles=12"], "val_puzzles=12 leaves nothing to train on: .* 12 groups"),
    (["val_puzzles=-1"], "val_puzzles=-1"),
    (["checkpoint.monitor=val/held_out/loss"], "checkpoint.monitor=val/held_out/loss is no metric of this run"),
])
def test_what_cannot_be_held_out_is_refused(settings, change, message):
    with pytest.raises(ValueError, match=message):
        train(pretrain_config(*settings, "epochs=2", *change), World())


def test_a_run_goes_on_with_the_same_puzzles_held_out(settings):
    run = train(pretrain_config(*settings, "val_puzzles=4", "epochs=2"), World())
    with pytest.raises(ValueError, match=r"cannot go on with val_puzzles=3 \(was 4\)"):
        resume(run, "val_puzzles=3", "epochs=4")
    assert "val/held_out/loss" in metric_lines(resume(run, "epochs=4"))[-1]
