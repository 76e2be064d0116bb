"""The baseline without recursion: a supervision step is one pass of a plain transformer.

    python pretrain.py arch=transformers_baseline data_paths="[data/…]"
"""
from typing import Literal

from pydantic import Field
from torch import Tensor

from models.act import ACTModel
from models.backbone import Backbone, BackboneConfig, Passes


class BaselineConfig(BackboneConfig):
    # passes in a supervision step
    H_cycles: Literal[1]
    # blocks of the transformer
    H_layers: int = Field(gt=0)
    # published keys that the baseline does not use
    L_cycles: int = 0
    L_layers: int = 0
    mlp_t: bool = False
    puzzle_emb_len: int = 0
    no_ACT_continue: bool = False

    UNUSED_KEYS = ("L_cycles", "L_layers", "mlp_t", "puzzle_emb_len", "no_ACT_continue")


class BaselineRecursion(Backbone):
    def __init__(self, config: BaselineConfig):
        super().__init__(config)
        self.add_initial_latent("H_init")
        self.H_level = self.stack(config.H_layers)

    def supervision_step(self, latents: tuple[Tensor, ...], x: Tensor,
                         update: Passes) -> tuple[Tensor, ...]:
        y, = latents
        return update(self.H_level, y, x),


class TransformersBaseline(ACTModel):
    """Halts when q_halt > q_continue, of which q_continue is never trained, as published."""

    Config, Recursion, UNUSED_KEYS = BaselineConfig, BaselineRecursion, BaselineConfig.UNUSED_KEYS
    TRAINS_CONTINUE = False


Model_ACTV2 = TransformersBaseline  # the published name
