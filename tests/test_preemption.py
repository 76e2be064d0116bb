"""Signals to a real process: noted once, the second ends it, and the grace is kept even where Python cannot run."""
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from helpers import ROOT
from utils.preemption import AT_LIMIT, GAVE_UP, SIGNALS, STOPPED, Limit, Stopped, StopRequest

PROCESS = """
import ctypes, signal, sys, time
sys.path.insert(0, ROOT)
from utils.preemption import StopRequest
with StopRequest(GRACE) as stop:
    for number in TAKEN: signal.signal(number, signal.SIG_DFL)  # as LLVM does when Triton compiles, a step in
    stop.requested
    print("ready", flush=True)
    if STUCK:
        mutex = (ctypes.c_char * 64)()  # locked twice: a wait in C, like one for a dead peer, that no signal ends
        ctypes.CDLL(None).pthread_mutex_lock(mutex), ctypes.CDLL(None).pthread_mutex_lock(mutex)
    else:
        ends = time.monotonic() + 60
        while not stop.requested and time.monotonic() < ends: time.sleep(0.01)
        time.sleep(WORK)
print("left", flush=True)
"""


def start(grace: float, work: float = 0.0, stuck: bool = False, taken: tuple[int, ...] = ()) -> subprocess.Popen:
    code = f"ROOT, GRACE, WORK, STUCK, TAKEN = {str(ROOT)!r}, {grace}, {work}, {stuck}, {taken}\n{PROCESS}"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_a_request(number):
    process = start(grace=30, work=1.5)
    process.send_signal(number)
    time.sleep(0.3)
    process.send_signal(number)  # torchrun's copy of the same Ctrl-C
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0 and out == "left\n"
    assert err == (f"{signal.Signals(number).name}: finishing the step and saving, for at most 30 s; a second signal "
                   "ends at once\n")


def test_signals_that_a_library_took_are_requests_again_from_the_next_step_on():
    process = start(grace=30, taken=(int(signal.SIGTERM), int(signal.SIGINT)))
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)  # `timeout` signals the process and then its group
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0 and out == "left\n" and err.startswith("SIGINT: finishing the step and saving")


def test_a_second_signal_ends_at_once():
    process = start(grace=30, work=30)
    process.send_signal(signal.SIGTERM)
    time.sleep(1.3)
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM and time.monotonic() - started < 5


@pytest.mark.parametrize("stuck", [False, True])
def test_what_outlasts_the_grace_is_given_up(stuck):
    process = start(grace=0.5, work=30, stuck=stuck)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert process.returncode == GAVE_UP and not out
    assert "not done after 0.5 s: giving the step up; the last checkpoint is as it was" in err


def test_afterwards_signals_do_what_they_did():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with StopRequest(grace_s=0.2) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
        assert stop.requested
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    time.sleep(0.4)  # the grace is over, and this process lives


def test_a_limit_is_reached_by_steps_or_by_time_and_is_none_where_the_run_ends_before():
    by_steps, by_time = Limit(5, None, total_steps=10), Limit(None, 0.2 / 60, total_steps=10)
    assert [by_steps.reached(step) for step in (4, 5, 6)] == [False, True, True]
    assert not by_time.reached(9)
    time.sleep(0.25)
    assert by_time.reached(1)
    assert not Limit(10, None, total_steps=10).reached(10) and not Limit(None, None, 10).reached(10)
    assert (by_steps.settings(), Limit(5, 1.5, 10).settings()) == (["max_steps=5"], ["max_steps=5", "max_minutes=1.5"])


@pytest.mark.parametrize("saved, at_limit, torchrun, status", [
    (True, False, False, STOPPED), (True, True, False, AT_LIMIT), (True, True, True, 0), (True, False, True, STOPPED),
    (False, True, True, GAVE_UP), (False, False, False, GAVE_UP)])
def test_scripts_can_tell_how_a_run_ended(monkeypatch, saved, at_limit, torchrun, status):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if torchrun:  # it would take any other status than 0 for a failure, and start the run again
        monkeypatch.setenv("LOCAL_RANK", "0")
    stopped = Stopped("", at_limit)
    stopped.saved = saved
    assert stopped.status == status and len({0, STOPPED, GAVE_UP, AT_LIMIT}) == 4


def test_in_an_interactive_session_no_signal_ends_the_process(monkeypatch, capfd):
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    with StopRequest(grace_s=0.01) as stop:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            while not stop.requested:
                time.sleep(0.01)
            time.sleep(0.1)  # longer than the grace
    assert capfd.readouterr().err == "SIGINT: finishing the step and saving\n"


def test_in_another_thread_signals_are_left_alone():
    handlers, requested = {number: signal.getsignal(number) for number in SIGNALS}, []

    def enter() -> None:
        with StopRequest(grace_s=1) as stop:
            requested.append(stop.requested)
            assert {number: signal.getsignal(number) for number in SIGNALS} == handlers

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert requested == [False]
