"""When a model is compiled. What a compiled one computes: test_pretrain.py and test_curriculum.py."""
import pytest
import torch

from models.compiled import should_compile


@pytest.mark.parametrize("asked, device, expected", [
    (None, "cuda", True), (None, "cpu", False), (None, "mps", False), (True, "cpu", True), (False, "cuda", False)])
def test_it_is_compiled_where_asked_and_else_on_cuda_only(monkeypatch, asked, device, expected):
    monkeypatch.delenv("DISABLE_COMPILE", raising=False)
    assert should_compile(asked, torch.device(device)) is expected
    monkeypatch.setenv("DISABLE_COMPILE", "1")
    assert not should_compile(asked, torch.device(device))
