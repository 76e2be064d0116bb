"""The loop over rows: refills, strategies, and that nothing waits where the number of steps is known."""
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dataset.puzzle_dataset import PuzzleDataset, PuzzleDatasetConfig
from evaluators.loop import evaluate
from evaluators.rows import Answers, row_steps, supervision_steps
from evaluators.strategies import Attempts, Single
from helpers import tiny_config, write_tiny_dataset
from losses import ACTLossHead
from models.recursive_reasoning.trm import TRM
from utils.distributed import World

ALONE = World()
EXAMPLES = 10


@pytest.fixture
def data(tmp_path):
    return write_tiny_dataset(tmp_path / "data")


def dataset_of(path, batch: int) -> PuzzleDataset:
    return PuzzleDataset(PuzzleDatasetConfig(seed=0, dataset_paths=[str(path)], test_set_mode=True,
                                             global_batch_size=batch), "test")


def head_of(**options) -> ACTLossHead:
    """A network whose rows halt at different steps, where they may."""
    torch.manual_seed(0)
    head = ACTLossHead(TRM(tiny_config(**{"num_puzzle_identifiers": 65, "halt_max_steps": 5} | options)),
                       loss_type="softmax_cross_entropy")
    head.model.inner.q_head.weight.data.normal_(std=3)
    head.model.inner.q_head.bias.data.fill_(-3)
    return head.eval()


def alone(head: ACTLossHead, data: PuzzleDataset) -> list[dict[str, torch.Tensor]]:
    """Outputs of each example by itself, where it halts."""
    found = []
    with torch.no_grad():
        for number in range(EXAMPLES):
            *_, outputs = supervision_steps(head, data.examples([number]))
            found.append({name: value[0] for name, value in outputs.items()})
    return found


def answers_of(head, data: PuzzleDataset, strategy) -> list[Answers]:
    example_set, = data.sets.values()
    strategy.begin(example_set, data.own_examples(example_set), data.config.global_batch_size)
    with torch.no_grad():
        return [answer for step in row_steps(head, data, example_set, strategy, ALONE)
                for answer in strategy.take(step)]


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("batch", [1, 3, 4, 16])
def test_each_puzzle_is_answered_once_as_if_it_were_alone(data, batch, adaptive):
    head, test_data = head_of(act_inference=adaptive), dataset_of(data, batch)
    expected, seen = alone(head, test_data), []
    for answers in answers_of(head, test_data, Single()):
        for row, number in enumerate(answers.numbers):
            assert torch.equal(answers.data["inputs"][row], test_data.examples([number])["inputs"][0])
            assert torch.allclose(answers.outputs["logits"][row], expected[number]["logits"], atol=1e-4)
            seen.append(number)
    assert sorted(seen) == list(range(EXAMPLES))


@pytest.mark.parametrize("compiled, shapes", [(False, [4, 4, 2]), (True, [4, 4, 4])])
def test_only_a_compiled_model_computes_rows_without_a_puzzle(data, compiled, shapes):
    head, test_data = head_of(halt_max_steps=1), dataset_of(data, 4)
    head.model.is_compiled = compiled
    example_set, = test_data.sets.values()
    strategy = Single()
    strategy.begin(example_set, np.arange(EXAMPLES), 4)
    with torch.no_grad():
        steps = list(row_steps(head, test_data, example_set, strategy, ALONE))
    assert [len(step.outputs["logits"]) for step in steps] == shapes


