"""Optimizers against their formulas written out, and the schedule at the points that matter."""
import math
import re
from itertools import pairwise

import lion_pytorch
import numpy as np
import pytest
import torch

from config.schema import ArchConfig
from dataset.common import RegressionMetadata
from helpers import REGRESSION, ROOT, pretrain_config, tiny_metadata
from models.backbone import Stack
from utils.distributed import World
from utils.optim import (
    AdamATan2,
    Lion,
    build_optimizers,
    learning_rate,
    remember_peak_rates,
    set_learning_rates,
)

B1, B2, LR, DECAY = 0.9, 0.95, 0.01, 0.1


def optim_config(optimizer_name: str, *overrides: str):
    return pretrain_config(f"optimizer={optimizer_name}", f"beta1={B1}", f"beta2={B2}", f"lr={LR}",
                           f"weight_decay={DECAY}", *overrides)


def follow(optimizer_name: str, gradients: np.ndarray, start: np.ndarray) -> list[np.ndarray]:
    """The parameter after each of the gradients."""
    parameter = torch.nn.Parameter(torch.tensor(start))
    optimizer, = build_optimizers([parameter], [], optim_config(optimizer_name))
    path = []
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


@pytest.mark.parametrize("ours, update", [
    (Lion, lambda p: lion_pytorch.Lion([p], lr=LR, betas=(B1, B2), weight_decay=DECAY)), (AdamATan2, None)])
def test_parameters_updated_together_are_updated_as_each_alone(ours, update):
    """Bit for bit, also where some of them miss a gradient now and then; Lion as the package of its name has it."""
    random = torch.Generator().manual_seed(0)
    shapes = [(3, 4), (4,), (2, 3, 2), (1,)]
    together = [torch.nn.Parameter(torch.randn(shape, generator=random)) for shape in shapes]
    alone = [torch.nn.Parameter(p.detach().clone()) for p in together]
    optimizer = ours(together, lr=LR, betas=(B1, B2), weight_decay=DECAY)
    single = [update(p) if update else ours([p], lr=LR, betas=(B1, B2), weight_decay=DECAY) for p in alone]
    for step in range(6):
        for i, (p, q) in enumerate(zip(together, alone)):
            p.grad = None if step == i else torch.randn(p.shape, generator=random)
            q.grad = None if step == i else p.grad.clone()
        for each in (optimizer, *single):
            each.step()
    for p, q in zip(together, alone):
        assert torch.equal(p, q)


def orthogonalised(g: np.ndarray, steps: int) -> np.ndarray:
    """Steps of Newton and Schulz with the coefficients of arXiv 2502.16982, in float64."""
    x = g / np.linalg.norm(g)
    for _ in range(steps):
        square = x @ x.T
        x = 3.4445 * x + (-4.775 * square + 2.0315 * square @ square) @ x
    return x


@pytest.mark.parametrize("scale, factor, momentum_rate, ns_steps", [
    ("original", 1.0, 0.95, 5), ("original", 1.0, 0.6, 3), ("match_rms_adamw", 0.2 * 4**0.5, 0.95, 5)])
def test_muon_trains_matrices_by_its_formula_and_the_rest_by_adamw_at_its_own_rate(scale, factor, momentum_rate,
                                                                                   ns_steps):
    random = np.random.default_rng(2)
    start = [random.normal(size=(3, 4)), random.normal(size=(2, 4))]
    parameters = matrix, head = [torch.nn.Parameter(torch.tensor(value)) for value in start]
    config = optim_config("muon", "adamw_lr=0.002", f"muon_scale={scale}", f"muon_momentum={momentum_rate}",
                          f"muon_ns_steps={ns_steps}")
    muon, adamw = build_optimizers(parameters, [matrix], config)
    p, momentum, q, m, v = start[0], 0.0, start[1], 0.0, 0.0
    for t in range(1, 11):
        gradients = [random.normal(size=(3, 4)), random.normal(size=(2, 4))]
        for parameter, gradient in zip(parameters, gradients):
            parameter.grad = torch.tensor(gradient)
        muon.step(), adamw.step()
        momentum = momentum_rate * momentum + (1 - momentum_rate) * gradients[0]
        update = orthogonalised((1 - momentum_rate) * gradients[0] + momentum_rate * momentum, ns_steps)
        p = p * (1 - LR * DECAY) - LR * factor * update  # of 3 × 4, wider than high
        m, v = B1 * m + (1 - B1) * gradients[1], B2 * v + (1 - B2) * gradients[1]**2
        q = q * (1 - 0.002 * DECAY) - 0.002 * m / (1 - B1**t) / (np.sqrt(v / (1 - B2**t)) + 1e-8)
    np.testing.assert_allclose(matrix.detach().numpy(), p, atol=0.03 * LR * 10)  # in bfloat16
    np.testing.assert_allclose(head.detach().numpy(), q, rtol=1e-10)


FOR_TOKENS = ["dec", "ldt", "ldt_fields", "se_rrm", "sotaku"]


@pytest.mark.parametrize("arch, floats", [(path.stem, floats) for path in sorted((ROOT / "config/arch").glob("*.yaml"))
                                          for floats in (False, True)[:1 if path.stem in FOR_TOKENS else 2]])
