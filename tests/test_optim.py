"""Optimizers against their formulas written out, and the schedule at the points that matter."""
import math

import numpy as np
import pytest
import torch

from helpers import pretrain_config
from utils.optim import AdamATan2, build_optimizer, learning_rate

B1, B2, LR, DECAY = 0.9, 0.95, 0.01, 0.1


def follow(optimizer_name: str, gradients: np.ndarray, start: np.ndarray) -> list[np.ndarray]:
    """The parameter after each of the gradients."""
    parameter = torch.nn.Parameter(torch.tensor(start))
    config = pretrain_config(f"optimizer={optimizer_name}", f"beta1={B1}", f"beta2={B2}", f"lr={LR}",
                             f"weight_decay={DECAY}")
    optimizer, path = build_optimizer([parameter], config), []
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
        path.append(parameter.detach().numpy().copy())
    return path


def lion(p, m, v, g, t):
    p = p * (1 - LR * DECAY) - LR * np.sign(B1 * m + (1 - B1) * g)
    return p, B2 * m + (1 - B2) * g, v


def adam(direction):
    def update(p, m, v, g, t):
        m, v = B1 * m + (1 - B1) * g, B2 * v + (1 - B2) * g**2
        return p * (1 - LR * DECAY) - LR * direction(m / (1 - B1**t), np.sqrt(v / (1 - B2**t))), m, v
    return update


@pytest.mark.parametrize("name, update", [("lion", lion), ("adamw", adam(lambda m, root: m / (root + 1e-8))),
                                          ("adam_atan2", adam(np.arctan2))])
def test_an_optimizer_follows_its_formula(name, update):
    random = np.random.default_rng(0)
    start, gradients = random.normal(size=(3, 4)), random.normal(size=(20, 3, 4))
    p, m, v = start, np.zeros_like(start), np.zeros_like(start)
    for t, (gradient, actual) in enumerate(zip(gradients, follow(name, gradients, start)), start=1):
        p, m, v = update(p, m, v, gradient, t)
        np.testing.assert_allclose(actual, p, rtol=1e-10)


def test_atan2_is_blind_to_the_scale_of_gradients_and_finite_at_zero():
    random = np.random.default_rng(1)
    start, gradients = random.normal(size=5), random.normal(size=(10, 5))
    for a, b in zip(follow("adam_atan2", gradients, start), follow("adam_atan2", gradients * 1e-12, start)):
        np.testing.assert_allclose(a, b, rtol=1e-9)
    assert np.allclose(follow("adam_atan2", np.zeros((2, 5)), start)[-1], start * (1 - LR * DECAY) ** 2)


def test_atan2_leaves_parameters_without_gradient_and_its_state_goes_on():
    gradients, results = [torch.tensor([0.3]), torch.tensor([-0.1])], []
    for reload in (False, True):
        parameter, idle = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
        optimizer = AdamATan2([parameter, idle], lr=LR, betas=(B1, B2), weight_decay=DECAY)
        for gradient in gradients:
            parameter.grad = gradient
            optimizer.step()
            if reload:
                state = optimizer.state_dict()
                optimizer = AdamATan2([parameter, idle], lr=LR, betas=(B1, B2), weight_decay=DECAY)
                optimizer.load_state_dict(state)
        assert idle.item() == 1
        results.append(parameter.item())
    assert results[0] == results[1]


def test_the_rate_warms_up_and_falls_along_a_cosine():
    config = pretrain_config("lr_warmup_steps=10", "lr_min_ratio=0.1")
    rates = [learning_rate(step, 2.0, 110, config) for step in range(1, 121)]
    assert rates[:10] == pytest.approx([0.2 * step for step in range(1, 11)])
    assert rates[59] == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))
    assert rates[34] == pytest.approx(2.0 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4))))
    assert rates[109:] == pytest.approx([0.2] * 11)
    assert all(a >= b for a, b in zip(rates[9:], rates[10:]))


def test_the_published_default_is_constant_after_the_warm_up():
    config = pretrain_config()
    assert [learning_rate(step, 1e-4, 5000, config) for step in (1, 1000, 2000, 2001, 5000)] == pytest.approx(
        [5e-8, 5e-5, 1e-4, 1e-4, 1e-4])
    assert learning_rate(1, 1.0, 5000, pretrain_config("lr_warmup_steps=0")) == 1.0
