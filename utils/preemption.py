"""SIGTERM and SIGINT ask a run to finish its step, save and exit. If the step hangs, the process is ended all the same.

Limits of steps or minutes, which the user sets, end a run in the same way.

    with StopRequest(grace_s=25) as stop:
        while …:
            step()
            if stop.requested: save(); exit with STOPPED

Exit statuses:
    STOPPED    the run is saved and can be resumed
    AT_LIMIT   likewise, at the limit that the user set
    GAVE_UP    the step or the save took longer than the grace, or the save failed; older checkpoints are unharmed
A second signal ends the process at once, with the status 128 + its number.
"""
import os
import signal
import socket
import sys
import threading
import time

STOPPED, GAVE_UP, AT_LIMIT = 75, 76, 77  # 75: "temporary failure, try again" in sysexits.h
SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAME_REQUEST_S = 1.0  # Ctrl-C reaches a process under torchrun twice: from the terminal and from torchrun


class Stopped(Exception):
    """The run ends early, as asked, at a limit or by a signal. Its message says at which step.

    `saved` is set where the state of that step is in a file.
    """

    saved = False

    def __init__(self, message: str, at_limit: bool):
        super().__init__(message)
        self.at_limit = at_limit

    @property
    def status(self) -> int:
        """Exit status of the process.

        At a limit it is 0 under torchrun, which would take any other for a failure and start the run again.
        """
        if not self.saved:
            return GAVE_UP
        if not self.at_limit:
            return STOPPED
        return 0 if "LOCAL_RANK" in os.environ else AT_LIMIT


class Limit:
    """When the user wants a run of `total_steps` to end early: after a step, or after some minutes from now."""

    def __init__(self, max_steps: int | None, max_minutes: float | None, total_steps: int):
        self.step = max_steps if max_steps is not None and max_steps < total_steps else float("inf")
        self.minutes = float("inf") if max_minutes is None else max_minutes
        self.ends_at = time.monotonic() + 60 * self.minutes

    def reached(self, step: int) -> bool:
        """Is a limit reached after so many steps? Clocks of processes differ, so combine the answers by `any_rank`."""
        return step >= self.step or time.monotonic() >= self.ends_at

    def settings(self) -> list[str]:
        """The limits, as they are typed on the command line."""
        limits = {"max_steps": self.step, "max_minutes": self.minutes}
        return [f"{name}={limit:g}" for name, limit in limits.items() if limit < float("inf")]


def _only_wake(number: int, frame: object) -> None:
    """The handler of both signals: what they mean is decided by the thread that `set_wakeup_fd` wakes."""


class StopRequest:
    """A context in which the first signal is only noted: `requested`.

    Python runs a signal handler only between two instructions of the main thread, which never come while that waits
    for a dead peer. So the number of each signal goes through a socket (`signal.set_wakeup_fd`) to a thread that can
    end the process. In a thread other than the main one, signals are none of its business, and nothing is requested.
    In an interactive session the process is never ended, since it holds more than the run.
    """

    def __init__(self, grace_s: float):
        self.grace_s, self._noted, self._left = grace_s, False, False
        self._in_main = threading.current_thread() is threading.main_thread()
        self._may_exit = not hasattr(sys, "ps1")

    def __enter__(self) -> "StopRequest":
        if not self._in_main:
            return self
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._handlers = {number: signal.signal(number, _only_wake) for number in SIGNALS}
        self._wakeup = signal.set_wakeup_fd(self._writer.fileno())
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        if not self._in_main:
            return
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._left = True
        self._writer.close()  # wakes the thread, which then ends

    @property
    def requested(self) -> bool:
        """Has there been a signal? Ask once a step, in the main thread: asking also takes the signals back from a
        library that has put a handler of its own in place of ours. LLVM does when Triton compiles a kernel, and its
        handler lets the second of two signals, which `timeout` and torchrun send within microseconds, kill at once."""
        for number in SIGNALS if self._in_main else ():
            signal.signal(number, _only_wake)
        return self._noted

    def _watch(self) -> None:
        first = self._next_signal(timeout=None)
        if first is None:
            return
        self._noted, started = True, time.monotonic()
        how = f", for at most {self.grace_s:g} s; a second signal ends at once" if self._may_exit else ""
        print(f"{signal.Signals(first).name}: finishing the step and saving{how}",
              file=sys.stderr, flush=True)
        if not self._may_exit:
            return
        while (left := started + self.grace_s - time.monotonic()) > 0 and not self._left:
            number = self._next_signal(left)
            if number is not None and time.monotonic() - started > SAME_REQUEST_S:
                os._exit(128 + number)
        if not self._left:
            print(f"not done after {self.grace_s:g} s: giving the step up; the last "
                  "checkpoint is as it was",
                  file=sys.stderr, flush=True)
            os._exit(GAVE_UP)

    def _next_signal(self, timeout: float | None) -> int | None:
        """The number of the next signal; None after `timeout` seconds, or when the context is left."""
        self._reader.settimeout(timeout)
        try:
            return next(iter(self._reader.recv(1)), None)
        except TimeoutError:
            return None
