"""Windows of latent episodes a second from the training stream, the time an epoch's order takes, and the memory of it.

    python benchmarks/latent_windows.py                 # 10,000 episodes × 1,000 latents × 64, windows of 64
    python benchmarks/latent_windows.py --episodes 1000 --compressed
"""
import argparse
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from dataset.latent_episodes import episode_files
from dataset.puzzle_dataset import PuzzleDataset, PuzzleDatasetConfig

BATCH, ROUNDS, BATCHES = 256, 7, 100


def write_episodes(path: Path, episodes: int, length: int, width: int, compressed: bool) -> None:
    folder = path / "train" / "latents"
    folder.mkdir(parents=True)
    random, save = np.random.default_rng(0), np.savez_compressed if compressed else np.savez
    for i in range(episodes):
        save(folder / f"episode_{i:05d}.npz", latents=random.standard_normal((length, width), np.float32))


def warm_up(path: Path) -> None:
    """Read every file, so that the page cache has it."""
    for file in episode_files(path, "train"):
        file.read_bytes()


def memory_mb() -> float:
    """The largest resident set so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def windows_per_second(step) -> float:
    started = time.perf_counter()
    for _ in range(BATCHES):
        step()
    return BATCHES * BATCH / (time.perf_counter() - started)


def measure(path: Path, window: int, stride: int) -> None:
    before = memory_mb()
    started = time.perf_counter()
    data = PuzzleDataset(PuzzleDatasetConfig(seed=0, dataset_paths=[str(path)], global_batch_size=BATCH,
                                             test_set_mode=False, episode_window=window, episode_stride=stride))
    opened = time.perf_counter() - started
    started = time.perf_counter()
    data.stream.load_state_dict({"epoch": 1, "offset": 0})
    ordered = time.perf_counter() - started
    width = data.metadata.input_dim
    memory = np.random.default_rng(0).standard_normal((20_000, width), np.float32)  # small enough for any machine
    random = np.random.default_rng(0)

    def bare_gather():
        starts = random.integers(len(memory) - window - 1, size=BATCH)[:, None] + np.arange(window + 1)
        frames = memory[starts]
        return np.ascontiguousarray(frames[:, :-1]), np.ascontiguousarray(frames[:, 1:])

    data.next_batch(), bare_gather()
    pairs = [(windows_per_second(data.next_batch), windows_per_second(bare_gather)) for _ in range(ROUNDS)]
    stream, bare = (statistics.median(column) for column in zip(*pairs))
    print(f"{data.num_examples:,} windows of {window} × {width}: opened in {opened:.1f} s, an epoch ordered in "
          f"{ordered:.2f} s")
    print(f"stream: {stream:,.0f} windows/s (median of {ROUNDS} rounds); bare gather in memory: {bare:,.0f}; ratio "
          f"{stream / bare:.2f}")
    print(f"memory: {memory_mb():.0f} MB at most, {memory_mb() - before:.0f} MB of it since the imports")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("episodes", 10_000), ("length", 1000), ("width", 64), ("window", 64), ("stride", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--compressed", action="store_true")
    parser.add_argument("--folder", type=Path, help="keep the episodes here, and take those that are here already")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        path = args.folder or Path(temporary) / "episodes"
        if not path.is_dir():
            write_episodes(path, args.episodes, args.length, args.width, args.compressed)
        warm_up(path)
        measure(path, args.window, args.stride)


if __name__ == "__main__":
    main()
