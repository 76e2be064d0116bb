"""Noise on latents: before every supervision step, for every architecture, whatever the batch."""
import pytest
import torch

from evaluators.latent_noise import LatentNoise
from helpers import tiny_batch, tiny_config
from models.act import noise_keys
from models.recursive_reasoning import hrm, transformers_baseline, trm, trm_hier6, trm_singlez, urm

NOISY = [(trm.TRM, "z_L", [1]), (trm.TRM, "z_H", [0]), (hrm.HRM, "z_L", [1]), (hrm.HRM, "z_H", [0]),
         (trm_hier6.TRMHier6, "z_L", [1, 2, 3, 4, 5, 6]), (trm_hier6.TRMHier6, "z_H", [0]),
         (trm_singlez.TRMSingleZ, "z_L", [0]), (urm.URM, "z_H", [0]),
         (transformers_baseline.TransformersBaseline, "z_H", [0])]


def model_of(kind: type, **changes):
    torch.manual_seed(0)
    if kind is transformers_baseline.TransformersBaseline:
        changes |= {"H_cycles": 1, "H_layers": 1, "L_cycles": 0, "L_layers": 0}
    if kind is hrm.HRM:
        changes |= {"H_layers": 1}
    return kind(tiny_config(**changes)).eval()


@pytest.mark.parametrize("kind, on, places", NOISY)
def test_the_latent_of_that_name_gets_noise_before_the_first_step_too(kind, on, places):
    model, batch, noise = model_of(kind), tiny_batch(), LatentNoise(0.5, on)
    carry = model.initial_carry(batch)
    plain, noisy = model.refill(carry, batch), noise.added(model, carry, batch)
    for i, (before, after) in enumerate(zip(plain.latents, noisy.latents)):
        change = after - before
        if i in places:
            assert change.std().item() == pytest.approx(0.5, rel=0.2) and abs(change.mean().item()) < 0.1
        else:
            assert not change.any()
    distinct = {tuple((after - before).flatten()[:4].tolist()) for i, (before, after) in
                enumerate(zip(plain.latents, noisy.latents)) if i in places}
    assert len(distinct) == len(places)


@pytest.mark.parametrize("kind, on, other", [(trm_singlez.TRMSingleZ, "z_H", "z_L"), (urm.URM, "z_L", "z_H"),
                                             (transformers_baseline.TransformersBaseline, "z_L", "z_H")])
def test_a_latent_that_an_architecture_lacks_is_refused(kind, on, other):
    with pytest.raises(ValueError, match=f"noise_on={on}: {kind.__name__} has one latent.*use noise_on={other}"):
        LatentNoise(0.1, on).places(model_of(kind))


def test_noise_is_new_in_each_step_and_the_same_for_the_same_key_in_any_batch():
    model, batch, noise = model_of(trm.TRM), tiny_batch(), LatentNoise(0.5, "z_L")

    def steps(batch, keys):
        carry, found = model.initial_carry(batch), []
        carry.noise_key = keys
        with torch.no_grad():
            for _ in range(3):
                noisy = noise.added(model, carry, batch)
                found.append(noisy.latents[1] - model.refill(carry, batch).latents[1])
                carry, _ = model(noisy, batch)
        return torch.stack(found)

    keys = noise_keys(0, torch.tensor([5, 6, 7, 8]))
    whole = steps(batch, keys)
    assert not torch.allclose(whole[0], whole[1]) and not torch.allclose(whole[1], whole[2])
    assert not torch.allclose(whole[:, 0], whole[:, 1])
    part = steps({name: value[2:3] for name, value in batch.items()}, keys[2:3])
    assert torch.allclose(part[:, 0], whole[:, 2], atol=1e-5)


def test_noise_does_not_repeat_that_of_random_starts():
    model, batch = model_of(trm.TRM, initial_state_std=1.0), tiny_batch()
    carry = model.initial_carry(batch)
    starts = model.refill(carry, batch).latents
    change = LatentNoise(1.0, "z_L").added(model, carry, batch).latents[1] - starts[1]
    for start in starts:
        assert abs(torch.corrcoef(torch.stack([start.flatten(), change.flatten()]))[0, 1]) < 0.3
