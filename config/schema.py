"""The typed configs of both scripts. They include smaller configs that are defined beside the code they configure.

Every key is in the YAML file. An unknown or mistyped key is an error that names the nearest valid key.
"""
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Self, TypeVar

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from dataset.common import EpisodeMetadata, PuzzleDatasetMetadata, RegressionMetadata, SplitMetadata
from dataset.kinds.kind import find_kind, kind_by_sizes
from evaluators.curve import Curve, Task
from evaluators.protocol import EVALUATOR_PARTS
from evaluators.strategies import STRATEGY_PARTS, Single, Strategy
from evaluators.test_time import TestTime, TestTimeConfig
from losses.head import LossHead
from models.act import ACTModel
from models.compiled import ComputeConfig
from models.train_state import TrainConfig
from utils.checkpoint import CheckpointConfig
from utils.command_line import CONFIG_DIR, describe_validation, flat_keys
from utils.curriculum import RatingStage, check_order
from utils.distributed import World
from utils.hub import REPOSITORY
from utils.keywords import composed_from
from utils.precision import auto_dtype
from utils.quoting import typed
from utils.resolve import built, is_of, load_class
from utils.run_log import LogConfig

MOST_VIEWED = 12  # puzzles in the page of viewer=, unless said otherwise
M = TypeVar("M", bound=BaseModel)
# keys of a model's config whose values come from the data
DATA_KEYS = ("batch_size", *(PuzzleDatasetMetadata.MODEL_KEYS | RegressionMetadata.MODEL_KEYS))
# all keys of a model's config that cannot be set, with the source of their values
DERIVED_KEYS = dict.fromkeys(DATA_KEYS, "the data") | {"learns_halting": "arch.loss"}


@dataclass(frozen=True)
class Origin:
    """Where a config comes from. The default stands for a file that somebody else may have written."""

    # keys that the command line names
    named: frozenset[str] = frozenset()
    # names of classes that may be imported from outside this project's packages; None: all, since the user named them
    imports: Container[str] | None = ()


class NamedConfig(BaseModel):
    """A class by name, and the options that it is built with. The `Config` of the class gives their types."""

    model_config = ConfigDict(extra="allow", strict=True)

    # module@Class, where the module is in the folder of such classes, such as models/
    name: str

    # whether it may be imported from outside this project's packages
    _anywhere: bool = PrivateAttr(False)

    @model_validator(mode="after")
    def _take_origin(self, info: ValidationInfo):
        imports = (info.context or Origin()).imports
        self._anywhere = imports is None or self.name in imports
        return self

    @property
    def options(self) -> dict:
        return dict(self.__pydantic_extra__)

    def load(self, package: str, parts: Sequence[str]) -> type:
        return load_class(self.name, package, parts, self._anywhere)


