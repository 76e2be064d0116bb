"""The ARC builder: every puzzle undone by its name, the same bytes however it runs, leaks, and the published format."""
import json
import os
import signal
import subprocess
import sys
import time
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from dataset.arc import SIDE, decode_grid, encode_grid, invert_augmentation, parse_augmentation
from dataset.build_arc_dataset import main
from dataset.common import FIELDS, dataset_fingerprint
from dataset.puzzle_dataset import PuzzleDataset, PuzzleDatasetConfig
from evaluators.arc import ARC
from helpers import heed_ctrl_c, random_arc_task, run_process, write_arc_source

ROOT = Path(__file__).resolve().parents[1]
NUM_AUG = 20

Grids = list[list[list[int]]]


@pytest.fixture(scope="module")
def subsets() -> dict[str, dict[str, dict]]:
    """Twelve tasks to train on, some with full squares, and four to be tested on."""
    rng = np.random.default_rng(0)
    learned = {f"learn{i}": random_arc_task(rng, 3, 1, *[(2, 8), (30, 30), (1, 30)][i % 3]) for i in range(12)}
    return {"learn": learned, "exam": {f"exam{i}": random_arc_task(rng, 2, 1 + i % 2, 2, 20) for i in range(4)}}


@pytest.fixture(scope="module")
def prefix(subsets, tmp_path_factory) -> str:
    return write_arc_source(tmp_path_factory.mktemp("arc"), subsets)


def build(prefix: str, output: Path, *options, subsets: str = "learn exam", test: str | None = "exam") -> Path:
    main(["--input-file-prefix", prefix, "--output-dir", str(output), "--subsets", *subsets.split(),
          *(["--test-set-name", test] if test else []), "--num-aug", str(NUM_AUG), "--num-workers", "1",
          *map(str, options)])
    return output


@pytest.fixture(scope="module")
def built(prefix, tmp_path_factory) -> Path:
    return build(prefix, tmp_path_factory.mktemp("built") / "arc")


def load(folder: Path, split: str) -> dict[str, np.ndarray]:
    return {field: np.load(folder / split / f"all__{field}.npy") for field in FIELDS}


def names_of(folder: Path) -> list[str]:
    return json.loads((folder / "identifiers.json").read_text())


def corner(tokens: np.ndarray) -> tuple[int, int]:
    """Row and column of the first cell of an encoded grid."""
    square = tokens.reshape(SIDE, SIDE) > 0
    return int(square.any(axis=1).argmax()), int(square.any(axis=0).argmax())


def undone(tokens: np.ndarray) -> np.ndarray:
    """The grid of tokens that stand anywhere in the square, of which they are a faithful encoding."""
    top, left = corner(tokens)
    square = np.zeros((SIDE, SIDE), np.uint8)
    square[:SIDE - top, :SIDE - left] = tokens.reshape(SIDE, SIDE)[top:, left:]
    grid = decode_grid(square.ravel())
    np.testing.assert_array_equal(encode_grid(grid, top, left), tokens)
    return grid


@cache
def puzzles(folder: Path, split: str) -> list[tuple[str, list[tuple[int, int]], Grids]]:
    """Of each puzzle: its name, the place of each example, and its grids (input, output, input, ...) as they stand."""
    arrays, names, found = load(folder, split), names_of(folder), []
    for identifier, (start, end) in zip(arrays["puzzle_identifiers"], pairwise(arrays["puzzle_indices"]), strict=True):
        pairs = [(arrays["inputs"][row], arrays["labels"][row]) for row in range(start, end)]
        places = [corner(question) for question, _ in pairs]
        assert places == [corner(answer) for _, answer in pairs]
        found.append((names[identifier], places, [undone(tokens).tolist() for pair in pairs for tokens in pair]))
    return found


def originals(subsets: dict, split: str) -> dict[str, Grids]:
    """What the puzzles of each task must show, from the sources."""
    kinds = {("learn", "train"): ["train", "test"], ("exam", "train"): ["train"], ("exam", "test"): ["test"]}
    return {name: [pair[side] for kind in kinds.get((subset, split), []) for pair in task[kind]
                   for side in ("input", "output")]
            for subset, tasks in subsets.items() for name, task in tasks.items() if (subset, split) in kinds}


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_puzzle_undone_by_its_name_is_its_original(built, subsets, split):
    expected = originals(subsets, split)
    found = puzzles(built, split)
    assert list(dict.fromkeys(parse_augmentation(name)[0] for name, _, _ in found)) == list(expected)
    for name, _, grids in found:
        task, transform, permutation = parse_augmentation(name)
        restored = [invert_augmentation(np.array(grid), transform, permutation).tolist() for grid in grids]
        assert restored == expected[task], name
        assert permutation[0] == 0


