"""Every architecture that has a config: what all share, and what makes each differ."""
import copy
import io
import re
import shlex
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cache
from itertools import pairwise
from operator import itemgetter
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from config.schema import ArchConfig
from config.solver import load_solver
from dataset.common import PuzzleDatasetMetadata
from evaluate import score
from helpers import (
    ROOT,
    assert_same_run,
    evaluate_config,
    pretrain_config,
    resume,
    run_process,
    run_script,
    tiny_batch,
    tiny_sudokus,
    write_tiny_dataset,
)
from models.act import normal
from models.recursive_reasoning import eqr, hrm, transformers_baseline, trm_hier6, trm_singlez
from pretrain import train
from utils.checkpoint import read_checkpoint, weights_of
from utils.distributed import World

ARCHITECTURES = sorted(path.stem for path in (ROOT / "config" / "arch").glob("*.yaml"))
every_architecture = pytest.mark.parametrize("arch", ARCHITECTURES)
SMALL = {"hidden_size": 16, "num_heads": 2, "halt_max_steps": 3, "halt_exploration_prob": 0.5, "loops": 3,
         "num_heads_t": 2, "head_dim": 8, "anchor_fraction": 0.3, "anchor_corruption": 0.5}
CELLS = {"dec": {"blank": 0, "fills": [1, 2, 3, 4], "num_heads": 0}, "ldt": {"fills": [0, 1, 2, 3, 4]},
         "ldt_fields": {"fills": [0, 1, 2, 3, 4], "num_heads": 0},
         "se_rrm": {"special": [0, 1]}}
RANDOM = {"initial_state_std": 1.0, "relaxation": 0.9, "noise_scale": 0.1, "dropout": 0.1, "eval_dropout": 0.1}
METADATA = PuzzleDatasetMetadata(pad_id=0, ignore_label_id=0, blank_identifier_id=0, vocab_size=5, seq_len=9,
                                 num_puzzle_identifiers=4, total_groups=1, mean_puzzle_examples=1, total_puzzles=1,
                                 sets=["all"])


@cache
def composed(arch: str) -> dict:
    """What `config/arch/<arch>.yaml` says."""
    return pretrain_config(f"arch={arch}").arch.model_dump()


WITHOUT = ["dec", "ldt", "ldt_fields"]  # which have no puzzle embeddings
EMBEDDED = [arch for arch in ARCHITECTURES if arch not in WITHOUT]
with_and_without_puzzle_embedding = pytest.mark.parametrize("arch, embedding", [
    *(pytest.param(arch, {"puzzle_emb_ndim": 1 if arch == "se_rrm" else 16}, id=f"{arch}-embedding")
      for arch in EMBEDDED),
    *(pytest.param(arch, {"puzzle_emb_ndim": 0, "puzzle_emb_len": 0} if arch in EMBEDDED else {}, id=f"{arch}-none")
      for arch in ARCHITECTURES)])


def known_to(arch: str, options: dict) -> dict:
    """Those of the options that an architecture has."""
    return {key: value for key, value in options.items() if key in composed(arch)}


def arch_config(arch: str, **changes) -> ArchConfig:
    """A config of small size, checked as a command line's is. `puzzle_emb_ndim` follows `hidden_size`, as there."""
    options = composed(arch)
    small = known_to(arch, SMALL) | CELLS.get(arch, {}) | ({"L_cycles": 2} if options.get("L_cycles") else {})
    small |= {"puzzle_emb_ndim": changes.get("hidden_size", 16)} if options.get("puzzle_emb_ndim") else {}
    config = ArchConfig(**options | small | changes)
    config.check()
    return config


def head_of(arch: str, seed: int = 0, **changes) -> nn.Module:
    """The small head of a config, in training mode."""
    torch.manual_seed(seed)
    return arch_config(arch, **changes).build_head(METADATA, batch_size=4, world=World()).train()


