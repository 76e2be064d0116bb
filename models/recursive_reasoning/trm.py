"""TRM, the Tiny Recursive Model (arXiv 2510.04871): one network of two layers refines an answer by recursion.

The words of the paper: y = z_H is the answer latent, z = z_L the reasoning latent, x the embedded question, all
(B, P+L, D); T = `H_cycles`, n = `L_cycles`, N_sup = `halt_max_steps`.

    python pretrain.py experiment=demo_sudoku4      # minutes on a CPU, after `make demo` has made its data
"""
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from models.act import ACTModel
from models.backbone import Backbone, BackboneConfig, Passes


class TRMConfig(BackboneConfig):
    # T: recursions in a supervision step; only the last has a gradient
    H_cycles: int = Field(gt=0)
    # n: updates of z in one recursion
    L_cycles: int = Field(gt=0)
    # published key that TRM does not use
    H_layers: int = 0

    UNUSED_KEYS: ClassVar[tuple[str, ...]] = ("H_layers",)


class TRMRecursion(Backbone):
    """The recursion of the paper (figure 3). `L_level` is f, the only network."""

    LATENTS: tuple[str, ...] = ("H_init", "L_init")
    config: TRMConfig

    def __init__(self, config: TRMConfig):
        super().__init__(config)
        for name in self.LATENTS:
            self.add_initial_latent(name)
        self.L_level = self.stack(config.L_layers)

    def latent_recursion(self, latents: tuple[Tensor, ...], x: Tensor,
                         update: Passes) -> tuple[Tensor, ...]:
        y, z = latents
        for _ in range(self.config.L_cycles):
            z = update(self.L_level, z, y + x)  # reason, given the answer and the question
        y = update(self.L_level, y, z)  # answer, given the reasoning
        return y, z

    def supervision_step(self, latents: tuple[Tensor, ...], x: Tensor,
                         update: Passes) -> tuple[Tensor, ...]:
        with torch.no_grad():
            for _ in range(self.config.H_cycles - 1):
                latents = self.latent_recursion(latents, x, update)
        return self.latent_recursion(latents, x, update)


class TRM(ACTModel):
    Config, Recursion, UNUSED_KEYS = TRMConfig, TRMRecursion, TRMConfig.UNUSED_KEYS


TinyRecursiveReasoningModel_ACTV1 = TRM  # the published name
