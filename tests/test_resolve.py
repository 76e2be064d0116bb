"""Classes by name, and what is said where there is none."""
import pytest

from losses.classification import ACTLossHead
from models.recursive_reasoning.trm import TRM
from utils.resolve import load_class


def test_published_names_lead_to_classes():
    assert load_class("recursive_reasoning.trm@TinyRecursiveReasoningModel_ACTV1", "models") is TRM
    assert load_class("losses@ACTLossHead") is ACTLossHead


@pytest.mark.parametrize("name, package, message", [
    ("recursive_reasoning.trm", "models", "must have the form module@Class"),
    ("recursive_reasoning.trn@TRM", "models", "no module models.recursive_reasoning.trn; there are .*reasoning.trm"),
    ("nowhere.at.all@X", "", "no module nowhere.at.all"),
    ("recursive_reasoning.trm@TRN", "models", "models.recursive_reasoning.trm has no TRN; it has .*TRM"),
    ("losses@Loss", "", "losses has no Loss; it has ACTLossHead"),
])
def test_what_there_is_instead_is_said(name, package, message):
    with pytest.raises(ValueError, match=message):
        load_class(name, package)


def test_a_module_that_lacks_what_it_needs_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "needs_more.py").write_text("import a_library_that_is_not_installed\nclass Model: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_library_that_is_not_installed"):
        load_class("needs_more@Model")


def test_a_module_of_the_users_own_is_found_on_the_path(tmp_path, monkeypatch):
    (tmp_path / "my_model.py").write_text("class Model: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert load_class("my_model@Model").__name__ == "Model"
