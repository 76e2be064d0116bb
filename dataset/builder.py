"""What every builder and generator shares: its command line, how it ends, and what it tells of what it wrote.

    python -m dataset.build_sudoku_dataset --help
"""
import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from dataset.common import dataset_fingerprint, file_sha256, new_dataset_directory, write_json
from utils.foreign import printable


def at_least(lowest: int) -> Callable[[str], int]:
    """An argparse type: a whole number not below `lowest`."""
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < lowest:
            raise argparse.ArgumentTypeError(f"{text} is not a whole number of {lowest} or more")
        return int(text)
    return parse


def fraction(text: str) -> float:
    """An argparse type: a number between 0 and 1."""
    try:
        if 0 < float(text) < 1:
            return float(text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1; write 0.1 for a tenth")


class Parser(argparse.ArgumentParser):
    """The options of every builder and generator. A wrong command line is a ValueError like any other fault."""

    def __init__(self, description: str):
        super().__init__(description=description,
                         formatter_class=argparse.RawDescriptionHelpFormatter)
        self.add_argument("--seed", type=at_least(0), default=0,
                          help="of all that is drawn at random (default: 0)")
        self.add_argument("--overwrite", action="store_true",
                          help="replace the output folder if it exists")

    def error(self, message: str):
        raise ValueError(f"{message}; see --help")


def add_test_fraction(options: argparse._ActionsContainer, source: str, instead: str) -> None:
    """Add `--test-fraction`, of the tasks of a `source`. `instead`: what is done without it, for the help."""
    options.add_argument("--test-fraction", type=fraction, metavar="F", help="this part of the "
                         f"tasks of {source}, drawn by --seed, is the test set; variants of one "
                         f"task stay together (default: {instead})")


def run(main: Callable[[], None]) -> int:
    """Run a command. Returns its exit code: 0, or 2 after one line about an error of the user or of the disk.

    A request to terminate ends it like any exit, so that what is half built is cleaned up.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        main()
    except (ValueError, OSError) as error:
        print(printable("error: " + " ".join(str(error).split())), file=sys.stderr)
        return 2
    return 0


@contextmanager
def building(builder: str, args: argparse.Namespace, files: Iterable[Path], needed_bytes: int
             ) -> Iterator[tuple[Path, dict[str, dict[str, int]]]]:
    """Yield the folder to fill and a dict to fill with each split's counts of rows; at the end, say what was written.

    `files` are the sources; their SHA-256, the arguments and the counts go into source.json. Raises ValueError as
    `new_dataset_directory` does.
    """
    counts: dict[str, dict[str, int]] = {}
    with new_dataset_directory(args.output_dir, needed_bytes, args.overwrite) as folder:
        yield folder, counts
        files = list(files)
        root = os.path.commonpath([file.parent for file in files]) if files else ""  # two may have one name
        hashes = {file.relative_to(root).as_posix(): file_sha256(file) for file in files}
        write_json(folder / "source.json", {"builder": builder, "arguments": vars(args), "rows": counts,
                                            "source": hashes})
    for split, count in counts.items():
        print(f"{split}: " + ", ".join(f"{number} {what}" for what, number in count.items()))
    print(f"{args.output_dir}: fingerprint {dataset_fingerprint(args.output_dir)}")


@contextmanager
def workers(count: int) -> Iterator[Callable]:
    """A context that gives a `map` function with `count` processes, which keeps the order. 1 is this process itself."""
    if count == 1:
        yield map
        return
    # they ignore an interrupt from the keyboard, which reaches them too: this process ends them after their task
    pool = ProcessPoolExecutor(count, initializer=signal.signal,
                               initargs=(signal.SIGINT, signal.SIG_IGN))
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)
