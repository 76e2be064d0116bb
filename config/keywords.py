"""A script called from Python: by keywords, which are the settings of its command line, or by a whole config."""
from collections.abc import Mapping
from typing import TypeVar

from omegaconf import DictConfig, OmegaConf

from config.schema import SharedConfig
from utils.keywords import composed_from, words_of

C = TypeVar("C", bound=SharedConfig)


def settled(kind: type[C], config_name: str, config: C | None, settings: Mapping[str, object]
            ) -> tuple[C, DictConfig, list[str]]:
    """The typed config of `config/<config_name>.yaml`, with the untyped one and the words of a command line that mean
    the same. A given config is left as it is. Raises ValueError, with the message of the command line, for settings
    that are wrong."""
    if config is None:
        cfg, words = composed_from(config_name, settings)
        return kind.parse(cfg, words), cfg, words
    if settings:
        raise ValueError(f"{', '.join(settings)}: the config that is given has these settings, too; set them in it, or "
                         "give settings alone")
    values = config.model_dump()
    return config.model_copy(deep=True), OmegaConf.create(values), words_of(values)
