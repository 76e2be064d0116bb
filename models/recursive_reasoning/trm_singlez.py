"""TRM with one latent, an ablation of arXiv 2510.04871: z is reasoning and answer at once.

    python pretrain.py arch=trm_singlez data_paths="[data/…]"
"""
from torch import Tensor

from models.backbone import Passes
from models.recursive_reasoning.trm import TRM, TRMRecursion


class SingleZRecursion(TRMRecursion):
    LATENTS = ("L_init",)

    def latent_recursion(self, latents: tuple[Tensor, ...], x: Tensor,
                         update: Passes) -> tuple[Tensor, ...]:
        z, = latents
        for _ in range(self.config.L_cycles):
            z = update(self.L_level, z, x)
        return update(self.L_level, z),


class TRMSingleZ(TRM):
    Recursion = SingleZRecursion


TinyRecursiveReasoningModel_ACTV1 = TRMSingleZ  # the published name
