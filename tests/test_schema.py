"""The typed config: published names and defaults, every file composes, every wrong setting is named."""
import shlex

import pytest
from omegaconf import OmegaConf

from config.schema import DERIVED_KEYS, EvaluateConfig, PretrainConfig
from dataset.common import PuzzleDatasetMetadata, RegressionMetadata
from documents import printed
from helpers import ROOT, pretrain_config
from utils.command_line import flat_keys
from utils.distributed import World

EXPERIMENTS = sorted(path.stem for path in (ROOT / "config" / "experiment").glob("*.yaml"))
ARCHITECTURES = sorted(path.stem for path in (ROOT / "config" / "arch").glob("*.yaml"))

# Of the published code's own YAML; checkpoint_path and load_checkpoint are keys of its config class.
PUBLISHED = {
    "global_batch_size": 768, "epochs": 100000, "eval_interval": 10000, "checkpoint_every_eval": True, "lr": 1e-4,
    "lr_min_ratio": 1.0, "lr_warmup_steps": 2000, "beta1": 0.9, "beta2": 0.95, "weight_decay": 0.1,
    "puzzle_emb_weight_decay": 0.1, "puzzle_emb_lr": 1e-2, "seed": 0, "min_eval_interval": 0, "ema": False,
    "ema_rate": 0.999, "freeze_weights": False, "data_paths": ["data/arc1concept-aug-1000"], "data_paths_test": [],
    "project_name": None, "run_name": None, "eval_save_outputs": [],
    "load_checkpoint": None, "checkpoint_path": None}
PUBLISHED_ARCH = {
    "name": "recursive_reasoning.trm@TinyRecursiveReasoningModel_ACTV1", "halt_exploration_prob": 0.1,
    "halt_max_steps": 16, "H_cycles": 3, "L_cycles": 6, "H_layers": 0, "L_layers": 2, "hidden_size": 512,
    "num_heads": 8, "expansion": 4, "puzzle_emb_ndim": 512,
    "puzzle_emb_len": 16, "pos_encodings": "rope", "mlp_t": False,
    "no_ACT_continue": True, "loss": {"name": "losses@ACTLossHead", "loss_type": "stablemax_cross_entropy",
                                        "label_smoothing": 0, "supervision_decay": 1,  # ours, and off
                                        "halting_weight": 0.5}}  # ours


def test_names_and_defaults_are_the_published_ones():
    config = pretrain_config().model_dump()
    assert {key: config[key] for key in PUBLISHED} == PUBLISHED
    assert {key: config["arch"][key] for key in PUBLISHED_ARCH} == PUBLISHED_ARCH
    assert config["evaluators"] is None  # published: arc@ARC, which on ARC data it comes to
    assert (config["optimizer"], config["use_wandb"], config["log_dir"], config["log_file"]) == (
        "lion", True, "logs", "pretrain.log")
    assert (config["checkpoint"]["monitor"], config["checkpoint"]["mode"]) == ("val/loss", "min")


@pytest.mark.parametrize("name, model", [("cfg_pretrain", PretrainConfig), ("cfg_evaluate", EvaluateConfig)])
def test_every_key_that_the_types_know_stands_in_the_yaml(name, model):
    yaml = OmegaConf.load(ROOT / "config" / f"{name}.yaml")
    of_group = {"arch"} if name == "cfg_pretrain" else set()
    assert set(yaml) - {"defaults", "hydra"} == set(model.model_fields) - of_group
    if name == "cfg_pretrain":
        assert set(yaml.checkpoint) == set(PretrainConfig.model_fields["checkpoint"].annotation.model_fields)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_key_of_an_architecture_stands_in_its_yaml(arch):
    config = pretrain_config(f"arch={arch}").arch
    assert set(config.options) == set(config.model_class.Config.model_fields) - set(DERIVED_KEYS)
    assert set(config.loss.options) == set(config.head_class.Config.model_fields)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_builds_its_model_and_names_no_run(experiment):
    config = pretrain_config(f"experiment={experiment}")
    assert config.run_name is None
    length = {"demo_regression": 32, "demo_latents": config.episode_window}.get(
        experiment, 16 if "sudoku4" in experiment else 36 if "sudoku6" in experiment else
        81 if "sudoku" in experiment or "sotaku" in experiment else 900)
    if config.arch.head_class.TASK == "regression":
        data = RegressionMetadata(task_type="regression", input_dim=2, target_dim=1, seq_len=length, sets=["all"])
    else:
        data = PuzzleDatasetMetadata(pad_id=0, ignore_label_id=0, blank_identifier_id=0, vocab_size=11, seq_len=length,
                                     num_puzzle_identifiers=1, total_groups=1, mean_puzzle_examples=1, total_puzzles=1,
                                     sets=["all"], kind="sequence")
    head = config.arch.build_head(data, batch_size=2, world=World())
    assert isinstance(head.model, config.arch.model_class)
    options = config.arch.options
    if "puzzle_emb_ndim" in options:
        of_embedding = options["puzzle_emb_len"] or options["puzzle_emb_ndim"] // options["hidden_size"]
        assert (options["register_tokens"] or of_embedding) == head.model.inner.P
    text = (ROOT / "config" / "experiment" / f"{experiment}.yaml").read_text()
    for field in ("command:", "cost:", "published:", "ours:" if "published: none" not in text else "published: none"):
        assert field in text.split("\ndata_paths")[0], f"the head of {experiment}.yaml lacks {field}"


