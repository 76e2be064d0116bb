"""Restores a model from a checkpoint: that of a run, a file, an export, or `hf://owner/name` on the hub.

    restored = Restored.read("checkpoints/PROJECT/RUN", arch={"act_inference": True})
    head = restored.head()           # as it was trained; the file tells the sizes, so no data are needed
    data = restored.open_data(restored.test_paths, "test", World(), batch_size=64)
    head = restored.head(data)       # with a row of the puzzle table for each puzzle of these data

utils/checkpoint.py finds and reads the file. dataset/puzzle_rows.py knows which puzzle a row of the puzzle table
belongs to.
"""
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from config.schema import ArchConfig
from dataset.common import PuzzleDatasetMetadata, SplitMetadata, metadata_of
from dataset.puzzle_dataset import PuzzleDataset, PuzzleDatasetConfig
from dataset.puzzle_rows import fingerprints_in, load_by_name, names_in
from losses.head import LossHead
from utils.checkpoint import (
    CONFIG_NAMES,
    find_checkpoint,
    load_weights,
    puzzle_table_rows,
    read_checkpoint,
    refuse_misfit,
    settings_of,
    weights_of,
)
from utils.command_line import describe_validation
from utils.distributed import World

ALONE = World()  # one process on the CPU
SHORT = ("bfloat16", "float16")  # which a CPU computes in float32
MOST_UNSAVED = 1 << 28  # bytes of a model's buffers that no file holds, such as those of rotary positions