def test_a_group_is_a_task_with_its_original_first_and_puzzles_that_differ(built):
    for split, groups in (("train", 16), ("test", 4)):
        arrays, found = load(built, split), puzzles(built, split)
        assert arrays["group_indices"].tolist() == list(range(0, (1 + NUM_AUG) * groups + 1, 1 + NUM_AUG))
        for start, end in pairwise(arrays["group_indices"]):
            tasks = [parse_augmentation(name)[0] for name, _, _ in found[start:end]]
            assert set(tasks) == {found[start][0]}
            if split == "train":
                assert len({str(grids) for _, _, grids in found[start:end]}) == 1 + NUM_AUG


def test_one_example_of_a_training_puzzle_stands_in_the_corner_and_the_others_anywhere(built):
    moved, still = [], []
    for name, places, _ in puzzles(built, "train"):
        assert (0, 0) in places
        if name.startswith(("learn0", "learn3", "exam")):  # grids with much room
            moved += [place for place in places if place != (0, 0)]
            still.append(places.index((0, 0)))
    rows, columns = np.array(moved).T
    assert rows.min() == 0 and columns.min() == 0 and rows.max() > 20 and columns.max() > 20
    assert set(still) == {0, 1, 2, 3}
    assert {place for _, places, _ in puzzles(built, "test") for place in places} == {(0, 0)}


def test_identifiers_are_numbered_in_the_order_of_train_and_shared_with_test(built, subsets):
    train, test, names = load(built, "train"), load(built, "test"), names_of(built)
    assert train["puzzle_identifiers"].tolist() == list(range(1, len(names)))
    assert names[0] == "<blank>" and len(set(names)) == len(names) == 1 + 16 * (1 + NUM_AUG)
    assert test["puzzle_identifiers"].tolist() == list(range(1 + 12 * (1 + NUM_AUG), len(names)))
    assert [name for name in names if "|||" not in name][1:] == [*subsets["learn"], *subsets["exam"]]
    assert json.loads((built / "test_puzzles.json").read_text()) == subsets["exam"]


def test_identifiers_start_where_asked(prefix, tmp_path):
    built = build(prefix, tmp_path / "built", "--puzzle-identifiers-start", 7)
    assert names_of(built)[:8] == ["<blank>"] * 7 + ["learn0"]
    assert load(built, "train")["puzzle_identifiers"][0] == 7
    metadata = json.loads((built / "train" / "dataset.json").read_text())
    assert metadata["num_puzzle_identifiers"] == len(names_of(built)) == 7 + 16 * (1 + NUM_AUG)


def test_the_bytes_depend_on_the_seed_and_not_on_the_workers(prefix, built, tmp_path):
    again = build(prefix, tmp_path / "two", "--num-workers", 2)
    for file in (file for file in built.rglob("*") if file.is_file() and file.name != "source.json"):
        assert file.read_bytes() == (again / file.relative_to(built)).read_bytes(), file
    other = build(prefix, tmp_path / "other", "--seed", 1)
    assert dataset_fingerprint(other) != dataset_fingerprint(again) == dataset_fingerprint(built)
    assert sum(map(str.__eq__, names_of(other), names_of(built))) < 30  # the originals, and hardly anything else


def test_a_task_is_augmented_alike_whatever_stands_beside_it(prefix, built, tmp_path):
    alone = build(prefix, tmp_path / "alone", subsets="exam")
    examples = load(alone, "train")["inputs"]
    np.testing.assert_array_equal(examples, load(built, "train")["inputs"][-len(examples):])


@pytest.mark.parametrize("grid, views", [
    ([[0]], 1), ([[0, 0]], 2), ([[3]], 9), ([[3, 0]], 36), ([[1, 2], [2, 2]], 288)])
def test_all_distinct_augmentations_are_found_and_no_more(tmp_path, capsys, grid, views):
    """Views: shapes and places of the colours, times 9 · 8 · … colours for those that are not black."""
    pair = {"input": grid, "output": [[0]]}
    prefix = write_arc_source(tmp_path, {"exam": {"tiny": {"train": [pair], "test": [pair]}}})
    built = build(prefix, tmp_path / "built", "--num-aug", 1000, subsets="exam")
    shown = [str(grids) for _, _, grids in puzzles(built, "test")]
    assert len(shown) == len(set(shown)) == views
    assert f"1 tasks have fewer than 1000 augmentations that differ, of 5000 drawn; tiny has {views - 1}" in \
        capsys.readouterr().out


