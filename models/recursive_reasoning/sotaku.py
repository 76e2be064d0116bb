"""Sotaku (github.com/chenglou/sotaku): one pre-norm network, which sees the softmax of the answer it gave before.

    h = x, p = 0;  n times:  h ← f(h + W·p), p ← softmax(head of h)      a loss of each answer, gradient in all passes

f has `L_layers` blocks of `PreNormBlock` with ReLU. x is added once, when a puzzle starts. The source trains one
supervision step of n = 16 passes, and asks 1,024 passes at the test, which are 64 supervision steps here. h gathers the
parts of all passes without a norm, so weights begin small, by PyTorch's defaults, as in the source.

    python pretrain.py experiment=sotaku
"""
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from models.act import ACTModel, Carry, Judge
from models.backbone import Stack
from models.layers import Embedding, Linear, OuterLinear, PreNormBlock
from models.recursive_reasoning.trm import TRMConfig, TRMRecursion


class SotakuConfig(TRMConfig):
    # all passes of a supervision step have a gradient
    H_cycles: Literal[1] = 1
    # options of other architectures
    mlp_t: Literal[False] = False
    causal: Literal[False] = False
    glu_norm: Literal[False] = False
    wta_chains: Literal[1] = 1
    no_grad_dtype: Literal["same"] = "same"

    @model_validator(mode="after")
    def _check_tokens(self):
        self.check_tokens()
        return self


class SotakuRecursion(TRMRecursion):
    """Of the latents, the first is h, and the second W·p."""

    LATENTS = ("H_init", "P_init")
    config: SotakuConfig

    def __init__(self, config: SotakuConfig):
        super().__init__(config)
        self.feedback = OuterLinear(config.vocab_size, config.hidden_size, bias=True)  # W
        for name in self.LATENTS:
            getattr(self, name).zero_()
        for linear in (module for module in self.modules() if isinstance(module, Linear) and module is not self.q_head):
            bound = linear.weight.shape[1]**-0.5
            for parameter in linear.parameters():
                nn.init.uniform_(parameter, -bound, bound)
        if isinstance(self.embed_tokens, Embedding):
            bound = config.vocab_size**-0.5 / self.scale  # `embed` multiplies by the scale
            nn.init.uniform_(self.embed_tokens.embedding_weight, -bound, bound)

    def stack(self, layers: int) -> Stack:
        c = self.config
        return Stack(PreNormBlock(c.hidden_size, c.num_heads, c.expansion, F.relu) for _ in range(layers))

    def started(self, latents: tuple[Tensor, ...], x: Tensor, new: Tensor) -> tuple[Tensor, ...]:
        """h of new rows gets the question added."""
        h, fed = latents
        return h + x * new[:, None, None], fed

    def forward(self, latents: tuple[Tensor, ...], x: Tensor, keys: Tensor | None = None):
        """As `Backbone.forward`, with logits (B, n, L, V): of all n passes in training, of the last else."""
        (h, fed), update, found = latents, self.passes(keys), []
        for _ in range(self.config.L_cycles):
            h = update(self.L_level, h, fed)
            found.append(self.lm_head(h)[:, self.P:])
            probable = found[-1].float().softmax(-1).to(h.dtype)
            fed = F.pad(self.feedback(probable), (0, 0, self.P, 0))
        logits = torch.stack(found if self.training else found[-1:], 1)
        return (h.detach(), fed.detach()), logits, self.q_head(h[:, 0]).float()


class Sotaku(ACTModel):
    Config, Recursion, UNUSED_KEYS = SotakuConfig, SotakuRecursion, TRMConfig.UNUSED_KEYS

    def forward(self, carry: Carry, batch: dict[str, Tensor],
                judge: Judge | None = None) -> tuple[Carry, dict[str, Tensor]]:
        """See `ACTModel.forward`. In training, `pass_logits` (B, n, L, V) are those of all passes."""
        carry, outputs = super().forward(carry, batch, judge)
        every = outputs["logits"]
        return carry, outputs | {"logits": every[:, -1]} | ({"pass_logits": every} if self.training else {})
