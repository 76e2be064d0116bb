"""The evaluation loop against the recorded evaluation, and rule checks against grids made by hand."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import evaluators
from dataset.common import IGNORE_LABEL_ID, PuzzleDatasetMetadata, write_split
from dataset.puzzle_dataset import PuzzleDataset, PuzzleDatasetConfig
from dataset.puzzle_rows import PuzzleRows
from evaluators.loop import evaluate
from evaluators.maze import Maze
from evaluators.protocol import build_evaluators, distinct
from evaluators.rows import trace
from evaluators.rules import Rules
from evaluators.sudoku import Sudoku
from helpers import tiny_config, write_tiny_dataset
from losses import ACTLossHead
from models.recursive_reasoning.trm import TRM
from utils.checkpoint import load_weights, read_checkpoint, weights_of
from utils.distributed import World

ALONE = World()


def test_dataset(*paths, batch: int = 4, rows: PuzzleRows | None = None) -> PuzzleDataset:
    return PuzzleDataset(PuzzleDatasetConfig(seed=0, dataset_paths=[str(path) for path in paths], test_set_mode=True,
                                             global_batch_size=batch), "test", rows)


test_dataset.__test__ = False  # a data set, not a test


@pytest.fixture
def data(tmp_path):
    return write_tiny_dataset(tmp_path / "data")


@pytest.fixture
def head() -> ACTLossHead:
    torch.manual_seed(0)
    model = TRM(tiny_config(num_puzzle_identifiers=65))
    model.inner.q_head.weight.data.normal_(std=3)
    return ACTLossHead(model, loss_type="softmax_cross_entropy")


def test_every_supervision_step_agrees_with_the_recorded_evaluation(shared):
    folder = shared / "interop" / "sudoku4"
    expected = json.loads((folder / "expected_eval.json").read_text())["per_step"]
    head = ACTLossHead(TRM(tiny_config(
        seq_len=16, vocab_size=6, num_puzzle_identifiers=1, hidden_size=64, num_heads=4, expansion=4, L_layers=2,
        H_cycles=2, L_cycles=3, halt_max_steps=8, mlp_t=True, pos_encodings="none", puzzle_emb_ndim=64,
        puzzle_emb_len=1)), loss_type="stablemax_cross_entropy").eval()
    load_weights(head, weights_of(read_checkpoint(folder / "checkpoint" / "step_550"), True), "step_550")
    found = [dict.fromkeys(("exact", "cells", "q", *step["metrics"], "loss"), 0.0) for step in expected]
    with torch.no_grad():
        for _, batch, _ in test_dataset(folder, batch=128):
            carry = head.initial_carry(batch)
            for step in found:
                carry, _, metrics, out, finished = head(carry=carry, batch=batch,
                                                        return_keys=("preds", "q_halt_logits"))
                right = out["preds"] == batch["labels"]
                step["exact"] += right.all(-1).sum().item() / 512
                step["cells"] += right.float().mean(-1).sum().item() / 512
                step["q"] += out["q_halt_logits"].sum().item() / 512
                for name in metrics.keys() & step.keys():
                    step[name] += metrics[name].item()
            assert finished
    for step, recorded in zip(found, expected, strict=True):
        assert step["exact"] == recorded["exact_accuracy"]
        assert step["cells"] == pytest.approx(recorded["accuracy"], abs=1e-6)
        assert step["q"] == pytest.approx(recorded["q_halt_mean"], abs=1e-4)
        for name, value in (recorded["metrics"] | {"loss": recorded["loss"]}).items():
            assert step[name] == pytest.approx(value, rel=1e-4, abs=1e-4), name


def by_hand(head, data: PuzzleDataset) -> dict[str, float]:
    """Means over all examples after the last step, one example at a time."""
    found = {"accuracy": [], "exact_accuracy": [], "lm_loss": [], "q_halt_accuracy": []}
    for i in range(data.num_examples):
        batch = data.examples([i])
        carry = head.model.initial_carry(batch)
        for _ in range(head.model.config.halt_max_steps):
            carry, out = head.model(carry, batch)
        labels = batch["labels"][0].long()
        answered = labels != -100
        right = out["logits"][0].argmax(-1)[answered] == labels[answered]
        found["accuracy"].append(right.float().mean().item())
        found["exact_accuracy"].append(float(right.all()))
        found["q_halt_accuracy"].append(float((out["q_halt_logits"][0] >= 0) == right.all()))
        found["lm_loss"].append(-out["logits"][0].log_softmax(-1)[answered, labels[answered]].mean().item())
    return {name: float(np.mean(values)) for name, values in found.items()}


@pytest.mark.parametrize("batch", [1, 3, 4, 10, 64])
def test_metrics_are_means_over_examples_whatever_the_batch(data, head, batch):
    labels = np.load(data / "test" / "all__labels.npy")
    labels[:5, 1:4] = 0  # no answer asked
    np.save(data / "test" / "all__labels.npy", labels)
    metrics = evaluate(head, test_dataset(data, batch=batch), ALONE)
    with torch.no_grad():
        expected = by_hand(head.eval(), test_dataset(data))
    assert {name: metrics[f"val/{name}"] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert metrics["val/steps"] == 3
    assert metrics["val/loss"] == pytest.approx(metrics["val/lm_loss"] + 0.5 * metrics["val/q_halt_loss"])


def test_evaluation_gives_the_model_back_in_training_mode_without_gradients(data, head):
    head.train()
    evaluate(head, test_dataset(data), ALONE)
    assert head.training and all(parameter.grad is None for parameter in head.parameters())


def test_sets_are_reported_apart_and_together(tmp_path, head):
    paths = [write_tiny_dataset(tmp_path / name, test=[[1]] * size, seed=size) for name, size in (("a", 3), ("b", 9))]
    head = ACTLossHead(TRM(tiny_config(num_puzzle_identifiers=129)), loss_type="softmax_cross_entropy")
    both_rows = PuzzleRows(list(map(str, paths)))
    both = evaluate(head, test_dataset(*paths), ALONE)
    for name in ("accuracy", "lm_loss"):
        apart = [evaluate(head, test_dataset(path, rows=both_rows), ALONE)[f"val/{name}"]
                 for path in paths]
        assert [both[f"val/all/{name}"], both[f"val/all1/{name}"]] == pytest.approx(apart)
        assert both[f"val/{name}"] == pytest.approx((3 * apart[0] + 9 * apart[1]) / 12)


def test_saved_outputs_are_those_of_every_example_in_order(data, head, tmp_path):
    keys = ["inputs", "labels", "puzzle_identifiers", "preds", "q_halt_logits", "logits"]
    evaluate(head, test_dataset(data), ALONE, save_outputs=keys, save_path=tmp_path / "out")
    saved = torch.load(tmp_path / "out" / "outputs.rank0.pt", weights_only=True)
    assert list(saved) == keys
    examples = test_dataset(data).examples(range(10))
    assert all(torch.equal(saved[name], examples[name]) for name in examples)
    preds, q_halt = trace(head, examples)
    assert torch.equal(saved["preds"], preds[-1]) and torch.allclose(saved["q_halt_logits"], q_halt[-1], atol=1e-5)
    assert torch.equal(saved["logits"].argmax(-1), preds[-1]) and preds.shape == (3, 10, 6)


def test_an_output_that_the_model_does_not_have_is_named(data, head, tmp_path):
    with pytest.raises(ValueError, match="eval_save_outputs asks for predz; there are .*preds"):
        evaluate(head, test_dataset(data), ALONE, save_outputs=["predz"], save_path=tmp_path)


OWN = """
class Collect:
    required_outputs = {"preds", "q_halt_logits"}
    def __init__(self, data_path, eval_metadata, offset):
        self.data_path, self.vocab_size, self.offset, self.begun = data_path, eval_metadata.vocab_size, offset, 0
    def begin_eval(self):
        self.begun, self.identifiers = self.begun + 1, []
    def update_batch(self, batch, outputs):
        assert len(batch["inputs"]) == len(outputs["preds"]) == len(outputs["q_halt_logits"])
        self.identifiers += batch["puzzle_identifiers"].tolist()
    def result(self, save_path, rank, world_size, group):
        assert self.begun and (rank, world_size) == (0, 1)
        return {"examples": len(self.identifiers), "sum": sum(self.identifiers) + self.offset}
