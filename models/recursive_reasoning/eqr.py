"""EqR, the Equilibrium Reasoner (arXiv 2605.21488): TRM trained to reach the same answer from any initial latents.

Its latents start from random states (`initial_state_std`), its passes are damped (`relaxation`, λ of the paper), and
noise is added to them (`noise_scale`). Every architecture has these options (models/backbone.py); here they are on by
default. Random numbers depend on the seed, the step and the row of the global batch.

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
