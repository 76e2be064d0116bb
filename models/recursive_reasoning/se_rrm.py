"""SE-RRM, the symbol-equivariant recurrent reasoning model (arXiv 2603.02193): a latent a symbol and position.

    x      = √V · the symbol's vector where the symbol stands, else 0                            (B, V, P+L, D)
    block  = attention over positions, each symbol apart → over symbols, each position apart → SwiGLU (post-norm)
    z      ← f(z + x), n times in each of T cycles, the last with gradient
    logit of a symbol at a cell = z there · one vector

V symbols. The `special` ones (padding, blank) have vectors of their own; all others share one. So if these are renamed,
the answer is renamed alike, exactly. No weight depends on V or L: a network that was trained on 9×9 Sudokus can be
asked 16×16 ones. A cell's confidence is its largest probability, and q_halt is that of the least confident cell, so
there is nothing to learn about halting: training halts at random (`halt_exploration_prob`).

    python pretrain.py experiment=se_rrm_sudoku
"""
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from models.act import ACTModel, uniform
from models.backbone import Stack
from models.layers import Attention, Dropout, Embedding, OuterLinear, RotaryPositions, SwiGLU, board_positions, rms_norm
from models.recursive_reasoning.trm import TRMConfig
from models.recursive_reasoning.urm import OneLatentRecursion
from models.sparse_embedding import SparseEmbedding


class SERRMConfig(TRMConfig):
    # attention heads over positions, and over symbols, each of width `head_dim`
    num_heads: int = Field(gt=0)
    num_heads_t: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    # tokens that are not interchangeable with others, such as padding and blank; null: those of the kind of puzzle
    special: list[int] | None = None
    # 1: a puzzle embedding of one vector for all symbols, and one number for each symbol; 0: none
    puzzle_emb_ndim: Literal[0, 1] = 0
    # options of other architectures
    mlp_t: Literal[False] = False
    causal: Literal[False] = False
    no_ACT_continue: Literal[True] = True
    puzzle_emb_len: Literal[0] = 0

    @model_validator(mode="after")
    def _check_symbols(self):
        self.check_tokens(special=self.special or ())
        if self.special is None and self.vocab_size:
            raise ValueError("special=null: the data do not tell their kind of puzzle; set arch.special=[…], the "
                             "tokens that cannot be exchanged, such as padding and blank")
        return self

    @property
    def head_width(self) -> int:
        return self.head_dim

    @property
    def fixed_sizes(self) -> tuple[str, ...]:
        """Learned positions fix L. Puzzle embeddings have a number for each symbol, so they fix V, as vectors do where
        every symbol has its own."""
        own = bool(self.puzzle_emb_ndim) or len({*(self.special or ())}) == self.vocab_size
        return ("seq_len",) * (self.pos_encodings == "learned") + ("vocab_size",) * own

    @property
    def prefix_len(self) -> int:
        """P: only registers stand before the cells; a puzzle embedding is added to all of them."""
        return self.register_tokens

    def notices(self) -> list[str]:
        return []


class SymbolBlock(nn.Module):
    """Three residual parts, each normalised after the sum: over positions, over symbols, and within each."""

    def __init__(self, c: SERRMConfig):
        super().__init__()
        self.attn = Attention(c.hidden_size, c.num_heads, head_width=c.head_dim)
        self.attn_t = Attention(c.hidden_size, c.num_heads_t, head_width=c.head_dim)
        self.mlp = SwiGLU(c.hidden_size, c.expansion, c.glu_norm)

    def forward(self, z: Tensor, rotary: RotaryPositions | None, drop: Dropout | None = None,
                number: int = 0) -> Tensor:
        """z (B, V, P+L, D). `drop`: dropout of what each part adds; `number`: of this block in its network."""
        def added(part: Tensor, place: int) -> Tensor:
            return part if drop is None else drop(part, 3 * number + place)

        over_positions = self.attn(z.flatten(0, 1), rotary).view_as(z)
        z = rms_norm(z + added(over_positions, 0))
        by_position = z.transpose(1, 2)  # (B, P+L, V, D)
        over_symbols = self.attn_t(by_position.flatten(0, 1), None).view_as(by_position).transpose(1, 2)
        z = rms_norm(z + added(over_symbols, 1))
        return rms_norm(z + added(self.mlp(z), 2))


