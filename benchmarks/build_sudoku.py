"""Time and memory of the 1,000 puzzles × 1,000 copies Sudoku build, and their ratio to the published builder's.

    python benchmarks/build_sudoku.py                       # on 1,000 generated 9×9 puzzles
    python benchmarks/build_sudoku.py --source-dir FOLDER   # on train.csv and test.csv with 1,000 rows or more

The published figures were recorded on another run and are not measured here. Wall time includes the interpreter's
start; memory is the peak resident size of the build's own process.
"""
import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED_SECONDS, PUBLISHED_GB = 93.0, 3.6


def run_module(module: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source-dir", help="folder with train.csv and test.csv (default: generated puzzles)")
    source_dir = parser.parse_args().source_dir
    with tempfile.TemporaryDirectory() as folder:
        if source_dir is None:
            # the peak over all children is read below; the generator's, some 50 MB, is the smaller one
            run_module("dataset.generate_sudoku", "--size", "9", "--train", "1000", "--test", "100",
                       "--output-dir", f"{folder}/csv")
        source_dir = str(Path(source_dir).resolve()) if source_dir else f"{folder}/csv"
        start = time.perf_counter()
        run_module("dataset.build_sudoku_dataset", "--source-dir", source_dir, "--output-dir", f"{folder}/built",
                   "--subsample-size", "1000", "--num-aug", "1000")
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    gigabytes = peak * (1 if sys.platform == "darwin" else 1024) / 1e9
    print(f"this builder: {seconds:.1f} s, {gigabytes:.2f} GB")
    print(f"published, recorded on another run: {PUBLISHED_SECONDS:.0f} s, {PUBLISHED_GB} GB")
    print(f"ratio: {PUBLISHED_SECONDS / seconds:.0f}× in time, {PUBLISHED_GB / gigabytes:.0f}× in memory")


if __name__ == "__main__":
    main()
