"""Every file of config/experiment builds and takes a step, at reduced width on random data of its shape."""
import re
from pathlib import Path

import pytest

from config.resume import keys_of_file
from config.schema import PretrainConfig
from helpers import ROOT, pretrain_config, write_tiny_dataset, write_tiny_episodes, write_tiny_regression
from models.train_state import to_device, train_step
from pretrain import build_run
from utils.distributed import World

EXPERIMENTS = sorted(path.stem for path in (ROOT / "config" / "experiment").glob("*.yaml"))
# Cells and tokens by a word in the name of the data, the first that fits.
SHAPES = {"sudoku4": (16, 6), "sudoku6": (36, 8), "sudoku": (81, 11), "maze": (900, 6), "arc": (900, 12)}


def write_data_for(config: PretrainConfig, folder: Path) -> Path:
    name = Path(config.data_paths[0]).name
    if config.arch.head_class.TASK == "regression":
        return write_tiny_episodes(folder) if "lorenz" in name else write_tiny_regression(folder)
    cells, tokens = next(shape for word, shape in SHAPES.items() if word in name)
    return write_tiny_dataset(folder, seq_len=cells, vocab_size=tokens, train=[[1]] * 4, test=[[1]] * 2)

# What trained the published scores that they quote, by the code of their sources; CGAR's is assumed to be TRM's.
PUBLISHED = {"sudoku_mlp": "adam_atan2", "sudoku_att": "adam_atan2", "maze": "adam_atan2", "arc1": "adam_atan2",
             "arc2": "adam_atan2", "hrm_sudoku": "adam_atan2", "urm_sudoku": "adam_atan2", "urm_arc1": "adam_atan2",
             "urm_arc2": "muon", "eqr_sudoku": "adam_atan2", "sic_sudoku": "muon",
             "sic_wta_sudoku": "muon", "cgar_sudoku": "adam_atan2",
             "ldt_sudoku": "adamw", "ldt_maze": "adamw", "dec_sudoku": "adam_atan2", "se_rrm_sudoku": "adam_atan2",
             "se_rrm_arc1": "adam_atan2", "fprm_sudoku": "adamw", "sotaku": "adamw"}


def head_of(experiment: str) -> str:
    """The comment at the head of its file."""
    return (ROOT / "config/experiment" / f"{experiment}.yaml").read_text().partition("\nd")[0]


def quotes_a_score(head: str) -> bool:
    return re.search(r"^#   published: (?!none)", head, re.MULTILINE) is not None


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_names_its_optimizer_and_what_chooses_its_best_checkpoint(experiment):
    """In its file or one that it builds on, so that no default decides what a score was reached with."""
    assert {"optimizer", "checkpoint.monitor"} <= {*keys_of_file(ROOT / "config/experiment" / f"{experiment}.yaml")}
    config = pretrain_config(f"experiment={experiment}")
    assert config.optimizer == PUBLISHED.get(experiment, config.optimizer)
    best = (config.checkpoint.monitor, config.checkpoint.mode)
    if config.arch.head_class.TASK == "regression":
        assert best == ("val/regression_loss", "min")
    else:  # val/loss holds the halting loss, which may rise while puzzles get solved
        solves_none = experiment in ("sudoku_cpu", "maze_cpu", "ablate_arc")
        assert best[0] is None or best in ([("val/accuracy", "max")] if solves_none else
                                           [("val/exact_accuracy", "max"), ("val/held_out/exact_accuracy", "max"),
                                            ("eval/arc/accuracy", "max")])


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_no_score_beside_a_published_one_is_of_a_checkpoint_that_test_puzzles_chose(experiment):
    """The rule of docs/recipes.md: puzzles held out beyond those of the source choose, or none do."""
    head = head_of(experiment)
    config = pretrain_config(f"experiment={experiment}")
    if config.val_puzzles:
        assert config.checkpoint.monitor.startswith("val/held_out/")
    elif config.checkpoint.monitor is not None and (quotes_a_score(head) or "Sudoku-Extreme" in head):
        assert "\n#   score: " in head, (
            f"{experiment}: test puzzles choose its best.ckpt; add val_puzzles=N and checkpoint.monitor="
            "val/held_out/…, or checkpoint.monitor=null, or say at its head which checkpoint is scored")


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_what_is_held_out_comes_on_top_of_the_thousand_puzzles_of_the_source(experiment):
    """The command that builds the data asks for both, so `val_puzzles` takes none of those that are trained on."""
    config, head = pretrain_config(f"experiment={experiment}"), head_of(experiment)
    while config.val_puzzles and (base := re.search(r"data: +as in experiment=(\w+)", head)):
        head = head_of(base[1])
    built = re.search(r"--output-dir (\S+) --subsample-size (\d+)", head)
    assert not config.val_puzzles or (config.data_paths == [built[1]] and int(built[2]) == 1000 + config.val_puzzles)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_a_quoted_score_comes_with_the_known_facts_and_the_differences_from_its_source(experiment):
    head = head_of(experiment)
    quotes = quotes_a_score(head)
    assert quotes == (experiment in PUBLISHED)
    assert not quotes or ("#   facts" in head and re.search(r"^#   (facts, )?differs: ", head, re.MULTILINE))


@pytest.mark.parametrize("experiment", [name for name in EXPERIMENTS if name.startswith(("ldt", "sotaku"))])
def test_commands_of_long_recursions_compile_one_pass(experiment):
    """By default all passes are one graph: 128 layers of LDT, 64 of Sotaku, which take minutes to compile."""
    assert "compile_scope=stack" in re.search(r"#   command: .*(\n#    {11}.*)*", head_of(experiment))[0]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_builds_and_takes_a_step(experiment, tmp_path):
    config = pretrain_config(f"experiment={experiment}")
    data = write_data_for(config, tmp_path / "data")
    smaller = [f"data_paths=[{data}]", "global_batch_size=1", "arch.halt_max_steps=2",
               f"arch.hidden_size={8 * max(1, config.arch.options['num_heads'])}",
               # random data have no symmetries, no ratings and no tasks
               "augment=null", "rating_curriculum=[]",
               *(["evaluators=[]", "checkpoint.monitor=val/exact_accuracy"] if "arc" in experiment else []),
               *(["micro_batch_size=1"] if config.micro_batch_size else []),
               *(["val_puzzles=1"] if config.val_puzzles else [])]
    run = build_run(pretrain_config(f"experiment={experiment}", *smaller), World(), None)
    before = {name: p.detach().clone() for name, p in run.state.head.named_parameters()}
    batch = to_device(run.state.data.next_batch(), run.world.device)
    metrics = train_step(run.state, batch, run.config, run.total_steps)
    assert metrics["loss"].isfinite()
    assert any(not before[name].equal(p) for name, p in run.state.head.named_parameters())
