"""Rows that are kept as they are made: a stopped command goes on, on any number of cores."""
import pytest

from dataset.generate_sudoku import main
from dataset.kept_rows import kept_rows
from helpers import generated


def row(number: int) -> tuple[str, str, int]:
    return f"q{number // 2}", f"a{number // 2}", number // 2  # every question comes twice


def test_a_stopped_command_goes_on_where_it_was(tmp_path):
    whole = kept_rows(row, 5, "seed 0", tmp_path / "whole.txt", map)
    assert whole == [(f"q{number}", f"a{number}", number) for number in range(5)]

    def stopping(make, numbers):
        for number in numbers:
            if number == 3:
                raise KeyboardInterrupt
            yield make(number)

    with pytest.raises(KeyboardInterrupt):
        kept_rows(row, 5, "seed 0", tmp_path / "part.txt", stopping)
    with (tmp_path / "part.txt").open("a") as file:
        file.write("half a line")
    made = []

    def counting(make, numbers):
        made.extend(numbers)
        return map(make, numbers)

    assert kept_rows(row, 5, "seed 0", tmp_path / "part.txt", counting) == whole and made[:2] == [3, 4]
    with pytest.raises(ValueError, match="holds puzzles of other settings"):
        kept_rows(row, 5, "seed 1", tmp_path / "part.txt", map)


def test_an_interrupted_generator_writes_the_files_of_an_uninterrupted_one(tmp_path, monkeypatch):
    """16×16 puzzles on two cores; the first command ends as its test split begins, half a line too late."""
    options = ("--size", 16, "--train", 4, "--test", 2, "--clues", 200)
    whole = generated(main, tmp_path / "whole", *options, "--num-workers", 2)
    monkeypatch.setattr("dataset.generate_sudoku.kept_rows", stopped_at_test)
    with pytest.raises(KeyboardInterrupt):
        generated(main, tmp_path / "part", *options, "--num-workers", 1)
    monkeypatch.undo()
    train, = (tmp_path / "part.part").iterdir()
    lines = train.read_text().splitlines(keepends=True)
    train.write_text("".join(lines[:3]) + lines[3][:100])
    assert generated(main, tmp_path / "part", *options, "--num-workers", 2) == whole
    assert not (tmp_path / "part.part").exists()


def stopped_at_test(make, count, settings, kept, map_tasks):
    if kept.stem == "test":
        raise KeyboardInterrupt
    return kept_rows(make, count, settings, kept, map_tasks)
