"""What comes from strangers: configs in checkpoints or beside them, and text. It is read without running anything.

A config may hold plain values and references to them: `${arch.hidden_size}`, or `${.hidden_size}` for a neighbour.
Other references are refused: OmegaConf alone would replace `${oc.env:TOKEN}` by the secret, and an export publish it.
"""
import re
from collections.abc import Sequence
from pathlib import Path

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

MOST_BYTES = 1_000_000  # a config has a few thousand
MOST_LEVELS = 20
REFERENCE = re.compile(r"\$\{(\.*)(\w+(?:\.\w+)*)\}")


def read_settings(file: Path) -> dict:
    """The config in a YAML file. Raises ValueError if it is not a config, or holds other than plain values."""
    try:
        if file.stat().st_size > MOST_BYTES:
            raise ValueError(f"it is larger than {MOST_BYTES / 1e6:g} MB")
        with open(file, encoding="utf-8") as stream:
            if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(stream)):  # a few lines could grow to GB
                raise ValueError("it has YAML aliases (*name); write the values out")
            stream.seek(0)
            content = OmegaConf.to_container(OmegaConf.load(stream), resolve=False)
    except (ValueError, yaml.YAMLError, OmegaConfBaseException, RecursionError, OSError) as error:
        raise ValueError(f"{file} cannot be read as a config: "
                         f"{' '.join(str(error).split())}") from error
    return plain_settings(content, file)


def plain_settings(settings: object, file: Path) -> dict:
    """The config with its references replaced by their values. Raises ValueError, which names the key, for a value that
    is not plain."""
    if not isinstance(settings, dict):
        raise ValueError(f"{file}: the config is a {type(settings).__name__}, and "
                         "should map names to values")
    return _plain(settings, [], "", file)


def printable(text: str) -> str:
    """Text that is safe on a terminal or in a log: control characters are spelled out (a file's name may hold some)."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def spreadsheet_text(text: str) -> str:
    """Text for a cell of a CSV file: an apostrophe before it where a spreadsheet would take it for a formula."""
    return f"'{text}" if re.match(r"[=+\-@\t\r]", text) and not re.fullmatch(r"[+-][\d.e+-]+", text) else text


def markdown_text(text: str) -> str:
    """Text for a Markdown document: a backslash before all that could be markup, HTML or the end of a cell."""
    return re.sub(r"([\\`*{}\[\]<>()#|!&])", r"\\\1", text)


def _plain(value: object, above: Sequence[dict | list], key: str, file: Path):
    """`above`: the containers around a value, the whole config first."""
    if isinstance(value, (dict, list)):
        if len(above) > MOST_LEVELS:
            raise ValueError(f"{file}: {key} stands more than {MOST_LEVELS} levels deep; such a "
                             "config is none of ours")
        items = value.items() if isinstance(value, dict) else enumerate(value)
        found = {_checked_key(k, key, file): _plain(v, [*above, value],
                                                    f"{key}.{k}" if key else str(k), file)
                 for k, v in items}
        return found if isinstance(value, dict) else list(found.values())
    if isinstance(value, str) and "${" in value:
        return _referred_to(value, above, key, file)
    if not isinstance(value, (str, int, float, type(None))) or (isinstance(value, str) and not value.isprintable()):
        raise ValueError(f"{file}: {key}={value!r} is no plain text, number, true, "
                         "false or null; correct it")
    return value


def _checked_key(key: object, above: str, file: Path) -> str | int:
    if isinstance(key, int) or (isinstance(key, str) and key.isprintable()):
        return key
    raise ValueError(f"{file}: {above or 'the config'} has the key {key!r}, which is no "
                     "plain text; correct it")


def _referred_to(text: str, above: Sequence[dict | list], key: str, file: Path):
    """The value that a reference names, looked for from the top or, with n dots, from the n-th container around."""
    match = REFERENCE.fullmatch(text)
    place: object = None
    if match and len(match[1]) <= len(above):
        place = above[-len(match[1])] if match[1] else above[0]
        for part in match[2].split("."):
            place = place.get(part) if isinstance(place, dict) else None
    if place is None or isinstance(place, (dict, list)) or (isinstance(place, str) and "${" in place):
        raise ValueError(f"{file}: {key}={text!r} is not taken over; of a config in a file, only "
                         "references to plain values of its own are, such as "
                         "${arch.hidden_size}; write the value out")
    return _plain(place, above, key, file)
