"""Rows of a source file made on all cores, kept in a file as they are made, so that a stopped command goes on."""
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

Row = tuple[str, str, int]  # question, answer, rating


def kept_rows(make: Callable[[int], Row], count: int, settings: str, kept: Path, map_tasks: Callable) -> list[Row]:
    """`count` rows with distinct questions, of the numbers 0, 1, … A row must depend on its number alone.

    The file `kept` gets each row as soon as it is there, and the same call goes on with it. `settings`: all that the
    rows depend on, in a line. Raises ValueError if the file is of other settings.
    """
    rows: dict[str, Row] = {}
    number = 0
    if kept.exists():
        text = kept.read_text()
        whole = text[:text.rindex("\n") + 1]  # a stop may have left half a line
        first, *lines = whole.splitlines()
        if first != settings:
            raise ValueError(f"{kept} holds puzzles of other settings ({first}); remove it, or repeat those settings")
        number = len(lines)
        rows = {line.split(",")[0]: _row(line) for line in lines}
        kept.write_text(whole)
    else:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(settings + "\n")
    with kept.open("a") as file, tqdm(total=count, initial=len(rows), unit="puzzle", desc=kept.stem) as bar:
        while len(rows) < count:
            numbers = range(number, number + count - len(rows))
            number = numbers.stop
            for row in map_tasks(make, numbers):
                rows.setdefault(row[0], row)
                file.write(f"{row[0]},{row[1]},{row[2]}\n")
                file.flush()
                bar.update(len(rows) - bar.n)
    return list(rows.values())[:count]


def _row(line: str) -> Row:
    question, answer, rating = line.split(",")
    return question, answer, int(rating)
