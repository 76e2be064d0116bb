"""What a run tells: the terminal, the text log, metrics.jsonl, and real offline Weights & Biases runs read back."""
import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from wandb.proto import wandb_internal_pb2

from helpers import ROOT, TINY_ARCH, is_picture, metric_lines, run_script, write_tiny_dataset
from utils.checkpoint import read_checkpoint
from utils.run_log import append_lines, unique_run_name

RUN = [*TINY_ARCH, "data_paths=[data]", "epochs=2", "eval_interval=1", "global_batch_size=16", "log_interval=3",
       "checkpoint.path=run", "lr_warmup_steps=0", "run_name=name", "project_name=project", "evaluators=[]"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two runs: `text`, of two processes, which logs to a file, and `wandb`, offline for want of an account."""
    folder = tmp_path_factory.mktemp("logs")
    for name, overrides, ranks in (("text", ["use_wandb=False"], 2), ("wandb", [], 1)):
        write_tiny_dataset(folder / name / "data")
        environment = {"WANDB_MODE": None, "WANDB_API_KEY": None, "HOME": str(folder), "NETRC": str(folder / "none"),
                       "OMP_NUM_THREADS": "1"}
        done = run_script("pretrain.py", *RUN, *overrides, cwd=folder / name, ranks=ranks, **environment)
        assert done.returncode == 0, done.stderr
        (folder / name / "stdout").write_text(done.stdout)
        (folder / name / "stderr").write_text(done.stderr)
    return folder


def text_log(folder: Path) -> list[str]:
    """Its lines, without the run's name, in which each ends."""
    lines = (folder / "text" / "logs" / "pretrain.log").read_text().splitlines()
    assert lines and all(line.endswith(" run=project/name") for line in lines)
    return [line.removesuffix(" run=project/name") for line in lines]


def test_the_text_log_holds_what_metrics_jsonl_holds(folder):
    logged = [dict(pair.split("=") for pair in line.split()) for line in text_log(folder) if line.startswith("step=")]
    lines = metric_lines(folder / "text" / "run", timed=True)
    assert len(logged) == len(lines) == 5  # steps 3, 6, 8, and evaluations at 4 and 8
    for a, b in zip(logged, lines):
        assert {name: float(value) for name, value in a.items()} == pytest.approx(b, rel=1e-5)


def test_each_line_of_metrics_has_its_time_and_training_the_norm_of_its_gradient(folder):
    lines = metric_lines(folder / "text" / "run", timed=True)
    times = [line["time"] for line in lines]
    assert times == sorted(times) and time.time() - 3600 < times[0] and times[-1] <= time.time()
    norms = [line["train/grad_norm"] for line in lines if "train/loss" in line]
    assert len(norms) == 3 and all(0.01 < norm < 100 for norm in norms)
    assert not [name for line in lines for name in line if name.startswith("val/all/")]  # there is one set


def test_epoch_summaries_are_lines_with_both_losses(folder):
    summaries = re.findall(r"^EPOCH_SUMMARY epoch=(\d+) train_loss=(\d+\.\d+) val_loss=(\d+\.\d+)$",
                           "\n".join(text_log(folder)), re.MULTILINE)
    lines = metric_lines(folder / "text" / "run")
    assert [(int(epoch), float(val)) for epoch, _, val in summaries] == [
        (line["epoch"], pytest.approx(line["val/loss"], abs=1e-6)) for line in lines if "val/loss" in line]
    losses = {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}
    # 4 steps an epoch, logged as means of steps 1-3, 4-6, 7-8; the second epoch is steps 5 to 8
    first, second = (float(train) for _, train, _ in summaries)
    assert 4 * (first + second) == pytest.approx(3 * losses[3] + 3 * losses[6] + 2 * losses[8], rel=1e-4)


@pytest.mark.parametrize("name", ["text", "wandb"])
def test_where_there_is_no_terminal_short_timed_lines_tell_the_progress_and_no_bar(folder, name):
    """Once, although `text` has two processes."""
    out, err = ((folder / name / stream).read_text() for stream in ("stdout", "stderr"))
    assert "\r" not in out + err and "it/s" not in err and "|" not in err
    steps = re.findall(r"^\d\d:\d\d:\d\d step (\d)/8 epoch \d: loss [\d.]+(?:, exact_accuracy [\d.]+)?, gradient norm "
                       r"[\d.]+, [\d.e-]+ s a step, [\d.]+ m?s left$", out, re.MULTILINE)
    assert steps == ["3", "6", "8"]
    evaluations = re.findall(r"^\d\d:\d\d:\d\d step (\d)/8 epoch \d: val/loss [\d.]+, val/accuracy [\d.]+, "
                             r"val/exact_accuracy [\d.]+$", out, re.MULTILINE)
    assert evaluations == ["4", "8"]
    assert max(map(len, out.splitlines())) < 160
    for line in text_log(folder) if name == "text" else ():
        assert out.splitlines().count(line) == (not line.startswith("step="))
    assert (folder / name / "run" / "wandb").exists() == (name == "wandb")


def test_a_terminal_has_the_bar_and_a_line_only_for_evaluations(tmp_path):
    code = (f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom pathlib import Path\n"
            "from utils.run_log import LogConfig, RunLog\n"
            "config = LogConfig(use_wandb=False, project_name='p', run_name='r', log_interval=1, log_dir='logs', "
            "log_file='x')\n"
            "log = RunLog(config, Path('.'), {}, {'network': 1, 'puzzle_embedding': 0}, 2)\n"
            "for step in (1, 2): log.advance(0.5); log.log(step, 0, {'train/loss': 1.5})\n"
            "log.log(2, 0, {'val/loss': 2.5}); log.bar.refresh(); log.close_bar()")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))  # lines and columns
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            if not (part := os.read(ours, 2**16)):
                break
        except OSError:  # how Linux says that the other end is closed
            break
        shown += part
    assert process.wait(60) == 0, shown.decode()
    text = shown.decode().replace("\r", "\n")
    assert re.search(r"2/2 \[.*step.*loss=1.500", text) and "step 1/2" not in text
    assert "step 2/2 epoch 0: val/loss 2.5" in text


