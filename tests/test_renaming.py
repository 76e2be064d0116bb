"""benchmarks/renaming.py and benchmarks/family.py: networks that follow the names of digits are told from others, and
all networks of the family's table are of one size."""
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from benchmarks.family import ARCHITECTURES, STEPS_AN_EPOCH, budgets, overrides
from benchmarks.renaming import cycles, follow_names
from helpers import ROOT, pretrain_config, tiny_metadata
from losses.head import LossHead
from test_ldt import batch_of
from utils.distributed import World

DIGITS = torch.arange(2, 6)


def head_of(arch: str, *words: str) -> LossHead:
    """An untrained head of the table, for 4×4 Sudokus."""
    torch.manual_seed(0)
    settings = overrides(arch, Path("data"), Namespace(lr=1e-3))
    config = pretrain_config(*settings, "arch.forward_dtype=float32", *words)
    return config.arch.build_head(tiny_metadata(vocab_size=6, seq_len=16), batch_size=8, world=World())


def test_every_digit_gets_another_name_and_no_name_is_given_twice():
    names = cycles(DIGITS, vocab_size=6, rows=50)
    assert (names.sort(1).values == torch.arange(6)).all()
    assert (names[:, 2:] != DIGITS).all() and (names[:, :2] == torch.arange(2)).all()
    assert len(names.unique(dim=0)) == 6  # all cycles of four digits


@pytest.mark.parametrize("arch, words", [("dec", ["arch.noise_scale=0"]), ("se_rrm", []), ("ldt_fields", [])])
def test_networks_over_digits_follow_the_names(arch, words):
    """Two steps: an untrained network makes rounding grow about threefold a step."""
    found = follow_names(head_of(arch, "arch.halt_max_steps=2", *words), batch_of(8), cycles(DIGITS, 6, 8))
    assert found["first"] < 1e-5 and found["last"] < 1e-4 and found["changed"] == 0


def test_noise_that_keeps_its_place_is_seen():
    found = follow_names(head_of("dec", "arch.noise_scale=0.5"), batch_of(8), cycles(DIGITS, 6, 8))
    assert found["last"] > 1e-4 and found["by_chance"] > 0


@pytest.mark.parametrize("arch", ["trm", "ldt"])
def test_other_networks_do_not_follow_them(arch):
    found = follow_names(head_of(arch), batch_of(8), cycles(DIGITS, 6, 8))
    assert found["first"] > 1e-3 and found["changed"] > 0
    assert (found["by_chance"] == 0) == (arch == "trm")


def test_all_networks_of_the_table_are_of_one_size():
    assert set(ARCHITECTURES) == {path.stem for path in (ROOT / "config" / "arch").glob("*.yaml")}
    sizes = {arch: sum(p.numel() for p in head_of(arch).parameters()) for arch in ARCHITECTURES}
    assert max(sizes.values()) < 1.03 * sizes["trm"] and min(sizes.values()) > 0.97 * sizes["trm"]


def test_budgets_are_whole_epochs_of_equal_work():
    lengths = budgets({"trm": {"flops": 10}, "quick": {"flops": 2.4}, "slow": {"flops": 1e6}}, steps=64)
    assert lengths["equal parameters"] == {"trm": 64, "quick": 64, "slow": 64}
    assert lengths["equal compute"] == {"trm": 64, "quick": 17 * STEPS_AN_EPOCH, "slow": STEPS_AN_EPOCH}
