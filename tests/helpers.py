"""Small models, batches and data sets, and the real scripts as processes, for all tests."""
import atexit
import json
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch

from config.resume import taken_up
from config.schema import EvaluateConfig, PretrainConfig
from dataset.common import PuzzleDatasetMetadata, write_split
from dataset.puzzle_dataset import PuzzleDataset, PuzzleDatasetConfig
from dataset.regression_dataset import write_regression_dataset
from losses import ACTLossHead
from models.recursive_reasoning.trm import TRM
from models.train_state import TrainState, build_state
from pretrain import build_head, load_data, train
from utils.checkpoint import read_checkpoint
from utils.command_line import overrides_known_to_classes
from utils.distributed import World

# So that tests compute in float32 on every CPU, and so do scripts in forked processes. test_precision.py asks all CPUs.
torch.cpu._is_amx_tile_supported = torch.cpu._is_avx512_bf16_supported = lambda: False

ROOT = Path(__file__).resolve().parent.parent
TINY_ARCH = ["arch.hidden_size=16", "arch.num_heads=2", "arch.H_cycles=2", "arch.L_cycles=1", "arch.L_layers=1",
             "arch.halt_max_steps=3", "arch.puzzle_emb_len=1", "arch.forward_dtype=float32"]  # on a CPU with AMX, too


def tiny_config(**changes) -> dict:
    """A TRM config, data keys included."""
    return {"batch_size": 4, "seq_len": 6, "vocab_size": 5, "num_puzzle_identifiers": 4, "puzzle_emb_ndim": 8,
            "puzzle_emb_len": 1, "H_cycles": 2, "L_cycles": 2, "L_layers": 1, "hidden_size": 8, "expansion": 2,
            "num_heads": 2, "pos_encodings": "rope", "mlp_t": False, "halt_max_steps": 3, "halt_exploration_prob": 0.0,
            "forward_dtype": "float32", "no_ACT_continue": True} | changes


def tiny_metadata(**changes) -> PuzzleDatasetMetadata:
    """Of data that fit `tiny_config`."""
    return PuzzleDatasetMetadata(**{
        "pad_id": 0, "ignore_label_id": 0, "blank_identifier_id": 0, "vocab_size": 5, "seq_len": 6,
        "num_puzzle_identifiers": 4, "total_groups": 1, "mean_puzzle_examples": 1, "total_puzzles": 1,
        "sets": ["all"]} | changes)


def tiny_batch(seed: int = 0, rows: int = 4, seq_len: int = 6, vocab_size: int = 5, identifiers: int = 4) -> dict:
    """A random batch without ignored cells."""
    random = torch.Generator().manual_seed(seed)

    def integers(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=random, dtype=torch.int32)

    return {"inputs": integers(0, vocab_size, rows, seq_len), "labels": integers(0, vocab_size, rows, seq_len),
            "puzzle_identifiers": integers(0, identifiers, rows)}


def split_arrays(puzzle_sizes: list[list[int]], seq_len: int = 6, vocab_size: int = 5, seed: int = 0) -> dict:
    """Arrays of one split. `puzzle_sizes`: for each group, the number of examples of each of its puzzles. Puzzles are
    numbered from identifier 1; labels are the inputs reversed."""
    sizes = [size for group in puzzle_sizes for size in group]
    inputs = np.random.default_rng(seed).integers(1, vocab_size, (sum(sizes), seq_len), dtype=np.uint8)
    return {"inputs": inputs, "labels": inputs[:, ::-1].copy(),
            "puzzle_identifiers": np.arange(1, len(sizes) + 1, dtype=np.int32),
            "puzzle_indices": np.cumsum([0, *sizes]).astype(np.int32),
            "group_indices": np.cumsum([0, *map(len, puzzle_sizes)]).astype(np.int32)}


def write_tiny_dataset(path: Path, train: list[list[int]] | None = None, test: list[list[int]] | None = None,
                       seq_len: int = 6, vocab_size: int = 5, identifiers: bool = True, seed: int = 0) -> Path:
    """A whole data set of strings to be reversed. `identifiers=False`: all puzzles share the blank."""
    train, test = train or [[1]] * 64, test or [[1]] * 10
    puzzles = max(sum(map(len, train)), sum(map(len, test)))
    for i, (split, sizes) in enumerate((("train", train), ("test", test))):
        arrays = split_arrays(sizes, seq_len, vocab_size, seed=2 * seed + i)
        if not identifiers:
            arrays["puzzle_identifiers"][:] = 0
        write_split(Path(path) / split, arrays, vocab_size, puzzles + 1 if identifiers else 1, overwrite=True)
    names = ["<blank>", *(f"puzzle{i}" for i in range(1, puzzles + 1))] if identifiers else ["<blank>"]
    (Path(path) / "identifiers.json").write_text(json.dumps(names))
    return Path(path)


