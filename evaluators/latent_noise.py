"""Noise on the latents before each supervision step, which makes trajectories differ (PTRM, arXiv 2605.19943)."""
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from models.act import ACTModel, Carry, normal

Which = Literal["z_L", "z_H"]
# Streams -100, -101, …: initial latents have the streams from -1 down, the noise inside of passes those from 0 up.
STREAM = -100
# What the first letter of a latent's initial vector says of it, such as that of `L_init` or `L3_init`
LETTERS: dict[Which, str] = {"z_L": "L", "z_H": "H"}


@dataclass(frozen=True)
class LatentNoise:
    """z ← z + σ·N(0, I) before every supervision step, the first included.

    The noise is a function of the row's random key, so it depends neither on the batch nor on the rank. `z_L`: of the
    six latents of trm_hier6, each gets noise of its own. Architectures with one latent have only one of the two:
    trm_singlez z_L, URM and the plain transformer z_H.
    """

    sigma: float
    on: Which

    def places(self, model: ACTModel) -> list[int]:
        """Which of the carry's latents get noise. Raises ValueError where the architecture has none of that name."""
        names = model.inner.latent_names
        if not names:
            raise ValueError(f"noise_on={self.on}: the latents of {type(model).__name__} take no noise; leave it out")
        found = [i for i, name in enumerate(names) if name.startswith(LETTERS[self.on])]
        if not found:
            other, = (which for which in LETTERS if which != self.on)
            raise ValueError(f"noise_on={self.on}: {type(model).__name__} has one latent, and that is {other}; "
                             f"use noise_on={other}")
        return found

    def added(self, model: ACTModel, carry: Carry, batch: dict[str, Tensor]) -> Carry:
        """The carry (B rows) as the next supervision step finds it: halted rows have their next puzzle of the batch and
        initial latents, and all have noise."""
        carry = model.refill(carry, batch)
        latents = list(carry.latents)
        for i in self.places(model):
            z = latents[i]
            latents[i] = z + (self.sigma * normal(carry.noise_key, STREAM - i, *z.shape[1:])).to(z.dtype)
        return replace(carry, latents=tuple(latents))
