"""Errors of users as one message and a non-zero exit: no traceback, unless `debug=true`."""
import atexit
import difflib
import os
import re
import shlex
import sys
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import ConfigCompositionException, HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from utils.foreign import printable
from utils.hints import CONFIG_DIR, meant_by_word, name_here, refuse_words_without_key
from utils.quoting import corrected, typed

HELP = ("--help", "-h")
USER_ERROR = 2  # exit status of a run that ended for bad input
AS_TYPED = ("solve",)  # settings whose value is text, whatever it looks like
COMPOSING = threading.Lock()  # Hydra's state is one for all threads


def unknown_key(key: str, known: Iterable[str]) -> str:
    """Advice on a key that does not exist.

    It names the key that other projects call so, or the known key that is spelt most alike: first by the last part of
    its name, then by the whole.
    """
    known = list(known)
    if _is_group(key):
        one = "; single options of it are set as in arch.act_inference=true" if key == "arch" else ""
        return f"{key}=… is a setting of pretrain.py; here the checkpoint says what was trained, and how{one}"
    if here := name_here(key, known):
        return f"unknown key {key}; here it is called {here}"
    last_parts = {full.rpartition(".")[2]: full for full in sorted(known, key=len, reverse=True)}
    by_last_part = difflib.get_close_matches(key.rpartition(".")[2], last_parts, n=1, cutoff=0.7)
    whole = difflib.get_close_matches(key, last_parts.values(), n=1, cutoff=0.0)
    if by_last_part:
        return f"unknown key {key}; did you mean {last_parts[by_last_part[0]]}?"
    return f"unknown key {key}; the nearest valid one is {whole[0]} (`--cfg job` prints them all)"


def _is_group(key: str) -> bool:
    """Does it choose a file of `config/`, as `experiment` does?"""
    return key.isidentifier() and (CONFIG_DIR / key).is_dir()


def describe_validation(error: ValidationError, known: Iterable[str], prefix: str = "") -> str:
    """Every problem of a typed config, one a line, named by its full key."""
    lines: list[str] = []
    wrong_values: dict[str, list[str]] = {}
    for problem in error.errors():
        parts = [prefix.rstrip(".")] * bool(prefix) + [str(part) for part in problem["loc"]]
        key = ".".join(parts)
        if problem["type"] == "extra_forbidden":
            lines.append(unknown_key(key, set(known) - {key}))
        elif problem["type"] == "value_error":
            lines.append(f"{key + ': ' if key else ''}{problem['ctx']['error']}")
        else:  # of a union of types, pydantic names each as if it were part of the key
            key = next((k for n in (len(parts), len(parts) - 1) if (k := ".".join(parts[:n])) in known), key)
            wrong_values.setdefault(f"{key}={problem['input']!r}", []).append(problem["msg"] + _right_spelling(problem))
    return "\n".join(lines + [f"{value}: {', or: '.join(messages)}"
                              for value, messages in wrong_values.items()])


def _right_spelling(problem: ErrorDetails) -> str:
    """How the value should be written, as the end of a sentence; empty where that is not known.

    Known are one value in place of a list of them, a number in place of text, and a name in place of {name: …}.
    """
    given = problem["input"]
    if problem["type"] == "list_type" and isinstance(given, str):
        return f'; write {problem["loc"][-1]}="[{given}]"'
    if problem["type"] == "string_type" and isinstance(given, (int, float)) and isinstance(problem["loc"][-1], str):
        return f"; write {typed('.'.join(map(str, problem['loc'])), str(given))}"
    if problem["type"] == "literal_error" and problem["loc"] and " or " not in problem["ctx"]["expected"]:
        return f'; write {".".join(map(str, problem["loc"]))}={problem["ctx"]["expected"]}, or leave it to arch=NAME'
    if problem["type"].startswith("model") and isinstance(given, str):
        return f"; write {{name: {given}}}"
    return ""


@contextmanager
def user_errors(config_name: str) -> Iterator[None]:
    """Turn what goes wrong inside into one message and an exit, unless `debug=true` asks for the traceback."""
    try:
        yield
    except (ValueError, OSError, HydraException, OmegaConfBaseException) as error:
        if any(re.fullmatch(r"\+*debug=true", argument, re.IGNORECASE) for argument in sys.argv):
            raise
        message = printable(f"error: {message_of(error, config_name, sys.argv[1:])}")
        if _first_to_tell(message, is_consequence=isinstance(error, ConnectionError)):
            print(message, file=sys.stderr)
        sys.exit(USER_ERROR)


def _first_to_tell(message: str, is_consequence: bool) -> bool:
    """Should this process print the message? Of those that torchrun started on this machine, the first one does.

    A consequence of another error, such as a lost peer, is printed only if no process printed anything.
    """
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE")  # a folder for each process, in one for each attempt
    if not error_file or not (attempt := Path(error_file).parent.parent).is_dir():
        return True
    if is_consequence and any(attempt.glob("told-*")):
        return False
    try:
        (attempt / f"told-{zlib.crc32(message.encode()):08x}").touch(exist_ok=False)
    except OSError as error:
        return not isinstance(error, FileExistsError)
    return True


