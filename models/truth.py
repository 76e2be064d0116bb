"""What the known solutions of puzzles say of candidates, the tokens that cells may still hold."""
import torch
import torch.nn.functional as F
from torch import Tensor

from dataset.common import IGNORE_LABEL_ID, OTHER_LABELS


class Truth:
    """What the known solutions of puzzles say of candidates (B, L, V). K: solutions that are known; with K = 1, its
    answer is the truth, whatever the candidates are.

    Where no solution is possible any more, the published code takes the union of its last step. Here it is the union of
    the solutions that have lost the fewest tokens, which depends on the candidates alone.
    """

    def __init__(self, candidates: Tensor, data: dict[str, Tensor]):
        self.answered, labels = data["labels"] != IGNORE_LABEL_ID, data["labels"].clamp(min=0)  # (B, L)
        solutions = labels[:, None]
        if OTHER_LABELS in data:
            solutions = torch.cat((solutions, data[OTHER_LABELS].to(labels.dtype)), 1)
        self.solutions = solutions  # (B, K, L)
        there = candidates.bool().gather(-1, solutions.transpose(1, 2).long())  # (B, L, K)
        losses = (~there & self.answered[..., None]).sum(1)
        fewest = losses.amin(1, keepdim=True)
        self.counted = losses == fewest  # (B, K), the solutions whose union is the truth
        self.lost = fewest[:, 0] > 0  # (B,), whether none is possible

    def tokens(self, V: int) -> Tensor:
        """The union (B, L, V), booleans. In cells without an answer it says nothing."""
        if self.solutions.shape[1] == 1:
            return F.one_hot(self.solutions[:, 0].long(), V).bool()
        return torch.stack([((self.solutions == token) & self.counted[..., None]).any(1) for token in range(V)], -1)
