"""URM, the Universal Reasoning Model (arXiv 2512.14693): one latent, one network, the question added before each pass.

T = `H_cycles`, n = `L_cycles`. A supervision step has T·n passes, of which the last n have a gradient (the paper's
truncated backpropagation through loops). The paper counts 8 passes, 2 of them without gradient. Its published scripts
run T = 2, n = 6.

    python pretrain.py arch=urm data_paths="[data/…]"
"""
from torch import Tensor

from models.backbone import Passes
from models.recursive_reasoning.trm import TRM, TRMRecursion


class OneLatentRecursion(TRMRecursion):
    """n passes `z ← f(z + x)` of one latent."""

    def latent_recursion(self, latents: tuple[Tensor, ...], x: Tensor,
                         update: Passes) -> tuple[Tensor, ...]:
        z, = latents
        for _ in range(self.config.L_cycles):
            z = update(self.L_level, z, x)
        return z,


class URMRecursion(OneLatentRecursion):
    LATENTS = ("H_init",)
    SHORT_CONV = True


class URM(TRM):
    Recursion = URMRecursion
