"""The loss of candidates, against its formula written out, and its metrics."""
import math

import pytest
import torch
import torch.nn.functional as F

from test_ldt import batch_of, head_of


def by_hand(head, outputs: dict, data: dict, row: int) -> dict[str, float]:
    """The losses of a row, cell by cell."""
    seen, labels, inputs = (values[row].tolist() for values in (outputs["seen"], data["labels"], data["inputs"]))
    n, cells = outputs["keep_logits"].shape[1], [cell for cell, label in enumerate(labels) if label >= 0]
    solutions = [labels, *(data["other_labels"][row].tolist() if "other_labels" in data else ())]
    gone = [sum(not seen[cell][solution[cell]] for cell in cells) for solution in solutions]
    conflict = min(gone) > 0
    true = [{solution[cell] for solution, lost in zip(solutions, gone) if lost == min(gone)}
            for cell in range(len(labels))]

    def softplus(x: float) -> float:
        return math.log1p(math.exp(x))

    keep = digit = of_conflict = 0.0
    for loop in range(n):
        logits = outputs["keep_logits"][row, loop].tolist()
        terms = [4 * softplus(-logits[c][v]) if seen[c][v] and v in true[c] else 0.5 * softplus(logits[c][v])
                 for c in cells for v in range(2, 6)]
        keep += sum(terms) / len(terms) / n
        open_cells = [] if conflict else [c for c in cells if inputs[c] == 1 and len(true[c]) == 1]
        logs = outputs["digit_logits"][row, loop].log_softmax(-1).tolist()
        digit += sum(-logs[c][min(true[c])] for c in open_cells) / max(len(open_cells), 1) / n
        of_conflict += softplus((-1 if conflict else 1) * outputs["conflict_logits"][row, loop].item()) / n
    return {"keep_loss": keep, "digit_loss": digit, "conflict_loss": of_conflict,
            "lm_loss": keep + 0.2 * digit + 0.1 * of_conflict}


def with_others(batch: dict, count: int = 3) -> dict:
    """The batch with other solutions: the labels, some of their open digits exchanged."""
    labels, random = batch["labels"].clamp(min=2), torch.Generator().manual_seed(0)
    changed = torch.rand(len(labels), count, labels.shape[1], generator=random) < 0.2
    changed &= (batch["inputs"] == 1)[:, None]
    return batch | {"other_labels": torch.where(changed, 7 - labels[:, None], labels[:, None]).to(torch.uint8)}


@pytest.mark.parametrize("others", [False, True])
def test_the_loss_is_its_formula(others):
    head, batch = head_of(), batch_of()
    batch = with_others(batch) if others else batch
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


def test_copies_of_the_labels_as_other_solutions_change_no_number():
    """Training and evaluation with K copies of the one solution are those with that alone, gradients included."""
    found = {}
    for others in (0, 3):
        head, batch = head_of(), batch_of()
        batch["labels"][0, :3] = -100
        if others:
            batch["other_labels"] = batch["labels"].clamp(min=0)[:, None].expand(-1, others, -1).to(torch.uint8)
        carry, told = head.initial_carry(batch), []
        for _ in range(3):
            carry, outputs = head.step(carry, batch)
            losses = head.row_losses(outputs, carry.current_data)
            head.total(losses).sum().backward()
            told += [*losses.values(), *head.scores(outputs, carry.current_data, carry.steps > 0).values(),
                     *carry.latents, carry.halted, outputs["unsound"]]
        found[others] = [*told, *(weight.grad for weight in head.parameters())]
    assert all(torch.equal(one, several) for one, several in zip(*found.values(), strict=True))


def test_another_known_solution_is_accepted_but_not_exact_and_what_guesses_excluded_is_no_loss():
    head, batch = head_of("arch.turns=[]", "arch.relabel=false"), batch_of(2)
    batch["inputs"] = torch.where(torch.arange(16) < 2, 1, batch["labels"])  # two open cells
    other = batch["labels"].clone()
    other[:, :2] = 7 - other[:, :2]
    data = batch | {"other_labels": other[:, None].to(torch.uint8)}
    seen = head.model.inner.start(batch["inputs"]).bool()
    outputs = {"preds": other, "solved": torch.tensor([True, True]), "seen": seen,
               "q_halt_logits": torch.tensor([1.0, 1.0]), "deductions": torch.zeros(2), "unsound": torch.zeros(2)}
    every = torch.tensor([True, True])
    for known, wrong in ((data, 0), (batch, 2)):
        sums = head.scores(outputs, known, every)
        assert (sums["accepted"], sums["exact_accuracy"], sums["accepted_wrong"]) == (2, 0, wrong)
    # a guess decided the first cell of row 0 for the other solution; then deduction drops the label's digit of the next
    after, removed = seen.clone(), torch.zeros_like(seen)
    after[0, 0] = F.one_hot(other[0, 0].long(), 6).bool()
    dropped = batch["labels"][:, 1].long()
    for row in (0, 1):
        after[row, 1, dropped[row]], removed[row, 1, dropped[row]] = False, True
    head.model.forward = lambda carry, _: (carry, {"logits": torch.zeros(2, 16, 6), "candidates": after,
                                                   "removed": removed.clone()})
    carry = head.model.refill(head.initial_carry(data), data)
    assert head.step(carry, data)[1]["unsound"].tolist() == [0, 1]
