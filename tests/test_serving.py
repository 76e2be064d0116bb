"""The local page for puzzles of one's own: a real server asked by real requests, and its page in a real browser."""
import http.client
import json
import re
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from browser import Browser
from config.showing import EXAMPLES, editor
from dataset.kinds.maze import Maze
from dataset.kinds.sequence import Sequence
from evaluators.serving import MOST_BYTES, Server
from evaluators.traces import Trace, Trajectory
from evaluators.viewer import Shown, page_data, puzzle_data
from evaluators.viewer import page as page_of
from helpers import TINY_ARCH, evaluate_config, pretrain_config, run_script, start_script, wait_for, write_tiny_dataset
from pretrain import train
from utils.distributed import World

PUZZLE = "1...34.......432"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A network for 4×4 Sudokus, as good as untrained."""
    folder = tmp_path_factory.mktemp("serving")
    data = write_tiny_dataset(folder / "data", seq_len=16, vocab_size=6)
    for split in ("train", "test"):
        file = data / split / "dataset.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"kind": "sudoku"}))
    return train(pretrain_config(f"data_paths=[{data}]", f"checkpoint.path={folder / 'run'}", "epochs=1",
                                 f"log_dir={folder}", *TINY_ARCH, "evaluators=[]", "global_batch_size=16",
                                 "use_wandb=false"), World())


@pytest.fixture(scope="module")
def address(run, tmp_path_factory):
    """Of a server as a user starts it; Ctrl-C must end it."""
    folder = tmp_path_factory.mktemp("server")
    process = start_script("evaluate.py", f"checkpoint={run}", "serve=true", "port=0", cwd=folder)
    said = wait_for(lambda: re.search(r"(http://\S+) solves your puzzles \(Sudoku\)", (folder / "stdout").read_text()),
                    process)
    yield said[1]
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0, (folder / "stderr").read_text()
    assert (folder / "stderr").read_text() == "ended\n"


def asked(address: str, method: str = "POST", path: str = "/solve", body: object = None, **headers: str | None):
    """The status and the lines that a request is answered with."""
    host = re.match(r"http://(.*)/", address)[1]
    connection = http.client.HTTPConnection(host, timeout=60)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"Host": host, "Content-Type": "application/json", "Content-Length": str(len(data))} | {
        name.replace("_", "-"): value for name, value in headers.items()}
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in sent.items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(data)
    answer = connection.getresponse()
    text, is_json = answer.read().decode(), "json" in answer.headers["Content-Type"]
    connection.close()
    return answer, [json.loads(line) for line in text.splitlines()] if is_json else text


def test_a_puzzle_is_answered_step_by_step(address):
    answer, lines = asked(address, body={"puzzle": PUZZLE})
    assert answer.status == 200 and [len(line["puzzle"]["trajectories"][0]["q"]) for line in lines] == [1, 2, 3]
    assert [line["puzzle"]["selected"] for line in lines] == [None, None, 0]
    assert lines[-1]["puzzle"]["trajectories"][0]["broken"][0]  # a network like this solves nothing


def test_the_page_is_whole_and_may_ask_its_own_server_only(address):
    answer, text = asked(address, "GET", "/", b"")
    assert answer.status == 200 and answer.headers["X-Frame-Options"] == "DENY"
    assert "default-src 'none'" in text and "connect-src 'self'" in text
    assert not re.search(r"""(src|href)=["']""", text)


@pytest.mark.parametrize("path", ["/../../etc/passwd", "//etc/passwd", "/page.css", "/?", "/solve", "/%2e%2e/a.py"])
def test_it_takes_no_path_from_a_request(address, path):
    answer, lines = asked(address, "GET", path, b"")
    assert answer.status == 404 and lines == [{"error": "there is one page, /"}]
    assert asked(address, "POST", path + "x", {"puzzle": PUZZLE})[0].status == 404


@pytest.mark.parametrize("headers", [
    {"Host": "evil.example"}, {"Host": None}, {"Host": "evil.example:8000"}, {"Origin": "http://evil.example"},
    {"Origin": "null"}, {"Origin": "https://127.0.0.1"}])
def test_another_site_cannot_ask_it(address, headers):
    for method, path in (("POST", "/solve"), ("GET", "/")):
        answer, lines = asked(address, method, path, {"puzzle": PUZZLE}, **headers)
        assert answer.status == 403 and list(lines[0]) == ["error"]


