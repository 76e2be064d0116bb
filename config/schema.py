"""The typed config of both scripts, composed of those that stand beside the code they configure.

Every key stands in the YAML; an unknown or mistyped one is an error that names the nearest valid key.
"""
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Self, TypeVar

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, ValidationInfo, model_validator

from dataset.common import EpisodeMetadata, PuzzleDatasetMetadata, RegressionMetadata, SplitMetadata
from evaluators.protocol import EVALUATOR_PARTS
from evaluators.strategies import STRATEGY_PARTS, Single, Strategy
from losses.head import LossHead
from models.act import ACTModel
from models.train_state import TrainConfig
from utils.checkpoint import CheckpointConfig
from utils.command_line import CONFIG_DIR, describe_validation, flat_keys
from utils.curriculum import check_order
from utils.distributed import World
from utils.hub import REPOSITORY
from utils.keywords import composed_from
from utils.quoting import typed
from utils.resolve import built, is_of, load_class
from utils.run_log import LogConfig

M = TypeVar("M", bound=BaseModel)
# a model's keys that the data decide
DATA_KEYS = ("batch_size", *(PuzzleDatasetMetadata.MODEL_KEYS | RegressionMetadata.MODEL_KEYS))
# those and the ones that the loss head decides: what no one can set, with where it comes from
DERIVED_KEYS = dict.fromkeys(DATA_KEYS, "the data") | {"learns_halting": "arch.loss"}


@dataclass(frozen=True)
class Origin:
    """Where a config comes from: the context in which it is typed. Without one, it comes from a stranger's file."""

    # keys that the command line names
    named: frozenset[str] = frozenset()
    # names of classes that may be imported from outside this project's packages; None: all, since the user wrote them
    imports: Container[str] | None = ()


class NamedConfig(BaseModel):
    """A class by name, and the options it is built with, which its own `Config` types."""

    model_config = ConfigDict(extra="allow", strict=True)

    # module@Class, the module in the folder that such classes have here
    name: str

    # may it be imported from outside this project's packages?
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

    # options of another head that a file changed from their defaults
    _left_over: dict = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _settle_loss_options(self, info: ValidationInfo):
        """`keep_act_halting_head` may stand in `arch`. Where another head is named, the options that a YAML has for its
        own are no one's; those that the command line names are refused."""
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
    def of_file(cls, settings: object, file: Path, trust_code: bool) -> "ArchConfig":
        """Of the config that stands in a file. Raises ValueError for what is wrong in it, untrusted names among it."""
        try:
            arch = _validate(cls, settings, [], "arch.", Origin(imports=None if trust_code else ()))
            arch.check()
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        return arch

    def with_options(self, options: dict) -> "ArchConfig":
        """The same architecture with other options; `loss` maps those of the loss head. Classes that are named here may
        be imported from anywhere, since the caller names them.

        Raises ValueError naming each key that is unknown, with the nearest valid one, and each value that is wrong.
        """
        options = dict(options)
        loss = options.pop("loss", {})
        if not isinstance(loss, dict):
            raise ValueError(f"arch.loss={loss!r} maps no options to values; set one option, as in arch.loss.name=…")
        trusted = {named.name for named in (self, self.loss) if named._anywhere} | {
            given["name"] for given in (options, loss) if "name" in given}
        merged = self.model_dump() | options | {"loss": self.loss.model_dump() | loss}
        named = frozenset(f"arch.loss.{key}" for key in loss)
        changed = _validate(ArchConfig, merged, [], "arch.", Origin(named, trusted))
        changed.check()
        return changed

    def check(self) -> None:
        """Type the options of both classes. Raises ValueError naming each key that is wrong."""
        keys = [f"arch.{key}" for key in self.model_class.Config.model_fields if key not in DERIVED_KEYS]
        for key, source in DERIVED_KEYS.items():
            if key in self.options:
                raise ValueError(f"arch.{key} follows from {source} and cannot be set; remove it")
        _validate(self.model_class.Config, self.options, keys, prefix="arch.")
        _validate(self.head_class.Config, self.loss.options,
                  [f"arch.loss.{key}" for key in self.head_class.Config.model_fields], prefix="arch.loss.")

    def check_cycles(self, cycles: dict[str, int]) -> None:
        """Raise ValueError where the model cannot recurse so, or would not heed it."""
        without_effect = [key for key in cycles if key in getattr(self.model_class, "UNUSED_KEYS", ())
                          or key not in self.model_class.Config.model_fields]
        if without_effect:
            raise ValueError(f"depth_curriculum: {', '.join(without_effect)} has no effect with arch.name={self.name}; "
                             "use depth_curriculum=[]")
        _validate(self.model_class.Config, self.options | cycles, [], prefix="depth_curriculum.")

    def notices(self) -> list[str]:
        """What works and is likely not meant, to be said at start-up, published keys without effect among it."""
        unused = [key for key in getattr(self.model_class, "UNUSED_KEYS", ()) if self.options.get(key)]
        return [f"arch.{key} has no effect with arch.name={self.name}" for key in unused] + \
            [f"arch.loss.{key}={value} has no effect with arch.loss.name={self.loss.name}"
             for key, value in self._left_over.items()] + \
            self.model_class.Config(**self.options).notices()

    def check_data(self, data: SplitMetadata) -> None:
        """Raises ValueError where model and head are not for such data."""
        task = getattr(self.head_class, "TASK", data.task_type)
        if task != data.task_type:
            head = {"regression": "losses@ACTRegressionLossHead", "classification": "losses@ACTLossHead"}
            raise ValueError(f"data_paths hold {data.KIND}, and arch.loss.name={self.loss.name} is for {task}; set "
                             f"arch.loss.name={head[data.task_type]}, or data_paths to data for {task}")
        if isinstance(data, EpisodeMetadata) and not data.flat and not self.options.get("causal"):
            raise ValueError(f"episode_window={data.seq_len}: without arch.causal=true each prediction sees the latent "
                             "that it predicts; set it, or episode_window=1")

    def build_head(self, data: SplitMetadata, batch_size: int, world: World) -> LossHead:
        """The loss head around the model, on the device. Call it under a fixed seed: it draws the initial weights."""
        self.check_data(data)
        options = self.options
        if options.get("forward_dtype", "auto") == "auto":  # bfloat16 is many times slower than float32 on a CPU
            options["forward_dtype"] = "bfloat16" if world.device.type == "cuda" else "float32"
        for_head = self.head_class.model_options(self.head_class.Config(**self.loss.options))
        model = self.model_class(options | {"batch_size": batch_size} | data.model_sizes() | for_head)
        return self.head_class(model, **self.loss.options).to(world.device)


