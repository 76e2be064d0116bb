"""Solving by chains, with a network that deduces direct consequences perfectly, and with one that knows nothing."""
import csv

import numpy as np
import pytest
import torch
from torch import Tensor

from dataset import build_sudoku_dataset, generate_sudoku
from dataset.puzzle_dataset import PuzzleDataset, PuzzleDatasetConfig
from evaluators.chains import Chains
from evaluators.loop import evaluate
from evaluators.rows import row_steps
from evaluators.test_time import build_strategy
from helpers import pretrain_config
from losses.head import LossHead
from models.recursive_reasoning.ldt import LDTConfig, LDTNetwork
from test_rows import answers_of
from utils.distributed import World

SIDE, TOKENS = 4, 6


class Rules(LDTNetwork):
    """Keeps a digit of an open cell unless a cell of its row, column or box that has one candidate left has that digit.
    Sees a conflict where two such cells share a digit."""

    def __init__(self, config: LDTConfig):
        super().__init__(config)
        cells = torch.arange(SIDE**2)
        r, c = cells // SIDE, cells % SIDE
        box = r // 2 * 2 + c // 2
        together = (r[:, None] == r) | (c[:, None] == c) | (box[:, None] == box)
        self.peers = (together & ~torch.eye(SIDE**2, dtype=torch.bool)).float()

    def forward(self, candidates: Tensor, *_):
        single = candidates * (candidates.sum(-1, keepdim=True) == 1)
        excluded = self.peers @ single > 0  # (B, L, V)
        conflict = (excluded & single.bool()).flatten(1).any(1)
        keep = torch.where(excluded & ~single.bool(), -9.0, 9.0)
        return keep[:, None], torch.zeros_like(keep)[:, None], torch.where(conflict, 9.0, -9.0)[:, None]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chains")
    generate_sudoku.main(["--size", "4", "--train", "2", "--test", "12", "--output-dir", str(folder / "csv")])
    build_sudoku_dataset.main(["--source-dir", str(folder / "csv"), "--output-dir", str(folder / "data")])
    return folder / "data"


def dataset_of(path, batch: int) -> PuzzleDataset:
    return PuzzleDataset(PuzzleDatasetConfig(seed=0, dataset_paths=[str(path)], test_set_mode=True,
                                             global_batch_size=batch), "test")


def head_of(data: PuzzleDataset, perfect: bool, *words: str) -> LossHead:
    torch.manual_seed(0)
    config = pretrain_config("arch=ldt", "arch.hidden_size=8", "arch.num_heads=1", "arch.L_layers=1", "arch.loops=1",
                             "arch.forward_dtype=float32",  # that of `Rules`, on a CPU with AMX, too
                             *words)
    head = config.arch.build_head(data.metadata, batch_size=8, world=World()).eval()
    if perfect:
        head.model.inner = Rules(head.model.config)
    return head


def test_guesses_and_direct_consequences_solve_every_puzzle(data):
    dataset = dataset_of(data, batch=8)
    answered: list[int] = []
    metrics = evaluate(head_of(dataset, True), dataset, World(), strategy=Chains(chains=4, rounds=200),
                       answered=answered.append)
    assert sum(answered) == 12 and max(answered) < 12
    assert metrics["val/exact_accuracy"] == metrics["val/accepted"] == 1 and metrics["val/accepted_wrong"] == 0
    assert metrics["val/deductions"] > 3 and 0 <= metrics["val/unsound_deductions"] < 0.5
    one_chain = evaluate(head_of(dataset, True), dataset, World())
    assert one_chain["val/exact_accuracy"] < 1  # guesses go wrong, and a chain alone does not start over


@pytest.mark.parametrize("decide", ["always", "stuck"])
def test_one_chain_that_takes_its_guesses_back_solves_every_puzzle(data, decide):
    dataset = dataset_of(data, batch=8)
    search = ["arch.backtrack=16", "arch.halt_max_steps=300", f"arch.decide={decide}"]
    metrics = evaluate(head_of(dataset, True, *search), dataset, World())
    assert metrics["val/exact_accuracy"] == metrics["val/accepted"] == 1
    assert metrics["val/unsound_deductions"] == 0  # what a wrong guess removed is back


def test_answers_do_not_depend_on_the_batch_and_come_once_each(data):
    found = []
    for batch in (4, 8, 48):
        dataset = dataset_of(data, batch)
        answers = answers_of(head_of(dataset, True), dataset, Chains(chains=4, rounds=200))
        order = np.argsort([int(number) for answer in answers for number in answer.numbers])
        found.append([torch.cat(parts)[order] for parts in zip(*(
            (answer.outputs["preds"], answer.steps, answer.outputs["deductions"], torch.from_numpy(answer.numbers))
            for answer in answers))])
    assert found[0][3].tolist() == list(range(12)) and len(found[0][1].unique()) > 1
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other))


