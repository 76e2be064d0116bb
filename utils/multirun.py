"""The runs of one command, `pretrain.py -m seed=0,1 …`: what sets each apart is in its name."""
import re
import sys
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

MOST_CHARACTERS = 120  # of a name; file systems take 255


def is_multirun() -> bool:
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def choices() -> dict[str, str]:
    """The value that this run has of each setting that the command varies, by dotted key; empty for a single run."""
    if not is_multirun():
        return {}
    parse = OverridesParser.create().parse_overrides
    of_command = {word.key_or_group: word.is_sweep_override() for word in parse(
        [word for word in sys.argv[1:] if not word.startswith("-")])}
    varied = dict.fromkeys(HydraConfig.get().sweeper.params or {}, True) | of_command  # of an experiment, and given
    return {word.key_or_group: word.get_value_element_as_str()
            for word in parse(list(HydraConfig.get().overrides.task)) if varied.get(word.key_or_group)}


def name_of_choices() -> str:
    """The end of a run's name, such as `-halt_max_steps_4-seed_0`; empty for a single run."""
    parts = []
    chosen = choices()
    last_parts = [key.rpartition(".")[2] for key in chosen]
    for (key, value), last in zip(chosen.items(), last_parts):
        words = [last if last_parts.count(last) == 1 else key, value]
        parts.append("_".join(re.sub(r"[^\w.+-]+", "-", word).strip("-") for word in words))
    return "".join(f"-{part}" for part in parts)[:MOST_CHARACTERS]


def tell_names_apart(cfg: DictConfig) -> None:
    """Add the run's choices to a run_name that all runs of the command would share."""
    as_written: Any = OmegaConf.to_container(cfg, resolve=False)
    given = as_written["run_name"]
    if given is not None and "${" not in given and "run_name" not in choices():
        cfg.run_name = given + name_of_choices()
