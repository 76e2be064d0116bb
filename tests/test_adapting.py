"""ARC tasks that a model was not trained on: it is trained on their demonstrations, then asked; its answers vote."""
import json
import re

import numpy as np
import pytest
import torch

from config.adapting import adapted, tasks_as_dataset, train_settings
from config.restored import Restored
from dataset.arc_tasks import read_tasks_to_solve, task_to_solve
from dataset.build_arc_dataset import main as build_arc
from evaluate import evaluate, load_solver
from helpers import evaluate_config, pretrain_config, random_arc_task, run_script, write_arc_source
from pretrain import train
from utils.distributed import World

ARCH = ["arch.hidden_size=16", "arch.num_heads=2", "arch.H_cycles=1", "arch.L_cycles=1", "arch.L_layers=1",
        "arch.halt_max_steps=2", "arch.puzzle_emb_len=1", "arch.expansion=1"]
QUICK = ["device=cpu", "adapt_augmentations=1", "global_batch_size=4"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A network that has taken two steps on two random tasks."""
    folder = tmp_path_factory.mktemp("adapting")
    rng = np.random.default_rng(0)
    prefix = write_arc_source(folder, {"training": {f"old{i}": random_arc_task(rng, colours=4) for i in range(2)}})
    build_arc(["--input-file-prefix", prefix, "--output-dir", str(folder / "data"), "--subsets", "training",
               "--test-set-name", "training", "--num-aug", "1", "--num-workers", "1"])
    return train(pretrain_config(*ARCH, f"data_paths=[{folder / 'data'}]", f"checkpoint.path={folder / 'run'}",
                                 f"log_dir={folder}", "global_batch_size=4", "epochs=2", "evaluators=[]",
                                 "use_wandb=false", "puzzle_emb_lr=0.01", "lr_warmup_steps=0"), World())


@pytest.fixture(scope="module")
def task():
    """Each demonstration says to repeat the input."""
    grids = np.random.default_rng(1).integers(0, 4, (3, 3, 3)).tolist()
    return {"train": [{"input": grid, "output": grid} for grid in grids[:2]], "test": [{"input": grids[2]}]}


def config(run, *words):
    return evaluate_config(f"checkpoint={run}", "solve=x", *QUICK, *words)


def test_tasks_are_read_from_a_file_a_folder_and_challenges(task, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "a.json").write_text(json.dumps(task))
    (folder / "b.json").write_text(json.dumps(task["train"]))  # a bare list: the last pair is the test
    (tmp_path / "my_challenges.json").write_text(json.dumps({"c": task, "d": task}))
    (tmp_path / "my_solutions.json").write_text(json.dumps({"d": [[[1]]]}))
    assert [one.id for one in read_tasks_to_solve(folder)] == ["a", "b"]
    (alone,) = read_tasks_to_solve(folder / "a.json")
    assert alone.id == "a" and alone.unanswered and len(alone.pairs["train"]) == 2
    first, second = read_tasks_to_solve(tmp_path / "my_challenges.json")
    assert first.unanswered and second.pairs["test"][0][1].tolist() == [[1]]
    (tmp_path / "empty").mkdir()
    for wrong, said in ((tmp_path / "empty", "holds no tasks"), (folder / "b.json", None)):
        if said:
            with pytest.raises(ValueError, match=said):
                read_tasks_to_solve(wrong)
    with pytest.raises(ValueError, match="task7, train output 1"):
        task_to_solve("task7", {"train": [{"input": [[1]], "output": [[10]]}], "test": [{"input": [[1]]}]})


def test_adaptation_trains_the_embeddings_of_the_task_alone_the_same_each_time(run, task, capsys):
    restored = Restored.read(run)
    before = {name: value.clone() for name, value in restored.weights().items()}
    with tasks_as_dataset([task_to_solve("new", task)], 1, seed=0) as folder:
        first, again, _ = (adapted(restored, folder, config(run, "adapt_steps=4", *words), World()).state_dict()
                           for words in ([], [], ["seed=1"]))
        every = adapted(restored, folder, config(run, "adapt_steps=2", "adapt=all"), World()).state_dict()
        none = adapted(restored, folder, config(run, "adapt_steps=0"), World()).state_dict()
    table = next(name for name in first if name.endswith("puzzle_emb.weights"))
    mean = before[table].mean(0)
    assert first[table].shape == (3, before[table].shape[1])  # the blank, the task and its augmentation
    assert torch.allclose(none[table][1:], mean.expand(2, -1)) and torch.equal(none[table][0], before[table][0])
    assert (first[table][1:] != mean).any(1).all() and torch.equal(first[table][0], before[table][0])
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(torch.equal(first[name], before[name]) for name in first if name != table)
    assert any(not torch.equal(every[name], before[name]) for name in every if name != table)
    assert all(torch.equal(value, before[name]) for name, value in restored.weights().items())
    told = re.findall(r"loss of the demonstrations ([\d.]+) at first", capsys.readouterr().out)
    assert len(told) == 4 and told[0] == told[1] != told[2]  # another seed, another order


def test_adaptation_lowers_the_loss_of_the_demonstrations(run, task, capsys):
    with tasks_as_dataset([task_to_solve("new", task)], 0, seed=0) as folder:
        adapted(Restored.read(run), folder, config(run, "adapt_steps=16", "adapt=all", "adapt_lr=0.01"), World())
    first, last = map(float, re.search(r"([\d.]+) at first, ([\d.]+) at the end", capsys.readouterr().out).groups())
    assert last < first


def test_a_loss_that_is_not_finite_ends_adaptation(run, task):
    with tasks_as_dataset([task_to_solve("new", task)], 0, seed=0) as folder, pytest.raises(
            ValueError, match="not finite at step 2 of adaptation; use a lower rate than adapt_lr"):
        adapted(Restored.read(run), folder, config(run, "adapt_steps=2", "adapt_lr=1e30"), World())


def test_a_task_that_was_trained_on_starts_from_its_own_embedding(run, task):
    restored = Restored.read(run)
    with tasks_as_dataset([task_to_solve("old1", task)], 0, seed=0) as folder:
        head = adapted(restored, folder, config(run, "adapt_steps=0"), World())
    table = next(value for name, value in restored.weights().items() if name.endswith("puzzle_emb.weights"))
    assert torch.equal(head.puzzle_embedding.weights[1], table[restored.puzzle_names.index("old1")])


def test_a_task_becomes_a_submission_and_a_gallery(run, task, tmp_path):
    (tmp_path / "new.json").write_text(json.dumps(task))
    words = [f"checkpoint={run}", *QUICK, "adapt_steps=2", f"output_dir={tmp_path / 'out'}"]
    done = run_script("evaluate.py", *words, "solve=new.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    submission = json.loads((tmp_path / "out" / "submission.json").read_text())
    assert [{*attempts} for attempts in submission["new"]] == [{"attempt_1", "attempt_2"}]
    assert "1 tasks of new.json" in done.stdout and "submission: " in done.stdout
    assert "new" in (tmp_path / "out" / "gallery.html").read_text()
    missing = run_script("evaluate.py", *words, "solve=old.json", cwd=tmp_path)
    assert missing.returncode == 2 and "there is no file old.json; did you mean new.json?" in missing.stderr


def test_several_attempts_vote_with_the_augmentations(run, task, tmp_path):
    (tmp_path / "tasks").mkdir()
    for name in "ab":
        answered = task | {"test": [task["train"][0]]}
        (tmp_path / "tasks" / f"{name}.json").write_text(json.dumps(answered))
    metrics = evaluate(checkpoint=run, solve=str(tmp_path / "tasks"), device="cpu", adapt_augmentations=1,
                       adapt_steps=0, global_batch_size=4, output_dir=str(tmp_path / "out"), trajectories=2,
                       noise=0.1, noise_on="z_L")
    assert {"eval/arc/pass@1", "eval/arc/accuracy", "val/exact_accuracy"} <= metrics.keys()


def test_tasks_are_solved_from_python(run, task):
    solver = load_solver(run, device="cpu", adapt_augmentations=1, adapt_steps=1, global_batch_size=4)
    (solution,) = solver.solve([task])
    assert json.loads(solution.question) == task["test"][0]["input"] and solution.right is None
    assert json.loads(solution.answer) and "svg" in solution._repr_html_()
    with pytest.raises(ValueError, match='task1: expected a list of pairs under "train"'):
        solver.solve([task, "12"])


def test_settings_without_effect_are_refused(run, shared):
    sudoku4 = shared / "interop" / "sudoku4" / "checkpoint"
    with pytest.raises(ValueError, match="adapt_steps has no effect on data sets"):
        evaluate(checkpoint=run, adapt_steps=3)
    with pytest.raises(ValueError, match="kind=arc has no effect without solve"):
        evaluate(checkpoint=run, kind="arc")
    with pytest.raises(ValueError, match="adapt=all has no effect on puzzles of the kind Sudoku"):
        load_solver(sudoku4, device="cpu", solve="1", adapt="all")
    assert train_settings(Restored.read(sudoku4), config(sudoku4), 8).puzzle_emb_lr == 0.001
