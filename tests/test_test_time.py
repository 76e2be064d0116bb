"""Test-time compute on small networks: what each setting does, that nothing depends on batches or ranks, what is
refused."""
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from config.schema import EvaluateConfig
from dataset.puzzle_dataset import PuzzleDataset
from evaluators.curve import read_points
from evaluators.loop import DepthCurve, evaluate
from evaluators.rows import Result, row_steps, supervision_steps
from evaluators.selection import RULES, choose
from evaluators.strategies import Single
from evaluators.test_time import TestTime, build_strategy, preset_settings
from helpers import (
    ALONE,
    ROOT,
    TINY_ARCH,
    evaluate_config,
    pretrain_config,
    run_script,
    tiny_sudokus,
    tiny_test_data,
    undecided_head,
)
from losses import ACTLossHead
from pretrain import train

EXAMPLES = 8
NOISE = {"noise": 0.5, "noise_on": "z_L"}


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return tiny_sudokus(tmp_path_factory.mktemp("tta") / "data")


def results_of(head: ACTLossHead, data: PuzzleDataset, strategy: TestTime) -> dict[int, Result]:
    strategy.prepare(head.eval(), data)
    example_set, = data.sets.values()
    strategy.begin(example_set, data.own_examples(example_set), data.config.global_batch_size)
    with torch.no_grad():
        found = [result for step in row_steps(head, data, example_set, strategy, ALONE)
                 for answers in strategy.take(step) for result in answers.results]
    assert len({result.number for result in found}) == len(found)
    return {result.number: result for result in sorted(found, key=lambda result: result.number)}


def same(one: dict[int, Result], other: dict[int, Result]) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(a.answer, b.answer) and a.confidence == pytest.approx(b.confidence, abs=1e-4)
        and (a.confident, a.steps, a.attempt, a.trajectory, a.view, a.valid, a.attempts)
        == (b.confident, b.steps, b.attempt, b.trajectory, b.view, b.valid, b.attempts)
        for a, b in zip(one.values(), other.values()))


SETTINGS = [NOISE | {"trajectories": 3}, NOISE | {"trajectories": 2, "augment": 2, "select": "vote"},
            {"augment": 4, "early_exit": True, "patience": 2}, NOISE | {"trajectories": 3, "select": "residual"},
            {"augment": 3, "select": "first_halt"}, NOISE | {"trajectories": 2, "until": "valid", "budget": 5},
            NOISE | {"trajectories": 3, "select": "best_of"}, {"early_exit": True}]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_results_do_not_depend_on_the_batch(path, settings):
    found = [results_of(undecided_head(), tiny_test_data(path, batch), build_strategy(**settings)) for batch in (3, 64)]
    assert list(found[0]) == list(range(EXAMPLES)) and same(*found)


def test_one_attempt_is_what_a_plain_evaluation_gives(path):
    head, data = undecided_head(), tiny_test_data(path, 3)
    plain, other = (evaluate(head, data, ALONE, strategy=strategy) for strategy in (Single(), build_strategy()))
    assert other.pop("compute/row_steps") == 5 and other.pop("compute/attempts") == 1
    assert plain == pytest.approx(other, rel=1e-6)


