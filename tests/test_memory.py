"""The memory of a row, against a count by hand and against what a step allocates."""
import pytest
import torch

from evaluators.memory import GIGA, PeakMemory, bytes_a_row, rows_within
from helpers import tiny_sudokus, tiny_test_data, undecided_head


def test_memory_is_counted_while_it_is_held_and_once():
    with PeakMemory() as memory:
        a = torch.zeros(1000)
        b = a.view(10, 100)  # the same memory
        c = b + 1
        del a, b
        assert memory.now == 4000 and memory.peak == 8000
        d = [torch.ones(500) for _ in range(3)]
        assert memory.now == 10_000 == memory.peak
        del c, d
        assert memory.now == 0


def test_rows_are_as_many_as_fit(tmp_path):
    data, head = tiny_test_data(tiny_sudokus(tmp_path / "data"), 8), undecided_head()
    row = bytes_a_row(head, data)
    latents, logits, gate_and_up = 2 * 17 * 8 * 4, 16 * 6 * 4, 17 * 512 * 4
    assert latents + logits + gate_and_up < row < 3 * (latents + logits + gate_and_up)
    assert head.training is False and rows_within(head, data, 100.5 * row / GIGA) == 100
    with PeakMemory() as memory, torch.no_grad():
        batch = {name: value[:1].repeat_interleave(100, 0) for name, value in data.first_batch().items()}
        head.step(head.initial_carry(batch), batch)
    assert memory.peak == pytest.approx(100 * row, rel=0.2)
    with pytest.raises(ValueError, match=r"memory_gb=1e-09: one row takes .* GB; raise it"):
        rows_within(head, data, 1e-9)
