"""What a stranger's checkpoint, run directory and data set can and cannot do, through the doors by which they come in:
evaluate.py, and pretrain.py going on. The promises stand in docs/security.md."""
import csv
import json
import re
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from dataset.puzzle_dataset import PuzzleDataset, PuzzleDatasetConfig
from evaluate import score
from helpers import ROOT, TINY_ARCH, evaluate_config, metric_lines, pretrain_config, resume, write_tiny_dataset
from pretrain import train
from utils.checkpoint import find_checkpoint, read_checkpoint, weights_of
from utils.command_line import user_errors
from utils.compare import compare, main
from utils.distributed import World
from utils.export import Export

QUICK = [*TINY_ARCH, "evaluators=[]", "global_batch_size=16", "epochs=1", "use_wandb=false"]
OWN_HEAD = """from pathlib import Path
from losses import ACTLossHead
Path('ran').touch()
class Mine(ACTLossHead): pass
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("security")
    write_tiny_dataset(folder / "data")
    return train(pretrain_config(f"data_paths=[{folder / 'data'}]", f"checkpoint.path={folder / 'run'}",
                                 f"log_dir={folder}", *QUICK), World())


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The working directory, with a module on Python's path that leaves a file `ran` there when it is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "payload.py").write_text(OWN_HEAD)
    yield tmp_path
    for name in ("folder", "folder.payload"):
        sys.modules.pop(name, None)


@pytest.fixture
def forged(trained, here):
    """A copy of the run in the working directory, whose checkpoints say something else, by dotted key."""
    def forge(**changes) -> Path:
        shutil.rmtree(here / "run", ignore_errors=True)
        run = shutil.copytree(trained, here / "run")
        for file in run.glob("*.ckpt"):
            payload = read_checkpoint(file)
            for key, value in changes.items():
                *above, last = key.split("__")
                place = payload["config"]
                for part in above:
                    place = place[part]
                place[last] = value
            torch.save(payload, file)
        return run

    return forge


def scored(checkpoint: Path, *overrides: str) -> dict[str, float]:
    return score(evaluate_config(f"checkpoint={checkpoint}", *overrides), World())


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


# Code

@pytest.mark.parametrize("change", [
    {"arch__loss__name": "folder.payload@x"}, {"arch__loss__name": "this@s"}, {"arch__name": "folder.payload@Mine"},
    {"evaluators": [{"name": "folder.payload@Mine"}]}])
def test_a_name_in_a_checkpoint_imports_nothing(forged, here, change, capsys):
    run = forged(**change, trust_code=True)  # which says nothing of itself
    sys.modules.pop("this", None)
    doors = [lambda: resume(run)] + ([lambda: scored(run)] if "evaluators" not in change else [])
    for door in doors:
        with pytest.raises(ValueError, match=r"^.*\.ckpt: .*there is no module .*; if it is in a module of your own"):
            door()
    assert not (here / "ran").exists() and "this" not in sys.modules
    assert "Zen" not in capsys.readouterr().out


@pytest.mark.parametrize("change, message", [
    ({"arch__name": "layers@Linear"}, "is no class with Config and initial_carry"),
    ({"arch__name": "nothing"}, "must have the form module@Class"), ({"arch__name": 3}, "name=3: .*valid string"),
    ({"arch__loss__name": "losses@Nothing"}, "losses has no Nothing; it has ACTLossHead"),
    ({"arch": 3}, "arch"), ({"data_paths": "x"}, "data_paths='x'"), ({"arch__loss": "x"}, "loss"),
    ({"evaluators": [{"name": "loop@evaluate"}]}, "begin_eval")])
def test_a_name_of_something_else_is_one_message(forged, change, message):
    run = forged(**change)
    doors = [lambda: resume(run)] + ([lambda: scored(run)] if "evaluators" not in change else [])
    for door in doors:
        with pytest.raises(ValueError, match=message):
            door()


def test_a_config_that_is_none_of_a_run_is_one_message(forged):
    with pytest.raises(ValueError, match=r"\.ckpt: checkpoint=3 is no config of checkpoints"):
        resume(forged(checkpoint=3))
    run = forged()
    for file in run.glob("*.ckpt"):
        payload = read_checkpoint(file)
        del payload["config"]
        torch.save(payload, file)
    with pytest.raises(ValueError, match="holds weights, but not the state of a run"):
        resume(run)


def test_with_trust_code_a_name_is_looked_for_everywhere(forged, here):
    run = forged(arch__loss__name="folder.payload@Mine")
    metrics = scored(run, "trust_code=true")
    assert (here / "ran").exists()
    assert metrics == pytest.approx({name: value for name, value in metric_lines(run)[-1].items() if "val/" in name})


def test_a_run_with_a_class_of_ones_own_goes_on_where_it_is_named_again_or_trusted(trained, here, capsys):
    data, own = trained.parent / "data", "arch.loss.name=folder.payload@Mine"
    config = pretrain_config(f"data_paths=[{data}]", "checkpoint.path=mine", own, *QUICK)
    run = train(config, World())
    assert "folder.payload@Mine: not of this project, so to go on with the run, or to score it, name it again, or " \
        "add trust_code=true" in capsys.readouterr().out
    assert config.way_on == "checkpoint.path=mine checkpoint.resume=true trust_code=true"
    assert pretrain_config(f"data_paths=[{data}]", "checkpoint.path=x").way_on == \
        "checkpoint.path=x checkpoint.resume=true"
    for epochs, words in enumerate(([own], ["trust_code=true"]), 2):
        resume(run, f"epochs={epochs}", *words)
        assert read_checkpoint(run / "best.ckpt")["config"]["epochs"] <= epochs
        assert metric_lines(run)[-1]["step"] == 4 * epochs
    with pytest.raises(ValueError, match="folder.payload@Mine.*trust_code=true"):
        resume(run, "epochs=4")
    scored(run, "trust_code=true", "export=safetensors")
    with pytest.raises(ValueError, match="folder.payload@Mine.*trust_code=true"):
        scored(run)


# Files that are read

def test_a_config_does_not_read_the_environment(forged, here, monkeypatch):
    monkeypatch.setenv("TOKEN", "secret-of-mine")
    run = forged(project_name="${oc.env:TOKEN}")
    bare = here / "bare"
    bare.mkdir()
    torch.save({"model_state": read_checkpoint(run / "best.ckpt")["model_state"]}, bare / "step_4")
    config = OmegaConf.load(run / "config.yaml")
    for name, text in (("all_config.yaml", "${oc.env:TOKEN}"), ("config.yaml", "x${oc.env:TOKEN}")):
        OmegaConf.save(OmegaConf.merge(config, {"run_name": text}), bare / name)
    for door in (lambda: resume(run), lambda: scored(run), lambda: scored(run, "export=safetensors"),
                 lambda: scored(bare), lambda: scored(bare, "export=published"),
                 lambda: train(pretrain_config(f"load_checkpoint={bare}", *QUICK, f"data_paths={config.data_paths}",
                                               "checkpoint.path=new"), World())):
        with pytest.raises(ValueError, match="is not taken over; of a config in a file, only references"):
            door()
    (bare / "metrics.jsonl").write_text('{"step": 1, "val/loss": 1.0}\n')
    with pytest.raises(ValueError, match="is not taken over"):
        compare([bare, bare], ["val/loss"], here / "table")
    assert not [name for name, content in snapshot(here).items() if b"secret-of-mine" in content]


def test_a_name_in_latest_txt_leads_nowhere_else(forged, here):
    run = forged()
    (run / "best.ckpt").rename(here / "elsewhere.ckpt")
    for name in ("../elsewhere.ckpt", str(here / "elsewhere.ckpt"), "..", "\x1b[31m", "x" * 10_000):
        (run / "latest.txt").write_text(name)
        with pytest.raises(ValueError, match="nor a latest.txt that names a checkpoint in it"):
            find_checkpoint(run)


@pytest.mark.parametrize("name", ["../../other/train/all", "/etc/all", "", "a/b", "red\x1b[31m"])
def test_a_set_in_a_dataset_json_leads_nowhere_else(tmp_path, name):
    data, _ = (write_tiny_dataset(tmp_path / folder) for folder in ("data", "other"))
    file = data / "train" / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"sets": [name]}))
    with pytest.raises(ValueError, match="begins the names of files, so it cannot be|cannot be printed"):
        PuzzleDataset(PuzzleDatasetConfig(seed=0, dataset_paths=[str(data)], global_batch_size=2, test_set_mode=False))


@pytest.mark.parametrize("content", ["[" * 100_000, "{", "[]", '{"sets": 3}', "\xff"])
def test_a_dataset_json_of_another_kind_is_one_message(tmp_path, content):
    data = write_tiny_dataset(tmp_path / "data")
    (data / "train" / "dataset.json").write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match="dataset.json does not describe a data set"):
        PuzzleDataset(PuzzleDatasetConfig(seed=0, dataset_paths=[str(data)], global_batch_size=2, test_set_mode=False))


def test_a_checkpoint_that_would_fill_the_memory_is_refused(tmp_path):
    torch.save({"model_state": {"w": torch.zeros(1 << 20)}}, tmp_path / "plain.ckpt")
    with zipfile.ZipFile(tmp_path / "plain.ckpt") as plain, \
            zipfile.ZipFile(tmp_path / "small.ckpt", "w", zipfile.ZIP_DEFLATED) as small:
        for part in plain.infolist():
            small.writestr(part.filename, plain.read(part))
    assert (tmp_path / "small.ckpt").stat().st_size < 1 << 16
    with pytest.raises(ValueError, match="its parts are compressed, which torch.save never does"):
        read_checkpoint(tmp_path / "small.ckpt")


@pytest.mark.parametrize("payload", [
    {"model_state": [1]}, {"model_state": {"w": 3}}, {"model_state": {3: torch.ones(1)}}, {"w": "x"},
    {"model_state": {}, "ema_state": 3}])
def test_weights_that_are_no_tensors_by_name_are_one_message(tmp_path, payload):
    torch.save(payload, tmp_path / "file.ckpt")
    with pytest.raises(ValueError, match="the weights in the checkpoint are not tensors by name"):
        weights_of(read_checkpoint(tmp_path / "file.ckpt"), use_ema=True)


# Files that are written

def test_the_log_of_a_checkpoint_leads_nowhere_else(forged, here, trained, capsys):
    """It is that of the command line, but where the log is there already and tells of this run."""
    outside = here / "outside"
    outside.mkdir()
    (outside / "bashrc").write_text("# mine\n")
    run = forged(log_dir=str(outside), log_file="bashrc")
    resume(run, "epochs=2")
    assert snapshot(outside) == {str(outside / "bashrc"): b"# mine\n"}
    assert "step=8 " in (here / "logs" / "pretrain.log").read_text()
    assert f"notice: log_dir=logs from here on (was {outside})" in capsys.readouterr().out
    run = forged(log_dir=str(outside), log_file="../logs/pretrain.log")  # the log of this run
    resume(run, "epochs=2")
    assert (here / "logs" / "pretrain.log").read_text().count("step=8 ") == 4
    resume(run, "epochs=3", "log_dir=named")
    assert "step=12 " in (here / "named" / "pretrain.log").read_text()


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "a/../../b", "red\x1b[31m", "line\nline"])
def test_the_project_and_the_name_of_a_run_lead_nowhere_else(forged, here, name):
    for key in ("project_name", "run_name"):
        with pytest.raises(ValueError, match="cannot lead out of it|is no plain text"):
            resume(forged(**{key: name}))
        with pytest.raises(ValueError, match="cannot lead out of it; use checkpoint.path"):
            pretrain_config(f'{key}="{name}"')
    assert pretrain_config("project_name=a/b").project_name == "a/b"


@pytest.mark.parametrize("link", [".lock", "metrics.jsonl", "config.yaml", "evaluation", "evaluation/metrics.json",
                                  "evaluation_step_00000008/submission.json"])
def test_a_link_in_a_run_directory_is_not_written_through(forged, here, link):
    run, victim = forged(), here / "victim"
    victim.mkdir()
    (victim / "file").write_text("# mine\n")
    (run / link).parent.mkdir(exist_ok=True)
    (run / link).unlink(missing_ok=True)
    (run / link).symlink_to(victim if link == "evaluation" else victim / "file")
    doors = [lambda: resume(run, "epochs=2")] + ([lambda: scored(run)] if link.startswith("evaluation/") else [])
    for door in doors:
        with pytest.raises(ValueError, match=r"is a link to .*victim.*, outside of .*run, and would be written to"):
            door()
    assert snapshot(victim) == {str(victim / "file"): b"# mine\n"}


def test_links_inside_a_run_and_to_checkpoints_elsewhere_are_a_users_own(forged, here):
    run = forged()
    (run / "best.ckpt").rename(here / "moved.ckpt")
    (run / "best.ckpt").symlink_to(here / "moved.ckpt")
    (run / "newest.txt").symlink_to("latest.txt")
    assert scored(run)["val/loss"] == pytest.approx(metric_lines(resume(run, "epochs=2"))[1]["val/loss"], rel=1e-5)


def test_text_of_a_file_is_no_formula_mathematics_or_markup(tmp_path, capsys):
    evil = ["=1+1 $\\frac{$", "@SUM(1)|<img src=x>", "$\\nothing$"]
    for i, text in enumerate(evil):
        (tmp_path / f"run{i}").mkdir()
        OmegaConf.save({"arch": {"name": text}, "optimizer": text}, tmp_path / f"run{i}" / "config.yaml")
        (tmp_path / f"run{i}" / "metrics.jsonl").write_text('{"step": 1, "val/loss": 1.0}\n')
    assert main([*(str(tmp_path / f"run{i}") for i in range(3)), "--metrics", "val/loss", "--output",
                 str(tmp_path / "out")]) == 0
    assert (tmp_path / "out.png").stat().st_size > 1000
    cells = [cell for line in csv.reader((tmp_path / "out.csv").open()) for cell in line]
    assert any("frac" in cell for cell in cells) and not [cell for cell in cells if cell[:1] in ("=", "@")]
    card = Export({}, {"arch": {"name": "recursive_reasoning.trm@TRM"}}, 1, "stored", {evil[1]: "x|<b>"}, {}, {
        "val/<script>": 1.0}).card("owner/name")
    assert all(f"\\{text}" in card for text in ("<img", "<b", "<script", "|\\<"))
    assert not re.search(r"(?<!\\)<(img|b|script)", card)


def test_a_message_and_a_log_steer_no_terminal(here, capsys):
    with pytest.raises(SystemExit), user_errors("cfg_evaluate"):
        scored(here / "red\x1b[31m\x9b2J.ckpt")
    assert "red\\x1b[31m\\x9b2J.ckpt" in (said := capsys.readouterr().err) and not {"\x1b", "\x9b"} & {*said}


def test_every_test_that_the_document_names_is_there():
    text, file, count = (ROOT / "docs" / "security.md").read_text(), "", 0
    named = re.findall(r"`(?:(tests/test_\w+\.py|…)(?:::)?)?(test_\w+)?(…)?`", text)
    for path, test, rest in named:
        file = path if path not in ("", "…") else file if path == "…" else "tests/test_security.py"
        if test:
            count += 1
            assert re.search(rf"^def {test}{'' if rest else '[(]'}", (ROOT / file).read_text(), re.MULTILINE), test
        elif path:
            assert (ROOT / path).is_file(), path
    assert count > 20