"""


def test_a_users_own_evaluator_sees_its_own_data_set(tmp_path, head, monkeypatch):
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.setattr(evaluators, "__path__", [*evaluators.__path__, str(tmp_path)])
    paths = [write_tiny_dataset(tmp_path / name, test=[[1]] * size) for name, size in (("a", 3), ("b", 5))]
    head = ACTLossHead(TRM(tiny_config(num_puzzle_identifiers=129)), loss_type="softmax_cross_entropy")
    data = test_dataset(*paths)
    built = build_evaluators([{"name": "own@Collect", "offset": 100}], data)
    for _ in range(2):
        metrics = evaluate(head, data, ALONE, built)
        assert {name: value for name, value in metrics.items() if name.startswith("eval/")} == {
            "eval/own/a/examples": 3, "eval/own/a/sum": 106, "eval/own/b/examples": 5, "eval/own/b/sum": 115}
    assert build_evaluators([{"name": "own@Collect", "offset": 1}], test_dataset(paths[0])).keys() == {"eval/own"}


WRITES = """
import os
class Writes:
    required_outputs = set()
    def __init__(self, data_path, eval_metadata, text="first"): self.text, self.metadata = text, eval_metadata
    def begin_eval(self): pass
    def update_batch(self, batch, outputs): pass
    def result(self, save_path, rank, world_size, group):
        if self.text:
            with open(os.path.join(save_path, "answers.txt"), "x") as file:  # as published evaluators do
                file.write(self.text)
        return {"length": len(self.text)}
