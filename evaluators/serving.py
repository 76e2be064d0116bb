"""A local page in which people type puzzles and watch them being solved. Python's own server, on this machine only.

    GET /          the page
    POST /solve    {"puzzle": "53..7…"}; the answer so far, as a line of JSON after each supervision step

It serves nothing else: of a request it takes no path, and nothing but the text of a puzzle. Another web site that is
open in the same browser cannot ask it, nor under another name (DNS rebinding): `Host` and `Origin` must be its own
address, and the body must be declared as JSON, which browsers do not send elsewhere without asking first.
"""
import json
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from utils.strict_json import as_json

HOST = "127.0.0.1"
MOST_BYTES = 1 << 16  # of a request's body; the longest puzzles have some thousand characters
MOST_CHARACTERS = 20_000  # of a puzzle
SECONDS = 30  # that a connection may be silent, and that a puzzle waits for the one before it

Solve = Callable[[str], Iterator[dict]]  # a puzzle's text to the page's data after each step; ValueError: it is none


class Server(ThreadingHTTPServer):
    """Serves `page` (HTML), and answers puzzles by `solve`, one at a time. `port`: 0 is any free one."""

    daemon_threads = True

    def __init__(self, page: str, solve: Solve, port: int):
        super().__init__((HOST, port), Handler)
        self.page, self.solve, self.lock = page.encode(), solve, threading.Lock()
        self.names = {f"{name}:{self.server_address[1]}" for name in (HOST, "localhost")}

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server_address[1]}/"


class Refused(Exception):
    """A request that is not answered, with the status and the reason."""

    def __init__(self, status: HTTPStatus, reason: str):
        self.status, self.reason = status, reason


class Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = SECONDS
    server_version, sys_version = "puzzles", ""

    def do_GET(self) -> None:
        self._answer(self._page)

    def do_POST(self) -> None:
        self._answer(self._solution)

    def log_message(self, *_: object) -> None:
        """Requests are not told on the terminal."""

    def _answer(self, answer: Callable[[], None]) -> None:
        try:
            self._refuse_others()
            answer()
        except Refused as refused:
            self._begin(refused.status, "application/json")
            self._write({"error": refused.reason})
        except (BrokenPipeError, ConnectionResetError):  # the page was closed, or asks for another puzzle
            pass

    def _refuse_others(self) -> None:
        if self.headers.get("Host") not in self.server.names:
            raise Refused(HTTPStatus.FORBIDDEN, f"this server is {self.server.address}, and has no other name")
        if self.headers.get("Origin", self.server.address).removeprefix("http://").rstrip("/") not in self.server.names:
            raise Refused(HTTPStatus.FORBIDDEN, "only the server's own page may ask it")

    def _page(self) -> None:
        if self.path != "/":
            raise Refused(HTTPStatus.NOT_FOUND, "there is one page, /")
        self._begin(HTTPStatus.OK, "text/html; charset=utf-8")
        self.wfile.write(self.server.page)

    def _solution(self) -> None:
        if self.path != "/solve":
            raise Refused(HTTPStatus.NOT_FOUND, "puzzles go to /solve")
        puzzle = self._puzzle()
        if not self.server.lock.acquire(timeout=SECONDS):
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "another puzzle is being solved; try again when it is done")
        try:
            self._stream(self.server.solve(puzzle))
        finally:
            self.server.lock.release()

    def _stream(self, answers: Iterator[dict]) -> None:
        begun = False
        try:
            for answer in answers:
                if not begun:
                    self._begin(HTTPStatus.OK, "application/x-ndjson")
                    begun = True
                self._write({"puzzle": answer})
        except ValueError as error:
            if begun:
                self._write({"error": str(error)})
            else:
                raise Refused(HTTPStatus.BAD_REQUEST, str(error)) from error

    def _puzzle(self) -> str:
        """The puzzle in the body."""
        if self.headers.get_content_type() != "application/json":
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "a puzzle is sent as application/json")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "the length of the body is missing")
        if len(length) > 9 or int(length) > MOST_BYTES:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is longer than {MOST_BYTES} bytes")
        try:
            body = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError, TimeoutError) as error:
            raise Refused(HTTPStatus.BAD_REQUEST, "the body is no JSON") from error
        puzzle = body.get("puzzle") if isinstance(body, dict) else None
        if not isinstance(puzzle, str) or len(puzzle) > MOST_CHARACTERS:
            raise Refused(HTTPStatus.BAD_REQUEST,
                          f'the body is no {{"puzzle": "…"}} of at most {MOST_CHARACTERS} characters')
        return puzzle

    def _begin(self, status: HTTPStatus, content: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": content, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff",
                            "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer"}.items():
            self.send_header(name, value)
        self.end_headers()

    def _write(self, line: dict) -> None:
        self.wfile.write(as_json(line).encode() + b"\n")
        self.wfile.flush()
