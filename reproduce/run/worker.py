"""Executing one run: load the data, build the model, train, observe, store the record.

Everything that trains is behind :class:`Backend`, so that the store and the scheduling can be tested with
a fake; the real one imports ``nsl`` (and torch) only when it is first used.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any, Protocol

from reproduce import tasks
from reproduce.declare.runs import Run, declared_id, run_id
from reproduce.run import fingerprints
from reproduce.run.attempts import Attempts, Begun, begun_elsewhere, machine
from reproduce.run.memory import keep_freed_memory
from reproduce.run.store import SCHEMA, Store
from reproduce.tasks.task import Outcome

DEFAULT_BACKEND = "reproduce.run.worker:NslBackend"


class Backend(Protocol):
    """What executes runs."""

    def fingerprint(self, run: Run, data: str | None) -> str:
        """The fingerprint of a run's data set, which is loaded for it."""
        ...

    def train(self, run: Run, data: str | None, checkpoint: Path, progress: bool) -> Outcome:
        """Train, resuming from ``checkpoint`` when it exists."""
        ...

    def execution(self, run: Run) -> dict[str, str]:
        """How the run is executed here: what determines its numbers beside what is declared."""
        ...

    def environment(self) -> dict[str, Any]:
        """Versions and hardware for the record's attempts."""
        ...


class NslBackend:
    """Trains with ``nsl``; data sets stay loaded between runs."""

    #: How much work a killed run can lose.
    checkpoint_minutes = 5.0

    def __init__(self) -> None:
        self._datasets: dict[str, Any] = {}
        keep_freed_memory()

    def _load(self, run: Run, data: str | None) -> Any:
        key = repr((run.task, sorted(run.dataset.items()), data))
        if key not in self._datasets:
            self._datasets[key] = tasks.named(run.task).load(run.dataset, data)
        return self._datasets[key]

    def fingerprint(self, run: Run, data: str | None) -> str:
        return str(self._load(run, data).fingerprint)

    def train(self, run: Run, data: str | None, checkpoint: Path, progress: bool) -> Outcome:
        import torch

        torch.set_num_threads(run.threads)
        dataset = self._load(run, data)
        return tasks.named(run.task).train(run, dataset, checkpoint, self.checkpoint_minutes, progress)

    def execution(self, run: Run) -> dict[str, str]:
        import torch

        from nsl.kernels import paths

        choose_arithmetic()
        device = "cuda" if torch.cuda.is_available() and tasks.named(run.task).on_gpu else "cpu"
        return {"device": device, **paths.describe(device)}

    def environment(self) -> dict[str, Any]:
        import torch

        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        capability = torch.backends.cpu.get_cpu_capability()
        threads = torch.get_num_threads()
        return {"torch": torch.__version__, "device": device, "vectors": capability, "threads": threads}


def choose_arithmetic() -> None:
    """On CUDA one kind of float32 product for all networks, and numbers that repeat; before anything is computed there.

    ``NSL_PRODUCTS`` is "tf32", the default, or "ieee"; what was chosen is part of a run's identity.
    """
    import torch

    if not torch.cuda.is_available():
        return
    from nsl.kernels.precision import set_float32_products
    from nsl.training.execution import deterministic

    set_float32_products(os.environ.get("NSL_PRODUCTS", "tf32"))  # type: ignore[arg-type]
    deterministic()


def load_backend(path: str) -> Backend:
    """The backend named ``module:Class``."""
    module, _, name = path.partition(":")
    backend: Backend = getattr(importlib.import_module(module), name)()
    return backend


def _tell(run: Run, execution: dict[str, str], other: Begun) -> None:
    """Say that a checkpoint is there and cannot be used."""
    from nsl.kernels.paths import differing

    print(
        f"{run.name} starts anew with {differing(execution, other.execution)}, since its checkpoint {other.checkpoint} "
        f"was made with {differing(other.execution, execution)}.",
        file=sys.stderr,
        flush=True,
    )


def execute(
    run: Run, fingerprint: str, store: Store, backend: Backend, data: str | None, progress: bool
) -> dict[str, Any] | None:
    """Execute a run and store its record; None when another process is executing it.

    A run whose record exists is not executed again. The data are checked against ``fingerprint`` first.
    """
    execution = backend.execution(run)
    config = run.config(fingerprint, execution)
    identity, declared = run_id(config), declared_id(config)
    with store.claim(declared, identity) as mine:
        if not mine:
            return None
        existing = store.find(declared)
        if existing is not None:
            return existing
        seen = backend.fingerprint(run, data)
        if seen != fingerprint:
            cache = fingerprints.forget(fingerprint)
            raise ValueError(
                f"The data of {run.dataset['name']} have the fingerprint {seen}, planned was {fingerprint}: they "
                f"changed, or {cache} was wrong; {fingerprints.DROPPED}, start again to compute it anew."
            )
        others = list(begun_elsewhere(store.checkpoints, declared, identity))
        for other in others:
            _tell(run, execution, other)
        attempts = Attempts(store.attempts(identity), store.checkpoint(identity))
        attempts.begin({**machine(), **backend.environment(), "declared": declared, "execution": execution})
        outcome = backend.train(run, data, store.checkpoint(identity), progress)
        if backend.execution(run) != execution:
            raise ValueError(
                f"{run.name} began on {execution} and ended on {backend.execution(run)}, so that its numbers belong to "
                "neither; nothing was stored, start it again."
            )
        record = {
            "schema": SCHEMA,
            "id": identity,
            "config": config,
            "status": "diverged" if outcome.result.get("diverged") else "finished",
            "result": outcome.result,
            "parameters": outcome.parameters,
            "multiply_adds": outcome.multiply_adds,
            "observations": outcome.observations,
            "attempts": attempts.end(),
        }
        if outcome.keep is not None:  # before the record, so that no record lacks the network it was made with
            facts = {key: record[key] for key in ("id", "config", "status", "parameters")}
            outcome.keep(store.weights(identity), facts)
        store.write(record)
        for other in others:
            store.drop(other.identity)
        return store.read(identity)