class Quiet(Writes):
    notices = ["quiet has seen its data"]
"""


@pytest.fixture
def writes(tmp_path, monkeypatch):
    (tmp_path / "writes.py").write_text(WRITES)
    monkeypatch.setattr(evaluators, "__path__", [*evaluators.__path__, str(tmp_path)])


def test_evaluators_that_would_share_a_name_or_a_file_are_kept_apart(writes, tmp_path, head, capsys):
    """The same class with other options, another class of its module, and data sets whose folders have one name."""
    paths = [write_tiny_dataset(tmp_path / name / "x", test=[[1]] * 3, seed=i) for i, name in enumerate("ab")]
    configs = [{"name": "writes@Writes"}, {"name": "writes@Writes", "text": "second"},
               {"name": "writes@Quiet", "text": ""}]
    data = test_dataset(*paths)
    built = build_evaluators(configs, data)
    assert {prefix: path for prefix, (path, _) in built.items()} == {
        f"eval/writes{i}/x{j}": str(path) for i in ("", 2, 3) for j, path in zip(("", 2), paths)}
    told = capsys.readouterr().out
    assert f"notice: eval/writes2/x2 is {configs[1]} on {paths[1]}\n" in told
    assert "eval/writes/x is" not in told and told.count("notice: quiet has seen its data\n") == 1
    head = ACTLossHead(TRM(tiny_config(num_puzzle_identifiers=129)), loss_type="softmax_cross_entropy")
    metrics = evaluate(head, data, ALONE, built, save_path=tmp_path / "out")
    lengths = {name: value for name, value in metrics.items() if name.startswith("eval/")}
    assert lengths == {f"{prefix}/length": {"": 5, "2": 6, "3": 0}[prefix.split("/")[1].removeprefix("writes")]
                       for prefix in built}
    files = {file.relative_to(tmp_path / "out").as_posix(): file.read_text() for file in tmp_path.glob("out/**/*.txt")}
    assert files == {f"writes{i}/x{j}/answers.txt": text for i, text in (("", "first"), ("2", "second"))
                     for j in ("", "2")}
    assert not (tmp_path / "out" / "writes3").exists()  # of one that writes nothing


def test_an_evaluator_alone_writes_to_the_folder_of_the_evaluation(writes, tmp_path, head, data):
    for text, expected in (("first", ["answers.txt"]), ("", None)):
        built = build_evaluators([{"name": "writes@Writes", "text": text}], test_dataset(data))
        folder = tmp_path / f"out{text}"
        evaluate(head, test_dataset(data), ALONE, built, save_path=folder)
        assert ([file.name for file in folder.iterdir()] if folder.exists() else None) == expected


SUDOKU, EMPTY = "1234341221434321", "?" * 16


def written(path: Path, questions: list[str], answers: list[str], alphabet: str, vocab_size: int) -> Path:
    """A data set of one kind; what is not in its alphabet is a blank."""
    each = np.arange(len(questions) + 1, dtype=np.int32)
    for split in ("train", "test"):
        write_split(path / split, {
            "inputs": np.stack([cells(text, alphabet) for text in questions]).astype(np.uint8),
            "labels": np.stack([cells(text, alphabet) for text in answers]).astype(np.uint8),
            "puzzle_identifiers": 0 * each[1:], "puzzle_indices": each, "group_indices": each}, vocab_size)
    return path


@pytest.mark.parametrize("kind, questions, answers, alphabet, vocab_size", [
    ("sudoku", [EMPTY, EMPTY], [SUDOKU, SUDOKU[::-1]], "#?1234", 6),
    (None, [EMPTY, EMPTY], [SUDOKU, "1" * 16], "#?1234", 6),  # the second breaks the rules
    ("maze", ["S  #/ #  /   G/# ##"], ["S  #/o#  /oooG/# ##"], "?# SGo", 6),
    (None, ["S  #/ #  /   G/# ##"], ["Soo#/o#o /oooG/# ##"], "?# SGo", 6),
    (None, ["S  #/ #  /   "], ["   /  #/ #S  "], "?# SGo", 6),  # no square
])
def test_without_evaluators_puzzles_are_scored_by_those_of_their_kind(tmp_path, kind, questions, answers, alphabet,
                                                                     vocab_size):
    data = test_dataset(written(tmp_path / "data", questions, answers, alphabet, vocab_size))
    built = build_evaluators(None, data)
    assert list(built) == ([f"eval/{kind}"] if kind else [])
    assert build_evaluators([], data) == {}
    for _, evaluator in built.values():
        evaluator.begin_eval()
        examples = data.examples(range(len(questions)))
        evaluator.update_batch(examples, {"preds": examples["labels"]})
        assert evaluator.result(None, 0, 1, None)["solved"] == 1


@pytest.mark.parametrize("names, apart", [
    ("a b", "a b"), ("a a", "a a2"), ("a a a", "a a2 a3"), ("a2 a a", "a2 a a3"), ("a a a2", "a a2 a22"), ("", "")])
def test_names_that_come_again_are_numbered(names, apart):
    assert distinct(names.split()) == apart.split()


@pytest.mark.parametrize("options, message", [
    ({"colour": 1}, "unexpected keyword argument 'colour'"), ({"data_path": "x"}, "multiple values for .*data_path")])
def test_options_that_an_evaluator_does_not_take_are_one_message(data, options, message):
    with pytest.raises(ValueError, match=f"evaluators: sudoku@Sudoku does not take these options: .*{message}"):
        build_evaluators([{"name": "sudoku@Sudoku"} | options], test_dataset(data))


# Rules

def metadata(cells: int) -> PuzzleDatasetMetadata:
    return PuzzleDatasetMetadata(pad_id=0, ignore_label_id=0, blank_identifier_id=0, vocab_size=11, seq_len=cells,
                                 num_puzzle_identifiers=1, total_groups=1, mean_puzzle_examples=1, total_puzzles=1,
                                 sets=["all"])


def scores(evaluator, inputs: np.ndarray, preds: np.ndarray, labels: np.ndarray | None = None
           ) -> list[dict[str, float]]:
    """What an evaluator says of each row alone; and over all rows, in batches of two, it says their means."""
    labels = np.full_like(inputs, IGNORE_LABEL_ID) if labels is None else labels

    def result(*batches: slice):
        evaluator.begin_eval()
        for rows in batches:
            evaluator.update_batch({"inputs": torch.from_numpy(inputs[rows]), "labels": torch.from_numpy(labels[rows])},
                                   {"preds": torch.from_numpy(preds[rows])})
        return evaluator.result(None, 0, 1, None)

    one_by_one = [result(slice(i, i + 1)) for i in range(len(inputs))]
    together = result(*(slice(i, i + 2) for i in range(0, len(inputs), 2)))
    assert together == pytest.approx({name: np.mean([s[name] for s in one_by_one]) for name in together})
    return one_by_one


def cells(text: str, alphabet: str) -> np.ndarray:
    return np.array([alphabet.index(c) for c in text.replace("/", "")])


def test_sudoku_rules():
    solution = cells("1234/3412/2143/4321", "?.1234")
    question = cells("1.../..1./2.../..2.", "?.1234")
    changed_clue = np.array([dict(zip(range(2, 6), p))[t] for p in [(3, 2, 4, 5)] for t in solution])  # still valid
    repeated = solution.copy()
    repeated[5] = repeated[4]
    padded = solution.copy()
    padded[7] = 0
    rows = scores(Sudoku("path", metadata(16)), np.tile(question, (4, 1)),
                  np.stack([solution, changed_clue, repeated, padded]))
    assert rows == [{"solved": 1, "valid": 1, "clues_kept": 1}, {"solved": 0, "valid": 1, "clues_kept": 0},
                    {"solved": 0, "valid": 0, "clues_kept": 1}, {"solved": 0, "valid": 0, "clues_kept": 1}]


MAZE = "S  #/ #  /   G/# ##"


@pytest.mark.parametrize("answer, expected", [
    ("S  #/o#  /oooG/# ##", (1, 1, 1)),       # the shortest way
    ("So #/ #oo/   G/# ##", (0, 0, 1)),       # a gap
    ("Soo#/ #oo/   G/# ##", (1, 1, 1)),       # another, as short
    ("Soo#/o#o /oooG/# ##", (0, 0, 1)),       # both ways at once
    ("S  #/ #  /   G/# ##", (0, 0, 1)),       # nothing marked
    ("S  #/o   /oooG/# ##", (0, 1, 0)),       # a wall taken away
    ("S  #/o#  /oooG/#o##", (0, 0, 1)),       # a mark off the path
    ("o  #/o#  /oooG/# ##", (0, 0, 0)),       # the start gone
])
def test_maze_rules(answer, expected):
    inputs, preds = (cells(text, "?# SGo")[None] for text in (MAZE, answer))
    evaluator = Maze("path", metadata(16))
    row, = scores(evaluator, inputs, preds)
    assert tuple(row[name] for name in ("solved", "path", "map_kept")) == expected
    assert (row["shortest"], row["valid"]) == (row["solved"], row["path"] * row["map_kept"])


def test_another_shortest_path_is_not_exact_and_a_detour_is_valid_alone():
    inputs = np.tile(cells("S  / # /  G", "?# SGo"), (4, 1))
    preds = np.stack([cells(text, "?# SGo") for text in ("Soo/ #o/  G", "S  /o# /ooG", "S  / # /  G", "Soo/ #o/o G")])
    by_label = scores(Maze("path", metadata(9)), inputs, preds, np.tile(preds[0], (4, 1)))
    names = "exact", "shortest", "solved", "valid", "path", "map_kept"
    assert [tuple(row[name] for name in names) for row in by_label] == [
        (1, 1, 1, 1, 1, 1), (0, 1, 1, 1, 1, 1), (0, 0, 0, 0, 0, 1), (0, 0, 0, 0, 0, 1)]
    detour = cells("S G/   /   ", "?# SGo")[None], cells("S G/o o/ooo", "?# SGo")[None]
    row, = scores(Maze("path", metadata(9)), *detour)
    assert row == {"shortest": 0, "solved": 0, "valid": 1, "path": 1, "map_kept": 1}  # without a label no `exact`


def test_rules_need_boards_of_their_size():
    remedy = r"; or use evaluators=\[\]$"
    with pytest.raises(ValueError, match=f"^Sudoku cannot check data/strings: .* square .* 12 .*{remedy}"):
        Sudoku("data/strings", metadata(12))
    with pytest.raises(ValueError, match=f"data/squares: Sudoku has 16, .*, 625 cells, and these are 25{remedy}"):
        Sudoku("data/squares", metadata(25))


def test_rules_of_any_kind_are_checked_by_its_name():
    named = metadata(16).model_copy(update={"kind": "sudoku"})
    for evaluator in (Rules("path", named), Rules("path", metadata(16), "sudoku")):
        assert list(evaluator.names()) == ["solved", "valid", "clues_kept"]
    for kind, problem in ((None, "dataset.json names no kind"), ("sequence", "Sequence has no rules"),
                          ("chess", "there is no module dataset.kinds.chess")):
        with pytest.raises(ValueError, match=f"^Rules cannot check path: {problem}.*evaluators=.*$"):
            Rules("path", metadata(16), kind)
