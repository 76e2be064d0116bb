"""TRM, the Tiny Recursive Model (arXiv 2510.04871): one network of two layers refines an answer by recursion.

The words of the paper: y = z_H is the answer latent, z = z_L the reasoning latent, x the embedded question, all
(B, P+L, D); T = `H_cycles`, n = `L_cycles`, N_sup = `halt_max_steps`.

    python pretrain.py experiment=demo_sudoku4      # minutes on a CPU, after `make demo` has made its data
"""
import torch
from pydantic import Field
from torch import Tensor

from models.act import ACTModel
from models.backbone import Backbone, BackboneConfig


class TRMConfig(BackboneConfig):
    # T: recursions in a supervision step, of which only the last has a gradient
    H_cycles: int = Field(gt=0)
    # n: updates of z in one recursion
    L_cycles: int = Field(gt=0)
    # published key that TRM does not use
    H_layers: int = 0


class TRMRecursion(Backbone):
    """The recursion of the paper (figure 3): `f` is `L_level`, the only network."""

    def __init__(self, config: TRMConfig):
        super().__init__(config)
        self.add_initial_latent("H_init")
        self.add_initial_latent("L_init")
        self.L_level = self.stack(config.L_layers)

    def initial_latents(self) -> tuple[Tensor, Tensor]:
        return self.H_init, self.L_init

    def latent_recursion(self, y: Tensor, z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        for _ in range(self.config.L_cycles):
            z = self.L_level(z, y + x, self.rotary)  # reason, given the answer and the question
        y = self.L_level(y, z, self.rotary)  # answer, given the reasoning
        return y, z

    def forward(self, latents: tuple[Tensor, Tensor], x: Tensor):
        """One supervision step: latents without gradient, logits (B, L, V), halting logits (B, 2)."""
        y, z = latents
        with torch.no_grad():
            for _ in range(self.config.H_cycles - 1):
                y, z = self.latent_recursion(y, z, x)
        y, z = self.latent_recursion(y, z, x)
        return (y.detach(), z.detach()), *self.heads(y)


class TRM(ACTModel):
    Config, Recursion = TRMConfig, TRMRecursion
    UNUSED_KEYS = ("H_layers",)


TinyRecursiveReasoningModel_ACTV1 = TRM  # the published name