class SharedConfig(BaseModel):
    """What training and evaluation have in common."""

    YAML: ClassVar[str]  # the file in this folder that has the defaults, without its suffix

    model_config = ConfigDict(extra="forbid", strict=True)

    # evaluators of the test data, [{name: module@Class, option: value}]; null: that of the kind of puzzle that they are
    evaluators: list[NamedConfig] | None
    # batch fields and outputs to save at evaluation, such as [inputs, preds, q_halt_logits]
    eval_save_outputs: list[str]
    # auto: cuda, mps, cpu, the first there is
    device: Literal["auto", "cuda", "mps", "cpu"]
    # show tracebacks of errors
    debug: bool
    # import the modules of one's own that a checkpoint's config names, which runs their code (docs/security.md)
    trust_code: bool

    @model_validator(mode="after")
    def _find_evaluators(self):
        for evaluator in self.evaluators or ():
            evaluator.load("evaluators", EVALUATOR_PARTS)
        return self

    @property
    def named_evaluators(self) -> list[dict] | None:
        return None if self.evaluators is None else [evaluator.model_dump() for evaluator in self.evaluators]

    @classmethod
    def of(cls, **settings: object) -> Self:
        """The config of settings by keyword, all others at their defaults. Raises what the command line raises."""
        return cls.parse(*composed_from(cls.YAML, settings))

    @classmethod
    def parse(cls, cfg: DictConfig, overrides: Sequence[str] = (), imports: Container[str] | None = None):
        """The typed config of what Hydra composed of a command line; `imports`: see `Origin`. Raises ValueError naming
        every wrong or missing key."""
        missing = sorted(OmegaConf.missing_keys(cfg))
        if missing:
            raise ValueError(f"{', '.join(missing)} must be set; add {'=… '.join(missing)}=… to the command line")
        return _validate(cls, OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True), flat_keys(cfg),
                         origin=Origin(frozenset(override.key_or_group for override in
                                                 OverridesParser.create().parse_overrides(list(overrides))), imports))


