"""What is recorded of a model's reasoning: the same as the model says without a recorder, in any batch and order."""
import json

import numpy as np
import pytest
import torch

from dataset.puzzle_dataset import PuzzleDataset, PuzzleDatasetConfig
from evaluators.rows import supervision_steps
from evaluators.test_time import build_strategy
from evaluators.traces import LEVELS, latent_change, record
from helpers import pretrain_config, write_tiny_dataset, write_tiny_regression
from losses.classification import ACTLossHead
from test_rows import BestOfSeeds, answers_of, dataset_of, head_of
from utils.distributed import World


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("traces") / "data")


def states(head: ACTLossHead, batch: dict) -> list[tuple[dict, list[torch.Tensor]]]:
    """Outputs and latents after each step, computed by hand."""
    carry, found = head.initial_carry(batch), []
    with torch.no_grad():
        for _ in range(head.model.config.halt_max_steps):
            carry, outputs = head.step(carry, batch)
            found.append((outputs, list(carry.latents)))
    return found


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "stablemax_cross_entropy"])
@pytest.mark.parametrize("batch", [1, 4])
def test_a_trace_holds_what_the_model_said_after_each_step(data, batch, loss):
    head, test_data, numbers = head_of(), dataset_of(data, batch), [7, 0, 3, 7]
    head.config.loss_type = loss
    for number, trace in zip(numbers, record(head, test_data, numbers), strict=True):
        example = test_data.examples([number])
        expected = states(head, example)
        one, = trace.trajectories
        assert trace.number == number and trace.selected == 0 and one.attempt == 0
        assert (trace.question == example["inputs"][0].numpy()).all()
        assert (trace.label == example["labels"][0].numpy()).all()
        assert (trace.answer == one.preds[-1]).all() and len(one.preds) == len(expected)
        for step, (outputs, latents) in enumerate(expected):
            logits = outputs["logits"][0].double()
            numerators = logits.exp() if loss == "softmax_cross_entropy" else \
                torch.where(logits >= 0, logits + 1, 1 / (1 - logits))
            probabilities = (numerators / numerators.sum(-1, keepdim=True)).numpy()
            assert (one.preds[step] == probabilities.argmax(-1)).all()
            assert np.abs(one.confidence[step] - probabilities.max(-1)).max() < 0.51 / LEVELS
            kept = np.take_along_axis(probabilities, one.candidates[step].astype(int), -1)
            assert np.abs(one.levels[step] / LEVELS - kept).max() < 0.51 / LEVELS
            assert np.allclose(kept, -np.sort(-probabilities, axis=-1)[:, :kept.shape[-1]], atol=1e-5)
            assert one.q[step] == pytest.approx(float(outputs["q_halt_logits"].sigmoid()), abs=1e-5)
            moved = sum(float((new - old).square().sum()) for new, old in zip(latents, expected[step - 1][1])) ** 0.5
            assert np.isnan(one.residual[0]) and (step == 0 or one.residual[step] == pytest.approx(moved, rel=1e-4))


def test_of_several_trajectories_the_selected_one_gave_the_answer(data):
    head = head_of(initial_state_std=1.0, noise_scale=0.1)
    by_batch = [record(head, dataset_of(data, batch), range(4), BestOfSeeds(3)) for batch in (2, 7)]
    for one, other in zip(*by_batch):
        assert [t.attempt for t in one.trajectories] == [0, 1, 2] and one.selected == other.selected
        assert one.selected == np.argmax([t.q[-1] for t in one.trajectories])
        assert (one.answer == one.trajectories[one.selected].preds[-1]).all()
        assert len({t.preds.tobytes() for t in one.trajectories}) > 1
        assert all((a.preds == b.preds).all() and np.allclose(a.q, b.q, atol=1e-5)
                   for a, b in zip(one.trajectories, other.trajectories))


