"""Random number generators go on where they were."""
import io
import random

import numpy as np
import torch

from utils.random_state import random_states, set_random_states


def draws() -> list[float]:
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(1).item()]


def test_what_was_drawn_is_drawn_again_after_a_way_through_a_file():
    draws()
    file = io.BytesIO()
    torch.save(random_states(), file)
    expected = [draws() for _ in range(3)]
    file.seek(0)
    set_random_states(torch.load(file, weights_only=True))
    assert [draws() for _ in range(3)] == expected
    assert draws() not in expected
