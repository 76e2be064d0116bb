"""What a run tells: the text log, metrics.jsonl, and a real offline Weights & Biases run read back."""
import json
import re
import shutil
import struct
from pathlib import Path

import pytest
from wandb.proto import wandb_internal_pb2

from helpers import ROOT, TINY_ARCH, metric_lines, run_script, write_tiny_dataset
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


def test_the_text_log_holds_what_metrics_jsonl_holds(folder):
    text = (folder / "text" / "logs" / "pretrain.log").read_text().splitlines()
    logged = [dict(pair.split("=") for pair in line.split()) for line in text if line.startswith("step=")]
    lines = metric_lines(folder / "text" / "run")
    assert len(logged) == len(lines) == 5  # steps 3, 6, 8, and evaluations at 4 and 8
    for a, b in zip(logged, lines):
        assert {name: float(value) for name, value in a.items()} == pytest.approx(b, rel=1e-5)


def test_epoch_summaries_are_lines_with_both_losses(folder):
    text = (folder / "text" / "logs" / "pretrain.log").read_text()
    summaries = re.findall(r"^EPOCH_SUMMARY epoch=(\d+) train_loss=(\d+\.\d+) val_loss=(\d+\.\d+)$", text, re.MULTILINE)
    lines = metric_lines(folder / "text" / "run")
    assert [(int(epoch), float(val)) for epoch, _, val in summaries] == [
        (line["epoch"], pytest.approx(line["val/loss"], abs=1e-6)) for line in lines if "val/loss" in line]
    losses = {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}
    # 4 steps an epoch, logged as means of steps 1-3, 4-6, 7-8; the second epoch is steps 5 to 8
    first, second = (float(train) for _, train, _ in summaries)
    assert 4 * (first + second) == pytest.approx(3 * losses[3] + 3 * losses[6] + 2 * losses[8], rel=1e-4)


def test_what_is_logged_is_on_the_terminal_once_although_there_are_two_processes(folder):
    out = (folder / "text" / "stdout").read_text()
    for line in (folder / "text" / "logs" / "pretrain.log").read_text().splitlines():
        assert out.count(line) == 1
    bars = re.findall(r"8/8 \[", (folder / "text" / "stderr").read_text())
    assert bars
    assert not (folder / "text" / "run" / "wandb").exists()


def test_the_first_line_counts_network_and_table_apart(folder):
    first = (folder / "text" / "logs" / "pretrain.log").read_text().splitlines()[0]
    network, table = re.fullmatch(r"run project / name: ([\d,]+) parameters in the network, ([\d,]+) in the puzzle "
                                  r"embedding; directory run", first).groups()
    assert int(table.replace(",", "")) == 65 * 16 and int(network.replace(",", "")) > 1000


def wandb_records(folder: Path) -> list:
    """The records of the offline run's file: a LevelDB log (blocks of 32 KiB; crc, length, type, part of a record)
    behind a header of 7 bytes."""
    file, = (folder / "wandb" / "run" / "wandb").glob("offline-run-*/run-*.wandb")
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


def test_an_offline_run_holds_names_config_parameters_history_and_code(folder):
    records = wandb_records(folder)
    run, = (record.run for record in records if record.HasField("run"))
    assert (run.project, run.display_name) == ("project", "name")
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["global_batch_size"] == 16 and config["arch"]["hidden_size"] == 16
    history = []
    for record in records:
        if record.HasField("history"):
            items = record.history.item
            history.append({(item.key or item.nested_key[0]): json.loads(item.value_json) for item in items})
    for line in metric_lines(folder / "wandb" / "run"):
        row, = (row for row in history if row["_step"] == line["step"] and line.keys() - {"step"} <= row.keys())
        assert all(row[name] == pytest.approx(value) for name, value in line.items() if name != "step")
    summary = {}
    for record in records:
        if record.HasField("summary"):
            summary |= {(i.key or i.nested_key[0]): json.loads(i.value_json) for i in record.summary.update}
    assert summary["parameters/puzzle_embedding"] == 65 * 16 and summary["parameters/network"] > 1000
    code, = (record.artifact for record in records if record.HasField("artifact"))
    scripts = {"train_state.py", "pretrain.py", "evaluate.py"}
    folders = ("config", "dataset", "evaluators", "losses", "models", "utils")
    sources = {path.relative_to(ROOT).as_posix() for folder in folders for suffix in ("py", "yaml")
               for path in (ROOT / folder).rglob(f"*.{suffix}")}
    assert code.type == "code" and {entry.path for entry in code.manifest.contents} == sources | scripts


def test_names_are_readable_and_unique():
    names = [unique_run_name("trm") for _ in range(50)]
    assert len(set(names)) == 50 and all(re.fullmatch(r"trm-\d{8}-\d{6}-[0-9a-f]{4}", name) for name in names)


def test_a_run_that_goes_on_keeps_its_id(folder, tmp_path):
    copy = shutil.copytree(folder / "wandb", tmp_path / "copy", symlinks=True)
    done = run_script("pretrain.py", "checkpoint.path=run", "checkpoint.resume=true", "epochs=3", cwd=copy)
    assert done.returncode == 0, done.stderr
    files = list((copy / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2 and {file.name for file in files} == {
        f"run-{(copy / 'run' / 'wandb_run_id.txt').read_text().strip()}.wandb"}


def test_lines_that_found_the_disk_full_are_written_whole_later(tmp_path, limited_file_size):
    file = tmp_path / "metrics.jsonl"
    append_lines(file, ["first\n"])
    with limited_file_size(10), pytest.raises(OSError):
        append_lines(file, ["second\n", "third\n"])
    assert file.read_text() == "first\n"
    append_lines(file, ["second\n", "third\n"])
    assert file.read_text() == "first\nsecond\nthird\n"