def batch_of(rows: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """Random tokens from 1 to 4; 0 is padding."""
    batch = tiny_batch(seed, rows, seq_len=9, vocab_size=4)
    return batch | {name: batch[name] + 1 for name in ("inputs", "labels")}


def step(head: nn.Module, carry, batch: dict[str, Tensor]):
    """Carry, loss and outputs of one supervision step."""
    carry, loss, _, outputs, _ = head(carry=carry, batch=batch, return_keys=("logits", "q_halt_logits"))
    return carry, loss, outputs


def tensors_of(carry) -> list[Tensor]:
    fields = asdict(carry)
    return [*fields.pop("latents"), *fields.pop("current_data").values(), *fields.values()]


@every_architecture
def test_no_step_needs_a_value_of_the_device(arch):
    """Tensors on `meta` have none: what asks for one, as a mask that is an index does, raises. A GPU is waited for."""
    head, batch = head_of(arch).to("meta"), {name: value.to("meta") for name, value in batch_of().items()}
    with torch.device("meta"):
        carry = head.initial_carry(batch)
    for _ in range(2):
        carry, loss, _ = step(head, carry, batch)
        loss.backward()
    assert loss.is_meta and all(tensor.is_meta for tensor in tensors_of(carry))
    with torch.no_grad():
        carry, _ = head.eval().step(carry, batch)
    assert carry.halted.is_meta


@with_and_without_puzzle_embedding
def test_it_learns_to_copy_with_all_its_weights(arch, embedding):
    head, batch = head_of(arch, **embedding), batch_of()
    assert (head.puzzle_embedding is None) == (not embedding.get("puzzle_emb_ndim"))
    batch["labels"] = batch["inputs"]
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3)
    carry, losses = head.initial_carry(batch), []
    for _ in range(31):  # so that the last step is the first of three for its puzzles, into which some add the question
        carry, loss, metrics, *_ = head(carry=carry, batch=batch, return_keys=())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(metrics["lm_loss"].item())
    without_gradient = [name for name, p in head.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without_gradient and sum(losses[-4:]) < 0.9 * sum(losses[:4])


@with_and_without_puzzle_embedding
def test_its_weights_survive_a_file(arch, embedding):
    head, other, batch, file = head_of(arch, **embedding), head_of(arch, seed=1, **embedding), batch_of(), io.BytesIO()
    torch.save(head.state_dict(), file)
    file.seek(0)
    before, after = (step(h, h.initial_carry(batch), batch)[2]["logits"] for h in (head, other))
    assert not torch.equal(before, after)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(before, step(other, other.initial_carry(batch), batch)[2]["logits"])


@with_and_without_puzzle_embedding
def test_it_computes_in_bfloat16_near_float32(arch, embedding):
    batch, logits = batch_of(), []
    for dtype in ("float32", "bfloat16"):
        head = head_of(arch, forward_dtype=dtype, **embedding)
        carry, loss, outputs = step(head, head.initial_carry(batch), batch)
        loss.backward()
        assert loss.isfinite() and all(p.grad.isfinite().all() for p in head.parameters())
        assert all(z.dtype == getattr(torch, dtype) for z in carry.latents)
        logits.append(outputs["logits"].float())
    assert (logits[0] - logits[1]).abs().mean() < 0.25 * logits[0].std()


@every_architecture
@pytest.mark.parametrize("train", [True, False])
def test_two_ranks_compute_what_one_process_does_and_a_saved_carry_goes_on_as_if_it_had_not_been(arch, train):
    """With all that is random turned on. Five steps: rows halt and restart between them."""
    head = head_of(arch, **known_to(arch, RANDOM)).train(train)
    if hasattr(head.model.inner, "q_head"):
        nn.init.constant_(head.model.inner.q_head.bias, 1.0 if train else -5.0)  # in training, halt where allowed

    carry, logits = head.initial_carry(batch_of(8), seed=7), []
    halves = [head.initial_carry(take(batch_of(8), first, 4), seed=7, first_row=first) for first in (0, 4)]
    with torch.no_grad():
        for i in range(5):
            batch = batch_of(8, seed=i)
            ranks = [step(head, half, take(batch, first, 4)) for half, first in zip(halves, (0, 4))]
            again = step(head, saved_and_loaded(carry), batch)
            carry, _, outputs = step(head, carry, batch)
            logits.append(outputs["logits"])
            whole, resumed, upper, lower = ([*out.values(), *tensors_of(c)]
                                            for c, _, out in ((carry, 0, outputs), again, *ranks))
            assert all(len(tensor) == 8 for tensor in whole)  # a row for each row of the batch
            assert all(torch.equal(a, b) for a, b in zip(whole, resumed))
            joined = [torch.cat(parts) for parts in zip(upper, lower)]
            assert all(torch.allclose(a.float(), b.float(), atol=1e-3) for a, b in zip(whole, joined))
            assert torch.equal(whole[-1], joined[-1])  # the keys of the noise
            # Each step anew from the same state: untrained, six latents make 0.2 of a rounding in five steps.
            halves = [carry.map(itemgetter(slice(first, first + 4))) for first in (0, 4)]
    assert not any(torch.allclose(a, b, atol=1e-2) for a, b in pairwise(logits))


def saved_and_loaded(carry):
    file = io.BytesIO()
    torch.save(asdict(carry), file)
    file.seek(0)
    return type(carry)(**torch.load(file, weights_only=True))


def run_words(folder: Path, embedding: dict, arch: str = "trm") -> list[str]:
    """Overrides for a run of eight steps, random numbers and all, evaluated after every fourth. `arch`: whose options
    are known to all that get these words."""
    small = known_to(arch, SMALL | RANDOM | ({} if arch in ("se_rrm", *WITHOUT) else {"puzzle_emb_len": 1}) | embedding)
    small |= CELLS.get(arch, {})
    return [f"data_paths=[{folder / 'data'}]", *(f"arch.{key}={value}" for key, value in small.items()),
            "global_batch_size=16", "epochs=2", "eval_interval=1", "lr=1e-2", "lr_warmup_steps=0", "ema=True",
            "evaluators=[]", "use_wandb=false", f"log_dir={folder}"]


@with_and_without_puzzle_embedding
def test_a_resumed_run_ends_as_one_that_was_not_stopped(arch, embedding, tmp_path):
    write_tiny_dataset(tmp_path / "data", seq_len=9)
    words = [f"arch={arch}", *run_words(tmp_path, embedding, arch)]
    if composed(arch).get("L_cycles"):
        words.append("arch.L_cycles=2")
    train(pretrain_config(*words, f"checkpoint.path={tmp_path / 'whole'}"), World())
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    (tmp_path / "again" / "step_00000008.ckpt").unlink()
    resume(tmp_path / "again", "checkpoint.resume_from=step_00000004.ckpt")
    assert_same_run(tmp_path / "whole", tmp_path / "again")


@pytest.mark.parametrize("arch", ["trm", "ldt_fields", "dec"])
def test_a_run_of_a_version_without_its_newer_options_goes_on_by_the_command_line_of_now(arch, tmp_path):
    write_tiny_dataset(tmp_path / "data", seq_len=9)
    words = [f"arch={arch}", *run_words(tmp_path, {}, arch)]
    words += ["arch.L_cycles=2"] * bool(composed(arch).get("L_cycles"))
    run = train(pretrain_config(*words, f"checkpoint.path={tmp_path / 'run'}"), World())
    payload = read_checkpoint(run / "step_00000008.ckpt")
    fields, saved = arch_config(arch).model_class.Config.model_fields, payload["config"]["arch"]
    newer = [key for key, field in fields.items() if not field.is_required() and saved.get(key, saved) == field.default]
    older = {key: value for key, value in saved.items() if key not in newer}
    assert len(older) < len(saved)
    (tmp_path / "older").mkdir()
    torch.save(payload | {"config": payload["config"] | {"arch": older}}, tmp_path / "older" / "step_00000008.ckpt")
    (tmp_path / "older" / "latest.txt").write_text("step_00000008.ckpt")
    ends = [read_checkpoint(resume(folder, *words, "epochs=3") / "step_00000012.ckpt")
            for folder in (run, tmp_path / "older")]
    assert all(torch.equal(*pair) for pair in zip(*(end["model_state"].values() for end in ends)))
    with pytest.raises(ValueError, match="halt_max_steps=2 .was 3."):
        resume(tmp_path / "older", *words, "arch.halt_max_steps=2")


@every_architecture
def test_its_exports_score_as_the_run_or_the_published_layout_says_what_it_lacks(arch, tmp_path, capsys):
    write_tiny_dataset(tmp_path / "data", seq_len=9)
    words = [f"arch={arch}", *run_words(tmp_path, {}, arch)]
    if composed(arch).get("L_cycles"):
        words.append("arch.L_cycles=2")
    run = train(pretrain_config(*words, "checkpoint.monitor=val/loss", f"checkpoint.path={tmp_path / 'run'}"), World())

    def scored(checkpoint: Path, *overrides: str) -> dict[str, float]:
        return score(evaluate_config(f"checkpoint={checkpoint}", *overrides), World())

    metrics = scored(run, "export=safetensors", f"output_dir={tmp_path}")
    assert scored(tmp_path / "safetensors") == scored(tmp_path / "safetensors" / "model.safetensors") == metrics
    if arch.startswith("ldt"):
        chains = "strategy={name: chains@Chains, chains: 2, rounds: 9}"
        assert "one try often goes wrong" in capsys.readouterr().out
        assert scored(tmp_path / "safetensors", chains) == scored(run, chains) != metrics
        assert "one try" not in capsys.readouterr().out
    with pytest.raises(ValueError, match="the published code has no arch.*; use export=safetensors"):
        scored(run, "export=published", f"output_dir={tmp_path}")
    assert not (tmp_path / "published").exists()


@every_architecture
def test_its_checkpoint_alone_answers_typed_puzzles(arch, tmp_path):
    tiny_sudokus(tmp_path / "data")
    of_other_data = ("arch.fills", "arch.special", "arch.blank")
    words = [word for word in run_words(tmp_path, {}, arch) if not word.startswith(of_other_data)]
    run = train(pretrain_config(f"arch={arch}", *words, f"checkpoint.path={tmp_path / 'run'}"), World())
    shutil.rmtree(tmp_path / "data")
    puzzles = ["1...3.....4....2", "..2.1....4.....3"]
    answers = load_solver(str(run)).solve(puzzles)
    assert [answer.question for answer in answers] == puzzles and all(len(answer.answer) == 16 for answer in answers)


@pytest.mark.parametrize("embedding, architectures", [
    ({}, [arch for arch in EMBEDDED if arch != "se_rrm"]), ({}, ["se_rrm"]), ({}, ["dec"]), ({}, ["ldt"]),
    ({}, ["ldt_fields"]),
    ({"puzzle_emb_ndim": 0, "puzzle_emb_len": 0}, ["trm", "transformers_baseline"])],
    ids=["as configured", "se_rrm", "dec", "ldt", "ldt_fields", "none"])
def test_two_processes_train_every_architecture_as_one(embedding, architectures, tmp_path):
    """In one multirun, so that each job meets its peers anew."""
    write_tiny_dataset(tmp_path / "data", seq_len=9)
    # Without dropout, by which a gradient of rounding size may change its sign, and so Lion's whole update.
    words = [word for word in run_words(tmp_path, embedding, architectures[0]) if not word.startswith("arch.dropout")]
    done = run_script("pretrain.py", "-m", f"arch={','.join(architectures)}", *words,
                      "checkpoint.path=two/${hydra:runtime.choices.arch}", cwd=tmp_path, ranks=2)
    assert done.returncode == 0, done.stderr
    for arch in architectures:
        alone = train(pretrain_config(f"arch={arch}", *words, f"checkpoint.path={tmp_path / arch}"), World())
        one, two = (weights_of(read_checkpoint(run_dir / "step_00000008.ckpt"), use_ema=False)
                    for run_dir in (alone, tmp_path / "two" / arch))
        for name in one:
            # The bias of keys changes no attention, so that its gradient is nothing but rounding.
            assert "qkv_proj.bias" in name or torch.allclose(one[name], two[name], atol=1e-4), (arch, name)


def take(batch: dict[str, Tensor], first: int, rows: int) -> dict[str, Tensor]:
    return {name: value[first:first + rows] for name, value in batch.items()}


@every_architecture
def test_published_keys_that_it_does_not_use_are_accepted_with_a_notice_and_change_nothing(arch):
    config = arch_config(arch)
    assert not [notice for notice in config.notices() if "no effect" in notice]
    set_keys = {key: {"mlp_t": True, "no_ACT_continue": True}.get(key, 3) for key in config.model_class.UNUSED_KEYS}
    notices = [notice for notice in arch_config(arch, **set_keys).notices() if "no effect" in notice]
    assert notices == [f"arch.{key} has no effect with arch.name={config.name}" for key in set_keys]
    batch = batch_of()
    losses = [step(head, head.initial_carry(batch), batch)[1] for head in (head_of(arch), head_of(arch, **set_keys))]
    assert torch.equal(*losses)


@pytest.mark.parametrize("arch, unused", [
    ("trm", ("H_layers",)), ("trm_singlez", ("H_layers",)), ("trm_hier6", ("H_layers",)), ("urm", ("H_layers",)),
    ("eqr", ("H_layers",)), ("hrm", ("puzzle_emb_len", "no_ACT_continue")),
    ("transformers_baseline", ("L_cycles", "L_layers", "mlp_t", "puzzle_emb_len", "no_ACT_continue"))])
def test_no_other_key_goes_unused(arch, unused):
    assert unused == arch_config(arch).model_class.UNUSED_KEYS


def test_published_class_names_are_aliases():
    assert hrm.HierarchicalReasoningModel_ACTV1 is hrm.HRM
    assert transformers_baseline.Model_ACTV2 is transformers_baseline.TransformersBaseline
    assert trm_singlez.TinyRecursiveReasoningModel_ACTV1 is trm_singlez.TRMSingleZ
    assert trm_hier6.TinyRecursiveReasoningModel_ACTV1 is trm_hier6.TRMHier6
    assert eqr.EqRModel is eqr.EqR


@pytest.mark.parametrize("overrides, message", [
    (["arch=trm_hier6", "arch.L_cycles=7"], "arch.L_cycles=7: Input should be less than or equal to 6"),
    (["arch=transformers_baseline", "arch.H_cycles=2"], "arch.H_cycles=2: Input should be 1"),
    (["arch=transformers_baseline", "arch.hidden_size=513", "arch.num_heads=10"], "num_heads = 51 must be even"),
    (["arch=hrm", "arch.H_layers=0"], "arch.H_layers=0: "),
    (["arch=hrm", "arch.pos_encodings=rope2d", "arch.hidden_size=48"], "rope2d .* = 6 must be a multiple of 4"),
    (["arch=urm", "arch.pos_encodings=rope2d", "arch.mlp_t=True"], "rope2d has no effect with mlp_t=True"),
    (["arch=eqr", "arch.relaxation=0"], "arch.relaxation=0: "),
    (["arch=eqr", "arch.noise_scale=-1"], "arch.noise_scale=-1: "),
    (["arch=urm", "+arch.loops=8"], "unknown key arch.loops"),
])
def test_impossible_options_are_named(overrides, message):
    with pytest.raises(ValueError, match=message):
        pretrain_config(*overrides)


def test_a_width_that_its_heads_do_not_divide_works_with_a_notice():
    odd = {"hidden_size": 32, "num_heads": 3}
    assert arch_config("transformers_baseline", **odd).notices() == [
        "arch.hidden_size=32 is no multiple of arch.num_heads=3: heads are 10 wide, 30 together"]
    head = head_of("transformers_baseline", **odd)
    attention, batch = head.model.inner.H_level.layers[0].self_attn, batch_of()
    assert attention.qkv_proj.weight.shape == (90, 32) and attention.o_proj.weight.shape == (32, 30)
    assert step(head, head.initial_carry(batch), batch)[1].isfinite()
    assert composed("transformers_baseline")["hidden_size"] // composed("transformers_baseline")["num_heads"] == 42
    assert not arch_config("transformers_baseline").notices()


def passes_of(arch: str, **changes) -> tuple[list, nn.Module, tuple[Tensor, ...], tuple[Tensor, ...], Tensor]:
    """The passes (network, z, injection, result) of one supervision step from random latents; the inner model, the
    latents before and after, and the question."""
    head, calls = head_of(arch, **changes), []
    inner = head.model.inner
    for name in ("H_level", "L_level"):
        if hasattr(inner, name):
            getattr(inner, name).register_forward_hook(
                lambda _, arguments, result, name=name: calls.append((name, *arguments[:2], result)))
    torch.manual_seed(1)
    before = tuple(torch.randn(4, inner.P + 9, 16) for _ in inner.latent_names)
    x = inner.embed(batch_of())
    after = inner(before, x, head.initial_carry(batch_of()).noise_key)[0]
    return calls, inner, before, after, x


def equal(*pairs: tuple) -> bool:
    return all(torch.equal(a, b) if isinstance(b, Tensor) else a is b or a == b for a, b in pairs)


def test_hrm_updates_z_n_times_for_each_update_of_y_and_only_the_last_of_each_has_a_gradient():
    calls, _, (y, z), after, x = passes_of("hrm", H_cycles=2, L_cycles=3)
    assert [name for name, *_ in calls] == (["L_level"] * 3 + ["H_level"]) * 2
    assert [result.requires_grad for *_, result in calls] == [False] * 6 + [True] * 2
    for name, latent, injection, result in calls:
        if name == "L_level":
            assert equal((latent, z), (injection, y + x))
            z = result
        else:
            assert equal((latent, y), (injection, z))
            y = result
    assert equal(*zip(after, (y, z)))


def test_a_single_z_takes_the_question_n_times_and_then_one_pass_without():
    calls, _, (z,), after, x = passes_of("trm_singlez", H_cycles=2, L_cycles=2)
    assert [result.requires_grad for *_, result in calls] == [False] * 3 + [True] * 3
    for i, (_, latent, injection, result) in enumerate(calls):
        assert equal((latent, z), (injection, 0 if i % 3 == 2 else x))
        z = result
    assert equal((after[0], z))


def test_of_six_latents_each_inner_step_renews_the_next_from_the_sum_of_all():
    calls, _, (y, *z), after, x = passes_of("trm_hier6", H_cycles=2, L_cycles=3)
    assert [result.requires_grad for *_, result in calls] == [False] * 4 + [True] * 4
    for i, (_, latent, injection, result) in enumerate(calls):
        if i % 4 < 3:
            assert equal((latent, sum(z)), (injection, y + x))
            z[i % 4] = result
        else:
            assert equal((latent, y), (injection, sum(z)))
            y = result
    assert equal(*zip(after, (y, *z)))


def test_the_baseline_passes_once_a_step_and_never_trains_its_continue_logit():
    calls, _, (y,), after, x = passes_of("transformers_baseline")
    (_, latent, injection, result), = calls
    assert equal((latent, y), (injection, x), (after[0], result)) and result.requires_grad
    head, batch = head_of("transformers_baseline"), batch_of()
    step(head, head.initial_carry(batch), batch)[1].backward()
    halt, go_on = head.model.inner.q_head.bias.grad
    assert halt and not go_on


@pytest.mark.parametrize("wins", [True, False])
def test_the_baseline_halts_when_q_halt_beats_q_continue(wins):
    head, batch = head_of("transformers_baseline", halt_exploration_prob=0.0), batch_of()
    head.model.inner.q_head.bias.data = torch.tensor([-3.0, -4.0 if wins else -2.0])
    carry, *_ = step(head, head.initial_carry(batch), batch)
    assert carry.halted.tolist() == [wins] * 4


def test_urm_adds_the_question_before_every_pass_and_the_last_n_have_a_gradient():
    calls, inner, (z,), after, x = passes_of("urm", H_cycles=3, L_cycles=2)
    assert [result.requires_grad for *_, result in calls] == [False] * 4 + [True] * 2
    for _, latent, injection, result in calls:
        assert equal((latent, z), (injection, x))
        z = result
    assert equal((after[0], z))
    assert len(inner.L_level.layers) == 4 and all(hasattr(layer.mlp, "conv_weight") for layer in inner.L_level.layers)


def test_a_pass_of_eqr_is_relaxed_and_noised_each_by_a_draw_of_its_own():
    calls, inner, (y, z), after, x = passes_of("eqr", H_cycles=2, L_cycles=2, noise_scale=0.1)
    keys = head_of("eqr").initial_carry(batch_of()).noise_key
    for number, (_, latent, injection, result) in enumerate(calls):
        answers = number % 3 == 2
        assert equal((latent, y if answers else z), (injection, z if answers else y + x))
        moved = torch.lerp(latent, result, 0.95) + 0.1 * normal(keys, number, inner.P + 9, 16)
        y, z = (moved, z) if answers else (y, moved)
    assert equal(*zip(after, (y, z)))


def test_eqr_starts_each_puzzle_and_position_from_a_state_of_its_own():
    inner = head_of("eqr", initial_state_std=0.5).model.inner
    keys = head_of("eqr").initial_carry(batch_of(64)).noise_key
    drawn = torch.stack(inner.initial_latents(keys))  # (2, 64, 9, 16)
    assert drawn.shape == (2, 64, 9, 16) and len(drawn.unique()) > 0.99 * drawn.numel()
    assert drawn.std().item() == pytest.approx(0.5, rel=0.02) and drawn.abs().max() <= 2 * 0.5 / 0.8796 + 1e-3
    assert [z.shape for z in inner.initial_latents()] == [(16,), (16,)]


def test_eqr_without_its_options_is_trm():
    plain = head_of("eqr", initial_state_std=0.0, relaxation=1.0, noise_scale=0.0)
    heads, batch = (plain, head_of("trm", puzzle_emb_ndim=0, puzzle_emb_len=0)), batch_of()
    assert torch.equal(*(step(head, head.initial_carry(batch), batch)[1] for head in heads))


@pytest.mark.parametrize("arch", ["hrm", "urm"])
def test_attention_can_tell_rows_from_columns(arch):
    """With 2-D RoPE transposing the board changes the answer, without positions it moves it."""
    batch, moved = batch_of(), {}
    for positions in ("none", "rope2d"):
        head = head_of(arch, pos_encodings=positions).eval()
        if arch == "urm":
            for layer in head.model.inner.L_level.layers:  # whose convolution sees order as well
                layer.mlp.conv_weight.data[0] = 0
        turned = batch | {"inputs": batch["inputs"].view(4, 3, 3).mT.reshape(4, 9)}
        a, b = (step(head, head.initial_carry(batch), inputs)[2]["logits"] for inputs in (batch, turned))
        moved[positions] = torch.allclose(a.view(4, 3, 3, 5).transpose(1, 2), b.view(4, 3, 3, 5), atol=1e-3)
    assert moved == {"none": True, "rope2d": False}


# One of them compiles in `make test`, at its smallest; all in `make test-long`.
@pytest.mark.parametrize("arch, small", [
    ("eqr", {"H_cycles": 1, "L_cycles": 1, "L_layers": 1}),
    *(pytest.param(arch, {}, marks=pytest.mark.long) for arch in ARCHITECTURES)])
def test_the_random_recursion_compiles_as_one_graph_and_computes_the_same(arch, small):
    if not shutil.which("g++"):
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    head, batch = head_of(arch, **known_to(arch, RANDOM), **small), batch_of()

    def logits_and_gradients() -> list[torch.Tensor]:
        """Of a second step."""
        carry, *_ = step(head, head.initial_carry(batch, seed=3), batch)
        head.zero_grad()
        _, loss, outputs = step(head, carry, batch)
        loss.backward()
        return [outputs["logits"], torch.cat([p.grad.flatten() for p in head.parameters() if p.grad is not None])]

    eager, weights = logits_and_gradients(), copy.deepcopy(head.state_dict())
    with torch.no_grad():  # what a rounding of the weights comes to is what another order of operations may
        for parameter in head.parameters():
            parameter *= 1 + 1e-7 * torch.randn_like(parameter)
    roundings = [(other - own).abs().max().item() for other, own in zip(logits_and_gradients(), eager)]
    head.load_state_dict(weights)
    torch.compiler.reset()  # there is a limit to the graphs of one function in a process
    head.model.inner.compile(dynamic=False, fullgraph=True)
    for own, compiled, rounding in zip(eager, logits_and_gradients(), roundings):
        assert rounding < 0.1 * own.abs().max() and torch.allclose(own, compiled, atol=10 * rounding)


@pytest.mark.parametrize("size, value", [("seq_len", 16), ("vocab_size", 7)])
@every_architecture
def test_it_tells_which_sizes_of_the_data_its_weights_have(arch, size, value):
    config = arch_config(arch, **({"fills": [2, 3, 4]} if arch in CELLS and "fills" in CELLS[arch] else {}))
    heads = [config.build_head(METADATA.model_copy(update=sizes), 4, World()) for sizes in ({}, {size: value})]
    shapes = [{name: weight.shape for name, weight in head.named_parameters()} for head in heads]
    assert (shapes[0] != shapes[1]) == (size in heads[0].model.config.fixed_sizes)


@every_architecture
def test_a_recursion_is_one_short_file(arch):
    file = ROOT / "models" / "recursive_reasoning" / f"{arch}.py"
    lines = len(file.read_text().splitlines())
    assert lines <= {"ldt": 330, "se_rrm": 165}.get(arch, 125)  # these two have states of their own


def test_the_example_of_a_model_of_ones_own_trains_as_printed(tmp_path):
    """In a copy of the project, the files and the commands of docs/your-own-model.md."""
    text = (ROOT / "docs" / "your-own-model.md").read_text()
    for folder in ("config", "dataset", "evaluators", "losses", "models", "tests", "utils"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in (*ROOT.glob("*.py"), ROOT / "pyproject.toml"):  # the latter leaves out what takes minutes
        shutil.copy(file, tmp_path)
    files = dict(re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", text, re.DOTALL))
    assert list(files) == ["models/recursive_reasoning/gated.py", "config/arch/gated.yaml"]
    for path, content in files.items():
        (tmp_path / path).write_text(content)
    write_tiny_dataset(tmp_path / "data" / "reverse")
    commands = [shlex.split(line)[1:] for line in re.findall(r"^python .*$", text, re.MULTILINE)]
    assert [command[0] for command in commands] == ["pretrain.py", "-m"]
    commands[0] += ["epochs=2", "eval_interval=2", "global_batch_size=16"]
    with ThreadPoolExecutor() as pool:
        trained, tested = pool.map(lambda words: run_process([sys.executable, *words], tmp_path), commands)
    assert trained.returncode == 0, trained.stderr
    assert tested.returncode == 0 and re.search(r"[1-9]\d* passed", tested.stdout), tested.stdout
    assert (tmp_path / "checkpoints" / "gated" / "best.ckpt").is_file()
