"""SE-RRM: renamed symbols give renamed answers, the recursion by hand, and boards of other sizes."""
import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from config.restored import Restored
from dataset import build_sudoku_dataset, generate_sudoku
from dataset.kinds.sudoku import Sudoku
from evaluate import load_solver, score
from helpers import evaluate_config, pretrain_config, resume, tiny_batch, tiny_metadata
from losses.classification import ACTLossHead
from models.recursive_reasoning.se_rrm import SERRM
from pretrain import train
from utils.distributed import World

CONFIG = {"batch_size": 4, "seq_len": 9, "vocab_size": 6, "num_puzzle_identifiers": 3, "puzzle_emb_ndim": 0,
          "puzzle_emb_len": 0, "H_cycles": 1, "L_cycles": 2, "L_layers": 2, "hidden_size": 16, "expansion": 2,
          "num_heads": 2, "num_heads_t": 3, "head_dim": 4, "halt_max_steps": 4, "halt_exploration_prob": 0.3,
          "pos_encodings": "rope2d", "forward_dtype": "float32", "special": [0, 1]}


def se_rrm(**changes) -> SERRM:
    torch.manual_seed(0)
    return SERRM(CONFIG | changes)


@pytest.mark.parametrize("changes", [{}, {"pos_encodings": "learned"}, {"register_tokens": 3}, {"puzzle_emb_ndim": 1},
                                     {"special": [4]}, {"special": []}])
def test_renamed_symbols_give_the_renamed_answer(changes):
    model = se_rrm(**changes).eval()
    batch = tiny_batch(seq_len=9, vocab_size=6, identifiers=3)
    plain = [token for token in range(6) if token not in model.config.special]
    renamed = torch.arange(6)
    renamed[plain] = torch.tensor(plain).roll(1)
    if model.puzzle_embedding is not None:  # tells the symbols of a task apart, so these are renamed with them
        table = model.puzzle_embedding.weights
        table.normal_()
    results = []
    for puzzle in (batch, batch | {"inputs": renamed[batch["inputs"].long()].int()}):
        if results and model.puzzle_embedding is not None:
            table[:, 16 + renamed] = table[:, 16:].clone()
        results.append(model(model.initial_carry(puzzle), puzzle)[1])
    assert (results[1]["logits"] - results[0]["logits"]).abs().max() > 0.01
    assert torch.allclose(results[1]["logits"][..., renamed], results[0]["logits"], atol=1e-5)
    assert torch.allclose(results[1]["q_halt_logits"], results[0]["q_halt_logits"], atol=1e-4)


@pytest.mark.parametrize("kind, renamed, sizes", [("sudoku", range(2, 18), (256, 18)),
                                                  ("arc", range(2, 12), (900, 12))])
def test_a_kind_of_exchangeable_symbols_follows_their_names(kind, renamed, sizes):
    """16 symbols, and ARC's ten colours, with the special tokens that the kind names."""
    model, renamed = of_kind(kind, *sizes), torch.tensor(renamed)
    assert model.config.special == [0, 1]
    batch = tiny_batch(rows=1, seq_len=sizes[0], vocab_size=sizes[1], identifiers=1)
    names = torch.arange(sizes[1])
    names[renamed] = renamed.roll(1)
    logits, other = (model(model.initial_carry(puzzle), puzzle)[1]["logits"].detach()
                     for puzzle in (batch, batch | {"inputs": names[batch["inputs"].long()].int()}))
    assert (other - logits).abs().max() > 0.01
    assert torch.allclose(other[..., names], logits, atol=1e-5)


def of_kind(kind: str | None, seq_len: int, vocab_size: int, *words: str) -> SERRM:
    torch.manual_seed(0)
    config = pretrain_config("arch=se_rrm", "arch.hidden_size=8", "arch.num_heads=1", "arch.num_heads_t=1",
                             "arch.head_dim=4", "arch.L_cycles=1", "arch.H_cycles=1", "arch.halt_max_steps=1",
                             "arch.forward_dtype=float32", *words)
    metadata = tiny_metadata(seq_len=seq_len, vocab_size=vocab_size, kind=kind, num_puzzle_identifiers=1)
    return config.arch.build_head(metadata, batch_size=1, world=World()).model.eval()


