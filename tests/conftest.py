"""Fixtures shared by all tests: the recorded reference data, which stands beside the project and not in it."""
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["WANDB_MODE"] = "offline"  # no test may reach for a network


@pytest.fixture(scope="session")
def shared() -> Path:
    """Recorded numerics and data of the published code; tests that need them skip, visibly, where they are absent."""
    path = ROOT.parent / "shared"
    if not path.is_dir():
        pytest.skip("recorded reference data (../shared) is not here")
    return path
