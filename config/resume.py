"""Resumes a run: finds the checkpoint, composes the config, and refuses changes that would make it another run.

A resumed run uses its saved config. The command line changes only the keys that it names. `experiment=…` and `arch=…`
count as naming all keys of that file. Settings that belong to the command rather than to the run, such as `device`,
always come from the command line.
"""
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from config.schema import PretrainConfig
from dataset.common import SplitMetadata, metadata_of
from utils.checkpoint import read_checkpoint, settings_of
from utils.command_line import CONFIG_DIR, leaf_keys
from utils.distributed import decided_by_main
from utils.quoting import typed
from utils.run_directory import newest_checkpoint, runs_there_are
from utils.run_log import tells_of

# settings that belong to the command, not to the run
OF_THE_INVOCATION = ("device", "debug", "trust_code", "max_steps", "max_minutes", "load_checkpoint", "checkpoint_path",
                     "checkpoint.path", "checkpoint.resume", "checkpoint.resume_from",
                     "checkpoint.overwrite")
TEXT_LOG = ("log_dir", "log_file")  # these too, unless the saved config names a log that exists and is of this run
# Settings, or groups of settings, that the saved state depends on. Others (epochs, intervals, rates) may change.
FIXED = ("arch", "data_paths", "data_paths_test", "val_puzzles", "rating_curriculum", "episode_window",
         "episode_stride", "global_batch_size", "seed", "optimizer", "weight_decay_on", "ema", "freeze_weights")
FORK = "start a new run from its weights with load_checkpoint=… instead, or leave the setting as it was"
OTHER_MODEL = "start a new run, under another run_name or checkpoint.path, or leave the setting as it was"


@dataclass(frozen=True)
class Resumed:
    """The checkpoint that a run resumes from."""

    file: Path
    payload: dict
    # (old, new) value of each setting that differs from the saved config
    changes: dict[str, tuple]

    @property
    def step(self) -> int:
        return self.payload["step"]

    @property
    def same_monitor(self) -> bool:
        """Whether best.ckpt is still chosen by the same metric."""
        return not {"checkpoint.monitor", "checkpoint.mode"} & self.changes.keys()

    def notices(self, ranks: int) -> list[str]:
        """Lines to print at the start of a resumed run. `ranks`: the number of processes now."""
        lines = [f"going on from step {self.step} ({self.file})"]
        lines += [f"notice: {key}={new} from here on (was {old})"
                  for key, (old, new) in self.changes.items()]
        before = len(self.payload["ranks"])
        if ranks != before:
            lines += [f"notice: {before} processes wrote the checkpoint, {ranks} go on",
                      "  as before: data, carry and exploration",
                      "  equal up to rounding: sums over processes, which are "
                      "added in another order",
                      "  different: random numbers that your own code draws"]
        return lines


def taken_up(config: PretrainConfig, cfg: DictConfig, overrides: Sequence[str]
             ) -> tuple[PretrainConfig, Resumed | None]:
    """The config of the run, and the checkpoint that it resumes from (None for a new run). Every rank must call it.

    Raises ValueError where there is no checkpoint to resume from, and where settings would make it another run.
    """
    if not (config.checkpoint.resume or config.checkpoint.resume_from):
        return config, None
    payloads: dict[Path, dict] = {}  # files that rank 0 has read already, to find the right one
    file = decided_by_main(lambda: _checkpoint_to_resume(config, payloads))
    if file is None:
        return config, None
    payload = payloads.pop(file, None) or read_checkpoint(file)
    if not {"config", "data_position", "ranks"} <= payload.keys():
        raise ValueError(f"{file} holds weights, but not the state of a run, so no run can go on "
                         f"from it; start a new one with {typed('load_checkpoint', str(file))}")
    imports = None if config.trust_code else config.class_names
    settings, _ = settings_of(file, payload)
    try:
        saved = _filled(settings, cfg)
        before = PretrainConfig.parse(saved, imports=imports)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    named = [*named_keys(overrides), *OF_THE_INVOCATION]
    if {*TEXT_LOG} & {*named} or not tells_of(Path(before.log_dir, before.log_file),
                                              config.run_directory):
        named += TEXT_LOG
    resumed = _merged(saved, cfg, named, overrides, imports)
    keep_dtype(resumed, before.arch.options.get("forward_dtype", "auto"))
    resumed.checkpoint.path = config.checkpoint.path or str(config.run_directory or file.parent)
    changed = changes(before, resumed, metadata_of(payload["data_metadata"]) if "data_metadata" in payload else None)
    refuse_what_would_be_wrong(changed, file)
    keep_dtype(resumed, str(payload["carry"]["latents"][0].dtype).removeprefix("torch."))
    return resumed, Resumed(file, payload, changed)


def _checkpoint_to_resume(config: PretrainConfig, payloads: dict[Path, dict]) -> Path | None:
    """The file to resume from. None where `resume=auto` finds no checkpoint.

    If the file had to be read to see whether it is complete, its payload is put into `payloads`.
    """
    settings = config.checkpoint
    directory = config.run_directory
    if settings.resume_from is not None:
        given = Path(settings.resume_from)
        inside = [directory / given] if directory else []
        for candidate in [*inside, given]:
            if candidate.is_file():
                return candidate
        raise ValueError(f"checkpoint.resume_from={given}: no such file"
                         + (f", nor is there {inside[0]}" if inside else "") + f"; {runs_there_are()}")
    if directory is None:
        raise ValueError(f"checkpoint.resume={settings.resume} must know its run: set "
                         f"checkpoint.path, or run_name; {runs_there_are()}")
    found = newest_checkpoint(directory, print)
    if found is None:
        if settings.resume != "auto":
            raise ValueError(f"checkpoint.resume=true: {directory} holds no checkpoint to go on "
                             f"from; {runs_there_are()}")
        return None
    file, payload = found
    payloads[file] = payload
    return file


