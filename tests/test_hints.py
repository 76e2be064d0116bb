"""What was meant by a command line that others read."""
import pytest

from config.schema import EvaluateConfig, PretrainConfig
from helpers import _composed, pretrain_config
from utils.command_line import flat_keys, unknown_key
from utils.hints import OTHER_NAMES, meant_by_word, refuse_words_without_key

KNOWN = {name: flat_keys(_composed(name, ())) for name in ("cfg_pretrain", "cfg_evaluate")}


@pytest.mark.parametrize("key, here", [
    ("batch_size", "global_batch_size"), ("learning_rate", "lr"), ("num_epochs", "epochs"),
    ("output_dir", "checkpoint.path"), ("max_epochs", "epochs"), ("arch.d_model", "arch.hidden_size"),
    ("warmup_steps", "lr_warmup_steps"), ("use_ema", "ema"), ("weights", "load_checkpoint")])
def test_a_name_of_elsewhere_is_told_as_it_is_called_here(key, here):
    assert unknown_key(key, KNOWN["cfg_pretrain"]) == f"unknown key {key}; here it is called {here}"
    with pytest.raises(ValueError, match=f"unknown key {key}; here it is called {here}"):
        pretrain_config(f"+{key}=1")


def test_resume_is_found_and_max_steps_is_a_setting():
    assert "checkpoint.resume" in unknown_key("resume", KNOWN["cfg_pretrain"])
    assert pretrain_config("max_steps=3", "max_minutes=0.5").max_steps == 3


@pytest.mark.parametrize("key, here", [("batch_size", "global_batch_size"), ("ckpt", "checkpoint"), ("ema", "use_ema"),
                                       ("save_dir", "output_dir"), ("data", "data_paths")])
def test_evaluate_knows_its_own(key, here):
    assert unknown_key(key, KNOWN["cfg_evaluate"]) == f"unknown key {key}; here it is called {here}"


def test_every_hint_leads_to_a_setting_and_no_setting_is_taken_for_another():
    settings = {*PretrainConfig.model_fields, *EvaluateConfig.model_fields, *KNOWN["cfg_pretrain"]}
    assert OTHER_NAMES.keys() - {"early_stop_patience"} <= settings
    for name in OTHER_NAMES:
        for known in KNOWN.values():
            assert name in known or unknown_key(name, known)  # what is known is never asked for


@pytest.mark.parametrize("word, config_name, meant", [
    ("checkpoints/x", "cfg_evaluate", "checkpoint=checkpoints/x"), ("maze", "cfg_pretrain", "experiment=maze"),
    ("run", "cfg_pretrain", "checkpoint.path=run checkpoint.resume=true"),
    ("data", "cfg_pretrain", "'data_paths=[data]'"), ("nothing", "cfg_pretrain", None)])
def test_a_word_alone_is_told_its_key(tmp_path, monkeypatch, word, config_name, meant):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "train").mkdir(parents=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    assert meant_by_word(word, config_name) == meant


def test_dashes_and_paths_with_an_equals_sign_are_told_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=1").mkdir()
    with pytest.raises(ValueError, match="^--lr: settings are written key=value, without dashes; write lr=…"):
        refuse_words_without_key(["--lr", "3"], "cfg_pretrain")
    with pytest.raises(ValueError, match="write batch_size=3"):
        refuse_words_without_key(["--batch-size=3"], "cfg_pretrain")
    with pytest.raises(ValueError, match="lr=1 has no key; write .*checkpoint=.*lr=1"):
        refuse_words_without_key(["lr=1"], "cfg_evaluate")
    refuse_words_without_key(["--cfg", "job", "-m", "lr=2", "--help"], "cfg_pretrain")
