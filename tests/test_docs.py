"""README.md and docs/: links lead somewhere, commands are ones that the programs take, examples run."""
import argparse
import re
import runpy
import shlex
import sys

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

import dataset.kinds
from config.help import help_text
from dataset.kinds.kind import find_kind
from documents import PAGES, commands, examples, inline_commands, page, printed, write_examples
from evaluate import score
from helpers import ROOT, TINY_ARCH, evaluate_config, is_picture, metric_lines, pretrain_config, write_tiny_dataset
from pretrain import train
from utils.command_line import composed
from utils.distributed import World
from utils.preemption import Stopped

# how commands begin that cannot be tried here, and why
UNTRIED = {"pip install ": "installs, as `make` does in a fresh clone",
           "python pretrain.py arch=gated ": "its files belong into the project: test_recipes.py runs it in a copy"}


def anchors(text: str) -> set[str]:
    """The anchors that a page's headings have on GitHub."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", [*PAGES, "docs/LOG.md"])
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(name):
    for target in re.findall(r"\]\(([^)\s]+)\)", page(name)):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), f"{name} links to {target}"
        assert not anchor or anchor in anchors(file.read_text()), f"{name}: {target} names no heading"


def test_every_page_is_listed_in_both_readmes():
    for path in {*PAGES, "docs/LOG.md"} - {"README.md", "docs/README.md"}:
        assert f"]({path})" in page("README.md"), f"README.md does not link {path}"
        if path.startswith("docs/"):
            assert f"]({path.removeprefix('docs/')})" in page("docs/README.md"), f"docs/README.md does not link {path}"


def test_the_readme_is_short():
    assert len(page("README.md").splitlines()) <= 150


def first_job(words: list[str]) -> list[str]:
    """The overrides of the first of a multirun's jobs; of another command those it has. Words with … stand for some
    value of the user's."""
    parsed = OverridesParser.create().parse_overrides(
        [word for word in words if word not in ("-m", "--help", "--cfg", "job") and "…" not in word])
    return [f"{override.key_or_group}={next(override.sweep_string_iterator())}" if override.is_sweep_override()
            else override.input_line for override in parsed]


class Parsed(Exception):
    """The program took its command line."""


def try_command(command: str, own_files: set[str], monkeypatch) -> None:
    """Have the program that a command starts read its command line. Raises what it says of a wrong one."""
    words = [word for word in shlex.split(command, comments=True) if not re.match(r"[A-Z_]+=", word)]
    if words[0] == "make":
        target, *settings = words[1:]
        assert re.search(rf"^{target}:", page("Makefile"), re.MULTILINE), f"make knows no {target}"
        assert all(f"{setting.partition('=')[0]} ?=" in page("Makefile") for setting in settings)
    elif "pretrain.py" in words:
        pretrain_config(*first_job(words[words.index("pretrain.py") + 1:]))
    elif words[1:] == ["evaluate.py", "--help"]:
        pass  # tests/test_help.py
    elif "evaluate.py" in words:
        evaluate_config(*first_job(words[words.index("evaluate.py") + 1:]))
    elif words[1:3] == ["-m", "pytest"]:
        assert all((ROOT / word).exists() for word in words if word.startswith("tests/"))
    elif words[1] in own_files:
        assert len(words) == 2  # an example of the page
    else:
        def parse_only(parser, args=None, namespace=None):
            argparse.ArgumentParser.parse_known_args(parser, args, namespace)  # types and choices
            raise Parsed(parser.parse_known_args(args, namespace)[1])

        arguments = words[3:] if words[1] == "-m" else words[2:]
        monkeypatch.setattr(sys, "argv", [words[1], *arguments])
        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
        with pytest.raises(Parsed) as parsed:
            if words[1] == "-m":
                runpy.run_module(words[2], run_name="__main__")
            else:
                runpy.run_path(str(ROOT / words[1]), run_name="__main__")
        assert parsed.value.args == ([],), f"{command}: it does not take {parsed.value.args[0]}"


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("name", PAGES)
def test_every_command_is_one_that_its_program_takes(name, tmp_path, monkeypatch):
    text = page(name)
    write_examples(name, tmp_path, *(path for path in examples(name) if "/" not in path))
    monkeypatch.syspath_prepend(tmp_path)
    for command in [*commands(text), *inline_commands(text)]:
        if not command.startswith(tuple(UNTRIED)):
            with monkeypatch.context() as patch:
                try_command(command, set(examples(name)), patch)


def test_the_evaluator_of_the_page_counts_near_misses(tmp_path, monkeypatch):
    name = "docs/your-own-evaluator.md"
    assert len(examples(name)["near_misses.py"].splitlines()) <= 30
    write_examples(name, tmp_path, "near_misses.py")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    data = write_tiny_dataset(tmp_path / "data")
    counted = "evaluators=[{name: near_misses@NearMisses, cells: %d}]"
    run_dir = train(pretrain_config(*TINY_ARCH, f"data_paths=[{data}]", counted % 6, "epochs=4", "eval_interval=4",
                                    "global_batch_size=16", "use_wandb=false", "checkpoint.path=run",
                                    "checkpoint.monitor=eval/near_misses/near", "checkpoint.mode=max"), World())
    assert metric_lines(run_dir)[-1]["eval/near_misses/near"] == 1  # no string of 6 symbols has more wrong
    found = score(evaluate_config(f"checkpoint={run_dir}", counted % 0), World())
    assert found["eval/near_misses/near"] == pytest.approx(found["val/exact_accuracy"])
    near = score(evaluate_config(f"checkpoint={run_dir}", counted % 4), World())["eval/near_misses/near"]
    assert found["eval/near_misses/near"] < near < 1


