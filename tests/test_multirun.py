"""Names of the runs of one command, by real multiruns."""
import re
from pathlib import Path

from helpers import run_script, write_tiny_dataset
from test_command_line import QUICK


def names(folder: Path, *words: str) -> list[str]:
    write_tiny_dataset(folder / "data")
    done = run_script("pretrain.py", "-m", "data_paths=[data]", *QUICK, *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    return sorted(run.name for run in (folder / "checkpoints" / "data-trm").iterdir())


def test_a_name_says_what_differs_and_not_what_is_common(tmp_path):
    first, second = names(tmp_path, "arch.L_cycles=1,2", "data_paths=[data],[data,data]", "seed=7")[::3]
    date = r"-\d{8}-\d{6}-[0-9a-f]{8}"
    assert re.fullmatch(f"trm-data_paths_data-L_cycles_1{date}", first)
    assert re.fullmatch(f"trm-data_paths_data-data-L_cycles_2{date}", second)


def test_runs_of_one_given_name_are_told_apart_so_that_each_can_go_on(tmp_path):
    assert names(tmp_path, "run_name=x", "seed=1,2") == ["x-seed_1", "x-seed_2"]
    done = run_script("pretrain.py", "-m", "data_paths=[data]", *QUICK, "run_name=x", "seed=1,2",
                      "checkpoint.resume=auto", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.count("going on from step 4") == 2
    assert names(tmp_path, "run_name='own-${seed}'", "seed=1,2")[:2] == ["own-1", "own-2"]
