"""Puzzles being solved, as one HTML page that needs nothing else: `python evaluate.py checkpoint=RUN viewer=FILE.html`.

    write_viewer(Path("steps.html"), *watched(head, data, [0, 7], strategy, world), "my run")

The page is made of the files in evaluators/page/ and the recorded traces. All that comes from files of others is in
one place of it, the JSON that `page` writes. The page's own code puts it on the screen as text, never as markup.
"""
import base64
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np

from dataset.common import BLANK_IDENTIFIER
from dataset.example_set import ExampleSet
from dataset.kinds.kind import Kind, kind_of
from dataset.puzzle_dataset import PuzzleDataset
from evaluators.strategies import Strategy
from evaluators.traces import LEVELS, Trace, Trajectory, record
from losses.head import LossHead
from utils.distributed import World
from utils.strict_json import as_json

FOLDER = Path(__file__).parent / "page"
PERCENT = 100  # probabilities are told in whole percent


@dataclass(frozen=True)
class Shown:
    """A recorded puzzle as the page shows it."""

    trace: Trace
    # for people
    name: str
    # solved examples that belong to it: questions and answers (L,)
    demonstrations: Sequence[tuple[np.ndarray, np.ndarray]] = field(default=())


def watched(head: LossHead, data: PuzzleDataset, numbers: Sequence[int], strategy: Strategy | None, world: World,
            trust_code: bool = False) -> tuple[Kind, list[Shown]]:
    """Work on examples of test data, by their numbers over all sets: their kind, and what was recorded.

    Raises ValueError for data that are no puzzles, for puzzles of several kinds, and for a number that there is not.
    """
    traces = record(head, data, numbers, strategy, world)
    sets = [data.set_of(trace.number) for trace in traces]
    kinds = {example_set.path: kind_of(example_set, trust_code) for example_set in sets}
    if len(set(map(type, kinds.values()))) > 1:
        raise ValueError(f"{data.config.folders} hold puzzles of {', '.join(map(str, kinds.values()))}, and a page "
                         "shows one kind; give one of them as data_paths")
    names = [_name(data, example_set, trace.identifier) for example_set, trace in zip(sets, traces)]
    shown = {path: iter(kind.demonstrations(Path(path), [name for name, one in zip(names, sets) if one.path == path]))
             for path, kind in kinds.items()}
    return next(iter(kinds.values())), [Shown(trace, _title(trace.number, name), next(shown[one.path]))
                                        for trace, name, one in zip(traces, names, sets)]


def _name(data: PuzzleDataset, example_set: ExampleSet, row: int) -> str:
    """The name in identifiers.json of the puzzle with this row of the puzzle table, or "" if it has none of its own, as
    puzzles of a user, which are in no folder."""
    if not hasattr(data, "rows"):
        return ""
    identifier = int(example_set.numbering.to_identifiers(np.array([row]))[0])
    name = data.rows.folders[example_set.path].called()[identifier]
    return name if name and name != BLANK_IDENTIFIER else ""


def _title(number: int, name: str) -> str:
    return f"example {number}" + f": {name}" * bool(name)


