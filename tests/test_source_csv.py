"""Reading and checking source files, and where they come from."""
import re
import sys
import types

import numpy as np
import pytest

from dataset import source_csv
from dataset.source_csv import builder_parser, read_rows, source_files, subsample, warn_of_overlap, write_csv

HEADER = "source,question,answer,rating\n"
ROWS = "one,#S G, oS#,3\nsecond name,ab d,efgh,-1.5\n3,    ,....,1e3\n"


def text_of(characters: np.ndarray) -> list[str]:
    return [row.tobytes().decode() for row in characters]


@pytest.mark.parametrize("content", [
    HEADER + ROWS,
    (HEADER + ROWS).rstrip("\n"),
    (HEADER + ROWS).replace("\n", "\r\n"),
    "\ufeff" + HEADER + ROWS,
    '"source","question","answer","rating"\n' + ROWS.replace("one", '"one, ""two"""').replace("ab d", '"ab d"'),
], ids=["plain", "no last newline", "crlf", "byte order mark", "quoted"])
@pytest.mark.parametrize("block_bytes", [1, 20, 1 << 24])
def test_rows_are_read_whatever_the_file_is_like(tmp_path, monkeypatch, content, block_bytes):
    monkeypatch.setattr(source_csv, "BLOCK_BYTES", block_bytes)
    path = tmp_path / "train.csv"
    path.write_bytes(content.encode())
    rows = read_rows(path)
    assert text_of(rows.question) == ["#S G", "ab d", "    "]
    assert text_of(rows.answer) == [" oS#", "efgh", "...."]
    assert rows.rating.tolist() == [3, -1.5, 1000]
    assert rows.lines.tolist() == [2, 3, 4]


@pytest.mark.parametrize("bad_row, problem", [
    ("x,abcd,efgh", "not 4 fields"),
    ("x,abcd,efgh,1,2", "not 4 fields"),
    ("x,ab,d,efgh", "question and answer differ in length"),
    ("", "not 4 fields"),
    ("x,abcd,efg,1", "question and answer differ in length"),
    ("x,abc,efg,1", "not 4 characters"),
    ("x,abcd,efgh,hard", "the rating is not a number"),
    ("x,abcd,efgh,", "the rating is not a number"),
    ("x,abcd,efgh,nan", "the rating is not a number"),
])
@pytest.mark.parametrize("block_bytes", [1, 1 << 24])
def test_a_bad_row_is_named_by_file_and_line(tmp_path, monkeypatch, bad_row, problem, block_bytes):
    monkeypatch.setattr(source_csv, "BLOCK_BYTES", block_bytes)
    path = tmp_path / "train.csv"
    path.write_text(HEADER + ROWS + bad_row + "\n" + ROWS)
    with pytest.raises(ValueError, match=re.escape(f"{path}, line 5: ") + f".*{problem}"):
        read_rows(path)


@pytest.mark.parametrize("content, problem", [
    ("", "line 1: the columns are ''"),
    ("source,q,a,rating\n" + ROWS, "line 1: the columns are 'source,q,a,rating', expected 'source,question,answer"),
    ("source,answer,question,rating\n" + ROWS, "rename and reorder"),
    (HEADER, "holds no puzzles"),
    (HEADER + "x,,,1\n", "line 2: the question is empty"),
])
def test_a_bad_file_is_refused(tmp_path, content, problem):
    path = tmp_path / "test.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}.*{problem}"):
        read_rows(path)


def test_rows_keep_their_lines_through_selection(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text(HEADER + ROWS)
    rows = read_rows(path).select(np.array([2, 1]))
    with pytest.raises(ValueError, match="line 3: wrong; correct or remove the row"):
        rows.require(np.array([True, False]), "wrong")


def test_subsample_is_a_function_of_the_seed_in_file_order(tmp_path):
    write_csv(tmp_path / "train.csv", "s", [(f"{n:03d}", "abc", n) for n in range(200)])
    rows = read_rows(tmp_path / "train.csv")
    ratings = {seed: subsample(rows, 50, seed).rating.tolist() for seed in (0, 1)}
    assert subsample(rows, 50, 0).rating.tolist() == ratings[0] == sorted(set(ratings[0])) != ratings[1]
    assert len(ratings[0]) == 50
    assert len(subsample(rows, None, 0).lines) == len(subsample(rows, 200, 0).lines) == 200
    with pytest.raises(ValueError, match="--subsample-size 201 of 200 usable rows.*choose 1 to 200"):
        subsample(rows, 201, 0)


def test_overlap_is_counted_by_distinct_test_rows(capsys):
    train = np.array([[1, 2], [3, 4], [1, 2]], np.uint8)
    warn_of_overlap(train, np.array([[2, 1], [2, 3]], np.uint8), "grids")
    assert capsys.readouterr().err == ""
    warn_of_overlap(train, np.array([[1, 2], [1, 2], [5, 6]], np.uint8), "grids")
    assert "warning: 1 of 2 distinct test grids also occur in train" in capsys.readouterr().err


def test_both_files_of_a_folder_are_needed(tmp_path):
    (tmp_path / "train.csv").touch()
    with pytest.raises(ValueError, match=r"test\.csv does not exist; --source-dir must hold train\.csv and test\.csv"):
        source_files(str(tmp_path), "unused/repo")
    assert source_files(str(tmp_path), "unused/repo", ["train"]) == {"train": tmp_path / "train.csv"}
    (tmp_path / "test.csv").touch()
    assert source_files(str(tmp_path), "unused/repo") == {s: tmp_path / f"{s}.csv" for s in ("train", "test")}


def test_the_hub_is_asked_for_data_set_files_and_its_failure_names_the_way_out(monkeypatch):
    asked = []
    hub = types.ModuleType("huggingface_hub")
    hub.hf_hub_download = lambda repo, name, repo_type: asked.append((repo, name, repo_type)) or f"/cache/{name}"
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert source_files(None, "some/set")["test"].as_posix() == "/cache/test.csv"
    assert asked == [("some/set", "train.csv", "dataset"), ("some/set", "test.csv", "dataset")]

    def offline(*args, **kwargs):
        raise ConnectionError("no route")
    hub.hf_hub_download = offline
    with pytest.raises(ValueError, match=r"train.csv of the hub data set some/set .*ConnectionError.*--source-dir"):
        source_files(None, "some/set")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # not installed
    with pytest.raises(ValueError, match="--source-dir"):
        source_files(None, "some/set")


@pytest.mark.parametrize("arguments, problem", [
    (["--subsample-size", "0"], "argument --subsample-size: 0 is not a whole number of 1 or more; see --help"),
    (["--seed", "-1"], "argument --seed: -1 is not a whole number of 0 or more"),
    *((["--test-fraction", wrong], f"argument --test-fraction: {wrong} is not between 0 and 1; write 0.1 for a tenth")
      for wrong in ("0", "1", "10%", "nan")),
    (["--sample", "5"], "unrecognized arguments: --sample 5"),
])
def test_a_wrong_command_line_is_a_value_error(arguments, problem):
    with pytest.raises(ValueError, match=problem):
        builder_parser("what it does", "data/x", "some/set").parse_args(arguments)