def test_the_evaluator_that_runs_the_model_and_the_strategy_of_the_page_do(tmp_path, monkeypatch, capsys):
    name = "docs/your-own-evaluator.md"
    write_examples(name, tmp_path, "restless.py", "patient.py")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    data = write_tiny_dataset(tmp_path / "data")
    run_dir = train(pretrain_config(*TINY_ARCH, f"data_paths=[{data}]", "epochs=1", "eval_interval=1",
                                    "global_batch_size=16", "use_wandb=false", "checkpoint.path=run",
                                    "evaluators=[]"), World())
    found = score(evaluate_config(f"checkpoint={run_dir}", "evaluators=[{name: restless@Restless}]"), World())
    assert 0 <= found["eval/restless/changed"] < 1 and "answers of 10 examples compared" in capsys.readouterr().out
    patient = score(evaluate_config(f"checkpoint={run_dir}", "strategy={name: patient@Patient}", "halt_max_steps=20"),
                    World())
    assert 2 <= patient["val/steps"] < 20


def test_the_loss_of_the_page_makes_light_of_what_is_known(tmp_path, monkeypatch):
    name = "docs/your-own-loss.md"
    code = examples(name)["focal.py"]
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    write_examples(name, tmp_path, "focal.py")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    data = write_tiny_dataset(tmp_path / "data")
    losses = {}
    for gamma in (0, 2):
        config = pretrain_config(*TINY_ARCH, f"data_paths=[{data}]", "arch.loss.name=focal@FocalLossHead",
                                 f"arch.loss.gamma={gamma}", "epochs=1", "global_batch_size=16", "use_wandb=false",
                                 f"checkpoint.path=run{gamma}", "log_interval=1")
        losses[gamma] = metric_lines(train(config, World()))[0]["train/lm_loss"]
    plain = metric_lines(train(pretrain_config(
        *TINY_ARCH, f"data_paths=[{data}]", "epochs=1", "global_batch_size=16", "use_wandb=false",
        "checkpoint.path=plain", "log_interval=1"), World()))[0]["train/lm_loss"]
    assert losses[0] == plain and 0 < losses[2] < losses[0]


def test_the_puzzle_of_the_page_is_made_trained_on_checked_and_drawn(tmp_path, monkeypatch):
    """All commands of the page, in this process; the file of the kind stands in a folder of its own."""
    name = "docs/your-own-puzzle.md"
    files = examples(name)
    assert sum(bool(line.strip()) for file in files.values() for line in file.splitlines()) < 60
    write_examples(name, tmp_path, *files)
    monkeypatch.setattr(dataset.kinds, "__path__", [*dataset.kinds.__path__, str(tmp_path / "dataset" / "kinds")])
    monkeypatch.chdir(tmp_path)
    runpy.run_path("make_takuzu.py")
    splits = {split: [np.load(f"data/takuzu/{split}/all__{field}.npy") for field in ("inputs", "labels")]
              for split in ("train", "test")}
    boards = np.unique(np.concatenate([labels for _, labels in splits.values()]), axis=0)
    assert len(boards) == 4140  # https://oeis.org/A253316
    kind = find_kind("takuzu")(36, 4)
    for inputs, labels in splits.values():
        assert kind.rules(inputs, labels)["solved"].all()
        fit = ((boards == inputs[:50, None]) | (inputs[:50, None] == kind.blank)).all(-1)
        assert (fit.sum(1) == 1).all()  # one solution
        drawn = kind.symmetries(len(labels), np.random.default_rng(0))
        moved = drawn.apply(inputs), drawn.apply(labels)
        assert kind.rules(*moved)["solved"].all() and np.array_equal(drawn.invert(moved[0]), inputs)
    training, scoring = (shlex.split(printed(name, script))[2:] for script in ("pretrain.py", "evaluate.py"))
    with pytest.raises(Stopped):  # after two steps, which suffice to see that the data are taken
        train(pretrain_config(*training, *TINY_ARCH, "max_steps=2", f"log_dir={tmp_path}"), World())
    metrics = score(evaluate_config(*scoring), World())
    assert {"eval/rules/solved", "eval/rules/rows", "eval/rules/columns", "eval/rules/clues_kept"} <= metrics.keys()
    assert is_picture(tmp_path / "checkpoints" / "takuzu" / "evaluation" / "solution_steps.png")


def test_a_run_with_a_loss_of_one_s_own_is_scored_by_naming_it(tmp_path, monkeypatch, capsys):
    write_examples("docs/your-own-loss.md", tmp_path, "focal.py")
    monkeypatch.syspath_prepend(tmp_path)
    data = write_tiny_dataset(tmp_path / "data")
    run_dir = train(pretrain_config(*TINY_ARCH, f"data_paths=[{data}]", "arch.loss.name=focal@FocalLossHead",
                                    "arch.loss.gamma=1", "epochs=1", "global_batch_size=16", "use_wandb=false",
                                    f"checkpoint.path={tmp_path / 'run'}"), World())
    with pytest.raises(ValueError, match="trust_code=true"):
        score(evaluate_config(f"checkpoint={run_dir}"), World())
    named = score(evaluate_config(f"checkpoint={run_dir}", "arch.loss.name=focal@FocalLossHead"), World())
    trusted = score(evaluate_config(f"checkpoint={run_dir}", "trust_code=true"), World())
    assert named == trusted
    assert "arch.loss.gamma=2.0" in help_text(composed("cfg_pretrain", ["++arch.loss.name=focal@FocalLossHead"]),
                                              "cfg_pretrain")
