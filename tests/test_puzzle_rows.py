"""Whose each row of the puzzle table is: by whatever path the data lie, in another build of them, and in old files."""
import json
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from config.restored import Restored
from config.schema import PretrainConfig
from dataset.common import dataset_fingerprint
from dataset.puzzle_rows import PuzzleRows, packed, unpacked
from evaluate import score
from evaluators.loop import evaluate
from helpers import (
    TINY_ARCH,
    assert_same_run,
    evaluate_config,
    first_state,
    metric_lines,
    pretrain_config,
    resume,
    write_tiny_dataset,
    write_tiny_regression,
)
from pretrain import load_data, train
from utils.checkpoint import read_checkpoint
from utils.distributed import World

TABLE = "model.inner.puzzle_emb.weights"
PUZZLES = 10  # of each split, with the same identifiers: one puzzle's examples stand in both


def write_data(path: Path, seed: int = 0, **more) -> Path:
    return write_tiny_dataset(path, train=[[1]] * PUZZLES, test=[[1]] * PUZZLES, seed=seed, **more)


def rebuilt(data: Path, path: Path, names: Sequence[str]) -> Path:
    """The same data as another build numbers them: `names` of its identifiers from 1 on, some of them new."""
    old = json.loads((data / "identifiers.json").read_text())
    shutil.copytree(data, path)
    (path / "identifiers.json").write_text(json.dumps(["<blank>", *names]))
    new = {old.index(name): i for i, name in enumerate(names, start=1) if name in old}
    free = iter(i for i in range(1, len(names) + 1) if i not in new.values())
    new |= {i: next(free) for i in range(1, len(old)) if i not in new}
    for split in ("train", "test"):
        file, metadata = path / split / "all__puzzle_identifiers.npy", path / split / "dataset.json"
        np.save(file, np.array([new[i] for i in np.load(file).tolist()], np.int32))
        metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"num_puzzle_identifiers": len(names) + 1}))
    return path


def shuffled_names(new: int = 0) -> list[str]:
    """Those of `write_data` in another order, the last `new` of them replaced by names that it has not."""
    names = [f"puzzle{i}" for i in range(1, PUZZLES + 1)]
    kept = names[:PUZZLES - new] + [f"new{i}" for i in range(new)]
    return [kept[i] for i in np.random.default_rng(0).permutation(PUZZLES)]


def config_of(data: Path | str, run: Path, *overrides: str) -> PretrainConfig:
    """Embeddings learn fast, so that whose they are is seen in the loss."""
    return pretrain_config(f"data_paths=[{data}]", f"checkpoint.path={run}", *TINY_ARCH, f"log_dir={run.parent}",
                           "global_batch_size=5", "epochs=10", "eval_interval=10", "lr=1e-2", "lr_warmup_steps=0",
                           "puzzle_emb_lr=0.3", "ema=True", "ema_rate=0.8", "use_wandb=false", "evaluators=[]",
                           *overrides)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("rows") / "data")


@pytest.fixture(scope="module")
def run_dir(data) -> Path:
    return train(config_of(data, data.parent / "run"), World())


def scored(checkpoint: Path, *overrides: str) -> dict[str, float]:
    return score(evaluate_config(f"checkpoint={checkpoint}", *overrides), World())


def start_table(config: PretrainConfig) -> torch.Tensor:
    """The puzzle table that a run begins with."""
    return first_state(config).head.puzzle_embedding.weights


def old_version(run_dir: Path, folder: Path, *more: str) -> Path:
    """The best checkpoint of a run as it was written before rows had names, `more` keys left out."""
    payload = read_checkpoint(run_dir / "best.ckpt")
    folder.mkdir()
    torch.save({key: value for key, value in payload.items() if key not in ("puzzle_names", *more)},
               folder / "old.ckpt")
    return folder / "old.ckpt"


def published(run_dir: Path, folder: Path) -> Path:
    """Its weights as a published checkpoint, with nothing but its config beside it."""
    folder.mkdir(parents=True)
    torch.save(read_checkpoint(run_dir / "best.ckpt")["model_state"], folder / "step_20")
    shutil.copy(run_dir / "config.yaml", folder / "all_config.yaml")
    return folder / "step_20"


# A path is only where a data set lies

