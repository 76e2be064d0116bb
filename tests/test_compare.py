"""Runs side by side: how they are grouped and named, the numbers of the table, and the files."""
import csv
import json
import math
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from helpers import run_script, write_tiny_dataset
from utils.compare import grouped, main, read_run, table


def write_run(directory: Path, ends_at: float, **settings) -> Path:
    """A run of two evaluations; `arch` and `seed` as in a real config, the rest as given."""
    directory.mkdir(parents=True)
    config = {"lr": 1e-3, "seed": 0, "run_name": directory.name, "checkpoint": {"path": str(directory)},
              "arch": {"name": "trm@TRM", "L_cycles": 2}, "ema": True} | settings
    OmegaConf.save(OmegaConf.create(config), directory / "config.yaml")
    lines = [{"step": 5, "epoch": 0, "train/loss": 2.0}, {"step": 10, "epoch": 1, "val/accuracy": 0.1},
             {"step": 20, "epoch": 2, "val/accuracy": ends_at}]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return directory


@pytest.fixture
def runs(tmp_path) -> list[Path]:
    return [write_run(tmp_path / "e", 0.3, ema=False), write_run(tmp_path / "a", 0.8),
            write_run(tmp_path / "b", 0.6, seed=1),
            write_run(tmp_path / "c", 0.5, arch={"name": "trm@TRM", "L_cycles": 1}),
            write_run(tmp_path / "d", 0.7, arch={"name": "trm@TRM", "L_cycles": 1}, lr=2.0)]


def test_runs_are_grouped_by_what_sets_them_apart_from_most(runs):
    groups = grouped([read_run(run) for run in runs])
    assert {special: [run.directory.name for run in members] for special, members in groups.items()} == {
        "": ["a", "b"], "ema=False": ["e"], "arch.L_cycles=1": ["c"], "lr=2.0, arch.L_cycles=1": ["d"]}
    assert next(iter(groups)) == ""


def test_a_row_has_mean_and_deviation_of_what_its_runs_ended_with(runs):
    first, second, *_ = table(grouped([read_run(run) for run in runs]), ["val/accuracy", "train/loss", "eval/none"])
    assert first == {"settings": "(what most have in common)", "runs": "2", "steps": "20",
                     "val/accuracy": pytest.approx(0.7), "val/accuracy ±": pytest.approx(0.02**0.5), "train/loss": 2.0,
                     "train/loss ±": 0.0, "eval/none": None, "eval/none ±": None}
    assert (second["settings"], second["val/accuracy"], second["val/accuracy ±"]) == ("ema=False", 0.3, None)


def test_a_run_that_ended_without_a_number_says_so_and_not_its_last_good_one(runs):
    with open(runs[2] / "metrics.jsonl", "a") as file:
        file.write('{"step": 30, "epoch": 3, "val/accuracy": null}\n')
    first, *_ = table(grouped([read_run(run) for run in runs]), ["val/accuracy"])
    assert first["runs"] == "2" and math.isnan(first["val/accuracy"]) and math.isnan(first["val/accuracy ±"])


def test_it_writes_a_table_twice_and_a_picture(runs, tmp_path, capsys):
    output = tmp_path / "out" / "all"
    assert main([*map(str, runs), "--metrics", "val/accuracy", "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert printed == output.with_suffix(".md").read_text()
    assert "| (what most have in common) | 2 | 20 | 0.7 ± 0.14 |" in printed.splitlines()
    assert "| lr=2.0, arch.L_cycles=1 | 1 | 20 | 0.7 |" in printed.splitlines()
    assert printed.endswith("\n±: standard deviation over the runs of a row.\n")
    rows = list(csv.DictReader(output.with_suffix(".csv").open()))
    assert [row["settings"] for row in rows][0] == "(what most have in common)" and len(rows) == 4
    assert [(row["val/accuracy"], row["val/accuracy ±"]) for row in rows[1:]] == [("0.3", ""), ("0.5", ""), ("0.7", "")]
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_where_no_value_is_more_usual_every_row_says_its_own(runs, tmp_path):
    assert list(grouped([read_run(run) for run in runs[:2]])) == ["ema=False", "ema=True"]
    for name, passed in (("votes_0", 0.25), ("votes_30", 0.5)):  # of evaluate.py
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps({"eval/arc/pass@2": passed}))
    rows = table(grouped([read_run(tmp_path / name) for name in ("votes_0", "votes_30")]), ["eval/arc/pass@2"])
    assert [(row["settings"], row["steps"], row["eval/arc/pass@2"]) for row in rows] == [
        ("evaluation=votes_0", "", 0.25), ("evaluation=votes_30", "", 0.5)]


def test_evaluations_of_several_runs_are_told_apart_by_run_and_by_evaluation(tmp_path):
    """Supervision steps in training against those at test, over two seeds: a row a pair."""
    folders = []
    for trained in (1, 8):
        for seed in (0, 1):
            run = write_run(tmp_path / f"{trained}-{seed}", 0.5, seed=seed, arch={"halt_max_steps": trained})
            for tested in (1, 8):
                folders.append(run / f"evaluation_halt_max_steps_{tested}")
                folders[-1].mkdir()
                (folders[-1] / "metrics.json").write_text(json.dumps({"val/accuracy": trained + tested / 10 + seed}))
    rows = table(grouped([read_run(folder) for folder in folders]), ["val/accuracy"])
    assert {row["settings"]: (row["runs"], row["val/accuracy"]) for row in rows} == {
        f"arch.halt_max_steps={trained}, evaluation=evaluation_halt_max_steps_{tested}":
            ("2", pytest.approx(trained + tested / 10 + 0.5)) for trained in (1, 8) for tested in (1, 8)}


def test_ablations_are_one_multirun_and_one_table(tmp_path):
    """As in README.md, but smaller: `config/ablation/` over `experiment=ablate_sudoku4`."""
    write_tiny_dataset(tmp_path / "data", seq_len=16, vocab_size=6)
    done = run_script("pretrain.py", "-m", "experiment=ablate_sudoku4", "ablation=none,one_latent", "seed=0,1",
                      "data_paths=[data]", "epochs=2", "arch.hidden_size=16", "arch.halt_max_steps=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    runs = sorted((tmp_path / "checkpoints" / "ablate-sudoku4").iterdir())
    assert len(runs) == 4 and main([*map(str, runs), "--output", str(tmp_path / "ablations")]) == 0
    rows = list(csv.DictReader((tmp_path / "ablations.csv").open()))
    assert [row["runs"] for row in rows] == ["2", "2"]
    assert "trm_singlez" in rows[1]["settings"] and all(float(row["val/loss"]) > 0 for row in rows)


def test_what_is_no_run_or_no_metric_is_named(runs, tmp_path, capsys):
    assert main([str(tmp_path), "--output", str(tmp_path / "x")]) == 2
    assert f"{tmp_path} is not the directory of a run" in capsys.readouterr().err
    assert main([str(runs[0]), "--metrics", "val/acc", "--output", str(tmp_path / "x")]) == 2
    assert "no run has val/acc; there are epoch, step, train/loss, val/accuracy" in capsys.readouterr().err
