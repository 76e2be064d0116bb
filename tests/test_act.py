"""The carry: which puzzle a row works on, when it halts, and random numbers that ignore the number of ranks."""
import shutil
from dataclasses import replace

import pytest
import torch

from helpers import tiny_batch, tiny_config
from losses.classification import ACTLossHead
from models.act import MASK32, WEYL, chain_key, kept, mix32, noise_keys, normal, uniform, uniforms
from models.recursive_reasoning.trm import TRM
from models.recursive_reasoning.trm_singlez import TRMSingleZ


def model_with_q(halt: float, go_on: float = -5.0, **changes) -> TRM:
    """A model whose halting logits are constants."""
    torch.manual_seed(0)
    model = TRM(tiny_config(**changes))
    with torch.no_grad():
        model.inner.q_head.bias.copy_(torch.tensor([halt, go_on]))
    return model.train()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_only_rows_that_take_a_puzzle_get_initial_latents_and_those_that_all_rows_would_get(dtype):
    model = TRM(tiny_config(initial_state_std=1.0, forward_dtype=dtype))
    batch = tiny_batch()
    carry = model.initial_carry(batch)
    latents = tuple(torch.randn_like(z) for z in carry.latents)
    for halted in ([True] * 4, [False] * 4, [False, True, True, False]):
        new = torch.tensor(halted)
        after = model.refill(replace(carry, latents=latents, halted=new), batch).latents
        for z, old, start in zip(after, latents, model.inner.initial_latents(carry.noise_key), strict=True):
            assert torch.equal(z, torch.where(new.view(-1, 1, 1), start, old))


def test_compiled_draws_of_initial_latents_are_those_of_the_plain_function():
    if not shutil.which("g++"):
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    model = TRM(tiny_config(initial_state_std=1.0))
    model.compile_recursion()
    keys = noise_keys(3, torch.arange(4))
    for compiled, plain in zip(model.compiled_draw(keys), model.inner.initial_latents(keys), strict=True):
        assert torch.allclose(compiled, plain, atol=1e-6)


def test_the_hash_is_a_bijection():
    x = torch.randint(0, MASK32 + 1, (200_000,), generator=torch.Generator().manual_seed(0)).unique()
    hashed = mix32(x)
    assert len(hashed.unique()) == len(x) and hashed.min() >= 0 and hashed.max() <= MASK32


def test_draws_are_uniform_and_independent_over_rows_draws_and_seeds():
    rows = torch.arange(100_000)
    draws = torch.stack([uniform(noise_keys(seed, rows), draw) for seed in (0, 1) for draw in (0, 1)])
    assert ((draws >= 0) & (draws < 1)).all()
    counts = torch.stack([torch.histc(d, 20, 0, 1) for d in draws])
    assert ((counts - 5000).square() / 5000).sum(1).max() < 60  # chi-square with 19 degrees of freedom, p < 1e-5
    assert (torch.corrcoef(draws) - torch.eye(4)).abs().max() < 0.02
    assert torch.corrcoef(torch.stack([draws[0, :-1], draws[0, 1:]]))[0, 1].abs() < 0.02


def test_many_uniforms_and_what_dropout_keeps_are_even_and_a_function_of_key_stream_and_place():
    keys = noise_keys(0, torch.arange(500))
    draws = uniforms(keys, 3, 10, 21)
    assert draws.shape == (500, 10, 21) and draws.min() > 0 and draws.max() < 1
    assert draws.mean().item() == pytest.approx(0.5, abs=0.003)
    assert draws.std().item() == pytest.approx(12**-0.5, abs=2e-3)
    masks = kept(keys, 3, 0.1, 10, 21)
    assert masks.shape == draws.shape and masks.float().mean().item() == pytest.approx(0.9, abs=4e-3)
    along = masks.float().flatten(1)
    assert torch.corrcoef(along.T).fill_diagonal_(0).abs().mean() < 0.06  # 500 rows: chance gives 0.036
    for draw in (uniforms, lambda *places: kept(*places[:2], 0.3, *places[2:])):
        assert torch.equal(draw(keys[7:9], 1, 4), draw(keys, 1, 4)[7:9])
        assert not torch.equal(draw(keys, 1, 4), draw(keys, 2, 4))
    assert kept(keys, 0, 0.0, 5).all()


