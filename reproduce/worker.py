"""Executing one run: load the data, build the model, train, observe, store the record.

Everything that trains is behind :class:`Backend`, so that the store and the scheduling can be tested with
a fake; the real one imports ``nsl`` (and torch) only when it is first used.
"""

from __future__ import annotations

import importlib
import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from reproduce.memory import keep_freed_memory
from reproduce.runs import FEWSHOT, Run, run_id
from reproduce.store import SCHEMA, Store

DEFAULT_BACKEND = "reproduce.worker:NslBackend"


@dataclass(frozen=True)
class Outcome:
    """What a backend hands back: ``result`` as ``TrainResult.as_dict()`` has it, and what the record adds.

    ``multiply_adds`` are those of one image through the network.
    """

    result: dict[str, Any]
    parameters: int
    observations: dict[str, Any]
    multiply_adds: int | None = None


class Backend(Protocol):
    """What executes runs."""

    def fingerprint(self, dataset: dict[str, Any], data: str | None) -> str:
        """The fingerprint of a data set, which is loaded for it."""
        ...

    def train(self, run: Run, data: str | None, checkpoint: Path, progress: bool) -> Outcome:
        """Train, resuming from ``checkpoint`` when it exists."""
        ...

    def environment(self) -> dict[str, Any]:
        """Versions that belong in the record."""
        ...


class NslBackend:
    """Trains with ``nsl``; data sets stay loaded between runs."""

    #: How much work a killed run can lose.
    checkpoint_minutes = 5.0

    def __init__(self) -> None:
        self._datasets: dict[str, Any] = {}
        keep_freed_memory()

    def _load(self, dataset: dict[str, Any], data: str | None) -> Any:
        import nsl.data

        key = repr((sorted(dataset.items()), data))
        if key not in self._datasets:
            options = {name: value for name, value in dataset.items() if name != "name"}
            load = nsl.data.load_fewshot if dataset["name"] in nsl.data.FEWSHOT_NAMES else nsl.data.load
            self._datasets[key] = load(dataset["name"], Path(data) if data else None, **options)
        return self._datasets[key]

    def fingerprint(self, dataset: dict[str, Any], data: str | None) -> str:
        return str(self._load(dataset, data).fingerprint)

    def train(self, run: Run, data: str | None, checkpoint: Path, progress: bool) -> Outcome:
        import torch

        import nsl
        from nsl.training import Recipe, observe, train

        torch.set_num_threads(run.threads)
        dataset = self._load(run.dataset, data)
        if run.task == FEWSHOT:
            from reproduce.fewshot import run_fewshot

            return run_fewshot(run, dataset, checkpoint, self.checkpoint_minutes, progress)
        options = {name: value for name, value in run.model.items() if name != "name"}
        torch.manual_seed(run.seed)
        model = nsl.create_model(run.model["name"], dataset.num_classes, image_size=dataset.image_size, **options)
        recipe = Recipe(**run.recipe)
        result = train(
            model,
            dataset,
            recipe,
            seed=run.seed,
            checkpoint=checkpoint,
            checkpoint_minutes=self.checkpoint_minutes,
            progress=progress,
            description=run.name,
        )
        observations = {} if result.diverged else observe(model, dataset)
        multiply_adds = nsl.count_multiply_adds(model, dataset.image_size)
        return Outcome(result.as_dict(), nsl.count_parameters(model), observations, multiply_adds)

    def environment(self) -> dict[str, Any]:
        import torch

        from nsl.kernels import paths

        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        return {
            "torch": torch.__version__,
            "device": device,
            "threads": torch.get_num_threads(),
            **paths.describe("cuda" if torch.cuda.is_available() else "cpu"),
        }


def load_backend(path: str) -> Backend:
    """The backend named ``module:Class``."""
    module, _, name = path.partition(":")
    backend: Backend = getattr(importlib.import_module(module), name)()
    return backend


@cache
def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


@cache
def _code() -> dict[str, Any]:
    """Commit of the checkout this package lies in, whether tracked files differ from it, and the version."""
    from importlib.metadata import PackageNotFoundError, version

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(Path(__file__).parent), *arguments],
                capture_output=True,
                text=True,
                check=True,
            )
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    try:
        package = version("neural-similarity-learning")
    except PackageNotFoundError:
        package = "not installed"
    changes = git("status", "--porcelain", "--untracked-files=no", "--", ":/nsl", ":/reproduce")
    return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changes), "version": package}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def execute(
    run: Run, fingerprint: str, store: Store, backend: Backend, data: str | None, progress: bool
) -> dict[str, Any] | None:
    """Execute a run and store its record; None when another process is executing it.

    A run whose record exists is not executed again. The data are checked against ``fingerprint`` first.
    """
    config = run.config(fingerprint)
    identity = run_id(config)
    with store.claim(identity) as mine:
        if not mine:
            return None
        existing = store.read(identity)
        if existing is not None:
            return existing
        seen = backend.fingerprint(run.dataset, data)
        if seen != fingerprint:
            raise ValueError(
                f"The data of {run.dataset['name']} changed while the runs were executing "
                f"(fingerprint {seen}, planned {fingerprint}); start again."
            )
        code = _code()
        store.checkpoints.mkdir(parents=True, exist_ok=True)
        started = _now()
        outcome = backend.train(run, data, store.checkpoint(identity), progress)
        record = {
            "schema": SCHEMA,
            "id": identity,
            "config": config,
            "status": "diverged" if outcome.result.get("diverged") else "finished",
            "result": outcome.result,
            "parameters": outcome.parameters,
            "multiply_adds": outcome.multiply_adds,
            "observations": outcome.observations,
            "code": code,
            "environment": {
                "python": platform.python_version(),
                "platform": platform.platform(),
                "cpu": _cpu(),
                "cores": os.cpu_count(),
                **backend.environment(),
            },
            "started": started,
            "finished": _now(),
        }
        store.write(record)
        return store.read(identity)
