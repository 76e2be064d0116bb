"""LDT on digit fields: its candidates, deductions and guesses, by a network that knows that digits are exchangeable.

    h₀    = vector of (digit, cell): no candidate; a candidate; the only candidate                     (B, F, L, D)
    block = h + SwiGLU along the cells of LN(h), each field apart; then h + MLP of LN(h) and of the other fields' mean

F fields, one for each token that a cell may be filled with, as in DEC (models/recursive_reasoning/dec.py). All weights
are shared by the fields: if digits are renamed, what is deduced is renamed alike, exactly, so that `relabel` has
nothing to do. A digit that has one place left in a row shows along the cells of its field, and a cell that has one
digit left shows between the fields; LDT's attention has to learn both at once.

Not published: on two cores LDT itself stays at deductions of the second sort (docs/LOG.md, 2026-11-27).

    python pretrain.py experiment=sudoku_laptop
"""
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.fields import mean_of_others, of_tokens
from models.layers import Dropout, Embedding, LayerNorm, Linear, OuterLinear, SwiGLU, dropped
from models.recursive_reasoning.ldt import LDT, LDTConfig, LDTNetwork


class LDTFieldsConfig(LDTConfig):
    """Options of LDT, without those of attention and of renaming. `hidden_size` is the width D of a cell in a field."""

    num_heads: Literal[0] = 0
    pos_encodings: Literal["none"] = "none"  # type: ignore[assignment]  # LDT has others
    relabel: Literal[False] = False

    @property
    def fixed_sizes(self) -> tuple[str, ...]:
        """Weights along the cells fix L; all digits share theirs."""
        return "seq_len",


class LatticeFieldBlock(nn.Module):
    """Two residual parts with their input normalised: along the cells, then within each and between the fields."""

    def __init__(self, width: int, cells: int, expansion: float):
        super().__init__()
        self.mix_norm, self.mlp_norm = LayerNorm(width), LayerNorm(width)
        self.mlp_t = SwiGLU(cells, 3, rounded=1)  # of inner width 2 L
        inner = round(expansion * width)
        self.up_proj, self.down_proj = Linear(2 * width, inner, bias=True), Linear(inner, width, bias=True)

    def forward(self, z: Tensor, rotary: None = None, drop: Dropout | None = None,
                number: int | Tensor = 0) -> Tensor:
        """z (B, F, L, D). `drop`: dropout of what each part adds; `number`: of this block, one or (B,)."""
        # (B, F, D, L): one large product on a CPU, where many small ones along the cells take a quarter longer
        z = z + dropped(self.mlp_t(self.mix_norm(z).transpose(2, 3)).transpose(2, 3), drop, 2 * number)
        own = self.mlp_norm(z)
        both = torch.cat((own, mean_of_others(own)), -1)
        return z + dropped(self.down_proj(F.gelu(self.up_proj(both))), drop, 2 * number + 1)


class LDTFieldsNetwork(LDTNetwork):
    config: LDTFieldsConfig
    rotary = None
    digits: Tensor  # (F,) the token of each field

    def build(self, places: Tensor) -> None:
        """See `LDTNetwork.build`."""
        c, D = self.config, self.config.hidden_size
        self.register_buffer("digits", torch.tensor(self.ways), persistent=False)
        self.embed_roles = Embedding(3, D, std=1.0, dtype=self.dtype)
        self.layers = nn.ModuleList(LatticeFieldBlock(D, c.seq_len, c.expansion) for _ in range(c.L_layers))
        self.loop_norm = LayerNorm(D)
        self.keep_head, self.digit_head, self.conflict_head = (OuterLinear(D, 1, bias=True) for _ in range(3))

    def embed(self, candidates: Tensor) -> Tensor:
        """h₀ (B, F, L, D) of candidates (B, L, V)."""
        possible = candidates[..., self.digits].transpose(1, 2).bool()
        return self.embed_roles(possible.int() + (possible & (possible.sum(1, keepdim=True) == 1)).int())

    def loop(self, h: Tensor, drop: Dropout | None) -> tuple[Tensor, Tensor]:
        """LN(h + g(h)) (B, F, L, D), and its mean (B, D), which stands for the whole board."""
        h = self.loop_norm(h + self.through_layers(h, drop))
        return h, h.mean((1, 2))

    def heads(self, h: Tensor, whole: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `LDTNetwork.heads`."""
        V = self.config.vocab_size
        return of_tokens(self.keep_head(h), self.digits, V, others=0.0), \
            of_tokens(self.digit_head(h), self.digits, V), self.conflict_head(whole)[:, 0]


class LDTFields(LDT):
    Config = LDTFieldsConfig  # type: ignore[assignment]  # LDT has its own
    Recursion = LDTFieldsNetwork
    config: LDTFieldsConfig
