"""Guesses, by hand: the states to go back to. What is guessed is tested with LDT (test_ldt.py, test_chains.py)."""
import torch

from models.guesses import taken_back


def test_states_to_go_back_to_are_tried_latest_first_and_the_oldest_give_way():
    states = torch.eye(6).bool().expand(1, 16, 6, 6)  # of each token, the state in which every cell holds it alone
    two, guess = states[:, :, 2] | states[:, :, 3], states[:, :, 2]
    none, calm, conflict = torch.zeros(1, 2, 16, 6).bool(), torch.tensor([False]), torch.tensor([True])
    after, (kept,), ends = taken_back(two, guess, none, calm)
    assert torch.equal(after, guess) and torch.equal(kept[0, 0], states[0, :, 3]) and not kept[0, 1].any() and not ends
    _, (kept,), _ = taken_back(two, states[:, :, 3], kept, calm)
    _, (kept,), _ = taken_back(states[:, :, 4] | states[:, :, 5], states[:, :, 4], kept, calm)
    for token in (5, 2):  # and 3, the oldest, is forgotten
        after, (kept,), ends = taken_back(guess, guess, kept, conflict)
        assert torch.equal(after, states[:, :, token]) and not ends
    assert taken_back(guess, guess, kept, conflict)[2]
