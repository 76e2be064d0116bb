"""Time and memory of the ARC-AGI-1 build with 1,000 augmentations, and their ratio to the published builder's.

    python benchmarks/build_arc.py --input-file-prefix kaggle/combined/arc-agi

The published figures were recorded on another run and are not measured here. It writes some 7 GB to the folder for
temporary files (`TMPDIR`). Wall time includes the interpreter's start and the fingerprint. Memory is an upper bound of
what all processes held at one time: the peak resident size of the largest, times their number.
"""
import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED_SECONDS, PUBLISHED_GB = 450.0, 17.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input-file-prefix", required=True, help="of the training, evaluation and concept files")
    parser.add_argument("--num-workers", type=int, default=os.cpu_count(), help="processes (default: one a processor)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "dataset.build_arc_dataset", "--input-file-prefix",
                        str(Path(args.input_file_prefix).resolve()), "--output-dir", f"{folder}/built", "--subsets",
                        "training", "evaluation", "concept", "--test-set-name", "evaluation", "--num-workers",
                        str(args.num_workers)], cwd=ROOT, check=True)
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    processes = args.num_workers + 1 if args.num_workers > 1 else 1
    gigabytes = processes * peak * (1 if sys.platform == "darwin" else 1024) / 1e9
    print(f"this builder, {args.num_workers} workers: {seconds:.1f} s, at most {gigabytes:.2f} GB")
    print(f"published, recorded on another run: {PUBLISHED_SECONDS:.0f} s, {PUBLISHED_GB:.0f} GB")
    print(f"ratio: {PUBLISHED_SECONDS / seconds:.1f}× in time, {PUBLISHED_GB / gigabytes:.1f}× in memory")


if __name__ == "__main__":
    main()
