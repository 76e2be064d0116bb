"""Latents recorded in episodes, as regression data: predict the next latent from those before it.

    <split>/latents/episode_XXX.npz           array `latents`, (T, D) floats; any name of a file will do
    <split>/metadata/episode_XXX.json(l)      optional: `set`, `group`, `puzzle_identifier` (records of a .jsonl merged)

An episode is a puzzle. An example is one transition: the latent at t, and as its target the one at t+1, both (D,); with
`window` W > 1 it is W transitions in a row, (W, D), their ends padded and masked where an episode is short. Training
draws every example once an epoch, uniformly over all episodes, whatever their lengths.

Nothing is read before it is needed. Frames of an uncompressed file are read straight from their place in it. A
compressed file must be read whole, and then stays in a cache of bounded size.
"""
import json
import math
import os
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dataset.arrays import NpzArray, open_npz
from dataset.common import MOST_IDENTIFIER, EpisodeMetadata
from dataset.example_set import cast_notice, count, first_not_finite, say_once
from dataset.regression_dataset import RegressionSet

SPLITS = ("train", "test")
DEFAULT_SET = "latentset"
CACHE_BYTES = 256 * 2**20  # of episodes that must be read whole


class EpisodeFiles:
    """Frames of episodes by number. Compressed episodes are cached, up to `cache_bytes`; the least recently used go."""

    def __init__(self, arrays: list[NpzArray], cache_bytes: int = CACHE_BYTES):
        self.arrays, self.cache_bytes, self.cached_bytes = arrays, cache_bytes, 0
        self.cache: OrderedDict[int, np.ndarray] = OrderedDict()
        self.lengths = np.array([array.shape[0] for array in arrays])
        self.paths = [str(array.file) for array in arrays]
        self.whole_bytes = sum(4 * math.prod(array.shape)
                               for array in arrays if array.offset is None)

    def read(self, episode: int, start: int, frames: np.ndarray) -> None:
        """Fill float32 `frames` (n, D) with those of an episode from `start` on."""
        array = self.arrays[episode]
        if array.offset is None:
            frames[:] = self._whole(episode)[start:start + len(frames)]
            return
        as_stored = frames if array.dtype == np.float32 else np.empty(frames.shape, array.dtype)
        file = os.open(self.paths[episode], os.O_RDONLY)
        try:
            read = os.preadv(file, [as_stored], array.offset + start * as_stored.strides[0])
        finally:
            os.close(file)
        if read != as_stored.nbytes:
            raise ValueError(f"{array.file} has been cut short since it was opened; restore it")
        if as_stored is not frames:
            frames[:] = as_stored

    def _whole(self, episode: int) -> np.ndarray:
        if episode in self.cache:
            self.cache.move_to_end(episode)
            return self.cache[episode]
        whole = self.cache[episode] = self.arrays[episode].load().astype(np.float32)
        self.cached_bytes += whole.nbytes
        while self.cached_bytes > self.cache_bytes and len(self.cache) > 1:
            self.cached_bytes -= self.cache.popitem(last=False)[1].nbytes
        return whole


class EpisodeView:
    """One field of all examples as an array that is read where it is indexed."""

    def __init__(self, episodes: "EpisodeSet", name: str, dtype: type):
        self.episodes, self.name, self.dtype = episodes, name, np.dtype(dtype)
        self.shape = (len(episodes), *episodes.metadata.row_shape(episodes.metadata.input_dim))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows) -> np.ndarray:
        numbers = np.asarray(rows if isinstance(rows, (list, np.ndarray)) else range(len(self))[rows])
        values = self.episodes.fields(np.atleast_1d(numbers))[self.name]
        return values if np.ndim(numbers) else values[0]


