"""Reading ARC tasks: what goes where, and what is refused."""
import json
import re
from pathlib import Path

import numpy as np
import pytest

from dataset.arc_tasks import read_tasks, source_files
from helpers import random_arc_task, write_arc_source


@pytest.fixture
def prefix(tmp_path) -> str:
    rng = np.random.default_rng(0)
    first, second = random_arc_task(rng, 2, 2), random_arc_task(rng, 3, 1, high=30)
    tests_first = {kind: second[kind] for kind in ("test", "train")}
    return write_arc_source(tmp_path, {"a": {"first": first, "second": tests_first},
                                       "b": {"third": random_arc_task(rng)}})


def edit(prefix: str, change, subset: str = "a", part: str = "challenges") -> Path:
    """Let `change` alter a file's content in place."""
    file = Path(f"{prefix}_{subset}_{part}.json")
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    return file


def test_tests_of_test_tasks_go_to_test_and_all_else_to_train(prefix):
    first, second = read_tasks(prefix, "a", for_testing=True)
    assert (first.id, first.subset, first.for_testing) == ("first", "a", True)
    assert {split: len(pairs) for split, pairs in first.pairs.items()} == {"train": 2, "test": 2}
    plain, turned = read_tasks(prefix, "a", for_testing=False)
    assert {split: len(pairs) for split, pairs in plain.pairs.items()} == {"train": 4} and not plain.for_testing
    shown = [[[grid.tolist() for grid in pair] for pair in task.pairs["train"]] for task in (plain, turned)]
    in_file = [[[pair["input"], pair["output"]] for kind in kinds for pair in task.puzzle[kind]]
               for task, kinds in ((first, ("train", "test")), (second, ("test", "train")))]
    assert shown == in_file  # in the order of the file, answers from the other file
    assert plain.pairs["train"][0][0].dtype == np.uint8


def test_a_missing_answer_is_none_to_test_and_no_pair_to_train_on_and_is_told_once(prefix, capsys):
    Path(f"{prefix}_a_solutions.json").unlink()
    first, second = read_tasks(prefix, "a", for_testing=True)
    assert [pair[1].shape for task in (first, second) for pair in task.pairs["test"]] == [(0, 0)] * 3
    assert first.unanswered and list(first.puzzle["test"][1]) == ["input"]
    told = f"warning: 3 test inputs of {prefix}_a_challenges.json have no answer beside them; they are "
    assert capsys.readouterr().err == f"{told}predicted and not scored\n"
    plain, _ = read_tasks(prefix, "a", for_testing=False)
    assert [pair[1].size > 0 for pair in plain.pairs["train"]] == [True] * 2 and not plain.unanswered
    assert capsys.readouterr().err == f"{told}left out of training\n"
    edit(prefix, lambda tasks: tasks["second"]["test"][0].update(output=[[5]]))
    _, second = read_tasks(prefix, "a", for_testing=True)
    assert second.pairs["test"][0][1].tolist() == [[5]] and "warning: 2 test inputs" in capsys.readouterr().err
    assert not second.unanswered


def public_layout(prefix: str, folder: Path) -> Path:
    """The tasks of subset a, a file each, in <folder>/data/a."""
    (folder / "data" / "a").mkdir(parents=True)
    for task in read_tasks(prefix, "a", for_testing=True):
        (folder / "data" / "a" / f"{task.id}.json").write_text(json.dumps(task.puzzle))
    return folder / "data"


@pytest.mark.parametrize("for_testing", [True, False])
def test_a_file_a_task_is_read_as_the_combined_layout_is(prefix, tmp_path, for_testing):
    data = public_layout(prefix, tmp_path / "public")
    expected = [(task.id, task.subset, task.puzzle, str(task.pairs)) for task in read_tasks(prefix, "a", for_testing)]
    for given in (data, f"{data}/", data / "a"):  # the folder of the subsets, or the subset's own
        tasks = read_tasks(str(given), "a", for_testing)
        assert [(task.id, task.subset, task.puzzle, str(task.pairs)) for task in tasks] == expected
        assert source_files(str(given), "a") == [data / "a" / "first.json", data / "a" / "second.json"]
    with pytest.raises(ValueError, match="nor is there a folder .*/data/c .*; subsets with this .*: a$"):
        read_tasks(str(data), "c", for_testing)
    (data.parent / "data_a_challenges.json").write_text("{}")
    with pytest.raises(ValueError, match="subset a is there twice, as .*data_a_challenges.json and as the folder .*/a"):
        read_tasks(str(data), "a", for_testing)


def test_a_fault_in_a_file_of_one_task_is_named_by_it(prefix, tmp_path):
    data = public_layout(prefix, tmp_path / "public")
    (data / "a" / "first.json").write_text('{"train": [{"input": [[1, 2], [3]], "output": [[1]]}], "test": []}')
    with pytest.raises(ValueError, match="/data/a/first.json, train input 1: the grid's rows differ in length"):
        read_tasks(str(data), "a", for_testing=False)
    (data / "a" / "first.json").write_text("{")
    with pytest.raises(ValueError, match="/data/a/first.json is not JSON"):
        read_tasks(str(data), "a", for_testing=False)


