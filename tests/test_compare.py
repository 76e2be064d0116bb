"""Runs side by side: how they are grouped, named and sorted, the numbers of the table, and the files."""
import csv
import json
import math
import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from helpers import is_picture, run_script, write_tiny_dataset
from utils.compare import grouped, main, read_run, runs_in


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


def rows_of(folders: list[Path], metric: str = "val/accuracy") -> list:
    return grouped([read_run(folder) for folder in folders], metric)


def test_every_differing_setting_has_a_column_and_the_best_come_first(runs):
    rows = rows_of(runs)
    assert [([run.directory.name for run in row.runs], row.settings, row.label) for row in rows] == [
        (["a", "b"], {"lr": "0.001", "arch.L_cycles": "2", "ema": "True"}, "(what most have in common)"),
        (["d"], {"lr": "2.0", "arch.L_cycles": "1", "ema": "True"}, "lr=2.0, arch.L_cycles=1"),
        (["c"], {"lr": "0.001", "arch.L_cycles": "1", "ema": "True"}, "arch.L_cycles=1"),
        (["e"], {"lr": "0.001", "arch.L_cycles": "2", "ema": "False"}, "ema=False")]


def test_a_loss_is_the_better_the_lower_and_runs_without_the_metric_or_with_nan_are_last(tmp_path):
    for name, loss in (("a", 2.0), ("b", 1.0), ("c", 3.0), ("d", None), ("e", float("nan"))):
        run = write_run(tmp_path / name, 0.5, lr=name)
        with (run / "metrics.jsonl").open("a") as lines:
            lines.write(json.dumps({"step": 30, "val/loss": loss}) + "\n" if name != "d" else "")
    write_run(tmp_path / "null", 0.5, lr="null")
    with (tmp_path / "null" / "metrics.jsonl").open("a") as lines:
        lines.write('{"step": 30, "val/loss": null}\n')
    order = [row.settings["lr"] for row in rows_of(runs_in(tmp_path), "val/loss")]
    assert order[:3] == ["b", "a", "c"] and set(order[3:]) == {"d", "e", "null"}


def test_a_row_has_mean_and_deviation_of_what_its_runs_ended_with(runs):
    first, second, *_ = (row.cells(["val/accuracy", "train/loss", "eval/none"]) for row in rows_of(runs))
    assert first == {"lr": "0.001", "arch.L_cycles": "2", "ema": "True", "runs": "2", "steps": "20",
                     "val/accuracy": pytest.approx(0.7), "val/accuracy ±": pytest.approx(0.02**0.5), "train/loss": 2.0,
                     "train/loss ±": 0.0, "eval/none": None, "eval/none ±": None}
    assert (second["lr"], second["val/accuracy"], second["val/accuracy ±"]) == ("2.0", 0.7, None)


def test_a_run_that_ended_without_a_number_says_so_and_not_its_last_good_one(runs):
    with open(runs[2] / "metrics.jsonl", "a") as file:
        file.write('{"step": 30, "epoch": 3, "val/accuracy": null}\n')
    *_, last = (row.cells(["val/accuracy"]) for row in rows_of(runs))
    assert last["runs"] == "2" and math.isnan(last["val/accuracy"]) and math.isnan(last["val/accuracy ±"])