@pytest.mark.parametrize("spelling", ["slash", "dot", "relative", "link", "copy", "linked splits"])
def test_a_data_set_has_one_set_of_rows_by_whatever_path_it_is_listed(data, tmp_path, monkeypatch, spelling):
    monkeypatch.chdir(data.parent)
    if spelling == "link":
        (tmp_path / "other").symlink_to(data)
    elif spelling == "copy":
        shutil.copytree(data, tmp_path / "other")
    elif spelling == "linked splits":
        (tmp_path / "other").mkdir()
        for part in data.iterdir():
            (tmp_path / "other" / part.name).symlink_to(part)
    other = {"slash": f"{data}/", "dot": f"{data}/../{data.name}", "relative": data.name}.get(spelling,
                                                                                              tmp_path / "other")
    stream, test = load_data(config_of(data, tmp_path / "x", f"data_paths_test=[{other}]"), World())
    assert stream.metadata.num_puzzle_identifiers == test.metadata.num_puzzle_identifiers == 1 + PUZZLES
    assert test.examples(range(PUZZLES))["puzzle_identifiers"].tolist() == list(range(1, PUZZLES + 1))
    twice, _ = load_data(config_of(f"{data},{other}", tmp_path / "x"), World())
    assert list(twice.sets) == ["all"] and twice.metadata.num_puzzle_identifiers == 1 + PUZZLES


def test_a_run_tested_on_its_own_data_by_another_path_scores_as_by_its_own(data, run_dir, tmp_path, capsys):
    other = train(config_of(data, tmp_path / "run", f"data_paths_test=[{data}/]"), World())
    assert metric_lines(other)[-1]["val/loss"] == metric_lines(run_dir)[-1]["val/loss"]
    assert "notice" not in capsys.readouterr().out


def test_a_data_set_that_is_listed_twice_is_read_once_and_that_is_said(data, tmp_path, capsys):
    load_data(config_of(f"{data},{data}/.", tmp_path / "x"), World())
    assert f"notice: {data}/. is the same data set as {data}, and is read once\n" in capsys.readouterr().out


def test_a_run_goes_on_with_its_data_by_another_path(data, tmp_path):
    whole = train(config_of(data, tmp_path / "whole", f"data_paths_test=[{data}]"), World())
    parts = train(config_of(data, tmp_path / "parts", f"data_paths_test=[{data}]", "epochs=5"), World())
    moved = shutil.copytree(data, tmp_path / "moved")
    resume(parts, f"data_paths=[{moved}/]", f"data_paths_test=[{data}/]", "epochs=10")
    newest = [read_checkpoint(run / "step_00000020.ckpt") for run in (whole, parts)]
    assert torch.equal(*(payload["model_state"][TABLE] for payload in newest))


def test_one_of_several_data_sets_is_known_wherever_it_lies(tmp_path):
    """Of equal names, too: each has rows of its own."""
    a, b = (write_data(tmp_path / name, seed=i) for i, name in enumerate("ab"))
    run = train(config_of(f"{a},{b}", tmp_path / "run"), World())
    both = scored(run)
    moved = b.rename(tmp_path / "moved")
    for path, name in ((a, "all"), (f"{a}/", "all"), (moved, "all1"), (f"{moved}/", "all1")):
        found = scored(run, f"data_paths=[{path}]")
        assert found["val/lm_loss"] == pytest.approx(both[f"val/{name}/lm_loss"], rel=1e-5), path


def test_a_fingerprint_sees_what_lies_behind_links(tmp_path):
    a, b = (write_data(tmp_path / name, seed=i) for i, name in enumerate("ab"))
    for data in (a, b):
        linked = tmp_path / f"linked_{data.name}"
        linked.mkdir()
        for part in data.iterdir():
            (linked / part.name).symlink_to(part)
        assert dataset_fingerprint(linked) == dataset_fingerprint(data)
    assert dataset_fingerprint(tmp_path / "linked_a") != dataset_fingerprint(tmp_path / "linked_b")


# Another build of the same data

def test_another_build_is_scored_by_the_names_of_its_puzzles(data, run_dir, tmp_path, capsys):
    own, blank = scored(run_dir), scored(run_dir, "puzzle_identifiers=blank")
    capsys.readouterr()
    other = rebuilt(data, tmp_path / "other", shuffled_names())
    assert scored(run_dir, f"data_paths=[{other}]") == pytest.approx(own, rel=1e-5)
    assert "notice" not in capsys.readouterr().out
    assert own["val/lm_loss"] != pytest.approx(blank["val/lm_loss"], rel=1e-3)  # whose an embedding is, is seen


