"""Kinds of puzzles: rules against brute force, symmetries and their inverses, text, and which kind a data set holds."""
import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

import dataset.kinds as package
from dataset.arc import FIRST_COLOUR, crop_sizes, encode_grid
from dataset.arc_tasks import read_test_puzzles
from dataset.common import write_split
from dataset.kinds import kind as kinds
from dataset.kinds.arc import ARC
from dataset.kinds.kind import Kind, find_kind, kind_of
from dataset.kinds.maze import Maze, shortest_moves
from dataset.kinds.sequence import Sequence
from dataset.kinds.sudoku import Sudoku
from dataset.puzzle_dataset import PuzzleDataset, PuzzleDatasetConfig
from dataset.symmetry import BOXES
from evaluators.protocol import build_evaluators

ALL = [Sudoku(16, 6), Sudoku(36, 8), Sudoku(81, 11), Sudoku(256, 18), Maze(9, 6), ARC(900, 12)]
MAZE, WAY = "S  # #   G # ## ", "S  #o#  oooG# ##"


def puzzles(kind: Kind, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random questions and answers (count, L) of which some are right and others obey some rules."""
    rng = np.random.default_rng(seed)
    if isinstance(kind, ARC):
        grids = [rng.integers(10, size=rng.integers(1, 31, 2)) for _ in range(2 * count)]
        tokens = np.array([encode_grid(grid) for grid in grids], np.int32)
        return tokens[:count], tokens[count:]
    if isinstance(kind, Maze):
        tokens = rng.choice([1, 2, 2, 2], (count, kind.seq_len)).astype(np.int32)
        for row in tokens:
            row[rng.choice(kind.seq_len, 2, replace=False)] = 3, 4
        answers = np.where((tokens == 2) & (rng.random(tokens.shape) < 0.4), 5, tokens)
        return tokens, answers
    height, width = kind.box
    r, c = np.divmod(np.arange(kind.seq_len), kind.size)
    answers = np.tile((r * width + r // height + c) % kind.size + 2, (count, 1)).astype(np.int32)
    answers = np.where(rng.random(answers.shape) < rng.choice([0, 0.01], (count, 1)), 2, answers)
    clues = np.where(rng.random(answers.shape) < 0.5, answers, 1)
    return np.where(rng.random(answers.shape) < 0.01, 2, clues), answers


def example_set(path: Path, inputs, labels, vocab_size: int, **options):
    """The test set of a new data set."""
    each = np.arange(len(inputs) + 1, dtype=np.int32)
    write_split(path / "test", {"inputs": np.array(inputs), "labels": np.array(labels),
                                "puzzle_identifiers": 0 * each[1:], "puzzle_indices": each, "group_indices": each},
                vocab_size, **options)
    return test_set(path)


def opened(path: Path, split: str = "test") -> PuzzleDataset:
    return PuzzleDataset(PuzzleDatasetConfig(seed=0, dataset_paths=[str(path)], test_set_mode=True,
                                             global_batch_size=4), split)


def test_set(path: Path, split: str = "test"):
    return next(iter(opened(path, split).sets.values()))


test_set.__test__ = False  # a data set, not a test


# Rules

def test_sudoku_counts_every_valid_grid():
    """Of all 24^4 grids whose rows are permutations, 288 are 4×4 Sudokus."""
    rows = np.array(list(permutations(range(2, 6)))).reshape(24, 4)
    numbers = np.stack(np.meshgrid(*[np.arange(24)] * 4), -1).reshape(-1, 4)
    grids = rows[numbers].reshape(-1, 16)
    checked = Sudoku(16, 6).rules(np.ones_like(grids), grids)
    assert checked["solved"].sum() == checked["valid"].sum() == 288 and checked["clues_kept"].all()


@pytest.mark.parametrize("kind", ALL[:3], ids=lambda kind: f"{kind}{kind.seq_len}")
def test_sudoku_rules_against_sets(kind):
    inputs, preds = puzzles(kind, 200)
    height, width = kind.box
    found = kind.rules(inputs, preds)
    for row, (question, answer) in enumerate(zip(inputs, preds)):
        units = {}
        for cell, token in enumerate(answer.tolist()):
            r, c = divmod(cell, kind.size)
            for unit in (("row", r), ("column", c), ("box", r // height, c // width)):
                units.setdefault(unit, set()).add(token)
        valid = all(unit == set(range(2, kind.size + 2)) for unit in units.values())
        kept = all(q in (1, a) for q, a in zip(question.tolist(), answer.tolist()))
        assert [found[name][row] for name in ("solved", "valid", "clues_kept")] == [valid and kept, valid, kept]
    assert 0 < found["solved"].sum() < found["valid"].sum() < 200


def ways(maze: np.ndarray) -> list[frozenset[int]]:
    """The cells between start and goal of every path without a loop through a maze (side, side), found by search."""
    side = len(maze)
    start, goal = (int(np.flatnonzero(maze == token)[0]) for token in (3, 4))
    found, open_ways = [], [[start]]
    while open_ways:
        way = open_ways.pop()
        r, c = divmod(way[-1], side)
        for y, x in ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)):
            cell = y * side + x
            if 0 <= y < side and 0 <= x < side and maze[y, x] != 1 and cell not in way:
                if cell == goal:
                    found.append(frozenset(way[1:]))
                else:
                    open_ways.append([*way, cell])
    return found


def test_maze_rules_against_all_paths():
    """Of every set of marked free cells, those are solutions that are a shortest of all paths."""
    kind, rng = Maze(9, 6), np.random.default_rng(0)
    for maze in puzzles(kind, 12)[0]:
        free = np.flatnonzero(maze == 2)
        subsets = [free[np.array([bits >> i & 1 for i in range(len(free))], bool)] for bits in range(2**len(free))]
        answers = np.tile(maze, (len(subsets), 1))
        for answer, subset in zip(answers, subsets):
            answer[subset] = 5
        checked = kind.rules(np.tile(maze, (len(answers), 1)), answers)
        paths = ways(maze.reshape(3, 3))
        fewest = min(map(len, paths), default=None)
        assert checked["solved"].tolist() == [frozenset(s.tolist()) in paths and len(s) == fewest for s in subsets]
        # a chain of marks that touches itself is a block, not a path
        assert all(frozenset(s.tolist()) in paths for s, path in zip(subsets, checked["path"]) if path)
        assert checked["map_kept"].all() and np.array_equal(checked["valid"], checked["path"])
        walled = np.where((answers == 1) & (rng.random(answers.shape) < 0.5), 5, answers)
        kept = kind.rules(np.tile(maze, (len(answers), 1)), walled)["map_kept"]
        assert kept.tolist() == (walled == answers).all(1).tolist()


def test_shortest_moves_against_relaxation():
    random = np.random.default_rng(0)
    mazes = np.where(random.random((200, 7, 7)) < 0.35, 1, 2)
    for maze in mazes:
        start, goal = random.choice(49, 2, replace=False)
        maze.flat[start], maze.flat[goal] = 3, 4

    def relaxed(maze: np.ndarray) -> float:
        distance = np.where(maze == 3, 0.0, np.inf)
        for _ in range(49):
            for (r, c), token in np.ndenumerate(maze):
                near = [distance[y, x] for y, x in ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1))
                        if 0 <= y < 7 and 0 <= x < 7]
                if token != 1:
                    distance[r, c] = min(distance[r, c], 1 + min(near))
        return distance[maze == 4].item()

    expected = [relaxed(maze) for maze in mazes[:40]]
    assert shortest_moves(mazes[:40]).tolist() == expected and np.isinf(expected).any() and max(
        d for d in expected if np.isfinite(d)) > 8
    assert np.array_equal(shortest_moves(mazes), [shortest_moves(maze[None])[0] for maze in mazes])


def test_real_puzzles_are_solved_by_their_answers(shared):
    for folder, kind in (("maze", Maze(900, 6)), ("sudoku", Sudoku(81, 11))):
        lines = (shared / "data" / folder / "test.csv").read_text().splitlines()[1:101]
        inputs, labels = (np.stack([kind.parse(line.split(",")[column]) for line in lines]) for column in (1, 2))
        assert kind.rules(inputs, labels)["solved"].all() and not kind.rules(inputs, inputs)["solved"].any()


# Symmetries

@pytest.mark.parametrize("kind", ALL, ids=lambda kind: f"{kind}{kind.seq_len}")
def test_symmetries_are_undone_and_keep_the_rules(kind):
    inputs, preds = puzzles(kind, 200)
    drawn = kind.symmetries(200, np.random.default_rng(1))
    moved = [drawn.apply(tokens) for tokens in (inputs, preds)]
    assert (moved[0] != inputs).any(1).mean() > 0.8 and moved[0].dtype == inputs.dtype
    for before, after in zip((inputs, preds), moved):
        assert np.array_equal(drawn.invert(after), before)
    rules, kept = kind.rules(inputs, preds), kind.rules(*moved)
    for name in kind.rule_names:
        assert rules[name].any() and np.array_equal(rules[name], kept[name]), name
    again = kind.symmetries(200, np.random.default_rng(1))
    assert np.array_equal(again.apply(inputs), moved[0])


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: f"{kind}{kind.seq_len}")
def test_cells_without_an_answer_stay_without_one(kind):
    """In labels as loaded, where the ignored label of a file has become -100."""
    inputs, preds = puzzles(kind, 50)
    labels = np.where(preds == 0, -100, preds) if isinstance(kind, ARC) else np.where(inputs != 1, -100, preds)
    labels[0] = -100
    drawn = kind.symmetries(50, np.random.default_rng(1))
    moved = drawn.apply(labels)
    asked = labels != -100
    assert np.array_equal(np.sort(moved != -100).sum(1), asked.sum(1)) or isinstance(kind, ARC)
    whole = drawn.apply(np.where(asked, preds, 0)) if isinstance(kind, ARC) else drawn.apply(preds)
    assert (moved[0] == -100).all() and np.array_equal(moved[1:][moved[1:] != -100], whole[1:][moved[1:] != -100])


def test_an_arc_grid_is_turned_in_its_corner():
    grid = np.array([[1, 2, 3], [4, 5, 6]])
    drawn = ARC(900, 12).symmetries(400, np.random.default_rng(0))
    turned = drawn.apply(np.tile(encode_grid(grid), (400, 1)))
    sizes = {tuple(map(int, size)) for size in zip(*crop_sizes(turned))}
    assert sizes == {(2, 3), (3, 2)} and len({row.tobytes() for row in turned}) == 400
    assert (turned[:, 0] >= FIRST_COLOUR).all()
    for top, left in ((3, 4), (28, 27)):  # the last place at which the grid as it is fits
        moved = drawn.apply(np.tile(encode_grid(grid, top, left), (400, 1))).reshape(400, 30, 30)
        for new, corner, transform in zip(moved, turned.reshape(400, 30, 30), drawn.transforms):
            down, right = (left, top) if transform in (1, 3, 6, 7) else (top, left)
            assert np.array_equal(new[down:, right:], corner[:30 - down, :30 - right])
            assert not new[:down].any() and not new[:, :right].any()
    nothing = np.zeros((400, 900), np.int32)  # as a prediction that is no grid
    assert not drawn.invert(nothing).any() and not drawn.invert(nothing + 1).any()


def test_a_plain_sequence_has_no_symmetries_and_no_rules():
    kind = Sequence(6, 5)
    with pytest.raises(ValueError, match="Sequence has no symmetries"):
        kind.symmetries(1, np.random.default_rng(0))
    assert kind.rule_names == () and kind.evaluator is None


# Text

@pytest.mark.parametrize("kind, text, tokens", [
    (Sudoku(16, 6), "1.34" * 4, [2, 1, 4, 5] * 4), (Sudoku(16, 6), "1034" * 4 + "\r\n", [2, 1, 4, 5] * 4),
    (Sudoku(256, 18), "1.FG" * 64, [2, 1, 16, 17] * 64), (Sudoku(625, 27), "9.AOP" * 125, [10, 1, 11, 25, 26] * 125),
    (Maze(16, 6), MAZE + "\n", [3, 2, 2, 1, 2, 1, 2, 2, 2, 4, 2, 1, 2, 1, 1, 2]),
    (Sequence(5, 12), "11 3,4", [11, 3, 4, 0, 0]), (Sequence(3, 4, ["", "0", "R", "F'"]), "F' 0 R", [3, 1, 2]),
    (ARC(900, 12), "[[0, 9], [1, 2], [3, 4]]", encode_grid(np.array([[0, 9], [1, 2], [3, 4]])).tolist())])
def test_text_is_read_and_written(kind, text, tokens):
    read = kind.parse(text)
    assert read.dtype == np.int32 and read.tolist() == tokens
    written = kind.format(read)
    assert kind.parse(written).tolist() == tokens
    assert written == text.strip("\r\n").replace("0", ".") if kind.alphabet else True


@pytest.mark.parametrize("kind, text, problem", [
    (Sudoku(16, 6), "123", "the line has 3 characters; write 16, one for each cell"),
    (Sudoku(16, 6), "12345" + "." * 11, r"character 5 is '5'; a cell is one of '\.12340'"),
    (Sudoku(81, 11), "é" * 81, "character 1 is 'é'"), (Sudoku(256, 18), "H" * 256, "character 1 is 'H'"),
    (Sudoku(256, 18), "0" * 256, r"character 1 is '0'; a cell is one of '\.123456789ABCDEFGabcdefg'"),
    (Maze(16, 6), MAZE.replace("G", "x"), "character 10 is 'x'; a cell is one of '# SGo'"),
    (Maze(16, 6), MAZE.strip(), "the line has 15 characters"),
    (Sequence(3, 12), "1 2 12", "token 3 is '12'; there are 0, 1, .*11$"),
    (Sequence(3, 99), "x", "token 1 is 'x'; there are 0, 1, .*19, …$"),
    (Sequence(3, 12), "1 2 3 4", "the line has 4 tokens; write 1 to 3"),
    (Sequence(3, 12), "", "the line has 0 tokens; write 1 to 3"),
    (Sequence(3, 3, ["", "R", "F"]), "R 2", "token 2 is '2'; there are R, F$"),
    (ARC(900, 12), "[[0, 1], [2]]", "the line: the grid's rows differ in length"),
    (ARC(900, 12), "[[0, 10]]", "the line: the grid holds 10"),
    (ARC(900, 12), "[" * 100_000, "the line is not JSON"), (ARC(900, 12), "{}", "the line: the grid is missing"),
    (ARC(900, 12), "01", "the line is not JSON .*; write a grid as")])
def test_what_is_wrong_in_a_line_is_said(kind, text, problem):
    with pytest.raises(ValueError, match=problem):
        kind.parse(text)


def test_a_board_of_numbers_is_read_as_its_line():
    """Beyond 9, a number stands for a letter, and 0 for a blank, which a line writes as a point."""
    large, small = Sudoku(256, 18), Sudoku(16, 6)
    board = [[0, 10, 16, 1, *[2] * 12] for _ in range(16)]
    assert large.format_board(board) == (".AG1" + "2" * 12) * 16
    assert large.format_board([[17, "b"]]) == "17b"  # which `parse` refuses, and reads
    assert large.parse(".b" * 128).tolist() == [1, 12] * 128
    assert small.format_board([[0, 4], ["1", "."]]) == "041."


def test_tokens_without_a_character_are_written_too():
    assert Sudoku(16, 11).format(np.arange(16) % 11)[:11] == "?.1234?????"
    assert Maze(16, 6).format(np.zeros(16, int)) == "?" * 16


@pytest.mark.parametrize("kind_class, sizes, problem", [
    (Sudoku, (25, 7), "Sudoku has 16, 36, 81, 256, 625 cells, and these are 25"),
    (Sudoku, (12, 7), "Sudoku is a square board, and 12 cells are none"),
    (Sudoku, (81, 10), "Sudoku has 11 tokens, and vocab_size is 10"),
    (Maze, (100, 5), "Maze has 6 tokens, and vocab_size is 5"),
    (ARC, (900, 11), "ARC has 900 cells and 12 tokens, not 900 and 11")])
def test_sizes_that_a_kind_does_not_have_are_refused(kind_class, sizes, problem):
    with pytest.raises(ValueError, match=problem):
        kind_class(*sizes)


@pytest.mark.parametrize("cells, shape", [(1, (1, 1)), (11, (1, 11)), (24, (1, 24)), (81, (9, 9)), (31, (2, 16)),
                                          (900, (30, 30)), (901, (31, 30))])
def test_a_sequence_is_a_square_or_rows_of_at_most_thirty(cells, shape):
    assert Sequence(cells, 5).shape == shape


# Which kind a data set holds

def test_data_sets_of_others_are_told_by_their_data(shared):
    for name, kind_class in (("sudoku4", Sudoku), ("arc-small", ARC)):
        for split in ("train", "test"):
            assert type(kind_of(test_set(shared / "interop" / name, split))) is kind_class
    read_test_puzzles(shared / "interop" / "arc-small" / "test_puzzles.json")


@pytest.mark.parametrize("folder, kind", [("sudoku", Sudoku(81, 11)), ("maze", Maze(900, 6))])
def test_real_puzzles_without_a_kind_are_recognised(shared, tmp_path, folder, kind):
    lines = (shared / "data" / folder / "test.csv").read_text().splitlines()[1:40]
    inputs, labels = ([kind.parse(line.split(",")[column]) for line in lines] for column in (1, 2))
    assert type(kind_of(example_set(tmp_path, inputs, labels, kind.vocab_size))) is type(kind)


@pytest.mark.parametrize("vocab_size", [5, 6])
def test_a_board_that_is_no_maze_is_not_called_one(tmp_path, vocab_size):
    """10×10 cells of five or six tokens, of any meaning."""
    tokens = np.random.default_rng(0).integers(1, vocab_size, (20, 100))
    found = kind_of(example_set(tmp_path, tokens, tokens[:, ::-1], vocab_size))
    assert type(found) is Sequence and found.token_names == [str(i) for i in range(vocab_size)]


def test_the_kind_that_a_data_set_names_is_taken_with_its_names(tmp_path):
    labels = np.random.default_rng(0).integers(1, 6, (3, 16))  # which obey no rules
    named = example_set(tmp_path / "a", labels, labels, 6, kind="sudoku", token_names=[" ", "", *"abcd"])
    assert type(kind_of(named)) is Sudoku and kind_of(named).token_names == [" ", "", *"abcd"]
    stored = json.loads((tmp_path / "a" / "test" / "dataset.json").read_text())
    assert stored["kind"] == "sudoku" and stored["token_names"] == [" ", "", *"abcd"]
    plain = json.loads((example_set(tmp_path / "b", labels, labels, 6).split_dir / "dataset.json").read_text())
    assert stored.keys() - plain.keys() == {"kind", "token_names"}


@pytest.mark.parametrize("kind, problem", [
    ("chess", "there is no module dataset.kinds.chess; there are .*arc.*maze.*sequence.*sudoku"),
    ("maze", "Maze is a square board, and 12 cells are none"), ("kind", "has no such class"),
    ("os", "no module dataset.kinds.os"), ("../x", "no module"), ("json@JSONDecoder", "trust_code=true"),
    ("sudoku@Chess", "dataset.kinds.sudoku has no Chess"), ("sudoku@Symmetries", "is no class with rules")])
def test_a_kind_that_there_is_not_is_one_message(tmp_path, kind, problem):
    tokens = np.ones((2, 12), int)
    with pytest.raises(ValueError, match=rf"(?s)test/dataset.json, kind .*{problem}"):
        kind_of(example_set(tmp_path, tokens, tokens, 6, kind=kind))


@pytest.mark.parametrize("names, problem", [(["a"], "token_names has 1 names, and vocab_size is 3"),
                                            (["", "a", "\x1b[2J"], "cannot be printed")])
def test_names_that_do_not_fit_are_not_written(tmp_path, names, problem):
    with pytest.raises(ValueError, match=problem):
        example_set(tmp_path, [[1, 2]], [[2, 1]], 3, token_names=names)
    assert not (tmp_path / "test").exists()


OWN = """
from dataset.kinds.kind import Kind
class Alternating(Kind):
    alphabet, blank = ".ab", 1
    def rules(self, inputs, preds):
        return {"solved": (preds[:, 1:] != preds[:, :-1]).all(1) & self.clues_kept(inputs, preds)}
"""


def test_a_file_in_the_folder_is_a_kind(tmp_path, monkeypatch):
    (tmp_path / "alternating.py").write_text(OWN)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    found = kind_of(example_set(tmp_path / "data", [[1, 3, 1]], [[2, 3, 2]], 4, kind="alternating"))
    assert str(found) == "Alternating" and found.rule_names == ("solved",) and found.evaluator == "rules@Rules"
    assert found.token_names == ["", "", "a", "b"] and found.parse("a.b").tolist() == [2, 1, 3]
    assert found.rules(np.array([[1, 3, 1]]), np.array([[2, 3, 2]]))["solved"].all()


def test_a_kind_elsewhere_is_imported_only_where_code_is_trusted(tmp_path, monkeypatch):
    """A data set is a stranger's file, and to import a module is to run it."""
    (tmp_path / "strange_kinds.py").write_text(OWN + f"\nopen({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    data = example_set(tmp_path / "data", [[1, 3, 1]], [[2, 3, 2]], 4, kind="strange_kinds@Alternating")
    with pytest.raises(ValueError, match="there is no module dataset.kinds.strange_kinds.*trust_code=true"):
        kind_of(data)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(ValueError, match="trust_code=true to the command line"):  # in a stranger's config, say
        build_evaluators([{"name": "pictures@Pictures", "trust_code": True}], opened(tmp_path / "data"))
    for configs in (None, [{"name": "rules@Rules"}], [{"name": "rules@Rules", "kind": "strange_kinds@Alternating"}]):
        with pytest.raises(ValueError, match="trust_code=true"):
            build_evaluators(configs, opened(tmp_path / "data"))
    assert not (tmp_path / "ran").exists()
    assert str(kind_of(data, trust_code=True)) == "Alternating" and (tmp_path / "ran").exists()
    (_, evaluator), = build_evaluators(None, opened(tmp_path / "data"), trust_code=True).values()
    assert evaluator.names() == ("solved",)


def test_every_file_in_the_folder_has_one_kind():
    folder = Path(kinds.__file__).parent
    names = sorted(file.stem for file in folder.glob("*.py") if file.stem not in ("__init__", "kind"))
    assert {"arc", "maze", "sequence", "sudoku"} <= {*names} and {*kinds.RECOGNISED} < {*names}
    assert all(issubclass(find_kind(name), Kind) for name in names)
    assert all(Sudoku(n * n, n + 2).box == box for n, box in BOXES.items())


def test_of_a_board_there_is_to_see_what_belongs_to_the_puzzle():
    boards = np.stack([encode_grid(np.zeros((2, 3), int)), encode_grid(np.zeros((30, 1), int)), np.zeros(900, int)])
    seen = ARC(900, 12).visible(boards).reshape(3, 30, 30)
    assert [(grid.sum(), grid[:2, :3].sum(), grid[:, :1].sum()) for grid in seen] == [(6, 6, 2), (30, 2, 30), (0, 0, 0)]
    assert ARC(900, 12).visible(boards[0]).tolist() == seen[0].ravel().tolist()
    assert Sudoku(16, 6).visible(np.zeros((2, 16), int)).all()


def test_demonstrations_are_turned_and_recoloured_as_their_puzzle(tmp_path):
    task = {"train": [{"input": [[1, 2, 3]], "output": [[4], [0]]}], "test": [{"input": [[5]]}]}
    (tmp_path / "test_puzzles.json").write_text(json.dumps({"a": task}))
    kind = ARC(900, 12)
    turned = "a|||t1|||1203456789"  # anticlockwise by a quarter; 0, 1 and 2 become 1, 2 and 0
    (plain,), (other,), none, unnamed = kind.demonstrations(tmp_path, ["a", turned, "b|||t0|||0123456789", "<blank>"])
    assert [kind.format(side) for side in plain] == ["[[1, 2, 3]]", "[[4], [0]]"]
    assert [kind.format(side) for side in other] == ["[[3], [0], [2]]", "[[4, 1]]"]
    assert none == unnamed == [] == kind.demonstrations(tmp_path / "elsewhere", ["a"])[0]
    assert Sudoku(16, 6).demonstrations(tmp_path, ["a"]) == [[]]