def test_a_file_tells_what_a_shorter_search_would_have_reached(data, tmp_path):
    dataset, strategy = dataset_of(data, batch=8), Chains(chains=2, rounds=200)
    evaluate(head_of(dataset, True), dataset, World(), strategy=strategy, save_path=tmp_path)
    rows = list(csv.DictReader((tmp_path / "chains.csv").read_text().splitlines()))
    assert strategy.told == [f"accepted by rounds: {tmp_path / 'chains.csv'}"]
    assert rows[-1]["accepted"] == rows[-1]["exact"] == "1.0" and len(rows) > 2
    for row in (rows[0], rows[-2]):
        assert int(row["steps"]) == 2 * int(row["rounds"])
        shorter = evaluate(head_of(dataset, True), dataset, World(), strategy=Chains(2, int(row["rounds"])))
        assert float(row["accepted"]) == pytest.approx(shorter["val/accepted"])
        assert float(row["exact"]) == pytest.approx(shorter["val/exact_accuracy"])


def test_rows_that_no_chain_needs_any_more_are_not_computed(data):
    dataset, strategy = dataset_of(data, batch=48), Chains(chains=4, rounds=200)
    head, (example_set,) = head_of(dataset, True), dataset.sets.values()
    strategy.begin(example_set, dataset.own_examples(example_set), 48)
    with torch.no_grad():
        computed = [(len(step.numbers), int(step.busy.sum()), strategy.take(step))
                    for step in row_steps(head, dataset, example_set, strategy, World())]
    assert computed[0][0] == 48 and computed[-1][0] < 12 and all(3 * rows <= 4 * busy for rows, busy, _ in computed)


def test_steps_are_those_of_all_chains_and_more_chains_need_fewer_rounds(data):
    dataset = dataset_of(data, batch=16)
    rounds = []
    for chains in (1, 16):
        answers = answers_of(head_of(dataset, True), dataset, Chains(chains, rounds=500))
        steps = torch.cat([answer.steps for answer in answers])
        assert not (steps % chains).any()
        rounds.append((steps / chains).mean().item())
    assert rounds[1] < 0.7 * rounds[0]


def test_a_puzzle_whose_time_is_over_is_answered_by_its_question_and_is_a_failure(data):
    dataset = dataset_of(data, batch=8)
    head = head_of(dataset, False, "arch.eval_conflict_above=0")  # always in conflict
    answers = answers_of(head, dataset, Chains(chains=4, rounds=3))
    assert sum(len(answer.numbers) for answer in answers) == 12
    for answer in answers:
        assert torch.equal(answer.outputs["preds"].int(), answer.data["inputs"].int())
        assert answer.steps.tolist() == [12] and not answer.outputs["solved"].any()
    metrics = evaluate(head, dataset, World(), strategy=Chains(chains=4, rounds=3))
    assert metrics["val/exact_accuracy"] == metrics["val/accepted"] == 0 and metrics["val/accuracy"] > 0


def test_chains_draw_other_numbers_and_so_do_those_that_start_over(data):
    dataset, strategy = dataset_of(data, batch=8), Chains(chains=4, rounds=3)
    example_set, = dataset.sets.values()
    strategy.begin(example_set, dataset.own_examples(example_set), 8)
    first = strategy.draw(8)
    assert first.numbers.tolist() == [0] * 4 + [1] * 4 and len(set(first.seeds.tolist())) == 8
    strategy.again = [(0, 2 + 4)]
    again = strategy.draw(3)
    assert again.numbers.tolist() == [0] and again.seeds[0] not in first.seeds


@pytest.mark.parametrize("options, message", [({"chains": 0}, "chains=0 must"), ({"rounds": 1.5}, "rounds=1.5 must")])
def test_impossible_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Chains(**options)


@pytest.mark.parametrize("options, message", [
    ({"augment": 2}, "LDT sees symmetric views of its own"), ({"noise": 0.1, "noise_on": "z_L"}, "take no noise")])
def test_test_time_compute_that_it_has_no_use_for_is_refused(data, options, message):
    dataset = dataset_of(data, batch=8)
    with pytest.raises(ValueError, match=message):
        evaluate(head_of(dataset, False), dataset, World(), strategy=build_strategy(**options))


def test_several_attempts_at_a_puzzle_differ_by_their_guesses(data):
    dataset = dataset_of(data, batch=8)
    head = head_of(dataset, True, "arch.eval_dropout=0")
    one, several = (evaluate(head, dataset, World(), strategy=build_strategy(**options))["val/exact_accuracy"]
                    for options in ({}, {"trajectories": 8, "select": "valid"}))
    assert one < several


def test_too_few_rows_and_a_model_that_never_says_solved_are_refused(data):
    dataset = dataset_of(data, batch=8)
    with pytest.raises(ValueError, match="in 9 rows at once, and a process has 8; set a larger global_batch_size"):
        answers_of(head_of(dataset, True), dataset, Chains(chains=9))
    trm = pretrain_config("arch=trm", "arch.hidden_size=16", "arch.num_heads=2").arch
    with pytest.raises(ValueError, match="needs a model that says when it has solved"):
        answers_of(trm.build_head(dataset.metadata, 8, World()).eval(), dataset, Chains(chains=4))
