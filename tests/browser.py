"""Chromium as a person uses it: pages opened, keys pressed, boards looked at. Tests that need it skip without it.

Commands go through a pipe in the DevTools protocol (https://chromedevtools.github.io/devtools-protocol/).
"""
import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--remote-debugging-pipe"]
KEYS = {" ": 32, "PageUp": 33, "PageDown": 34, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39,
        "ArrowDown": 40, "Tab": 9, "Enter": 13, "Backspace": 8}


class Browser:
    """A running Chromium. `Browser.start` skips the test where there is none."""

    def __init__(self, program: str, profile: Path):
        (read, commands), (answers, write) = os.pipe(), os.pipe()
        redirected = f'exec "$0" "$@" 3<&{read} 4>&{write}'
        self.process = subprocess.Popen(["bash", "-c", redirected, program, *FLAGS, f"--user-data-dir={profile}",
                                         "about:blank"], pass_fds=(read, write), stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
        os.close(read), os.close(write)
        self.commands, self.answers, self.number = os.fdopen(commands, "wb"), os.fdopen(answers, "rb"), 0
        self.events: list[dict] = []

    @staticmethod
    def start(profile: Path) -> "Browser":
        program = shutil.which("chromium")
        if program is None:
            pytest.skip("there is no chromium to open the page in")
        return Browser(program, profile)

    def close(self) -> None:
        self.tell("Browser.close")
        self.process.wait(30)
        self.commands.close(), self.answers.close()

    def tell(self, method: str, session: str | None = None, **params: Any) -> dict:
        """Send a command and wait for its answer."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        self.commands.write(json.dumps(message).encode() + b"\0")
        self.commands.flush()
        while True:
            answer = json.loads(self._message())
            if answer.get("id") == self.number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)

    def _message(self) -> bytes:
        parts = bytearray()
        while (byte := self.answers.read(1)) != b"\0":
            assert byte, "chromium has ended"
            parts += byte
        return bytes(parts)

    def open(self, url: str, width: int = 1280, height: int = 1000, dark: bool = False) -> "Page":
        return Page(self, url, width, height, dark)


class Page:
    """A tab. `width` and `height` are those of its window, in CSS pixels."""

    def __init__(self, browser: Browser, url: str, width: int, height: int, dark: bool):
        self.browser = browser
        self.target = browser.tell("Target.createTarget", url="about:blank")["targetId"]
        self.session = browser.tell("Target.attachToTarget", targetId=self.target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.tell(f"{domain}.enable")
        self.tell("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                  mobile=width < 600)
        self.tell("Emulation.setEmulatedMedia",
                  features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self.tell("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def tell(self, method: str, **params: Any) -> dict:
        return self.browser.tell(method, self.session, **params)

    def value(self, expression: str) -> Any:
        """What a JavaScript expression is in the page."""
        found = self.tell("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def text(self, selector: str) -> str:
        return self.value(f"document.querySelector({json.dumps(selector)}).textContent")

    def wait(self, condition: str, seconds: float = 60) -> None:
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not self.value(condition):
            assert time.monotonic() < end, f"still not: {condition}"
            time.sleep(0.02)

    def press(self, key: str) -> None:
        """Press and release a key, where the focus is."""
        text = key if len(key) == 1 else ""
        code = KEYS[key] if key in KEYS else ord(key.upper()) if key.isalnum() else 0
        what = {"key": key, "windowsVirtualKeyCode": code, "code": key}
        self.tell("Input.dispatchKeyEvent", type="keyDown", **what, **({"text": text} if text else {}))
        self.tell("Input.dispatchKeyEvent", type="keyUp", **what)

    def click(self, selector: str) -> None:
        self.value(f"document.querySelector({json.dumps(selector)}).click()")

    def screenshot(self, file: Path, whole: bool = True) -> None:
        shot = self.tell("Page.captureScreenshot", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(shot["data"]))

    def complaints(self) -> list[str]:
        """Errors of scripts and of the page's policy so far."""
        self.value("0")
        mine = [event for event in self.browser.events if event.get("sessionId") == self.session]
        return [str(event["params"]) for event in mine if event["method"] == "Runtime.exceptionThrown"
                or (event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error")]

    def close(self) -> None:
        self.browser.tell("Target.closeTarget", targetId=self.target)
