"""The loss of candidates, against its formula written out, and its metrics."""
import math

import pytest
import torch

from test_ldt import batch_of, head_of


def by_hand(head, outputs: dict, data: dict, row: int) -> dict[str, float]:
    """The losses of a row, cell by cell."""
    seen, labels, inputs = (values[row].tolist() for values in (outputs["seen"], data["labels"], data["inputs"]))
    n, cells = outputs["keep_logits"].shape[1], [cell for cell, label in enumerate(labels) if label >= 0]
    conflict = any(not seen[cell][labels[cell]] for cell in cells)

    def softplus(x: float) -> float:
        return math.log1p(math.exp(x))

    keep = digit = of_conflict = 0.0
    for loop in range(n):
        logits = outputs["keep_logits"][row, loop].tolist()
        terms = [4 * softplus(-logits[c][v]) if seen[c][v] and labels[c] == v else 0.5 * softplus(logits[c][v])
                 for c in cells for v in range(2, 6)]
        keep += sum(terms) / len(terms) / n
        open_cells = [] if conflict else [c for c in cells if inputs[c] == 1]
        logs = outputs["digit_logits"][row, loop].log_softmax(-1).tolist()
        digit += sum(-logs[c][labels[c]] for c in open_cells) / max(len(open_cells), 1) / n
        of_conflict += softplus((-1 if conflict else 1) * outputs["conflict_logits"][row, loop].item()) / n
    return {"keep_loss": keep, "digit_loss": digit, "conflict_loss": of_conflict,
            "lm_loss": keep + 0.2 * digit + 0.1 * of_conflict}


def test_the_loss_is_its_formula():
    head, batch = head_of(), batch_of()
    batch["labels"][0, :3] = -100
    with torch.no_grad():
        carry, outputs = head.step(head.initial_carry(batch), batch)
        for _ in range(1):  # guesses of an untrained network: some rows lose the truth
            carry, outputs = head.step(carry, batch)
        found = head.row_losses(outputs, carry.current_data)
    conflicts = 0
    for row in range(4):
        expected = by_hand(head, outputs, carry.current_data, row)
        conflicts += expected["digit_loss"] == 0
        for name, value in expected.items():
            assert found[name][row].item() == pytest.approx(value, rel=1e-4, abs=1e-6), (row, name)
    assert 0 < conflicts < 4
    sums = head.tally(outputs, carry.current_data, carry.steps)
    assert sums["loss"] == sums["lm_loss"]


def test_scores_tell_what_is_accepted_from_what_is_right():
    head, batch = head_of(), batch_of()
    data, labels = batch, batch["labels"]
    wrong = labels.clone()
    wrong[:, 0] = 7 - wrong[:, 0]
    seen = torch.ones(4, 16, 6, dtype=torch.bool)
    seen[3, 0, labels[3, 0]] = False
    outputs = {"preds": torch.where(torch.tensor([True, False, True, False])[:, None], labels, wrong),
               "solved": torch.tensor([True, True, False, False]), "seen": seen,
               "q_halt_logits": torch.tensor([1.0, 1.0, -1.0, -1.0]),
               "deductions": torch.tensor([4.0, 0.0, 4.0, 2.0]), "unsound": torch.tensor([0.0, 0.0, 1.0, 2.0])}
    sums = {name: value.item() for name, value in head.scores(outputs, data, torch.tensor([True] * 4)).items()}
    assert sums == {"count": 4, "accuracy": pytest.approx(2 + 2 * 15 / 16), "exact_accuracy": 2, "accepted": 2,
                    "accepted_wrong": 1, "q_halt_accuracy": 3, "deductions": 10, "unsound_deductions": 3}


def test_the_answer_is_the_likeliest_candidate_that_is_left():
    head, batch = head_of(), batch_of()
    with torch.no_grad():
        carry, outputs = head.step(head.initial_carry(batch), batch)
    left = carry.latents[0].bool()
    assert left.gather(-1, outputs["preds"][..., None]).all()
    given = batch["inputs"] != 1
    assert torch.equal(outputs["preds"][given], batch["inputs"][given].long())
