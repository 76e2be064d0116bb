"""The Triton kernels against the plain path, in Triton's interpreter: results and all gradients, at odd sizes."""
import importlib.util
import json
import os
import subprocess
import sys

import pytest
import torch

from conftest import ROOT
from helpers import pretrain_config, tiny_config
from losses.classification import ACTLossHead
from models.compiled import give_kernels, speed_up
from models.layers import SwiGLU
from models.recursive_reasoning.trm import TRM
from models.recursive_reasoning.urm import URM


@pytest.fixture(scope="module")
def differences() -> dict:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton, which has packages for Linux only, is not installed")
    done = subprocess.run([sys.executable, ROOT / "tests" / "interpreted_kernels.py"], capture_output=True, text=True,
                          env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
                          timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_part_and_its_gradients_are_those_of_the_plain_path(differences):
    assert len(differences["parts"]) == 8
    assert {name: off for name, off in differences["parts"].items() if not off < 3e-6} == {}
    # The plain path rounds gate, up and their product, the kernels the product. Not bfloat16, which the interpreter
    # multiplies as integers.
    assert differences["float16"] < 0.01


def test_a_supervision_step_and_its_gradients_are_those_of_the_plain_path(differences):
    assert {name: off for name, off in differences["trained"].items() if not off < 3e-5} == {}


def test_sums_of_squares_do_not_depend_on_what_their_memory_held(differences):
    assert differences["squares"] < 1e-6


def test_a_block_of_kernels_compiles_as_one_graph(differences):
    assert differences["compiled"] < 3e-6


@pytest.mark.skipif(not (torch.cuda.is_available() and torch.cuda.is_bf16_supported()),
                    reason="needs an NVIDIA GPU with bfloat16")
@pytest.mark.parametrize("positions, dim, normed", [(97, 1, False), (88, 1, True), (97, 2, False), (88, 2, True),
                                                    (916, 2, False)])
def test_on_a_gpu_kernels_are_as_near_to_float64_as_the_plain_path(positions, dim, normed, tmp_path, monkeypatch):
    """In bfloat16, at the width of the paper: the first call, which tunes block sizes, and the next."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))  # so that it tunes, whatever was tuned before
    kernels = pytest.importorskip("models.kernels")
    torch.manual_seed(0)
    part, shape = SwiGLU(512 if dim == 2 else positions, 4, normed).cuda(), (24, positions, 512)
    with torch.no_grad():
        for weight in part.parameters():
            weight.copy_(torch.randn_like(weight) * weight.shape[1]**-0.5)
    x, grad = torch.randn(shape, device="cuda"), torch.randn(shape, device="cuda")

    def found(dtype: torch.dtype, kernel=None) -> list[torch.Tensor]:
        part.to(torch.float64 if dtype == torch.float64 else torch.float32).kernel = kernel
        own = x.to(dtype).requires_grad_()
        y = part.part(own, dim)
        return [value.double() for value in (y, *torch.autograd.grad(y, [own, *part.parameters()], grad.to(dtype)))]

    exact, kernel = found(torch.float64), kernels.swiglu_part if dim == 2 else kernels.mlp_t_part
    plain, *fused = (found(torch.bfloat16, own) for own in (None, kernel, kernel))
    for each in fused:
        for a, b, want in zip(each, plain, exact, strict=True):
            assert (a - want).norm() <= 1.1 * (b - want).norm()


class Kernels:
    """What stands for the module where Triton need not be loaded."""

    MOST_POSITIONS = 8

    @staticmethod
    def swiglu_part(*_):
        raise NotImplementedError

    mlp_t_part = swiglu_part


def test_each_swiglu_takes_the_kernel_that_there_is_for_it():
    blocks = {}
    for positions in (6, 9):
        model = TRM(tiny_config(mlp_t=True, pos_encodings="none", seq_len=positions - 1))
        give_kernels(model, Kernels)
        blocks[positions] = model.inner.L_level.layers[0]
    assert blocks[6].mlp.kernel is blocks[9].mlp.kernel is Kernels.swiglu_part
    assert blocks[6].mlp_t.kernel is Kernels.mlp_t_part and blocks[9].mlp_t.kernel is None  # too long for it
    with pytest.raises(ValueError, match="no effect: there is a kernel for a SwiGLU without a short convolution"):
        give_kernels(URM(tiny_config()), Kernels)


@pytest.mark.parametrize("device, arch, message", [
    ("cpu", {}, "needs an NVIDIA GPU and bfloat16, and this is cpu and float32"),
    ("cuda", {}, "this is cuda and float32"),
    ("cuda", {"dropout": 0.1, "forward_dtype": "bfloat16"}, "no effect with arch.dropout")])
def test_kernels_are_refused_where_they_cannot_run(device, arch, message):
    head = ACTLossHead(TRM(tiny_config(**arch)), loss_type="stablemax_cross_entropy")
    with pytest.raises(ValueError, match=message):
        speed_up(head, pretrain_config("kernels=True"), torch.device(device))