@pytest.mark.parametrize("kind, sizes", [("maze", (16, 6)), ("sequence", (9, 6))])
def test_in_other_kinds_every_token_is_its_own(kind, sizes):
    model = of_kind(kind, *sizes)
    assert model.config.special == [0, 1, 2, 3, 4, 5] and model.config.fixed_sizes == ("vocab_size",)
    batch = tiny_batch(rows=1, seq_len=sizes[0], vocab_size=6, identifiers=1)
    names = torch.tensor([0, 2, 1, 3, 4, 5])  # walls are free, and what is free is walls
    logits, other = (model(model.initial_carry(puzzle), puzzle)[1]["logits"].detach()
                     for puzzle in (batch, batch | {"inputs": names[batch["inputs"].long()].int()}))
    assert (other[..., names] - logits).abs().max() > 1e-3


def test_the_kind_is_told_by_name_or_by_sizes_and_a_setting_replaces_it():
    assert of_kind(None, 81, 11).config.special == [0, 1]
    assert of_kind("maze", 16, 6, "arch.special=[3]").config.special == [3]
    with pytest.raises(ValueError, match=r"do not tell their kind of puzzle; set arch.special=\[…\]"):
        of_kind(None, 9, 6)
    with pytest.raises(ValueError, match=r"'my@Own' of the data tells no tokens.*or set arch.special=\[…\]"):
        of_kind("my@Own", 9, 6)


def test_a_pass_by_hand():
    """One block, one pass: each symbol apart over positions, each position apart over symbols, in loops."""
    model, batch = se_rrm(L_layers=1, L_cycles=1, register_tokens=2), tiny_batch(seq_len=9, vocab_size=6)
    inner, block = model.inner, model.inner.L_level.layers[0]

    def normed(x: torch.Tensor) -> torch.Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()

    vectors, registers = inner.embed_tokens.embedding_weight, inner.registers.embedding_weight.view(3, 2, 16)
    for row in range(4):
        kind = [0, 1, 2, 2, 2, 2]
        x = torch.stack([torch.cat((registers[kind[v]], torch.stack(
            [vectors[kind[v]] * 6**0.5 if batch["inputs"][row, cell] == v else torch.zeros(16) for cell in range(9)])))
            for v in range(6)])
        assert torch.allclose(inner.embed(batch)[row], x, atol=1e-5)
        z = x + inner.Z_init
        z = torch.stack([normed(z[v] + block.attn(z[None, v], inner.rotary)[0]) for v in range(6)])
        z = torch.stack([normed(z[:, p] + block.attn_t(z[None, :, p], None)[0]) for p in range(11)], 1)
        z = normed(z + block.mlp(z))
        logits = (z[:, 2:] @ inner.lm_head.weight[0]).T
        _, outputs = model.eval()(model.initial_carry(batch), batch)
        assert torch.allclose(outputs["logits"][row], logits, atol=1e-5)
        weakest = logits.softmax(-1).max(-1).values.min()
        assert outputs["q_halt_logits"][row].sigmoid().item() == pytest.approx(weakest.item(), abs=1e-5)


def test_weights_of_one_size_compute_another():
    """And what they compute of a board does not depend on symbols that do not occur, beyond their attention."""
    small, large = se_rrm(register_tokens=1), se_rrm(register_tokens=1, seq_len=16, vocab_size=9)
    large.load_state_dict(small.state_dict())
    batch = tiny_batch(seq_len=16, vocab_size=9)
    _, outputs = large.eval()(large.initial_carry(batch), batch)
    assert outputs["logits"].shape == (4, 16, 9) and outputs["logits"].isfinite().all()


