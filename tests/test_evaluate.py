"""evaluate.py on runs of our own and on a published checkpoint: numbers, files, pictures, and what it refuses."""
import json
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from config.schema import PretrainConfig
from dataset.common import write_split
from dataset.puzzle_dataset import PuzzleDataset, PuzzleDatasetConfig
from evaluate import score
from evaluators import pictures
from evaluators.identifiers import ablate_identifiers
from helpers import (
    TINY_ARCH,
    evaluate_config,
    metric_lines,
    pretrain_config,
    run_script,
    write_tiny_dataset,
)
from pretrain import train
from utils import boards
from utils.checkpoint import read_checkpoint
from utils.distributed import World


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Strings of 9, so that a picture can be drawn, to be reversed."""
    return write_tiny_dataset(tmp_path_factory.mktemp("evaluate") / "data", seq_len=9)


def config_of(data: Path, name: str, *overrides: str) -> PretrainConfig:
    return pretrain_config(f"data_paths=[{data}]", f"checkpoint.path={data.parent / name}", *TINY_ARCH,
                           f"log_dir={data.parent}", "global_batch_size=16", "epochs=3", "eval_interval=1", "lr=1e-2",
                           "lr_warmup_steps=0", "ema=True", "ema_rate=0.8", "use_wandb=false", "evaluators=[]",
                           *overrides)


@pytest.fixture(scope="module")
def run_dir(data) -> Path:
    """A run whose loss rises at the end, so that its best checkpoint is not its last."""
    return train(config_of(data, "run", "checkpoint.monitor=val/loss", "checkpoint.mode=max"), World())


@pytest.fixture
def fresh(run_dir, tmp_path) -> Path:
    """A copy of the run that may be changed."""
    return shutil.copytree(run_dir, tmp_path / "run")


def scored(checkpoint: Path, *overrides: str) -> dict[str, float]:
    return score(evaluate_config(f"checkpoint={checkpoint}", *overrides), World())


def val_line(run_dir: Path, step: int) -> dict[str, float]:
    line, = (line for line in metric_lines(run_dir) if line["step"] == step and "val/loss" in line)
    return {name: value for name, value in line.items() if name not in ("step", "epoch")}


def test_a_checkpoint_scores_what_its_run_logged(run_dir):
    for step in (4, 8, 12):
        assert scored(run_dir / f"step_{step:08d}.ckpt") == pytest.approx(val_line(run_dir, step), rel=1e-5)


def test_a_run_is_scored_by_its_best_checkpoint_and_else_by_its_newest(fresh):
    best = read_checkpoint(fresh / "best.ckpt")["step"]
    assert scored(fresh) == pytest.approx(val_line(fresh, best), rel=1e-5)
    (fresh / "best.ckpt").unlink()
    assert scored(fresh) == pytest.approx(val_line(fresh, 12), rel=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_run_of_16_bits_is_scored_in_float32_on_a_cpu_and_told_so(fresh, dtype, capsys):
    expected, payload = scored(fresh), read_checkpoint(fresh / "best.ckpt")
    payload["config"]["arch"]["forward_dtype"] = dtype
    torch.save(payload, fresh / "best.ckpt")
    assert scored(fresh) == expected
    said = f"notice: computing in float32, so that scores are the same on each CPU; arch.forward_dtype={dtype} computes"
    assert said in capsys.readouterr().out


def test_metrics_lie_beside_the_checkpoint_or_where_told_and_are_printed(fresh, tmp_path, capsys):
    metrics = scored(fresh)
    assert json.loads((fresh / "evaluation" / "metrics.json").read_text()) == metrics
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("  "))
    assert {name: float(value) for name, value in printed.items()} == pytest.approx(metrics, rel=1e-5)
    scored(fresh, f"output_dir={tmp_path / 'elsewhere'}", "eval_save_outputs=[preds]")
    assert {file.name for file in (tmp_path / "elsewhere").iterdir()} == {"metrics.json", "outputs.rank0.pt"}


def test_where_another_metric_holds_another_step_for_the_best_it_is_told(fresh, capsys):
    best = read_checkpoint(fresh / "best.ckpt")["step"]
    lines = [json.loads(line) for line in (fresh / "metrics.jsonl").read_text().splitlines()]
    for solved, doubt in ((0.9, True), (0.0, False)):
        for line in lines:
            if "val/exact_accuracy" in line:
                line["val/exact_accuracy"] = solved * (line["step"] != best)
        (fresh / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        scored(fresh)
        told = f"of step {best}, the best by checkpoint.monitor=val/loss, but val/exact_accuracy is 0 there and 0.9 at"
        assert (told in capsys.readouterr().out) == doubt
    scored(fresh / "step_00000012.ckpt")
    assert "notice" not in capsys.readouterr().out


def test_metrics_that_are_no_numbers_are_null_in_every_file(fresh):
    payload = read_checkpoint(fresh / "best.ckpt")
    for state in (payload["model_state"], payload["ema_state"]):
        state["model.inner.lm_head.weight"].fill_(np.nan)
    torch.save(payload, fresh / "best.ckpt")
    assert np.isnan(scored(fresh, "per_step=true", "export=safetensors")["val/loss"])
    folder = fresh / "evaluation"
    for text in ((folder / "metrics.json").read_text(), (folder / "safetensors" / "metadata.json").read_text(),
                 *(folder / "steps.jsonl").read_text().splitlines()):
        assert "loss\": null" in text and json.loads(text, parse_constant=pytest.fail)


def test_averaged_weights_are_scored_unless_told_otherwise(fresh, capsys):
    averaged, stored = scored(fresh), scored(fresh, "use_ema=False")
    assert averaged != stored
    out = capsys.readouterr().out
    assert "(averaged weights)" in out and "(stored weights)" in out
    payload = read_checkpoint(fresh / "best.ckpt")
    payload["ema_state"] = None
    torch.save(payload, fresh / "best.ckpt")
    assert scored(fresh) == stored


def test_batches_of_another_size_score_the_same(run_dir):
    assert scored(run_dir, "global_batch_size=3") == pytest.approx(scored(run_dir), rel=1e-5)


def test_two_processes_score_as_one(run_dir, tmp_path):
    found = []
    for ranks in (1, 2):
        done = run_script("evaluate.py", f"checkpoint={run_dir}", f"output_dir=out{ranks}", "eval_save_outputs=[preds]",
                          "global_batch_size=4", cwd=tmp_path, ranks=ranks, OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stderr
        found.append(json.loads((tmp_path / f"out{ranks}" / "metrics.json").read_text()))
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    alone = torch.load(tmp_path / "out1" / "outputs.rank0.pt", weights_only=True)["preds"]
    parts = [torch.load(tmp_path / "out2" / f"outputs.rank{rank}.pt", weights_only=True)["preds"] for rank in (0, 1)]
    assert torch.equal(torch.cat([parts[0][0:2], parts[1][0:2], parts[0][2:4], parts[1][2:4], parts[0][4:6]]), alone)


def test_the_model_can_be_shown_no_puzzle_in_particular(fresh, tmp_path, capsys):
    own, blank = scored(fresh), scored(fresh, "puzzle_identifiers=blank", "eval_save_outputs=[puzzle_identifiers]")
    out = fresh / "evaluation_blank"
    assert json.loads((fresh / "evaluation" / "metrics.json").read_text()) == own
    assert json.loads((out / "metrics.json").read_text()) == {"puzzle_identifiers": "blank"} | blank
    printed = capsys.readouterr().out
    assert "(averaged weights)" in printed and "(averaged weights, puzzle_identifiers=blank)" in printed
    true = torch.load(out / "outputs.rank0.pt", weights_only=True)["puzzle_identifiers"]
    assert true.tolist() == list(range(1, 11))  # what evaluators see

    data = Path(read_checkpoint(fresh / "best.ckpt")["config"]["data_paths"][0])
    without = shutil.copytree(data, tmp_path / "without")
    np.save(without / "test" / "all__puzzle_identifiers.npy", np.zeros(10, np.int32))
    assert scored(fresh, f"data_paths=[{without}]") == blank != own
    with pytest.raises(ValueError, match="shuffled has no effect: the test puzzles of .*without have no identifiers"):
        scored(fresh, f"data_paths=[{without}]", "puzzle_identifiers=shuffled")


def test_the_model_can_be_shown_other_test_puzzles(fresh, data):
    own, shuffled = scored(fresh), scored(fresh, "puzzle_identifiers=shuffled")
    assert shuffled != own and scored(fresh, "puzzle_identifiers=shuffled") == shuffled
    test_data = PuzzleDataset(PuzzleDatasetConfig(seed=0, dataset_paths=[str(data)], test_set_mode=True,
                                                  global_batch_size=2), split="test")
    head = config_of(data, "unused").arch.build_head(test_data.metadata, 2, World())
    table = head.puzzle_embedding.weights
    table[:, 0] = torch.arange(65)
    ablate_identifiers(head, test_data, "shuffled")
    shown = table[:, 0].tolist()
    assert sorted(shown[1:11]) == list(range(1, 11)) and all(shown[i] != i for i in range(1, 11))
    assert shown[0] == 0 and shown[11:] == list(range(11, 65))


def test_a_model_without_puzzle_embedding_has_nothing_to_ablate(data):
    config = config_of(data, "no_embedding", "arch.puzzle_emb_ndim=0", "arch.puzzle_emb_len=0", "epochs=1")
    run_dir = train(config, World())
    with pytest.raises(ValueError, match="puzzle_identifiers=blank has no effect: the model has no puzzle embedding"):
        scored(run_dir, "puzzle_identifiers=blank")


def test_other_data_are_scored_where_their_puzzles_are_known(run_dir, tmp_path):
    other = write_tiny_dataset(tmp_path / "other", test=[[1]] * 5, seq_len=9, seed=3, train=[[1]] * 4)
    assert scored(run_dir, f"data_paths=[{other}]").keys() == scored(run_dir).keys()
    wider = write_tiny_dataset(tmp_path / "wider", vocab_size=12, seq_len=9)
    with pytest.raises(ValueError, match="was trained on puzzles of vocab_size=5, and the data have vocab_size=12; "):
        scored(run_dir, f"data_paths=[{wider}]")


def test_a_runs_own_folders_keep_their_identifiers(tmp_path):
    a, b = (write_tiny_dataset(tmp_path / name, seq_len=9, seed=i) for i, name in enumerate("ab"))
    run_dir = train(config_of(a, "run", f"data_paths=[{a},{b}]"), World())
    both, second = scored(run_dir), scored(run_dir, f"data_paths=[{b}]")
    assert second["val/lm_loss"] == pytest.approx(both["val/all1/lm_loss"], rel=1e-5)


@pytest.mark.parametrize("choice", ["0", "9", "slowest"])
def test_a_puzzle_is_drawn_step_by_step(fresh, choice, monkeypatch):
    drawn = []
    monkeypatch.setattr(pictures, "plot_solution_steps", lambda *a: (drawn.append(a), boards.plot_solution_steps(*a)))
    scored(fresh, f"picture={choice}")
    (question, steps, answer, confidence, picture, look), = drawn
    assert picture == fresh / "evaluation" / "solution_steps.png" and plt.imread(picture).std() > 0.01
    inputs = np.load(Path(read_checkpoint(fresh / "best.ckpt")["config"]["data_paths"][0]) / "test" / "all__inputs.npy")
    assert look.names == [*"01234"] and steps.shape == (3, 9)
    assert len(confidence) == 3 and all(0 < c < 1 for c in confidence)
    if choice != "slowest":
        assert np.array_equal(question, inputs[int(choice)]) and np.array_equal(answer, question[::-1])


def test_the_slowest_puzzle_is_the_one_that_is_solved_in_the_end_after_most_steps(fresh, monkeypatch):
    def trace(head, batch):
        """Rows 2, 5 and 7 are solved in the end, after 1, 2 and 0 steps that are not; row 4 only in between."""
        preds = torch.zeros(3, 10, 9, dtype=torch.int32)
        for row, steps in ((2, [1, 2]), (5, [2]), (7, [0, 1, 2]), (4, [0, 1])):
            preds[steps, row] = batch["labels"][row]
        return preds, torch.zeros(3, 10)

    drawn = []
    monkeypatch.setattr(pictures, "trace", trace)
    monkeypatch.setattr(pictures, "plot_solution_steps", lambda *a: drawn.append(a))
    scored(fresh, "picture=slowest")
    inputs = np.load(Path(read_checkpoint(fresh / "best.ckpt")["config"]["data_paths"][0]) / "test" / "all__inputs.npy")
    assert np.array_equal(drawn[0][0], inputs[5])


def test_a_picture_moves_if_asked_to(fresh, capsys):
    scored(fresh, "picture=0", "animation=true")
    folder = fresh / "evaluation"
    assert (folder / "solution_steps.gif").read_bytes()[:6] == b"GIF89a" and (folder / "solution_steps.png").is_file()
    assert f"animation: {folder / 'solution_steps.gif'}" in capsys.readouterr().out


def test_a_picture_says_that_it_is_of_one_attempt_where_there_may_be_more(fresh, capsys):
    scored(fresh, "picture=0")
    assert "one plain attempt" not in capsys.readouterr().out
    scored(fresh, "picture=0", "strategy={name: strategies@Single}")
    assert "the picture is of one plain attempt, which need not be the one that answered" in capsys.readouterr().out


def test_pictures_that_cannot_be_are_refused_before_scoring(fresh):
    with pytest.raises(ValueError, match="animation=true has no effect without picture"):
        scored(fresh, "animation=true")
    shutil.rmtree(fresh / "evaluation", ignore_errors=True)
    with pytest.raises(ValueError, match="there is no example 10: the test split .* has 10, numbered from 0"):
        scored(fresh, "picture=10")
    with pytest.raises(ValueError, match="^picture=.fastest.: .*integer, or: .*slowest"):
        scored(fresh, "picture=fastest")
    assert not list(fresh.glob("evaluation*"))


def test_a_sequence_whose_answer_is_shorter_than_the_question_is_scored_and_drawn(tmp_path, monkeypatch):
    """24 stickers of a cube and up to 11 moves; what comes after the last of them is not scored."""
    random = np.random.default_rng(0)
    for split, count in (("train", 32), ("test", 6)):
        each = np.arange(count + 1)
        write_split(tmp_path / "cube" / split, {
            "inputs": random.integers(1, 7, (count, 24)), "puzzle_identifiers": np.zeros(count, int),
            "labels": [random.integers(7, 16, random.integers(1, 12)) for _ in range(count)],
            "puzzle_indices": each, "group_indices": each}, vocab_size=16)
    run_dir = train(config_of(tmp_path / "cube", "run", "epochs=1"), World())
    monkeypatch.setattr(pictures, "trace",
                        lambda head, batch: (batch["labels"][None].clamp(min=0), torch.zeros(1, 6)))
    drawn = []
    monkeypatch.setattr(pictures, "plot_solution_steps", lambda *a: (drawn.append(a), boards.plot_solution_steps(*a)))
    scored(run_dir, "picture=slowest")
    answer = drawn[0][2]
    assert len(answer) == 24 and (answer[11:] == -100).all() and answer[0] >= 7
    assert plt.imread(run_dir / "evaluation" / "solution_steps.png").std() > 0.01


def step_lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("act_inference", [False, True])
def test_each_step_scores_as_a_model_of_that_depth(data, act_inference, tmp_path, capsys):
    """Halting early or not, in batches that are not full."""
    run_dir = train(config_of(data, f"steps{act_inference}", f"arch.act_inference={act_inference}", "epochs=1"),
                    World())
    payload = read_checkpoint(run_dir / "best.ckpt")
    # These halting logits rise with the steps, from row to row at another one above 0.
    weight, bias = (payload["model_state"][f"model.inner.q_head.{name}"] for name in ("weight", "bias"))
    weight.normal_(std=3, generator=torch.Generator().manual_seed(0)).neg_()
    bias.fill_(-5.9)
    torch.save(payload | {"ema_state": None}, run_dir / "best.ckpt")
    metrics = scored(run_dir, "per_step=true", "global_batch_size=4")
    printed = capsys.readouterr().out
    lines = step_lines(run_dir / "evaluation")
    assert [line["step"] for line in lines] == [1, 2, 3] and len({line["loss"] for line in lines}) > 1
    for line in lines:
        depth = line.pop("step")
        alone = scored(run_dir, f"halt_max_steps={depth}", "global_batch_size=4")
        assert line == pytest.approx({name: alone[f"val/{name}"] for name in line}, rel=1e-5)
        told = json.loads((run_dir / f"evaluation_halt_max_steps_{depth}" / "metrics.json").read_text())
        assert told == {"halt_max_steps": depth} | alone
        assert f"{line['loss']:.6g}" in printed
    assert lines[-1]["loss"] == pytest.approx(metrics["val/loss"], rel=1e-5)
    assert 1 < metrics["val/steps"] < 3 if act_inference else metrics["val/steps"] == 3


def test_a_published_checkpoint_scores_as_recorded_after_every_step(shared, tmp_path):
    folder = shared / "interop" / "sudoku4"
    expected = json.loads((folder / "expected_eval.json").read_text())["per_step"]
    metrics = scored(folder / "checkpoint" / "step_550", f"data_paths=[{folder}]", f"output_dir={tmp_path}",
                     "evaluators=[{name: sudoku@Sudoku}]", "per_step=true")
    for line, recorded in zip(step_lines(tmp_path), expected, strict=True):
        assert line["exact_accuracy"] == recorded["exact_accuracy"]
        assert line["accuracy"] == pytest.approx(recorded["accuracy"], abs=1e-6)
        for name, value in (recorded["metrics"] | {"loss": recorded["loss"]}).items():
            if name.endswith("loss"):
                assert line[name] * 512 == pytest.approx(value, rel=1e-4, abs=1e-4)
    last = expected[-1]
    assert metrics["val/exact_accuracy"] == last["exact_accuracy"] == metrics["eval/sudoku/solved"]
    for name in ("q_halt_accuracy", "steps"):
        assert metrics[f"val/{name}"] == pytest.approx(last["metrics"][name] / 512, rel=1e-4), name


def test_a_published_checkpoint_can_be_trained_further(shared, tmp_path):
    """On a part of its data, which is enough to see that it is as good as it was."""
    folder, part = shared / "interop" / "sudoku4", tmp_path / "part"
    for split, rows in (("train", 256), ("test", 128)):
        arrays = {field: np.load(folder / split / f"all__{field}.npy")[:rows + field.endswith("indices")]
                  for field in ("inputs", "labels", "puzzle_identifiers", "puzzle_indices", "group_indices")}
        write_split(part / split, arrays, 6, 1)
    config = pretrain_config(
        f"data_paths=[{part}]", f"load_checkpoint={folder / 'checkpoint' / 'step_550'}", "experiment=demo_sudoku4",
        "arch.hidden_size=64", "arch.num_heads=4", "arch.L_cycles=3", "arch.H_cycles=2",
        f"checkpoint.path={tmp_path / 'run'}",
        f"log_dir={tmp_path}", "epochs=1", "global_batch_size=128", "lr=1e-6", "puzzle_emb_lr=0", "evaluators=[]")
    run_dir = train(config, World())
    before, after = (val_line(run_dir, step)["val/exact_accuracy"] for step in (0, 2))
    assert after == pytest.approx(before, abs=0.01) and before > 0.95


def test_what_is_missing_or_damaged_is_named(fresh, tmp_path):
    payload = read_checkpoint(fresh / "best.ckpt")
    torch.save({"model_state": payload["model_state"]}, tmp_path / "bare.ckpt")
    with pytest.raises(ValueError, match="bare.ckpt holds no config, and config.yaml or all_config.yaml is not beside"):
        scored(tmp_path / "bare.ckpt")
    shutil.copy(fresh / "config.yaml", tmp_path / "all_config.yaml")
    assert scored(tmp_path / "bare.ckpt") == scored(fresh, "use_ema=False")
    (tmp_path / "all_config.yaml").write_text("lr: 1.0\n")
    with pytest.raises(ValueError, match="all_config.yaml has no arch"):
        scored(tmp_path / "bare.ckpt")
    whole = (fresh / "best.ckpt").read_bytes()
    (fresh / "best.ckpt").write_bytes(whole[:len(whole) // 2])
    with pytest.raises(ValueError, match="best.ckpt cannot be read as a checkpoint"):
        scored(fresh)
    with pytest.raises(ValueError, match="no checkpoint at .*nowhere"):
        scored(tmp_path / "nowhere")
    state = payload["model_state"]
    del state["model.inner.lm_head.weight"]
    torch.save(payload | {"ema_state": None}, fresh / "best.ckpt")
    with pytest.raises(ValueError, match="best.ckpt does not fit this model: model.inner.lm_head.weight is missing"):
        scored(fresh)


class Harm:
    """What a stranger's pickle may hold: a call, made when it is loaded."""

    def __reduce__(self):
        return Path.touch, (Path("harmed"),)


