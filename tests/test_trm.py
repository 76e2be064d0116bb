"""TRM and its relatives against the recorded numerics of the published code, and TRM's recursion against a count."""
import importlib.util
import json

import numpy as np
import pytest
import torch
from lion_pytorch import Lion

from helpers import tiny_batch, tiny_config
from losses import ACTLossHead
from models.ema import EMA
from models.recursive_reasoning import trm
from models.recursive_reasoning.trm import TRM
from models.sparse_embedding import SparseSignSGD
from utils.resolve import load_class

CASES = ["trm_att", "trm_mlp_t", "trm_learned_pos", "trm_no_puzzle_emb", "trm_singlez", "trm_hier6", "hrm",
         "transformers_baseline"]


def recorded_head(z) -> ACTLossHead:
    """The head of a recorded case, with its weights."""
    case = json.loads(str(z["meta"]))["case"]
    head = ACTLossHead(load_class(case["arch"], "models")(case["config"]), loss_type=case["loss_type"])
    state = {name.removeprefix("state/"): torch.from_numpy(z[name].copy()) for name in z if name.startswith("state/")}
    head.load_state_dict(state, strict=True)
    return head


@pytest.mark.parametrize("case", CASES)
def test_forward_loss_halting_and_gradients_agree_with_the_recording(shared, case):
    spec = importlib.util.spec_from_file_location("parity", shared / "golden" / "parity.py")
    parity = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(parity)
    error, where, compared = parity.check(str(shared / "golden" / f"{case}.npz"))
    assert compared >= 20 and error <= 5e-5, where


@pytest.mark.parametrize("case", CASES)
def test_five_updates_agree_with_the_recording(shared, case):
    """Both optimizers take signs, and where a gradient is 0 up to rounding, a processor's rounding decides which. So
    the recording is to be what some rounding of the initial weights gives, the first being none."""
    z = np.load(shared / "golden" / f"{case}.npz")
    assert any(five_updates_agree(z, rounding) for rounding in range(20))


def five_updates_agree(z, rounding: int) -> bool:
    head = recorded_head(z).train()
    random = torch.Generator().manual_seed(rounding)
    for parameter in head.parameters() if rounding else ():
        parameter.data *= 1 + (torch.rand(parameter.shape, generator=random) - 0.5) * torch.finfo(torch.float32).eps
    optimizers = [Lion(head.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)]
    if head.puzzle_embedding is not None:
        optimizers.append(SparseSignSGD(head.puzzle_embedding, lr=1e-2, weight_decay=0.1))
    ema = EMA(head, 0.9)
    carry = None
    for i in range(5):
        batch = {name: torch.from_numpy(z[f"batch{i}/{name}"].copy())
                 for name in ("inputs", "labels", "puzzle_identifiers")}
        carry = carry or head.initial_carry(batch)
        carry, loss, _, _, _ = head(carry=carry, batch=batch, return_keys=())
        if loss.item() != pytest.approx(z[f"optim{i}/loss"].item(), rel=2e-6):
            return False
        (loss / 4).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        ema.update()
    differences = []
    for prefix, state in (("final/", head.state_dict()), ("ema/", ema.state_dict())):
        names = {name.removeprefix(prefix) for name in z if name.startswith(prefix)}
        assert names == state.keys()
        differences += [np.abs(state[name].numpy() - z[prefix + name]).ravel() for name in names]
    return (np.concatenate(differences) > 1e-5).mean() < 1e-3


@pytest.mark.parametrize("H_cycles, L_cycles", [(1, 1), (3, 2)])
def test_a_supervision_step_updates_z_n_times_and_y_once_per_recursion_and_only_the_last_has_a_gradient(
        H_cycles, L_cycles):
    torch.manual_seed(0)
    model, batch, calls = TRM(tiny_config(H_cycles=H_cycles, L_cycles=L_cycles)), tiny_batch(), []
    question = model.inner.embed(batch)

    def record(module, arguments, output):
        latent, injection, _ = arguments
        calls.append((latent, injection, output))

    model.inner.L_level.register_forward_hook(record)
    latents = tuple(z.expand(4, 7, 8) for z in model.inner.initial_latents())
    (y_after, z_after), *_ = model.inner(latents, question)
    assert len(calls) == H_cycles * (L_cycles + 1)
    assert [output.requires_grad for *_, output in calls] == [False] * (H_cycles - 1) * (L_cycles + 1) + [True] * (
        L_cycles + 1)
    y, z = latents
    for i, (latent, injection, output) in enumerate(calls):
        if i % (L_cycles + 1) < L_cycles:
            assert torch.equal(latent, z) and torch.allclose(injection, y + question)
            z = output
        else:
            assert torch.equal(latent, y) and torch.equal(injection, z)
            y = output
    assert torch.equal(y, y_after) and torch.equal(z, z_after)


@pytest.mark.parametrize("mlp_t, positions", [(False, "rope"), (False, "learned"), (False, "none"), (True, "none"),
                                              (True, "learned")])
@pytest.mark.parametrize("embedding", [0, 8])
@pytest.mark.parametrize("no_continue", [True, False])
@pytest.mark.parametrize("loss_type", ["softmax_cross_entropy", "stablemax_cross_entropy"])
def test_every_variant_learns_with_all_its_weights(mlp_t, positions, embedding, no_continue, loss_type):
    torch.manual_seed(0)
    head = ACTLossHead(TRM(tiny_config(hidden_size=16, mlp_t=mlp_t, pos_encodings=positions, puzzle_emb_ndim=embedding,
                                       puzzle_emb_len=1 if embedding else 0, no_ACT_continue=no_continue)),
                       loss_type=loss_type).train()
    batch = tiny_batch()
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2)
    carry, losses = head.initial_carry(batch), []
    for _ in range(80):
        carry, loss, metrics, _, _ = head(carry=carry, batch=batch, return_keys=())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(metrics["lm_loss"].item())
    trained = {name for name, p in head.named_parameters() if p.grad is not None and p.grad.any()}
    assert trained == {name for name, _ in head.named_parameters()}
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_bfloat16_follows_float32():
    outputs = []
    for dtype in ("float32", "bfloat16"):
        torch.manual_seed(0)
        model, batch = TRM(tiny_config(forward_dtype=dtype)).eval(), tiny_batch()
        _, out = model(model.initial_carry(batch), batch)
        outputs.append(out["logits"].float())
    assert outputs[0].dtype == torch.float32 and (outputs[0] - outputs[1]).abs().mean() < 0.1


def test_the_published_name_is_an_alias_and_unused_keys_are_declared():
    assert trm.TinyRecursiveReasoningModel_ACTV1 is TRM
    assert TRM.UNUSED_KEYS == ("H_layers",)
    TRM(tiny_config(H_layers=3))
