"""Faults, each in real processes: what docs/durability.md promises."""
import random
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import torch

from faulty_pretrain import set_read_only
from helpers import (
    assert_equal,
    assert_same_run,
    free_port,
    metric_lines,
    run_script,
    start_script,
    wait_for,
    write_tiny_dataset,
)
from test_resume import RUN
from utils.checkpoint import read_checkpoint
from utils.preemption import AT_LIMIT, GAVE_UP, STOPPED

SCRIPT = "tests/faulty_pretrain.py"
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@pytest.fixture
def folder(tmp_path) -> Path:
    write_tiny_dataset(tmp_path / "data")
    return tmp_path


def words(path: str, *overrides: str) -> list[str]:
    return ["data_paths=[data]", *RUN, f"checkpoint.path={path}", *overrides]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """The run of two processes to which nothing happened."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_tiny_dataset(folder / "data")
    return finished(folder, "whole", ranks=2)


def finished(folder: Path, path: str, *overrides: str, ranks: int = 1, **faults: str) -> Path:
    done = run_script(SCRIPT, *words(path, *overrides), cwd=folder, ranks=ranks, **ONE_THREAD, **faults)
    assert done.returncode == 0, done.stderr
    return folder / path


def steps_logged(run: Path) -> int:
    return len((run / "metrics.jsonl").read_text().splitlines()) if (run / "metrics.jsonl").exists() else 0


@pytest.mark.parametrize("kills, epochs", [(2, 12), pytest.param(20, 150, marks=pytest.mark.long)])
def test_a_run_killed_again_and_again_ends_as_if_undisturbed(folder, kills, epochs):
    """Kills come at random, in steps, evaluations and half-written checkpoints, of which there are five a second."""
    longer = [f"epochs={epochs}", "eval_interval=10", "checkpoint.every_minutes=0.003", "checkpoint.keep_last=3"]
    whole = finished(folder, "whole", *longer)
    chance, run = random.Random(kills), folder / "killed"
    faults = {"FAULT_SLOW_DISK": "0.1", "FAULT_SLOW_STEP": "0.02"}
    for _ in range(kills):
        before = steps_logged(run)
        process = start_script(SCRIPT, *words("killed", *longer, "checkpoint.resume=auto"), cwd=folder, **ONE_THREAD,
                               **faults)
        wait_for(lambda before=before: steps_logged(run) > before
                 or "going on" in (folder / "stdout").read_text(), process)
        time.sleep(chance.uniform(0, 1.0))
        process.kill()
        process.wait()
        for file in run.glob("*.ckpt"):
            read_checkpoint(file)  # what has a checkpoint's name is whole
    assert_same_run(whole, finished(folder, "killed", *longer, "checkpoint.resume=auto"))
    assert steps_logged(run) == steps_logged(whole)


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_torchrun_hands_a_signal_on_and_all_ranks_save_and_end(folder, undisturbed, number):
    process = start_script(SCRIPT, *words("run", "log_interval=1"), cwd=folder, ranks=2, **ONE_THREAD,
                           FAULT_SLOW_STEP="0.3")
    wait_for(lambda: steps_logged(folder / "run") >= 3, process)
    process.send_signal(number)
    process.wait(60)
    assert process.returncode != 0
    assert re.search(r"stopped after step (\d+) of 16; go on with", (folder / "stderr").read_text())
    run = finished(folder, "run", "checkpoint.resume=true", "log_interval=1", ranks=2)
    assert_equal(*(read_checkpoint(r / "step_00000016.ckpt")["model_state"] for r in (undisturbed, run)))


def test_a_signal_ends_with_the_documented_status(folder):
    done = run_script(SCRIPT, *words("run"), cwd=folder, FAULT_SIGNAL="TERM:7", **ONE_THREAD)
    assert done.returncode == STOPPED == 75
    assert "stopped after step 7 of 16; go on with checkpoint.path=run checkpoint.resume=true" in done.stderr
    assert "Traceback" not in done.stderr and read_checkpoint(folder / "run" / "step_00000007.ckpt")["step"] == 7


def test_a_limit_ends_a_run_as_a_stop_does_with_a_status_of_its_own(folder):
    """Stopped after step 7 and, by the clock, at once, it goes on to where it would have been; a limit is not kept."""
    whole = finished(folder, "whole")
    for limit, step in (("max_steps=7", 7), ("max_steps=7", 7), ("max_minutes=1e-9", 7)):
        done = run_script(SCRIPT, *words("run", limit, "checkpoint.resume=auto"), cwd=folder, **ONE_THREAD)
        assert done.returncode == AT_LIMIT == 77, done.stderr
        assert f"stopped after step {step} of 16; go on with checkpoint.path=run checkpoint.resume=true" in done.stderr
        assert f"{limit} ends the run before that, saved, to go on later" in done.stdout.replace("e-09", "e-9")
        assert "Traceback" not in done.stderr and read_checkpoint(folder / "run" / "step_00000007.ckpt")["step"] == 7
    assert_same_run(whole, finished(folder, "run", "checkpoint.resume=true"))


def test_torchrun_does_not_take_a_limit_for_a_failure_and_a_multirun_goes_on_to_the_next(folder):
    done = run_script(SCRIPT, *words("run", "max_steps=7", "checkpoint.resume=auto"), cwd=folder, ranks=2,
                      torchrun=["--max-restarts=2", "--rdzv_endpoint=localhost:0", "--nnodes=1"], **ONE_THREAD)
    assert done.returncode == 0 and done.stderr.count("stopped after step 7 of 16") == 1, done.stderr
    done = run_script(SCRIPT, "-m", *words("'run-${seed}'", "max_steps=2", "seed=1,2"), cwd=folder, **ONE_THREAD)
    assert done.returncode == 0 and done.stderr.count("stopped after step 2 of 16") == 2, done.stderr
    assert all((folder / f"run-{seed}" / "step_00000002.ckpt").is_file() for seed in (1, 2))


def test_a_stop_that_cannot_be_saved_says_so(folder):
    done = run_script(SCRIPT, *words("run"), cwd=folder, FAULT_SIGNAL="TERM:7", FAULT_FULL_DISK="7:7", **ONE_THREAD)
    assert done.returncode == GAVE_UP and "stopped after step 7 of 16; it is not saved" in done.stderr
    assert {file.name for file in (folder / "run").glob("step_*")} == {"step_00000005.ckpt"}


def test_a_run_whose_last_checkpoint_finds_the_disk_full_does_not_end_well(folder):
    done = run_script(SCRIPT, *words("run"), cwd=folder, FAULT_FULL_DISK="16:16", **ONE_THREAD)
    assert done.returncode == 2, done.stderr
    assert "error: step_00000016.ckpt was not written to run" in done.stderr
    assert "going on from step 10" in run_script(SCRIPT, *words("run", "checkpoint.resume=auto"), cwd=folder,
                                                 **ONE_THREAD).stdout


def test_a_step_that_outlasts_the_grace_is_given_up_and_the_last_checkpoint_is_unharmed(folder):
    process = start_script(SCRIPT, *words("run", "preempt_grace_s=1"), cwd=folder, **ONE_THREAD, FAULT_SLOW_STEP="1.6")
    wait_for((folder / "run" / "latest.txt").exists, process)
    newest = folder / "run" / "step_00000005.ckpt"
    contents = newest.read_bytes()
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == GAVE_UP == 76
    assert newest.read_bytes() == contents and read_checkpoint(newest)["step"] == 5
    assert len(list((folder / "run").glob("*.ckpt"))) == 2  # and best.ckpt


@pytest.mark.parametrize("fault", ["FULL_DISK", "READ_ONLY"])
def test_a_disk_that_takes_nothing_is_said_and_costs_no_step(folder, undisturbed, fault):
    if fault == "READ_ONLY" and not can_be_read_only(folder):
        pytest.skip("this file system knows no directory that root cannot write to")
    done = run_script(SCRIPT, *words("run"), cwd=folder, **ONE_THREAD, **{f"FAULT_{fault}": "4:6"})
    assert done.returncode == 0, done.stderr
    assert "warning: the checkpoint could not be written to run" in done.stdout and "training goes on" in done.stdout
    files = {file.name for file in (folder / "run").glob("step_*")}
    assert files == {"step_00000010.ckpt", "step_00000016.ckpt"}
    assert not list((folder / "run").glob("*.tmp"))
    a, b = (read_checkpoint(r / "step_00000016.ckpt")["model_state"] for r in (undisturbed, folder / "run"))
    assert all(torch.allclose(value, b[name], atol=1e-4) for name, value in a.items())  # 2 processes, and 1


def can_be_read_only(folder: Path) -> bool:
    (folder / "trial").mkdir()
    try:
        set_read_only(folder / "trial", True)
        set_read_only(folder / "trial", False)
    except (subprocess.CalledProcessError, FileNotFoundError):
        return False
    return True


@pytest.mark.long
def test_where_one_process_dies_all_end_within_a_minute_with_the_reason(folder):
    process = start_script(SCRIPT, *words("run"), cwd=folder, ranks=2, **ONE_THREAD, FAULT_KILL="1:7")
    wait_for((folder / "killed").exists, process)
    assert process.wait(60) != 0
    assert "exitcode  : -9" in (folder / "stderr").read_text()  # torchrun names the rank


def test_torchrun_takes_a_run_up_again_where_one_process_dies(folder, undisturbed):
    done = run_script(SCRIPT, *words("run", "checkpoint.resume=auto"), cwd=folder, ranks=2,
                      torchrun=["--max-restarts=2", "--rdzv_endpoint=localhost:0", "--nnodes=1"], **ONE_THREAD,
                      FAULT_KILL="1:7")
    assert done.returncode == 0, done.stderr
    assert "going on from step 5" in done.stdout and (folder / "killed").exists()
    assert "has lost another process of the run" in done.stderr or "SIGTERM" in done.stderr
    assert_same_run(undisturbed, folder / "run")


@pytest.mark.long
def test_a_second_run_in_the_same_directory_is_refused(folder):
    first = start_script(SCRIPT, *words("run"), cwd=folder, **ONE_THREAD, FAULT_SLOW_STEP="4")
    wait_for((folder / "run" / "config.yaml").exists, first)
    for how in ("checkpoint.resume=auto", "checkpoint.overwrite=true"):
        second = run_script(SCRIPT, *words("run", how), cwd=folder, **ONE_THREAD)
        assert second.returncode == 2
        assert f"error: run is in use by process {first.pid} on {socket.gethostname()}" in second.stderr
    first.send_signal(signal.SIGTERM)
    assert first.wait(60) == STOPPED


@pytest.mark.long
def test_a_loss_that_is_not_finite_ends_the_run_with_the_good_state_saved(folder):
    """On one rank of two, so that both must agree; going on with `skip` gets past it."""
    done = run_script(SCRIPT, *words("run"), cwd=folder, ranks=2, FAULT_NAN="7", **ONE_THREAD)
    assert done.returncode != 0
    message = re.search(r"error: step 7: the loss or its gradient is not finite \(epoch 2, the 24 examples from number "
                        r"16 of its stream on\); the state before it is saved in run; .*on_nonfinite=skip", done.stderr)
    assert message, done.stderr
    good = read_checkpoint(folder / "run" / "step_00000006.ckpt")
    assert all(value.isfinite().all() for value in good["model_state"].values())
    assert good["data_position"] == {"epoch": 2, "offset": 16}
    run = finished(folder, "run", "checkpoint.resume=true", "on_nonfinite=skip", ranks=2, FAULT_NAN="7")
    assert metric_lines(run)[-1]["step"] == 16


def test_batches_that_are_not_finite_are_left_out_but_not_for_ever(folder):
    done = run_script(SCRIPT, *words("run", "on_nonfinite=skip"), cwd=folder, FAULT_NAN="3,4,9", **ONE_THREAD)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"warning: step (\d+): the loss or its gradient is not finite", done.stdout) == ["3", "4", "9"]
    last = read_checkpoint(folder / "run" / "step_00000016.ckpt")
    assert all(torch.isfinite(value).all() for value in last["model_state"].values())
    done = run_script(SCRIPT, *words("other", "on_nonfinite=skip"), cwd=folder, **ONE_THREAD,
                      FAULT_NAN=",".join(map(str, range(2, 17))))
    assert done.returncode == 2 and "nor were the 10 steps before it" in done.stderr


@pytest.mark.parametrize("fault", [{"FAULT_SIGNAL": "TERM:7"}, {"FAULT_SIGNAL": "TERM:8"}, {"FAULT_KILL": "0:8"}])
def test_an_end_before_it_is_known_that_a_step_was_not_finite_costs_nothing(folder, fault):
    """Step 7 is not finite, which is read in step 8. A signal before or after that, or a kill, and the run goes on."""
    whole = finished(folder, "whole", "on_nonfinite=skip", FAULT_NAN="7")
    done = run_script(SCRIPT, *words("ended", "on_nonfinite=skip"), cwd=folder, FAULT_NAN="7", **fault, **ONE_THREAD)
    assert done.returncode == (STOPPED if "FAULT_SIGNAL" in fault else -9)
    if "FAULT_SIGNAL" in fault:
        saved = read_checkpoint(folder / "ended" / "step_00000007.ckpt")
        assert saved["skipped"] == 1 and saved["carry"]["halted"].all()
    assert_same_run(whole, finished(folder, "ended", "checkpoint.resume=true", FAULT_NAN="7"))


@pytest.mark.long
def test_two_agents_on_one_machine_train_as_one_run(folder, undisturbed):
    """As two machines would be started (docs/durability.md), with one process each."""
    (folder / "second").mkdir()
    (folder / "second" / "data").symlink_to(folder / "data")
    options = ["--nnodes=2", f"--rdzv_endpoint=localhost:{free_port()}", "--rdzv_id=test", "--local-addr=127.0.0.1"]
    agents = [start_script(SCRIPT, *words(str(folder / "run")), cwd=where, torchrun=options, **ONE_THREAD)
              for where in (folder, folder / "second")]
    assert [agent.wait(200) for agent in agents] == [0, 0], (folder / "stderr").read_text()
    assert_same_run(undisturbed, folder / "run")
