"""Puzzles as users write them: formats of files, alphabets, and what is said of lines that cannot be read."""
import io
import json

import numpy as np
import pytest

from dataset.common import IGNORE_LABEL_ID
from dataset.kinds.maze import Maze
from dataset.kinds.sequence import Sequence
from dataset.kinds.sudoku import Sudoku
from dataset.questions import read_objects, read_questions
from helpers import tiny_metadata

SUDOKU = Sudoku(16, 6)
FIRST, SOLVED = "1...3.....4....2", "1234342121434312"
ZEROS = FIRST.replace(".", "0")


def written(folder, name: str, *lines: str) -> str:
    (folder / name).write_text("\n".join(lines) + "\n")
    return str(folder / name)


def test_one_text_in_place_of_a_list_is_refused():
    with pytest.raises(ValueError, match=r"give a list of puzzles, \['1\.\.\.3"):
        read_objects(FIRST, SUDOKU)


@pytest.mark.parametrize(("name", "lines"), [
    ("a.csv", ["source,question,answer,rating", f"x,{FIRST},{SOLVED},3", f'"a, b",{ZEROS},,0']),
    ("a.csv", ["quizzes,solutions", f"{FIRST},{SOLVED}", f"{ZEROS},"]),
    ("a.csv", ["answer,question", f"{SOLVED},{FIRST}", f",{ZEROS}"]),
    ("a.csv", [f"{FIRST},{SOLVED}", f"{ZEROS},"]),
    ("a.csv", [f"me,{FIRST},{SOLVED},0", f"me,{ZEROS},,0"]),
    ("any", [f"{FIRST},{SOLVED}", "", f"{ZEROS},"]),
    ("a.jsonl", [json.dumps({"question": FIRST, "answer": SOLVED}), json.dumps(ZEROS)]),
    ("any", [json.dumps({"question": FIRST, "answer": SOLVED}), json.dumps({"question": ZEROS})])])
def test_every_format_gives_the_same_questions_and_answers(name, lines, tmp_path):
    questions = read_questions(written(tmp_path, name, *lines), SUDOKU)
    assert questions.texts == [FIRST, ZEROS] and not questions.malformed
    assert [SUDOKU.format(tokens) for tokens in questions.tokens] == [FIRST, FIRST]
    assert SUDOKU.format(questions.labels[0]) == SOLVED and (questions.labels[1] == IGNORE_LABEL_ID).all()


def test_lines_of_standard_input_and_a_puzzle_itself(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{FIRST}\r\n\n{ZEROS}"))
    assert read_questions("-", SUDOKU).texts == [FIRST, ZEROS]
    assert read_questions(ZEROS, SUDOKU).texts == [ZEROS]
    assert read_questions(written(tmp_path, "a.txt", FIRST), SUDOKU).texts == [FIRST]


def test_a_line_that_cannot_be_read_is_told_by_its_number_and_the_rest_is_read(tmp_path):
    file = written(tmp_path, "a.csv", "question,answer", FIRST[1:] + ",", f"{FIRST},{SOLVED}", "", f"{FIRST},1,2",
                   f"{FIRST},{SOLVED[1:]}x", FIRST.replace("4", "9") + ",", '"a', f"{ZEROS},")
    questions = read_questions(file, SUDOKU)
    assert questions.texts == [FIRST, ZEROS]
    assert [message.removeprefix(f"{file}, ").partition(":")[0] for message in questions.malformed] == [
        "line 2", "line 5", "line 6, its answer", "line 7", "line 8"]
    said = "\n".join(questions.malformed)
    assert "has 15 characters; write 16" in said and "3 columns, and the header 2" in said and "'9'" in said
    bad = read_questions(written(tmp_path, "a.jsonl", "{", "[" * 100_000, "7", '{"answer": "1"}', json.dumps(FIRST)),
                         SUDOKU)
    assert bad.texts == [FIRST] and len(bad.malformed) == 4 and '"question"' in bad.malformed[3]


def test_text_that_names_no_file_gets_the_nearest_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "puzzles.csv", FIRST)
    for wrong, said in (("puzles.csv", "no file puzles.csv; did you mean puzzles.csv"), ("gone/a", "no file gone/a"),
                        ("12", "2 characters"), (".", "is a folder"), ("x" * 300, "300 characters")):
        with pytest.raises(ValueError, match=said):
            read_questions(wrong, SUDOKU)
    with pytest.raises(ValueError, match="is empty"):
        read_questions(written(tmp_path, "empty.csv", ""), SUDOKU)


def test_objects_of_python_are_text_boards_or_tokens():
    board = [[1, 0, 0, 0], [3, 0, 0, 0], [0, 0, 4, 0], [0, 0, 0, 2]]
    tokens = SUDOKU.parse(FIRST)
    given = [FIRST, board, np.array(board), tokens, tokens.tolist(), {"question": board, "answer": SOLVED}]
    questions = read_objects(given, SUDOKU)
    assert not questions.malformed and all(np.array_equal(read, tokens) for read in questions.tokens)
    assert questions.texts == [FIRST, ZEROS, ZEROS, FIRST, FIRST, ZEROS]
    bad = read_objects([None, 7, [1, 2], [7] * 16, {"puzzle": FIRST}, [[1, 2], [3]], [True] * 16], SUDOKU)
    assert len(bad.malformed) == 7 and bad.malformed[1].startswith("puzzle 1: ")


def test_mazes_keep_their_blanks_and_sequences_have_names(tmp_path):
    maze, kind = "#S # o G#", Maze(9, 6)
    assert kind.format(read_questions(written(tmp_path, "a.txt", maze), kind).tokens[0]) == maze
    assert read_questions(written(tmp_path, "a.csv", "question", " S # o G "), kind).texts == [" S # o G "]
    words = Sequence(4, 5, ["", "do", "re", "mi", "fa"])
    questions = read_questions(written(tmp_path, "b.txt", "do re,mi", "so"), words)
    assert questions.tokens[0].tolist() == [1, 2, 3, 0] and "there are do, re" in questions.malformed[0]
    assert words.format_like(np.array([4, 3, 2, 1]), "do") == "fa mi re do"


def test_answers_have_the_characters_of_their_question():
    tokens = SUDOKU.parse("1.34............")
    assert SUDOKU.format_like(tokens, ZEROS) == "1034000000000000"
    assert SUDOKU.format_like(tokens, FIRST) == "1.34............"


def test_questions_are_test_data_whose_unknown_labels_do_not_count():
    questions = read_objects([{"question": "1 2 3", "answer": "3 2 1"}, "4"], Sequence(6, 5))
    data = questions.as_dataset(tiny_metadata(), 1, global_batch_size=4)
    batch = data.examples([0, 1])
    assert batch["inputs"].tolist() == [[1, 2, 3, 0, 0, 0], [4, 0, 0, 0, 0, 0]]
    assert batch["labels"].tolist() == [[3, 2, 1, -100, -100, -100], [-100] * 6]
    assert batch["puzzle_identifiers"].tolist() == [1, 1] and data.metadata.num_puzzle_identifiers == 2
    assert len(data.padding_batch()["inputs"]) == 4
    with pytest.raises(ValueError, match="no puzzle to solve"):
        read_objects([], SUDOKU).as_dataset(tiny_metadata(), 0, 4)
