"""The loss head against sums written out row by row."""
import math

import pytest
import torch
import torch.nn.functional as F

from dataset.common import IGNORE_LABEL_ID
from helpers import tiny_batch, tiny_config
from losses import ACTLossHead
from losses.classification import cell_cross_entropy
from models.recursive_reasoning.trm import TRM

BOTH = ("softmax_cross_entropy", "stablemax_cross_entropy")


def head_and_batch(loss_type: str = BOTH[0], **changes) -> tuple[ACTLossHead, dict]:
    """A head whose halting logits differ from row to row; of the batch, row 1 has ignored cells and row 3 no labels."""
    torch.manual_seed(0)
    head, batch = ACTLossHead(TRM(tiny_config(**changes)), loss_type=loss_type), tiny_batch()
    head.model.inner.q_head.weight.data.normal_(std=2)
    head.model.inner.q_head.bias.data.zero_()
    batch["labels"][1, :4] = IGNORE_LABEL_ID
    batch["labels"][3] = IGNORE_LABEL_ID
    return head, batch


def one_step(head: ACTLossHead, batch: dict):
    return head(carry=head.initial_carry(batch), batch=batch,
                return_keys=("logits", "preds", "q_halt_logits", "q_continue_logits", "target_q_continue"))


def test_softmax_is_the_cross_entropy_of_torch():
    logits, labels = torch.randn(3, 5, 7), torch.randint(0, 7, (3, 5), dtype=torch.int32)
    labels[0, 2] = IGNORE_LABEL_ID
    loss = cell_cross_entropy(logits, labels, BOTH[0])
    assert loss[0, 2] == 0
    assert loss[1, 3].item() == pytest.approx(-F.log_softmax(logits[1, 3], -1)[labels[1, 3]].item(), rel=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0, 1e4])