def test_the_start_says_what_will_happen(folder):
    """Of two processes, and of one; the environment of tests sets one thread."""
    first, computing, steps, evaluations, *_ = text_log(folder)
    network, table = re.fullmatch(r"run project / name: ([\d,]+) parameters in the network, ([\d,]+) in the puzzle "
                                  r"embedding; directory run", first).groups()
    assert int(table.replace(",", "")) == 65 * 16 and int(network.replace(",", "")) > 1000
    assert computing == ("computing on cpu in float32, 1 CPU thread (by OMP_NUM_THREADS), 2 processes of 8 examples a "
                         "step each")
    assert steps == "64 examples an epoch, 2 epochs, 16 examples a step: 8 steps"
    assert evaluations == "evaluations on 10 examples after step 4, every 4 steps from there, and at the end: 2"
    alone = (folder / "wandb" / "stdout").read_text()
    assert "computing on cpu in float32, 1 CPU thread (by OMP_NUM_THREADS)\n" in alone
    assert re.search(r"^the first step took [\d.]+ s; at that pace the 7 left take ", alone, re.MULTILINE)


def wandb_records(folder: Path, run_id: str = "*") -> list:
    """The records of an offline run's file: a LevelDB log (blocks of 32 KiB; crc, length, type, part of a record)
    behind a header of 7 bytes."""
    file, = (folder / "run" / "wandb").glob(f"offline-run-*/run-{run_id}.wandb")
    data, place, records, parts = file.read_bytes(), 7, [], b""
    while place < len(data):
        left_in_block = 2**15 - place % 2**15
        if left_in_block < 7:
            place += left_in_block
            continue
        _, length, kind = struct.unpack("<IHB", data[place:place + 7])
        parts += data[place + 7:place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            records.append(wandb_internal_pb2.Record.FromString(parts))
            parts = b""
    return records


def test_without_an_account_wandb_goes_offline_and_says_so_in_one_line(folder):
    out = (folder / "wandb" / "stdout").read_text()
    notices = [line for line in out.splitlines() if "Weights & Biases" in line]
    assert notices == ["Weights & Biases: no credentials (`wandb login`); logging offline to run/wandb, for `wandb "
                       "sync` later"]
    assert not (folder / "wandb" / "logs").exists()


def assert_points(records: list, lines: list[dict]) -> None:
    """A W&B run has exactly the points of these lines of metrics.jsonl."""
    history = []
    for record in records:
        if record.HasField("history"):
            items = record.history.item
            history.append({(item.key or item.nested_key[0]): json.loads(item.value_json) for item in items})
    assert {row["_step"] for row in history} == {line["step"] for line in lines}
    for line in lines:
        metrics = {name: value for name, value in line.items() if name != "step"}
        row, = (row for row in history if row["_step"] == line["step"] and metrics.keys() <= row.keys())
        assert all(row[name] == pytest.approx(value) for name, value in metrics.items())


def test_an_offline_run_holds_names_config_parameters_history_and_code(folder):
    records = wandb_records(folder / "wandb")
    run, = (record.run for record in records if record.HasField("run"))
    assert (run.project, run.display_name) == ("project", "name")
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["global_batch_size"] == 16 and config["arch"]["hidden_size"] == 16
    assert_points(records, metric_lines(folder / "wandb" / "run"))
    summary = {}
    for record in records:
        if record.HasField("summary"):
            summary |= {(i.key or i.nested_key[0]): json.loads(i.value_json) for i in record.summary.update}
    assert summary["parameters/puzzle_embedding"] == 65 * 16 and summary["parameters/network"] > 1000
    code, = (record.artifact for record in records if record.HasField("artifact"))
    scripts = {"pretrain.py", "evaluate.py"}
    folders = ("config", "dataset", "evaluators", "losses", "models", "utils")
    sources = {path.relative_to(ROOT).as_posix() for folder in folders for suffix in ("py", "yaml")
               for path in (ROOT / folder).rglob(f"*.{suffix}")}
    assert code.type == "code" and {entry.path for entry in code.manifest.contents} == sources | scripts


def test_each_evaluation_of_an_offline_run_has_a_picture_of_a_puzzle_being_solved(folder):
    shown = {}
    for record in wandb_records(folder / "wandb"):
        items = {tuple(i.nested_key) or (i.key,): json.loads(i.value_json) for i in record.history.item}
        if any(key[0] == "val/first_example" for key in items):
            shown[items["_step",]] = {key[-1]: value for key, value in items.items() if len(key) == 2}
    assert list(shown) == [4, 8] and all(picture["_type"] == "image-file" for picture in shown.values())
    media, = (folder / "wandb" / "run" / "wandb").glob("offline-run-*/files")
    assert all(is_picture(media / picture["path"]) for picture in shown.values())
    assert shown[4]["sha256"] != shown[8]["sha256"]  # the model has learned something between
    assert not list((folder / "text" / "run").rglob("solution_steps.png"))


def test_names_are_readable_and_unique():
    names = [unique_run_name("trm") for _ in range(50)]
    assert len(set(names)) == 50 and all(re.fullmatch(r"trm-\d{8}-\d{6}-[0-9a-f]{8}", name) for name in names)


def test_a_run_that_goes_on_keeps_its_id(folder, tmp_path):
    copy = shutil.copytree(folder / "wandb", tmp_path / "copy", symlinks=True)
    done = run_script("pretrain.py", "checkpoint.path=run", "checkpoint.resume=true", "epochs=3", cwd=copy)
    assert done.returncode == 0, done.stderr
    files = list((copy / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2 and {file.name for file in files} == {
        f"run-{(copy / 'run' / 'wandb_run_id.txt').read_text().strip()}.wandb"}


def test_a_run_that_goes_back_is_a_new_one_linked_to_the_old_and_no_point_is_lost(folder, tmp_path):
    """W&B takes no step twice: under the old id, the points after step 4 would be dropped."""
    copy = shutil.copytree(folder / "wandb", tmp_path / "copy", symlinks=True)
    old_id, old_lines = (copy / "run" / "wandb_run_id.txt").read_text().strip(), metric_lines(copy / "run")
    done = run_script("pretrain.py", "checkpoint.path=run", "checkpoint.resume_from=step_00000004.ckpt", "lr=3e-3",
                      cwd=copy)
    assert done.returncode == 0, done.stderr
    new_id = (copy / "run" / "wandb_run_id.txt").read_text().strip()
    assert new_id != old_id == (copy / "run" / "superseded" / "1" / "wandb_run_id.txt").read_text().strip()
    assert (f"Weights & Biases: a new run, {new_id}, since it goes back to step 4 of run {old_id}, which keeps its "
            "points") in done.stdout
    assert_points(wandb_records(copy, old_id), old_lines)
    records = wandb_records(copy, new_id)
    assert_points(records, [line for line in metric_lines(copy / "run") if line["step"] > 4])
    run, = (record.run for record in records if record.HasField("run"))
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["goes_on_from"] == {"run": old_id, "step": 4} and config["lr"] == 3e-3
    assert run.notes == f"goes on from step 4 of run {old_id}" and old_id in "".join(run.tags)
    assert {line["step"] for line in metric_lines(copy / "run")} == {line["step"] for line in old_lines}
    assert read_checkpoint(copy / "run" / "step_00000008.ckpt")["step"] == 8


def test_lines_that_found_the_disk_full_are_written_whole_later(tmp_path, limited_file_size):
    file = tmp_path / "metrics.jsonl"
    append_lines(file, ["first\n"])
    with limited_file_size(10), pytest.raises(OSError):
        append_lines(file, ["second\n", "third\n"])
    assert file.read_text() == "first\n"
    append_lines(file, ["second\n", "third\n"])
    assert file.read_text() == "first\nsecond\nthird\n"
