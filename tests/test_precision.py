"""Which dtype `auto` means, by what PyTorch says of the CPU, and what the start of a run tells of it."""
import pytest
import torch

from utils.precision import auto_dtype, told_dtype

CPU = torch.device("cpu")


@pytest.mark.parametrize("tiles, pairs, chosen, told", [
    (True, True, "bfloat16", "bfloat16 (this CPU has AMX, by which it multiplies bfloat16 in tiles; "
                             "arch.forward_dtype=float32 computes as others do)"),
    (False, True, "float32", "float32 (arch.forward_dtype=bfloat16 is faster on this CPU)"),
    (False, False, "float32", "float32")])
def test_a_cpu_computes_in_bfloat16_where_it_multiplies_it_in_tiles(monkeypatch, tiles, pairs, chosen, told):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: pairs)
    assert auto_dtype(CPU) == chosen and told_dtype(CPU, getattr(torch, chosen)) == told
    if not pairs:
        assert told_dtype(CPU, torch.bfloat16) == "bfloat16 (slow on this CPU, which has no AMX)"


def test_other_devices_have_one_dtype_each_whatever_the_cpu_has():
    cuda = torch.device("cuda")
    assert (auto_dtype(cuda), auto_dtype(torch.device("mps"))) == ("bfloat16", "float32")
    assert told_dtype(cuda, torch.bfloat16) == "bfloat16"


def test_a_version_of_pytorch_that_cannot_tell_gets_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    assert auto_dtype(CPU) == "float32"