def test_trajectories_of_symmetric_views_are_told_of_the_puzzle_itself(tmp_path):
    path = write_tiny_dataset(tmp_path / "data", seq_len=16, vocab_size=6)
    file = path / "test" / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"kind": "sudoku"}))
    data, head = dataset_of(path, 3), head_of(seq_len=16, vocab_size=6)
    settings = {"trajectories": 2, "augment": 2, "noise": 0.5, "noise_on": "z_L", "select": "vote"}
    expected, results, watched = {}, {}, build_strategy(**settings)

    def keep(seen) -> None:
        for row, (number, attempt) in enumerate(zip(seen.numbers.tolist(), seen.attempts.tolist())):
            expected.setdefault((number, attempt), []).append(seen.outputs["preds"][row].numpy())

    watched.watch = keep
    for answers in answers_of(head, data, watched):
        results |= {result.number: result for result in answers.results}
    traces = record(head, data, range(4), build_strategy(**settings))
    for trace in traces:
        assert [one.attempt for one in trace.trajectories] == [0, 1, 2, 3]
        for one in trace.trajectories:
            assert (one.preds == np.stack(expected[trace.number, one.attempt])).all()
            assert (one.residual[1:] > 0).all()
        assert trace.trajectories[trace.selected].attempt == results[trace.number].attempt
        assert (trace.answer == results[trace.number].answer).all()
    assert any((one.preds[0] != trace.trajectories[0].preds[0]).any() for trace in traces for one in trace.trajectories)


def test_a_trajectory_ends_where_its_row_ends(data):
    head, test_data = head_of(act_inference=True), dataset_of(data, 3)
    lengths = [len(trace.trajectories[0].preds) for trace in record(head, test_data, range(10))]
    with torch.no_grad():
        assert lengths == [len(list(supervision_steps(head, test_data.examples([n])))) for n in range(10)]
    assert len(set(lengths)) > 1


def test_examples_are_numbered_over_all_sets_and_unknown_answers_are_none(tmp_path):
    paths = [write_tiny_dataset(tmp_path / name, test=[[1]] * 3, seed=seed) for seed, name in enumerate("ab")]
    file = paths[1] / "test" / "all__labels.npy"
    np.save(file, np.zeros_like(np.load(file)))  # 0 is not asked for
    data = PuzzleDataset(PuzzleDatasetConfig(seed=0, dataset_paths=[*map(str, paths)], test_set_mode=True,
                                             global_batch_size=2), "test")
    traces = record(head_of(num_puzzle_identifiers=data.metadata.num_puzzle_identifiers), data, [4, 1])
    assert [trace.number for trace in traces] == [4, 1]
    assert traces[0].label is None and traces[1].label is not None
    assert all((trace.question == data.examples([trace.number])["inputs"][0].numpy()).all() for trace in traces)
    with pytest.raises(ValueError, match="there is no example 6"):
        record(head_of(), data, [6])


@pytest.mark.parametrize("arch", ["se_rrm", "dec", "ldt", "ldt_fields", "sotaku", "fprm"])
def test_latents_of_any_shape_are_followed(arch, tmp_path):
    sure = ["arch.drop_below=1e-3", "arch.doubt_below=0", "arch.eval_conflict_above=1"]  # of no conflict
    own = {"se_rrm": ["arch.head_dim=8", "arch.special=[0,1]"], "dec": [], "ldt": [*sure, "arch.num_heads=2"],
           "ldt_fields": sure}.get(arch, ["arch.num_heads=2"])
    config = pretrain_config(f"arch={arch}", "arch.hidden_size=16", "arch.halt_max_steps=3", *own)
    test_data = dataset_of(write_tiny_dataset(tmp_path / "data", seq_len=9), 4)
    head = config.arch.build_head(test_data.metadata, 4, World()).eval()
    for trace in record(head, test_data, [3, 5]):
        one, = trace.trajectories
        assert np.isnan(one.residual[0]) and len(one.preds) > 1 and (one.residual[1:] >= 0).all()


def test_floats_are_refused(tmp_path):
    data = dataset_of(write_tiny_regression(tmp_path / "floats"), 2)
    with pytest.raises(ValueError, match="of puzzles only"):
        record(head_of(), data, [0])


def test_the_change_of_latents_is_their_distance():
    new, old = [torch.ones(2, 3, 4), torch.zeros(2, 3, 4)], [torch.zeros(2, 3, 4), torch.full((2, 3, 4), 2.0)]
    assert latent_change(new, old).tolist() == pytest.approx([(12 + 48) ** 0.5] * 2)