def write_viewer(file: Path, kind: Kind, puzzles: Sequence[Shown], about: str) -> None:
    """Write the page. `about`: a line for people, such as whose answers these are."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page(page_data(kind, puzzles, f"{kind}, step by step", about), ["view.js"]), encoding="utf-8")


def page(data: dict, scripts: Sequence[str], connects: bool = False) -> str:
    """The page with this data and the scripts of these names, in order. `connects`: it may ask its own server.

    Browsers run no other script in it than these, and load nothing from elsewhere, whatever the data hold.
    """
    style, script = _read("page.css"), "\n".join(map(_read, scripts))
    policy = (f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'"
              + "; connect-src 'self'" * connects)
    parts = {"POLICY": policy, "STYLE": style, "SCRIPT": script, "DATA": embedded(data)}
    before, *rest = _read("page.html").split("{{")
    return before + "".join(parts[name] + after for name, after in (part.split("}}", 1) for part in rest))


def embedded(data: dict) -> str:
    """JSON for a <script type="application/json">: no character of it can end the element or begin another."""
    return as_json(data).replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def page_data(kind: Kind, puzzles: Sequence[Shown], title: str, about: str) -> dict:
    """What the page is told: its heading, the line below, how boards of this kind look, and the puzzles."""
    look = kind.look()
    rows, columns = look.shape
    board = {"rows": rows, "columns": columns, "names": list(look.names), "colours": list(look.colours),
             "marks": _marks(kind), "marked": bool(kind.alphabet), "text": look.as_text or not kind.colours,
             "box": look.box, "keepsClues": look.keeps_clues, "blank": kind.blank,
             "line": type(kind).shape is Kind.shape and rows != columns}
    return {"title": title, "about": about, "cells": kind.seq_len, "board": board, "bytes": _type(kind).itemsize,
            "puzzles": [puzzle_data(kind, puzzle) for puzzle in puzzles]}


def _marks(kind: Kind) -> list[str]:
    """(V,) what can be written on the colours of tokens, so that they need not be told apart by colour: a letter of the
    alphabet, or a short name."""
    marks = ["", *kind.alphabet] if kind.alphabet else kind.token_names
    marks = [mark if mark.isalnum() and len(mark) <= 2 else "" for mark in marks]
    return marks + [""] * (kind.vocab_size - len(marks))


def puzzle_data(kind: Kind, puzzle: Shown) -> dict:
    """A puzzle as the page reads it. All that has a value for each cell is in `planes`, packed."""
    trace = puzzle.trace
    label = np.full_like(trace.question, -1) if trace.label is None else trace.label
    planes = [_visible(kind, trace.question), _visible(kind, label), label >= 0]
    for pair in puzzle.demonstrations:
        planes += [_visible(kind, tokens.astype(int)) for tokens in pair]
    for one in trace.trajectories:
        planes += _planes(kind, one)
    return {"name": puzzle.name, "labelled": trace.label is not None, "selected": trace.selected,
            "demonstrations": len(puzzle.demonstrations), "planes": _packed(planes, _type(kind)),
            "trajectories": [_curves(kind, trace, one) for one in trace.trajectories]}


def _curves(kind: Kind, trace: Trace, one: Trajectory) -> dict:
    """What there is one of at each step of a trajectory."""
    questions = np.broadcast_to(trace.question, one.preds.shape)
    rules = kind.rules(questions, one.preds.astype(np.int32))
    broken = [[name for name, passed in rules.items() if not passed[step]] for step in range(len(one.preds))]
    wrong = None if trace.label is None else ((trace.label >= 0) & (one.preds != trace.label)).sum(1).tolist()
    return {"attempt": one.attempt, "candidates": one.candidates.shape[-1], "q": _short(one.q),
            "residual": _short(one.residual), "wrong": wrong, "broken": broken if rules else None}


def _planes(kind: Kind, one: Trajectory) -> list[np.ndarray]:
    """For each candidate its tokens (S, L), then for each its probabilities (S, L) in percent."""
    seen = kind.visible(one.preds)[..., None]
    percent = np.round(one.levels.astype(int) * PERCENT / LEVELS).astype(int)
    probable = seen & ((percent > 0) | (np.arange(percent.shape[-1]) == 0))
    tokens = np.where(probable, one.candidates.astype(int), -1)
    return [*np.moveaxis(tokens, -1, 0), *np.moveaxis(np.where(probable, percent, 0), -1, 0)]


def _visible(kind: Kind, tokens: np.ndarray) -> np.ndarray:
    return np.where((tokens >= 0) & kind.visible(tokens), tokens, -1)


def _type(kind: Kind) -> np.dtype:
    """The integers of a plane; their greatest stands for an empty cell."""
    return np.dtype("<u1" if max(kind.vocab_size, PERCENT) < 255 else "<u2")


def _packed(planes: Sequence[np.ndarray], dtype: np.dtype) -> str:
    """Planes of cells, one after the other: -1 becomes the greatest integer, then zlib, then base64."""
    values = np.concatenate([np.asarray(plane, int).ravel() for plane in planes]).astype(dtype)
    return base64.b64encode(zlib.compress(values.tobytes(), 9)).decode()


def _short(values: np.ndarray) -> list[float]:
    return [float(f"{value:.4g}") for value in values]


def _digest(text: str) -> str:
    """The name by which a Content-Security-Policy allows a text."""
    return "sha256-" + base64.b64encode(sha256(text.encode()).digest()).decode()


def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")