class ArchConfig(NamedConfig):
    """A model and its loss head."""

    loss: NamedConfig

    # options for another loss head, which a file changed from their defaults
    _left_over: dict = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _settle_loss_options(self, info: ValidationInfo):
        """Move `keep_act_halting_head` from `arch` to `loss`, and drop options that are for another loss head.

        The YAML files have options for their own head. If another head is named, those that it does not know are
        dropped, but options that the command line names stay, so that they are refused as unknown.
        """
        options = self.loss.__pydantic_extra__
        if "keep_act_halting_head" in self.options:
            options["keep_act_halting_head"] = self.__pydantic_extra__.pop("keep_act_halting_head")
        unknown = options.keys() - self.head_class.Config.model_fields.keys()
        of_yaml = OmegaConf.load(CONFIG_DIR / "backbone.yaml").loss if unknown else {}
        for key in unknown & of_yaml.keys():
            if f"arch.loss.{key}" not in (info.context or Origin()).named:
                value = options.pop(key)
                self._left_over |= {key: value} if value != of_yaml[key] else {}
        return self

    @property
    def short_name(self) -> str:
        """`trm` of `recursive_reasoning.trm@TRM`."""
        return self.name.partition("@")[0].rpartition(".")[2]

    @property
    def model_class(self) -> type[ACTModel]:
        return self.load("models", ("Config", "initial_carry"))

    @property
    def head_class(self) -> type[LossHead]:
        return self.loss.load("losses", ("Config", "initial_carry"))

    @classmethod
    def of_file(cls, settings: object, file: Path,
                imports: Container[str] | None = ()) -> "ArchConfig":
        """The architecture in the config of a file. `imports`: as in `Origin`.

        Raises ValueError for wrong settings, and for a class that may not be imported.
        """
        try:
            arch = _validate(cls, settings, [], "arch.", Origin(imports=imports))
            arch.check()
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        return arch

    def with_options(self, options: dict) -> "ArchConfig":
        """The same architecture with some options changed. `loss` maps the changed options of the loss head.

        Classes that are named in `options` may be imported from anywhere. Raises ValueError that names each wrong value
        and each unknown key, with the nearest valid key.
        """
        options = dict(options)
        loss = options.pop("loss", {})
        if not isinstance(loss, dict):
            raise ValueError(f"arch.loss={loss!r} maps no options to values; set one option, "
                             "as in arch.loss.name=…")
        trusted = {named.name for named in (self, self.loss) if named._anywhere} | {
            given["name"] for given in (options, loss) if "name" in given}
        merged = self.model_dump() | options | {"loss": self.loss.model_dump() | loss}
        named = frozenset(f"arch.loss.{key}" for key in loss)
        changed = _validate(ArchConfig, merged, [], "arch.", Origin(named, trusted))
        changed.check()
        return changed

    def of_kind(self, data: SplitMetadata, trust_code: bool = False) -> "ArchConfig":
        """The same architecture, which knows by the kind of puzzle in the data what its options leave open: `special`.

        It stays open where the data do not tell their kind. `trust_code`: as in `find_kind`. Raises ValueError where
        there is no such kind.
        """
        if "special" not in self.model_class.Config.model_fields or self.options.get("special") is not None \
                or not isinstance(data, PuzzleDatasetMetadata):
            return self
        name = data.kind or kind_by_sizes(data.seq_len, data.vocab_size)
        if name is None:
            return self
        try:
            kind = find_kind(name, trust_code)(data.seq_len, data.vocab_size)
        except ValueError as error:
            raise ValueError(f"arch.special=null: the kind {name!r} of the data tells no tokens: {error}; or set "
                             "arch.special=[…], the tokens that cannot be exchanged") from error
        return self.with_options({"special": list(kind.special)})

    def in_full(self, data: SplitMetadata | None = None) -> dict:
        """All that is set, with the defaults of the options that are left out, and with what the `data` tell."""
        fields = self.model_class.Config.model_fields.items()
        defaults = {key: field.get_default(call_default_factory=True) for key, field in fields
                    if not field.is_required() and key not in DERIVED_KEYS}
        return defaults | (self.of_kind(data) if data else self).model_dump()

    def check(self) -> None:
        """Check the options of the model and of the loss head. Raises ValueError that names each wrong key."""
        keys = [f"arch.{key}"
                for key in self.model_class.Config.model_fields if key not in DERIVED_KEYS]
        for key, source in DERIVED_KEYS.items():
            if key in self.options:
                raise ValueError(f"arch.{key} follows from {source} and cannot be set; remove it")
        _validate(self.model_class.Config, self.options, keys, prefix="arch.")
        _validate(self.head_class.Config, self.loss.options,
                  [f"arch.loss.{key}" for key in self.head_class.Config.model_fields],
                  prefix="arch.loss.")

    def check_stage(self, curriculum: str, options: dict[str, int]) -> None:
        """Raise ValueError if the model cannot run with these options of a stage, or would ignore them."""
        without_effect = [key for key in options if key in getattr(self.model_class,
                                                                  "UNUSED_KEYS", ())
                          or key not in self.model_class.Config.model_fields]
        if without_effect:
            raise ValueError(f"{curriculum}: {', '.join(without_effect)} has no effect with "
                             f"arch.name={self.name}; use {curriculum}=[]")
        _validate(self.model_class.Config, self.options | options, [], prefix=f"{curriculum}.")

    def notices(self) -> list[str]:
        """Warnings about settings that work but are probably not meant, such as keys without effect."""
        unused = [key for key in getattr(self.model_class, "UNUSED_KEYS", ()) if self.options.get(key)]
        return [f"arch.{key} has no effect with arch.name={self.name}" for key in unused] + \
            [f"arch.loss.{key}={value} has no effect with arch.loss.name={self.loss.name}"
             for key, value in self._left_over.items()] + \
            self.model_class.Config(**self.options).notices()

    def check_data(self, data: SplitMetadata) -> None:
        """Raise ValueError where the model or the loss head is not for such data."""
        task = getattr(self.head_class, "TASK", data.task_type)
        if task != data.task_type:
            head = {"regression": "losses@ACTRegressionLossHead",
                    "classification": "losses@ACTLossHead"}
            raise ValueError(f"data_paths hold {data.KIND}, and arch.loss.name={self.loss.name} is "
                             f"for {task}; set arch.loss.name={head[data.task_type]}, or "
                             f"data_paths to data for {task}")
        if isinstance(data, EpisodeMetadata) and not data.flat and not self.options.get("causal"):
            raise ValueError(f"episode_window={data.seq_len}: without arch.causal=true "
                             "each prediction sees the latent that it predicts; set "
                             "it, or episode_window=1")

    def build_head(self, data: SplitMetadata, batch_size: int, world: World) -> LossHead:
        """Build the model and its loss head, on the device. It draws initial weights, so set the random seed before."""
        self.check_data(data)
        options = self.of_kind(data).options
        if options.get("forward_dtype", "auto") == "auto":
            options["forward_dtype"] = auto_dtype(world.device)
        for_head = self.head_class.model_options(self.head_class.Config(**self.loss.options))
        model = self.model_class(options | {"batch_size": batch_size} | data.model_sizes() | for_head)
        return self.head_class(model, **self.loss.options).to(world.device)