@dataclass
class EpisodeSet(RegressionSet):
    """One set of episodes. `puzzle_indices`, the first example of each episode, are the prefix sums of their counts."""

    inputs: EpisodeView = field(init=False)
    targets: EpisodeView = field(init=False)
    target_mask: EpisodeView = field(init=False)
    files: EpisodeFiles
    window: int
    stride: int

    ONE_PUZZLE_A_GROUP = False

    def __post_init__(self):
        self.inputs, self.targets = (EpisodeView(self, name, np.float32)
                                     for name in ("inputs", "targets"))
        self.target_mask = EpisodeView(self, "target_mask", bool)

    def fields(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        W, D = self.window, self.metadata.input_dim
        episodes = np.searchsorted(self.puzzle_indices, rows, side="right") - 1
        starts = (rows - self.puzzle_indices[episodes]) * self.stride
        transitions = np.minimum(self.files.lengths[episodes] - 1 - starts, W)
        frames = np.empty((len(rows), W + 1, D), np.float32)  # an example's inputs, and one more
        for row, (episode, start, steps) in enumerate(zip(episodes.tolist(), starts.tolist(),
                                                          transitions.tolist())):
            self.files.read(episode, start, frames[row, :steps + 1])
            frames[row, steps + 1:] = 0.0
        place = first_not_finite(frames)
        if place is not None:
            file, row = self.files.paths[episodes[place[0]]], starts[place[0]] + place[1]
            raise ValueError(f"{file}: row {row} holds NaN or infinity; mend the episode")
        mask = np.repeat((np.arange(W) < transitions[:, None])[:, :, None], D, axis=2)
        inputs, targets = frames[:, :-1], frames[:, 1:]  # views: copies would cost a third of the time
        if not mask.all():
            inputs = inputs * mask
        fields = {"inputs": inputs, "targets": targets, "target_mask": mask}
        return {name: values[:, 0] for name, values in fields.items()} if self.metadata.flat else fields

    def known_inputs(self, fields: dict[str, np.ndarray]) -> np.ndarray:
        return fields["target_mask"][..., 0]


def holds_episodes(path: str | Path, split: str) -> bool:
    return (Path(path) / split / "latents").is_dir() and not (Path(path) / split / "dataset.json").is_file()


def episode_files(path: str | Path, split: str) -> list[Path]:
    """The episodes of a split, episode_10 after episode_9."""
    return sorted((Path(path) / split / "latents").glob("*.npz"),
                  key=lambda file: (len(file.name), file.name))


def episode_records(path: str | Path) -> dict[str, list[dict]]:
    """`set`, `group` and `puzzle_identifier` of each episode of each split, in order.

    An episode without an identifier gets the next free number, above the largest in all splits. So a test episode
    without one never shares the identifier of a training episode.
    """
    splits = {split: _records_of(path, split) for split in SPLITS if holds_episodes(path, split)}
    every = [record for records in splits.values() for record in records]
    following = 1 + max((r["puzzle_identifier"] for r in every if r["puzzle_identifier"] is not None), default=-1)
    for number, record in enumerate((r for r in every if r["puzzle_identifier"] is None),
                                    start=following):
        record["puzzle_identifier"] = number
    return splits


def _records_of(path: str | Path, split: str) -> list[dict]:
    records, folder = [], Path(path) / split / "metadata"
    seen: dict[int, str] = {}
    for file in episode_files(path, split):
        record = {"set": DEFAULT_SET, "group": None, "puzzle_identifier": None} | _record_of(path, split, file.stem)
        identifier = record["puzzle_identifier"]
        if identifier is not None:
            if type(identifier) is not int or not 0 <= identifier <= MOST_IDENTIFIER:
                raise ValueError(f"{file.stem} in {folder} has "
                                 f"puzzle_identifier={identifier!r}, which is no whole number "
                                 f"from 0 to {MOST_IDENTIFIER}; correct it, or leave it out")
            if identifier in seen:
                raise ValueError(f"{seen[identifier]} and {file.stem} in {folder} have "
                                 f"the same puzzle_identifier={identifier}; an episode "
                                 "is a puzzle of its own")
            seen[identifier] = file.stem
        records.append(record | {"set": str(record["set"])})
    return records


def _record_of(path: str | Path, split: str, episode: str) -> dict:
    record: dict = {}
    for suffix in (".json", ".jsonl"):
        file = Path(path) / split / "metadata" / f"{episode}{suffix}"
        if not file.is_file():
            continue
        try:
            text = file.read_text(encoding="utf-8")
            for line in [text] if suffix == ".json" else filter(str.strip, text.splitlines()):
                record |= _stated(json.loads(line))
        except (ValueError, RecursionError) as error:  # of the encoding, too
            raise ValueError(f"{file} does not parse as a JSON "
                             f"object{' a line' * (suffix == '.jsonl')}: {error}"
                             ) from error
    return record


def _stated(record) -> dict:
    """The keys of a record whose values are not null."""
    if not isinstance(record, dict):
        raise ValueError(f"found {json.dumps(record)[:80]}")
    return {key: value for key, value in record.items() if value is not None}


def open_episodes(path: str, split: str, window: int, stride: int | None, say_notices: bool
                  ) -> tuple[EpisodeMetadata, list[EpisodeSet]]:
    """All sets of a split. Raises ValueError naming the file where an episode cannot be used."""
    stride = stride or window
    if stride > window:
        raise ValueError(f"episode_stride={stride} is larger than "
                         f"episode_window={window}, so transitions between windows would "
                         "be left out; use a stride of at most the window")
    arrays = [_open_latents(file) for file in episode_files(path, split)]
    if not arrays:
        raise ValueError(f"{Path(path) / split / 'latents'} holds no .npz file")
    for array in arrays:
        if array.shape[1] != arrays[0].shape[1]:
            raise ValueError(f"latents have width {arrays[0].shape[1]} in {arrays[0].file} and "
                             f"{array.shape[1]} in {array.file}; all episodes must have the same")
    if say_notices:
        beside = dict.fromkeys(name for array in arrays for name in array.beside)
        if beside:
            say_once(f"notice: {path}: episodes hold {', '.join(beside)} beside `latents`, which "
                     "are not used; what should count must stand in `latents`")
        cast_notice(path, {array.file.name: array.dtype
                           for array in {a.dtype: a for a in arrays}.values()})
    records = episode_records(path)[split]
    identifiers = [record["puzzle_identifier"] for record in records]
    sets = list(dict.fromkeys(record["set"] for record in records))
    metadata = EpisodeMetadata(
        task_type="regression", input_dim=arrays[0].shape[1], target_dim=arrays[0].shape[1], seq_len=window,
        num_puzzle_identifiers=max(identifiers) + 1, sets=sets, flat=window == 1)
    made = []
    for name in sets:
        mine = [i for i, record in enumerate(records) if record["set"] == name]
        made.append(_episode_set(path, split, name, metadata, [arrays[i] for i in mine], [identifiers[i] for i in mine],
                                 [records[i]["group"] for i in mine], window, stride))
    count(metadata, made)
    most = max(episodes.files.whole_bytes for episodes in made)
    if say_notices and most > CACHE_BYTES:
        say_once(f"notice: {Path(path) / split}: compressed episodes of {most / 2**20:.4g} MB do "
                 f"not fit into their cache of {CACHE_BYTES / 2**20:.4g} MB and are read again and "
                 "again, which is slow; save them with np.savez, not np.savez_compressed")
    return metadata, made


def _open_latents(file: Path) -> NpzArray:
    array = open_npz(file, "latents")
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{file}: latents are {array.dtype}, not numbers")
    if len(array.shape) != 2 or not array.shape[1]:
        raise ValueError(f"{file}: latents have shape {array.shape}, and should have (T, D)")
    if array.shape[0] < 2:
        raise ValueError(f"{file}: the episode has {array.shape[0]} latents, and a transition "
                         "needs 2; remove the file")
    return array


def _episode_set(path: str, split: str, name: str, metadata: EpisodeMetadata,
                 arrays: list[NpzArray],
                 identifiers: list[int], groups: list, window: int, stride: int) -> EpisodeSet:
    """Episodes of one group stand together; one without a group is its own."""
    first_of_group: dict = {}
    places = [first_of_group.setdefault(i if group is None else json.dumps(group), i)
              for i, group in enumerate(groups)]
    order = np.argsort(places, kind="stable")
    files = EpisodeFiles([arrays[i] for i in order])
    # Windows start every `stride` transitions until one reaches the end.
    examples = 1 + -(-np.maximum(files.lengths - 1 - window, 0) // stride)
    starts_group = np.flatnonzero(np.diff(np.array(places)[order], prepend=-1))
    return EpisodeSet(
        path, Path(path) / split, name, metadata, np.array(identifiers, np.int32)[order],
        puzzle_indices=np.concatenate([[0], np.cumsum(examples)]), group_indices=np.append(starts_group, len(order)),
        files=files, window=window, stride=stride)