@pytest.mark.parametrize("layout", ["ours", "published"])
def test_a_pickle_that_would_run_code_is_refused_by_both_scripts(fresh, layout, monkeypatch):
    monkeypatch.chdir(fresh)
    payload = read_checkpoint("best.ckpt")
    state = {f"_orig_mod.{name}": value for name, value in payload["model_state"].items()}
    file = Path("best.ckpt" if layout == "ours" else "step_12")
    torch.save((payload if layout == "ours" else state) | {"harm": Harm()}, file)
    shutil.copy("config.yaml", "all_config.yaml")
    refused = pytest.raises(ValueError, match=f"{file} cannot be read as a checkpoint .it holds more than tensors")
    with refused:
        scored(file)
    data = Path(payload["config"]["data_paths"][0])
    with refused:
        train(config_of(data, "refused", f"load_checkpoint={file}"), World())
    assert not Path("harmed").exists()
    torch.load(file, weights_only=False)
    assert Path("harmed").exists()  # as it would have been


OWN_PARTS = '''
from evaluators.strategies import Single

class Brief(Single):
    """Ends each puzzle after so many steps."""
    def __init__(self, steps):
        self.steps = steps
    def take(self, step):
        step.ended |= step.busy & (step.steps == self.steps)
        return super().take(step)

class Looks:
    required_outputs = set()
    def __init__(self, data_path, eval_metadata): self.told = []
    def check(self, data):
        if data.num_examples > 10:
            raise ValueError("too many to look at")
    def begin_eval(self): pass
    def update_batch(self, batch, outputs): pass
    def result(self, save_path, rank, world_size, group): return {}
    def inspect(self, head, data, world, save_path):
        assert not head.training and save_path.is_dir() and world.is_main
        self.told.append(f"looked at {data.config.folders}")
        return {"examples": data.num_examples}
'''