def test_a_solver_answers_boards_of_another_size_as_a_data_set_of_them_does(sudokus, tmp_path, capsys):
    run = trained_on_4x4(sudokus, tmp_path / "run", "arch=se_rrm", "arch.num_heads_t=2", "arch.head_dim=8")
    inputs = {size: np.load(folder / "test" / "all__inputs.npy") for size, folder in sudokus.items()}
    lines = [Sudoku(256, 18).format(tokens) for tokens in inputs[16]]
    score(evaluate_config(f"checkpoint={run}", f"data_paths=[{sudokus[16]}]", f"output_dir={tmp_path / 'scores'}",
                          f"predictions={tmp_path / 'a.csv'}"), World())
    expected = [row["answer"] for row in csv.DictReader((tmp_path / "a.csv").open())]

    solver = load_solver(run, device="cpu")
    solutions = solver.solve(lines)
    assert [solution.answer for solution in solutions] == expected and len(set(expected)) == 5
    assert "and answers here those of seq_len=256, vocab_size=18" in capsys.readouterr().out
    board = (inputs[16][0].reshape(16, 16).astype(int) - 1).tolist()  # digits as numbers, 0 for a blank
    assert solver.solve([board])[0].answer == solver.solve([inputs[16][0]])[0].answer == expected[0]
    assert len(solver.solve(["1...3.....4....2"])[0].answer) == 16
    assert len(solver.trace(lines[0]).question) == 256
    with pytest.raises(ValueError, match="puzzle 1: the line has 16 characters; write 256"):
        solver.solve([lines[0], "1...3.....4....2"])
    with pytest.raises(ValueError, match="the line has 17 characters; write 16"):
        solver.solve(["1...3.....4....2."])

    (tmp_path / "mine.txt").write_text("\n".join(lines))
    own = [f"checkpoint={run}", f"solve={tmp_path / 'mine.txt'}"]
    score(evaluate_config(*own, f"viewer={tmp_path / 'page.html'}"), World())
    assert '"cells": 256' in (tmp_path / "page.html").read_text()
    score(evaluate_config(*own, f"predictions={tmp_path / 'b.csv'}", f"output_dir={tmp_path / 'scores'}"), World())
    assert [row["answer"] for row in csv.DictReader((tmp_path / "b.csv").open())] == expected