class PretrainConfig(SharedConfig, TrainConfig, LogConfig):
    """`config/cfg_pretrain.yaml`."""

    YAML = "cfg_pretrain"

    arch: ArchConfig
    # training data set folders
    data_paths: list[str] = Field(min_length=1)
    # those to test on; empty: the test splits of data_paths
    data_paths_test: list[str]
    # of latent episodes: transitions in an example
    episode_window: int = Field(gt=0)
    # of latent episodes: transitions from the start of one example to that of the next; null: the window
    episode_stride: int | None = Field(gt=0)
    # epochs to train; an epoch takes one puzzle of each group
    epochs: int = Field(gt=0)
    # epochs between evaluations; null: one evaluation, at the end
    eval_interval: int | None = Field(gt=0)
    # evaluations to skip at the start
    min_eval_interval: int = Field(ge=0)
    # evaluations without a better checkpoint.monitor after which the run ends, best.ckpt kept; null: it never does
    early_stop_patience: int | None = Field(gt=0)
    # steps of the run after which it ends before its epochs are done, as if stopped: saved, to go on later
    max_steps: int | None = Field(gt=0)
    # minutes of training after which it likewise ends, counted from the start of this command
    max_minutes: float | None = Field(gt=0)
    checkpoint: CheckpointConfig
    # seconds after SIGTERM or SIGINT at which an unfinished step or save is given up (torchrun kills after 30)
    preempt_grace_s: float = Field(gt=0)
    # a step whose loss or gradient is not finite: end the run, keeping the state before it, or go on without its batch
    on_nonfinite: Literal["stop", "skip"]
    # start from a checkpoint's weights, which are evaluated before step 1
    load_checkpoint: str | None
    # train without a look at the first batches
    skip_sanity_checks: bool
    # the published name of checkpoint.path
    checkpoint_path: str | None
    # save before each evaluation; false: at the end only
    checkpoint_every_eval: bool

    @model_validator(mode="after")
    def _check(self):
        self.arch.check()
        if self.arch.options.get("forward_dtype") == "float16":
            raise ValueError("arch.forward_dtype=float16 cannot train: gradients below 6e-8 become 0; use bfloat16, "
                             "which has the range of float32 in as much memory, or float32")
        check_order(self.depth_curriculum)
        for stage in self.depth_curriculum:
            self.arch.check_cycles(stage.cycles)
        if self.checkpoint_path is not None:
            if self.checkpoint.path not in (None, self.checkpoint_path):  # a saved config has both
                raise ValueError("checkpoint_path is the published name of checkpoint.path; set one of them")
            self.checkpoint.path = self.checkpoint_path
        if self.early_stop_patience and not (self.checkpoint.monitor and self.checkpoint.enabled
                                             and self.checkpoint_every_eval):
            raise ValueError(f"early_stop_patience={self.early_stop_patience} keeps the best: it needs a "
                             "checkpoint.monitor, checkpoint.enabled=True and checkpoint_every_eval=True")
        if self.freeze_weights and not self.arch.options.get("puzzle_emb_ndim"):
            raise ValueError("freeze_weights=True trains the puzzle embeddings alone, and arch.puzzle_emb_ndim=0 "
                             "has none")
        return self


    @property
    def project(self) -> str:
        """`project_name`, or one made of the first data set and the architecture."""
        return self.project_name or f"{Path(self.data_paths[0]).name}-{self.arch.short_name}"

    @property
    def run_directory(self) -> Path | None:
        """Where the run's files go; None before it has a name."""
        if self.checkpoint.path is not None:
            return Path(self.checkpoint.path)
        return Path("checkpoints", self.project, self.run_name) if self.run_name else None

    @property
    def way_on(self) -> str:
        """The settings by which the run goes on, as they are typed in a shell."""
        trust = " trust_code=true" if self.own_classes else ""
        return f"{typed('checkpoint.path', str(self.run_directory))} checkpoint.resume=true{trust}"

    @property
    def class_names(self) -> list[str]:
        return [self.arch.name, self.arch.loss.name, *(evaluator.name for evaluator in self.evaluators or ())]

    @property
    def own_classes(self) -> list[str]:
        """Names of the classes from outside this project's packages."""
        found = [(self.arch.model_class, "models"), (self.arch.head_class, "losses"),
                 *((each.load("evaluators", EVALUATOR_PARTS), "evaluators") for each in self.evaluators or ())]
        return [name for name, where in zip(self.class_names, found) if not is_of(*where)]

    def notices(self) -> list[str]:
        """What works and is likely not meant, to be said at start-up."""
        own = [f"{', '.join(self.own_classes)}: not of this project, so to go on with the run, or to score it, name it "
               "again, or add trust_code=true"] if self.own_classes else []
        return self.arch.notices() + own


