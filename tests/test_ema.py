"""Averaged weights: the formula, and that applying them is undone."""
import pytest
import torch
from torch import nn

from models.ema import EMA


@pytest.fixture
def module() -> nn.Module:
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    module.register_buffer("table", torch.ones(4))
    return module


def walk(module: nn.Module, ema: EMA, steps: int) -> dict[str, torch.Tensor]:
    """Random steps of the parameters; the averages by the formula, in float64."""
    expected = {name: p.detach().double() for name, p in module.named_parameters()}
    for _ in range(steps):
        for name, parameter in module.named_parameters():
            parameter.data += torch.randn_like(parameter)
            expected[name] = 0.9 * expected[name] + 0.1 * parameter.detach().double()
        ema.update()
    return expected


def test_the_shadow_follows_the_formula_and_holds_no_buffers(module):
    ema = EMA(module, 0.9)
    expected = walk(module, ema, 20)
    assert ema.state_dict().keys() == expected.keys()
    for name, shadow in ema.state_dict().items():
        assert torch.allclose(shadow.double(), expected[name], atol=1e-5)


def test_inside_applied_the_module_computes_with_averages_and_gets_its_own_back(module):
    ema = EMA(module, 0.9)
    walk(module, ema, 3)
    own = {name: value.clone() for name, value in module.state_dict().items()}
    averages = {name: value.clone() for name, value in ema.state_dict().items()}
    with pytest.raises(RuntimeError, match="evaluation failed"), ema.applied():
        assert all(torch.equal(p, averages[name]) for name, p in module.named_parameters())
        assert torch.equal(module.table, own["table"])
        raise RuntimeError("evaluation failed")
    assert all(torch.equal(value, own[name]) for name, value in module.state_dict().items())
    assert all(torch.equal(value, averages[name]) for name, value in ema.state_dict().items())


def test_a_saved_shadow_goes_on_where_it_was(module):
    ema = EMA(module, 0.9)
    walk(module, ema, 3)
    saved = {name: value.clone() for name, value in ema.state_dict().items()}
    another = EMA(module, 0.9)
    another.load_state_dict(saved)
    module.weight.data += 1
    ema.update(), another.update()
    assert all(torch.equal(value, another.state_dict()[name]) for name, value in ema.state_dict().items())