class SharedConfig(BaseModel):
    """The settings that training and evaluation share."""

    YAML: ClassVar[str]  # the file in this folder that has the defaults, without its suffix

    model_config = ConfigDict(extra="forbid", strict=True)

    # evaluators of the test data, [{name: module@Class, option: value}]; null: the one for their kind of puzzle
    evaluators: list[NamedConfig] | None
    # batch fields and outputs to save at evaluation, such as [inputs, preds, q_halt_logits]
    eval_save_outputs: list[str]
    # auto: the first of cuda, mps and cpu that is available
    device: Literal["auto", "cuda", "mps", "cpu"]
    # show tracebacks of errors
    debug: bool
    # import modules from outside this project that a checkpoint's config names; runs their code (docs/security.md)
    trust_code: bool

    @model_validator(mode="after")
    def _find_evaluators(self):
        for evaluator in self.evaluators or ():
            evaluator.load("evaluators", EVALUATOR_PARTS)
        return self

    @property
    def named_evaluators(self) -> list[dict] | None:
        return None if self.evaluators is None else [evaluator.model_dump()
                                                     for evaluator in self.evaluators]

    @classmethod
    def of(cls, **settings: object) -> Self:
        """The config with these settings, and defaults for all others. Raises ValueError as the command line does."""
        return cls.parse(*composed_from(cls.YAML, settings))

    @classmethod
    def parse(cls, cfg: DictConfig, overrides: Sequence[str] = (),
              imports: Container[str] | None = None):
        """The typed config of `cfg`, which Hydra composed from a command line with these overrides.

        `imports`: see `Origin`. Raises ValueError that names every wrong or missing key.
        """
        missing = sorted(OmegaConf.missing_keys(cfg))
        if missing:
            raise ValueError(f"{', '.join(missing)} must be set; add "
                             f"{'=… '.join(missing)}=… to the command line")
        return _validate(cls, OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True), flat_keys(cfg),
                         origin=Origin(frozenset(override.key_or_group for override in
                                                 OverridesParser.create().parse_overrides(list(overrides))), imports))