def run_script(task: Callable[[DictConfig], None], config_name: str,
               help_text: Callable[[DictConfig, str], str] | None = None) -> None:
    """Compose `config/<config_name>.yaml` with the command line by Hydra, and run the task with it.

    `help_text`: what `--help` prints, made from the config.
    """
    def guarded(cfg: DictConfig) -> None:
        with user_errors(config_name):  # inside as well: Hydra would print a line of its own about the error
            task(cfg)

    sys.argv[1:] = overrides_known_to_classes(sys.argv[1:])
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hand errors of composing to us rather than print half a traceback
    status: str | int | None = 0
    try:
        with user_errors(config_name):
            refuse_words_without_key(sys.argv[1:], config_name)
            words = [word for word in sys.argv[1:] if word not in HELP]
            if help_text and len(words) < len(sys.argv[1:]):
                print(help_text(composed(config_name, words), config_name))
                sys.exit()
            hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name=config_name)(guarded)()
    except SystemExit as end:
        status = end.code
    if "LOCAL_RANK" in os.environ and isinstance(status, int):
        _leave(status)
    sys.exit(status)


def composed(config_name: str, words: list[str]) -> DictConfig:
    """What the settings on a command line mean. Hydra's global state, which may be a caller's own, stays as it was."""
    with COMPOSING:
        of_caller = GlobalHydra.instance().hydra
        GlobalHydra.instance().clear()
        try:
            with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONFIG_DIR)):
                return hydra.compose(config_name, words)
        finally:
            GlobalHydra.instance().hydra = of_caller  # Hydra may have made another instance


def _leave(status: int) -> NoReturn:
    """End one process of several at once, without Python's own shutdown.

    During that shutdown a thread of torch.distributed can abort ("terminate called without an active exception"), and
    torchrun would report the run as failed.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def overrides_known_to_classes(words: Iterable[str]) -> list[str]:
    """The words of a command line, with `++` before keys below `arch`, so that Hydra accepts keys which the YAML lacks,
    and `+` before `tta`.

    Those below `arch` may be options of another model or loss head. The classes named there check them, and refuse
    unknown ones. `+tta=…` is how Hydra adds a group; Python's keywords have no plus. Values of `AS_TYPED` are put in
    quotes.
    """
    return [f"++{word}" if re.match(r"arch\.[\w.]+=", word) else f"+{word}" if word.startswith("tta=")
            else _as_typed(word) for word in words]


def _as_typed(word: str) -> str:
    """A setting of `AS_TYPED` with its value in quotes. Hydra would take a puzzle of digits for a number."""
    key, equals, value = word.partition("=")
    if key not in AS_TYPED or not equals or value in ("", "null") or value[0] in "\"'":
        return word
    return f"{key}={QuotedString(value, Quote.double).with_quotes()}"


def flat_keys(cfg: DictConfig) -> list[str]:
    """Every key of a config, dotted."""
    keys = []
    for key in cfg:
        node = cfg._get_node(key)
        keys += [str(key)] + ([f"{key}.{inner}" for inner in flat_keys(node)]
                              if isinstance(node, DictConfig) and not node._is_none() else [])
    return keys


def leaf_keys(cfg: DictConfig) -> list[str]:
    """The dotted keys of its values."""
    return [key for key in flat_keys(cfg) if not isinstance(OmegaConf.select(cfg, key), DictConfig)]


def message_of(error: Exception, config_name: str, words: Sequence[str]) -> str:
    """What is said of an error that settings made: what is wrong, and what to write. `words`: the settings."""
    if isinstance(error, OverrideParseException) and "=" not in error.override and (
            meant := meant_by_word(error.override, config_name)):
        return f"{error.override} has no key; write {meant}"
    if isinstance(error, OverrideParseException):
        said = str(error.message).splitlines()
        reason = next((line for line in said if " at " in line or "Unknown" in line), said[0])
        word = re.sub(r"^\+\+arch\.", "arch.", error.override)  # as it was typed: see `overrides_known_to_classes`
        return (f"cannot read the setting {word!r} ({reason}); "
                + (f"write {quoted}" if (quoted := corrected(word)) else "settings are written key=value"))
    # Hydra's own advice here has quotes that a shell takes away.
    ambiguous = re.match(r"Ambiguous value for argument '(.+)'\n", str(error))
    if ambiguous and (word := ambiguous[1]):
        as_list = shlex.quote(word.replace("=", "=[", 1) + "]")
        return f"{word} is several values; for one text write {corrected(word)}, for a list {as_list}; -m runs each"
    override = re.match(r"Could not override '([^']+)'", str(error))
    if isinstance(error, ConfigCompositionException) and override:
        groups = [word for word in words if re.match(r"(arch|experiment)=", word)]
        key = override.group(1)
        return unknown_key(key, [] if _is_group(key) else flat_keys(composed(config_name, groups)))
    absent = re.search(r"Could not find '(\w+)/([^']+)'", str(error))
    if absent and _is_group(absent[1]):
        return unknown_choice(absent[1], absent[2])
    return str(error).split("\nConfig search path")[0].strip()


def unknown_choice(group: str, name: str) -> str:
    """Advice on a file of `config/` that does not exist, such as `experiment=sudoko_cpu`."""
    there_are = sorted(file.stem for file in (CONFIG_DIR / group).glob("*.yaml"))
    nearest = difflib.get_close_matches(name, there_are, n=1, cutoff=0.0)
    return f"there is no {group}={name}; did you mean {nearest[0]}? There are {', '.join(there_are)}"
