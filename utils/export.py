"""Checkpoints for others: in the published layout, as safetensors, and as a folder for the hub with a model card.

    published/    step_N, a bare state dict under the names of a compiled model, and all_config.yaml
    safetensors/  model.safetensors, the config also in its header; config.yaml; metadata.json
    hub/          the same, and the model card README.md

With the weights comes identifiers.json, as in a data set: the name of the puzzle of each row of the puzzle table.
`checkpoint=` and `load_checkpoint=` read all three again, given the folder or the file in it. The published layout has
no place for the metadata of the data, so to restore a model from it you need its data set.
"""
import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch import Tensor

from dataset.common import IDENTIFIER_NAMES, write_json
from utils.checkpoint import COMPILED_PREFIX, SAFETENSORS, write_atomically
from utils.foreign import markdown_text
from utils.quoting import typed
from utils.resolve import load_class
from utils.strict_json import as_json

# Of a run's config, what the published code writes down besides `arch`.
PUBLISHED_KEYS = ("data_paths", "data_paths_test", "evaluators", "global_batch_size", "epochs", "eval_interval",
                  "min_eval_interval", "lr", "lr_min_ratio", "lr_warmup_steps", "weight_decay", "beta1", "beta2",
                  "puzzle_emb_lr", "puzzle_emb_weight_decay", "seed", "ema", "ema_rate", "freeze_weights",
                  "project_name", "run_name")
PUBLISHED_LOSS_KEYS = ("name", "loss_type")
INITIAL_LATENT = "_init"  # how the published layout names initial latents, which have the dtype of activations
# Options by which a network computes what the published code cannot, with the values at which they do not.
UNPUBLISHED = {"causal": False, "glu_norm": False, "initial_state_std": 0, "relaxation": 1,
               "noise_scale": 0, "register_tokens": 0, "dropout": 0, "eval_dropout": 0,
               "rope_base": 10000, "halt_on": "q"}


@dataclass(frozen=True)
class Export:
    """Weights and all that is known about them, ready to be written in a layout."""

    # of the loss head, by name
    state: dict[str, Tensor]
    # config of the run that trained them
    settings: dict
    # optimizer steps taken; 0: unknown
    step: int
    # "averaged" or "stored"
    which: str
    # fingerprints by path of the data sets trained on ({}: unknown) and scored on
    trained_on: dict[str, str]
    scored_on: dict[str, str]
    # by flat name
    metrics: dict[str, float | str]
    # of the rows of the puzzle table; None: unknown
    puzzle_names: list[str] | None = None
    # `SplitMetadata.facts` of the data trained on, with the sizes of the model; None: unknown
    data_metadata: dict | None = None

    def write(self, layout: str, folder: Path, repository: str | None) -> None:
        """Write the files of a layout: `published`, `safetensors`, or `hub`, which needs the repository."""
        folder.mkdir(parents=True, exist_ok=True)
        if layout == "published":
            self._write_published(folder)
        else:
            self._write_safetensors(folder)
        if self.puzzle_names is None:
            (folder / IDENTIFIER_NAMES).unlink(missing_ok=True)  # of an earlier export
        else:
            write_json(folder / IDENTIFIER_NAMES, self.puzzle_names, indent=None)
        if layout == "hub":
            (folder / "README.md").write_text(self.card(repository))

    def _write_published(self, folder: Path) -> None:
        compiled = {COMPILED_PREFIX + name: tensor for name, tensor in self.state.items()}
        write_atomically(folder / f"step_{self.step}", lambda file: torch.save(compiled, file))
        OmegaConf.save(OmegaConf.create(self.published_settings()), folder / "all_config.yaml")

    def _write_safetensors(self, folder: Path) -> None:
        from safetensors.torch import save_file

        facts = {"step": self.step, "data_fingerprints": self.trained_on}
        facts |= {"data_metadata": self.data_metadata} if self.data_metadata else {}
        header = {"format": "pt", "config": json.dumps(self.settings), "facts": json.dumps(facts)}
        tensors = {name: tensor.contiguous() for name, tensor in self.state.items()}
        write_atomically(folder / SAFETENSORS, lambda file: save_file(tensors, file, header))
        OmegaConf.save(OmegaConf.create(self.settings), folder / "config.yaml")
        (folder / "metadata.json").write_text(as_json(
            facts | {"weights": self.which, "scored_on": self.scored_on, "metrics": self.metrics}, indent=1) + "\n")

    def published_settings(self) -> dict:
        """The config with published class names where there are some, and the dtype that `auto` stood for."""
        arch = dict(self.settings["arch"])
        arch["name"] = published_name(arch["name"])
        if arch.get("forward_dtype", "auto") == "auto":
            latent = next(tensor for name, tensor in self.state.items() if name.endswith(INITIAL_LATENT))
            arch["forward_dtype"] = str(latent.dtype).removeprefix("torch.")
        arch["loss"] = {key: arch["loss"][key] for key in PUBLISHED_LOSS_KEYS}  # theirs takes no others
        kept = {key: self.settings[key] for key in PUBLISHED_KEYS if key in self.settings}
        if kept.get("evaluators", []) is None:  # theirs takes no null
            kept["evaluators"] = []
        return {"arch": arch} | kept

    def card(self, repository: str) -> str:
        """The model card: what it is, scores, data, commands, config."""
        arch, state = self.settings["arch"], self.state.values()
        model = arch["name"].partition("@")[0].rpartition(".")[2]
        scored = typed("data_paths", list(self.scored_on))
        scores = "\n".join(f"| {markdown_text(name)} | {_cell(value)} |"
                           for name, value in self.metrics.items())
        trained = _data_rows("trained on", self.trained_on or dict.fromkeys(self.settings["data_paths"], "unknown"))
        return f"""---
library_name: pytorch
tags: [tiny-recursive-model, {model}]
---
# {repository.partition("/")[2]}

`arch={model}`, {sum(tensor.numel() for tensor in state):,} numbers (puzzle embeddings included), {self.which} weights
after {self.step} steps.

## Scores

| metric | value |
| --- | --- |
{scores}

## Data

| data set | | fingerprint |
| --- | --- | --- |
{trained}
{_data_rows("scored on", self.scored_on)}

## Commands

Scored by `python {shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])}`. To score it again, or to train it further
with the `arch` settings of the config below:

```
python evaluate.py checkpoint=hf://{repository} {scored}
python pretrain.py load_checkpoint=hf://{repository} {scored} arch={model}
```

## Config

```yaml
{OmegaConf.to_yaml(OmegaConf.create(self.settings)).strip()}
```
"""


