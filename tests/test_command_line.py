"""The scripts as processes: a user's error is one message and exit status 2, without a traceback."""
import re

import pytest

from helpers import TINY_ARCH, run_script, write_tiny_dataset
from utils.command_line import user_errors

QUICK = [*TINY_ARCH, "evaluators=[]", "use_wandb=false", "epochs=1", "eval_interval=1", "global_batch_size=16"]


@pytest.mark.parametrize("script, overrides, message", [
    ("pretrain.py", ["epoch=3"], "error: unknown key epoch; did you mean epochs?"),
    ("pretrain.py", ["arch.hiden_size=3"], "error: unknown key arch.hiden_size; did you mean arch.hidden_size?"),
    ("pretrain.py", ["experiment=sudoku_cpu", "arch.l_cycles=3"],
     "error: unknown key arch.l_cycles; did you mean arch.L_cycles?"),
    ("pretrain.py", ["lr=fast"], "error: lr='fast': Input should be a valid number"),
    ("pretrain.py", ["arch=trn"], r"error: there is no arch=trn; did you mean trm\? There are .*hrm, .*urm"),
    ("pretrain.py", ["experiment=sudoku"],
     r"error: there is no experiment=sudoku; did you mean \w*sudoku\w*\? There are .*arc1, .*sudoku_mlp"),
    ("pretrain.py", ["data_paths=[nowhere]"],
     "error: no data set at nowhere: the folder does not exist; build it first"),
    ("pretrain.py", ["lr="], "error: lr="),
    ("pretrain.py", ["lr", "3"], "error: cannot read the setting 'lr' .*; settings are written key=value"),
    ("pretrain.py", ["data_paths=[data", "lr=1"], "error: cannot read the setting 'data_paths=.data' "),
    ("pretrain.py", ["data_paths=data/x"], r"error: data_paths='data/x': .*; write data_paths=\"\[data/x\]\"$"),
    ("pretrain.py", ["evaluators=[sudoku@Sudoku]"],
     r"error: evaluators='sudoku@Sudoku': .*; write \{name: sudoku@Sudoku\}$"),
    ("pretrain.py", ["checkpoint.path=/proc/x", "data_paths=[data]", *QUICK],
     "(?:.*\n)?error: the run's directory /proc/x cannot be made"),
    ("pretrain.py", ["seed=${nothing}"], "error: .*nothing"),
    ("pretrain.py", ["load_checkpoint=data/train/dataset.json", "data_paths=[data]", *QUICK],
     "error: data/train/dataset.json cannot be read as a checkpoint"),
    ("evaluate.py", [], "error: checkpoint must be set; add checkpoint=… to the command line\n$"),
    ("evaluate.py", ["checkpoint=nowhere"], "error: no checkpoint at nowhere"),
    ("evaluate.py", ["checkpoints/x"], "error: checkpoints/x has no key; write checkpoint=checkpoints/x\n$"),
    ("pretrain.py", ["batch_size=3"], "error: unknown key batch_size; here it is called global_batch_size\n$"),
    ("pretrain.py", ["--lr", "3"], "error: --lr: settings are written key=value, without dashes; write lr=…\n$"),
    ("pretrain.py", ["data"], r"error: data has no key; write 'data_paths=\[data\]'\n$"),
    ("evaluate.py", ["checkpoint=nowhere", "pictures=1"], "error: unknown key pictures; did you mean picture?"),
])
def test_a_users_error_is_one_message(tmp_path, script, overrides, message):
    write_tiny_dataset(tmp_path / "data")
    done = run_script(script, *overrides, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert re.match(message, done.stderr), done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("error:") == 1 and not done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_debug_shows_the_traceback(tmp_path):
    done = run_script("pretrain.py", "data_paths=[nowhere]", "debug=True", cwd=tmp_path)
    assert done.returncode != 0 and "Traceback" in done.stderr and "no data set at nowhere" in done.stderr


def test_a_bad_array_is_one_message_under_torchrun_too(tmp_path):
    data = write_tiny_dataset(tmp_path / "data")
    (data / "test" / "all__labels.npy").unlink()
    done = run_script("pretrain.py", "data_paths=[data]", *QUICK, cwd=tmp_path, ranks=2, fresh=True)
    assert done.returncode != 0
    assert done.stderr.count("error: data/test/all__labels.npy is missing; build the data set again") == 1
    assert done.stderr.count("Traceback") <= 1 and "train_state.py" not in done.stderr  # torchrun's own


def test_a_process_that_lost_another_is_silent_where_the_reason_was_told(tmp_path, monkeypatch, capsys):
    (tmp_path / "attempt_0" / "1").mkdir(parents=True)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "attempt_0" / "1" / "error.json"))
    for error, told in ((ValueError("why"), "error: why\n"), (ValueError("why"), ""), (ConnectionError("lost"), ""),
                        (ValueError("also"), "error: also\n")):
        with pytest.raises(SystemExit), user_errors("cfg_pretrain"):
            raise error
        assert capsys.readouterr().err == told
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "elsewhere" / "1" / "error.json"))
    with pytest.raises(SystemExit), user_errors("cfg_pretrain"):
        raise ConnectionError("lost")
    assert capsys.readouterr().err == "error: lost\n"


def test_the_config_of_a_command_is_printed(tmp_path):
    done = run_script("pretrain.py", "experiment=sudoku_mlp", "+run_name=x", "--cfg", "job", cwd=tmp_path)
    assert done.returncode == 0 and not list(tmp_path.iterdir())
    for line in ("run_name: x", "lr_warmup_steps: 2000", "  mlp_t: true", "  puzzle_emb_ndim: ${.hidden_size}"):
        assert line in done.stdout.splitlines()


def test_a_multirun_makes_a_run_of_each_choice_under_a_name_of_its_own(tmp_path):
    write_tiny_dataset(tmp_path / "data")
    done = run_script("pretrain.py", "-m", "data_paths=[data]", *QUICK, "seed=1,2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    runs = list((tmp_path / "checkpoints" / "data-trm").iterdir())
    assert len(runs) == 2
    seeds = {re.search(r"^seed: (\d)$", (run / "config.yaml").read_text(), re.MULTILINE).group(1) for run in runs}
    assert seeds == {"1", "2"} and all((run / "best.ckpt").is_file() for run in runs)
    assert {path.name for path in tmp_path.iterdir()} == {"data", "checkpoints", "logs"}
