"""Pictures of boards: what is drawn, read back from the axes, and files that are pictures."""
import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from dataset.kinds.arc import ARC
from dataset.kinds.maze import TOKEN_NAMES, Maze
from dataset.kinds.sequence import Sequence
from dataset.kinds.sudoku import Sudoku
from helpers import is_picture
from utils.boards import (
    CAPTION,
    FRAME_MS,
    LAST_FRAME_MS,
    OF_CLUES,
    OF_TEXT,
    RIGHT,
    WRONG,
    Look,
    animate_solution_steps,
    default_colours,
    last_change,
    plot_solution_steps,
)

SUDOKU = Sudoku(16, 6).look()
SOLVED = "1234341221434321"


def cells(text: str) -> np.ndarray:
    return Sudoku(16, 6).parse(text)


def texts(axis) -> dict[tuple[int, int], tuple[str, str]]:
    """Text and colour by (row, column)."""
    return {(int(t.get_position()[1]), int(t.get_position()[0])): (t.get_text(), t.get_color()) for t in axis.texts}


def marked(axis) -> set[tuple[int, int]]:
    """Row and column of each cell with a red frame."""
    return {(int(line.get_ydata()[0]), int(line.get_xdata()[0])) for line in axis.lines}


def caption(figure) -> str:
    return figure.get_supxlabel().replace("\n", " ")


def legend(figure) -> dict[str, str]:
    """Colours by name."""
    found, = figure.legends
    return {text.get_text(): to_hex(mark.get_color()) for text, mark in zip(found.get_texts(), found.legend_handles)}


def test_a_sudoku_is_digits_with_clues_and_mistakes_told_apart(tmp_path, drawn):
    question, answer = cells("1.34341221434321"), cells(SOLVED)
    step = cells("1434341221434322")
    plot_solution_steps(question, np.stack([step, answer]), answer, [0.25, 0.995], tmp_path / "picture.png", SUDOKU)
    assert is_picture(tmp_path / "picture.png")
    puzzle, first, second, truth = drawn[0].axes
    assert [axis.get_title() for axis in (puzzle, first, second, truth)] == [
        "puzzle", "step 1: 2 wrong\nconfidence 0.25", "step 2: solved\nconfidence 0.99", "answer"]
    assert texts(puzzle)[0, 0] == ("1", "black") and (0, 1) not in texts(puzzle)
    assert texts(first)[0, 1] == ("4", WRONG) and texts(first)[3, 3] == ("2", WRONG)  # the second is a changed clue
    assert texts(second)[0, 1] == texts(truth)[0, 1] == ("2", RIGHT) and texts(second)[3, 3] == ("1", "black")
    assert {t.get_text(): t.get_fontweight() for t in second.texts}["3"] == "bold"
    assert caption(drawn[0]) == f"{CAPTION}; {OF_CLUES}{OF_TEXT}" and "q_halt" in CAPTION


@pytest.mark.parametrize("size, rows, columns", [(4, [0, 2, 4], [0, 2, 4]), (6, [0, 2, 4, 6], [0, 3, 6]),
                                                 (9, [0, 3, 6, 9], [0, 3, 6, 9])])
def test_a_sudoku_has_the_lines_of_its_boxes(tmp_path, drawn, size, rows, columns):
    blank = np.ones(size * size, int)
    plot_solution_steps(blank, blank[None], blank + 1, [0.5], tmp_path / "picture.png",
                        Sudoku(size * size, size + 2).look())
    horizontal, vertical = drawn[0].axes[0].collections
    assert [line[0, 1] for line in horizontal.get_segments()] == rows
    assert [line[0, 0] for line in vertical.get_segments()] == columns


@pytest.mark.parametrize("changes, shown, told", [
    ([0] * 16, 1, "steps 2 to 16 are the same as step 1 (confidence at the end 0.16) "),
    ([0, 1, 1], 2, "step 3 is the same as step 2 (confidence at the end 0.03) "),
    ([1, 1, 0], 3, ""), ([0, 1, 0, 1], 4, ""), ([1], 1, "")])
def test_steps_after_the_answer_stands_are_left_out_and_that_is_said(tmp_path, drawn, changes, shown, told):
    answer = cells(SOLVED)
    steps = np.stack([np.where(np.arange(16) == 3, 2 + change, answer) for change in changes])
    confidence = [(i + 1) / 100 for i in range(len(steps))]
    plot_solution_steps(answer, steps, answer, confidence, tmp_path / "picture.png", SUDOKU)
    titles = [axis.get_title().partition(":")[0] for axis in drawn[0].axes if axis.get_title()]
    assert titles == ["puzzle", *(f"step {i + 1}" for i in range(shown)), "answer"]
    assert caption(drawn[0]) == f"{told}{CAPTION}; {OF_CLUES}{OF_TEXT}" and last_change(steps) == shown


def test_where_no_answer_is_known_none_is_drawn_and_nothing_is_called_solved(tmp_path, drawn):
    question = cells("1..." * 4)
    plot_solution_steps(question, question[None], np.full(16, -100), [0.01], tmp_path / "picture.png", SUDOKU)
    assert [axis.get_title() for axis in drawn[0].axes] == ["puzzle", "step 1: no answer known\nconfidence 0.01"]


