"""LDT on digit fields: its candidates, deductions and guesses, by a network that knows that digits are exchangeable.

    h₀    = vector of (digit, cell): no candidate; a candidate; the only candidate                     (L, B, F, D)
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

from models.fields import of_tokens
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
        """z (L, B, F, D), so that mixing all cells is one product. `drop`: dropout of what each part adds; `number`: of
        this block, one or (B,)."""
        def added(part: Tensor, place: int | Tensor) -> Tensor:
            return dropped(part.transpose(0, 1), drop, place).transpose(0, 1)

        z = z + added(self.mlp_t.along_first(self.mix_norm(z).flatten(1)).view_as(z), 2 * number)
        return z + added(self.down_proj(F.gelu(self.up(self.mlp_norm(z)))), 2 * number + 1)

    def up(self, own: Tensor) -> Tensor:
        """`up_proj` of each field and the mean of the others, (L, B, F, inner) of `own` (L, B, F, D).

        W₁·own + W₂·(sum − own) / (F − 1), rearranged so that the sum over the fields is multiplied once for all.
        """
        of_own, of_others = self.up_proj.weight.chunk(2, 1)
        others, bias = of_others / (own.shape[2] - 1), self.up_proj.bias
        assert bias is not None
        common = F.linear(own.sum(2, keepdim=True), others.to(own.dtype), bias.to(own.dtype))
        return F.linear(own, (of_own - others).to(own.dtype)) + common


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
        """h₀ (L, B, F, D) of candidates (B, L, V)."""
        possible = candidates[..., self.digits].transpose(0, 1).bool()
        return self.embed_roles(possible.int() + (possible & (possible.sum(-1, keepdim=True) == 1)).int())

    def loop(self, h: Tensor, drop: Dropout | None) -> tuple[Tensor, Tensor]:
        """LN(h + g(h)) (L, B, F, D), and its mean (B, D), which stands for the whole board."""
        h = self.loop_norm(h + self.through_layers(h, drop))
        return h, h.mean((0, 2))

    def heads(self, h: Tensor, whole: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `LDTNetwork.heads`."""
        V = self.config.vocab_size
        keep, digit = (head(h).squeeze(-1).transpose(0, 1) for head in (self.keep_head, self.digit_head))  # (B, L, F)
        return of_tokens(keep, self.digits, V, others=0.0), of_tokens(digit, self.digits, V), \
            self.conflict_head(whole)[:, 0]


class LDTFields(LDT):
    Config = LDTFieldsConfig  # type: ignore[assignment]  # LDT has its own
    Recursion = LDTFieldsNetwork
    config: LDTFieldsConfig
