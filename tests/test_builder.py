"""How commands end, and what a build tells of itself."""
import json

import pytest

from dataset.builder import Parser, building, run
from dataset.common import dataset_fingerprint, file_sha256


def test_a_command_ends_with_one_line_and_code_2(capsys):
    def fail():
        raise ValueError("first\n  second")
    assert run(fail) == 2
    assert capsys.readouterr().err == "error: first second\n"
    assert run(lambda: None) == 0


def test_a_build_tells_its_sources_arguments_and_counts(tmp_path, capsys):
    source = tmp_path / "source.csv"
    source.write_text("one\n")
    parser = Parser("what it does")
    parser.add_argument("--output-dir")
    args = parser.parse_args(["--output-dir", str(tmp_path / "built"), "--seed", "3"])
    with building("some_builder", args, [source], 0) as (folder, counts):
        (folder / "identifiers.json").write_text("[]")
        counts["train"] = {"groups": 1, "puzzles": 2}
        assert not (tmp_path / "built").exists()
    assert json.loads((tmp_path / "built" / "source.json").read_text()) == {
        "builder": "some_builder", "arguments": {"seed": 3, "overwrite": False, "output_dir": str(tmp_path / "built")},
        "rows": {"train": {"groups": 1, "puzzles": 2}}, "source": {"source.csv": file_sha256(source)}}
    fingerprint = dataset_fingerprint(tmp_path / "built")
    assert capsys.readouterr().out == f"train: 1 groups, 2 puzzles\n{tmp_path / 'built'}: fingerprint {fingerprint}\n"


def test_a_build_that_fails_tells_and_leaves_nothing(tmp_path, capsys):
    parser = Parser("what it does")
    parser.add_argument("--output-dir")
    options = parser.parse_args(["--output-dir", str(tmp_path / "built")])
    with pytest.raises(OSError, match="disk full"), building("some_builder", options, [], 0):
        raise OSError("disk full")
    assert not list(tmp_path.iterdir()) and capsys.readouterr().out == ""
