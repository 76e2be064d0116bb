"""An installation: the packages, their YAML and the page of the viewer are found from any directory."""
import shutil
import subprocess
import sys

import pytest

from helpers import ROOT, TINY_ARCH, write_tiny_dataset

CODE = """
import site, sys, yaml
site.addsitedir(sys.argv[1])
from pathlib import Path
from evaluate import evaluate, load_solver
from pretrain import train
import config.schema, models.recursive_reasoning.hrm, dataset.kinds
settings = {key: yaml.safe_load(value) for key, value in (word.split("=") for word in sys.argv[2:])}
run = train(arch="hrm", **settings, data_paths=["data"], evaluators=[], epochs=2)
evaluate(checkpoint=run, viewer="page.html")
assert "</html>" in Path("page.html").read_text()
assert load_solver(run).solve(["1 2 3"])[0].answer
print(run, run.is_dir(), evaluate(checkpoint=run)["val/steps"], Path(config.schema.__file__).parent)
"""


@pytest.mark.parametrize("editable", [[], ["-e"]])
def test_it_trains_and_evaluates_from_another_directory(tmp_path, editable):
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(
        ".*", "tests", "data", "checkpoints", "logs", "outputs", "*.egg-info", "__pycache__", "pictures"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
           "--disable-pip-version-check", "--prefix", str(tmp_path / "prefix"), *editable, "."]
    done = subprocess.run(pip, cwd=source, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    site, = (tmp_path / "prefix").glob("lib/python*/site-packages")
    write_tiny_dataset(tmp_path / "elsewhere" / "data")
    settings = [*(word for word in TINY_ARCH if "puzzle_emb_len" not in word), "arch.H_layers=1", "use_wandb=false",
                "global_batch_size=16", "eval_interval=1"]
    done = subprocess.run([sys.executable, "-c", CODE, str(site), *settings], cwd=tmp_path / "elsewhere",
                          capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    run, is_there, steps, home = done.stdout.splitlines()[-1].split()
    assert run.startswith("checkpoints/data-hrm/") and (is_there, steps) == ("True", "3.0")
    assert home == str((source if editable else site) / "config")
