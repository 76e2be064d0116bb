"""What every architecture shares around its recursion: its config, the embedded puzzle x, initial latents, the heads.

    x = √D · (tokens + puzzle embedding [+ positions])   (B, P+L, D), the question of the paper
    y = z_H, the answer latent, and z = z_L, the reasoning latent, start from fixed vectors
    logits = lm_head(y), and two halting logits from y's first position

An architecture subclasses `Backbone` and adds the networks and the recursion that make it differ.
"""
import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from models.layers import Block, Embedding, Linear, RotaryPositions, truncated_normal_
from models.sparse_embedding import SparseEmbedding

Q_HEAD_BIAS = -5.0  # "almost surely wrong, do not halt" before anything is learned


class BackboneConfig(BaseModel):
    """Published keys common to all architectures; the last block is filled from the data, never from YAML."""

    model_config = ConfigDict(extra="forbid", strict=True)

    # width D of a latent
    hidden_size: int = Field(gt=0)
    # attention heads; D / heads is the width of one (unused with mlp_t)
    num_heads: int = Field(gt=0)
    # SwiGLU inner width as a multiple of its input, before the factor 2/3 and rounding up to 256
    expansion: float = Field(gt=0)
    # blocks in the network
    L_layers: int = Field(gt=0)
    # how attention learns of positions
    pos_encodings: Literal["none", "rope", "learned"]
    # mix positions by a SwiGLU along the sequence instead of attention
    mlp_t: bool = False
    # width of a puzzle's embedding; 0: puzzles have none
    puzzle_emb_ndim: int = Field(ge=0)
    # positions P before the sequence that hold it; 0: as many as its width needs
    puzzle_emb_len: int = Field(ge=0)
    # dtype of activations; auto: bfloat16 on CUDA, float32 elsewhere
    forward_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    # N_sup, supervision (ACT) steps a puzzle gets at most
    halt_max_steps: int = Field(gt=0)
    # chance that a step demands a random minimum of steps before halting
    halt_exploration_prob: float = Field(ge=0, le=1)
    # halt when q_halt > 0 (true), or when q_halt > q_continue, whose target is bootstrapped (false)
    no_ACT_continue: bool = True
    # halt before N_sup: in training, and at evaluation
    act_enabled: bool = True
    act_inference: bool = False

    # filled from the data: rows of a batch on one rank, sequence length L, tokens V, rows of the embedding table
    batch_size: int = 0
    seq_len: int = 0
    vocab_size: int = 0
    num_puzzle_identifiers: int = 0

    @model_validator(mode="after")
    def _check(self):
        if not self.mlp_t and self.hidden_size < self.num_heads:
            raise ValueError(f"hidden_size={self.hidden_size} leaves no width for num_heads={self.num_heads}")
        head_width = self.hidden_size // self.num_heads
        if not self.mlp_t and self.pos_encodings == "rope" and head_width % 2:
            raise ValueError(f"pos_encodings=rope turns pairs: hidden_size / num_heads = {head_width} must be even")
        if self.mlp_t and self.pos_encodings == "rope":
            raise ValueError("pos_encodings=rope has no effect with mlp_t=True; use pos_encodings=none")
        if self.puzzle_emb_len and self.puzzle_emb_ndim > self.puzzle_emb_len * self.hidden_size:
            raise ValueError(f"puzzle_emb_ndim={self.puzzle_emb_ndim} does not fit into "
                             f"puzzle_emb_len={self.puzzle_emb_len} positions of hidden_size={self.hidden_size}; "
                             "use puzzle_emb_len=0 for as many as needed")
        return self

    @property
    def prefix_len(self) -> int:
        """P. Without an embedding, `puzzle_emb_len` positions stay zero: room to think, a place for the Q head."""
        return self.puzzle_emb_len or -(-self.puzzle_emb_ndim // self.hidden_size)


class Backbone(nn.Module):
    """Embeds a puzzle, holds initial latents and heads; subclasses add networks and `forward(latents, x)`."""

    def __init__(self, config: BackboneConfig):
        super().__init__()
        self.config = config
        D, P, positions = config.hidden_size, config.prefix_len, config.prefix_len + config.seq_len
        self.dtype = getattr(torch, config.forward_dtype)
        self.scale = math.sqrt(D)
        self.embed_tokens = Embedding(config.vocab_size, D, std=1 / self.scale, dtype=self.dtype)
        self.lm_head = Linear(D, config.vocab_size)
        self.q_head = Linear(D, 2, bias=True)
        nn.init.zeros_(self.q_head.weight)
        nn.init.constant_(self.q_head.bias, Q_HEAD_BIAS)
        if config.puzzle_emb_ndim:
            self.puzzle_emb = SparseEmbedding(config.num_puzzle_identifiers, config.puzzle_emb_ndim)
        if config.pos_encodings == "learned":
            self.embed_pos = Embedding(positions, D, std=1 / self.scale, dtype=self.dtype)
        self.rotary = RotaryPositions(positions, D // config.num_heads) if config.pos_encodings == "rope" else None
        self.P = P

    def add_initial_latent(self, name: str) -> None:
        """A fixed vector (D,), drawn once, saved with the weights and not trained."""
        self.register_buffer(name, truncated_normal_(torch.empty(self.config.hidden_size), std=1.0).to(self.dtype))

    def stack(self, layers: int) -> "Stack":
        c = self.config
        positions = self.P + c.seq_len
        return Stack([Block(c.hidden_size, positions, c.num_heads, c.expansion, c.mlp_t) for _ in range(layers)])

    def embed(self, data: dict[str, Tensor]) -> Tensor:
        """The question x (B, P+L, D) from `inputs` (B, L) and `puzzle_identifiers` (B,)."""
        x = self.embed_tokens(data["inputs"])
        if self.P:
            x = torch.cat((self._prefix(data["puzzle_identifiers"], x), x), dim=1)
        if self.config.pos_encodings == "learned":
            x = (x + self.embed_pos.embedding_weight.to(self.dtype)) / math.sqrt(2)  # two parts, the variance of one
        return self.scale * x

    def _prefix(self, identifiers: Tensor, tokens: Tensor) -> Tensor:
        """The puzzle embeddings as P positions (B, P, D), padded with zeros."""
        B, D = tokens.shape[0], self.config.hidden_size
        if not self.config.puzzle_emb_ndim:
            return tokens.new_zeros(B, self.P, D)
        vector = self.puzzle_emb(identifiers).to(self.dtype)
        return F.pad(vector, (0, self.P * D - vector.shape[-1])).view(B, self.P, D)

    def heads(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, L, V) and the halting logits (B, 2): halt, continue; the latter in float32."""
        return self.lm_head(y)[:, self.P:], self.q_head(y[:, 0]).float()


class Stack(nn.Module):
    """f: add the injection, then pass through the blocks."""

    def __init__(self, layers: list[Block]):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, z: Tensor, injection: Tensor, rotary: RotaryPositions | None) -> Tensor:
        z = z + injection
        for layer in self.layers:
            z = layer(z, rotary)
        return z
