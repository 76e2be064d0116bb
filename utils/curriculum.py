"""How training begins shallower than it ends, in stages. Evaluation always has the full depth.

    depth_curriculum: [{until: 0.3, H_cycles: 1, L_cycles: 2}, {until: 0.6, H_cycles: 2, L_cycles: 4}]
    supervision_curriculum: [{until: 0.25, halt_max_steps: 1}]
    rating_curriculum: [{until: 0.2, min_rating: 21}, {until: 0.4, min_rating: 6}]

The first makes recursion shallower, as in CGAR (arXiv 2511.08653). The second gives each puzzle fewer supervision
steps, so that no batch is learned by heart before the network has learned to solve (SiC's code, arXiv 2601.19085).
The third trains on the hard puzzles first (github.com/chenglou/sotaku); dataset/train_stream.py follows it.

A stage lasts until that fraction of all steps. After the last one, the settings of the architecture apply. The stage
depends on the step alone, so a resumed run continues in its stage.
"""
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field


class Stage(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    # fraction of all training steps at which the stage ends
    until: float = Field(gt=0, lt=1)

    @property
    def options(self) -> dict[str, int]:
        """The options of the architecture that hold in this stage."""
        return self.model_dump(exclude={"until"})


class DepthStage(Stage):
    # T and n of the stage
    H_cycles: int = Field(gt=0)
    L_cycles: int = Field(gt=0)


class SupervisionStage(Stage):
    # N_sup of the stage
    halt_max_steps: int = Field(gt=0)


class RatingStage(Stage):
    # puzzles with a lower rating are left out in the stage
    min_rating: float = Field(allow_inf_nan=False)


def check_order(name: str, stages: Sequence[Stage]) -> None:
    """Raise ValueError if a stage of the curriculum `name` ends before it begins."""
    ends = [stage.until for stage in stages]
    if ends != sorted(set(ends)):
        raise ValueError(f"{name}: each stage must end later than the one "
                         f"before, not until {ends}")


def options_at(step: int, total_steps: int, *curricula: Sequence[Stage]) -> dict[str, int]:
    """The options of the architecture that stages change at a training step from 1 to `total_steps`.

    Empty where those of the config apply.
    """
    options: dict[str, int] = {}
    for stages in curricula:
        options |= next((stage.options for stage in stages if step - 1 < stage.until * total_steps), {})
    return options
