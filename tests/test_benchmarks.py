"""What benchmarks/speed does with figures: medians of ratios, targets, the check, counted work, failures. No clocks."""
import json
import sys
import threading

import pytest
import torch

from benchmarks.speed import check, reference
from benchmarks.speed.communication import modelled_seconds
from benchmarks.speed.counts import least_seconds, total_flops
from benchmarks.speed.groups import compared, refuse_other_loss
from benchmarks.speed.limits import ProductCount, count_products, stored_bytes
from benchmarks.speed.rows import Row, markdown, read, write
from benchmarks.speed.start_up import has_step
from benchmarks.speed.where import told
from benchmarks.speed.workers import Failed, Worker, built, ratio, take_turns
from benchmarks.speed.workload import workload

TINY = workload(rows=2, tokens=4, vocabulary=5, width=8, mix="mlp_t", T=2, n=1, prefix=1)


def measured(name: str, seconds: list[float], loss: float = 1.0, failed: str | None = None) -> Worker:
    worker = Worker(name, {"device": "cpu"}, log=None)
    worker.rounds, worker.failed = [{"s": s} for s in seconds], failed
    worker.facts = {"loss": loss, "dtype": "torch.float32"}
    return worker


def test_a_ratio_is_the_median_of_the_ratios_of_the_rounds():
    # the machine is slow in round 2, and only one process is disturbed in round 3
    ours, theirs = measured("ours", [1, 10, 9]), measured("reference", [2, 20, 2])
    assert ratio(theirs, ours, "s") == 2
    with pytest.raises(Failed, match="reference: broke"):
        ratio(measured("reference", [], failed="broke"), ours, "s")


def test_a_row_compares_only_what_computes_the_same():
    workers = {"ours": measured("ours", [1]), "theirs": measured("theirs", [3], loss=1.0005)}
    row = compared("step", workers, "ours", "theirs", 2.0, lambda seconds: f"{seconds} s")
    assert (row.ratio, row.met, row.ours, row.limit) == (3, True, "1,000.0 ms", "1 s")
    workers["theirs"] = measured("theirs", [3], loss=1.1)
    row = compared("step", workers, "ours", "theirs", 2.0, str)
    assert row.ratio is None and "loss 1.00000" in row.failed and row.met is None
    with pytest.raises(Failed, match="same weights and batch"):
        refuse_other_loss(*workers.values())
    row = compared("step", {"ours": measured("ours", [1])}, "ours", "theirs", 2.0, str)
    assert row.ratio is None and row.failed is None


def test_targets_hold_from_above_or_below():
    assert Row("speed", ratio=1.7, target=1.7).met and not Row("speed", ratio=1.69, target=1.7).met
    assert Row("memory", ratio=0.7, target=0.7, at_least=False).met
    assert not Row("memory", ratio=0.71, target=0.7, at_least=False).met


def test_rows_come_back_from_their_file_and_print_as_a_table(tmp_path):
    rows = [Row("a | b", "1 ms", "2 ms", 2.0, 1.7), Row("c", failed="OutOfMemoryError: no"), Row("d", target=1.0)]
    write(tmp_path / "rows.json", {"device": "CPU"}, rows, {})
    assert read(tmp_path / "rows.json") == ({"device": "CPU"}, rows)
    lines = markdown(rows).splitlines()
    assert lines[2] == "| a / b | 1 ms | 2 ms | 2.00 | ≥ 1.7 | yes | – |"
    assert "failed: OutOfMemoryError: no" in lines[3] and "not measured" in lines[4]
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.parametrize(("row", "found"), [
    (Row("speed", ratio=1.81), False), (Row("speed", ratio=1.79), True), (Row("speed", ratio=9.0), False),
    (Row("speed", failed="broke"), True), (Row("other", ratio=9.0), True)])
def test_the_check_finds_what_is_worse_than_recorded(row, found):
    assert bool(check.worse({"speed": 2.0}, [row], 0.1)) == found


def test_the_check_knows_ratios_that_should_be_small():
    rows = [Row("memory", ratio=0.8, at_least=False)]
    assert not check.worse({"memory": 0.75}, rows, 0.1)
    assert check.worse({"memory": 0.7}, rows, 0.1) == ["memory: was 0.70, and is 0.80"]