def test_two_ranks_draw_what_one_process_draws():
    whole = noise_keys(7, torch.arange(8))
    assert torch.equal(whole, torch.cat([noise_keys(7, torch.arange(0, 4)), noise_keys(7, torch.arange(4, 8))]))
    model, batch = model_with_q(-5.0), tiny_batch()
    assert torch.equal(model.initial_carry(batch, seed=7, first_row=4).noise_key, whole[4:])


def test_halted_rows_take_the_new_puzzle_and_the_others_keep_theirs():
    model = model_with_q(-5.0)
    first, second = tiny_batch(seed=1), tiny_batch(seed=2)
    carry, _ = model(model.initial_carry(first), first)
    assert not carry.halted.any() and carry.steps.tolist() == [1, 1, 1, 1]
    halted = torch.tensor([True, False, False, True])
    after, _ = model(replace(carry, halted=halted), second)
    for name, value in after.current_data.items():
        assert torch.equal(value[halted], second[name][halted]) and torch.equal(value[~halted], first[name][~halted])
    assert after.steps.tolist() == [1, 2, 2, 1]
    fresh, _ = model(model.initial_carry(second), second)
    for old, new in zip(after.latents, fresh.latents):  # a restarted row begins from the initial latents
        assert torch.allclose(old[halted], new[halted], atol=1e-6) and not torch.allclose(old[~halted], new[~halted])


def test_no_gradient_passes_from_one_supervision_step_to_the_next():
    model, batch = model_with_q(-5.0), tiny_batch()
    carry, outputs = model(model.initial_carry(batch), batch)
    assert outputs["logits"].requires_grad and not any(z.requires_grad for z in carry.latents)


def test_evaluation_runs_every_step_however_sure_the_model_is():
    model, batch = model_with_q(50.0, halt_max_steps=4).eval(), tiny_batch()
    carry, halted = model.initial_carry(batch), []
    for _ in range(4):
        carry, _ = model(carry, batch)
        halted.append(carry.halted.all().item())
    assert halted == [False, False, False, True]


@pytest.mark.parametrize("no_continue, q, halts", [
    (True, (0.1, 9.0), True), (True, (-0.1, -9.0), False), (False, (0.1, 9.0), False), (False, (-0.1, -9.0), True)])
def test_training_halts_where_q_halt_is_positive_or_beats_q_continue(no_continue, q, halts):
    model, batch = model_with_q(*q, no_ACT_continue=no_continue), tiny_batch()
    carry, _ = model(model.initial_carry(batch), batch)
    assert carry.halted.tolist() == [halts] * 4


def test_training_halts_at_the_last_step_however_unsure_the_model_is():
    model, batch = model_with_q(-50.0, halt_max_steps=2), tiny_batch()
    carry, _ = model(model.initial_carry(batch), batch)
    carry, _ = model(carry, batch)
    assert carry.halted.all()


def steps_before_halting(exploration: float, rows: int = 512, max_steps: int = 4) -> torch.Tensor:
    """Steps of the first puzzle of each row, where the model always wants to halt."""
    model = model_with_q(50.0, halt_max_steps=max_steps, halt_exploration_prob=exploration)
    batch = tiny_batch(rows=rows)
    carry, stopped_at = model.initial_carry(batch), torch.zeros(rows, dtype=torch.int32)
    with torch.no_grad():
        for _ in range(max_steps):
            carry, _ = model(carry, batch)
            stopped_at = torch.where((stopped_at == 0) & carry.halted, carry.steps, stopped_at)
    return stopped_at


