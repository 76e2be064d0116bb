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


def test_the_rate_after_a_resume_leaves_out_rows_of_before(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    stopped, resumed = TrainMeter(CPU), TrainMeter(CPU)
    stopped.add(sums(loss=1.0, rows=30, count=0))
    resumed.load_state_dict(stopped.state_dict())
    resumed.add(sums(loss=5.0, rows=10, count=0))
    now[0] += 2
    assert resumed.read_window() == {"train/loss": pytest.approx(6 / 40), "train/examples_per_s": pytest.approx(5)}


def test_rmse_and_r2_are_of_all_targets_of_a_set_each_feature_about_its_own_mean():
    """Targets 1, 3 and 10, 10, 13 of two features, predicted with errors 1, 1 and 0, 0, 2."""
    meter = MetricSums(CPU)
    for observed, error, total, square in (([1, 2], [1, 0], [1, 20], [1, 200]), ([1, 1], [1, 4], [3, 13], [9, 169])):
        meter.add({"observed": torch.tensor(observed), "squared_error": torch.tensor(error),
                   "target_sum": torch.tensor(total), "target_square": torch.tensor(square), **sums(rows=1, count=1)})
    found = means(meter.read())
    assert found == {"rmse": pytest.approx((6 / 5) ** 0.5), "r2": pytest.approx(1 - 6 / (2 + 6))}


def test_without_targets_there_is_no_rmse_and_without_their_variance_no_r2():
    def of(observed: float, value: float) -> dict:
        meter = MetricSums(CPU)
        meter.add({name: torch.tensor([sum_], dtype=torch.float64) for name, sum_ in (
            ("observed", observed), ("squared_error", observed), ("target_sum", observed * value),
            ("target_square", observed * value**2))})
        return means(meter.read() | {"rows": 0, "count": 0})

    assert of(0, 0) == {} and of(7, 1e6 / 3) == {"rmse": 1}