@pytest.mark.parametrize("ablation", sorted(path.stem for path in (ROOT / "config" / "ablation").glob("*.yaml")))
def test_every_ablation_is_a_change_of_the_same_run(ablation):
    plain, changed = (pretrain_config("experiment=ablate_sudoku4", *more).model_dump()
                      for more in ([], [f"ablation={ablation}"]))
    assert (plain == changed) == (ablation == "none")
    assert all(plain[key] == changed[key] for key in plain.keys() - {"arch", "ema"})


@pytest.mark.parametrize("run_name, experiment", [("pretrain_mlp_t_sudoku", "sudoku_mlp"),
                                                  ("pretrain_att_sudoku", "sudoku_att"),
                                                  ("pretrain_att_maze30x30", "maze"),
                                                  ("pretrain_att_arc1concept", "arc1")])
def test_a_published_command_line_is_its_experiment_but_for_the_optimizer(run_name, experiment):
    words = shlex.split(printed("docs/recipes.md", f"+run_name={run_name}"))
    command = words[words.index("pretrain.py") + 1:]
    published, ours = pretrain_config(*command), pretrain_config(f"experiment={experiment}")
    assert published.run_name == run_name
    assert (published.optimizer, ours.optimizer) == ("lion", "adam_atan2")  # as the page says
    # the experiments check rules, and keep the best; those of Sudoku choose it on puzzles that they hold out,
    # and score some of the test puzzles on the way
    same = {"run_name": None, "evaluators": [], "checkpoint": {}, "optimizer": None}
    same |= {"val_puzzles": 0, "test_puzzles": None, "data_paths": []} if ours.val_puzzles else {}
    assert published.model_dump() | same == ours.model_dump() | same
    without_plus = [word.removeprefix("+") for word in command]
    assert pretrain_config(*without_plus) == published


def test_an_experiment_overrules_defaults_and_the_command_line_overrules_it():
    assert pretrain_config("experiment=sudoku_mlp").arch.options["mlp_t"] is True
    config = pretrain_config("experiment=sudoku_mlp", "lr=5", "arch.L_cycles=2")
    assert (config.lr, config.arch.options["L_cycles"]) == (5, 2)


def test_a_resolved_config_parses_to_itself():
    config = pretrain_config("experiment=maze_cpu", "arch.hidden_size=96")
    again = PretrainConfig.parse(OmegaConf.create(OmegaConf.to_yaml(OmegaConf.create(config.model_dump()))))
    assert again == config and config.arch.options["puzzle_emb_ndim"] == 96


def test_the_published_name_of_the_checkpoint_directory_is_understood():
    assert pretrain_config("checkpoint_path=somewhere").checkpoint.path == "somewhere"
    with pytest.raises(ValueError, match="checkpoint_path is the published name of checkpoint.path; set one of them"):
        pretrain_config("checkpoint_path=a", "checkpoint.path=b")


