"""Damped oscillators as regression data: from noisy readings with gaps, their true course, and how it goes on.

    python -m dataset.generate_oscillators --output-dir data/demo-oscillators

x(t) = a · exp(−γt) · cos(ωt + φ) at t = 0 … 31, each with an amplitude, a damping, a frequency and a phase of its own,
none of them told. Inputs (32, 2): a noisy reading and whether there is one; a quarter is missing, and so are the last
8. Targets (32, 1): x(t) itself, of which `target_mask` leaves out a fifth at random.
"""
import argparse
import sys
from pathlib import Path

import numpy as np

from dataset.builder import Parser, at_least, building, run
from dataset.regression_dataset import write_regression_dataset

LENGTH, FORECAST = 32, 8
NOISE = 0.2  # deviation of a reading
MISSING, UNOBSERVED = 0.25, 0.2  # share of the readings, and of the targets


def oscillators(count: int, random: np.random.Generator) -> dict[str, np.ndarray]:
    """`inputs` (count, 32, 2), `targets` and `mask` (count, 32, 1)."""
    def draw(low: float, high: float) -> np.ndarray:
        return random.uniform(low, high, (count, 1))

    t = np.arange(LENGTH)
    course = draw(0.5, 1.5) * np.exp(-draw(0.0, 0.05) * t) * np.cos(draw(0.2, 1.2) * t + draw(0.0, 2 * np.pi))
    read = (random.random(course.shape) >= MISSING) & (t < LENGTH - FORECAST)
    readings = np.where(read, course + random.normal(scale=NOISE, size=course.shape), 0.0)
    observed = random.random(course.shape) >= UNOBSERVED
    return {"inputs": np.stack([readings, read], axis=-1), "targets": course[:, :, None],
            "mask": observed[:, :, None]}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--train", type=at_least(1), default=8000,
                        help="training sequences (default: 8000)")
    parser.add_argument("--test", type=at_least(1), default=1000,
                        help="test sequences (default: 1000)")
    parser.add_argument("--output-dir", default="data/demo-oscillators",
                        help="where to write (default: %(default)s)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    random = np.random.default_rng(args.seed)
    with building("generate_oscillators", args, [], (args.train + args.test) * LENGTH * 13) as (folder, counts):
        for split, count in (("train", args.train), ("test", args.test)):
            write_regression_dataset(Path(folder), split, **oscillators(count, random))
            counts[split] = {"sequences": count}


if __name__ == "__main__":
    sys.exit(run(main))