def _cell(value: float | str | bool) -> str:
    return markdown_text(str(value)) if isinstance(value, (str, bool)) else format(value, ".6g")


def published_name(name: str) -> str:
    """The published name of a model's class, if it has one: another name in its module."""
    model_class = load_class(name, "models", anywhere=True)  # it was built from this config
    aliases = [alias for alias, value in vars(sys.modules[model_class.__module__]).items()
               if value is model_class and alias != model_class.__name__]
    return f"{name.partition('@')[0]}@{(aliases or [model_class.__name__])[0]}"


def refuse_unpublished(settings: dict) -> None:
    """Raise ValueError if the published code could not load this model, or would compute other numbers with it."""
    arch = settings["arch"]
    model_class = load_class(arch["name"], "models", anywhere=True)
    unknown = {f"arch.{key}": arch[key]
               for key, off in UNPUBLISHED.items() if arch.get(key, off) != off}
    if arch.get("pos_encodings") == "rope2d":
        unknown["arch.pos_encodings"] = "rope2d"
    if arch.get("puzzle_emb_ndim") == 0 and arch.get("puzzle_emb_len"):
        unknown["arch.puzzle_emb_ndim"] = f"0 with puzzle_emb_len={arch['puzzle_emb_len']}"
    if published_name(arch["name"]).endswith(f"@{model_class.__name__}"):  # it has no published name
        unknown["arch.name"] = arch["name"]
    if arch["loss"]["name"] != "losses@ACTLossHead":
        unknown["arch.loss.name"] = arch["loss"]["name"]
    if unknown:
        raise ValueError("export=published: the published code has no "
                         f"{', '.join(f'{key}={value}' for key, value in unknown.items())}; "
                         "use export=safetensors")


def _data_rows(what: str, fingerprints: dict[str, str]) -> str:
    return "\n".join(f"| {markdown_text(str(path))} | {what} | {markdown_text(str(fingerprint))} |"
                     for path, fingerprint in fingerprints.items())