def test_exploration_demands_more_steps_of_a_share_of_the_rows():
    assert (steps_before_halting(0.0) == 1).all()
    stopped = steps_before_halting(0.5)
    assert (stopped == 1).float().mean().item() == pytest.approx(0.5, abs=0.08)
    always = steps_before_halting(1.0)
    assert set(always.tolist()) == {2, 3, 4}
    # A step demands a minimum of 2, 3 or 4, each step anew: P(stop at 2) = 1/3, at 3 = 2/3 · 2/3, at 4 the rest.
    shares = [(always == n).float().mean().item() for n in (2, 3, 4)]
    assert shares == pytest.approx([3 / 9, 4 / 9, 2 / 9], abs=0.07)


def test_the_continue_target_is_the_value_of_the_next_step():
    model, batch = model_with_q(-0.5, 0.25, no_ACT_continue=False, halt_max_steps=2), tiny_batch()
    carry, outputs = model(model.initial_carry(batch), batch)
    assert torch.allclose(outputs["target_q_continue"], torch.sigmoid(torch.tensor(0.25)).expand(4))
    _, outputs = model(carry, batch)  # the last step: the next could only halt
    assert torch.allclose(outputs["target_q_continue"], torch.sigmoid(torch.tensor(-0.5)).expand(4))
    assert not outputs["target_q_continue"].requires_grad
    assert "target_q_continue" not in model.eval()(model.initial_carry(batch), batch)[1]
    assert "target_q_continue" not in model_with_q(0.0)(model.initial_carry(batch), batch)[1]


@pytest.mark.parametrize("no_continue, rule", [(True, lambda halt, go_on: halt > 0),
                                               (False, lambda halt, go_on: halt > go_on)])
def test_adaptive_evaluation_halts_where_the_model_is_sure(no_continue, rule):
    torch.manual_seed(0)
    options = {"halt_max_steps": 5, "no_ACT_continue": no_continue}
    model, batch = TRM(tiny_config(**options, act_inference=True)).eval(), tiny_batch(rows=32)
    torch.nn.init.normal_(model.inner.q_head.weight)
    torch.nn.init.zeros_(model.inner.q_head.bias)
    full = TRM(tiny_config(**options)).eval()
    full.load_state_dict(model.state_dict())
    assert (model.steps_known, full.steps_known) == (None, 5)
    carry, adaptive = full.initial_carry(batch), model.initial_carry(batch)
    halted_at = torch.zeros(32, dtype=torch.int32)
    for step in range(1, 6):
        carry, outputs = full(carry, batch)
        adaptive, _ = model(adaptive, batch)
        halts = rule(outputs["q_halt_logits"], outputs["q_continue_logits"]) | (step == 5)
        at_first = halted_at == 0  # later steps of a row that halted are of its puzzle taken anew
        assert torch.equal(adaptive.halted[at_first], halts[at_first])
        halted_at[at_first & halts] = step
    assert len(halted_at.unique()) > 2


def test_without_act_training_runs_every_step_however_sure_the_model_is():
    model, batch = model_with_q(50.0, act_enabled=False), tiny_batch()
    carry, halted = model.initial_carry(batch), []
    for _ in range(6):
        carry, _ = model(carry, batch)
        halted.append(carry.halted.all().item())
    assert halted == [False, False, True] * 2


def test_normal_draws_are_normal_and_independent_over_rows_streams_places_and_steps():
    keys = noise_keys(0, torch.arange(40))
    draws = torch.stack([normal(key, stream, 50, 100) for key in (keys, (keys + 2 * WEYL) & MASK32)
                         for stream in (-1, 0, 1)])  # (6, 40, 50, 100)
    flat = draws.flatten()
    assert draws.dtype == torch.float32 and flat.isfinite().all()
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3)):
        assert flat.pow(power).mean().item() == pytest.approx(moment, abs=0.02)
    below = [(flat < z).float().mean().item() for z in (-2, -1, 0, 1, 2)]
    assert below == pytest.approx([0.02275, 0.15866, 0.5, 0.84134, 0.97725], abs=0.002)
    for rows in (draws.flatten(1), draws.transpose(0, 1).flatten(1), draws.permute(2, 0, 1, 3).flatten(1)):
        off_diagonal = torch.corrcoef(rows) - torch.eye(len(rows))
        assert off_diagonal.abs().max() < 5.5 / rows.shape[1]**0.5
    assert len(draws[:, :, 0, 0].unique()) == 240


