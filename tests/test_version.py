"""One version number, wherever it stands."""
import re
import tomllib

from config.run_data import load_data
from helpers import ROOT, TINY_ARCH, first_state, pretrain_config, write_tiny_dataset
from pretrain import run_facts
from utils.distributed import World
from utils.version import VERSION


def test_the_package_the_changelog_and_the_citation_say_the_same_version():
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in package["project"]["dynamic"] and "version" not in package["project"]
    assert package["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "utils.version.VERSION"}
    assert re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1] == VERSION
    assert re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1] == VERSION


def test_a_checkpoint_says_which_version_wrote_it(tmp_path):
    data = write_tiny_dataset(tmp_path / "data")
    config = pretrain_config(f"data_paths=[{data}]", *TINY_ARCH, "global_batch_size=16", "evaluators=[]")
    stream, _ = load_data(config, World())
    assert run_facts(first_state(config, stream), World())["versions"]["tiny_recursive_models"] == VERSION