def test_no_augmentation_leaves_the_originals(prefix, tmp_path, subsets):
    built = build(prefix, tmp_path / "built", "--num-aug", 0)
    assert names_of(built) == ["<blank>", *subsets["learn"], *subsets["exam"]]
    assert {name: grids for name, _, grids in puzzles(built, "train")} == originals(subsets, "train")


def test_a_second_test_set(subsets, tmp_path):
    prefix = write_arc_source(tmp_path, subsets | {"more": {"more0": random_arc_task(np.random.default_rng(3))}})
    built = build(prefix, tmp_path / "built", "--test-set-name2", "more", subsets="learn exam more")
    assert list(json.loads((built / "test_puzzles.json").read_text())) == [*subsets["exam"], "more0"]
    assert len(load(built, "test")["group_indices"]) == 1 + 5
    with pytest.raises(ValueError, match="the test set more is not among --subsets learn exam; add or correct it"):
        build(prefix, tmp_path / "no", "--test-set-name2", "more")


def test_two_tasks_with_one_id_share_an_identifier_unless_both_are_tested(subsets, tmp_path):
    exam0, other = subsets["exam"]["exam0"], random_arc_task(np.random.default_rng(4))
    prefix = write_arc_source(tmp_path, {"learn": subsets["learn"], "exam": {"exam0": exam0, "learn0": other}})
    built = build(prefix, tmp_path / "built")
    originals_at = [i for i, name in enumerate(puzzles(built, "train")) if name[0] == "learn0"]
    assert originals_at == [0, 13 * (1 + NUM_AUG)] and names_of(built).count("learn0") == 1
    with pytest.raises(ValueError, match="task learn0 is in learn and, with other pairs, in exam"):
        build(prefix, tmp_path / "no", "--test-set-name2", "learn")


def turned(task: dict) -> dict:
    return {kind: [{side: np.rot90(pair[side]).tolist() for side in pair} for pair in pairs]
            for kind, pairs in task.items()}


def test_a_task_in_two_test_sets_must_be_the_same_in_both(subsets, tmp_path):
    """Its answers are told apart by its id and by what its puzzles show, undone by their names."""
    exam1 = subsets["exam"]["exam1"]
    split_otherwise = {"train": [*exam1["train"][1:], exam1["test"][0]], "test": [exam1["train"][0], exam1["test"][1]]}
    reordered = {kind: pairs[::-1] for kind, pairs in exam1.items()}
    for name, task in (("turned", turned(exam1)), ("split", split_otherwise)):
        prefix = write_arc_source(tmp_path / name, subsets | {"more": {"exam1": task}})
        with pytest.raises(ValueError, match="task exam1 is in exam and, with other pairs, in more; answers to"):
            build(prefix, tmp_path / "no", "--test-set-name2", "more", subsets="exam more")
    prefix = write_arc_source(tmp_path / "same", subsets | {"more": {"exam1": reordered}})
    built = build(prefix, tmp_path / "built", "--test-set-name2", "more", subsets="exam more")
    data = PuzzleDataset(PuzzleDatasetConfig(seed=0, dataset_paths=[str(built)], global_batch_size=64,
                                             test_set_mode=True), split="test")
    evaluator = ARC(str(built), data.metadata)
    evaluator.begin_eval()
    for _, batch, _ in data:
        evaluator.update_batch(batch, {"preds": batch["labels"].clamp(min=0), "q_halt_logits": torch.zeros(64)})
    assert evaluator.result(None, 0, 1, None)["pass@1"] == 1


def test_without_solutions_there_are_no_answers_in_the_test_split(subsets, tmp_path, capsys):
    secret = {f"secret{i}": task for i, task in enumerate(subsets["exam"].values())}
    leak = turned(secret["secret2"])
    prefix = write_arc_source(tmp_path, {"learn": subsets["learn"] | {"leak": leak}, "exam": secret})
    Path(f"{prefix}_exam_solutions.json").unlink()
    built = build(prefix, tmp_path / "built")
    told = capsys.readouterr().err
    assert "warning: 6 test inputs of " in told and "predicted and not scored" in told
    assert "1 of 13 training tasks stand in the test set as well" in told and "leak (in the test set: secret2)" in told
    test = load(built, "test")
    assert len(test["labels"]) == 6 * (1 + NUM_AUG) and not test["labels"].any()  # 0: no answer is asked for
    shown = [undone(tokens) for tokens in test["inputs"][::(1 + NUM_AUG)]]
    assert all(grid.size for grid in shown)
    stored = json.loads((built / "test_puzzles.json").read_text())
    assert stored == {name: {"train": task["train"], "test": [{"input": pair["input"]} for pair in task["test"]]}
                      for name, task in secret.items()}


