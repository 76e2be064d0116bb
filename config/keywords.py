"""Settings of a script that is called from Python: keywords as on the command line, or a whole config."""
from collections.abc import Mapping
from typing import TypeVar

from omegaconf import DictConfig, OmegaConf

from config.schema import SharedConfig
from utils.keywords import composed_from, words_of

C = TypeVar("C", bound=SharedConfig)


def settled(kind: type[C], config: C | None,
            settings: Mapping[str, object]) -> tuple[C, DictConfig, list[str]]:
    """The typed config of keyword settings or of a given config, with its untyped form and the words of a command line
    that set the same values.

    A given config is checked again, and not changed. Raises ValueError, with the message of the command line, for
    settings that are wrong.
    """
    if config is None:
        cfg, words = composed_from(kind.YAML, settings)
        return kind.parse(cfg, words), cfg, words
    if not isinstance(config, kind):
        raise ValueError(f"{config!r} is no {kind.__name__}; give settings by keyword, such as "
                         f"seed=1, or one made by {kind.__name__}.of(seed=1)")
    if settings:
        raise ValueError(f"{', '.join(settings)}: the config that is given already has these "
                         "settings; set them in it, or give settings without a config")
    values = config.model_dump(warnings=False)  # `parse` below checks it
    cfg, words = OmegaConf.create(values), words_of(values)
    return kind.parse(cfg, words), cfg, words