def test_its_own_page_can_ask_it_under_both_names(address):
    port = re.search(r":(\d+)/", address)[1]
    for name in ("127.0.0.1", "localhost"):
        host = f"{name}:{port}"
        assert asked(address, body={"puzzle": PUZZLE}, Host=host, Origin=f"http://{host}")[0].status == 200


@pytest.mark.parametrize("body, headers, status, message", [
    ({"puzzle": "12"}, {}, 400, "the line has 2 characters; write 16, one for each cell"),
    ({"puzzle": PUZZLE.replace("3", "x", 1)}, {}, 400, "character 5 is 'x'; a cell is one of"),
    ({"puzzle": 7}, {}, 400, "the body is no"), ([PUZZLE], {}, 400, "the body is no"),
    ({"puzzle": "1" * 30_000}, {}, 400, "of at most"), (b"{", {}, 400, "no JSON"), (b"[" * 50_000, {}, 400, "no JSON"),
    ({"puzzle": PUZZLE}, {"Content_Type": "text/plain"}, 415, "application/json"),
    ({"puzzle": PUZZLE}, {"Content_Length": None}, 411, "length"),
    ({"puzzle": PUZZLE}, {"Content_Length": "-1"}, 411, "length"),
    (b"", {"Content_Length": str(MOST_BYTES + 1)}, 413, "longer than"),
    (b"", {"Content_Length": "9" * 5000}, 413, "longer than")])
def test_bad_input_gets_a_message(address, body, headers, status, message):
    answer, lines = asked(address, body=body, **headers)
    assert answer.status == status and message in lines[0]["error"]