def test_a_row_that_ends_gives_its_place_to_the_next_puzzle(data):
    head, test_data = head_of(act_inference=True), dataset_of(data, 3)
    example_set, = test_data.sets.values()
    strategy = Single()
    strategy.begin(example_set, np.arange(EXAMPLES), 3)
    with torch.no_grad():
        steps = [(step.numbers, step.steps, step.ended) for step in row_steps(head, test_data, example_set, strategy,
                                                                              ALONE)]
    taken = {int(number): int(count) for numbers, counts, ended in steps
             for number, count in zip(numbers[ended], counts[ended])}
    assert len(set(taken.values())) > 1 and sum(taken.values()) == sum((numbers >= 0).sum() for numbers, *_ in steps)
    free = [(numbers < 0).any() for numbers, *_ in steps]
    assert not any(free[:free.index(True)]) and all(free[free.index(True):])  # free rows only when none are waiting
    assert len(steps) < -(-EXAMPLES // 3) * max(taken.values())


class BestOfSeeds(Single):
    """K attempts at each puzzle, of which the surest answers: a strategy as users may write it."""

    def __init__(self, K: int):
        self.K = K

    def begin(self, example_set, numbers, batch):
        self.waiting = [(number, seed) for number in numbers for seed in range(self.K)]
        self.found = {}

    def draw(self, most):
        now, self.waiting = self.waiting[:most], self.waiting[most:]
        numbers, seeds = (np.array([pair[i] for pair in now], int) for i in (0, 1))
        return Attempts(numbers, seeds, numbers * self.K + seeds)

    def take(self, step):
        final = []
        for row in np.flatnonzero(step.ended):
            one = np.arange(len(step.ended)) == row
            attempts = self.found.setdefault(int(step.numbers[row]), {})
            attempts[int(step.attempts[row])] = step.answers(one)
            if len(attempts) == self.K:
                final.append(max(attempts.values(), key=lambda answer: answer.outputs["q_halt_logits"].item()))
        return final


def test_seeds_are_a_strategy_whose_result_does_not_depend_on_the_batch(data):
    head = head_of(initial_state_std=1.0, noise_scale=0.1)
    by_batch = []
    for batch in (2, 7):
        found = answers_of(head, dataset_of(data, batch), BestOfSeeds(3))
        by_batch.append({int(answer.numbers[0]): answer.outputs["q_halt_logits"].item() for answer in found})
    assert by_batch[0].keys() == set(range(EXAMPLES)) and by_batch[0] == pytest.approx(by_batch[1], abs=1e-4)
    single = [{int(number): q for answer in answers_of(head, dataset_of(data, 5), BestOfSeeds(K))
               for number, q in zip(answer.numbers, answer.outputs["q_halt_logits"].tolist())} for K in (1, 3)]
    assert single[0].keys() == single[1].keys() and single[0] != single[1]


class Mirrored(Single):
    """Shows each puzzle from right to left, and turns its answer back: a view of it."""

    def present(self, fields, attempts):
        return fields | {name: np.ascontiguousarray(fields[name][:, ::-1]) for name in ("inputs", "labels")}

    def take(self, step):
        return [Answers(answers.numbers, answers.data | {name: answers.data[name].flip(1)
                                                         for name in ("inputs", "labels")},
                        answers.outputs | {name: answers.outputs[name].flip(1) for name in ("preds", "logits")},
                        answers.steps) for answers in super().take(step)]


def test_a_strategy_may_show_another_view_of_a_puzzle_and_undo_it_in_the_answer(data):
    head, test_data, seen = head_of(), dataset_of(data, 4), []
    for answers in answers_of(head, test_data, Mirrored()):
        for row, number in enumerate(answers.numbers):
            batch = test_data.examples([number])
            mirrored = batch | {"inputs": batch["inputs"].flip(1)}
            with torch.no_grad():
                *_, outputs = supervision_steps(head, mirrored)
            assert torch.allclose(answers.outputs["logits"][row].flip(0), outputs["logits"][0], atol=1e-4)
            assert all(torch.equal(answers.data[name][row], batch[name][0]) for name in ("inputs", "labels"))
            seen.append(number)
    assert sorted(seen) == list(range(EXAMPLES))
    mirrored, plain = (evaluate(head, test_data, ALONE, strategy=strategy) for strategy in (Mirrored(), Single()))
    assert mirrored.keys() == plain.keys() and mirrored["val/lm_loss"] != plain["val/lm_loss"]


class Patient(Single):
    """A puzzle ends where its answer stays the same for a step."""

    def begin(self, example_set, numbers, batch):
        super().begin(example_set, numbers, batch)
        self.before = None

    def take(self, step):
        preds = step.outputs["preds"].numpy()
        if self.before is not None:
            step.ended |= step.busy & (step.steps > 1) & (preds == self.before).all(1)
        self.before = preds
        return super().take(step)


def test_a_strategy_may_end_rows_before_the_model_does(data):
    head, test_data = head_of(halt_max_steps=8), dataset_of(data, 4)
    steps = {}
    for answers in answers_of(head, test_data, Patient()):
        steps |= dict(zip(answers.numbers.tolist(), answers.steps.tolist()))
    expected = {}
    with torch.no_grad():
        for number in range(EXAMPLES):
            preds = [out["preds"] for out in supervision_steps(head, test_data.examples([number]))]
            same = [i + 1 for i in range(1, 8) if torch.equal(preds[i], preds[i - 1])]
            expected[number] = min([*same, 8])
    assert steps == expected and min(steps.values()) < 8


def test_a_strategy_is_all_that_an_evaluation_needs_to_be_another_one(data):
    head = head_of(initial_state_std=1.0)
    plain = evaluate(head, dataset_of(data, 4), ALONE)
    other = evaluate(head, dataset_of(data, 4), ALONE, strategy=BestOfSeeds(4))
    assert plain.keys() == other.keys() and plain != other


class Waits(TorchDispatchMode):
    """Counts what would have the host wait for a device: a tensor read as a Python number."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_where_the_number_of_steps_is_known_nothing_waits_for_the_device_between_them(data):
    head, test_data = head_of(), dataset_of(data, 4)
    with Waits() as waits:
        answers_of(head, test_data, Single())
    assert waits.count == 0
    with Waits() as waits, torch.no_grad():
        list(supervision_steps(head, test_data.examples(range(4))))
    assert waits.count == 0


def test_one_compiled_graph_serves_the_last_batch_too(data):
    head = head_of()
    eager = evaluate(head, dataset_of(data, 4), ALONE)
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph

    torch.compiler.reset()
    head.model.inner.compile(dynamic=False, backend=backend)
    head.model.is_compiled = True
    assert evaluate(head, dataset_of(data, 4), ALONE) == pytest.approx(eager, rel=1e-5)
    evaluate(head, dataset_of(data, 4), ALONE)
    assert len(graphs) == 1


def test_what_a_row_works_on_follows_from_its_seed_alone(data):
    """A puzzle that begins in a refilled row is the same as one that begins in a fresh batch."""
    head, test_data = head_of(act_inference=True, initial_state_std=1.0, noise_scale=0.2), dataset_of(data, 2)
    found = {}
    for answers in answers_of(head, test_data, BestOfSeeds(1)):
        found[int(answers.numbers[0])] = answers.outputs["logits"][0]
    for number in range(EXAMPLES):
        fresh = dataset_of(data, 1)
        strategy = BestOfSeeds(1)
        strategy.begin(fresh.sets["all"], np.array([number]), 1)
        with torch.no_grad():
            final, = [a for step in row_steps(head, fresh, fresh.sets["all"], strategy, ALONE)
                      for a in strategy.take(step)]
        assert torch.allclose(found[number], final.outputs["logits"][0], atol=1e-4)
