"""Training and evaluation called from Python, in this process, as a notebook does."""
import re
import threading
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from config.schema import PretrainConfig
from dataset import build_sudoku_dataset, generate_sudoku
from documents import page
from evaluate import evaluate, score
from helpers import ROOT, assert_same_run, evaluate_config, pretrain_config, write_tiny_dataset
from pretrain import train
from utils.distributed import World
from utils.keywords import composed_from

SMALL = {"arch": {"hidden_size": 16, "num_heads": 2, "H_cycles": 2, "L_cycles": 1, "L_layers": 1, "halt_max_steps": 3,
                  "puzzle_emb_len": 1},
         "global_batch_size": 16, "epochs": 4, "eval_interval": 2, "lr": np.float32(0.5) / 512, "use_wandb": False,
         "evaluators": [], "log_interval": 1}
WORDS = ["arch.hidden_size=16", "arch.num_heads=2", "arch.H_cycles=2", "arch.L_cycles=1", "arch.L_layers=1",
         "arch.halt_max_steps=3", "arch.puzzle_emb_len=1", "global_batch_size=16", "epochs=4", "eval_interval=2",
         "lr=0.0009765625", "use_wandb=false", "evaluators=[]", "log_interval=1"]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_tiny_dataset(tmp_path / "data")
    return tmp_path


@pytest.mark.parametrize("value", [
    "plain", "", " a b ", "null", "1e-3", "a=b,c", "[x]", "{x: 1}", 'both "kinds\' of', "back\\slash\\", "trüb", "(",
    "~", None, True, 3, -0.25, 1e-12, [], ["a b", 1, None], (1, 2), [{"name": "a@B", "options": [1, {"x": "y z"}]}]])
def test_a_value_arrives_as_it_is(value):
    cfg, _ = composed_from("cfg_pretrain", {"run_name": value, "checkpoint": {"path": value}})
    expected = list(value) if isinstance(value, tuple) else value
    assert OmegaConf.to_container(cfg)["run_name"] == OmegaConf.to_container(cfg)["checkpoint"]["path"] == expected


def test_numbers_of_numpy_and_paths_are_values_too(tmp_path):
    cfg, words = composed_from("cfg_pretrain", {"lr": np.float64(1e-3), "epochs": np.int64(7), "log_dir": tmp_path})
    assert (cfg.lr, cfg.epochs, cfg.log_dir) == (1e-3, 7, str(tmp_path)) and words[1] == "epochs=7"


def test_it_is_the_run_of_the_command_line_in_any_thread_and_leaves_hydra_as_it_was(here):
    runs: list[Path] = []
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "config")):
        thread = threading.Thread(target=lambda: runs.append(
            train(data_paths=["data"], **SMALL, checkpoint={"path": here / "a"})))
        thread.start()
        thread.join()
        assert compose("cfg_evaluate", ["checkpoint=x"]).checkpoint == "x"
    assert not GlobalHydra.instance().is_initialized()
    by_words = pretrain_config("data_paths=[data]", *WORDS, f"checkpoint.path={here / 'b'}")
    assert runs == [here / "a"]
    assert_same_run(runs[0], train(by_words, World()))
    scores = evaluate(checkpoint=runs[0], global_batch_size=4)
    assert scores == score(evaluate_config(f"checkpoint={here / 'b'}", "global_batch_size=4"), World())


def test_a_limit_ends_a_run_that_keywords_take_up_again(here):
    whole = train(data_paths=["data"], **SMALL, checkpoint={"path": "whole"})
    part = train(data_paths=["data"], **SMALL, checkpoint={"path": "part"}, max_steps=5)
    assert part == Path("part") and (part / "step_00000005.ckpt").is_file()
    assert train(checkpoint={"path": part, "resume": True}) == part
    assert_same_run(whole, part)


def test_a_whole_config_is_left_as_it_is_and_takes_no_settings_beside_it(here):
    config = pretrain_config("data_paths=[data]", *WORDS)
    first, second = train(config), train(config)
    assert first != second and config.run_name is None
    assert_same_run(first, second)
    config.checkpoint.path, config.checkpoint.resume, config.epochs = str(first), True, 5
    assert train(config) == first and (first / "step_00000020.ckpt").is_file()
    with pytest.raises(ValueError, match="lr, seed: the config that is given already has these settings; set them"):
        train(config, lr=1e-3, seed=1)
    with pytest.raises(ValueError, match="'demo' is no PretrainConfig; give settings by keyword, such as seed=1"):
        train("demo")
    config.lr = "fast"
    with pytest.raises(ValueError, match="lr='fast': Input should be a valid number"):
        train(config)


@pytest.mark.parametrize("settings, message", [
    ({"learning_rate": 1}, "unknown key learning_rate; here it is called lr"),
    ({"lr": "fast"}, "lr='fast': Input should be a valid number"),
    ({"arch": {"hidden_sise": 3}}, "unknown key arch.hidden_sise; did you mean arch.hidden_size?"),
    ({"arch": {"loss": {"name": "losses@Mine"}}}, "losses has no Mine; it has ACTLossHead"),
    ({"checkpoint": {"resumes": True}}, "unknown key checkpoint.resumes; did you mean checkpoint.resume?"),
    ({"data_paths": "data"}, """data_paths='data': Input should be a valid list; write data_paths="[data]\""""),
    ({"data_paths": ["nowhere"]}, "no data set at nowhere: the folder does not exist; build it first"),
    ({"experiment": "demo"}, "there is no experiment=demo; did you mean demo_sudoku4? There are ablate_arc"),
    ({"lr": object()}, "is no value of a setting; give a number, a text, a list or a dict")])
def test_what_is_wrong_is_said_as_on_the_command_line(here, settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        train(**{"data_paths": ["data"]} | settings)
    assert not GlobalHydra.instance().is_initialized()


def test_evaluation_says_what_is_wrong(here):
    with pytest.raises(ValueError, match="checkpoint must be set; add checkpoint="):
        evaluate()
    with pytest.raises(ValueError, match="no checkpoint at nowhere"):
        evaluate(checkpoint="nowhere")


def test_the_examples_of_the_page_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generate_sudoku.main(["--train", "48", "--test", "16", "--output-dir", "csv"])
    build_sudoku_dataset.main(["--source-dir", "csv", "--output-dir", "data/demo-sudoku4"])
    recipe = 'experiment="demo_sudoku4"'
    text = page("docs/python.md").replace(recipe, f"{recipe}, global_batch_size=16")  # as few steps as possible
    first, second = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(first.splitlines()) <= 10
    found: dict = {}
    exec(first, found)
    assert (found["run"] / "evaluation" / "solution_steps.png").is_file() and len(list(tmp_path.glob("**/*.ckpt"))) >= 3
    assert found["scores"]["val/steps"] == 8 and found["deeper"]["val/steps"] == 32
    exec(second, found)
    assert (found["run"], found["again"]) == (Path("checkpoints/demo/slower"), Path("checkpoints/demo/slower-seed1"))
    assert found["config"].lr == PretrainConfig.of(experiment="demo_sudoku4").lr / 2