def test_a_normal_draw_can_be_cut_and_depends_on_nothing_but_its_key_stream_and_place():
    keys = noise_keys(3, torch.arange(8))
    whole = normal(keys, 5, 4, 6, cut=2.0)
    assert 1.9 < normal(keys, 5, 400, 6, cut=2.0).abs().max() <= 2
    assert torch.equal(whole[4:], normal(keys[4:], 5, 4, 6, cut=2.0))
    assert torch.equal(whole[:, :2], normal(keys, 5, 2, 6, cut=2.0))


@pytest.mark.parametrize("changes", [{}, {"initial_state_std": 1.0}, {"noise_scale": 0.1}])
def test_of_several_chains_the_one_with_the_lowest_loss_learns_and_all_go_on_from_its_answer(changes):
    """Against chains that are run one by one, over three steps. Each has the weights of a model with one chain."""
    model, batch = model_with_q(-5.0, wta_chains=3, **changes), tiny_batch()
    head = ACTLossHead(model, loss_type="softmax_cross_entropy").train()
    one = model.inner
    carry = head.initial_carry(batch, seed=5)
    keys, data = carry.noise_key, batch
    y = one.initial_latents(keys)[0].expand(4, 7, 8)
    zs = [one.initial_latents(keys, chain)[1].expand(4, 7, 8) for chain in range(3)]
    assert all((a - b).abs().max() > 0.5 for a, b in [(zs[0], zs[1]), (zs[1], zs[2]), (zs[0], zs[2])])
    for _ in range(3):
        x = one.embed(data)
        ends = [one((y, z), x, chain_key(keys, chain)) for chain, z in enumerate(zs)]
        losses = torch.stack([head.answer_loss({"logits": logits}, data) for _, logits, _ in ends])
        best = losses.argmin(0)
        y = torch.stack([ends[chain][0][0][row] for row, chain in enumerate(best)])
        zs = [latents[1] for latents, _, _ in ends]
        keys = (keys + 2 * WEYL) & MASK32
        (expected,) = torch.autograd.grad(losses.min(0).values.sum(), one.lm_head.weight)

        carry, outputs = head.step(carry, batch)
        loss = head.answer_losses(outputs, carry.current_data)["lm_loss"]
        assert torch.allclose(loss, losses.min(0).values, atol=1e-6)
        assert torch.allclose(carry.latents[0], y, atol=1e-5)
        assert torch.allclose(carry.latents[1], torch.stack(zs, 1), atol=1e-5)
        assert torch.allclose(torch.autograd.grad(loss.sum(), one.lm_head.weight)[0], expected, atol=1e-5)


def test_an_evaluation_has_one_chain_that_of_a_model_without_others():
    batch, outputs = tiny_batch(), []
    for chains in (1, 4):
        model = model_with_q(-5.0, wta_chains=chains).eval()
        carry = model.initial_carry(batch)
        for _ in range(3):
            carry, found = model(carry, batch)
        outputs.append(found["logits"])
    assert torch.equal(*outputs)


def test_chains_need_a_second_latent_and_a_judge():
    with pytest.raises(ValueError, match="wta_chains=2: .* one latent; use wta_chains=1"):
        TRMSingleZ(tiny_config(wta_chains=2))
    model, batch = model_with_q(-5.0, wta_chains=2), tiny_batch()
    with pytest.raises(ValueError, match="needs a judge; call the loss head"):
        model(model.initial_carry(batch), batch)
