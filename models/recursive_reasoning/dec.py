"""DEC, the decimating equilibrium cell: TRM on a field of cells for each digit, with all weights shared by the fields.

    x     = √D · role vector of (digit, cell): the cell is empty; given as this digit; given as another    (B, F, L, D)
    block = SwiGLU along the cells, each field apart → h + W·(mean of the other fields at the cell) → SwiGLU within
    logit of a digit = z_H of its field · one vector; halting reads the mean of z_H over fields and cells

F fields, one for each token that a cell may be filled with. So if the digits of a puzzle are renamed, the digits of the
answer are renamed alike, exactly, and training needs no such augmentation. Its recursion, halting and losses are TRM's;
its passes are damped and noisy, and it starts from random latents, as EqR does (models/recursive_reasoning/eqr.py).

Published as code only, github.com/Aakash-Marthandan/Fixed-Point-Reasoner-Structures.

    python pretrain.py experiment=dec_sudoku
"""
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from models.act import ACTModel
from models.backbone import Stack, q_head
from models.fields import mean_of_others, of_tokens
from models.layers import Dropout, Embedding, Linear, OuterLinear, RotaryPositions, SwiGLU, rms_norm
from models.recursive_reasoning.trm import TRMConfig, TRMRecursion

EMPTY, THIS, OTHER = range(3)  # roles of a cell in a field


class DECConfig(TRMConfig):
    # token of the cells that an answer fills in; all others are given
    blank: int = Field(1, ge=0)
    # tokens that a cell may hold, which are interchangeable; []: all tokens after the blank
    fills: list[int] = []
    # options of other architectures
    mlp_t: Literal[True] = True
    pos_encodings: Literal["none"] = "none"
    puzzle_emb_ndim: Literal[0] = 0
    puzzle_emb_len: Literal[0] = 0
    register_tokens: Literal[0] = 0
    num_heads: int = 0

    UNUSED_KEYS = (*TRMConfig.UNUSED_KEYS, "num_heads")

    @property
    def fixed_sizes(self) -> tuple[str, ...]:
        """Weights along the cells fix L; all digits share theirs."""
        return "seq_len",

    @model_validator(mode="after")
    def _check_fields(self):
        self.check_tokens(blank=[self.blank], fills=self.fills)
        if self.blank in self.fills or (self.vocab_size and len(self.digits) < 2):
            raise ValueError(f"fills={self.fills}: name two tokens or more that are not blank={self.blank}, "
                             "or [] for all that come after it")
        return self

    @property
    def digits(self) -> list[int]:
        """The token of each field."""
        return self.fills or list(range(self.blank + 1, self.vocab_size))


class FieldBlock(nn.Module):
    """Three residual parts, each normalised after the sum: along the cells, between the fields, and within each."""

    def __init__(self, width: int, cells: int, expansion: float, glu_norm: bool):
        super().__init__()
        self.mlp_t, self.mlp = SwiGLU(cells, expansion, glu_norm), SwiGLU(width, expansion, glu_norm)
        self.coupling = Linear(width, width)

    def forward(self, z: Tensor, rotary: RotaryPositions | None, drop: Dropout | None = None,
                number: int = 0) -> Tensor:
        """z (B, F, L, D); `rotary` is not used. `drop`: dropout of what each part adds; `number`: of this block."""
        def added(part: Tensor, place: int) -> Tensor:
            part = part.view_as(z)
            return part if drop is None else drop(part, 3 * number + place)

        z = rms_norm(z + added(self.mlp_t.along_sequence(z.flatten(0, 1)), 0), dim=2)
        z = rms_norm(z + added(self.coupling(mean_of_others(z)), 1))
        return rms_norm(z + added(self.mlp(z), 2))


class DECRecursion(TRMRecursion):
    config: DECConfig
    digits: Tensor  # (F,) the token of each field

    def build_ends(self) -> None:
        D = self.config.hidden_size
        self.embed_tokens = Embedding(3, D, std=1 / self.scale, dtype=self.dtype)  # of roles
        self.lm_head, self.q_head = OuterLinear(D, 1), q_head(D)
        self.register_buffer("digits", torch.tensor(self.config.digits), persistent=False)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return len(self.config.digits), self.config.seq_len, self.config.hidden_size

    def stack(self, layers: int) -> Stack:
        c = self.config
        return Stack([FieldBlock(c.hidden_size, c.seq_len, c.expansion, c.glu_norm) for _ in range(layers)])

    def embed(self, data: dict[str, Tensor]) -> Tensor:
        """The question x (B, F, L, D), from `inputs` (B, L)."""
        cells = data["inputs"][:, None]
        role = torch.where(cells == self.digits[:, None], THIS, OTHER).masked_fill(cells == self.config.blank, EMPTY)
        return self.scale * self.embed_tokens(role)

    def heads(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, L, V) and, in float32, those of halt and continue (B, 2), from y (B, F, L, D)."""
        logits = of_tokens(self.lm_head(y).squeeze(-1).transpose(1, 2), self.digits, self.config.vocab_size)
        return logits, self.q_head(y.mean((1, 2))).float()


class DEC(ACTModel):
    Config, Recursion, UNUSED_KEYS = DECConfig, DECRecursion, DECConfig.UNUSED_KEYS
