"""The curve: each of its points is a real evaluation with so many attempts and steps; files, and what is refused."""
import csv
import json

import numpy as np
import pytest

from config.schema import EvaluateConfig
from evaluators.curve import BOUND_NAME, Curve, flop_of_row_step, read_points
from evaluators.loop import evaluate
from evaluators.test_time import TestTimeConfig, build_strategy
from helpers import ALONE, is_picture, tiny_config, tiny_sudokus, tiny_test_data, undecided_head
from losses import ACTLossHead
from models.recursive_reasoning.trm import TRM
from utils.curve_plots import plot_curves

NOISE = {"noise": 0.5, "noise_on": "z_L"}
DEPTH, BREADTH = 4, 5


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Puzzles whose labels are what the untrained network answers in some attempt after some step, so that it is right
    now and then."""
    path, said = tiny_sudokus(tmp_path_factory.mktemp("curve") / "data"), {}
    strategy = build_strategy(trajectories=BREADTH, **NOISE)
    strategy.watch = lambda rows: said.update({key: preds.numpy() for key, preds in zip(
        zip(rows.numbers, rows.attempts, rows.steps), rows.outputs["preds"])})
    evaluate(undecided_head(halt_max_steps=DEPTH), tiny_test_data(path, 8), ALONE, strategy=strategy)
    labels = np.load(path / "test" / "all__labels.npy")
    for number, label in enumerate(labels):
        label[:] = said[number, number % BREADTH, number % DEPTH + 1]
    np.save(path / "test" / "all__labels.npy", np.maximum(labels, 1))
    return tiny_test_data(path, 3)


@pytest.fixture(scope="module")
def drawn(data, tmp_path_factory):
    """A curve over 5 noisy trajectories of 4 steps, the metrics of its evaluation, and the folder of its files."""
    folder = tmp_path_factory.mktemp("curve") / "run" / "evaluation"
    curve = Curve(TestTimeConfig(trajectories=BREADTH, **NOISE))
    metrics = evaluate(undecided_head(halt_max_steps=DEPTH), data, ALONE, strategy=curve, save_path=folder)
    return curve, metrics, folder


@pytest.mark.parametrize("rule, k, t", [("q", 1, 4), ("q", 2, 3), ("vote", 4, 2), ("vote", 5, 4), ("residual", 4, 4),
                                        ("first_halt", 4, 3), ("valid", 5, 3), ("best_of", 5, 2), ("best_of", 2, 4)])
def test_each_point_is_an_evaluation_of_its_own(drawn, data, rule, k, t):
    curve, _, _ = drawn
    settings = NOISE | {"trajectories": k} | ({"select": rule} if k > 1 else {})
    metrics = evaluate(undecided_head(halt_max_steps=t), data, ALONE, strategy=build_strategy(**settings))
    point, = (point for point in curve.points if (point.trajectories, point.steps) == (k, t)
              and point.rule == (BOUND_NAME if rule == "best_of" else rule))
    assert point.exact == pytest.approx(metrics["upper_bound/" * (rule == "best_of") + "val/exact_accuracy"])
    assert point.row_steps == pytest.approx(metrics["compute/row_steps"])


def test_one_attempt_that_leaves_when_it_halts_is_early_exit(drawn, data):
    curve, _, _ = drawn
    metrics = evaluate(undecided_head(halt_max_steps=DEPTH), data, ALONE,
                       strategy=build_strategy(early_exit=True, **NOISE))
    point, = (p for p in curve.points if (p.rule, p.trajectories, p.steps) == ("first_halt", 1, DEPTH))
    assert point.exact == metrics["val/exact_accuracy"] and point.row_steps == metrics["compute/row_steps"] < DEPTH


def test_what_holds_for_every_curve(drawn):
    curve, _, _ = drawn
    assert {p.trajectories for p in curve.points} == {1, 2, 4, 5} and {p.steps for p in curve.points} == {1, 2, 3, 4}
    bound = {(p.trajectories, p.steps): p.exact for p in curve.points if p.rule == BOUND_NAME}
    assert any(bound.values()) and len(set(bound.values())) > 1
    for p in curve.points:
        assert p.exact <= bound[p.trajectories, p.steps] <= p.ever <= 1
        assert p.precision is None or p.spurious == pytest.approx(p.confident * (1 - p.precision))
        assert p.flop == pytest.approx(p.row_steps * curve.flop) and p.seconds > 0
        assert p.rule == "first_halt" or p.row_steps == p.trajectories * p.steps
    ever = [max(p.ever for p in curve.points if p.steps == t) for t in (1, 2, 3, 4)]
    assert ever == sorted(ever)


def test_files_say_the_same_as_the_metrics(drawn, data):
    curve, metrics, folder = drawn
    assert [tuple(vars(p).values()) for p in read_points(folder)] == [tuple(vars(p).values()) for p in curve.points]
    assert all(is_picture(folder / name) for name in ("curve.png", "reliability.png"))
    knows = json.loads((folder / "confidence.json").read_text())
    assert knows["halting"][-1]["precision"] == metrics.get("q/precision")
    assert knows["fates"] == {name: metrics[f"attempts/{name}"] for name in knows["fates"]}
    assert sum(one["attempts"] for one in knows["reliability"]) == BREADTH * data.num_examples
    with open(folder / "oscillation.csv") as f:
        rows = list(csv.DictReader(f))
    assert [(int(row["puzzle"]), int(row["attempt"])) for row in rows] == [
        (puzzle, attempt) for puzzle in range(data.num_examples) for attempt in range(BREADTH)]
    assert np.mean([row["fate"] == "lost" for row in rows]) == metrics["attempts/lost"]
    assert any("best_of (upper bound) exact" in line for line in curve.told)


def test_several_curves_and_published_scores_stand_in_one_picture(drawn, data, tmp_path):
    _, _, folder = drawn
    curve = Curve(TestTimeConfig(), others=[str(folder), str(folder / "curve.csv")])
    curve.prepare(undecided_head(), data)
    assert list(curve.other_curves) == ["run/evaluation"]
    plot_curves({"this": read_points(folder)} | curve.other_curves, [("TRM", 16, 0.874)], tmp_path / "both.png")
    assert is_picture(tmp_path / "both.png")


def test_what_cannot_be_drawn_beside_a_curve_is_refused_at_the_start(data, tmp_path):
    with pytest.raises(ValueError, match=r"published=maze-hard: its puzzles have 900 cells, and those of .* have 16"):
        Curve(TestTimeConfig(), published="maze-hard").prepare(undecided_head(), data)
    with pytest.raises(ValueError, match="curve_with: there is no"):
        Curve(TestTimeConfig(), others=[str(tmp_path)]).prepare(undecided_head(), data)
    (tmp_path / "curve.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"is no curve\.csv"):
        Curve(TestTimeConfig(), others=[str(tmp_path)]).prepare(undecided_head(), data)


def test_a_row_step_costs_what_its_matrix_products_cost(data):
    head = ACTLossHead(TRM(tiny_config(seq_len=16, vocab_size=6, num_puzzle_identifiers=1, pos_encodings="none")),
                       loss_type="softmax_cross_entropy")
    D, positions, passes = 8, 17, 2 * 3
    inner = head.model.inner.L_level.layers[0].mlp.down_proj.weight.shape[1]
    a_pass = positions * (2 * D * 3 * D + 2 * D * D + 2 * D * 2 * inner + 2 * inner * D) + 4 * positions**2 * D
    heads = positions * 2 * D * 6 + 2 * D * 2
    assert flop_of_row_step(head, data) == pytest.approx(passes * a_pass + heads)


@pytest.mark.parametrize("settings, said", [
    ({"trajectories": 2, "until": "valid", "budget": 4}, "until ends some before"),
    ({"early_exit": True}, "early_exit ends some before"),
    ({"trajectories": 2, "select": "first_halt"}, "select=first_halt ends some before")])
def test_settings_that_end_attempts_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        EvaluateConfig.of(checkpoint="x", curve=True, **NOISE, **settings)


def test_what_has_no_effect_without_a_curve_is_refused():
    with pytest.raises(ValueError, match="published has no effect without curve=true"):
        EvaluateConfig.of(checkpoint="x", published="maze-hard")
    with pytest.raises(ValueError, match="curve: strategy=strategies@Single decides itself"):
        EvaluateConfig.of(checkpoint="x", curve=True, **{"+strategy.name": "strategies@Single"})
    assert isinstance(EvaluateConfig.of(checkpoint="x", curve=True).build_strategy(), Curve)
