"""FPRM, the fixed-point reasoning model (arXiv 2606.18206): one latent and one pre-norm network, run to a fixed point.

    pass:   z ← α₂·conv(z) + β₂·x, then in each block z ← α₁·z + β₁·attention(norm z), z ← α₁·z + β₁·SwiGLU(norm z)
    scales: β₂ = 1 − α₂·α₁^(2·blocks), β₁ = β₂·(1 − α₁) / (1 − α₁^(2·blocks)), with α₁, α₂ (D,) learned, in (0, 1)

The scales keep z bounded without a norm after the sums. A supervision step is n passes, all with gradient. A puzzle is
done where its latent no longer moves (`halt_on: residual`, which every architecture can take).

    python pretrain.py experiment=fprm_sudoku
"""
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from models.act import ACTModel
from models.backbone import Stack
from models.layers import (
    Attention,
    Dropout,
    RotaryPositions,
    SwiGLU,
    board_positions,
    dropped,
    rms_norm,
    truncated_normal_,
)
from models.recursive_reasoning.trm import TRMConfig
from models.recursive_reasoning.urm import OneLatentRecursion

KERNEL = 3  # cells along a side that the convolution sees


class FPRMConfig(TRMConfig):
    # α₁ and α₂ before training
    alpha_1: float = Field(gt=0, lt=1)
    alpha_2: float = Field(gt=0, lt=1)
    # mix each cell with its neighbours on the board, each channel apart, before a pass
    grid_conv: bool
    # all passes of a supervision step have a gradient
    H_cycles: Literal[1] = 1
    # options of other architectures
    mlp_t: Literal[False] = False

    @model_validator(mode="after")
    def _check_board(self):
        if self.causal and self.grid_conv:
            raise ValueError("grid_conv=True shows each cell its neighbours, so nothing in it can be causal; use "
                             "grid_conv=False, or causal=False")
        return self


class ScaledBlock(nn.Module):
    """Two residual parts, each of which sees its input normalised: `z ← α·z + β·part(norm z)`."""

    def __init__(self, c: FPRMConfig):
        super().__init__()
        self.self_attn = Attention(c.hidden_size, c.num_heads, c.causal)
        self.mlp = SwiGLU(c.hidden_size, c.expansion, c.glu_norm)

    def forward(self, z: Tensor, alpha: Tensor, beta: Tensor, rotary: RotaryPositions | None, drop: Dropout | None,
                number: int) -> Tensor:
        z = alpha * z + beta * dropped(self.self_attn(rms_norm(z), rotary), drop, 2 * number)
        return alpha * z + beta * dropped(self.mlp(rms_norm(z)), drop, 2 * number + 1)


class ScaledStack(Stack):
    """The network f of a pass."""

    def __init__(self, c: FPRMConfig, prefix: int):
        super().__init__(ScaledBlock(c) for _ in range(c.L_layers))
        D, self.P = c.hidden_size, prefix
        self.alpha_1_logit = nn.Parameter(torch.full((D,), c.alpha_1).logit())
        self.alpha_2_logit = nn.Parameter(torch.full((D,), c.alpha_2).logit())
        self.conv_weight = None
        if c.grid_conv:
            board_positions(prefix, c.seq_len)  # raises ValueError for a board that is not square
            self.conv_weight = nn.Parameter(truncated_normal_(torch.empty(D, 1, KERNEL, KERNEL), std=1 / KERNEL))

    def forward(self, z: Tensor, x: Tensor | int, rotary: RotaryPositions | None,
                drop: Dropout | None = None) -> Tensor:
        """z and x (B, P+L, D)."""
        alpha_1, alpha_2, beta_1, beta_2 = (scale.to(z.dtype) for scale in self.scales())
        z = alpha_2 * self._with_neighbours(z) + beta_2 * x
        for number, layer in enumerate(self.layers):
            z = layer(z, alpha_1, beta_1, rotary, drop, number)
        return z

    def scales(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """α₁, α₂, β₁ and β₂, each (D,), float32."""
        alpha_1, alpha_2 = self.alpha_1_logit.sigmoid(), self.alpha_2_logit.sigmoid()
        through = alpha_1 ** (2 * len(self.layers))
        beta_2 = 1 - alpha_2 * through
        return alpha_1, alpha_2, beta_2 * (1 - alpha_1) / (1 - through + 1e-5), beta_2

    def _with_neighbours(self, z: Tensor) -> Tensor:
        if self.conv_weight is None:
            return z
        before, cells = z[:, :self.P], z[:, self.P:]
        side = int(cells.shape[1] ** 0.5)
        board = cells.transpose(1, 2).unflatten(2, (side, side))  # (B, D, side, side)
        board = F.conv2d(board, self.conv_weight.to(z.dtype), padding="same", groups=z.shape[2])
        return torch.cat((before, board.flatten(2).transpose(1, 2)), 1)


class FPRMRecursion(OneLatentRecursion):
    LATENTS = ("Z_init",)
    config: FPRMConfig

    def stack(self, layers: int) -> Stack:
        return ScaledStack(self.config, self.P)


class FPRM(ACTModel):
    Config, Recursion, UNUSED_KEYS = FPRMConfig, FPRMRecursion, TRMConfig.UNUSED_KEYS
