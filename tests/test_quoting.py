"""Settings in quotes: what the shell leaves, and Hydra then reads, is the text that was meant."""
import re
import subprocess

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from helpers import pretrain_config, run_script
from utils.command_line import message_of
from utils.quoting import corrected, typed

TEXTS = ["runs/lr=1e-3", "runs/a (1)", "runs(1)", "a,b", "runs/a b", "a{b}", "it's", 'a "b" \\', "$HOME/x", "12",
         "1e-3", "true", "null", "ü/x", "[x", "a*b", "~/runs", " x", "choice(1)", "hf://owner/name@v1", ""]


def read_in_bash(setting: str):
    """What Hydra makes of the word that bash makes of it."""
    word = subprocess.run(["bash", "-c", f"printf %s {setting}"], capture_output=True, text=True, check=True).stdout
    return OverridesParser.create().parse_override(word).value()


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_comes_through_the_shell_and_hydra_as_it_is(text):
    assert read_in_bash(typed("checkpoint.path", text)) == text


def test_texts_of_a_list_do_too():
    assert read_in_bash(typed("data_paths", TEXTS[:-1])) == TEXTS[:-1]


def test_what_needs_no_quotes_has_none():
    assert typed("checkpoint.path", "checkpoints/project/run_1") == "checkpoint.path=checkpoints/project/run_1"


@pytest.mark.parametrize("word, right", [
    ("checkpoint.path=runs/lr=1e-3", "'checkpoint.path=\"runs/lr=1e-3\"'"),
    ("+run_name=a(1)", "'+run_name=\"a(1)\"'"),
    ("data_paths=[data/a=1,data/b]", "'data_paths=[\"data/a=1\",data/b]'"),
    ("lr", None), ("evaluators=[{name: a=b}]", None), ("data_paths=[data", None)])
def test_the_quoted_form_of_what_cannot_be_read(word, right):
    assert corrected(word) == right


@pytest.mark.parametrize("script, key", [("pretrain.py", "checkpoint.path"), ("evaluate.py", "checkpoint")])
def test_the_form_that_an_error_shows_works_in_bash(tmp_path, script, key):
    done = run_script(script, f"{key}=runs/lr=1e-3 (2)", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith(f"error: cannot read the setting '{key}=runs/lr=1e-3 (2)' ")
    assert read_in_bash(re.search(r"; write (.*)$", done.stderr)[1]) == "runs/lr=1e-3 (2)"


def test_several_values_where_one_is_meant_are_told_with_each_way_to_write_them():
    with pytest.raises(HydraException) as error:
        pretrain_config("checkpoint.path=a,b")
    assert message_of(error.value, "cfg_pretrain", []) == (
        "checkpoint.path=a,b is several values; for one text write 'checkpoint.path=\"a,b\"', for a list "
        "'checkpoint.path=[a,b]'; -m runs each")