def test_the_first_attempts_of_many_are_those_of_few(path):
    """Each puzzle's result with K attempts is the rule's choice among the first K of eight."""
    head, data, seen = undecided_head(), tiny_test_data(path, 5), {}
    strategy = build_strategy(trajectories=4, augment=2, **NOISE)
    strategy.watch = lambda rows: seen.update({(n, a): (rows.outputs["preds"][i].numpy(), float(q)) for i, (n, a, q) in
                                               enumerate(zip(rows.numbers, rows.attempts, rows.score))})
    results_of(head, data, strategy)
    for trajectories in (1, 2, 4):
        few = results_of(head, data, build_strategy(trajectories=trajectories, augment=2, **NOISE))
        for number, result in few.items():
            q = [seen[number, attempt][1] for attempt in range(2 * trajectories)]
            assert result.attempt == int(np.argmax(q)) and result.attempts == 2 * trajectories
            assert np.array_equal(result.answer, seen[number, result.attempt][0])
            assert (result.view, result.trajectory) == (result.attempt % 2, result.attempt // 2)


def traced(head, data, strategy) -> dict[tuple[int, int], list]:
    """Predictions, halting logit and latent changes of each attempt, step by step, found by running it alone."""
    found: dict[tuple[int, int], list] = {}
    strategy.watches_residual = True
    strategy.watch = lambda rows: [found.setdefault((n, a), []).append(
        (rows.outputs["preds"][i].numpy(), rows.score[i], rows.residual[i], rows.ended[i]))
        for i, (n, a) in enumerate(zip(rows.numbers, rows.attempts))]
    results_of(head, data, strategy)
    return found


def test_early_exit_is_the_whole_evaluation_up_to_the_exit(path):
    head, data = undecided_head(), tiny_test_data(path, 3)
    whole = traced(head, data, build_strategy())
    for settings in ({}, {"patience": 1}, {"patience": 2, "halt_threshold": 3.0}, {"halt_threshold": -1.0}):
        left = results_of(head, data, strategy := build_strategy(early_exit=True, **settings))
        exits = []
        for number in range(EXAMPLES):
            steps, unchanged = whole[number, 0], 0
            for step, (preds, score, _, _) in enumerate(steps, 1):
                unchanged = unchanged + 1 if step > 1 and np.array_equal(preds, steps[step - 2][0]) else 0
                if score > settings.get("halt_threshold", 0) or unchanged >= settings.get("patience", 99):
                    break
            exits.append(step)
            assert np.array_equal(left[number].answer, preds) and left[number].steps == step
        assert len(set(exits)) > 1 and strategy.row_steps == sum(exits)


def test_scores_by_step_count_answers_that_came_early_in_all_later_steps(path):
    head, data = undecided_head(), tiny_test_data(path, 3)
    curve = DepthCurve(head, ALONE)
    metrics = evaluate(head, data, ALONE, strategy=build_strategy(early_exit=True), curve=curve)
    assert metrics["compute/row_steps"] < 5
    assert curve.read()[-1]["accuracy"] == pytest.approx(metrics["val/accuracy"])


def test_a_residual_is_the_mean_change_of_the_last_three_steps(path):
    head, data = undecided_head(), tiny_test_data(path, 3)
    found = traced(head, data, build_strategy())
    for number in range(EXAMPLES):
        batch, latents = data.examples([number]), []
        with torch.no_grad():
            carry = head.initial_carry(batch)
            for _ in range(5):
                carry, _ = head.step(carry, batch)
                latents.append(torch.cat([z.flatten() for z in carry.latents]))
        changes = [float((now - before).norm()) for before, now in pairwise(latents)]
        expected = [np.inf, *(np.mean(changes[max(0, t - 3):t]) for t in range(1, 5))]
        assert [residual for _, _, residual, _ in found[number, 0]] == pytest.approx(expected, rel=1e-4)


def test_a_view_is_shown_and_its_answer_mapped_back(path):
    head, data, strategy = undecided_head(), tiny_test_data(path, 3), build_strategy(augment=3)
    example_set, = data.sets.values()
    seen = traced(head, data, strategy)
    for number in range(EXAMPLES):
        for attempt in range(3):
            fields = example_set.fetch(np.array([number]))
            attempts = type("A", (), {"numbers": np.array([number]), "attempts": np.array([attempt])})
            shown = strategy.present(fields, attempts)
            with torch.no_grad():
                *_, outputs = supervision_steps(head, {name: torch.from_numpy(v) for name, v in shown.items()})
            view = strategy.views[number, attempt]
            assert np.array_equal(shown["inputs"], fields["inputs"]) == (attempt == 0)
            assert np.array_equal(view.apply(seen[number, attempt][-1][0][None]), outputs["preds"].numpy())


def test_further_attempts_are_for_what_the_rules_reject(path):
    """With a rule that accepts every third answer or so, the attempts stop at the first one accepted."""
    head, data = undecided_head(), tiny_test_data(path, 3)
    kinds = {}

    class Accepting(TestTime):
        def _valid(self, inputs, preds):
            kinds.update({row.tobytes(): int(row.sum()) % 3 == 0 for row in preds})
            return np.array([kinds[row.tobytes()] for row in preds])

    whole = traced(head, data, build_strategy(trajectories=6, **NOISE))
    config = build_strategy(until="valid", budget=6, trajectories=1, **NOISE).config
    found = results_of(head, data, strategy := Accepting(config))
    for number, result in found.items():
        accepted = [int(whole[number, attempt][-1][0].sum()) % 3 == 0 for attempt in range(6)]
        expected = accepted.index(True) + 1 if any(accepted) else 6
        assert (result.attempts, result.valid) == (expected, any(accepted))
        assert not any(accepted) or result.attempt == expected - 1
    made = sum(result.attempts for result in found.values())
    assert strategy.attempts_made == made and EXAMPLES < made < 6 * EXAMPLES
    pairs = results_of(head, data, Accepting(config.model_copy(update={"trajectories": 2})))
    assert all(pairs[n].attempts == found[n].attempts + found[n].attempts % 2 for n in found)
    assert strategy.metrics() == {"compute/row_steps": 5 * made / EXAMPLES, "compute/attempts": made / EXAMPLES}


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_applied_to_what_the_attempts_come_to(path, rule, monkeypatch):
    """The arrays that the rule is given are those of each attempt by itself."""
    head, data = undecided_head(), tiny_test_data(path, 3)
    given = []
    monkeypatch.setattr("evaluators.test_time.choose", lambda rule, of: given.append((rule, of)) or choose(rule, of))
    results_of(head, data, build_strategy(trajectories=3, select=rule, **NOISE))
    whole = traced(head, data, build_strategy(trajectories=3, **NOISE))
    labels = data.examples(range(EXAMPLES))["labels"].numpy()
    chosen = [of for name, of in given if name == rule][:EXAMPLES]
    by_number = {}
    for of in chosen:
        for number in range(EXAMPLES):
            ends = [exit_of(whole[number, a], rule) for a in range(3)]
            if all(np.array_equal(of.answers[a], ends[a][0]) and abs(of.q[a] - ends[a][1]) < 1e-3 for a in range(3)):
                by_number[number] = of
                if rule == "residual":
                    assert of.residual == pytest.approx([end[2] for end in ends], rel=1e-3)
                if rule == "best_of":
                    assert list(of.right) == [np.array_equal(end[0], labels[number]) for end in ends]
                assert list(of.sure) == [end[1] > 0 for end in ends]
    assert len(by_number) == EXAMPLES


def exit_of(steps: list, rule: str):
    """Where an attempt ends: with first_halt where it first halts, else after its last step."""
    return next((step for step in steps if rule == "first_halt" and step[1] > 0), steps[-1])


def test_an_upper_bound_is_named_so(path):
    metrics = evaluate(undecided_head(), tiny_test_data(path, 4), ALONE, strategy=build_strategy(
        trajectories=3, select="best_of", **NOISE))
    assert {name.split("/")[0] for name in metrics} == {"upper_bound", "compute"}
    plain = evaluate(undecided_head(), tiny_test_data(path, 4), ALONE, strategy=build_strategy(trajectories=3, **NOISE))
    assert {name.split("/")[0] for name in plain} == {"val", "compute"}


@pytest.mark.parametrize("settings, said", [
    ({"noise": 0.3}, "noise=σ and noise_on"), ({"noise_on": "z_L"}, "noise=σ and noise_on"),
    ({"until": "valid"}, "budget=N go together"), ({"budget": 3}, "budget=N go together"),
    ({"until": "valid", "budget": 2, "trajectories": 4}, "budget=2 is less"),
    ({"until": "valid", "budget": 2, "select": "q"}, "select=q has no effect"),
    ({"select": "vote"}, "select=vote has no effect on a single attempt"), ({"patience": 2}, "early_exit=true; set it"),
    ({"early_exit": True, "augment": 2, "select": "residual"}, "leave early_exit out"),
    ({"early_exit": True, "augment": 2, "select": "first_halt"}, "leave early_exit out"),
    ({"trajectory": 3}, "unknown key trajectory; did you mean trajectories"), ({"select": "luck"}, "select='luck'"),
    ({"preset": "ptrm"}, "tta=ptrm: there is no such preset; there are eqr, ldt_fields, ldt_laptop")])
def test_settings_without_effect_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        build_strategy(**settings)


@pytest.mark.parametrize("settings, said", [
    ({"trajectories": 3}, "3 attempts would repeat each other"),
    ({"augment": 2, "until": "valid", "budget": 4}, "or augment=4")])
def test_settings_that_mean_nothing_for_the_model_are_refused(path, settings, said):
    with pytest.raises(ValueError, match=said):
        build_strategy(**settings).prepare(undecided_head(), tiny_test_data(path, 4))
    build_strategy(**settings).prepare(undecided_head(initial_state_std=1.0), tiny_test_data(path, 4))
    with pytest.raises(ValueError, match="both end rows early"):
        build_strategy(early_exit=True).prepare(undecided_head(act_inference=True), tiny_test_data(path, 4))


PRESETS = {file.stem: file.read_text() for file in sorted((ROOT / "config" / "tta").glob("*.yaml"))}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_tells_its_command_cost_and_scores(name):
    assert all(f"#   {part}: " in PRESETS[name] for part in ("command", "cost", "published"))


def test_a_preset_may_bring_a_strategy_of_its_own():
    config = EvaluateConfig.of(checkpoint="x", tta="ldt_laptop")
    assert config.arch_options == {"doubt_below": 0.99945, "doubt_open": 25, "halt_max_steps": 32}
    assert config.build_strategy().rounds == 1000
    changed = EvaluateConfig.of(checkpoint="x", tta="ldt_laptop", steps=8, arch={"doubt_below": 0.9},
                                strategy={"name": "chains@Chains", "chains": 2, "rounds": 7})
    assert changed.arch_options == config.arch_options | {"doubt_below": 0.9, "halt_max_steps": 8}
    assert changed.differences.items() >= {"strategy": "chains@Chains", "chains": 2, "rounds": 7}.items()
    with pytest.raises(ValueError, match="tta=ldt_laptop has a strategy of its own"):
        build_strategy(preset="ldt_laptop")


@pytest.mark.parametrize("name", [name for name, text in PRESETS.items() if "\nstrategy:" not in text])
def test_a_preset_is_the_same_from_the_command_line_and_from_python(name):
    config = EvaluateConfig.of(checkpoint="x", tta=name)
    assert config.test_time == build_strategy(preset=name).config
    assert config.changed == preset_settings(name) or name == "sic"
    assert EvaluateConfig.of(checkpoint="x", tta=name, trajectories=7).trajectories == 7 and json.dumps(config.changed)


def test_depth_has_three_names_and_one_value():
    for name in ({"steps": 9}, {"halt_max_steps": 9}, {"arch": {"halt_max_steps": 9}}):
        config = EvaluateConfig.of(checkpoint="x", **name)
        assert config.arch_options == {"halt_max_steps": 9} and config.differences == {"halt_max_steps": 9}
        assert isinstance(config.build_strategy(), Single)
    with pytest.raises(ValueError, match="steps=9 and halt_max_steps=8: these are names of one number"):
        EvaluateConfig.of(checkpoint="x", steps=9, halt_max_steps=8)


def test_where_latents_start_is_an_option_of_the_architecture():
    config = EvaluateConfig.of(checkpoint="x", init="random", trajectories=2)
    assert config.arch_options == {"initial_state_std": 1.0}
    assert config.differences == {"init": "random", "trajectories": 2}
    assert EvaluateConfig.of(checkpoint="x", init="learned").arch_options == {"initial_state_std": 0.0}
    with pytest.raises(ValueError, match=r"init=random sets arch\.initial_state_std"):
        EvaluateConfig.of(checkpoint="x", init="random", arch={"initial_state_std": 0.5})
    with pytest.raises(ValueError, match="curve=true for several"):
        EvaluateConfig.of(checkpoint="x", augment=2, per_step=True)
    with pytest.raises(ValueError, match="decides itself how"):
        evaluate_config("checkpoint=x", "augment=2", "strategy={name: strategies@Single}")


def test_a_memory_budget_sets_the_number_of_rows_and_no_result(path):
    head, data = undecided_head(), tiny_test_data(path, 2)
    sizes = []
    for gigabytes in (1e-3, 4e-4):
        strategy = build_strategy(trajectories=3, memory_gb=gigabytes, **NOISE)
        strategy.watch = lambda rows: sizes.append(len(rows.numbers))
        found = results_of(head, data, strategy)
        assert max(sizes) == min(strategy.rows, 3 * EXAMPLES) and same(found, results_of(
            head, data, build_strategy(trajectories=3, **NOISE)))
        sizes.clear()


def test_rows_that_nobody_needs_any_more_are_not_computed(path):
    head, data, strategy = undecided_head(), tiny_test_data(path, 8), build_strategy(early_exit=True, patience=3)
    strategy.prepare(head.eval(), data)
    example_set, = data.sets.values()
    strategy.begin(example_set, np.arange(EXAMPLES), 8)
    with torch.no_grad():
        computed = [(len(step.numbers), strategy.take(step), int(step.busy.sum()))
                    for step in row_steps(head, data, example_set, strategy, ALONE)]
    assert computed[0][0] == EXAMPLES and all(3 * rows <= 4 * busy for rows, _, busy in computed)
    assert computed[-1][0] < EXAMPLES


def test_evaluators_get_one_answer_for_each_puzzle_the_chosen_one(path):
    """So it is with ARC: each augmentation, a puzzle of its own there, gives one vote, its surest trajectory's."""
    class Votes:
        required_outputs = {"preds", "q_halt_logits"}

        def begin_eval(self):
            self.given = []

        def update_batch(self, batch, outputs):
            self.given += zip(batch["inputs"].numpy(), outputs["preds"].numpy(), outputs["q_halt_logits"].tolist())

        def result(self, save_path, rank, world_size, group):
            return {}

    head, data, votes = undecided_head(), tiny_test_data(path, 3), Votes()
    evaluate(head, data, ALONE, {"eval/votes": (str(path), votes)}, strategy=build_strategy(trajectories=3, **NOISE))
    whole = traced(head, data, build_strategy(trajectories=3, **NOISE))
    assert len(votes.given) == EXAMPLES
    for inputs, preds, q in votes.given:
        number, = (n for n in range(EXAMPLES) if np.array_equal(data.examples([n])["inputs"][0], inputs))
        ends = [whole[number, attempt][-1] for attempt in range(3)]
        best = max(ends, key=lambda end: end[1])
        assert np.array_equal(preds, best[0]) and q == pytest.approx(best[1], abs=1e-4)


def test_two_processes_answer_as_one(path, tmp_path):
    run = train(pretrain_config(
        f"data_paths=[{path}]", f"checkpoint.path={tmp_path / 'run'}", *TINY_ARCH, f"log_dir={tmp_path}",
        "global_batch_size=4", "epochs=1", "lr=1e-2", "lr_warmup_steps=0", "use_wandb=false", "evaluators=[]"), ALONE)
    found = []
    for ranks in (1, 2):
        done = run_script("evaluate.py", f"checkpoint={run}", f"output_dir=out{ranks}", "global_batch_size=4",
                          "eval_save_outputs=[preds]", "trajectories=2", "augment=2", "noise=0.5", "noise_on=z_H",
                          "curve=true", cwd=tmp_path, ranks=ranks, OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stderr
        metrics = json.loads((tmp_path / f"out{ranks}" / "metrics.json").read_text())
        points = [replace(point, seconds=0) for point in read_points(tmp_path / f"out{ranks}")]
        assert metrics.pop("noise_on") == "z_H"
        found.append((metrics, points, (tmp_path / f"out{ranks}" / "oscillation.csv").read_text()))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-4) and found[0][1:] == found[1][1:]
    alone = torch.load(tmp_path / "out1" / "outputs.rank0.pt", weights_only=True)["preds"]
    parts = [torch.load(tmp_path / "out2" / f"outputs.rank{rank}.pt", weights_only=True)["preds"] for rank in (0, 1)]
    assert torch.equal(torch.cat([parts[0][:2], parts[1][:2], parts[0][2:], parts[1][2:]]), alone)
