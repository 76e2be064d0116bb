"""Imports go one way, and what start-up need not load is not loaded."""
import ast
import subprocess
import sys
from pathlib import Path

from conftest import ROOT

# Each layer may import from those before it; files of one layer may import each other where there is no cycle.
LAYERS = [["dataset/common.py", "utils/"], ["dataset/"], ["models/"], ["losses/"], ["evaluators/"], ["config/"],
          ["evaluate.py", "pretrain.py"]]
SOURCES = sorted(p.relative_to(ROOT).as_posix() for folder in ("dataset", "models", "losses", "evaluators", "config",
                                                                 "utils") for p in (ROOT / folder).rglob("*.py"))
SOURCES += ["pretrain.py", "evaluate.py"]


def layer(path: str) -> int:
    return next(i for i, prefixes in enumerate(LAYERS) if any(path.startswith(prefix) for prefix in prefixes))


def imported_files(path: str) -> set[str]:
    """The project's files that a file imports, wherever in it the import stands."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    stems = {name.replace(".", "/") for name in names}
    return {file for file in SOURCES if file.removesuffix(".py").removesuffix("/__init__") in stems}


def test_every_file_imports_from_lower_layers_only():
    upward = [f"{path} imports {target}" for path in SOURCES for target in imported_files(path)
              if layer(target) > layer(path)]
    assert not upward


def test_no_two_files_import_each_other():
    reaches = {path: imported_files(path) - {path} for path in SOURCES}
    for _ in SOURCES:
        reaches = {path: files.union(*(reaches[f] for f in files)) for path, files in reaches.items()}
    assert not [path for path, files in reaches.items() if path in files]


def test_the_scripts_and_the_common_ground_stand_apart():
    assert "pretrain.py" not in imported_files("evaluate.py") and "evaluate.py" not in imported_files("pretrain.py")
    assert not imported_files("dataset/common.py")
    assert not [path for path in SOURCES if path.startswith("utils/") and any(
        not file.startswith("utils/") and file != "dataset/common.py" for file in imported_files(path))]


def test_help_loads_neither_wandb_nor_pandas_nor_matplotlib():
    # None in sys.modules makes the import of that name fail, and with it the script.
    code = ("import sys, runpy; sys.modules.update(dict.fromkeys(['wandb', 'pandas', 'matplotlib']));"
            "sys.argv = ['pretrain.py', '--help']; runpy.run_path('pretrain.py', run_name='__main__')")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120,
                          check=False)
    assert done.returncode == 0, done.stderr
    assert "global_batch_size=768" in done.stdout


def test_every_source_file_stands_in_the_tree_and_has_a_test():
    tree = (ROOT / "docs" / "tree.md").read_text().split("```")[1]
    for path in SOURCES:
        file = Path(path)
        if file.name == "__init__.py":
            continue
        assert file.name in tree, f"docs/tree.md has no line for {path}"
        tested_as = {"loop": "evaluators", "protocol": "evaluators", "sudoku": "evaluators", "maze": "evaluators",
                     "rules": "evaluators", "strategies": "rows", "pictures": "evaluate", "report": "evaluate",
                     "identifiers": "evaluate", "showing": "viewer",
                     "solving": "solver", "solutions": "solver", "puzzle_kind": "solver", "board_html": "solver",
                     "html": "solver",
                     "classification": "losses",
                     "head": "losses", "example_set": "puzzle_dataset", "puzzle_set": "puzzle_dataset",
                     "run_data": "pretrain", "run_parts": "run_directory",
                     "arc_votes": "evaluator_arc", "curve_plots": "curve", "arc_gallery": "evaluator_arc"}.get(
                         file.stem, file.stem)
        if path.startswith("models/recursive_reasoning/") and file.stem != "trm":
            tested_as = "family"
        if path.startswith("dataset/kinds/"):
            tested_as = "kinds"
        if path == "evaluators/arc.py":  # test_arc.py is that of dataset/arc.py
            tested_as = "evaluator_arc"
        assert (ROOT / "tests" / f"test_{tested_as}.py").is_file(), f"{path} has no test file"
