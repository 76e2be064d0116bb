"""The states of all random number generators of a process, as tensors and plain values.

Training itself draws from none of them (data, exploration and noise are functions of the seed and the step); they are
saved for what users add.
"""
import random

import numpy as np
import torch


def random_states() -> dict:
    _, keys, position, has_gauss, gauss = np.random.get_state()
    return {"python": random.getstate(), "torch": torch.get_rng_state(),
            "numpy": [keys.tolist(), position, has_gauss, gauss],
            "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None}


def set_random_states(states: dict) -> None:
    """Go on where `random_states` was called; CUDA's only where both machines have it."""
    random.setstate(states["python"])
    torch.set_rng_state(states["torch"])
    keys, *rest = states["numpy"]
    np.random.set_state(("MT19937", np.array(keys, np.uint32), *rest))
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
