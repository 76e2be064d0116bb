"""HRM, the Hierarchical Reasoning Model (arXiv 2506.21734): a slow network f_H over a fast network f_L.

y = z_H and z = z_L, both (B, P+L, D); T = `H_cycles`, n = `L_cycles`. A puzzle is halted when q_halt > q_continue.

    python pretrain.py arch=hrm data_paths="[data/…]"
"""
import torch
from pydantic import Field
from torch import Tensor

from models.act import ACTModel
from models.backbone import Backbone, BackboneConfig, Passes


class HRMConfig(BackboneConfig):
    # T: updates of y in a supervision step
    H_cycles: int = Field(gt=0)
    # n: updates of z before each update of y
    L_cycles: int = Field(gt=0)
    # blocks of the slow network f_H; L_layers: blocks of the fast network f_L
    H_layers: int = Field(gt=0)
    # published keys that HRM does not use: its prefix is as long as the embedding's width needs
    puzzle_emb_len: int = 0
    no_ACT_continue: bool = False

    UNUSED_KEYS = ("puzzle_emb_len", "no_ACT_continue")


class HRMRecursion(Backbone):
    """T times: n updates of z by f_L, then one update of y by f_H. Only the last update of each has a gradient."""

    config: HRMConfig

    def __init__(self, config: HRMConfig):
        super().__init__(config)
        self.add_initial_latent("H_init")
        self.add_initial_latent("L_init")
        self.H_level, self.L_level = self.stack(config.H_layers), self.stack(config.L_layers)

    def supervision_step(self, latents: tuple[Tensor, ...], x: Tensor,
                         update: Passes) -> tuple[Tensor, ...]:
        y, z = latents
        with torch.no_grad():
            for done in range(1, self.config.H_cycles * self.config.L_cycles):
                z = update(self.L_level, z, y + x)
                if done % self.config.L_cycles == 0:
                    y = update(self.H_level, y, z)
        z = update(self.L_level, z, y + x)
        y = update(self.H_level, y, z)
        return y, z


class HRM(ACTModel):
    Config, Recursion, UNUSED_KEYS = HRMConfig, HRMRecursion, HRMConfig.UNUSED_KEYS


HierarchicalReasoningModel_ACTV1 = HRM  # the published name