def _filled(saved: dict, cfg: DictConfig) -> DictConfig:
    """The saved config. Keys that it lacks, because an older version wrote it, come from `cfg`."""
    composed = OmegaConf.to_container(cfg, resolve=True)
    settings = saved.get("checkpoint")
    if not isinstance(settings, dict):
        raise ValueError(f"checkpoint={settings!r} is no config of checkpoints; "
                         "it must be that of a run")
    return OmegaConf.create(composed | saved | {"checkpoint": composed["checkpoint"] | settings})


def _merged(saved: DictConfig, cfg: DictConfig, named: Sequence[str], overrides: Sequence[str],
            imports: Container[str] | None) -> PretrainConfig:
    """The saved config, in which the keys `named` have their values from `cfg`."""
    merged = OmegaConf.create(saved)
    for key in named:
        OmegaConf.update(merged, key, OmegaConf.select(cfg, key), merge=False, force_add=True)
    return PretrainConfig.parse(merged, overrides, imports)


def named_keys(overrides: Sequence[str]) -> list[str]:
    """The keys that a command line sets."""
    keys = []
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        group = CONFIG_DIR / override.key_or_group
        keys += keys_of_file(group / f"{override.value()}.yaml") if group.is_dir() else [override.key_or_group]
    return keys


def keys_of_file(file: Path) -> list[str]:
    """The keys that a file `config/<group>/<name>.yaml` sets, and the files named in its `defaults`."""
    if not file.is_file():  # experiment=null
        return []
    content = OmegaConf.load(file)
    content.pop("hydra", None)  # settings of the command, not of the run
    keys = []
    for base in content.pop("defaults", []):  # a name, /name@_here_, or {override /arch: name}
        if isinstance(base, DictConfig):
            (group, name), = base.items()
            keys += keys_of_file(CONFIG_DIR / group.removeprefix("override /") / f"{name}.yaml")
        elif base != "_self_":
            place = CONFIG_DIR if base.startswith("/") else file.parent
            keys += keys_of_file(place / f"{base.strip('/').partition('@')[0]}.yaml")
    of_arch = file.parent.name == "arch" or file.name == "backbone.yaml"
    return keys + [f"arch.{key}" if of_arch else key for key in leaf_keys(content)]


def keep_dtype(config: PretrainConfig, before: str) -> None:
    """Let `forward_dtype=auto` mean the dtype that the run computed in before, whatever this machine would choose."""
    if config.arch.options.get("forward_dtype", "auto") == "auto" and before != "auto":
        config.arch = config.arch.with_options({"forward_dtype": before})


def changes(saved: PretrainConfig, resumed: PretrainConfig, data: SplitMetadata | None = None) -> dict[str, tuple]:
    """The (old, new) value of each setting that differs, except those that belong to the command.

    Options of the architecture that an older version did not write, or that the kind of puzzle in the `data` tells, are
    compared by the values that they stand for.
    """
    old, new = (_flat(config.model_dump() | {"arch": config.arch.in_full(data)}) for config in (saved, resumed))
    return {key: (old.get(key), new.get(key)) for key in old | new
            if old.get(key) != new.get(key) and key not in OF_THE_INVOCATION}


def _flat(settings: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def refuse_what_would_be_wrong(changed: dict[str, tuple], file: Path) -> None:
    wrong = [f"{key}={new} (was {old})" for key, (old, new) in changed.items()
             if key.partition(".")[0] in FIXED and not _same_data_elsewhere(key, old, new)]
    if wrong:
        other_model = any(key.startswith("arch.") for key in changed)
        raise ValueError(f"{file} cannot go on with {', '.join(wrong)}: "
                         f"{OTHER_MODEL if other_model else FORK}")


def _same_data_elsewhere(key: str, old, new) -> bool:
    """Whether only paths of data sets changed. `refuse_other_data` compares their contents later."""
    return key in ("data_paths", "data_paths_test") and len(old) == len(new)


def refuse_other_data(fingerprints: dict[str, str], config: PretrainConfig,
                      resumed: Resumed) -> None:
    """Raise ValueError if the contents of a data set are not those that the checkpoint was trained on.

    `fingerprints`: those of the data sets now, by path.
    """
    saved, then = resumed.payload["config"], resumed.payload["data_fingerprints"]
    distinct = {fingerprints[path] for path in config.data_paths}
    if "identifier_offsets" in resumed.payload and len(distinct) < len(set(config.data_paths)):  # of an older version
        raise ValueError(f"{resumed.file} was trained on a data set that "
                         f"data_paths={config.data_paths} list twice, by two paths, and it is "
                         f"now read once; {FORK}")
    for key in ("data_paths", "data_paths_test"):
        for path, old in zip(getattr(config, key), saved.get(key) or [], strict=True):
            if fingerprints[path] != then[old]:
                raise ValueError(f"the contents of {path} differ from what {resumed.file} was "
                                 f"trained on (fingerprints {fingerprints[path]} and {then[old]}); "
                                 f"restore the data set, or {FORK}")
