"""`--help`: every setting has a line, in groups, of each script only what it takes."""
import re

import pytest

from config.help import help_text, meanings
from config.schema import PretrainConfig
from helpers import _composed, run_script
from utils.command_line import leaf_keys


def lines_of(config_name: str, *overrides: str) -> dict[str, str]:
    """What stands behind each `key=default`, by key."""
    text = help_text(_composed(config_name, overrides), config_name)
    assert all(len(line) <= 120 for line in text.splitlines())
    whole = re.sub(r"\n {20,}", " ", text)
    return {key: re.sub(r"\s+", " ", rest) for key, rest in re.findall(r"^  ([\w.]+)=(.*)$", whole, re.MULTILINE)}


@pytest.mark.parametrize("name, overrides", [
    ("cfg_pretrain", ()), ("cfg_evaluate", ()), ("cfg_pretrain", ("experiment=demo_regression",)),
    *(("cfg_pretrain", (f"arch={arch}",)) for arch in ("hrm", "urm", "eqr", "trm_hier6", "transformers_baseline"))])
def test_every_setting_has_its_default_and_a_meaning(name, overrides):
    lines, cfg = lines_of(name, *overrides), _composed(name, overrides)
    of_another_head = {"arch.loss.loss_type", "arch.loss.label_smoothing", "arch.loss.supervision_decay"} \
        if "experiment=demo_regression" in overrides else set()
    assert {*leaf_keys(cfg)} - {"experiment", "ablation"} - of_another_head <= lines.keys()
    for key, line in lines.items():
        _, _, meaning = line.partition(" ")
        assert len(meaning.split()) >= 2, f"{key} has no meaning"


def test_defaults_are_those_of_the_command():
    plain, recipe = lines_of("cfg_pretrain"), lines_of("cfg_pretrain", "experiment=demo_sudoku4", "lr=0.5")
    assert plain["global_batch_size"].startswith("768 examples in a step") and recipe["global_batch_size"][:4] == "128 "
    assert recipe["lr"].startswith("0.5 ") and recipe["data_paths"].startswith('"[data/demo-sudoku4]" ')
    assert plain["checkpoint.every_minutes"].startswith("null minutes")
    assert plain["arch.puzzle_emb_ndim"].startswith("512 ") and "no effect" in plain["arch.H_layers"]
    assert "one of lion, adamw, adam_atan2, muon" in plain["optimizer"]


def test_no_two_settings_share_a_meaning():
    of_root = meanings(PretrainConfig)
    assert len({*of_root.values()}) == len(of_root)
    assert {*PretrainConfig.model_fields} - {"arch", "checkpoint"} == {*of_root}


def test_help_is_grouped_with_examples_and_the_choices(tmp_path):
    done = run_script("pretrain.py", "--help", cwd=tmp_path)
    assert done.returncode == 0 and not done.stderr and not list(tmp_path.iterdir())
    titles = [line for line in done.stdout.splitlines() if re.match(r"[A-Z][\w, ]*$|\w+=…$", line)]
    assert titles == ["Data", "Training", "Optimizer", "Device and checks", "Logging",
                      "Checkpoints, stopping and going on", "Architecture", "Loss", "arch=…", "experiment=…",
                      "ablation=…"]
    assert "    python pretrain.py experiment=demo_sudoku4 " in done.stdout
    assert re.search(r"^  sudoku_mlp +Sudoku-Extreme with 1,000", done.stdout, re.MULTILINE)


def test_evaluate_shows_what_it_takes_and_a_group_it_lacks_is_a_message(tmp_path):
    done = run_script("evaluate.py", "-h", cwd=tmp_path)
    assert done.returncode == 0 and "\n  checkpoint=… " in done.stdout and "experiment" not in done.stdout
    one = "; single options of it are set as in arch.act_inference=true"
    for group, words, more in (("experiment", ["experiment=maze"], ""), ("arch", ["arch=trm", "--help"], one)):
        done = run_script("evaluate.py", *words, cwd=tmp_path)
        assert done.returncode == 2 and not done.stdout
        assert done.stderr == (f"error: {group}=… is a setting of pretrain.py; here the checkpoint says what was "
                               f"trained, and how{more}\n")