def test_stablemax_agrees_with_its_definition_in_float64(scale):
    logits, labels = torch.randn(4, 6, 9) * scale, torch.randint(0, 9, (4, 6))
    labels[2, 1] = IGNORE_LABEL_ID
    wide = logits.double()
    s = torch.where(wide >= 0, wide + 1, 1 / (1 - wide))
    expected = -(s / s.sum(-1, keepdim=True)).log().gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    expected[2, 1] = 0
    assert torch.allclose(cell_cross_entropy(logits, labels, BOTH[1]).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss_type", BOTH)
def test_smoothed_labels_are_cross_entropy_with_a_part_of_the_target_spread_evenly(loss_type):
    logits, labels, smoothing = torch.randn(3, 5, 7), torch.randint(0, 7, (3, 5), dtype=torch.int32), 0.2
    labels[0, 2] = IGNORE_LABEL_ID
    actual = cell_cross_entropy(logits, labels, loss_type, smoothing)
    for row, cell in [(0, 0), (1, 3), (2, 4)]:
        x = logits[row, cell].double()
        s = x.exp() if loss_type == BOTH[0] else torch.where(x >= 0, x + 1, 1 / (1 - x))
        expected = 0.0
        for token in range(7):
            target = smoothing / 7 + (1 - smoothing) * (token == labels[row, cell].item())
            expected -= target * math.log(s[token] / s.sum())
        assert actual[row, cell].item() == pytest.approx(expected, rel=1e-5)
    assert actual[0, 2] == 0


def test_later_supervision_steps_count_less_in_training_alone():
    head, batch = head_and_batch(no_ACT_continue=False, act_enabled=False)  # three steps a row
    decaying = ACTLossHead(head.model, loss_type=BOTH[0], supervision_decay=0.5, label_smoothing=0.1)
    smoothing = ACTLossHead(head.model, loss_type=BOTH[0], label_smoothing=0.1)
    for train in (True, False):
        head.model.train(train), decaying.train(train), smoothing.train(train)
        carry = smoothing.initial_carry(batch)
        for step in range(3):
            _, loss, *_ = decaying(carry=carry, batch=batch, return_keys=())
            carry, whole, *_ = smoothing(carry=carry, batch=batch, return_keys=())
            assert loss.item() == pytest.approx(whole.item() * (0.5**step if train else 1), rel=1e-6)


def test_stablemax_has_finite_gradients_at_zero():
    logits = torch.zeros(1, 1, 4, requires_grad=True)
    cell_cross_entropy(logits, torch.tensor([[1]]), BOTH[1]).sum().backward()
    assert torch.allclose(logits.grad, torch.tensor([0.25, -0.75, 0.25, 0.25]))


@pytest.mark.parametrize("loss_type", BOTH)
@pytest.mark.parametrize("no_continue, weight", [(True, 0.5), (False, 0.5), (False, 0.05)])
def test_the_loss_is_the_sum_over_rows_of_mean_cell_loss_and_halting_loss(loss_type, no_continue, weight):
    head, batch = head_and_batch(loss_type, no_ACT_continue=no_continue)
    assert head.config.halting_weight == 0.5
    head.config.halting_weight = weight
    _, loss, metrics, outputs, _ = one_step(head.train(), batch)
    expected = 0.0
    for row in range(4):
        answered = batch["labels"][row] != IGNORE_LABEL_ID
        cells = cell_cross_entropy(outputs["logits"][row:row + 1], batch["labels"][row:row + 1], loss_type)[0]
        solved = (outputs["preds"][row] == batch["labels"][row])[answered].all().float()  # so is a row without labels
        expected += cells.sum() / max(1, answered.sum())
        expected += weight * F.binary_cross_entropy_with_logits(outputs["q_halt_logits"][row], solved)
        if not no_continue:
            expected += weight * F.binary_cross_entropy_with_logits(outputs["q_continue_logits"][row],
                                                                    outputs["target_q_continue"][row])
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert metrics["loss"].item() == pytest.approx(expected.item(), rel=1e-5) and not metrics["loss"].requires_grad
    assert ("q_continue_loss" in metrics) == (not no_continue)


def test_metrics_count_halted_rows_that_have_labels():
    head, batch = head_and_batch(halt_max_steps=1)  # all rows halt at once
    _, _, metrics, outputs, finished = one_step(head.eval(), batch)
    assert finished and metrics["rows"] == 4 and metrics["count"] == 3 and metrics["steps"] == 3
    answered = batch["labels"] != IGNORE_LABEL_ID
    right = (outputs["preds"] == batch["labels"]) & answered
    accuracy = sum((right[r].sum() / answered[r].sum()).item() for r in range(3))
    assert metrics["accuracy"].item() == pytest.approx(accuracy)
    solved = [bool(right[r].sum() == answered[r].sum()) for r in range(4)]
    assert metrics["exact_accuracy"] == sum(solved[:3])
    trusted = (outputs["q_halt_logits"] >= 0).tolist()
    assert metrics["q_halt_accuracy"] == sum(t == s for t, s in zip(trusted[:3], solved))

    batch = batch | {"labels": outputs["preds"].int()}  # now every row is right
    _, _, metrics, _, _ = one_step(head, batch)
    assert metrics["exact_accuracy"] == metrics["count"] == 4 and metrics["accuracy"] == 4


def test_in_an_evaluation_a_row_without_a_label_is_in_no_loss():
    head, batch = head_and_batch(halt_max_steps=1)
    head.eval()
    carry, outputs = head.step(head.initial_carry(batch), batch)
    first_three = [{name: value[:3] for name, value in fields.items()} for fields in (outputs, batch)]
    metrics, expected = head.tally(outputs, batch, carry.steps), head.tally(*first_three, carry.steps[:3])
    assert metrics["rows"] == metrics["count"] == 3
    assert {name: value.item() for name, value in metrics.items()} == pytest.approx(
        {name: value.item() for name, value in expected.items()}, rel=1e-5)
    batch = batch | {"labels": torch.full_like(batch["labels"], IGNORE_LABEL_ID)}
    assert not any(head.tally(outputs, batch, carry.steps).values())


def test_before_any_row_halts_there_is_nothing_to_count():
    head, batch = head_and_batch(halt_max_steps=3)
    _, _, metrics, _, finished = one_step(head.eval(), batch)
    assert not finished and metrics["count"] == 0 and metrics["exact_accuracy"] == 0 and metrics["rows"] == 4


def test_outputs_are_those_asked_for_without_gradient():
    head, batch = head_and_batch()
    *_, outputs, _ = head(carry=head.initial_carry(batch), batch=batch, return_keys=("preds", "q_halt_logits"))
    assert outputs.keys() == {"preds", "q_halt_logits"} and not outputs["q_halt_logits"].requires_grad


def test_an_untrained_model_is_as_unsure_as_chance():
    torch.manual_seed(0)
    head, batch = ACTLossHead(TRM(tiny_config()), loss_type=BOTH[0]), tiny_batch()
    _, _, metrics, _, _ = one_step(head, batch)
    assert metrics["lm_loss"].item() / 4 == pytest.approx(math.log(5), abs=1.0)
    assert metrics["q_halt_loss"].item() / 4 == pytest.approx(math.log1p(math.exp(-5.0)), rel=1e-4)


def test_unknown_loss_types_are_refused():
    with pytest.raises(ValueError, match="loss_type"):
        ACTLossHead(TRM(tiny_config()), loss_type="mse")