@pytest.mark.parametrize("override, message", [
    ("+epoch=3", "unknown key epoch; did you mean epochs?"),
    ("+hidden_size=3", "unknown key hidden_size; did you mean arch.hidden_size?"),
    ("+arch.hiden_size=3", "unknown key arch.hiden_size; did you mean arch.hidden_size?"),
    ("+arch.loss.losstype=x", "unknown key arch.loss.losstype; did you mean arch.loss.loss_type?"),
    ("+checkpoint.moniter=x", "unknown key checkpoint.moniter; did you mean checkpoint.monitor?"),
    ("+monitor=x", "unknown key monitor; did you mean checkpoint.monitor?"),
    ("lr=fast", "lr='fast': "), ("lr=0", "lr=0: "), ("epochs=1.5", "epochs=1.5: "), ("epochs=0", "epochs=0: "),
    ("epochs=null", "epochs=None: "), ("ema=1", "ema=1: "), ("ema_rate=1.0", "ema_rate=1.0: "),
    ("seed=-1", "seed=-1: "), ("run_name=12", "run_name=12: .*; write 'run_name=\"12\"'"),
    ("optimizer=sgd", "optimizer='sgd': Input should be 'lion', 'adamw', 'adam_atan2' or 'muon'"),
    ("checkpoint.mode=lower", "checkpoint.mode='lower': Input should be 'min' or 'max'"),
    ("data_paths=data/x", "data_paths='data/x': Input should be a valid list"), ("data_paths=[]", r"data_paths=\[\]: "),
    ("evaluators=[{nam: x}]", "evaluators"), ("log_interval=0", "log_interval=0: "),
    ("arch.hidden_size=0", "arch.hidden_size=0: "), ("arch.mlp_t=yes please", "arch.mlp_t='yes please': "),
    ("arch.pos_encodings=sinus", "arch.pos_encodings='sinus': Input should be 'none', 'rope', 'rope2d' or 'learned'"),
    ("arch.loss.loss_type=mse", "arch.loss.loss_type='mse': "),
    ("arch.forward_dtype=int8", "arch.forward_dtype='int8': "),
    ("arch.forward_dtype=float16", "arch.forward_dtype=float16 cannot train: .*; use bfloat16"),
    ("+arch.seq_len=81", "arch.seq_len follows from the data and cannot be set; remove it"),
    ("arch.name=recursive_reasoning.trm", "must have the form module@Class"),
    ("arch.name=recursive_reasoning.trmm@TRM", "there are .*recursive_reasoning.trm"),
    ("arch.loss.name=losses@ACTLoss", "losses has no ACTLoss; it has ACTLossHead"),
])
def test_a_wrong_setting_is_named(override, message):
    with pytest.raises(ValueError, match=f"^{message}" if message.startswith("unknown") else message):
        pretrain_config(override)


@pytest.mark.parametrize("overrides, message", [
    (["arch.hidden_size=24"], "hidden_size / num_heads = 3 must be even"),
    (["arch.mlp_t=True"], "pos_encodings=rope has no effect with mlp_t=True; use pos_encodings=none"),
    (["arch.puzzle_emb_ndim=600", "arch.puzzle_emb_len=1"], "puzzle_emb_ndim=600 does not fit into puzzle_emb_len=1"),
    (["arch.hidden_size=4", "arch.puzzle_emb_ndim=4"], "hidden_size=4 leaves no width for num_heads=8"),
    (["freeze_weights=True", "arch.puzzle_emb_ndim=0"], "freeze_weights=True .*arch.puzzle_emb_ndim=0 has none"),
])
def test_settings_that_exclude_each_other_are_named(overrides, message):
    with pytest.raises(ValueError, match=message):
        pretrain_config(*overrides)


def test_every_wrong_setting_is_named_at_once():
    with pytest.raises(ValueError) as error:
        pretrain_config("lr=fast", "+epoch=3", "checkpoint.mode=up")
    assert len(str(error.value).splitlines()) == 3


def test_flat_keys_are_all_keys_dotted():
    config = OmegaConf.create({"a": 1, "b": {"c": None, "d": {"e": [1]}}, "f": None})
    assert flat_keys(config) == ["a", "b", "b.c", "b.d", "b.d.e", "f"]


def test_beginning_anew_and_going_on_at_once_is_refused():
    with pytest.raises(ValueError, match="checkpoint: overwrite=true begins anew and resume goes on; set one of them"):
        pretrain_config("checkpoint.overwrite=true", "checkpoint.resume=auto")
