"""A training step without the optimizer, forward and backward of the loss head, of either side."""
import importlib
import random
import time

import torch

from benchmarks.speed.workload import batch, fill

OUT_OF_MEMORY_TRIES = 8  # of the first step, since processes that compile side by side may run theirs at one time


class Subject:
    """Steps one batch over and over. `spec`: side, workload, device, compiled, and those of `build`."""

    def __init__(self, spec: dict):
        self.side = importlib.import_module(f"benchmarks.speed.{spec['side']}")
        sizes, self.device = spec["workload"], torch.device(spec["device"])
        head = self.side.build(sizes, self.device, spec)
        fill(head)
        self.head = self.side.prepared(head, sizes, spec)
        self.rows, self.batch = sizes["rows"], batch(sizes, self.device)
        with self.device:
            self.carry = self.head.initial_carry(self.batch)
        started = time.perf_counter()
        loss = self._first_step()
        self.facts = {"first_step_s": time.perf_counter() - started, "loss": loss / self.rows,
                      "threads": torch.get_num_threads(), "dtype": self.side.dtype_of(head)}
        self._leave_memory()

    def step(self) -> torch.Tensor:
        self.carry, loss, *_ = self.head(carry=self.carry, batch=self.batch, return_keys=())
        (loss / self.rows).backward()
        self.side.forget_gradients(self.head)
        return loss.detach()

    def turn(self, steps: int, profiled: bool = False) -> dict:
        """Seconds of one step, the mean of so many; those of the processor, which tell more on a busy machine; and the
        most memory that the device had to give. Or, if `profiled`, where the time goes, as text."""
        self.step()  # memory that other processes had in between is asked for again
        self._wait()
        if profiled:
            from benchmarks.speed.where import where_time_goes
            return {"told": where_time_goes(self.step, steps, self.device)}
        started, processor = time.perf_counter(), time.process_time()
        for _ in range(steps):
            self.step()
        self._wait()
        figures = {"s": (time.perf_counter() - started) / steps, "cpu_s": (time.process_time() - processor) / steps}
        if self.device.type == "cuda":
            figures["gib"] = torch.cuda.max_memory_allocated() / 2**30
        self._leave_memory()
        return figures

    def _first_step(self) -> float:
        for _ in range(OUT_OF_MEMORY_TRIES):
            try:
                return self.step().item()
            except torch.OutOfMemoryError:
                self._leave_memory()
                time.sleep(random.uniform(1, 5))
        return self.step().item()

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _leave_memory(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