REGRESSION = "arch.loss.name=losses@ACTRegressionLossHead"


def write_tiny_regression(path: Path, train: int = 64, test: int = 10, length: int = 6, seed: int = 0,
                          **changes) -> Path:
    """Sequences whose targets (L, 2) are the inputs (L, 3) of the position before, scaled and shifted; every fifth is
    not observed."""
    for i, (split, count) in enumerate((("train", train), ("test", test))):
        random = np.random.default_rng(2 * seed + i)
        inputs = random.normal(size=(count, length, 3)).astype(np.float32)
        targets = 4 + 3 * np.roll(inputs, 1, axis=1)[..., :2]
        write_regression_dataset(path, split, **{"inputs": inputs, "targets": targets,
                                                 "mask": random.random(targets.shape) >= 0.2} | changes)
    return Path(path)


def write_episode(path: Path, split: str, number: int, latents: np.ndarray, compressed: bool = False, **record) -> Path:
    """One episode, and its metadata where there are any."""
    folder = Path(path) / split
    for name in ("latents", "metadata"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    file = folder / "latents" / f"episode_{number:03d}.npz"
    (np.savez_compressed if compressed else np.savez)(file, latents=latents)
    if record:
        (folder / "metadata" / f"{file.stem}.json").write_text(json.dumps(record))
    return file


def write_tiny_episodes(path: Path, train: list[int] | None = None, test: list[int] | None = None, width: int = 3,
                        seed: int = 0) -> Path:
    """Episodes of so many latents each, which turn in a plane and grow by a constant."""
    random = np.random.default_rng(seed)
    for split, lengths in (("train", train or [20] * 4), ("test", test or [12, 9])):
        for number, length in enumerate(lengths):
            angle = random.uniform(0, 6) + 0.4 * np.arange(length)
            latents = np.stack([np.cos(angle), np.sin(angle), *np.full((width - 2, length), 0.5)], axis=1)
            write_episode(path, split, number, latents.astype(np.float32))
    return Path(path)


def generated(main, folder: Path, *options) -> dict[str, list[tuple[str, str, int]]]:
    """(question, answer, rating) by split, of the files that a generator's `main` writes."""
    main(["--output-dir", str(folder), *map(str, options)])
    splits = {}
    for split in ("train", "test"):
        header, *lines = (folder / f"{split}.csv").read_text().splitlines()
        assert header == "source,question,answer,rating"
        fields = [line.split(",") for line in lines]
        splits[split] = [(question, answer, int(rating)) for _, question, answer, rating in fields]
    return splits


def pretrain_config(*overrides: str) -> PretrainConfig:
    """What `python pretrain.py` makes of a command line."""
    return PretrainConfig.parse(_composed("cfg_pretrain", overrides), overrides)


def evaluate_config(*overrides: str) -> EvaluateConfig:
    """What `python evaluate.py` makes of a command line."""
    return EvaluateConfig.parse(_composed("cfg_evaluate", overrides))


def first_state(config: PretrainConfig, data: PuzzleDataset | None = None) -> TrainState:
    """What a run trains from; `data`: its training stream."""
    data = load_data(config, World())[0] if data is None else data
    return build_state(config, build_head(config, data, World()), data, World())


def resume(run_dir: Path, *overrides: str) -> Path:
    """What `python pretrain.py checkpoint.path=… checkpoint.resume=true …` does, in this process."""
    words = [f"checkpoint.path={run_dir}", *([] if any("resume" in word for word in overrides)
                                              else ["checkpoint.resume=true"]), *overrides]
    cfg = _composed("cfg_pretrain", tuple(words))
    config, resumed = taken_up(PretrainConfig.parse(cfg, words), cfg, words)
    return train(config, World(), resumed)


def assert_same_run(one: Path, other: Path) -> None:
    """Two run directories whose runs ended alike, bit for bit: the newest checkpoints and the metrics."""
    a, b = (read_checkpoint(run / (run / "latest.txt").read_text().strip()) for run in (one, other))
    of_the_process = ("config", "versions", "ranks")
    assert_equal(*({key: value for key, value in payload.items() if key not in of_the_process} for payload in (a, b)))
    assert_equal([rank["meter"] for rank in a["ranks"]], [rank["meter"] for rank in b["ranks"]])
    timeless = [[{name: value for name, value in line.items() if not name.endswith("_per_s")}
                 for line in metric_lines(run)] for run in (one, other)]
    assert timeless[0] == timeless[1]


def assert_equal(a, b, where: str = "payload") -> None:
    """Nested values with tensors, equal bit for bit."""
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b)):
            assert_equal(x, y, f"{where}[{i}]")
    else:
        assert a == b, where


