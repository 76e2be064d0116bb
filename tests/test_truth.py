"""What the known solutions say of candidates, against plain loops."""
import torch
import torch.nn.functional as F
from torch import Tensor

from models.truth import Truth


def test_truth_is_held_where_no_labelled_cell_has_lost_it():
    labels = torch.tensor([[2, 3, -100], [2, 3, -100]])
    candidates = torch.zeros(2, 3, 6, dtype=torch.bool)
    candidates[:, 0, 2] = candidates[0, 1, 3] = candidates[1, 1, 4] = True
    assert Truth(candidates, {"labels": labels}).lost.tolist() == [False, True]


def solutions_of(seed: int, B: int = 40, K: int = 5, L: int = 6, V: int = 4) -> tuple[Tensor, dict[str, Tensor]]:
    """Random candidates (B, L, V), of which some rows hold a solution and some none, and K random solutions of each,
    equal to one another in half of their cells."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(V, (B, 1, L), generator=random, dtype=torch.int32).expand(B, K, L)
    other = torch.randint(V, (B, K, L), generator=random, dtype=torch.int32)
    solutions = torch.where(torch.rand(B, 1, L, generator=random) < 0.5, labels, other)
    kept = F.one_hot(solutions[:, 1].long(), V).bool() | (torch.rand(B, L, V, generator=random) < 0.3)
    candidates = torch.where(torch.arange(B)[:, None, None] % 2 == 0, kept, torch.rand(B, L, V, generator=random) < 0.7)
    labels = solutions[:, 0].clone()
    labels[:, -1] = torch.where(torch.arange(B) % 3 == 0, -100, labels[:, -1])
    return candidates, {"labels": labels, "other_labels": solutions[:, 1:].to(torch.uint8)}


def test_the_truth_is_the_union_of_the_solutions_that_are_possible_or_of_the_nearest():
    """Against a plain loop over rows, solutions and cells."""
    candidates, data = solutions_of(0)
    truth, ties = Truth(candidates, data), 0
    found = truth.tokens(4)
    for row in range(len(candidates)):
        cells = [cell for cell in range(6) if data["labels"][row, cell] >= 0]
        every = [data["labels"][row].tolist(), *data["other_labels"][row].tolist()]
        gone = [sum(not candidates[row, cell, solution[cell]] for cell in cells) for solution in every]
        union = {(cell, every[k][cell]) for k in range(5) if gone[k] == min(gone) for cell in cells}
        assert {(cell, token) for cell, token in found[row].nonzero().tolist() if cell in cells} == union
        assert truth.lost[row].item() == (min(gone) > 0)
        ties += gone.count(min(gone)) > 1
    assert ties > 5 and 0 < truth.lost.sum() < 20


def test_one_solution_is_the_truth_whatever_the_candidates_are():
    candidates, data = solutions_of(1)
    alone = Truth(candidates, {"labels": data["labels"]})
    again = Truth(candidates, data | {"other_labels": data["labels"].clamp(min=0)[:, None].expand(-1, 3, -1)})
    for truth in (alone, again):
        told = truth.tokens(4) & truth.answered[..., None]
        assert torch.equal(told, F.one_hot(data["labels"].clamp(min=0).long(), 4).bool() & truth.answered[..., None])
        there = candidates.gather(-1, data["labels"].clamp(min=0).long()[..., None])[..., 0]
        assert torch.equal(truth.lost, ~(there | (data["labels"] < 0)).all(-1))