@pytest.fixture
def own_parts(tmp_path, monkeypatch):
    (tmp_path / "own_parts.py").write_text(OWN_PARTS)
    monkeypatch.syspath_prepend(tmp_path)


def test_a_strategy_of_one_s_own_is_a_setting(fresh, own_parts, tmp_path):
    metrics = scored(fresh, "strategy={name: own_parts@Brief, steps: 2}", f"output_dir={tmp_path / 'brief'}")
    assert metrics["val/steps"] == 2
    shallow = scored(fresh, "halt_max_steps=2")
    assert {name: value for name, value in metrics.items() if name.startswith("val/")} == pytest.approx(
        {name: value for name, value in shallow.items() if name.startswith("val/")}, rel=1e-5)
    assert json.loads((tmp_path / "brief" / "metrics.json").read_text())["strategy"] == "own_parts@Brief"
    with pytest.raises(ValueError, match="strategy: own_parts@Brief does not take these options: missing .*steps"):
        scored(fresh, "strategy={name: own_parts@Brief}")


def test_an_evaluator_may_run_the_model_itself(fresh, own_parts, tmp_path, capsys):
    data = Path(read_checkpoint(fresh / "best.ckpt")["config"]["data_paths"][0])
    shutil.copytree(data, tmp_path / "other")
    inputs = np.load(tmp_path / "other" / "test" / "all__inputs.npy")
    np.save(tmp_path / "other" / "test" / "all__inputs.npy", inputs[:, ::-1])
    metrics = scored(fresh, "evaluators=[{name: own_parts@Looks}]", f"data_paths=[{data},{tmp_path / 'other'}]")
    assert {name: metrics[f"eval/own_parts/{name}/examples"] for name in (data.name, "other")} == {
        data.name: 10, "other": 10}
    assert f"looked at {data}\nlooked at {tmp_path / 'other'}\n" in capsys.readouterr().out
    many = write_tiny_dataset(tmp_path / "many", test=[[1]] * 11)
    with pytest.raises(ValueError, match="too many to look at"):
        scored(fresh, "evaluators=[{name: own_parts@Looks}]", f"data_paths=[{many}]")