class PretrainConfig(SharedConfig, TrainConfig, LogConfig):
    """`config/cfg_pretrain.yaml`."""

    YAML = "cfg_pretrain"

    arch: ArchConfig
    # folders of the training data sets
    data_paths: list[str] = Field(min_length=1)
    # folders of the data sets to test on; empty: the test splits of data_paths
    data_paths_test: list[str]
    # fresh: train on each puzzle as a random symmetric one of its kind, drawn anew whenever it comes; null: as stored
    augment: Literal["fresh"] | None
    # stages that train on hard puzzles alone at first, for data built with --keep-ratings
    rating_curriculum: list[RatingStage]
    # latent episodes only: number of transitions in an example
    episode_window: int = Field(gt=0)
    # latent episodes only: transitions from the start of one example to the start of the next; null: episode_window
    episode_stride: int | None = Field(gt=0)
    # training puzzles to hold out with all their augmentations, and to score as val/held_out/…, so that they choose
    # checkpoints and settings; 0: none
    val_puzzles: int = Field(ge=0)
    # test puzzles that the run's own evaluations score, always the same ones; null: all, as evaluate.py does
    test_puzzles: int | None = Field(gt=0)
    # epochs to train; an epoch takes one puzzle of each group
    epochs: int = Field(gt=0)
    # epochs between evaluations; null: one evaluation, at the end
    eval_interval: int | None = Field(gt=0)
    # evaluations to skip at the start
    min_eval_interval: int = Field(ge=0)
    # end the run after this many evaluations without a better checkpoint.monitor; best.ckpt is kept; null: never
    early_stop_patience: int | None = Field(gt=0)
    # save and end the run after this many steps in total, to go on later
    max_steps: int | None = Field(gt=0)
    # save and end the run after this many minutes of training, counted from the start of this command
    max_minutes: float | None = Field(gt=0)
    checkpoint: CheckpointConfig
    # seconds after SIGTERM or SIGINT at which an unfinished step or save is given up (torchrun kills after 30)
    preempt_grace_s: float = Field(gt=0)
    # when a loss or gradient is not finite: stop: end the run with the state before the step; skip: leave the batch out
    on_nonfinite: Literal["stop", "skip"]
    # start from the weights of this checkpoint, and evaluate them before step 1
    load_checkpoint: str | None
    # do not check the first batches for impossible values
    skip_sanity_checks: bool
    # the published name of checkpoint.path
    checkpoint_path: str | None
    # save before each evaluation; false: at the end only
    checkpoint_every_eval: bool

    @model_validator(mode="after")
    def _check(self):
        self.arch.check()
        if self.arch.options.get("forward_dtype") == "float16":
            raise ValueError("arch.forward_dtype=float16 cannot train: gradients below 6e-8 "
                             "become 0; use bfloat16, which has the range of float32 in as "
                             "much memory, or float32")
        check_order("rating_curriculum", self.rating_curriculum)
        for curriculum in ("depth_curriculum", "supervision_curriculum"):
            stages = getattr(self, curriculum)
            check_order(curriculum, stages)
            for stage in stages:
                self.arch.check_stage(curriculum, stage.options)
        if self.checkpoint_path is not None:
            if self.checkpoint.path not in (None, self.checkpoint_path):  # a saved config has both
                raise ValueError("checkpoint_path is the published name of "
                                 "checkpoint.path; set one of them")
            self.checkpoint.path = self.checkpoint_path
        if self.early_stop_patience and not (self.checkpoint.monitor and self.checkpoint.enabled
                                             and self.checkpoint_every_eval):
            raise ValueError(f"early_stop_patience={self.early_stop_patience} keeps the best "
                             "checkpoint: it needs a checkpoint.monitor, checkpoint.enabled=True "
                             "and checkpoint_every_eval=True")
        if self.freeze_weights and not self.arch.options.get("puzzle_emb_ndim"):
            raise ValueError("freeze_weights=True trains the puzzle embeddings alone, and "
                             "arch.puzzle_emb_ndim=0 has none")
        return self

    @property
    def project(self) -> str:
        """`project_name`, or a name made from the first data set and the architecture."""
        return self.project_name or f"{Path(self.data_paths[0]).name}-{self.arch.short_name}"

    @property
    def run_directory(self) -> Path | None:
        """Where the run's files go; None before it has a name."""
        if self.checkpoint.path is not None:
            return Path(self.checkpoint.path)
        return Path("checkpoints", self.project, self.run_name) if self.run_name else None

    @property
    def way_on(self) -> str:
        """The settings that resume the run, as they are typed in a shell."""
        trust = " trust_code=true" if self.own_classes else ""
        return f"{typed('checkpoint.path', str(self.run_directory))} checkpoint.resume=true{trust}"

    @property
    def class_names(self) -> list[str]:
        return [self.arch.name, self.arch.loss.name,
                *(evaluator.name for evaluator in self.evaluators or ())]

    @property
    def own_classes(self) -> list[str]:
        """The names of classes that come from outside this project's packages."""
        found = [(self.arch.model_class, "models"), (self.arch.head_class, "losses"),
                 *((each.load("evaluators", EVALUATOR_PARTS), "evaluators")
                   for each in self.evaluators or ())]
        return [name for name, where in zip(self.class_names, found) if not is_of(*where)]

    def notices(self) -> list[str]:
        """Warnings about settings that work but are probably not meant. They are printed at the start."""
        own = [f"{', '.join(self.own_classes)}: not of this project, so to go on with the run, or to score it, name it "
               "again, or add trust_code=true"] if self.own_classes else []
        return self.arch.notices() + own