def test_unknown_puzzles_are_scored_by_the_mean_and_counted(data, run_dir, tmp_path, capsys):
    other = rebuilt(data, tmp_path / "other", shuffled_names(new=3))
    restored = Restored.read(run_dir)
    table = restored.head(restored.open_data([str(other)], "test", World())).puzzle_embedding.weights
    assert f"notice: 3 of the 10 puzzles of {other} have no embedding in {run_dir / 'best.ckpt'}; theirs are the " \
           "mean of those there\n" in capsys.readouterr().out
    theirs = read_checkpoint(run_dir / "best.ckpt")["model_state"][TABLE]
    for name, row in zip(["<blank>", *shuffled_names(new=3)], table, strict=True):
        number = 0 if name == "<blank>" else int(name.removeprefix("puzzle")) if name.startswith("puzzle") else None
        assert torch.allclose(row, theirs.mean(0) if number is None else theirs[number]), name


def test_training_goes_on_from_the_rows_of_the_same_names(data, run_dir, tmp_path, capsys):
    theirs = read_checkpoint(run_dir / "best.ckpt")["model_state"][TABLE]
    names = shuffled_names(new=2)
    other = rebuilt(data, tmp_path / "other", names)
    table = start_table(config_of(other, tmp_path / "x", f"load_checkpoint={run_dir}"))
    expected = [theirs[int(name[6:])] if name.startswith("puzzle") else theirs.mean(0) for name in names]
    assert torch.allclose(table, torch.stack([theirs[0], *expected]))
    assert (f"notice: 2 of the 10 puzzles of {other} have no embedding in {run_dir / 'best.ckpt'}; theirs start at "
            "the mean of those there\n") in capsys.readouterr().out


def test_a_run_is_tested_on_another_build_with_the_rows_that_it_trains(data, run_dir, tmp_path, capsys):
    other = rebuilt(data, tmp_path / "other", shuffled_names(new=3))
    run = train(config_of(data, tmp_path / "run", f"data_paths_test=[{other}]", "eval_save_outputs=[preds]"), World())
    out = capsys.readouterr().out
    assert f"notice: puzzles of {other} have the embeddings of the puzzles with the same name in {data}\n" in out
    assert "notice: 3 of the 10 test puzzles have an embedding that no training puzzle has, so it stays as it" in out
    table = read_checkpoint(run / "best.ckpt")["model_state"][TABLE]
    assert len(table) == 1 + PUZZLES + 3 and not table[-3:].any() and table[1:-3].any(1).all()
    logged = metric_lines(run)[-1]["val/loss"]
    assert scored(run)["val/loss"] == pytest.approx(logged, rel=1e-5)  # with the untrained rows, as in training
    assert scored(run, f"data_paths=[{data}]")["val/lm_loss"] != pytest.approx(logged, rel=1e-3)


class Numbers:
    required_outputs: set[str] = set()

    def begin_eval(self):
        self.seen = []

    def update_batch(self, batch, outputs):
        self.seen += batch["puzzle_identifiers"].tolist()

    def result(self, save_path, rank, world_size, group):
        return {"seen": self.seen}


def test_evaluators_see_identifiers_as_their_data_set_numbers_them(data, tmp_path):
    other = rebuilt(data, tmp_path / "other", shuffled_names(new=3))
    config = config_of(data, tmp_path / "run", f"data_paths_test=[{other}]")
    stream, test = load_data(config, World())
    head = first_state(config, stream).head
    metrics = evaluate(head, test, World(), {"numbers": (str(other), Numbers())})
    stored = np.load(other / "test" / "all__puzzle_identifiers.npy")
    assert metrics["numbers/seen"] == stored.tolist()
    assert test.examples(range(PUZZLES))["puzzle_identifiers"].tolist() != stored.tolist()


@pytest.mark.parametrize("layout", ["published", "safetensors"])
def test_an_export_says_whose_its_embeddings_are(data, run_dir, tmp_path, layout):
    own = scored(run_dir, f"export={layout}", f"output_dir={tmp_path / 'out'}")
    folder = tmp_path / "out" / layout
    assert (folder / "identifiers.json").read_text() == (data / "identifiers.json").read_text() + "\n"
    other = rebuilt(data, tmp_path / "other", shuffled_names())
    assert scored(folder, f"data_paths=[{other}]") == pytest.approx(own, rel=1e-5)


def test_a_name_that_stands_in_two_data_sets_of_a_run_is_that_of_the_first_and_said(tmp_path, capsys):
    a, b = (write_data(tmp_path / name, seed=i) for i, name in enumerate("ab"))
    run = train(config_of(f"{a},{b}", tmp_path / "run"), World())
    scored(run)
    assert "notice: 10 of the" not in capsys.readouterr().out
    other = rebuilt(a, tmp_path / "other", shuffled_names())
    found = scored(run, f"data_paths=[{other}]")
    assert f"notice: 10 of the 10 puzzles of {other} have a name that stands in several data sets of " in \
        capsys.readouterr().out
    assert found == pytest.approx(scored(run, f"data_paths=[{a}]"), rel=1e-5)


