"""How deep a network recurses while it trains: shallow at first, as in CGAR (arXiv 2511.08653).

    depth_curriculum: [{until: 0.3, H_cycles: 1, L_cycles: 2}, {until: 0.6, H_cycles: 2, L_cycles: 4}]

A stage lasts until that fraction of all steps. After the last one the network trains at the depth of its config, and it
is always evaluated at that depth. The stage depends on the step alone, so a resumed run continues in its stage.
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
    """Raise ValueError if a stage ends before it begins."""
    ends = [stage.until for stage in stages]
    if ends != sorted(set(ends)):
        raise ValueError("depth_curriculum: each stage must end later than the one "
                         f"before, not until {ends}")


def cycles_at(step: int, total_steps: int, stages: Sequence[Stage]) -> dict[str, int]:
    """`H_cycles` and `L_cycles` of a training step from 1 to `total_steps`; empty where the config's own apply."""
    return next((stage.cycles for stage in stages if step - 1 < stage.until * total_steps), {})