def write_sudokus(folder: Path, size: int) -> Path:
    """A data set of 32 training and 5 test puzzles, most of whose cells are given."""
    generate_sudoku.main(["--size", str(size), "--train", "32", "--test", "5", "--clues", str(size * size * 3 // 4),
                          "--output-dir", f"{folder}-csv"])
    build_sudoku_dataset.main(["--source-dir", f"{folder}-csv", "--output-dir", str(folder)])
    return folder


@pytest.fixture(scope="module")
def sudokus(tmp_path_factory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("sudokus")
    return {size: write_sudokus(folder / str(size), size) for size in (4, 16)}


def trained_on_4x4(sudokus: dict[int, Path], run: Path, *options: str, epochs: int = 3) -> Path:
    words = [*options, f"data_paths=[{sudokus[4]}]", f"log_dir={run.parent}", "use_wandb=false",
             "global_batch_size=16", f"epochs={epochs}", "lr=1e-2", "lr_warmup_steps=0", "arch.hidden_size=16",
             "arch.num_heads=2", "arch.L_cycles=1", "arch.H_cycles=1", "arch.halt_max_steps=2"]
    if "checkpoint.resume=true" in options:
        return resume(run, *words)
    return train(pretrain_config(*words, f"checkpoint.path={run}"), World())


def test_a_checkpoint_of_4x4_scores_16x16_as_its_module_does(sudokus, tmp_path, capsys):
    run = trained_on_4x4(sudokus, tmp_path / "run", "arch=se_rrm", "arch.num_heads_t=2", "arch.head_dim=8")
    metrics = score(evaluate_config(f"checkpoint={run}", f"data_paths=[{sudokus[16]}]",
                                    f"output_dir={tmp_path / 'scores'}"), World())
    assert "trained on puzzles of seq_len=16, vocab_size=6, and answers here those of seq_len=256, vocab_size=18" in \
        capsys.readouterr().out
    restored = Restored.read(run)
    model = SERRM(restored.arch_for(World()).options | {"batch_size": 5, "seq_len": 256, "vocab_size": 18,
                                                        "num_puzzle_identifiers": 1}).eval()
    model.load_state_dict({name.removeprefix("model."): value for name, value in restored.weights().items()})
    inputs, labels = (torch.from_numpy(np.load(sudokus[16] / "test" / f"all__{name}.npy")).int()
                      for name in ("inputs", "labels"))
    batch = {"inputs": inputs, "labels": labels, "puzzle_identifiers": torch.zeros(5, dtype=torch.int32)}
    carry = model.initial_carry(batch)
    with torch.no_grad():
        for _ in range(2):
            carry, outputs = model(carry, batch)
    right = outputs["logits"].argmax(-1) == labels
    assert metrics["val/accuracy"] == pytest.approx(right.float().mean().item(), abs=1e-6)
    assert 0 < metrics["val/accuracy"] < 1 and "eval/sudoku/solved" in metrics


def test_symbols_that_were_listed_are_those_that_the_kind_tells_to_a_run_that_goes_on(sudokus, tmp_path):
    options = ["arch=se_rrm", "arch.num_heads_t=2", "arch.head_dim=8"]
    run = trained_on_4x4(sudokus, tmp_path / "run", *options, "arch.special=[0,1]")
    trained_on_4x4(sudokus, run, *options, "checkpoint.resume=true", epochs=4)
    with pytest.raises(ValueError, match=r"arch.special=\[0\] .was \[0, 1\]"):
        trained_on_4x4(sudokus, run, *options, "arch.special=[0]", "checkpoint.resume=true")


@pytest.mark.parametrize("options, fixed", [
    (["arch=trm", "arch.mlp_t=false", "arch.pos_encodings=rope2d"], "one vocab_size"),
    (["arch=se_rrm", "arch.num_heads_t=2", "arch.head_dim=8", "arch.pos_encodings=learned"], "one seq_len"),
    (["arch=se_rrm", "arch.num_heads_t=2", "arch.head_dim=8", "arch.puzzle_emb_ndim=1"], "one vocab_size")])
def test_weights_that_have_a_size_refuse_another(sudokus, tmp_path, options, fixed):
    run = trained_on_4x4(sudokus, tmp_path / "run", *options)
    with pytest.raises(ValueError, match=f"puzzles of seq_len=16, vocab_size=6, and the data have seq_len=256, "
                                         f"vocab_size=18; its weights are made for {fixed} "):
        score(evaluate_config(f"checkpoint={run}", f"data_paths=[{sudokus[16]}]"), World())


def test_training_halts_at_random_and_q_is_not_learned():
    model = se_rrm(halt_max_steps=50)
    head = ACTLossHead(model, loss_type="stablemax_cross_entropy").train()
    batch = {name: value.repeat(500, *[1] * (value.ndim - 1)) for name, value in
             tiny_batch(rows=1, seq_len=9, vocab_size=6).items()}
    carry, loss, *_ = head(carry=head.initial_carry(batch, seed=1), batch=batch, return_keys=())
    assert carry.halted.float().mean().item() == pytest.approx(0.3, abs=0.06)
    loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    assert not any("q_head" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize("changes, message", [
    ({"special": [6]}, "there is no token 6 among 6"), ({"puzzle_emb_ndim": 16}, "puzzle_emb_ndim"),
    ({"latent_dim": 3}, "for puzzles of tokens"), ({"mlp_t": True}, "mlp_t")])
def test_what_it_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        se_rrm(**changes)


def test_its_config_has_the_published_sizes():
    arch = pretrain_config("arch=se_rrm", "arch.special=[0,1]").arch
    sizes = {"batch_size": 1, "seq_len": 81, "vocab_size": 11, "forward_dtype": "float32"}
    model = arch.model_class(arch.options | sizes)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(2e6, rel=0.15)
