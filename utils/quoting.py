"""Settings as they are typed in a shell.

Text with `=`, parentheses and the like must stand in double quotes, or Hydra reads them as its own grammar. The shell
removes double quotes, so the whole setting must stand in single quotes:

    python evaluate.py 'checkpoint="runs/lr=1e-3"'
"""
import re
import shlex

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

SETTING = re.compile(r"(?P<key>[+~]*[\w.@/-]+)=(?P<value>.*)", re.DOTALL)


def typed(key: str, value: str | list[str]) -> str:
    """`key=value` for a shell, with the quotes that it needs. `value`: a text, or a list of them."""
    text = readable(value) if isinstance(value, str) else f"[{','.join(map(readable, value))}]"
    return shlex.quote(f"{key}={text}")


def corrected(word: str) -> str | None:
    """How to type a setting that Hydra cannot read: its text, or each text of its list, in quotes.

    None where quotes would not help.
    """
    setting = SETTING.fullmatch(word)
    if not setting:
        return None
    key, value = setting["key"], setting["value"]
    if not value.startswith(("[", "{")):
        return typed(key, value)
    if not re.fullmatch(r"\[[^][{}]+\]", value):
        return None
    return typed(key, [text.strip() for text in value[1:-1].split(",")])


def readable(text: str) -> str:
    """Text as Hydra needs it: unchanged, or in double quotes."""
    return text if _read(text) == text else QuotedString(text, Quote.double).with_quotes()


def _read(value: str):
    """What Hydra makes of a value; None where it cannot read it."""
    try:
        return OverridesParser.create().parse_override(f"key={value}").value()
    except HydraException:
        return None
