"""A script called from Python: by keywords, which are the settings of its command line, or by a whole config."""
from collections.abc import Mapping
from typing import TypeVar

from omegaconf import DictConfig, OmegaConf

from config.schema import SharedConfig
from utils.keywords import composed_from, words_of

C = TypeVar("C", bound=SharedConfig)


def settled(kind: type[C], config: C | None, settings: Mapping[str, object]) -> tuple[C, DictConfig, list[str]]:
    """The typed config, with the untyped one and the words of a command line that mean the same. A given config is
    checked anew and left as it is. Raises ValueError, with the message of the command line, for what is wrong."""
    if config is None:
        cfg, words = composed_from(kind.YAML, settings)
        return kind.parse(cfg, words), cfg, words
    if not isinstance(config, kind):
        raise ValueError(f"{config!r} is no {kind.__name__}; give settings by keyword, such as seed=1, or one made by "
                         f"{kind.__name__}.of(seed=1)")
    if settings:
        raise ValueError(f"{', '.join(settings)}: the config that is given has these settings, too; set them in it, or "
                         "give settings alone")
    values = config.model_dump(warnings=False)  # what is wrong is said below
    cfg, words = OmegaConf.create(values), words_of(values)
    return kind.parse(cfg, words), cfg, words
