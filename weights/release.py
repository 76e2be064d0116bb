"""Put the weights of a run into weights/, scored, with a card and checksums.

    python weights/release.py checkpoints/demo/seed0/best.ckpt demo-sudoku4 --trained "…" --scored "…" --cost "…"

The checkpoint is scored and exported as safetensors by evaluate.py; settings of its command line may follow, such as
halt_max_steps=64. NAME/ then has the weights with their config, the facts in metadata.json, and a card, README.md;
SHA256SUMS is written anew. Files of more than LARGEST bytes, or TOGETHER in all, are refused: they do not belong into
the history of a repository.
"""
import argparse
import hashlib
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
LARGEST, TOGETHER = 20_000_000, 25_000_000  # bytes
SUMS = "SHA256SUMS"
CARD = """---
license: apache-2.0
library_name: pytorch
tags: [tiny-recursive-model]
---
# {name}

| | |
| --- | --- |
| network | `arch={arch}`, {numbers:,} numbers, {which} weights after {step:,} steps |
| trained on | {trained} |
| scored on | {scored} |
| time and machine | {cost} |
| licence | Apache-2.0, as the project |

| score | |
| --- | --- |
{scores}

`config.yaml` has every setting of the run, `metadata.json` the fingerprints of its data. Scored and exported, and a
puzzle answered, from the project's folder:

```
{command}
{solving}
```
"""


def files(folder: Path) -> list[Path]:
    """All released files, in order."""
    return sorted(path for path in folder.glob("*/*") if path.is_file() and "__pycache__" not in path.parts)


def refuse_large(released: list[Path]) -> None:
    """Raise ValueError where the released files take more than the repository may hold."""
    for path in released:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"{path}: {path.stat().st_size / 1e6:.1f} MB, and a file may have {LARGEST / 1e6:g}; "
                             "release it elsewhere, such as by evaluate.py export=hub, named in weights/README.md")
    together = sum(path.stat().st_size for path in released)
    if together > TOGETHER:
        raise ValueError(f"the released weights take {together / 1e6:.1f} MB, and may take {TOGETHER / 1e6:g} in all; "
                         "remove one of them, or release this one elsewhere")


def sums(folder: Path) -> str:
    """What `sha256sum -c SHA256SUMS` checks in the folder."""
    return "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}\n"
                   for path in files(folder))


def card(name: str, folder: Path, command: list[str], said: dict[str, str]) -> str:
    """The card of weights that `command` scored and exported to the folder."""
    from omegaconf import OmegaConf
    from safetensors.torch import load_file

    facts = json.loads((folder / "metadata.json").read_text())
    arch = str(OmegaConf.load(folder / "config.yaml").arch.name).partition("@")[0].rpartition(".")[2]
    scores = "\n".join(f"| {key} | {value:.4g} |" for key, value in facts["metrics"].items()
                       if isinstance(value, float) and "/" in key)
    presets = [word for word in command if word.startswith("+tta=")]
    solving = shlex.join(["python", "evaluate.py", f"checkpoint=weights/{name}", *presets, "solve=PUZZLE"])
    return CARD.format(name=name, arch=arch, which=facts["weights"], step=facts["step"], scores=scores,
                       command=shlex.join(["python", *command]), solving=solving,
                       numbers=sum(t.numel() for t in load_file(folder / "model.safetensors").values()), **said)


def release(checkpoint: str, name: str, settings: list[str], said: dict[str, str], folder: Path = HERE) -> Path:
    """Score, export and describe a checkpoint. Returns the folder of its weights."""
    with tempfile.TemporaryDirectory() as scored:
        command = ["evaluate.py", f"checkpoint={checkpoint}", "export=safetensors", *settings]
        done = subprocess.run([sys.executable, str(HERE.parent / command[0]), *command[1:], f"output_dir={scored}"],
                              check=False)
        if done.returncode:
            raise ValueError(f"evaluate.py ended with status {done.returncode}; nothing is released")
        new = Path(scored) / "new" / name
        shutil.copytree(Path(scored) / "safetensors", new, copy_function=shutil.copyfile)  # an export is 0600
        (new / "README.md").write_text(card(name, new, command, said))
        refuse_large([*(path for path in files(folder) if path.parent.name != name), *files(new.parent)])
        shutil.rmtree(folder / name, ignore_errors=True)
        shutil.copytree(new, folder / name, copy_function=shutil.copyfile)
    (folder / SUMS).write_text(sums(folder))
    return folder / name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a run's directory (its best.ckpt) or a checkpoint of it")
    parser.add_argument("name", help="of the folder in weights/, such as demo-sudoku4")
    parser.add_argument("settings", nargs="*", help="of evaluate.py, such as halt_max_steps=64")
    parser.add_argument("--trained", required=True, help="puzzles trained on: how many, which, how they were made")
    parser.add_argument("--scored", required=True, help="test set and its size; what chose the checkpoint")
    parser.add_argument("--cost", required=True, help="minutes, and of which machine")
    args = parser.parse_args()
    try:
        folder = release(args.checkpoint, args.name, args.settings,
                         {key: getattr(args, key) for key in ("trained", "scored", "cost")})
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(f"released: {folder}\ncheck: cd {HERE.name} && sha256sum -c {SUMS}")


if __name__ == "__main__":
    main()