def test_puzzles_without_names_are_known_by_their_data_set_and_number(tmp_path, capsys):
    numbers = {"identifiers": np.arange(1, PUZZLES + 1), "train": PUZZLES, "test": PUZZLES}
    a, b = (write_tiny_regression(tmp_path / name, seed=i, **numbers) for i, name in enumerate("ab"))
    run = train(config_of(a, tmp_path / "run", "arch.loss.name=losses@ACTRegressionLossHead"), World())
    own = scored(run)
    moved = a.rename(tmp_path / "moved")
    assert scored(run, f"data_paths=[{moved}]") == own
    assert "notice" not in capsys.readouterr().out
    scored(run, f"data_paths=[{b}]")
    assert f"notice: 10 of the 10 puzzles of {b} have no embedding in {run / 'best.ckpt'}" in capsys.readouterr().out


def test_puzzles_that_share_the_blank_need_no_names(tmp_path, run_dir, capsys):
    a, b = (write_data(tmp_path / name, seed=i, identifiers=False) for i, name in enumerate("ab"))
    run = train(config_of(a, tmp_path / "run", "ema=False"), World())
    files = [run, old_version(run, tmp_path / "old"), published(run, tmp_path / "published")]
    shutil.rmtree(a)
    found = [scored(file, f"data_paths=[{b}]") for file in files]
    assert found[0] == found[1] == found[2]
    for file in files:
        table = start_table(config_of(b, tmp_path / "x", f"load_checkpoint={file}"))
        assert torch.equal(table, read_checkpoint(run / "best.ckpt")["model_state"][TABLE]) and table.any()
    scored(run_dir, f"data_paths=[{b}]")  # of a run whose puzzles have embeddings, these take that of the blank
    assert "notice" not in capsys.readouterr().out


# Checkpoints that do not name their rows

def test_an_older_checkpoint_is_read_by_its_data_where_they_lie(data, run_dir, tmp_path, capsys):
    own = scored(run_dir)
    first = shutil.copytree(data, tmp_path / "first")
    run = train(config_of(first, tmp_path / "run"), World())
    old = old_version(run, tmp_path / "old")
    assert scored(old) == scored(run) == own
    other = rebuilt(data, tmp_path / "other", shuffled_names(new=1))
    expected = scored(run_dir, f"data_paths=[{other}]")
    capsys.readouterr()
    assert scored(old, f"data_paths=[{other}]") == expected
    assert f"notice: 1 of the 10 puzzles of {other} have no embedding in {old}" in capsys.readouterr().out
    moved = first.rename(tmp_path / "moved")
    assert scored(old, f"data_paths=[{moved}]") == own
    assert "notice" not in capsys.readouterr().out


def test_an_older_checkpoint_whose_data_are_gone_says_how_to_name_its_rows(data, tmp_path, capsys):
    first = shutil.copytree(data, tmp_path / "first")
    run = train(config_of(first, tmp_path / "run"), World())
    old, own = old_version(run, tmp_path / "old"), scored(run)
    other = rebuilt(data, tmp_path / "other", shuffled_names())
    shutil.rmtree(first)
    with pytest.raises(ValueError, match="old.ckpt does not say whose its 11 puzzle embeddings are, and they are not "
                       f"those of {other}, which has 11; score the data set .* or put the identifiers.json of its"):
        scored(old, f"data_paths=[{other}]")
    table = start_table(config_of(other, tmp_path / "x", f"load_checkpoint={old}"))
    theirs = read_checkpoint(old)["model_state"][TABLE]
    assert torch.allclose(table, theirs.mean(0).expand(11, -1))
    assert "notice: 10 of the 10 puzzles of" in capsys.readouterr().out
    shutil.copy(data / "identifiers.json", old.parent)
    assert scored(old, f"data_paths=[{other}]") == pytest.approx(own, rel=1e-5)


