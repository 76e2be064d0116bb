"""Sums and means of metrics, and the meter of training."""
import time

import pytest
import torch

from utils.metrics import MetricSums, TrainMeter, means

CPU = torch.device("cpu")


def sums(**values: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}


def test_sums_are_of_all_that_was_added_since_they_were_cleared():
    meter = MetricSums(CPU)
    assert meter.read() == {}
    for _ in range(2):
        meter.add(sums(loss=1.5, rows=4))
        meter.add(sums(loss=0.25, rows=2))
        assert meter.read() == meter.read() == {"loss": 1.75, "rows": 6}
        meter.clear()
    assert meter.read() == {"loss": 0, "rows": 0}


def test_small_numbers_are_not_lost_beside_large_ones():
    meter = MetricSums(CPU)
    meter.add(sums(loss=2.0**24))
    for _ in range(10):
        meter.add(sums(loss=1.0))  # float32 cannot hold 2^24 + 1
    assert meter.read()["loss"] == 2**24 + 10


def test_losses_are_means_over_rows_and_the_rest_over_halted_rows_where_there_are_such():
    assert means({"loss": 6.0, "lm_loss": 3.0, "steps": 8.0, "accuracy": 1.0, "rows": 6.0, "count": 2.0}) == {
        "loss": 1.0, "lm_loss": 0.5, "steps": 4.0, "accuracy": 0.5}
    assert means({"loss": 6.0, "steps": 0.0, "rows": 6.0, "count": 0.0}) == {"loss": 1.0}


def test_the_meter_reads_windows_and_the_loss_since_the_last_evaluation_apart():
    meter = TrainMeter(CPU)
    for loss in (1.0, 2.0):
        meter.add(sums(loss=loss, steps=3, rows=1, count=1))
    window = meter.read_window()
    assert (window["train/loss"], window["train/steps"]) == (1.5, 3)
    meter.add(sums(loss=6.0, steps=3, rows=1, count=0))
    assert meter.read_window().keys() == {"train/loss", "train/examples_per_s"}
    assert meter.read_loss_since_evaluation() == 3.0
    meter.add(sums(loss=7.0, steps=3, rows=1, count=1))
    assert meter.read_loss_since_evaluation() == 7.0


def test_the_rate_leaves_out_what_is_paused(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    meter = TrainMeter(CPU)
    meter.add(sums(loss=1.0, rows=30, count=0))
    now[0] += 2
    with meter.paused_clock():
        now[0] += 50
    now[0] += 1
    assert meter.read_window()["train/examples_per_s"] == pytest.approx(10)