def test_it_writes_a_table_twice_and_a_picture(runs, tmp_path, capsys):
    output = tmp_path / "out" / "all"
    assert main([*map(str, runs), "--metrics", "val/accuracy", "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert printed == output.with_suffix(".md").read_text()
    assert printed.splitlines()[:4] == ["| lr | arch.L_cycles | ema | runs | steps | val/accuracy |",
                                        "| --- | --- | --- | --- | --- | --- |",
                                        "| 0.001 | 2 | True | 2 | 20 | 0.7 ± 0.14 |",
                                        "| 2.0 | 1 | True | 1 | 20 | 0.7 |"]
    assert printed.endswith("\n±: standard deviation over the runs of a row.\n")
    rows = list(csv.DictReader(output.with_suffix(".csv").open()))
    assert [row["arch.L_cycles"] for row in rows] == ["2", "1", "1", "2"]
    assert [(row["val/accuracy"], row["val/accuracy ±"]) for row in rows[1:]] == [("0.7", ""), ("0.5", ""), ("0.3", "")]
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_a_parent_folder_means_the_runs_in_it(runs, tmp_path, capsys):
    write_run(tmp_path / "a.old1", 0.9)  # set aside
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "metrics.jsonl").touch()
    (runs[0] / "evaluation").mkdir()
    (runs[0] / "evaluation" / "metrics.json").write_text("{}")
    (runs[1] / "superseded" / "1").mkdir(parents=True)
    (runs[1] / "superseded" / "1" / "metrics.jsonl").write_text('{"step": 99}\n')
    assert runs_in(tmp_path) == runs_in(tmp_path.parent / tmp_path.name) == sorted(runs)
    assert main([str(tmp_path), str(runs[0]), "--metrics", "val/accuracy", "--output", str(tmp_path / "x")]) == 0
    assert "| 2 | 20 | 0.7 ± 0.14 |" in capsys.readouterr().out  # and none of them twice
    assert runs_in(runs[0] / "evaluation") == [runs[0] / "evaluation"]


def test_where_no_value_is_more_usual_every_row_says_its_own(runs, tmp_path):
    assert [row.label for row in rows_of(runs[:2])] == ["ema=True", "ema=False"]
    for name, passed in (("votes_0", 0.25), ("votes_30", 0.5)):  # of evaluate.py
        (tmp_path / "votes" / name).mkdir(parents=True)
        (tmp_path / "votes" / name / "metrics.json").write_text(json.dumps({"eval/arc/pass@2": passed}))
    rows = rows_of(runs_in(tmp_path / "votes"), "eval/arc/pass@2")
    assert [(row.label, cells["steps"], cells["eval/arc/pass@2"]) for row in rows
            for cells in [row.cells(["eval/arc/pass@2"])]] == [
        ("evaluation=votes_30", "", 0.5), ("evaluation=votes_0", "", 0.25)]


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
    assert {row.label: (len(row.runs), row.mean("val/accuracy")) for row in rows_of(folders)} == {
        f"arch.halt_max_steps={trained}, evaluation=evaluation_halt_max_steps_{tested}":
            (2, pytest.approx(trained + tested / 10 + 0.5)) for trained in (1, 8) for tested in (1, 8)}


def test_ablations_are_one_multirun_and_one_table(tmp_path):
    """As in docs/recipes.md, but smaller: `config/ablation/` over `experiment=ablate_sudoku4`."""
    write_tiny_dataset(tmp_path / "data", seq_len=16, vocab_size=6)
    done = run_script("pretrain.py", "-m", "experiment=ablate_sudoku4", "ablation=none,one_latent", "seed=0,1",
                      "data_paths=[data]", "epochs=2", "arch.hidden_size=16", "arch.halt_max_steps=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    runs = sorted((tmp_path / "checkpoints" / "ablate-sudoku4").iterdir())
    assert [re.sub(r"-\d{8}-\d{6}-[0-9a-f]{8}$", "", run.name) for run in runs] == [
        f"{arch}-ablation_{ablation}-seed_{seed}" for arch, ablation in (("trm", "none"), ("trm_singlez", "one_latent"))
        for seed in (0, 1)]
    assert main([str(runs[0].parent), "--output", str(tmp_path / "ablations")]) == 0
    rows = list(csv.DictReader((tmp_path / "ablations.csv").open()))
    assert [row["runs"] for row in rows] == ["2", "2"] and all(float(row["val/loss"]) > 0 for row in rows)
    assert {row["arch.name"].partition("@")[2] for row in rows} == {"TinyRecursiveReasoningModel_ACTV1", "TRMSingleZ"}


def test_curves_of_all_runs_stand_by_step_and_by_time(tmp_path, drawn, capsys):
    for name, lines in {
            "a": [{"step": 2, "time": 100.0, "train/loss": 4.0, "train/steps": 3.0},
                  {"step": 4, "time": 160.0, "train/loss": 2.0, "train/steps": 1.0},
                  {"step": 4, "time": 280.0, "val/loss": 3.0, "val/exact_accuracy": 0.5, "val/steps": 16}],
            "b": [{"step": 2, "time": 1000.0, "train/loss": 1.0}], "old": [{"step": 2, "train/loss": 9.0}]}.items():
        run = write_run(tmp_path / name, 0.5, lr=name)
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = [str(tmp_path), "--metrics", "train/loss", "--output", str(tmp_path / "out")]
    assert main(command) == 0 and is_picture(tmp_path / "out_curves.png")
    _, figure = drawn
    panels = {axis.get_ylabel(): axis for axis in figure.axes[::2]}
    assert list(panels) == ["loss", "exact accuracy", "supervision steps to halt"]
    points = [[line.get_xydata().tolist() for line in axis.lines] for axis in figure.axes]
    assert points == [[[[2, 1]], [[2, 4], [4, 2]], [[4, 3]]], [[[0, 1]], [[0, 4], [1, 2]], [[3, 3]]],  # in minutes
                      [[[4, 0.5]]], [[[3, 0.5]]], [[[2, 3], [4, 1]]], [[[0, 3], [1, 1]]]]
    assert figure.axes[1].get_xlabel() == "minutes since the first line of the log"
    assert panels["loss"].get_yscale() == "log" and panels["exact accuracy"].get_yscale() == "linear"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["lr=b", "lr=a", "lr=old"]
    assert [line.get_color() for line in figure.axes[0].lines][1:] == [
        line.get_color() for line in figure.axes[0].lines[1:2]] * 2


def test_without_times_there_are_no_curves(runs, tmp_path):
    assert main([*map(str, runs), "--metrics", "val/accuracy", "--output", str(tmp_path / "out")]) == 0
    assert is_picture(tmp_path / "out.png") and not (tmp_path / "out_curves.png").exists()


def test_what_is_no_run_or_no_metric_is_named(runs, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty"), "--output", str(tmp_path / "x")]) == 2
    assert f"{tmp_path / 'empty'} is not the directory of a run" in capsys.readouterr().err
    assert main([str(runs[0]), "--metrics", "val/acc", "--output", str(tmp_path / "x")]) == 2
    assert ("no run has val/acc, which evaluations give; choose with --metrics among train/loss, val/accuracy"
            in capsys.readouterr().err)
