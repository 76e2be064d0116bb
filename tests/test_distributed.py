"""Two real processes talk as ranks of one run; one process alone is its own world."""
import json
import sys

import pytest
import torch

from helpers import ROOT, run_process
from utils.distributed import (
    World,
    all_gather_rows,
    all_reduce_sum_,
    broadcast_object,
    gather_uneven_rows,
    joined_world,
    pick_device,
)

SCRIPT = """
import json, sys, torch
from utils.distributed import all_gather_rows, all_reduce_sum_, broadcast_object, gather_uneven_rows, joined_world
from utils.metrics import MetricSums
with joined_world("cpu") as world:
    r = world.rank
    tensors = [torch.full((2, 2), 1.0 + r), torch.tensor(10.0 * r), torch.arange(3.0)[::2] + r]
    all_reduce_sum_(tensors)
    all_reduce_sum_([])
    meter = MetricSums(world.device)
    meter.add({"loss": torch.tensor(1.0 + r), "rows": torch.tensor(4)})
    uneven_meter = MetricSums(world.device)
    if r:  # what one rank alone holds
        uneven_meter.add({"loss": torch.tensor(2.0)})
    uneven = [gather_uneven_rows(torch.full((n, 2), r, dtype=torch.uint8)) for n in (3 * r, 0, 2 - r)]
    found = {"rank": r, "size": world.size, "is_main": world.is_main, "sums": [t.tolist() for t in tensors],
             "uneven": None if r else [rows.tolist() for rows in uneven],
             "rows": all_gather_rows(torch.tensor([[r, 7], [r, 8]])).tolist(),
             "name": broadcast_object(f"name{r}"), "metrics": meter.read(),
             "of_one": uneven_meter.read()}
    open(f"rank{r}.json", "w").write(json.dumps(found))
assert not torch.distributed.is_initialized()
"""


def test_ranks_sum_gather_and_agree(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = run_process([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
                        "script.py"], tmp_path, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    for rank in (0, 1):
        assert json.loads((tmp_path / f"rank{rank}.json").read_text()) == {
            "rank": rank, "size": 2, "is_main": rank == 0, "sums": [[[3, 3], [3, 3]], 10, [1, 5]],
            "uneven": None if rank else [[[1, 1]] * 3, [], [[0, 0], [0, 0], [1, 1]]],
            "rows": [[0, 7], [0, 8], [1, 7], [1, 8]], "name": "name0", "metrics": {"loss": 3, "rows": 8},
            "of_one": {"loss": 2}}


def test_alone_every_exchange_is_the_identity():
    with joined_world("cpu") as world:
        assert world == World(0, 1, torch.device("cpu")) and world.is_main
        tensor = torch.arange(3.0)
        all_reduce_sum_([tensor])
        assert tensor.tolist() == [0, 1, 2]
        assert torch.equal(all_gather_rows(tensor), tensor) and broadcast_object("x") == "x"
        assert torch.equal(gather_uneven_rows(tensor), tensor)


def test_a_device_that_is_not_there_is_an_error_of_the_user():
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="device=abacus, but this PyTorch sees no abacus device; use device=auto"):
        pick_device("abacus")
    if torch.cuda.is_available():
        assert pick_device("auto", local_rank=0) == torch.device("cuda", 0)
    else:
        with pytest.raises(ValueError, match="device=cuda, but this PyTorch sees no cuda device; use device=auto"):
            pick_device("cuda")
        assert pick_device("auto").type in ("cpu", "mps")
