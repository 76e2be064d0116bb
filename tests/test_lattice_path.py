"""benchmarks/lattice.py: guesses along the true path, by networks that say what the test wants, and by singles."""
import numpy as np
import pytest
import torch

from benchmarks.lattice import along_the_true_path, guesses_of_singles, main
from dataset.kinds.sudoku import Sudoku
from dataset.sudoku_search import peers_and_units
from helpers import pretrain_config
from pretrain import train
from test_kinds import puzzles
from test_ldt import batch_of, head_of, model_saying
from test_se_rrm import write_sudokus
from utils.distributed import World

ORACLE = ["arch.true_decisions=1", "arch.lost_ends=1", "arch.halt_max_steps=200", "arch.second_pass=false"]


def measured(keep: torch.Tensor, *words: str) -> dict[str, float]:
    head = head_of(*ORACLE, *words)
    head.model = model_saying(keep, torch.zeros(4, 16, 6), torch.full((4,), -9.0), *ORACLE, *words)
    return along_the_true_path(head, batch_of())


def test_a_network_that_deduces_nothing_guesses_at_every_open_cell():
    """And a last step sees that the board is complete."""
    found = measured(torch.full((4, 16, 6), 9.0))
    open_cells = (batch_of()["inputs"] == 1).sum(1).float()
    assert found == {"solved": 1, "lost": 0, "guesses": open_cells.mean(), "steps": open_cells.mean() + 1}


def test_a_network_that_drops_what_is_wrong_needs_none_and_one_that_drops_a_true_digit_loses():
    batch = batch_of()
    keep = torch.where(torch.arange(6) == batch["labels"][..., None], 9.0, -9.0)
    assert measured(keep) == {"solved": 1, "lost": 0, "guesses": 0, "steps": 1}
    keep[:2] *= -1
    found = measured(keep)
    assert found["solved"] == found["lost"] == 0.5


def test_singles_of_a_small_board_by_hand():
    kind = Sudoku(16, 6)
    answer = np.array([[1, 2, 3, 4, 3, 4, 1, 2, 2, 1, 4, 3, 4, 3, 2, 1]]) + 1
    one_missing = answer.copy()
    one_missing[0, 5] = 1
    assert guesses_of_singles(kind, one_missing, answer, hidden=False) == 0
    assert sorted(map(sorted, peers_and_units(4)[1]))[1] == [0, 1, 4, 5]
    # 1 in the first row and in the third column: in the box below on the right its place is hidden, not naked
    hidden = np.ones_like(answer)
    hidden[0, [0, 6, 11]] = answer[0, [0, 6, 11]]
    assert guesses_of_singles(kind, hidden, answer, hidden=True) <= guesses_of_singles(kind, hidden, answer, False)


def test_of_puzzles_with_one_solution_singles_never_lose_the_answer():
    inputs, labels = puzzles(Sudoku(81, 11), 6)
    inputs = np.where(inputs == 1, 1, labels)
    naked, both = (guesses_of_singles(Sudoku(81, 11), inputs, labels, hidden) for hidden in (False, True))
    assert 0 <= both <= naked


@pytest.mark.parametrize("source", [[], ["--data"]])
def test_the_command_tells_both(source, tmp_path, capsys):
    write_sudokus(tmp_path / "data", 4)
    run = train(pretrain_config(
        "arch=ldt_fields", "arch.hidden_size=8", "arch.loops=1", f"data_paths=[{tmp_path / 'data'}]", "val_puzzles=8",
        f"checkpoint.path={tmp_path / 'run'}", f"log_dir={tmp_path}", "use_wandb=false", "global_batch_size=8",
        "epochs=1", "evaluators=[]"), World())
    main([str(run), "--puzzles", "4", "--drop-below", "0.1", "0.01", *source, *[str(tmp_path / "data")] * len(source)])
    lines = capsys.readouterr().out.splitlines()[-3:]
    assert lines[0].startswith("drop_below=0.1: solved ") and "by naked singles " in lines[2]
