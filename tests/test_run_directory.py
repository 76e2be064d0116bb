"""One run at a time in a directory, and nothing in it is lost."""
import math
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import ROOT
from utils.run_directory import adopt, claimed, evaluations, restored_best, set_aside_after, set_aside_run


def test_a_run_is_set_aside_only_when_asked_and_never_lost(tmp_path):
    directory = tmp_path / "run"
    for text in ("first", "second"):
        directory.mkdir(exist_ok=True)
        set_aside_run(directory, overwrite=False)  # holds no run yet
        (directory / "metrics.jsonl").write_text(text)
        with pytest.raises(ValueError, match="holds a run already; .*resume=true.*checkpoint.overwrite=true"):
            set_aside_run(directory, overwrite=False)
        set_aside_run(directory, overwrite=True)
        assert not list(directory.iterdir())
    assert [(tmp_path / f"run.old{n}" / "metrics.jsonl").read_text() for n in (1, 2)] == ["first", "second"]


def test_a_directory_is_held_until_its_process_ends_however_it_ends(tmp_path):
    code = (f"import sys, time; sys.path.insert(0, {str(ROOT)!r}); from pathlib import Path\n"
            "from utils.run_directory import claimed\n"
            f"with claimed(Path({str(tmp_path)!r})):\n    print('held', flush=True); time.sleep(60)")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        in_use = f"{tmp_path} is in use by process {holder.pid} on .*choose another"
        with pytest.raises(ValueError, match=in_use), claimed(tmp_path):
            pass
        holder.kill()
    with claimed(tmp_path):
        assert str(holder.pid) not in (tmp_path / ".lock").read_text()
    with claimed(tmp_path):  # left in peace, it is free at once
        pass


def test_what_a_killed_write_left_is_cleared_away(tmp_path):
    (tmp_path / ".step_00000003.ckpt.tmp").write_bytes(b"half")
    (tmp_path / "step_00000002.ckpt").write_bytes(b"whole")
    with claimed(tmp_path):
        assert {file.name for file in tmp_path.iterdir()} == {".lock", "step_00000002.ckpt"}


def test_later_lines_and_files_move_and_a_half_line_too(tmp_path):
    lines = ['{"step": 1}\n', '{"step": 2}\n', '{"step": 3}\n', '{"st']
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    for step in (1, 2, 3):
        (tmp_path / f"step_{step:08d}.ckpt").touch()
    assert set_aside_after(tmp_path, 2) == tmp_path / "superseded" / "1"
    assert (tmp_path / "metrics.jsonl").read_text() == "".join(lines[:2])
    assert (tmp_path / "superseded" / "1" / "metrics.jsonl").read_text() == "".join(lines[2:])
    assert {file.name for file in tmp_path.rglob("step_*")} == {f"step_{step:08d}.ckpt" for step in (1, 2, 3)}
    assert (tmp_path / "superseded" / "1" / "step_00000003.ckpt").exists()
    assert set_aside_after(tmp_path, 2) is None
    assert set_aside_after(tmp_path, 0) == tmp_path / "superseded" / "2"


def test_a_half_written_line_alone_is_reason_enough(tmp_path: Path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2')
    assert set_aside_after(tmp_path, 5)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'


def test_evaluations_are_read_back_and_a_best_that_was_no_number_is_none(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 3, "train/loss": 1}\n{"step": 4, "epoch": 1, "val/loss": null}\n'
                                            '{"step": 8, "epoch": 2, "val/loss": 0.5, "eval/x/y": 1}\n{"st')
    (first, nothing), second = evaluations(tmp_path)
    assert first == 4 and math.isnan(nothing["val/loss"]) and second == (8, {"val/loss": 0.5, "eval/x/y": 1})
    (tmp_path / "step_00000008.ckpt").write_bytes(b"of 8")
    assert restored_best(tmp_path, "val/loss", 0.4) is None and not (tmp_path / "best.ckpt").exists()
    assert restored_best(tmp_path, "val/loss", 0.5) == 0.5 and (tmp_path / "best.ckpt").read_bytes() == b"of 8"
    assert restored_best(tmp_path, "val/loss", math.nan) is None


def test_the_checkpoint_that_is_gone_on_from_replaces_a_damaged_one_of_its_step(tmp_path):
    own, best = tmp_path / "step_00000004.ckpt", tmp_path / "best.ckpt"
    own.write_bytes(b"damaged")
    best.write_bytes(b"whole")
    adopt(best, tmp_path, step=4)
    assert own.read_bytes() == best.read_bytes() == b"whole"
    adopt(own, tmp_path, step=4)
    assert own.read_bytes() == b"whole" and (tmp_path / "latest.txt").read_text() == own.name + "\n"