def test_the_matrices_of_an_architecture_are_the_linear_maps_in_its_blocks(arch, floats):
    heads, learned = ["arch.num_heads=2"], ["arch.num_heads=2", "arch.pos_encodings=learned"]
    words = {"transformers_baseline": heads, "ldt": heads, "sotaku": heads, "dec": [], "ldt_fields": [],
             "se_rrm": [*learned, "arch.special=[0,1]"], "fprm": [*heads, "arch.grid_conv=false"]}.get(arch, learned)
    config: ArchConfig = pretrain_config(f"arch={arch}", "arch.hidden_size=16", *words,
                                         *([REGRESSION] if floats else [])).arch
    data = RegressionMetadata(task_type="regression", seq_len=6, input_dim=3, target_dim=2, sets=["all"])
    puzzles = tiny_metadata(seq_len=9)
    head = config.build_head(data if floats else puzzles, batch_size=2, world=World())
    matrices = head.matrices()
    stacks = [head.model.inner.layers] if arch.startswith("ldt") else \
        [m for m in head.modules() if isinstance(m, Stack)]
    in_blocks = [p for stack in stacks for name, p in stack.named_parameters()
                 if not re.search(r"(^|[._])(conv_|alpha_|attn_norm|mix_norm|mlp_norm|bias)", name)]
    assert {id(p) for p in matrices} == {id(p) for p in in_blocks} and all(p.ndim == 2 for p in matrices)
    assert len(matrices) == len(in_blocks)


@pytest.mark.parametrize("name", ["lion", "adamw", "adam_atan2", "muon"])
@pytest.mark.parametrize("decays_on", ["all", "matrices"])
def test_weights_decay_where_they_are_asked_to(name, decays_on):
    module = torch.nn.ModuleDict({"body": torch.nn.Linear(3, 2), "q_head": torch.nn.Linear(3, 2)})
    matrices, before = [module["body"].weight], {name: p.detach().clone() for name, p in module.named_parameters()}
    overrides = ["adamw_lr=0.05"] if name == "muon" else []
    for optimizer in build_optimizers(module.parameters(), matrices,
                                      optim_config(name, f"weight_decay_on={decays_on}", *overrides)):
        for parameter in module.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    for key, parameter in module.named_parameters():
        rate = 0.05 if name == "muon" and key != "body.weight" else LR
        decays = decays_on == "all" or key == "body.weight"
        assert torch.allclose(parameter, before[key] * (1 - rate * DECAY * decays), rtol=1e-6), key


@pytest.mark.parametrize("overrides, decay", [
    ([], DECAY), (["weight_decay_on=matrices"], 0), (["weight_decay_on=matrices", "adamw_weight_decay=0.7"], 0.7)])
def test_what_adamw_trains_beside_muon_may_have_a_decay_of_its_own(overrides, decay):
    module = torch.nn.ModuleDict({"body": torch.nn.Linear(3, 2), "q_head": torch.nn.Linear(3, 2)})
    muon, adamw = build_optimizers(module.parameters(), [module["body"].weight],
                                   optim_config("muon", "adamw_lr=0.05", *overrides))
    assert (muon.param_groups[0]["weight_decay"], adamw.param_groups[0]["weight_decay"]) == (DECAY, decay)


@pytest.mark.parametrize("overrides, message", [
    (["optimizer=muon"], "optimizer=muon trains embeddings, heads and biases by AdamW; set its rate, adamw_lr"),
    (["adamw_lr=1e-4"], "adamw_lr=0.0001 has no effect with optimizer=lion; set lr"),
    (["muon_scale=match_rms_adamw"], "muon_scale=match_rms_adamw has no effect with optimizer=lion; remove it"),
    (["muon_momentum=0.6"], "muon_momentum=0.6 has no effect with optimizer=lion; remove it"),
    (["muon_ns_steps=3"], "muon_ns_steps=3 has no effect with optimizer=lion; remove it"),
    (["adamw_weight_decay=1"], "adamw_weight_decay=1.0 has no effect with optimizer=lion; set weight_decay"),
    (["grad_clip=0"], "grad_clip=0: "), (["weight_decay_on=biases"], "weight_decay_on='biases': "),
    (["arch.loss.label_smoothing=1"], "arch.loss.label_smoothing=1: "),
    (["arch.loss.supervision_decay=0"], "arch.loss.supervision_decay=0: ")])
def test_choices_without_sense_are_named(overrides, message):
    with pytest.raises(ValueError, match=message):
        pretrain_config(*overrides)


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
    assert all(a >= b for a, b in pairwise(rates[9:]))


def test_each_group_warms_up_to_the_rate_it_was_built_with():
    config, parameter = pretrain_config("lr_warmup_steps=10"), torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([{"params": [parameter]}, {"params": [], "lr": 3.0}], lr=2.0)
    remember_peak_rates([optimizer])
    for step in (5, 10):
        set_learning_rates(optimizer, step, 100, config)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.2 * step, 0.3 * step])


def test_the_published_default_is_constant_after_the_warm_up():
    config = pretrain_config()
    assert [learning_rate(step, 1e-4, 5000, config) for step in (1, 1000, 2000, 2001, 5000)] == pytest.approx(
        [5e-8, 5e-5, 1e-4, 1e-4, 1e-4])
    assert learning_rate(1, 1.0, 5000, pretrain_config("lr_warmup_steps=0")) == 1.0