class EvaluateConfig(SharedConfig, TestTimeConfig, ComputeConfig):
    """`config/cfg_evaluate.yaml`."""

    YAML = "cfg_evaluate"

    # a checkpoint file, a directory of a run (its best.ckpt, else its latest) or an export, or hf://owner/name
    checkpoint: str
    # data sets whose test split is scored; empty: those of the run
    data_paths: list[str]
    # score the puzzles that the run held out of training (val_puzzles), to choose settings of an evaluation by them
    held_out: bool
    # puzzles to answer in place of data sets: a file, - (standard input), or one puzzle (docs/solving.md)
    solve: str | None
    # what kind of puzzle the checkpoint answers, for solve; null: the one in its metadata, or told by its sizes
    kind: str | None
    # file for the answers to all puzzles, FILE.csv or FILE.jsonl; null: answers.csv where solve is a file
    predictions: str | None
    # solve, ARC: steps for which a model is trained on the demonstrations of the tasks before it is asked; null: 200
    adapt_steps: int | None = Field(ge=0)
    # solve, ARC: what is trained then: the puzzle embeddings of the tasks alone, or all weights
    adapt: Literal["embeddings", "all"]
    # solve, ARC: peak rate of the puzzle embeddings then; null: as in training
    adapt_lr: float | None = Field(gt=0)
    # solve, ARC: augmentations of each task, which are trained on and vote; null: 32
    adapt_augmentations: int | None = Field(ge=0)
    # examples in a batch, over all processes; null: as in training
    global_batch_size: int | None
    # score the averaged weights where the checkpoint has them
    use_ema: bool
    # puzzle embeddings that the model gets: own: each puzzle's own; blank: none; shuffled: that of another test puzzle
    puzzle_identifiers: Literal["own", "blank", "shuffled"]
    # options of the architecture to change from training, one by one, as in arch.act_inference=true
    arch: dict
    # another name of steps, and short for arch.halt_max_steps
    halt_max_steps: int | None = Field(gt=0)
    # a strategy of one's own, {name: module@Class, option: value}; null: what the settings of test-time compute say
    strategy: NamedConfig | None
    # also score what every selection rule would answer with fewer steps and attempts: accuracy against compute
    # (curve.csv, curve.png), and what q knows (confidence.json)
    curve: bool
    # curve.csv of other evaluations, or their folders, to be drawn in the same picture
    curve_with: list[str]
    # draw the published scores of a task beside the curve: sudoku-extreme or maze-hard; you know that it is the same
    published: Task | None
    # also score the answers after each supervision step, which shows accuracy against compute (steps.jsonl)
    per_step: bool
    # write the weights for others: in the published layout, as safetensors, or as safetensors uploaded to the hub
    export: Literal["published", "safetensors", "hub"] | None
    # owner/name on the hub to upload to
    hub_repo: str | None = Field(pattern=f"^{REPOSITORY}$")
    # folder of metrics.json and other results; null: <run>/evaluation, plus settings that differ from training
    output_dir: str | None
    # number of a test example to draw step by step, or of a rollout of latent episodes; slowest: the example that takes
    # most steps, or the first rollout; null: no picture
    picture: int | Literal["slowest"] | None
    # also write that picture as an animated GIF
    animation: bool
    # an HTML file to write, in which test puzzles are seen being solved; nothing is scored then; null: none
    viewer: str | None
    # the puzzles in it: how many, of the first, or their numbers
    viewer_puzzles: PositiveInt | list[NonNegativeInt] | None
    # open a local page in which puzzles are typed and seen being solved; nothing is scored then
    serve: bool
    # of that page; null: 8000; 0: any free one
    port: int | None = Field(ge=0, le=65535)

    @model_validator(mode="after")
    def _check(self):
        if (self.export == "hub") != (self.hub_repo is not None):
            raise ValueError("export=hub and hub_repo=owner/name go together; set both or neither")
        if self.viewer_puzzles is not None and self.viewer is None:
            raise ValueError("viewer_puzzles has no effect without viewer=FILE.html")
        if self.animation and self.picture is None:
            raise ValueError("animation=true has no effect without picture; add picture=slowest")
        if self.port is not None and not self.serve:
            raise ValueError(f"port={self.port} has no effect without serve=true")
        if self.viewer is not None:
            self._refuse_beside("viewer")
        if self.serve:
            self._refuse_beside("serve", viewer=self.viewer, solve=self.solve, data_paths=self.data_paths)
        names = {"steps": self.steps, "halt_max_steps": self.halt_max_steps,
                 "arch.halt_max_steps": self.arch.get("halt_max_steps")}
        given = {name: value for name, value in names.items() if value is not None}
        if len(set(given.values())) > 1:
            raise ValueError(f"{' and '.join(f'{name}={value}' for name, value in given.items())}: these are names of "
                             "one number, the supervision steps of a puzzle; set one of them")
        if self.init and "initial_state_std" in self.arch:
            raise ValueError(f"init={self.init} sets arch.initial_state_std; set one of them")
        for name in (name for name in ("curve_with", "published") if getattr(self, name) and not self.curve):
            raise ValueError(f"{name} has no effect without curve=true; set it")
        if self.per_step and self.attempts > 1:
            raise ValueError("per_step=true follows one attempt at each puzzle; use curve=true for several")
        return self

    def _refuse_beside(self, key: str, **others: object) -> None:
        """Raise ValueError for a setting that is set and has no effect beside `key`, with which nothing is scored: one
        of scoring, or of the `others`."""
        scoring = {"per_step": self.per_step, "curve": self.curve, "picture": self.picture is not None,
                   "export": self.export, "eval_save_outputs": self.eval_save_outputs,
                   "evaluators": self.evaluators is not None, "predictions": self.predictions,
                   "output_dir": self.output_dir} | others
        for name in (name for name, is_set in scoring.items() if is_set):
            raise ValueError(f"{name} has no effect with {key}={getattr(self, key)}, which scores nothing; leave out "
                             "one of them")

    @model_validator(mode="after")
    def _check_solving(self):
        without = [key for key in ("data_paths", "held_out", "export") if getattr(self, key)]
        if self.held_out and self.data_paths:
            raise ValueError("held_out=True and data_paths name different puzzles; leave one of them out")
        if self.solve == "":
            raise ValueError("solve= is empty; name a file of puzzles or -, or write one puzzle itself")
        if self.solve is not None and without:
            raise ValueError(f"{without[0]} has no effect on puzzles of one's own; leave out either it or solve")
        if self.solve is not None and self.puzzle_identifiers == "shuffled":
            raise ValueError("puzzle_identifiers=shuffled has no effect on puzzles that were not trained on; use own "
                             "or blank")
        return self

    def refuse_solving(self) -> None:
        """Raise ValueError for a setting that has no effect on data sets."""
        if self.kind is not None:
            raise ValueError(f"kind={self.kind} has no effect without solve or serve: data sets tell their kind in "
                             "dataset.json")
        self.refuse_adaptation("data sets, which are scored as they are")

    def refuse_adaptation(self, what: str) -> None:
        """Raise ValueError for a setting of adaptation that has no effect on `what`."""
        for key in ("adapt_steps", "adapt_lr", "adapt_augmentations"):
            if getattr(self, key) is not None:
                raise ValueError(f"{key} has no effect on {what}; it is for ARC tasks of solve=…")
        if self.adapt != "embeddings":
            raise ValueError(f"adapt={self.adapt} has no effect on {what}; it is for ARC tasks of solve=…")

    @model_validator(mode="after")
    def _find_strategy(self):
        self.build_strategy()
        return self

    def build_strategy(self) -> Strategy:
        """The strategy. Raises ValueError for a class that does not exist, or for options that it does not take."""
        if self.strategy is None:
            if self.curve:
                return Curve(self.test_time, self.trust_code, self.curve_with, self.published)
            return TestTime(self.test_time, self.trust_code) if self.attempted_otherwise else Single()
        if self.attempted_otherwise or self.curve:
            raise ValueError(f"{', '.join(self.attempted_otherwise) or 'curve'}: strategy={self.strategy.name} decides "
                             "itself how puzzles are attempted; set one or the other")
        return built(self.strategy.load("evaluators", STRATEGY_PARTS), f"strategy: {self.strategy.name}",
                     self.strategy.options)

    def puzzles_to_view(self, there_are: int) -> list[int]:
        """The numbers of the examples for `viewer`."""
        if isinstance(self.viewer_puzzles, list):
            return self.viewer_puzzles
        return list(range(min(self.viewer_puzzles or MOST_VIEWED, there_are)))

    @property
    def attempted_otherwise(self) -> dict:
        """The settings of test-time compute that are set, but for `steps`, which any strategy takes."""
        return {name: value for name, value in self.changed.items() if name != "steps"}

    @property
    def arch_options(self) -> dict:
        """The options of the architecture that are set here, as `ArchConfig.with_options` takes them."""
        steps = {"halt_max_steps": self.halt_max_steps} if self.halt_max_steps else {}
        return self.arch | steps | self.test_time_arch

    @property
    def differences(self) -> dict:
        """The settings that differ from training, by name. They are reported wherever metrics are."""
        options = self.arch_options
        if self.init:
            del options["initial_state_std"]
        loss = {f"loss.{key}": value for key, value in options.pop("loss", {}).items()}
        short = {key: options.pop(key) for key in ("halt_max_steps",) if key in options}
        here: dict[str, str] = {}
        if self.puzzle_identifiers != "own":
            here["puzzle_identifiers"] = self.puzzle_identifiers
        here |= {"held_out": "puzzles"} if self.held_out else {}
        if self.strategy:
            here |= {"strategy": self.strategy.name} | self.strategy.options
        here |= self.attempted_otherwise
        return here | short | {f"arch.{key}": value for key, value in (options | loss).items()}


def _validate(model: type[M], values: object, keys: list[str], prefix: str = "",
              origin: Origin = Origin()) -> M:
    try:
        return model.model_validate(values, context=origin)
    except ValidationError as error:
        raise ValueError(describe_validation(error, keys, prefix)) from error