def test_the_check_records_and_exits_with_a_status(tmp_path, monkeypatch, capsys):
    results = tmp_path / "bench-cpu.json"
    monkeypatch.setattr(check, "RESULTS", {"cpu": results, "gpu": tmp_path / "none.json"})
    monkeypatch.setattr(check, "RECORDED", tmp_path / "recorded.json")

    def checked(*arguments: str) -> object:
        monkeypatch.setattr(sys, "argv", ["check", *arguments])
        try:
            return check.main()
        except SystemExit as left:
            return left.code

    assert "run make bench" in checked()
    write(results, {"device": "CPU"}, [Row("speed", ratio=2.0), Row("not measured")], {})
    assert "--record" in checked()
    assert checked("--record") is None
    assert json.loads((tmp_path / "recorded.json").read_text())["cpu"]["ratios"] == {"speed": 2.0}
    assert checked() == 0
    write(results, {"device": "another CPU"}, [Row("speed", ratio=1.5)], {})
    assert checked() == 1
    assert "speed: was 2.00, and is 1.50" in (out := capsys.readouterr().out) and "another machine" in out
    assert checked("--tolerance", "0.3") == 0


def test_products_are_counted_with_operations_and_bytes():
    a, b = torch.zeros(3, 4), torch.zeros(4, 5)
    with ProductCount() as count:
        a @ b
        a * a
    assert count.products == [(2 * 3 * 4 * 5, 4 * (12 + 20 + 15))]
    assert stored_bytes(torch.zeros(1, 4).expand(9, 4)) == 16
    products = [(100.0, 10.0, 2), (10.0, 50.0, 1)]
    assert total_flops(products) == 210 and least_seconds(products, 10.0, 10.0) == 2 * 10 + 5


def test_the_counted_products_of_a_step_are_those_of_its_matrices():
    """By hand: a pass costs 2 · rows · (weights of its matrices); with a gradient, three times that."""
    products = count_products(TINY, torch.float32)
    positions, width, inner = 5, 8, 256
    a_pass = 2 * 2 * (width * 3 * positions * inner + positions * 3 * width * inner) * TINY["arch"]["L_layers"]
    heads = 3 * 2 * 2 * (positions * width * 5) + 2 * 2 * 2 * width * 2  # the input of q_head gets no gradient
    passes = TINY["arch"]["L_cycles"] + 1
    assert total_flops(products) == pytest.approx(a_pass * passes * (1 + 3) + heads, rel=0.01)


def test_a_process_that_fails_loses_only_its_own_figures(tmp_path):
    base = {"subject": "step", "side": "ours", "workload": TINY, "device": "cpu", "compiled": False, "reference": None}
    specs = {"well": base, "ill": base | {"arch": {"no_such_option": 1}}}
    with built("group", specs, threading.Semaphore(2), tmp_path) as workers:
        take_turns(workers.values(), rounds=2, steps=1)
    assert len(workers["well"].rounds) == 2 and workers["well"].figure("s") > 0
    with pytest.raises(Failed, match="ill: .*no_such_option"):
        workers["ill"].figure("s")
    assert "Traceback" in workers["ill"].log.read_text()


def test_the_reference_must_be_there_and_its_axes_are_swapped(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="--reference"):
        reference.take_up(str(tmp_path))
    x = torch.arange(24).view(1, 2, 3, 4)
    assert torch.equal(reference.swap_axes(x, "B S H D -> B H S D"), x.transpose(1, 2))


def test_communication_is_latency_and_what_a_ring_moves():
    assert modelled_seconds(2, 1e9, 0.1, 1e9) == pytest.approx(1.2)
    assert modelled_seconds(1, 1e9, 0, 1e9, n=4) == pytest.approx(1.5)


def test_the_first_step_is_seen_in_whole_lines_of_metrics(tmp_path):
    file = tmp_path / "metrics.jsonl"
    assert not has_step(file)
    file.write_text('{"step": 0, "val/loss": 1}\n{"step": 1, "train/l')
    assert not has_step(file)
    file.write_text('{"step": 0, "val/loss": 1}\n{"step": 1, "train/loss": 2}\n')
    assert has_step(file)


def test_time_is_told_by_kind_of_work():
    text = told({"aten::mm": 600.0, "aten::mul": 300.0, "void flash_fwd": 100.0}, steps=2)
    assert text.startswith("0.5 ms of work a step\n   60.0%  products\n   30.0%  pointwise\n   10.0%  attention")