class SERRMRecursion(OneLatentRecursion):
    LATENTS = ("Z_init",)
    config: SERRMConfig

    def build_ends(self) -> None:
        c, special = self.config, self.config.special or []
        vectors = len(special) + 1  # the last is that of all other symbols
        self.embed_tokens = Embedding(vectors, c.hidden_size, std=1.0, dtype=self.dtype)
        self.lm_head = OuterLinear(c.hidden_size, 1)
        if c.puzzle_emb_ndim:
            self.puzzle_emb = SparseEmbedding(c.num_puzzle_identifiers, c.hidden_size + c.vocab_size)
        if c.pos_encodings == "learned":
            self.embed_pos = Embedding(c.seq_len, c.hidden_size, std=1.0, dtype=self.dtype)
        if c.register_tokens:
            self.registers = Embedding(vectors, c.register_tokens * c.hidden_size, std=c.register_std, dtype=self.dtype)
        kind = torch.full((c.vocab_size,), vectors - 1)
        kind[special] = torch.arange(vectors - 1)
        self.register_buffer("kind_of_symbol", kind, persistent=False)

    def places(self) -> Tensor:
        """Places (P+L, 1 or 2). Registers have that of the first cell."""
        c = self.config
        places = board_positions(0, c.seq_len) if c.pos_encodings == "rope2d" else torch.arange(c.seq_len)[:, None]
        return torch.cat((places[:1].expand(self.P, -1), places))

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return self.config.vocab_size, self.P + self.config.seq_len, self.config.hidden_size

    def stack(self, layers: int) -> Stack:
        return Stack([SymbolBlock(self.config) for _ in range(layers)])

    def embed(self, data: dict[str, Tensor]) -> Tensor:
        """The question x (B, V, P+L, D), from `inputs` (B, L) and `puzzle_identifiers` (B,)."""
        c, inputs = self.config, data["inputs"]
        vectors = self.embed_tokens(self.kind_of_symbol)[:, None]  # (V, 1, D)
        stands = inputs[:, None] == torch.arange(c.vocab_size, device=inputs.device)[:, None]  # (B, V, L)
        x = stands[..., None] * (vectors * c.vocab_size**0.5)
        if c.pos_encodings == "learned":
            x = x + self.embed_pos.embedding_weight.to(x.dtype)
        if c.puzzle_emb_ndim:
            of_all, of_symbols = self.puzzle_emb(data["puzzle_identifiers"]).to(x.dtype).split(
                (c.hidden_size, c.vocab_size), -1)
            x = x + of_all[:, None, None] + of_symbols[:, :, None, None]
        if self.P:
            registers = self.registers(self.kind_of_symbol).view(1, c.vocab_size, self.P, c.hidden_size)
            x = torch.cat((registers.expand(len(x), -1, -1, -1), x), 2)
        return x

    def heads(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, L, V) from y (B, V, P+L, D), and the halting logits (B, 2) in float32, which need no gradient."""
        logits = self.lm_head(y[:, :, self.P:]).squeeze(-1).transpose(1, 2)
        weakest = logits.detach().float().softmax(-1).amax(-1).amin(-1)
        halt = weakest.logit(1e-6)
        return logits, torch.stack((halt, torch.zeros_like(halt)), -1)


class SERRM(ACTModel):
    Config, Recursion, UNUSED_KEYS = SERRMConfig, SERRMRecursion, TRMConfig.UNUSED_KEYS
    config: SERRMConfig

    def _halt(self, steps: Tensor, sure: Tensor, key: Tensor) -> Tensor:
        """Which rows (B,) halt after this step: in training at random, since q_halt is not learned."""
        if not self.training:
            return super()._halt(steps, sure, key)
        return (steps >= self.config.halt_max_steps) | (uniform(key, 0) < self.config.halt_exploration_prob)