def test_a_published_checkpoint_is_taken_in_the_order_of_data_of_its_size(data, run_dir, tmp_path, capsys):
    theirs = published(run_dir, tmp_path / "published")
    own = scored(run_dir, "use_ema=False")
    capsys.readouterr()
    assert scored(theirs) == own
    assert f"notice: {theirs} does not say whose puzzle embeddings it holds; they are taken for those of {data}, in " \
           "its order. If it was trained on other puzzles, put the identifiers.json" in capsys.readouterr().out
    larger = rebuilt(data, tmp_path / "larger", [*shuffled_names(), "new1"])
    with pytest.raises(ValueError, match="step_20 does not say whose its 11 puzzle embeddings are, .* which has 12"):
        scored(theirs, f"data_paths=[{larger}]")
    shutil.copy(data / "identifiers.json", theirs.parent)
    assert scored(theirs, f"data_paths=[{larger}]") == pytest.approx(own, rel=1e-5)
    (theirs.parent / "identifiers.json").write_text('["<blank>", "puzzle1"]')
    with pytest.raises(ValueError, match="identifiers.json names 2 puzzles, and the puzzle table of .*step_20 has 11"):
        scored(theirs)
    (theirs.parent / "identifiers.json").write_text('{"puzzle1": 1}')
    with pytest.raises(ValueError, match="identifiers.json does not list the names of puzzles .it is no list of str"):
        scored(theirs)


@pytest.mark.parametrize("tested_on", ["another build", "the same by another path"])
def test_an_older_run_whose_test_puzzles_had_rows_of_their_own_goes_on(data, tmp_path, tested_on):
    other = rebuilt(data, tmp_path / "other", shuffled_names()) if tested_on == "another build" else f"{data}/"
    words = [f"data_paths_test=[{other}]", "eval_interval=5"]
    whole = train(config_of(data, tmp_path / "whole", *words), World())
    old = tmp_path / "old"
    shutil.copytree(whole, old)
    payload = read_checkpoint(old / "step_00000010.ckpt")
    del payload["puzzle_names"]
    table = payload["model_state"][TABLE]
    payload["model_state"][TABLE] = torch.cat([table, torch.zeros(PUZZLES, table.shape[1])])
    payload["identifier_offsets"] = {str(data): 0, str(other): PUZZLES}
    torch.save(payload, old / "step_00000010.ckpt")
    resume(old, "checkpoint.resume_from=step_00000010.ckpt")
    assert_same_run(whole, old)
    torch.save(payload, old / "old.ckpt")
    assert scored(old / "old.ckpt", f"data_paths=[{data}]") == scored(old / "step_00000010.ckpt",
                                                                      f"data_paths=[{data}]")


def test_an_older_run_that_read_a_data_set_twice_does_not_go_on_reading_it_once(data, tmp_path):
    run = train(config_of(f"{data},{data}/", tmp_path / "run", "epochs=2"), World())
    resume(run, "epochs=3")
    newest = run / (run / "latest.txt").read_text().strip()
    torch.save(read_checkpoint(newest) | {"identifier_offsets": {str(data): 0, f"{data}/": PUZZLES}}, newest)
    with pytest.raises(ValueError, match="list twice, by two paths, and it is now read once; start a new run from"):
        resume(run, "epochs=4")


# How names are kept

def test_names_of_rows_are_packed_and_come_back():
    names = ["<blank>", "a|||t3|||0123456789", "Grüße", ""]
    assert unpacked(packed(names), 4, Path("x")) == names
    many = packed([f"task{i // 1000:08x}|||t{i % 8}|||{i:010d}" for i in range(50_000)])
    assert len(many) < 10 * 50_000  # bytes


@pytest.mark.parametrize("tensor, problem", [
    (torch.zeros(5, dtype=torch.uint8), "while decompressing"), (packed("x"), "no list of strings"),
    (packed([1]), "no list of strings"), (packed(["x" * 100_000]), "Unterminated"), ("text", "no attribute"),
    (torch.tensor(list(zlib.compress(b"[" * 100_000)), dtype=torch.uint8), "recursion")])
def test_what_is_no_list_of_names_is_refused(tensor, problem):
    with pytest.raises(ValueError, match=f"x.ckpt: its puzzle_names are no list of names .*{problem}"):
        unpacked(tensor, 1, Path("x.ckpt"))


def test_names_that_a_data_set_gives_twice_or_not_at_all_are_numbers(tmp_path):
    a = write_data(tmp_path / "a")
    (a / "identifiers.json").write_text(json.dumps(["<blank>", "<blank>", "x", "y", "x"]))
    fingerprint = dataset_fingerprint(a)
    expected = [f"{fingerprint}#{i}" for i in range(PUZZLES + 1)]
    expected[0], expected[3] = "<blank>", "y"
    assert PuzzleRows([str(a)]).names() == expected
