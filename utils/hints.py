"""What a user meant by words that other programs understand, and this one does not."""
import re
from collections.abc import Container, Iterable
from pathlib import Path

from utils.quoting import typed

CONFIG_DIR = Path(__file__).resolve().parent.parent / "config"
HYDRAS_OPTIONS = ("help", "hydra-help", "version", "cfg", "resolve", "package", "run", "multirun", "shell-completion",
                  "config-path", "config-name", "config-dir", "experimental-rerun", "info")
# settings here, of pretrain.py or evaluate.py, and what they are called elsewhere
OTHER_NAMES = {
    "data_paths": "data dataset datasets data_path data_dir train_data",
    "data_paths_test": "test_data val_data eval_data",
    "global_batch_size": "batch_size train_batch_size per_device_train_batch_size",
    "micro_batch_size": "gradient_accumulation_steps accumulate_grad_batches microbatch_size",
    "epochs": "num_epochs max_epochs num_train_epochs n_epochs",
    "eval_interval": "eval_every val_interval eval_steps eval_freq",
    "max_steps": "steps num_steps train_steps max_iters total_steps",
    "max_minutes": "max_time time_limit max_hours",
    "early_stop_patience": "patience early_stopping early_stopping_patience",
    "optimizer": "optim",
    "lr": "learning_rate base_lr peak_lr",
    "lr_min_ratio": "min_lr lr_min",
    "lr_warmup_steps": "warmup warmup_steps num_warmup_steps",
    "weight_decay": "wd",
    "grad_clip": "clip_grad max_grad_norm gradient_clip_val clip_grad_norm",
    "ema": "use_ema",
    "use_ema": "ema",
    "ema_rate": "ema_decay",
    "device": "gpu cuda accelerator",
    "compile": "torch_compile",
    "use_wandb": "wandb report_to",
    "project_name": "project wandb_project",
    "run_name": "name exp_name experiment_name wandb_name",
    "log_interval": "log_every logging_steps log_freq",
    "checkpoint.path": "output_dir out_dir save_dir save_path checkpoint_dir "
                       "ckpt_dir run_dir workdir",
    "checkpoint.resume": "resume auto_resume resume_from_checkpoint",
    "checkpoint.every_minutes": "save_every save_interval save_steps",
    "checkpoint.keep_last": "save_total_limit",
    "load_checkpoint": "pretrained init_from weights finetune_from",
    "checkpoint": "ckpt model run path weights load_checkpoint checkpoint_path",
    "output_dir": "out_dir save_dir save_path output",
    "picture": "plot draw image",
    "arch.hidden_size": "dim d_model n_embd embed_dim width hidden_dim",
    "arch.num_heads": "heads n_heads n_head num_attention_heads",
    "arch.L_layers": "layers n_layers n_layer num_layers num_hidden_layers depth",
    "arch.halt_max_steps": "n_sup supervision_steps max_supervision_steps",
    "arch.forward_dtype": "dtype precision bf16 fp16 mixed_precision",
}


def name_here(key: str, known: Container[str]) -> str | None:
    """The setting that other projects call by the last part of this key; None if there is none."""
    word = key.rpartition(".")[2].lower().replace("-", "_")
    return next((here for here, names in OTHER_NAMES.items() if word in names.split() and here in known), None)


def refuse_words_without_key(words: Iterable[str], config_name: str) -> None:
    """Raise ValueError for `--lr 1e-3` and for a path alone, which other programs take.

    Hydra's own message about them helps nobody, least of all where the path has an equals sign.
    """
    for word in words:
        if (option := re.fullmatch(r"--([\w.-]+)(=.*)?", word)) and option[1] not in HYDRAS_OPTIONS:
            key = option[1].replace("-", "_")
            raise ValueError(f"{word}: settings are written key=value, without dashes; write "
                             f"{key}{option[2] or '=…'}")
        if not word.startswith("-") and is_there(word) and (meant := meant_by_word(word, config_name)):
            raise ValueError(f"{word} has no key; write {meant}")


def is_there(path: str) -> bool:
    """Does a file or a folder have this name? Text that no file can be called is none."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def meant_by_word(word: str, config_name: str) -> str | None:
    """What a word without a key was meant to be: a setting, as it is typed in a shell."""
    if config_name == "cfg_evaluate":
        return typed("checkpoint", word)
    if (CONFIG_DIR / "experiment" / f"{word}.yaml").is_file():
        return f"experiment={word}"
    if (Path(word) / "train").is_dir():
        return typed("data_paths", [word])
    if (Path(word) / "config.yaml").is_file():
        return f"{typed('checkpoint.path', word)} checkpoint.resume=true"
    return None
