"""How deep a network recurses while it trains: shallow at first, as in CGAR (arXiv 2511.08653).

    depth_curriculum: [{until: 0.3, H_cycles: 1, L_cycles: 2}, {until: 0.6, H_cycles: 2, L_cycles: 4}]

A stage lasts until that fraction of all steps; after the last one the network trains at the depth of its config, at
which it is always evaluated. The stage is a function of the step alone, so a run that goes on goes on in its stage.
"""
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field


class Stage(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    # fraction of all training steps at which the stage ends
    until: float = Field(gt=0, lt=1)
    # T and n of the stage
    H_cycles: int = Field(gt=0)
    L_cycles: int = Field(gt=0)

    @property
    def cycles(self) -> dict[str, int]:
        return {"H_cycles": self.H_cycles, "L_cycles": self.L_cycles}


def check_order(stages: Sequence[Stage]) -> None:
    """Raise ValueError where a stage would end before it begins."""
    ends = [stage.until for stage in stages]
    if ends != sorted(set(ends)):
        raise ValueError(f"depth_curriculum: each stage must end later than the one before, not until {ends}")


def cycles_at(step: int, total_steps: int, stages: Sequence[Stage]) -> dict[str, int]:
    """T and n, by their keys, of training step 1, 2, …, `total_steps`; empty: those of the config."""
    return next((stage.cycles for stage in stages if step - 1 < stage.until * total_steps), {})