def _composed(name: str, overrides: tuple[str, ...]):
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "config")):
        return hydra.compose(name, overrides_known_to_classes(overrides))


def run_process(command: list[str], cwd: Path, seconds: float = 300, **environment: str | None
                ) -> subprocess.CompletedProcess:
    """A command with closed standard input, its output captured as text. A variable that is None is taken away. After
    so many seconds it is ended, and with it, where it is torchrun, its processes; that fails the test."""
    variables = {name: value for name, value in (os.environ | environment).items() if value is not None}
    with subprocess.Popen(command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, env=variables) as process:
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.communicate(timeout=60)
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def script_command(script: str, *overrides: str, ranks: int = 1, torchrun: Sequence[str] = ()) -> list[str]:
    """`pretrain.py` or another script as a user starts it; `ranks` > 1 or options of torchrun: under torchrun."""
    launcher = [sys.executable]
    if ranks > 1 or torchrun:
        launcher += ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--rdzv_backend=c10d",
                     *(torchrun or ["--rdzv_endpoint=localhost:0", "--nnodes=1"])]
    return [*launcher, str(ROOT / script), *overrides]


def run_script(script: str, *overrides: str, cwd: Path, ranks: int = 1, torchrun: Sequence[str] = (),
               seconds: float = 300, fresh: bool = False, **environment: str | None) -> subprocess.CompletedProcess:
    """A script in a process of its own, or several. They are forked from one in which PyTorch is loaded already, which
    saves seconds for each; `fresh` or options of torchrun: started as a user does, several by torchrun."""
    if fresh or torchrun or sys.platform != "linux":
        command = script_command(script, *overrides, ranks=ranks, torchrun=torchrun)
        return run_process(command, cwd, seconds, **environment)
    variables = {name: value for name, value in (os.environ | environment).items() if value is not None}
    with tempfile.TemporaryDirectory() as folder:
        streams = [(Path(folder) / f"stdout{rank}", Path(folder) / f"stderr{rank}") for rank in range(ranks)]
        port = free_port()
        processes = [FORKS.Process(target=_script_in_fork, args=(
            script, overrides, cwd, variables | (_as_torchrun_says(rank, ranks, port) if ranks > 1 else {}), *files))
            for rank, files in enumerate(streams)]
        for process in processes:
            process.start()
        ends = time.monotonic() + seconds
        for process in processes:
            process.join(ends - time.monotonic())
        late = [process for process in processes if process.is_alive()]
        for process in late:
            process.kill()
            process.join()
        out, err = ("".join(file.read_text() for file in files) for files in zip(*streams))
    if late:
        raise subprocess.TimeoutExpired(script, seconds, out, err)
    status = next((process.exitcode for process in processes if process.exitcode), 0)
    return subprocess.CompletedProcess([script, *overrides], status, out, err)


FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["helpers", "evaluate", "torch._dynamo", "matplotlib.pyplot", "pandas", "wandb"])