def test_puzzles_are_solved_one_at_a_time_and_one_whose_page_is_gone_is_given_up():
    at_once, most, ended = [], [], []
    gone, more = threading.Event(), threading.Event()

    def solve(puzzle: str):
        at_once.append(puzzle)
        most.append(len(at_once))
        try:
            yield {"step": 1}
            if puzzle == "left":
                gone.set()
                assert more.wait(30)
                for _ in range(1000):
                    yield {"step": 2, "much": "x" * 10_000}
        finally:
            at_once.remove(puzzle)
            ended.append(puzzle)

    with Server("page", solve, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = server.address.removeprefix("http://").rstrip("/")
        leaves = http.client.HTTPConnection(host, timeout=30)
        leaves.request("POST", "/solve", json.dumps({"puzzle": "left"}), {"Content-Type": "application/json"})
        assert gone.wait(30)
        others = [threading.Thread(target=asked, args=(server.address,), kwargs={"body": {"puzzle": str(i)}})
                  for i in range(3)]
        for thread in others:
            thread.start()
        leaves.getresponse().close()
        leaves.close()
        more.set()
        for thread in others:
            thread.join(60)
        server.shutdown()
    assert max(most) == 1 and ended[0] == "left" and sorted(ended[1:]) == ["0", "1", "2"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser.start(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


def typed(page) -> str:
    return page.value("inputs.map(input => input.value || '.').join('')")


def test_a_puzzle_is_typed_into_the_board_and_watched(address, browser):
    page = browser.open(address)
    page.wait("!$('editor').hidden")
    page.click("#clear")
    page.value("inputs[0].focus()")
    for key in ("1", " ", "ArrowDown", "4", "2", "Backspace", "ArrowLeft", "0"):
        page.press(key)
    assert typed(page) == "1" + "." * 15
    page.press("3")
    assert typed(page)[:8] == "1......3" and page.value("$('message').hidden") is True
    page.press("7")
    assert page.text("#message") == "“7” is no cell; a cell is one of “.1234”." and typed(page)[:9] == "1......3."
    page.click("#solve")
    page.wait("shown !== null && solving === null && state.step === 3")
    assert page.value("$('editor').hidden") is True and "Step 3 of 3. ✗ fails “valid”" in page.text("#verdict")
    given = "cells.filter(cell => cell.classList.contains('given'))"
    assert page.value(f"{given}.map(cell => shown.question[cells.indexOf(cell)])") == [2, 4]
    assert page.value(f"{given}.every(cell => cell.classList.contains('wrong') === !'13'.includes(cell.textContent))")
    page.click("#again")
    assert page.value("$('editor').hidden") is False and typed(page)[:9] == "1......3."
    assert page.complaints() == []
    page.close()


def test_a_puzzle_is_pasted_and_bad_ones_get_a_message_in_the_page(address, browser):
    page = browser.open(address)
    page.wait("!$('editor').hidden")

    def paste(text: str, cell: int = 0) -> None:
        page.value(f"""(() => {{ const clipboardData = new DataTransfer();
            clipboardData.setData("text", {json.dumps(text)});
            inputs[{cell}].dispatchEvent(new ClipboardEvent("paste", {{ clipboardData, cancelable: true }})); }})()""")

    paste("1000 3400\n0000 0432", 5)
    assert typed(page).replace("0", ".") == PUZZLE and page.value("$('message').hidden") is True
    paste("12", 3)
    assert typed(page).replace("0", ".") == "1..12" + PUZZLE[5:]
    paste("123456789")
    assert page.text("#message") == "Character 5 is “5”; a cell is one of “.1234”."
    paste("1" * 17)
    assert page.text("#message") == "That is 17 characters; the board has 16 cells."
    # what the page lets through, the server refuses
    page.value("own.alphabet = ''; $('editor').append(make('textarea', { id: 'own-text' }))")
    page.value("$('own-text').value = '1x'")
    page.click("#solve")
    page.wait("solving === null")
    assert page.text("#message").startswith("the line has 2 characters") and page.value("$('main').hidden") is True
    assert len(page.complaints()) == 1  # the browser notes the status 400
    page.close()


def test_examples_of_the_run_s_data_are_offered(address, browser, run):
    page = browser.open(address)
    page.wait("!$('editor').hidden")
    offered = set()
    for _ in range(EXAMPLES):
        offered.add(typed(page))
        page.click("#example")
    inputs = np.load(run.parent / "data" / "test" / "all__inputs.npy")
    assert offered == {"".join(".?.1234"[token + 1] for token in puzzle).replace("?", ".") for puzzle in inputs}
    page.close()


def test_a_maze_is_typed_in_its_colours_and_a_sequence_as_words(browser):
    asked_for: list[str] = []
    for kind, text in ((Maze(9, 6), "S #  #  G"), (Sequence(4, 4, ["", "left", "right", "up"]), "left up up right")):
        tokens = kind.parse(text)

        def solve(puzzle: str, kind=kind, tokens=tokens):
            asked_for.append(puzzle)
            one = Trajectory(0, tokens[None, :, None].astype(np.int16), np.full((1, len(tokens), 1), 255, np.uint8),
                             np.ones(1, np.float32), np.full(1, np.nan, np.float32))
            yield puzzle_data(kind, Shown(Trace(0, tokens, None, 0, [one], 0, tokens), "your puzzle"))

        data = page_data(kind, [], "yours", "of nobody") | {"serve": editor(kind, [])}
        with Server(page_of(data, ["view.js", "serve.js"], connects=True), solve, 0) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            page = browser.open(server.address)
            page.wait("!$('editor').hidden")
            if kind.alphabet:
                page.value("inputs[0].focus()")
                for key in text:
                    page.press(key)
                colour = page.value("getComputedStyle(inputs[2]).backgroundColor")
                assert "#{:02x}{:02x}{:02x}".format(*map(int, re.findall(r"\d+", colour))) == kind.colours[1]
            else:
                assert page.text("#editor label") == "A line of text, such as left right up"
                page.value(f"$('own-text').value = {json.dumps(text)}")
            page.click("#solve")
            page.wait("shown !== null && solving === null")
            assert asked_for[-1] == text and page.value("Array.from(shown.question)") == tokens.tolist()
            assert page.complaints() == []
            page.close()
            server.shutdown()


def test_a_port_that_is_taken_is_named(address, run, tmp_path):
    port = re.search(r":(\d+)/", address)[1]
    done = run_script("evaluate.py", f"checkpoint={run}", "serve=true", f"port={port}", cwd=tmp_path)
    assert done.returncode == 2
    assert f"port={port} cannot be used (Address already in use); choose another" in done.stderr


@pytest.mark.parametrize("settings, message", [
    (["port=3"], "port=3 has no effect without serve=true"),
    (["serve=true", "viewer=a.html"], "viewer has no effect with serve=True"),
    (["serve=true", "solve=12"], "solve has no effect with serve=True"),
    (["serve=true", "data_paths=[data]"], "data_paths has no effect with serve=True"),
    (["serve=true", "export=published"], "export has no effect with serve=True")])
def test_settings_without_effect_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        evaluate_config("checkpoint=run", *settings)