@dataclass(frozen=True)
class Restored:
    """A checkpoint in memory. Its properties are computed on first use.

    `trust_code`: import modules from outside this project that its config names. This runs their code
    (docs/security.md).
    `overrides`: options of the architecture that replace those of the run, such as {"act_inference": True}. Options of
    the loss head are in a dict under `loss`.
    `usual`: metadata for a file that has none (config/puzzle_kind.py).
    """

    file: Path
    payload: dict
    trust_code: bool = False
    overrides: dict = field(default_factory=dict)
    usual: SplitMetadata | None = None

    @classmethod
    def read(cls, where: str | Path, trust_code: bool = False,
             arch: Mapping[str, Any] = MappingProxyType({})
             ) -> "Restored":
        """Find and read a checkpoint. `arch`: the overrides. Raises ValueError if it is missing or damaged."""
        file = find_checkpoint(where)
        return cls(file, read_checkpoint(file), trust_code, dict(arch))

    @cached_property
    def settings(self) -> dict:
        """The config of the run. Raises ValueError where there is none, or where it lacks a key that scoring needs."""
        if self._found is None:
            raise ValueError(f"{self.file} holds no config, and {' or '.join(CONFIG_NAMES)} is not "
                             "beside it; put the run's config there")
        settings, file = self._found
        for key in ("arch", "data_paths", "global_batch_size"):
            if key not in settings:
                raise ValueError(f"{file} has no {key}; it must be the config of the run "
                                 "that wrote the checkpoint")
        for key in ("data_paths", "data_paths_test"):
            if not isinstance(settings.get(key) or [], list):
                raise ValueError(f"{file}: {key}={settings[key]!r} is no list of folders")
        return settings

    @cached_property
    def _found(self) -> tuple[dict, Path] | None:
        """The config of the run and the file that holds it. None where there is no config."""
        return settings_of(self.file, self.payload)

    @cached_property
    def arch(self) -> ArchConfig:
        """The typed config of the architecture, with the overrides, and with what the kind of its data says."""
        named = [given["name"] for given in (self.overrides, self.overrides.get("loss"))
                 if isinstance(given, dict) and "name" in given]  # the user trusts what the user names
        arch = ArchConfig.of_file(self.settings["arch"], self.file,
                                  None if self.trust_code else named)
        arch = arch.with_options(self.overrides) if self.overrides else arch
        return arch.of_kind(self.metadata, self.trust_code) if self.metadata else arch

    @property
    def test_paths(self) -> list[str]:
        """The data sets that the run was tested on."""
        return self.settings.get("data_paths_test") or self.settings["data_paths"]

    @property
    def steps(self) -> int:
        """How many optimizer steps the weights were trained for. Published files tell it in their name. 0: unknown."""
        step, name = self.payload.get("step"), re.fullmatch(r"step_(\d+)", self.file.name)
        return step if isinstance(step, int) else int(name[1]) if name else 0

    def weights(self, use_ema: bool = True) -> dict[str, Tensor]:
        """The weights of the loss head by name: averaged ones if `use_ema` and the checkpoint has them."""
        return weights_of(self.payload, use_ema)

    def kind_of_weights(self, use_ema: bool = True) -> str:
        """Which weights `weights` returns: "averaged" or "stored"."""
        return "averaged" if use_ema and self.payload.get("ema_state") else "stored"

    @cached_property
    def metadata(self) -> SplitMetadata | None:
        """The metadata of the training data, which include the sizes that the model was built with. Of published files
        and files of older versions, which have none, `usual`."""
        if "data_metadata" not in self.payload:
            return self.usual
        try:
            return metadata_of(self.payload["data_metadata"])
        except ValueError as error:
            said = describe_validation(error, ()) if isinstance(error, ValidationError) else error
            raise ValueError(f"{self.file}: its data_metadata are not those "
                             f"of a data set: {said}") from error

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of the training data sets, by path. Empty where the file does not tell."""
        return fingerprints_in(self.payload, self.file)

    @property
    def puzzle_names(self) -> list[str] | None:
        """The name of each row of the puzzle table. None where there is no table, or the names are unknown."""
        rows = puzzle_table_rows(self.weights())
        return names_in(self.payload, self.file, rows) if rows else None

    def open_data(self, paths: Sequence[str], split: str, world: World,
                  batch_size: int | None = None) -> PuzzleDataset:
        """Open a split of data sets, to go once through its examples. Latent episodes are cut as in the run.

        `batch_size`: examples in a batch over all processes; None: as in the run.
        """
        settings, _ = self.settings, self.arch  # raise errors of the config before data are opened
        return PuzzleDataset(PuzzleDatasetConfig(
            seed=0, dataset_paths=list(paths), test_set_mode=True,
            trained_on=settings["data_paths"], global_batch_size=batch_size or settings["global_batch_size"],
            rank=world.rank, num_replicas=world.size,
            episode_window=settings.get("episode_window", 1), episode_stride=settings.get("episode_stride")), split)

    def open_held_out(self, world: World, batch_size: int | None = None) -> PuzzleDataset:
        """Open the puzzles that the run held out of training. Raises ValueError where it held out none."""
        count = self.settings.get("val_puzzles")
        if not count:
            raise ValueError(f"{self.file}: the run held no puzzles out; held_out=True is for runs with val_puzzles=N")
        data = self.open_data(self.settings["data_paths"], "train", world, batch_size)
        data.config.val_puzzles = count
        return data.held_out()

    def head(self, data: PuzzleDataset | None = None, world: World = ALONE,
             use_ema: bool = True) -> LossHead:
        """Build the loss head with its model, and load the weights.

        Without `data`, the puzzle table is as stored. With `data`, it has a row for each of their puzzles, which gets
        the stored embedding of the puzzle with the same name.

        Published files and files of older versions do not tell the sizes of the model. Without `data` they come from
        the test data of the run, which must be there.

        Raises ValueError where weights, architecture and sizes do not fit together.
        """
        arch = self.arch_for(world)
        if data is None and self.metadata is not None:
            return self._head_as_stored(arch, self.metadata, world, use_ema)
        data = self._data_of_run(world) if data is None else data
        tell(self.of_other_sizes(data.metadata), world)
        head = arch.build_head(data.metadata, data.local_batch_size, world)
        tell(load_by_name(head, self.weights(use_ema), self.payload, self.file, data, trains=False), world)
        return head

    def of_other_sizes(self, data: SplitMetadata) -> list[str]:
        """A notice where the data have other sizes than those of training. Raises ValueError where the weights have
        these sizes."""
        if self.metadata is None or self.metadata.KIND != data.KIND:
            return []
        trained, asked = self.metadata.model_sizes(), data.model_sizes()
        unlike = [key for key in ("seq_len", "vocab_size") if trained.get(key) != asked.get(key)]
        if not unlike:
            return []
        there, here = (", ".join(f"{key}={sizes[key]}" for key in unlike) for sizes in (trained, asked))
        fixed = getattr(self.arch.model_class.Config(**self.arch.options | trained), "fixed_sizes", ())
        if {*fixed} & {*unlike}:
            raise ValueError(f"{self.file} was trained on puzzles of {there}, and the data have {here}; its weights are"
                             f" made for one {' and '.join(fixed)} (arch.name={self.arch.name}): choose data_paths of "
                             "that size, or a network of arch=se_rrm without learned positions and puzzle embeddings")
        return [f"{self.file} was trained on puzzles of {there}, and answers here those of {here}"]

    def head_for_new_puzzles(self, metadata: PuzzleDatasetMetadata, world: World = ALONE,
                             use_ema: bool = True) -> LossHead:
        """Build the loss head for puzzles that it was not trained on, with the puzzle table [blank, mean of all rows].

        A table of one row, which all puzzles share, stays as it is. `metadata`: of data of their size.
        """
        tell(self.of_other_sizes(metadata), world)
        head = self._head_as_stored(self.arch_for(world), metadata, world, use_ema)
        table = head.puzzle_embedding
        if table is not None and len(table.weights) > 1:
            mean = table.weights.mean(0)
            blank = metadata.blank_identifier_id
            table.weights = torch.stack([table.weights[blank] if blank >= 0 else torch.zeros_like(mean), mean])
        return head

    def _head_as_stored(self, arch: ArchConfig, metadata: SplitMetadata, world: World,
                        use_ema: bool) -> LossHead:
        """Build the head with the sizes in the file.

        They are first compared with the stored tensors, so that a wrong file cannot ask for any amount of memory.
        """
        weights = self.weights(use_ema)
        try:
            with torch.device("meta"):  # tensors there have shapes, and no memory
                planned = arch.build_head(metadata, 1, World(device=torch.device("meta")))
        except RuntimeError as error:
            raise ValueError(f"{self.file}: no model can have the sizes that are "
                             f"stored in it ({str(error).partition(chr(10))[0]}); "
                             "restore it for a data set") from error
        refuse_misfit(planned.state_dict(), weights, self.file)
        unsaved = sum(buffer.nbytes
                      for name, buffer in planned.named_buffers() if name not in weights)
        if unsaved > MOST_UNSAVED:
            raise ValueError(f"{self.file}: with seq_len={metadata.seq_len} the model "
                             f"would take {unsaved / 1e9:.1f} GB besides its weights; "
                             "restore it for a data set")
        head = arch.build_head(metadata, 1, world)
        load_weights(head, weights, self.file)
        return head

    def _data_of_run(self, world: World) -> PuzzleDataset:
        try:
            return self.open_data(self.test_paths, "test", world)
        except ValueError as error:
            raise ValueError(f"{self.file} does not tell the sizes of its model, and the data of "
                             f"its run do not either: {error}") from error

    def arch_for(self, world: World) -> ArchConfig:
        """The architecture for this device. On a CPU it computes in float32, so that scores are the same on each."""
        if world.device.type != "cpu" or "forward_dtype" in self.overrides:
            return self.arch
        if (dtype := self.arch.options.get("forward_dtype")) in SHORT:
            print("notice: computing in float32, so that scores are the same on each CPU; "
                  f"arch.forward_dtype={dtype} computes as the run did")
        return self.arch.with_options({"forward_dtype": "float32"})

    def start(self, head: LossHead, arch: ArchConfig, data: PuzzleDataset, world: World, use_ema: bool = True) -> None:
        """Load the weights into the head of a new run, with its architecture and training data.

        Puzzle embeddings are found by the names of the puzzles. A notice tells where the architectures differ, since
        weights may fit and yet be used in another way.
        """
        theirs, same = self._found[0].get("arch", {}) if self._found else {}, ("loss", "forward_dtype")
        unlike = [f"arch.{key}={theirs[key]} there and {value} here"
                  for key, value in sorted(arch.options.items())
                  if key not in same and theirs.get(key, value) != value]
        notices = [f"{self.file} was trained with other settings: {', '.join(unlike)}"] if unlike else []
        tell(notices, world)
        tell(load_by_name(head, self.weights(use_ema), self.payload, self.file, data, trains=True), world)


def tell(notices: Sequence[str], world: World) -> None:
    for notice in notices if world.is_main else []:
        print(f"notice: {notice}")