class EvaluateConfig(SharedConfig):
    """`config/cfg_evaluate.yaml`."""

    YAML = "cfg_evaluate"

    # a checkpoint file, a directory of a run (its best.ckpt, else its latest) or an export, or hf://owner/name
    checkpoint: str
    # data sets whose test split is scored; empty: those of the run
    data_paths: list[str]
    # examples at a time, over all processes; null: the run's
    global_batch_size: int | None
    # score the averaged weights where the checkpoint has them
    use_ema: bool
    # what the model is told of which puzzle it is: own: the truth; blank: nothing; shuffled: another test puzzle
    puzzle_identifiers: Literal["own", "blank", "shuffled"]
    # options of the architecture to set otherwise than in training, one by one, as in arch.act_inference=true
    arch: dict
    # the short name of arch.halt_max_steps, the supervision steps N_sup of each puzzle; null: as in training
    halt_max_steps: int | None = Field(gt=0)
    # what is made of the supervision steps, {name: module@Class, option: value}; null: the answer is that of the last
    strategy: NamedConfig | None
    # compile the recursion; null: on CUDA. DISABLE_COMPILE=1 in the environment overrules it
    compile: bool | None
    # score the answers after each supervision step, too: steps.jsonl, accuracy against compute
    per_step: bool
    # write the weights for others: the published layout, safetensors, or those uploaded to the hub with a model card
    export: Literal["published", "safetensors", "hub"] | None
    # owner/name on the hub to upload to
    hub_repo: str | None = Field(pattern=f"^{REPOSITORY}$")
    # metrics.json and all else goes here; null: <run>/evaluation, with what differs from training behind it
    output_dir: str | None
    # test example to draw being solved step by step, or rollout of latent episodes: its number, or slowest: the one
    # that takes most steps (of rollouts the first); null: none
    picture: int | Literal["slowest"] | None

    @model_validator(mode="after")
    def _check(self):
        if (self.export == "hub") != (self.hub_repo is not None):
            raise ValueError("export=hub and hub_repo=owner/name go together; set both or neither")
        if self.halt_max_steps and self.arch.get("halt_max_steps", self.halt_max_steps) != self.halt_max_steps:
            raise ValueError(f"halt_max_steps={self.halt_max_steps} is the short name of arch.halt_max_steps, which is "
                             f"{self.arch['halt_max_steps']}; set one of them")
        return self

    @model_validator(mode="after")
    def _find_strategy(self):
        self.build_strategy()
        return self

    def build_strategy(self) -> Strategy:
        """Raises ValueError for a class that there is not, or options that it does not take."""
        if self.strategy is None:
            return Single()
        return built(self.strategy.load("evaluators", STRATEGY_PARTS), f"strategy: {self.strategy.name}",
                     self.strategy.options)

    @property
    def arch_options(self) -> dict:
        """Options of the architecture that are set here, under the names that `ArchConfig.with_options` takes."""
        return self.arch | ({"halt_max_steps": self.halt_max_steps} if self.halt_max_steps else {})

    @property
    def differences(self) -> dict:
        """What is set otherwise than in training, by the name of the setting. It is told wherever metrics are."""
        options = self.arch_options
        loss = {f"loss.{key}": value for key, value in options.pop("loss", {}).items()}
        short = {key: options.pop(key) for key in ("halt_max_steps",) if key in options}
        here: dict[str, str] = {}
        if self.puzzle_identifiers != "own":
            here["puzzle_identifiers"] = self.puzzle_identifiers
        here |= {"strategy": self.strategy.name} if self.strategy else {}
        return here | short | {f"arch.{key}": value for key, value in (options | loss).items()}


def _validate(model: type[M], values: object, keys: list[str], prefix: str = "", origin: Origin = Origin()) -> M:
    try:
        return model.model_validate(values, context=origin)
    except ValidationError as error:
        raise ValueError(describe_validation(error, keys, prefix)) from error
