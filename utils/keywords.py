"""Settings as keyword arguments of Python, with the same names, defaults and messages as on the command line:

    train(lr=1e-3, data_paths=["data/maze"], arch={"hidden_size": 64})
    pretrain.py lr=1e-3 data_paths="[data/maze]" arch.hidden_size=64
"""
import os
from collections.abc import Mapping, Sequence

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from utils.command_line import composed, message_of, overrides_known_to_classes
from utils.quoting import readable

WHOLE = ("strategy",)  # settings that are null by default, and so take their mapping at once


def composed_from(config_name: str, settings: Mapping[str, object]) -> tuple[DictConfig, list[str]]:
    """The config that keyword settings mean, and the same settings as the words of a command line. Raises ValueError,
    with the message of the command line, for what cannot be composed."""
    words = words_of(settings)
    try:
        return composed(config_name, overrides_known_to_classes(words)), words
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(message_of(error, config_name, words)) from error


def words_of(settings: Mapping[str, object], prefix: str = "") -> list[str]:
    """Settings as `key=value`, unquoted for a shell; a mapping holds the settings below its key, but for `WHOLE`."""
    words = []
    for key, value in settings.items():
        if isinstance(value, Mapping) and prefix + key not in WHOLE:
            words += words_of(value, f"{prefix}{key}.")
        else:
            words.append(f"{prefix}{key}={_text(prefix + key, value)}")
    return words


def _text(key: str, value: object) -> str:
    """A value as Hydra reads it. Raises ValueError for one that no setting takes."""
    if hasattr(value, "item") and not getattr(value, "shape", ()):  # a number of NumPy or PyTorch
        value = value.item()
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (str, os.PathLike)):
        return readable(os.fspath(value))
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{_text(key, part)}" for name, part in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ",".join(_text(key, part) for part in value) + "]"
    raise ValueError(f"{key}: {value!r} is no value of a setting; give a number, a "
                     "text, a list or a dict")
