"""Fixtures shared by all tests: the recorded reference data, which stands beside the project and not in it."""
import os
import resource
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["WANDB_MODE"] = "offline"  # no test may reach for a network
os.environ.setdefault("OMP_NUM_THREADS", "1")  # small tensors: threads cost time, and the order of their sums may vary

import helpers  # noqa: E402, F401 (after the variables; it says what every test computes in)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """The curves of the hundreds of runs that tests train are empty files, but for tests that are marked `curves`: to
    draw them takes as long as to train."""
    with pytest.MonkeyPatch.context() as patch:
        if "pretrain" in sys.modules and "curves" not in item.keywords:
            patch.setattr("pretrain.plot_train_vs_val", lambda metrics_file, picture, averaged: picture.touch())
        return (yield)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Recorded numerics and data of the published code; tests that need them skip, visibly, where they are absent."""
    path = ROOT.parent / "shared"
    if not path.is_dir():
        pytest.skip("recorded reference data (../shared) is not here")
    return path


@pytest.fixture
def drawn(monkeypatch) -> list:
    """The figures that are saved; kept open so that they can be looked at."""
    from utils.plots import pyplot  # here: most tests draw nothing

    figures = []
    monkeypatch.setattr(pyplot(), "close", figures.append)
    yield figures
    monkeypatch.undo()
    pyplot().close("all")


@pytest.fixture
def limited_file_size():
    """A context in which no file can grow beyond so many bytes: what a full disk does, without filling one."""
    @contextmanager
    def limited(size: int):
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, handler)

    return limited
