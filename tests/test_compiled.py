"""When a model is compiled, and what as one graph. Whole runs, compiled: test_pretrain.py and test_curriculum.py."""
import pytest
import torch
from torch import nn

from helpers import pretrain_config, tiny_batch, tiny_config
from losses.classification import ACTLossHead
from models.compiled import compile_recursion, should_compile, speed_up
from models.recursive_reasoning.trm import TRM
from test_family import batch_of
from test_family import head_of as family_head


@pytest.mark.parametrize("asked, device, expected", [
    (None, "cuda", True), (None, "cpu", False), (None, "mps", False), (True, "cpu", True), (False, "cuda", False)])
def test_it_is_compiled_where_asked_and_else_on_cuda_only(monkeypatch, asked, device, expected):
    monkeypatch.delenv("DISABLE_COMPILE", raising=False)
    assert should_compile(asked, torch.device(device)) is expected
    monkeypatch.setenv("DISABLE_COMPILE", "1")
    assert not should_compile(asked, torch.device(device))


def head_of(**changes) -> ACTLossHead:
    torch.manual_seed(0)
    return ACTLossHead(TRM(tiny_config(L_cycles=1, **changes)), loss_type="stablemax_cross_entropy").train()


def steps_of(head: ACTLossHead, count: int) -> list[torch.Tensor]:
    """Loss, gradients and q after each of some training steps, of which the puzzle table is not updated."""
    batch, found = tiny_batch(), []
    carry = head.initial_carry(batch)
    for _ in range(count):
        head.zero_grad()
        carry, loss, *_ = head(carry=carry, batch=batch, return_keys=())
        loss.backward()
        rows = head.puzzle_embedding.gradient
        found += [loss.detach(), rows, *(p.grad.clone() for p in head.parameters() if p.grad is not None)]
        head.puzzle_embedding.looked_up = []
    return found


# What is compiled is PyTorch's own work, which takes a minute; here the graphs are run as they are.
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.long)])
@pytest.mark.parametrize("scope, most_graphs", [("recursion", 1), ("stack", 2), ("head", 8)])
def test_each_scope_computes_the_same_and_makes_all_its_graphs_in_the_first_step(scope, most_graphs, backend,
                                                                                 monkeypatch):
    compile_module = nn.Module.compile
    if backend != "inductor":
        monkeypatch.setattr(nn.Module, "compile",
                            lambda self, dynamic, options: compile_module(self, dynamic=dynamic, backend=backend))
    plain, head = steps_of(head_of(), 3), head_of()
    compile_recursion(head, scope=scope)
    torch._dynamo.utils.counters.clear()
    first = steps_of(head, 1)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert 0 < graphs <= most_graphs
    for got, want in zip(steps_of(head, 3), plain, strict=True):
        assert torch.allclose(got, want, rtol=1e-4, atol=1e-5)
    assert all(torch.allclose(got, want, rtol=1e-4, atol=1e-5) for got, want in zip(first, plain))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    torch.compiler.reset()


@pytest.mark.parametrize("settings, message", [
    (["compile=False", "compile_scope=stack"], "compile_scope=stack has no effect with compile=False"),
    (["compile=True", "cuda_graphs=True", "compile_scope=head"], "cuda_graphs=True with compile_scope=head"),
    (["compile=False", "cuda_graphs=True"], "cuda_graphs=True has no effect with compile=False"),
    (["compile_scope=head"], "compile_scope=head has no effect on cpu, where compile=null does not compile"),
    (["compile=True", "cuda_graphs=True"], "cuda_graphs=True needs device=cuda, and this is cpu")])
def test_a_way_of_computing_without_effect_is_refused(settings, message, monkeypatch):
    monkeypatch.delenv("DISABLE_COMPILE", raising=False)
    with pytest.raises(ValueError, match=message):
        speed_up(head_of(), pretrain_config(*settings), torch.device("cpu"))


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.long)])
@pytest.mark.parametrize("scope, most_graphs", [
    ("stack", 2),
    *(pytest.param(*rest, marks=pytest.mark.long) for rest in (("recursion", 2), ("head", 16)))])
def test_all_layers_and_loops_of_ldt_share_a_graph(scope, most_graphs, backend, monkeypatch):
    """With gradient one, and one for the pass that decides, which has neither gradient nor dropout."""
    compile_module = nn.Module.compile
    if backend != "inductor":
        monkeypatch.setattr(nn.Module, "compile",
                            lambda self, dynamic, options: compile_module(self, dynamic=dynamic, backend=backend))
    batch, found = batch_of(), []
    for compiled in (False, True):
        head = family_head("ldt", dropout=0.1, L_layers=3)
        if compiled:
            compile_recursion(head, scope=scope)
            torch._dynamo.utils.counters.clear()
        loss = head(carry=head.initial_carry(batch), batch=batch, return_keys=())[1]
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in head.parameters())])
    assert 0 < torch._dynamo.utils.counters["stats"]["unique_graphs"] <= most_graphs
    assert all(torch.allclose(got, want, rtol=1e-4, atol=1e-5) for got, want in zip(*found, strict=True))
    torch.compiler.reset()