def test_a_sequence_is_rows_of_cells_with_the_numbers_of_its_tokens(tmp_path, drawn):
    question, answer = np.arange(40) % 12, np.arange(40)[::-1] % 12
    answer[7:] = -100  # no answer is asked for
    step = np.where(answer < 0, 1, answer)
    step[3] = 11
    plot_solution_steps(question, np.stack([step, question]), answer, [0.5, 0.5], tmp_path / "picture.png",
                        Sequence(40, 12).look())
    assert is_picture(tmp_path / "picture.png")
    puzzle, first, second, truth = drawn[0].axes
    assert len(puzzle.patches) == 40 and puzzle.get_xlim() == (0, 20)
    assert texts(puzzle) == {divmod(i, 20): (str(i % 12), "black") for i in range(40)}
    assert texts(first)[0, 2] == ("1", RIGHT) and texts(first)[0, 3] == ("11", WRONG)
    assert texts(first)[1, 0][0] == "1" and texts(first)[1, 0][1] not in (RIGHT, WRONG)
    assert first.get_title().startswith("step 1: 1 wrong")
    assert second.get_title().startswith("step 2: 7 wrong") and len(texts(truth)) == 7


def test_tokens_have_the_names_of_the_data_set(tmp_path, drawn):
    look = Look((1, 4), ["", "up", "$x$", "dn"], ["#000000"] * 4, as_text=True)  # a dollar begins no mathematics
    plot_solution_steps(np.array([1, 2, 3, 0]), np.array([[3, 2, 1, 0]]), np.array([3, 2, 1, 0]), [1.0],
                        tmp_path / "picture.png", look)
    drawn[0].draw_without_rendering()
    assert [t.get_text() for t in drawn[0].axes[1].texts] == ["dn", r"\$x\$", "up"]


def test_of_a_long_sequence_cells_without_an_answer_have_no_colour_and_no_frame(tmp_path, drawn):
    question = np.arange(310) % 5
    answer = np.where(np.arange(310) < 300, question, -100)
    step = answer.copy()
    step[[2, 305]] = 7
    plot_solution_steps(question, np.stack([step, question]), answer, [0.5, 0.5], tmp_path / "picture.png",
                        Sequence(310, 8).look())
    first, second, truth = drawn[0].axes[1:4]
    assert marked(first) == {(0, 2)} and not second.lines
    assert truth.images[0].get_array().mask.sum() == 10 + 11 * 29 - 310
    assert list(legend(drawn[0])) == [*"012347", "wrong cell"]


def test_a_copied_question_shows_its_wrong_cells(tmp_path, drawn):
    question = np.full(100, 2)
    answer = np.where(np.arange(100) == 42, 5, question)
    plot_solution_steps(question, question[None], answer, [0.5], tmp_path / "picture.png", Maze(100, 6).look())
    assert [marked(axis) for axis in drawn[0].axes[:3]] == [set(), {(4, 2)}, set()]


@pytest.mark.parametrize("kind, names", [
    (Maze(900, 6), TOKEN_NAMES), (ARC(900, 12), ["padding", "end", *"0123456789"]),
    (Sequence(900, 12), list(map(str, range(12)))), (Sequence(900, 23), list(map(str, range(23))))])
def test_the_legend_names_the_colours_of_the_cells(tmp_path, drawn, kind, names):
    grid = np.arange(900) % len(names)
    plot_solution_steps(grid, grid[None], grid, [0.5], tmp_path / "picture.png", kind.look())
    assert is_picture(tmp_path / "picture.png")
    shown, named = drawn[0].axes[1].images[0], legend(drawn[0])
    assert np.array_equal(shown.get_array(), grid.reshape(30, 30)) and list(named) == [*names, "wrong cell"]
    for token, name in enumerate(names):
        assert named[name] == to_hex(shown.cmap(shown.norm(token)))


def test_default_colours_differ_up_to_twenty():
    assert len(set(default_colours(10))) == 10 and len(set(default_colours(20))) == 20
    assert default_colours(23)[20:] == default_colours(20)[:3]


def test_many_steps_fill_rows(tmp_path, drawn):
    grid = np.full(16, 2)
    steps = np.tile(grid, (16, 1)) + np.arange(16)[:, None] % 2
    look = Look((4, 4), ["", "", "a", "b"], ["#000000"] * 4, as_text=True)
    plot_solution_steps(grid, steps, grid, [0.5] * 16, tmp_path / "picture.png", look)
    assert sum(bool(axis.get_title()) for axis in drawn[0].axes) == 18 and len(drawn[0].axes) == 18


def test_an_animation_shows_the_puzzle_and_each_step_that_changes_something(tmp_path):
    question, answer = cells("1.34341221434321"), cells(SOLVED)
    step = answer.copy()
    step[1] = 4
    animate_solution_steps(question, np.stack([step, answer, answer]), answer, [0.25, 0.9, 0.99],
                           tmp_path / "new" / "steps.gif", SUDOKU)
    with Image.open(tmp_path / "new" / "steps.gif") as animation:
        frames = []
        for number in range(animation.n_frames):
            animation.seek(number)
            frames.append((np.asarray(animation.convert("RGB")), animation.info["duration"]))
        assert animation.info["loop"] == 0 and animation.format == "GIF"
    assert [duration for _, duration in frames] == [FRAME_MS, FRAME_MS, LAST_FRAME_MS]
    red, green = ([(np.abs(frame.astype(int) - rgb).max(-1) < 30).any() for frame, _ in frames]
                  for rgb in ((214, 39, 40), (44, 160, 44)))
    assert red == [False, True, False] and green == [False, False, True]
