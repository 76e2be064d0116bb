"""Classes by name, where they are looked for, and what is said where there is none."""
import sys

import pytest

from losses.classification import ACTLossHead
from models.recursive_reasoning.trm import TRM
from utils.resolve import is_of, load_class

HEAD = ("Config", "initial_carry")


def test_published_names_lead_to_classes():
    assert load_class("recursive_reasoning.trm@TinyRecursiveReasoningModel_ACTV1", "models") is TRM
    assert load_class("losses@ACTLossHead", "losses", HEAD) is ACTLossHead
    for name in ("losses.classification@ACTLossHead", "classification@ACTLossHead"):
        assert load_class(name, "losses") is ACTLossHead


@pytest.mark.parametrize("name, package, message", [
    ("recursive_reasoning.trm", "models", "must have the form module@Class"),
    ("recursive_reasoning.trn@TRM", "models", "no module models.recursive_reasoning.trn; there are .*reasoning.trm"),
    ("nowhere.at.all@X", "losses", "no module losses.nowhere.at.all; there are losses, classification, "),
    ("recursive_reasoning.trm@TRN", "models", "models.recursive_reasoning.trm has no TRN; it has .*TRM"),
    ("losses@Loss", "losses", "losses has no Loss; it has ACTLossHead"),
    # a name, and no more than a name
    ("@TRM", "models", "must have the form"), ("..trm@TRM", "models", "must have the form"), ("", "models", "must"),
    ("/tmp/x@TRM", "models", "must have the form"), ("trm@TRM.Config", "models", "must have the form"),
    # of another kind
    ("recursive_reasoning.trm@torch", "models", r"is no class with Config and initial_carry; .*trm has .*TRM"),
    ("layers@Linear", "models", "is no class with Config and initial_carry; of those models.layers has none"),
    ("head@LossHead", "losses", "'head@LossHead' is no class with Config and initial_carry"),
    ("act@ACTModel", "models", "'act@ACTModel' is no class with Config and initial_carry"),
])
def test_what_there_is_instead_is_said(name, package, message):
    with pytest.raises(ValueError, match=message):
        load_class(name, package, HEAD)


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A module on the path that says when it is run."""
    (tmp_path / "my_model.py").write_text("from pathlib import Path\n"
                                          f"Path({str(tmp_path / 'ran')!r}).touch()\nclass Model: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("my_model", None)


@pytest.mark.parametrize("package", ["models", "losses", "evaluators"])
def test_a_module_of_the_users_own_is_run_only_where_it_is_said(own_module, package):
    with pytest.raises(ValueError, match="there is no module .*; if it is in a module of your own.*trust_code=true"):
        load_class("my_model@Model", package)
    assert not (own_module / "ran").exists()
    found = load_class("my_model@Model", package, anywhere=True)
    assert found.__name__ == "Model" and not is_of(found, package) and (own_module / "ran").exists()


def test_a_module_that_lacks_what_it_needs_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "needs_more.py").write_text("import a_library_that_is_not_installed\nclass Model: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="needs_more needs a_library_that_is_not_installed, which is not installed"):
        load_class("needs_more@Model", "models", anywhere=True)