def test_files_of_one_name_in_two_folders_are_both_recorded(subsets, tmp_path):
    for subset, names in (("learn", ["x", "y"]), ("exam", ["x"])):
        (tmp_path / "data" / subset).mkdir(parents=True)
        for name, task in zip(names, subsets[subset].values()):
            (tmp_path / "data" / subset / f"{name}.json").write_text(json.dumps(task))
    built = build(str(tmp_path / "data"), tmp_path / "built")
    assert names_of(built).count("x") == 1 and list(load(built, "train")["group_indices"]) == [0, 21, 42, 63]
    assert list(json.loads((built / "source.json").read_text())["source"]) == [
        "learn/x.json", "learn/y.json", "exam/x.json"]


def test_a_few_tasks_can_be_chosen_and_come_out_as_among_all(prefix, built, tmp_path):
    few = build(prefix, tmp_path / "few", "--tasks", "learn2", "exam1")
    assert [name for name in names_of(few) if "|||" not in name] == ["<blank>", "learn2", "exam1"]
    assert set(names_of(few)) <= set(names_of(built))
    for ids, message in ((["exam1", "exam9"], "--tasks: exam9 is in none of the --subsets"),
                         (["learn2"], "--tasks names no task of the test set")):
        with pytest.raises(ValueError, match=message):
            build(prefix, tmp_path / "no", "--tasks", *ids)


def test_leaks_are_told_dropped_or_refused(subsets, tmp_path, capsys):
    learn = subsets["learn"] | {"exam0": random_arc_task(np.random.default_rng(5)),
                                "copy": turned(subsets["exam"]["exam1"])}
    prefix = write_arc_source(tmp_path, subsets | {"learn": learn})
    told = "2 of 14 training tasks stand in the test set as well, by id or by content up to symmetry and colours: " \
        "exam0, copy (in the test set: exam1)"
    kept = build(prefix, tmp_path / "kept")
    assert f"warning: {told}; scores will" in capsys.readouterr().err
    assert "copy" in names_of(kept)
    dropped = build(prefix, tmp_path / "dropped", "--on-leak", "drop")
    assert f"warning: {told}; left out of training" in capsys.readouterr().err
    assert [name for name, _, _ in puzzles(dropped, "train") if "|||" not in name] == [*subsets["learn"],
                                                                                       *subsets["exam"]]
    with pytest.raises(ValueError) as refused:
        build(prefix, tmp_path / "refused", "--on-leak", "error")
    assert told in str(refused.value) and "--on-leak drop" in str(refused.value)
    assert not (tmp_path / "refused").exists()


def test_a_fraction_of_the_tasks_is_the_test_set_and_what_shows_the_same_stays_together(subsets, tmp_path, capsys):
    """learn0 stands in another subset as well, learn1 turned and learn2 with other colours under another id."""
    turned = {kind: [{side: np.rot90(pair[side]).tolist() for side in pair} for pair in pairs]
              for kind, pairs in subsets["learn"]["learn1"].items()}
    painted = {kind: [{side: ((np.array(pair[side]) + 3) % 10).tolist() for side in pair} for pair in pairs]
               for kind, pairs in subsets["learn"]["learn2"].items()}
    other = {"learn0": subsets["learn"]["learn0"], "turned": turned, "painted": painted}
    prefix = write_arc_source(tmp_path, {"learn": subsets["learn"], "other": other})
    together = [{"learn1", "turned"}, {"learn2", "painted"}]
    drawn = set()
    for seed in range(3):
        options = ["--test-fraction", 0.25, "--seed", seed, "--num-aug", 0, "--on-leak", "error"]
        built = build(prefix, tmp_path / f"seed{seed}", *options, subsets="learn other", test=None)
        tested = {name for name, _, _ in puzzles(built, "test")}
        assert len(tested) - sum(pair <= tested for pair in together) == 3  # of twelve tasks
        assert all(len(pair & tested) != 1 for pair in together)
        assert set(json.loads((built / "test_puzzles.json").read_text())) == tested
        for name, _, grids in puzzles(built, "train"):
            assert len(grids) == 2 * (3 if name in tested else 4)  # demonstrations are trained on, as published
        drawn.add(frozenset(tested))
    assert len(drawn) > 1


@pytest.mark.parametrize("options, message", [
    ([], "one of the arguments --test-set-name --test-fraction is required"),
    (["--test-set-name", "exam", "--test-fraction", "0.5"],
     "--test-fraction: not allowed with argument --test-set-name"),
    (["--test-set-name2", "exam", "--test-fraction", "0.5"],
     "--test-fraction draws the test set, and --test-set-name2 names one"),
    (["--test-fraction", "0.5", "--tasks", "learn1"], "all 1 rows are variants of one task")])
