"""`--help`: every setting in groups, with its default and its meaning.

Groups, order and defaults come from the YAML file, in which comments at the left margin name the groups. The meaning of
a setting is the comment above its typed field.
"""
import inspect
import json
import re
from collections.abc import Iterator
from textwrap import fill, shorten
from typing import Literal, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel

from config.schema import DERIVED_KEYS, ArchConfig, EvaluateConfig, NamedConfig, Origin, PretrainConfig
from utils.checkpoint import CheckpointConfig
from utils.command_line import CONFIG_DIR

WIDTH, MEANING_AT = 120, 44
USAGE = {
    "cfg_pretrain": (PretrainConfig, """Train a tiny recursive reasoning model. Settings are written key=value:

    python pretrain.py experiment=demo_sudoku4 lr=5e-4 run_name=slower      # a recipe, and what differs from it
    python pretrain.py checkpoint.path=checkpoints/PROJECT/RUN checkpoint.resume=true
    torchrun --nproc-per-node 4 pretrain.py experiment=maze

--cfg job prints all settings of a command; -m runs every combination of values, as in seed=0,1 lr=1e-3,1e-4.
--help can follow other settings, such as experiment=maze, and then shows the defaults with them."""),
    "cfg_evaluate": (EvaluateConfig, """Score a checkpoint on test data. Settings are written key=value:

    python evaluate.py checkpoint=checkpoints/PROJECT/RUN picture=slowest
    python evaluate.py checkpoint=checkpoints/PROJECT/RUN data_paths="[data/other]" evaluators="[{name: sudoku@Sudoku}]"

The architecture is the checkpoint's, and arch.KEY=VALUE changes an option of it. -m runs every combination of values,
as in halt_max_steps=16,64."""),
}


def help_text(cfg: DictConfig, config_name: str) -> str:
    """The text that `--help` prints for a composed config."""
    model, usage = USAGE[config_name]
    parts = [usage]
    for title, keys in _sections(config_name):
        parts.append(_section(title, [line for key in keys for line in _settings(cfg, key, model)]))
    if model is PretrainConfig:
        parts += _of_architecture(cfg)
        parts += [_section(f"{group}=…", list(_choices(group)))
                  for group in ("arch", "experiment", "ablation")]
    return "\n\n".join(parts)


def meanings(model: type[BaseModel]) -> dict[str, str]:
    """The comment above each typed field, by name, for a class and the classes that it inherits from."""
    found, comment = {}, []
    for base in reversed(model.__mro__):
        if not issubclass(base, BaseModel) or base is BaseModel:
            continue
        for line in inspect.getsource(base).splitlines():
            if said := re.match(r"    # (.*)", line):
                comment.append(said[1])
                continue
            if comment and (field := re.match(r"    (\w+): ", line)):
                found[field[1]] = " ".join(comment)
            comment = []
    return found


def _sections(config_name: str) -> Iterator[tuple[str, list[str]]]:
    """The titles at the left margin of a YAML file, each with the keys below it."""
    title, keys = "", []
    for line in (CONFIG_DIR / f"{config_name}.yaml").read_text().splitlines():
        if line.startswith("# "):
            if keys:
                yield title, keys
            title, keys = line.removeprefix("# "), []
        elif (key := re.match(r"(\w+):", line)) and key[1] not in ("defaults", "hydra"):
            keys.append(key[1])
    yield title, keys


def _settings(cfg: DictConfig, key: str, model: type[BaseModel]) -> Iterator[str]:
    if key == "checkpoint" and model is PretrainConfig:
        yield from (_line(f"checkpoint.{name}", cfg.checkpoint, name, CheckpointConfig)
                    for name in cfg.checkpoint)
    else:
        yield _line(key, cfg, key, model)


def _of_architecture(cfg: DictConfig) -> list[str]:
    arch = ArchConfig.model_validate(OmegaConf.to_container(cfg.arch, resolve=True),
                                     context=Origin(imports=None))
    parts = []
    for title, prefix, named, model in (("Architecture", "arch.", arch, arch.model_class.Config),
                                        ("Loss", "arch.loss.", arch.loss, arch.head_class.Config)):
        values = {name: named.options.get(name, field.default)
                  for name, field in model.model_fields.items()
                  if name not in DERIVED_KEYS}
        options = OmegaConf.create(values)
        lines = [_line(f"{prefix}name", OmegaConf.create({"name": named.name}),
                       "name", NamedConfig)]
        parts.append(_section(title, lines + [_line(prefix + name, options, name, model) for name in values]))
    return parts


def _line(key: str, values: DictConfig, name: str, model: type[BaseModel]) -> str:
    """`key=default`, followed by its meaning, which starts at the same column in all lines."""
    is_missing = OmegaConf.is_missing(values, name)
    setting = f"  {key}=" + ("…" if is_missing else _written(OmegaConf.to_container(values, resolve=True)[name]))
    meaning = "must be set: " * is_missing + meanings(model)[name]
    choices = _literals(get_type_hints(model)[name])
    if name in getattr(model, "UNUSED_KEYS", ()):
        meaning, choices = "no effect with this architecture", []
    untold = [choice for choice in choices if not re.search(rf"\b{choice}\b", meaning)]
    meaning += f"; one of {', '.join(choices)}" * (len(untold) > 0)
    text = fill(meaning, WIDTH, initial_indent=" " * MEANING_AT, subsequent_indent=" " * MEANING_AT)
    return setting + text[len(setting):] if len(setting) < MEANING_AT - 1 else f"{setting}\n{text}"


def _written(value: object) -> str:
    """A value as it is typed on the command line."""
    text = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value
    return text if not isinstance(value, (list, dict)) else f'"{text.replace(chr(34), "")}"'


def _literals(hint: object) -> list[str]:
    """The strings that a type allows, if it names them."""
    if get_origin(hint) is Literal:
        return [value for value in get_args(hint) if isinstance(value, str)]
    return [value for part in get_args(hint) for value in _literals(part)]


def _choices(group: str) -> Iterator[str]:
    """A line for each file of a group, with the first sentence of the comment at its top."""
    for file in sorted((CONFIG_DIR / group).glob("*.yaml")):
        head = [line.removeprefix("# ") for line in file.read_text().splitlines()
                if line.startswith("# ") and not line.startswith("#  ") and "@package" not in line]
        about = " ".join(head).partition(". ")[0]
        yield f"  {file.stem:23}{shorten(about, WIDTH - 25, placeholder=' …')}"


def _section(title: str, lines: list[str]) -> str:
    return "\n".join([title, *lines])
