"""Draws ARC tasks and the model's answers on one HTML page without scripts: demonstrations, attempts, truth, votes."""
from collections.abc import Iterable, Sequence
from pathlib import Path

from evaluators.arc_votes import Answer, Grid
from utils.html import Html, tag

# the colours 0 to 9, as the ARC Prize draws them
PALETTE = ("#000000", "#1e93ff", "#f93c31", "#4fcc30", "#ffdc00", "#999999", "#e53aa3", "#ff851b",
           "#87d8f1", "#921231")
SIDE_PX, CELL_PX = 168, 22  # largest side of a drawn grid and of a cell, in pixels
STYLE = """
:root { --ink: #1c2128; --soft: #5f6b7a; --line: #dfe3e8; --good: #1a7f37; --bad: #c0392b; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 32px 24px; max-width: 1180px; background: #f4f5f7; color: var(--ink);
       font: 14px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { margin: 0 0 4px; font-size: 24px; }
h2 { margin: 0; font: 600 16px/1.4 ui-monospace, "DejaVu Sans Mono", monospace; }
header p { margin: 0 0 20px; color: var(--soft); }
.task { margin-bottom: 20px; padding: 18px 20px; background: #fff; border: 1px solid var(--line); border-radius: 10px; }
.title { display: flex; align-items: center; gap: 12px; margin-bottom: 14px; }
.mark { padding: 2px 10px; border-radius: 999px; font-size: 12px; font-weight: 600; color: #fff; }
.solved .mark { background: var(--good); } .unsolved .mark { background: var(--bad); }
.unknown .mark { background: var(--soft); }
.label { margin: 0 0 6px; font-size: 11px; font-weight: 600; letter-spacing: .06em; text-transform: uppercase;
         color: var(--soft); }
.demonstrations { display: flex; flex-wrap: wrap; gap: 14px 30px; margin-bottom: 16px; }
.pair { display: flex; align-items: center; gap: 8px; }
.arrow { color: var(--soft); font-size: 18px; }
.test { display: flex; flex-wrap: wrap; align-items: flex-start; gap: 18px 24px; padding-top: 14px;
        margin-top: 12px; border-top: 1px solid var(--line); }
figure { margin: 0; padding: 8px; border: 2px solid transparent; border-radius: 8px; }
figure.right { border-color: var(--good); background: #eef8f0; }
figure.wrong { border-color: #e8c4bf; }
figure .label { min-height: 16px; }
figure.right .label { color: var(--good); }
figcaption { margin-top: 6px; color: var(--soft); font-size: 12px; }
figcaption b { color: var(--ink); }
svg { display: block; background: #555; }
.none { width: 84px; height: 60px; display: grid; place-items: center; border: 1px dashed #b6bec8; color: var(--soft);
        font-size: 12px; }
@media print { body { background: #fff; } .task { break-inside: avoid; } }
""" + "\n".join(f".c{i} {{ fill: {colour}; }}" for i, colour in enumerate(PALETTE))


def write_gallery(tasks: dict[str, dict], answers: Sequence[Answer],
                  metrics: dict[str, float], count: int,
                  submission_K: int, file: Path) -> None:
    """Draw the first `count` tasks into `file`. `tasks`: demonstrations and truths by task, as in test_puzzles.json."""
    shown = list(tasks)[:count]
    by_task = {task: [answer for answer in answers if answer.task == task] for task in shown}
    told = [f"{len(shown)} of {len(tasks)} tasks", *(f"{name} {100 * value:.1f}%" for name, value in metrics.items())]
    head = tag("header", tag("h1", "ARC answers"), tag("p", " · ".join(told)))
    body = tag("body", head,
               *(_task(task, tasks[task], by_task[task], submission_K) for task in shown))
    file.write_text(f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>ARC answers</title><style>{STYLE}</style></head>
{body}
</html>
""", encoding="utf-8")


def _task(task: str, puzzle: dict, answers: Sequence[Answer], submission_K: int) -> Html:
    scored = [answer.solved_within(submission_K) for answer in answers if answer.truth_known]
    state = "unknown" if not scored else "solved" if all(scored) else "unsolved"
    if not scored:
        told = "no solution known"
    else:
        told = state if len(scored) == 1 else f"{sum(scored)} of {len(scored)} solved"
    demonstrations = [tag("div", _grid(pair["input"]), tag("span", "→", class_="arrow"), _grid(pair["output"]),
                          class_="pair") for pair in puzzle["train"]]
    return tag("section", tag("div", tag("h2", task), tag("span", told, class_="mark"), class_="title"),
               tag("p", "Demonstrations", class_="label"), tag("div", *demonstrations, class_="demonstrations"),
               *(_test(puzzle["test"][answer.number], answer) for answer in answers),
               class_=f"task {state}")


def _test(pair: dict[str, Grid], answer: Answer) -> Html:
    truth = pair.get("output", [])
    if not answer.truth_known:
        rank = ["not known"]
    elif answer.truth_rank is None:
        rank = ["nobody voted for it"]
    else:
        rank = ["candidate ", tag("b", f"{answer.truth_rank}"),
                f" of {answer.candidates}, {_count(answer.truth_votes, 'vote')}"]
    figures = [_figure(f"Test input {answer.number + 1}", pair["input"],
                       [_count(answer.votes, "vote")])]
    for i, attempt in enumerate(answer.attempts, start=1):
        mark, kind = ("", "") if not truth else (" ✓", "right") if attempt.grid == truth else (" ✗", "wrong")
        figures.append(_figure(f"Attempt {i}{mark}", attempt.grid,
                               [tag("b", _count(attempt.votes, "vote")), f", q {attempt.q:.2f}"], kind))
    if not answer.attempts:
        figures.append(_figure("Attempts", [], ["no prediction"], "wrong"))
    return tag("div", *figures, _figure("Truth", truth, rank), class_="test")


def _figure(label: str, grid: Grid, caption: Sequence[str], kind: str = "") -> Html:
    return tag("figure", tag("p", label, class_="label"), _grid(grid),
               tag("figcaption", *caption), class_=kind)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _grid(grid: Grid) -> Html:
    """A drawing of a grid. Thin gaps between cells let the reader count equal neighbours."""
    if not grid:
        return tag("div", "no grid", class_="none")
    height, width = len(grid), len(grid[0])
    cell = min(CELL_PX, SIDE_PX / max(height, width))
    paths = [tag("path", class_=f"c{colour}", d="".join(_cells(grid, colour)))
             for colour in dict.fromkeys(colour for row in grid for colour in row)]
    return tag("svg", *paths, width=f"{width * cell:.0f}", height=f"{height * cell:.0f}",
               viewBox=f"0 0 {width * 10} {height * 10}", preserveAspectRatio="none", role="img",
               aria_label=f"{height} by {width}")


def _cells(grid: Grid, colour: int) -> Iterable[str]:
    for y, row in enumerate(grid):
        for x, value in enumerate(row):
            if value == colour:
                yield f"M{10 * x} {10 * y}h9.4v9.4h-9.4z"
