"""Episodes of the Lorenz system as latents: chaotic, so that what is not modelled exactly is soon far off.

    python -m dataset.generate_lorenz --output-dir data/demo-lorenz

x' = 10 (y − x), y' = x (28 − z) − y, z' = xy − 8z/3, by Runge-Kutta steps of 0.01; a latent (x, y, z) every 0.05. Each
episode starts on the attractor, from a state of its own.
"""
import argparse
import sys
from pathlib import Path

import numpy as np

from dataset.builder import Parser, at_least, building, run

STEP, EVERY = 0.01, 5
SETTLING = 500  # steps until a random state has come to the attractor


def slope(state: np.ndarray) -> np.ndarray:
    """Derivative (episodes, 3) of states (episodes, 3)."""
    x, y, z = state.T
    return np.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], axis=1)


def runge_kutta(state: np.ndarray) -> np.ndarray:
    a = slope(state)
    b = slope(state + STEP / 2 * a)
    c = slope(state + STEP / 2 * b)
    d = slope(state + STEP * c)
    return state + STEP / 6 * (a + 2 * b + 2 * c + d)


def lorenz(episodes: int, length: int, random: np.random.Generator) -> np.ndarray:
    """Latents (episodes, length, 3)."""
    state = random.normal(scale=5.0, size=(episodes, 3)) + [0, 0, 25]
    for _ in range(SETTLING):
        state = runge_kutta(state)
    latents = np.empty((episodes, length, 3), np.float32)
    for t in range(length):
        latents[:, t] = state
        for _ in range(EVERY):
            state = runge_kutta(state)
    return latents


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--train", type=at_least(1), default=100,
                        help="training episodes (default: 100)")
    parser.add_argument("--test", type=at_least(1), default=20, help="test episodes (default: 20)")
    parser.add_argument("--length", type=at_least(2), default=400,
                        help="latents of an episode (default: 400)")
    parser.add_argument("--output-dir", default="data/demo-lorenz",
                        help="where to write (default: %(default)s)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    random = np.random.default_rng(args.seed)
    needed_bytes = (args.train + args.test) * (args.length * 12 + 4096)
    with building("generate_lorenz", args, [], needed_bytes) as (folder, counts):
        for split, count in (("train", args.train), ("test", args.test)):
            latents = Path(folder) / split / "latents"
            latents.mkdir(parents=True)
            for i, episode in enumerate(lorenz(count, args.length, random)):
                np.savez(latents / f"episode_{i:03d}.npz", latents=episode)
            counts[split] = {"episodes": count, "transitions": count * (args.length - 1)}


if __name__ == "__main__":
    sys.exit(run(main))
