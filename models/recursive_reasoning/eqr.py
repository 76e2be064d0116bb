"""EqR, the Equilibrium Reasoner (arXiv 2605.21488): TRM trained to end in the same place from anywhere.

Its latents start from random states (`initial_state_std`), and its passes are relaxed (`relaxation`, λ of the paper)
and noised (`noise_scale`). Those are options of every architecture (models/backbone.py); here they are on by default.
Draws are functions of the seed, the step and the row of the global batch.

    python pretrain.py arch=eqr data_paths="[data/…]"
"""
from pydantic import Field

from models.recursive_reasoning.trm import TRM, TRMConfig


class EqRConfig(TRMConfig):
    initial_state_std: float = Field(1.0, ge=0)
    relaxation: float = Field(0.95, gt=0, le=1)
    noise_scale: float = Field(0.01, ge=0)


class EqR(TRM):
    Config = EqRConfig


EqRModel = EqR  # the published name