def test_a_test_set_is_either_named_or_drawn(prefix, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        build(prefix, tmp_path / "no", *options, test=None)


def test_the_loader_reads_it(built):
    config = PuzzleDatasetConfig(seed=0, dataset_paths=[str(built)], global_batch_size=8, test_set_mode=True)
    dataset = PuzzleDataset(config, split="test")
    assert sum(count for _, _, count in dataset) == len(load(built, "test")["inputs"])
    training = PuzzleDataset(config.model_copy(update={"test_set_mode": False}))
    _, batch, _ = next(iter(training))
    assert batch["inputs"].shape == (8, 900) and int(batch["labels"].max()) <= 11 and int(batch["labels"].min()) == -100


def test_it_means_what_the_published_data_set_means(shared, tmp_path):
    """Built from the same tasks; only random draws may differ: the order of tasks, augmentations and places."""
    published, prefix = shared / "interop" / "arc-small", str(shared / "interop" / "arc-small-source" / "arc-agi")
    ours = build(prefix, tmp_path / "ours", "--num-aug", 8, subsets="training evaluation", test="evaluation")
    files = {file.relative_to(published) for file in published.rglob("*.*")}
    assert {file.relative_to(ours) for file in ours.rglob("*.*")} == files | {Path("source.json")}
    for name, added in (("train/dataset.json", {"kind": "arc"}), ("test/dataset.json", {"kind": "arc"}),
                        ("test_puzzles.json", {})):  # published readers pass over the kind
        assert json.loads((ours / name).read_text()) == json.loads((published / name).read_text()) | added
    for split in ("train", "test"):
        for field, array in load(published, split).items():
            assert (load(ours, split)[field].dtype, load(ours, split)[field].shape) == (array.dtype, array.shape)
        shown = [{name: grids for name, _, grids in puzzles(folder, split) if "|||" not in name}
                 for folder in (ours, published)]
        assert shown[0] == shown[1]
        np.testing.assert_array_equal(*(load(folder, split)["puzzle_identifiers"] for folder in (ours, published)))
    assert names_of(ours)[0] == names_of(published)[0] and len(names_of(ours)) == len(names_of(published))


@pytest.mark.parametrize("start", [["-m", "dataset.build_arc_dataset"], ["dataset/build_arc_dataset.py"]])
def test_runs_as_module_and_as_script(prefix, built, tmp_path, start):
    command = [sys.executable, *start, "--input-file-prefix", prefix, "--output-dir", str(tmp_path / "arc"),
               "--subsets", "learn", "exam", "--test-set-name", "exam", "--num-aug", str(NUM_AUG), "--num-workers", "2"]
    result = run_process(command, ROOT)
    assert result.returncode == 0 and "\r" not in result.stderr  # no bar where there is no terminal
    fingerprint = dataset_fingerprint(built)
    assert result.stdout.splitlines() == [
        "train: 16 groups, 336 puzzles, 1176 examples", "test: 4 groups, 84 puzzles, 126 examples",
        f"{tmp_path / 'arc'}: fingerprint {fingerprint}"]
    source = json.loads((tmp_path / "arc" / "source.json").read_text())
    assert list(source["source"]) == [f"tasks_{subset}_{part}.json" for subset in ("learn", "exam")
                                      for part in ("challenges", "solutions")]
    again = run_process(command, ROOT)
    assert again.returncode == 2 and "exists already" in again.stderr and "Traceback" not in again.stderr


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_leaves_nothing(prefix, tmp_path, stop):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "dataset.build_arc_dataset", "--input-file-prefix", prefix, "--output-dir",
               str(out / "arc"), "--subsets", "learn", "exam", "--test-set-name", "exam", "--num-aug", "5000",
               "--num-workers", "2"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True,
                               preexec_fn=heed_ctrl_c)
    deadline = time.monotonic() + 60
    while not list(out.glob("*/train/all__inputs.npy")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, stop)
    assert process.wait(timeout=60) != 0
    assert not list(out.iterdir())
    with pytest.raises(ProcessLookupError):  # no worker is left
        os.killpg(process.pid, 0)


def test_a_full_disk_is_seen_before_anything_is_written(prefix, tmp_path):
    with pytest.raises(ValueError, match=r"built needs about \d+ MB, and .* MB free; make some space"):
        build(prefix, tmp_path / "built", "--num-aug", 10 ** 9)
    assert not list(tmp_path.iterdir())