def _as_torchrun_says(rank: int, ranks: int, port: int) -> dict[str, str]:
    return {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def _script_in_fork(script: str, overrides: Sequence[str], cwd: Path, variables: dict[str, str], out: Path, err: Path):
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(cwd)
    for number, (file, flags) in enumerate(((os.devnull, os.O_RDONLY), (out, os.O_WRONLY | os.O_CREAT),
                                            (err, os.O_WRONLY | os.O_CREAT))):
        os.dup2(os.open(file, flags), number)
    sys.argv = [str(ROOT / script), *overrides]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def heed_ctrl_c() -> None:
    """For a new process (`preexec_fn`): SIGINT ends it, though a shell turns that off for what it puts behind."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start_script(script: str, *overrides: str, cwd: Path, ranks: int = 1, torchrun: Sequence[str] = (),
                 **environment: str) -> subprocess.Popen:
    """The same in the background; it writes `stdout` and `stderr` in its folder."""
    with open(cwd / "stdout", "w") as out, open(cwd / "stderr", "w") as err:
        return subprocess.Popen(script_command(script, *overrides, ranks=ranks, torchrun=torchrun), cwd=cwd,
                                stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=os.environ | environment,
                                preexec_fn=heed_ctrl_c)


def wait_for(condition: Callable[[], Any], process: subprocess.Popen, seconds: float = 120):
    """Until the condition holds, whose value is returned; the process must be alive till then."""
    ends = time.monotonic() + seconds
    while not (value := condition()):
        assert process.poll() is None and time.monotonic() < ends, "it did not come to that"
        time.sleep(0.02)
    return value


def is_picture(file: Path) -> bool:
    """Is it a PNG that is not all of one colour?"""
    import matplotlib.image  # here: most tests draw nothing

    return file.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and np.ptp(matplotlib.image.imread(file)) > 0.5


def metric_lines(run_dir: Path, timed: bool = False) -> list[dict]:
    """The lines of a run's metrics.jsonl; `timed`: with the time of each, which no two runs have in common."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if timed or name != "time"} for line in lines]


def random_arc_task(rng: np.random.Generator, demonstrations: int = 2, tests: int = 1, low: int = 1, high: int = 8,
                    colours: int = 10) -> dict:
    """A task of random grids, answers included; sides from `low` to `high`."""
    def grid() -> list[list[int]]:
        return rng.integers(0, colours, rng.integers(low, high + 1, 2)).tolist()

    return {"train": [{"input": grid(), "output": grid()} for _ in range(demonstrations)],
            "test": [{"input": grid(), "output": grid()} for _ in range(tests)]}


def write_arc_source(folder: Path, subsets: dict[str, dict[str, dict]]) -> str:
    """Write tasks with answers, by subset and id, in the combined layout; the prefix of the files."""
    folder.mkdir(parents=True, exist_ok=True)
    for subset, tasks in subsets.items():
        challenges = {name: {kind: [{"input": pair["input"]} if kind == "test" else pair for pair in task[kind]]
                             for kind in task} for name, task in tasks.items()}
        solutions = {name: [pair["output"] for pair in task["test"]] for name, task in tasks.items()}
        (folder / f"tasks_{subset}_challenges.json").write_text(json.dumps(challenges))
        (folder / f"tasks_{subset}_solutions.json").write_text(json.dumps(solutions))
    return str(folder / "tasks")


ALONE = World()


def tiny_sudokus(path: Path, count: int = 8) -> Path:
    """4×4 Sudokus with answers that obey the rules."""
    random, grid = np.random.default_rng(0), np.array([[1, 2, 3, 4], [3, 4, 1, 2], [2, 1, 4, 3], [4, 3, 2, 1]]).ravel()
    for split in ("train", "test"):
        labels = np.stack([np.concatenate([[0], random.permutation(4) + 1])[grid] for _ in range(count)]) + 1
        arrays = split_arrays([[1]] * count, seq_len=16, vocab_size=6) | {
            "inputs": np.where(random.random(labels.shape) < 0.5, labels, 1).astype(np.uint8),
            "labels": labels.astype(np.uint8), "puzzle_identifiers": np.zeros(count, np.int32)}
        write_split(path / split, arrays, 6, 1, overwrite=True)
        metadata = json.loads((path / split / "dataset.json").read_text())
        (path / split / "dataset.json").write_text(json.dumps(metadata | {"kind": "sudoku"}))
    (path / "identifiers.json").write_text('["<blank>"]')
    return path


def tiny_test_data(path: Path, batch: int) -> PuzzleDataset:
    return PuzzleDataset(PuzzleDatasetConfig(seed=0, dataset_paths=[str(path)], test_set_mode=True,
                                             global_batch_size=batch), "test")


@cache
def undecided_head(**options) -> ACTLossHead:
    """A network for `tiny_sudokus` whose rows halt at different steps, or never. Do not change it."""
    torch.manual_seed(1)
    head = ACTLossHead(TRM(tiny_config(**{"num_puzzle_identifiers": 1, "halt_max_steps": 5, "seq_len": 16,
                                          "vocab_size": 6} | options)), loss_type="softmax_cross_entropy")
    head.model.inner.q_head.weight.data.normal_(std=3)
    head.model.inner.q_head.bias.data.fill_(-2)
    return head.eval()