@pytest.mark.parametrize("a_file_a_task", [False, True])
def test_of_a_list_of_pairs_the_last_is_tested(prefix, tmp_path, capsys, a_file_a_task):
    """As RE-ARC has them."""
    whole = read_tasks(prefix, "a", for_testing=False)
    lists = {task.id: [pair for kind in task.puzzle.values() for pair in kind] for task in whole}
    data = tmp_path / "lists"
    (data / "a").mkdir(parents=True)
    if a_file_a_task:
        for task, pairs in lists.items():
            (data / "a" / f"{task}.json").write_text(json.dumps(pairs))
    else:
        (tmp_path / "lists_a_challenges.json").write_text(json.dumps(lists))
    assert [str(task.pairs) for task in read_tasks(str(data), "a", for_testing=False)] == [
        str(task.pairs) for task in whole]
    assert capsys.readouterr().err == ""
    for task in read_tasks(str(data), "a", for_testing=True):
        assert task.puzzle == {"train": lists[task.id][:-1], "test": lists[task.id][-1:]}
        assert {split: len(pairs) for split, pairs in task.pairs.items()} == {"train": 3, "test": 1}
    assert f"notice: 2 tasks of {data / 'a' if a_file_a_task else f'{data}_a_challenges.json'} are lists of pairs " \
        "that do not say what is tested; the last pair of each is" in capsys.readouterr().err


def test_an_unknown_subset_is_answered_with_those_there_are(prefix):
    with pytest.raises(ValueError, match=r"tasks_c_challenges\.json does not exist, nor is there a folder .*: a, b$"):
        read_tasks(prefix, "c", for_testing=True)
    with pytest.raises(ValueError, match=r"x_a_challenges\.json does not exist, .*: none$"):
        read_tasks("no/such/x", "a", for_testing=True)


@pytest.mark.parametrize("grid, problem", [
    ([[1, 2], [3]], "the grid's rows differ in length"),
    ([[1] * 31], r"the grid has 1 × 31 cells; at most 30 × 30 fit"),
    ([[1]] * 31, r"the grid has 31 × 1 cells; at most 30 × 30 fit"),
    ([], "missing, empty or no list of rows"),
    ([[]], "missing, empty or no list of rows"),
    (None, "missing, empty or no list of rows"),
    ([1, 2], "missing, empty or no list of rows"),
    ([[1, 10]], "the grid holds 10; colours are the numbers 0 to 9"),
    ([[-1]], "the grid holds -1"),
    ([["1"]], "the grid holds '1'"),
    ([[0.5]], "the grid holds 0.5"),
    ([[[1]]], r"the grid holds \[1\]"),
])
def test_a_bad_grid_is_named_by_file_task_and_place(prefix, grid, problem):
    file = edit(prefix, lambda tasks: tasks["second"]["train"][1].update(output=grid))
    with pytest.raises(ValueError, match=re.escape(f"{file}, task second, train output 2: ") + f".*{problem}"):
        read_tasks(prefix, "a", for_testing=False)


@pytest.mark.parametrize("change, problem", [
    (lambda tasks: tasks["first"].pop("test"), 'task first: expected a list of pairs under "test"'),
    (lambda tasks: tasks.update(first=[1]), 'task first: expected a list of pairs under "test"'),
    (lambda tasks: tasks.update(first=1), 'task first: expected a list of pairs under "train"'),
    (lambda tasks: tasks["first"].update(train=[[1]]), 'task first: expected a list of pairs under "train"'),
    (lambda tasks: tasks["first"].update(train=[]), "task first: no pairs for the train split"),
    (lambda tasks: tasks["first"]["test"].pop(), "task first: the solutions are no list for its 1 test inputs"),
    (lambda tasks: tasks["first"]["train"][0].pop("input"), "task first, train input 1: the grid is missing"),
    (lambda tasks: tasks.clear(), "holds no tasks"),
])
def test_a_bad_task_is_named(prefix, change, problem):
    edit(prefix, change)
    with pytest.raises(ValueError, match=problem):
        read_tasks(prefix, "a", for_testing=True)


@pytest.mark.parametrize("part", ["challenges", "solutions"])
@pytest.mark.parametrize("content, problem", [
    (b"{", "is not JSON"), (b"\xff\xfe\xff", "is not JSON"), (b"[]", "does not map task ids to tasks")])
def test_a_bad_file_is_named(prefix, part, content, problem):
    file = Path(f"{prefix}_a_{part}.json")
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"{re.escape(str(file))} {problem}"):
        read_tasks(prefix, "a", for_testing=True)


def test_the_real_sets_have_the_sizes_they_are_known_for(shared):
    known = {"training": (400, 1302, 416), "evaluation": (400, 1363, 419), "concept": (160, 427, 480),
             "training2": (1000, 3232, 1076), "evaluation2": (120, 358, 172)}
    for subset, sizes in known.items():
        tasks = read_tasks(str(shared / "data" / "arc" / "arc-agi"), subset, for_testing=True)
        assert (len(tasks), *(sum(len(task.pairs[split]) for task in tasks) for split in ("train", "test"))) == sizes
