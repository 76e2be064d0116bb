"""Pictures of accuracy against compute, and of how true a model's confidence is."""
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.plots import plain, pyplot, save

STYLES = ("-", "--", ":", "-.")  # one for each checkpoint
RULE_ORDER = ("q", "vote", "residual", "first_halt", "valid", "best_of (upper bound)")


def plot_curves(curves: Mapping[str, Sequence[Any]], published: Sequence[tuple[str, int, float]],
                picture: Path) -> None:
    """Curves by name, each of points (`evaluators.curve.Point`).

    Left: exact accuracy against row-steps. Deeper is one attempt after more and more steps; the rules have more and
    more attempts of all steps. Middle: final and ever right by steps, of one and of all attempts. Right: recall and
    precision of each rule with all attempts of all steps. `published`: name, row-steps and exact accuracy.
    """
    plt = pyplot()
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(19, 5.5))
    for style, (name, points) in zip(STYLES * len(curves), curves.items()):
        label = f"{plain(name)}: " if len(curves) > 1 else ""
        most, deepest = max(p.trajectories for p in points), max(p.steps for p in points)
        rules = [rule for rule in RULE_ORDER if any(p.rule == rule for p in points)]
        _line(left, [p for p in points if p.rule == "q" and p.trajectories == 1], label + "deeper", "k", style)
        _line(left, [p for p in points if p.rule == "first_halt" and p.trajectories == 1], label + "early exit",
              "0.6", style)
        for i, rule in enumerate(rules if most > 1 else []):
            broad = [p for p in points if p.rule == rule and p.steps == deepest]
            _line(left, broad, label + rule, f"C{i}", style, width=4 - i / 2)  # so that one below another is seen
        for i, rule in enumerate(rules):
            for end in (p for p in points if p.rule == rule and p.steps == deepest and p.trajectories == most):
                if end.precision is not None:
                    right.plot(end.exact, end.precision, "osD^"[list(curves).index(name) % 4], color=f"C{i}",
                               label=label + rule)
        for k, colour in {1: "k", most: "C0"}.items():
            of_k = [p for p in points if p.rule == "q" and p.trajectories == k]
            said = f"{label}{k} attempt{'s' * (k > 1)}"
            middle.plot([p.steps for p in of_k], [p.exact for p in of_k], style, color=colour, label=f"{said}: final")
            middle.plot([p.steps for p in of_k], [p.ever for p in of_k], style, color=colour, alpha=0.4,
                        label=f"{said}: ever")
    for name, row_steps, exact in published:
        left.plot(row_steps, exact, "*", color="C3", markersize=9)
        left.annotate(f" {name} (published)", (row_steps, exact), fontsize=7, va="center")
    left.set(xscale="log", xlabel="row-steps a puzzle", ylabel="exact accuracy", title="accuracy against compute")
    middle.set(xlabel="supervision steps", ylabel="exact accuracy", title="right in the end, and ever right")
    right.set(xlabel="recall: exact accuracy", ylabel="precision: right among confident answers",
              title="what is selected")
    for axis in (left, middle, right):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2)
    save(figure, picture)


def plot_reliability(bins: Sequence[Mapping[str, Any]], picture: Path) -> None:
    """Share of right answers by the probability that q gives them, with the number of attempts in each bin."""
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(5, 5))
    there = [one for one in bins if one["attempts"]]
    axis.plot([0, 1], [0, 1], color="0.7", linewidth=1, label="if q were true")
    axis.bar([(one["from"] + one["to"]) / 2 for one in there], [one["right"] for one in there],
             width=0.9 / len(bins), alpha=0.4)
    axis.plot([one["probability"] for one in there], [one["right"] for one in there], "o-", label="measured")
    for one in there:
        axis.annotate(str(one["attempts"]), (one["probability"], one["right"]), fontsize=8, ha="center", va="bottom")
    axis.set(xlabel="probability by q_halt", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1.08),
             title="reliability after the last step, with numbers of attempts")
    axis.grid(alpha=0.3)
    axis.legend(loc="upper left")
    save(figure, picture)


def _line(axis, points: Sequence[Any], label: str, colour: str, style: str, width: float = 1.5) -> None:
    points = sorted(points, key=lambda point: point.row_steps)
    axis.plot([p.row_steps for p in points], [p.exact for p in points], style, color=colour, marker=".", label=label,
              linewidth=width)
