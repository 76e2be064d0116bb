"""TRM with six reasoning latents, an ablation of arXiv 2510.04871: each inner step updates one of them.

    python pretrain.py arch=trm_hier6 data_paths="[data/…]"
"""
from pydantic import Field
from torch import Tensor

from models.backbone import Passes
from models.recursive_reasoning.trm import TRM, TRMConfig, TRMRecursion

LEVELS = 6


class Hier6Config(TRMConfig):
    # n: inner steps of a recursion, at most six, since step i updates latent i
    L_cycles: int = Field(gt=0, le=LEVELS)


class Hier6Recursion(TRMRecursion):
    LATENTS = ("H_init", *(f"L{i + 1}_init" for i in range(LEVELS)))

    def latent_recursion(self, latents: tuple[Tensor, ...], x: Tensor,
                         update: Passes) -> tuple[Tensor, ...]:
        y, *z = latents
        for i in range(self.config.L_cycles):
            z[i] = update(self.L_level, sum(z), y + x)
        return update(self.L_level, y, sum(z)), *z


class TRMHier6(TRM):
    Config, Recursion = Hier6Config, Hier6Recursion


TinyRecursiveReasoningModel_ACTV1 = TRMHier6  # the published name
