"""The memory that the puzzle-embedding table of ARC takes in a whole run: start, a step, its update, an evaluation.

    python benchmarks/puzzle_table.py                     # 876,000 × 512 beside 1,000 × 512
    python benchmarks/puzzle_table.py --identifiers 9000  # small

Both runs are `pretrain.py` on the same examples, so what they differ by is the table. Ratio 1: it is held once.
"""
import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np

from dataset.common import write_split

WIDTH, SEQ_LEN, EXAMPLES = 512, 900, 8
SETTINGS = ["global_batch_size=8", "epochs=2", "evaluators=[]", "use_wandb=false", "checkpoint.enabled=false",
            "arch.H_cycles=1", "arch.L_cycles=1", "arch.L_layers=1", "arch.halt_max_steps=1", "device=cpu"]


def write_examples(folder: Path, identifiers: int) -> Path:
    """A data set of a few examples whose table has so many rows."""
    each = np.arange(EXAMPLES + 1, dtype=np.int32)
    cells = np.random.default_rng(0).integers(1, 12, (EXAMPLES, SEQ_LEN), dtype=np.uint8)
    for split in ("train", "test"):
        write_split(folder / split, {"inputs": cells, "labels": cells, "puzzle_identifiers": each[1:],
                                     "puzzle_indices": each, "group_indices": each}, 12, identifiers)
    (folder / "identifiers.json").write_text(json.dumps(["<blank>"]))
    return folder


def peak_gb(folder: Path, identifiers: int) -> float:
    """Peak resident memory of a run in a process of its own, which must be larger than those before."""
    data = write_examples(folder / f"data{identifiers}", identifiers)
    subprocess.run([sys.executable, str(ROOT / "pretrain.py"), f"data_paths=[{data}]", *SETTINGS,
                    f"checkpoint.path={folder / 'run'}{identifiers}", f"log_dir={folder}"], cwd=folder, check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"DISABLE_COMPILE": "1"})
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--identifiers", type=int, default=876_000, help="rows of the table (default: 876,000)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        small, large = (peak_gb(Path(folder), rows) for rows in (1000, args.identifiers))
    table = (args.identifiers - 1000) * WIDTH * 4 / 1e9
    print(f"peak memory of a run: {small:.2f} GB with 1,000 identifiers, {large:.2f} GB with {args.identifiers:,}; "
          f"the table adds {table:.2f} GB; difference / table {(large - small) / table:.2f}")


if __name__ == "__main__":
    main()
