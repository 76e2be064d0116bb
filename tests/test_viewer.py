"""The page of puzzles being solved, in a real browser: what it shows of recorded answers, and how it is used."""
import json
import re
from pathlib import Path

import numpy as np
import pytest

from browser import Browser
from dataset.kinds.arc import ARC
from dataset.kinds.maze import Maze
from dataset.kinds.sequence import Sequence
from dataset.kinds.sudoku import Sudoku
from dataset.puzzle_dataset import PuzzleDataset, PuzzleDatasetConfig
from documents import page as page_of
from evaluate import score
from evaluators.traces import Trace, Trajectory
from evaluators.viewer import FOLDER, Shown, embedded, watched, write_viewer
from helpers import TINY_ARCH, evaluate_config, pretrain_config, random_arc_task, run_script, write_tiny_dataset
from pretrain import train
from test_rows import head_of
from utils.distributed import World

QUESTION = "1...3412....432."
ANSWER = "1243341221344321"
FIRST = "1243341211114321"  # after one step: three cells are wrong
MARKUP = '</script><img src=x onerror="ran=1"><script>ran=1</script>'


def tokens(text: str) -> np.ndarray:
    return Sudoku(16, 6).parse(text)


def trajectory(attempt: int, *answers: np.ndarray, sure: int = 204, q: float = 0.25) -> Trajectory:
    """One whose answers have a probability of `sure`/255, and beside each token the next one half of what is left."""
    preds = np.stack(answers).astype(np.int16)
    steps = len(preds)
    levels = np.broadcast_to(np.array([sure, (255 - sure) // 2], np.uint8), (*preds.shape, 2))
    return Trajectory(attempt, np.stack([preds, (preds + 1) % 5], -1), levels.copy(),
                      np.linspace(q, 1, steps, dtype=np.float32),
                      np.array([np.nan, *np.geomspace(100, 1, steps - 1)], np.float32))


def sudoku_trace(label: bool = True) -> Trace:
    """Two trajectories of a 4×4 Sudoku: the second solves it in its third step, and is taken."""
    right, first = tokens(ANSWER), tokens(FIRST)
    tracks = [trajectory(0, first, first), trajectory(1, first, first, right, q=0.5)]
    return Trace(0, tokens(QUESTION), right if label else None, 0, tracks, 1, right)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser.start(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Opens a page of these puzzles; at the end there must be no error in it."""
    pages = []

    def open_page(kind, *traces: Trace, where: str = "", about: str = "a run", demonstrations=(), **window):
        file = tmp_path / "page.html"
        puzzles = [Shown(trace, f"example {i}", demonstrations) for i, trace in enumerate(traces)]
        write_viewer(file, kind, puzzles, about)
        page = browser.open(f"file://{file}{where}", **window)
        pages.append(page)
        page.wait("typeof shown !== 'undefined' && shown !== null && !$('main').hidden")
        return page

    yield open_page
    for page in pages:
        assert page.complaints() == []
        page.close()


def board(page) -> str:
    """The text of the board, a blank cell as a dot."""
    return page.value("cells.map(cell => cell.textContent || '.').join('')")


def step_is(page, step: int) -> None:
    page.wait(f"state.step === {step}")


def test_the_board_shows_the_answer_of_the_step_in_the_address(opened):
    page = opened(Sudoku(16, 6), sudoku_trace())
    assert board(page) == QUESTION.replace("0", ".") and "The puzzle." in page.text("#verdict")
    for step, expected in ((1, FIRST), (3, ANSWER)):
        page.value(f"location.hash = 'step={step}'")
        step_is(page, step)
        page.wait(f"cells.map(cell => cell.textContent).join('') === '{expected}'")
    assert "Step 3 of 3. ✓ solved · 100 % sure · 3 changed" in page.text("#verdict")
    assert page.text("#status") == page.text("#verdict")


def test_clues_and_errors_are_marked_by_more_than_colour(opened):
    page = opened(Sudoku(16, 6), sudoku_trace(), where="#step=2")
    wrong = [a != b for a, b in zip(FIRST, ANSWER)]
    assert page.value("cells.map(cell => cell.classList.contains('wrong'))") == wrong
    assert page.value("cells.map(cell => cell.classList.contains('given'))") == [c != "." for c in QUESTION]
    labels = page.value("cells.map(cell => cell.getAttribute('aria-label'))")
    assert labels[0] == "Row 1, column 1: 1, given"
    assert labels[1] == "Row 1, column 2: 2, 80 percent sure"
    assert labels[8] == "Row 3, column 1: 1, 80 percent sure, wrong, right is 2"
    assert page.value("getComputedStyle(cells[8], '::after').content") == '"✕"'
    assert page.value("getComputedStyle(cells[0]).fontWeight") == "700"
    assert "3 cells wrong" in page.text("#verdict")


def test_keys_and_the_slider_go_from_step_to_step(opened):
    page = opened(Sudoku(16, 6), sudoku_trace())
    for key, step in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", 3), ("ArrowRight", 3),
                      ("Home", 0)):
        page.press(key)
        step_is(page, step)
    page.value("$('step').focus()")
    page.press("ArrowRight")
    step_is(page, 1)
    assert page.value("$('step').getAttribute('aria-valuetext')") == "step 1 of 3"
    page.click("#after")
    step_is(page, 2)


def test_it_plays_pauses_and_begins_again(opened):
    page = opened(Sudoku(16, 6), sudoku_trace())
    assert page.value("$('play').getAttribute('aria-label')") == "play"
    page.press(" ")
    assert page.value("$('play').getAttribute('aria-label')") == "pause"
    page.press(" ")
    assert page.value("state.timer") is None
    page.click("#play")
    page.wait("state.step === 3 && state.timer === null")
    page.click("#play")
    assert page.value("state.step") == 0
    page.press("ArrowLeft")  # a key stops it
    assert page.value("state.timer") is None


def test_the_candidates_of_a_cell_show_where_the_focus_goes(opened):
    page = opened(Sudoku(16, 6), sudoku_trace(), where="#step=1")
    page.value("cells[0].focus()")
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowLeft"):
        page.press(key)
    assert page.value("document.activeElement.getAttribute('aria-label')").startswith("Row 3, column 1")
    assert page.value("cells.filter(cell => cell.tabIndex === 0).length") == 1
    assert page.text("#cell h2") == "Row 3, column 1: right is 2"
    assert page.value("[...document.querySelectorAll('#cell li')].map(one => one.textContent)") == ["180 %", "210 %"]
    assert page.value("[...document.querySelectorAll('.course span')].map(one => one.textContent)") == ["1", "1", "2"]
    page.press("PageDown")
    assert page.value("state.step") == 2


def test_trajectories_stand_side_by_side_and_the_one_taken_is_said(opened):
    page = opened(Sudoku(16, 6), sudoku_trace(), where="#step=3")
    buttons = "[...document.querySelectorAll('#trajectories button')]"
    assert page.value(f"{buttons}.map(one => one.textContent)") == ["13 cells wrong100 % sure",
                                                                    "2 · taken✓ solved100 % sure"]
    assert page.value(f"{buttons}.map(one => one.getAttribute('aria-pressed'))") == ["false", "true"]
    assert page.text("#trajectories h2") == "2 trajectories of this puzzle; number 2 was taken"
    page.click("#trajectories button")
    assert board(page) == FIRST and "ended after 2 steps" in page.text("#verdict")
    assert page.value("document.querySelectorAll('.chart:first-child .other').length") == 1


def test_the_curves_have_a_cursor_on_the_step_and_take_a_click(opened):
    page = opened(Sudoku(16, 6), sudoku_trace(), where="#step=1")
    assert page.value("[...document.querySelectorAll('.chart b')].map(one => one.textContent)") == ["50 %", "3", "–"]
    assert page.value("document.querySelector('.chart svg').getAttribute('aria-label')").endswith(": 50 %, 75 %, 100 %")
    before = page.value("document.querySelector('.cursor').x1.baseVal.value")
    box = page.value("(b => [b.right, b.top, b.height])(document.querySelector('.chart svg').getBoundingClientRect())")
    for kind in ("mousePressed", "mouseReleased"):
        page.tell("Input.dispatchMouseEvent", type=kind, x=box[0] - 8, y=box[1] + box[2] / 2, button="left",
                  clickCount=1)
    step_is(page, 3)
    assert page.value("document.querySelector('.cursor').x1.baseVal.value") > before
    assert page.value("[...document.querySelectorAll('.chart b')].map(one => one.textContent)") == ["100 %", "0", "1"]


def test_without_a_known_answer_the_rules_judge(opened):
    page = opened(Sudoku(16, 6), sudoku_trace(label=False), where="#step=1")
    assert "✗ fails “valid” · " in page.text("#verdict")
    page.press("End")
    assert "✓ right by the rules" in page.text("#verdict")
    assert page.value("cells.some(cell => cell.classList.contains('wrong'))") is False
    assert page.value("$('truth')") is None


def test_another_puzzle_is_chosen_from_the_list(opened):
    other = sudoku_trace()
    page = opened(Sudoku(16, 6), sudoku_trace(), Trace(7, tokens("." * 16), None, 0, other.trajectories[:1], 0, None))
    assert page.value("[...$('puzzle').options].map(one => one.textContent)") == ["example 0 ✓ step 3", "example 1 ✗"]
    page.click("#puzzle-after")
    page.wait("state.puzzle === 1")
    assert board(page) == "." * 16 and page.value("$('trajectories').hidden") is True
    assert page.value("location.hash") == "#puzzle=2&step=0"


def test_a_maze_is_drawn_in_its_colours(opened):
    kind = Maze(9, 6)
    question, right = kind.parse("S# " + " # " + "  G"), kind.parse("S# " + "o# " + "ooG")
    page = opened(kind, Trace(0, question, right, 0, [trajectory(0, question, right)], 0, right), where="#step=1")
    colours = page.value("cells.map(cell => getComputedStyle(cell.firstChild).backgroundColor)")
    assert ["#{:02x}{:02x}{:02x}".format(*map(int, re.findall(r"\d+", colour))) for colour in colours] == [
        kind.colours[token] for token in question]
    assert page.value("cells.map(cell => cell.classList.contains('wrong'))") == list(question != right)
    sizes = page.value("cells.map(cell => cell.firstChild.offsetWidth / cell.clientWidth)")
    assert sizes[0] > 0.95 and 0.8 < sizes[3] < 0.95  # what is given is sure
    marks = "cells.map(cell => getComputedStyle(cell.firstChild, '::before').content)"
    assert [mark.strip('"') for mark in page.value(marks)] == list("S") + [""] * 7 + list("G")
    page.click("#show-marks")
    assert set(page.value(marks)) == {"none"}


def test_arc_shows_demonstrations_and_grids_of_any_size(opened, tmp_path):
    rng = np.random.default_rng(0)
    task = random_arc_task(rng)
    pair = task["test"][0]
    kind = ARC(900, 12)
    question, label = (kind.parse(json.dumps(pair[side])) for side in ("input", "output"))
    (tmp_path / "test_puzzles.json").write_text(json.dumps({"task": task}))
    shown, none = kind.demonstrations(tmp_path, ["task", "another"])
    assert none == [] and [[kind.format(side) for side in one] for one in shown] == [
        [json.dumps(one["input"]), json.dumps(one["output"])] for one in task["train"]]
    page = opened(kind, Trace(0, question, label, 0, [trajectory(0, question, label)], 0, label), where="#step=2",
                  demonstrations=shown)
    rows, columns = len(pair["output"]), len(pair["output"][0])
    assert page.value("document.querySelectorAll('#examples canvas').length") == 2 * len(task["train"])
    drawn = page.value("document.querySelector('#examples canvas').getAttribute('aria-label')")
    given = task["train"][0]["input"]
    assert drawn == f"input 1, {len(given)} by {len(given[0])}: " + ", ".join(" ".join(map(str, row)) for row in given)
    names = page.value("cells.filter(Boolean).map(cell => cell.getAttribute('aria-label'))")
    tall, wide = max(rows, len(pair["input"])), max(columns, len(pair["input"][0]))
    assert len(names) == tall * wide  # the answers, none of which is larger
    assert page.value("cells[0].getAttribute('aria-label')").startswith(f"Row 1, column 1: {pair['output'][0][0]}, ")
    assert "✓ solved" in page.text("#verdict")


def test_what_files_say_is_text_and_nothing_else(opened):
    kind = Sequence(5, 5, [MARKUP, "left", "<b>right</b>", "push", MARKUP])
    question = np.array([1, 2, 3, 4, 0])
    page = opened(kind, Trace(0, question, question, 0, [trajectory(0, question)], 0, question), about=MARKUP,
                  where="#step=1")
    assert page.text("#about") == MARKUP and page.value("document.title") == "Sequence, step by step"
    assert page.value("cells.map(cell => cell.textContent)")[:4] == ["left", "<b>right</b>", "push", MARKUP]
    page.value("cells[3].focus()")
    assert MARKUP in page.text("#cell")
    assert page.value("typeof ran") == "undefined" and page.value("document.images.length") == 0
    assert page.value("document.scripts.length") == 2
    # a script that got in all the same would not run
    page.value("document.body.append(Object.assign(document.createElement('script'), {textContent: 'ran = 1'}))")
    assert page.value("typeof ran") == "undefined"
    assert any("Content Security Policy" in line for line in page.complaints())
    page.browser.events.clear()


def test_no_character_of_the_data_ends_its_element():
    text = embedded({"name": MARKUP + "<!--&\u2028", "value": float("nan")})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"name": MARKUP + "<!--&\u2028", "value": None}


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone_and_the_dark(opened, dark):
    page = opened(Sudoku(16, 6), sudoku_trace(), where="#step=2", width=390, height=844, dark=dark)
    assert page.value("document.documentElement.scrollWidth") <= 390
    assert page.value("Math.min(...cells.map(cell => cell.offsetWidth))") > 30
    lightness = sum(map(int, re.findall(r"\d+", page.value("getComputedStyle(document.body).backgroundColor"))))
    assert (lightness < 150) == dark


def test_it_is_small(tmp_path):
    rng = np.random.default_rng(0)  # random answers, which can hardly be packed
    def random_trace(number: int) -> Trace:
        candidates = rng.integers(2, 11, (16, 81, 3)).astype(np.int16)
        one = Trajectory(0, candidates, rng.integers(3, 255, candidates.shape).astype(np.uint8), rng.random(16),
                         rng.random(16))
        return Trace(number, candidates[0, :, 0], candidates[1, :, 1], 0, [one], 0, candidates[-1, :, 0])

    file = tmp_path / "page.html"
    write_viewer(file, Sudoku(81, 11), [Shown(random_trace(i), str(i)) for i in range(50)], "random")
    assert file.stat().st_size < 1_000_000
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", file.read_text())


def luminance(colour: str) -> float:
    channels = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_text_is_readable_on_every_ground():
    """WCAG 2.2, 1.4.3: a contrast of at least 4.5."""
    schemes = re.findall(r":root \{(.*?)\}", (FOLDER / "page.css").read_text(), re.DOTALL)
    assert len(schemes) == 2
    for scheme in schemes:
        colours = dict(re.findall(r"--(\w+): (#\w{6});", scheme))
        grounds = {"ink": ["paper", "raised", "given", "sure", "unsure"], "soft": ["paper", "raised"],
                   "answer": ["sure", "unsure", "raised"], "wrong": ["sure", "unsure", "given", "raised", "paper"],
                   "good": ["paper", "raised"], "paper": ["answer"], "raised": ["wrong"]}
        for ink, on in grounds.items():
            for ground in on:
                light, dark = sorted((luminance(colours[ink]), luminance(colours[ground])), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{ink} on {ground}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("viewer")
    write_tiny_dataset(folder / "data")
    return train(pretrain_config(f"data_paths=[{folder / 'data'}]", f"checkpoint.path={folder / 'run'}", "epochs=1",
                                 f"log_dir={folder}", *TINY_ARCH, "evaluators=[]", "global_batch_size=16",
                                 "use_wandb=false"), World())


def test_evaluate_writes_the_page_and_scores_nothing(trained, tmp_path, capsys):
    file = tmp_path / "new" / "page.html"
    assert score(evaluate_config(f"checkpoint={trained}", f"viewer={file}", "viewer_puzzles=[3,0]"), World()) == {}
    data = json.loads(re.search(r'id="data">(.*?)</script>', file.read_text())[1])
    assert [puzzle["name"] for puzzle in data["puzzles"]] == ["example 3: puzzle4", "example 0: puzzle1"]
    assert "puzzles: 2 of" in capsys.readouterr().out and not (trained / "evaluation").exists()
    score(evaluate_config(f"checkpoint={trained}", f"viewer={file}"), World())
    assert file.read_text().count('"name"') == 10  # as many as there are


def test_two_ranks_write_the_page_that_one_writes(trained, tmp_path):
    pages = []
    for ranks in (1, 2):
        done = run_script("evaluate.py", f"checkpoint={trained}", f"viewer={ranks}.html", "device=cpu", cwd=tmp_path,
                          ranks=ranks)
        assert done.returncode == 0 and done.stdout.count("viewer: ") == 1, done.stderr
        pages.append((tmp_path / f"{ranks}.html").read_text())
    assert pages[0] == pages[1]


def test_puzzles_of_ones_own_are_shown_too(trained, tmp_path):
    file = tmp_path / "page.html"
    score(evaluate_config(f"checkpoint={trained}", "solve='1 2 3 4 1 2'", f"viewer={file}"), World())
    data = json.loads(re.search(r'id="data">(.*?)</script>', file.read_text())[1])
    assert [(puzzle["name"], puzzle["labelled"]) for puzzle in data["puzzles"]] == [("example 0", False)]


def test_the_python_of_the_page_runs(trained, capsys):
    code, = re.findall(r"```python\n(.*?)```", page_of("docs/seeing.md"), re.DOTALL)
    exec(code.replace("checkpoints/demo/seed0", str(trained)), {})
    assert capsys.readouterr().out.startswith("(3, 6) [")


@pytest.mark.parametrize("settings, message", [
    (["viewer_puzzles=3"], "viewer_puzzles has no effect without viewer"),
    (["viewer=a.html", "per_step=true"], "per_step has no effect with viewer=a.html"),
    (["viewer=a.html", "picture=slowest"], "picture has no effect with viewer=a.html")])
def test_settings_without_effect_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        evaluate_config("checkpoint=run", *settings)


def test_a_page_shows_one_kind_of_puzzle(tmp_path):
    paths = [write_tiny_dataset(tmp_path / kind, seq_len=16, vocab_size=6) for kind in ("sequence", "sudoku")]
    for path in paths:
        file = path / "test" / "dataset.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"kind": path.name}))
    data = PuzzleDataset(PuzzleDatasetConfig(seed=0, dataset_paths=[*map(str, paths)], test_set_mode=True,
                                             global_batch_size=2), "test")
    head = head_of(num_puzzle_identifiers=data.metadata.num_puzzle_identifiers, seq_len=16, vocab_size=6)
    with pytest.raises(ValueError, match="hold puzzles of Sequence, Sudoku, and a page shows one kind"):
        watched(head, data, [0, 12], None, World())
    kind, puzzles = watched(head, data, [12, 11], None, World())
    assert isinstance(kind, Sudoku)
    assert [puzzle.name for puzzle in puzzles] == ["example 12: puzzle3", "example 11: puzzle2"]
