"""Running ``python -m reproduce`` with the fake backend and small profiles."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from nsl.kernels.compiled import library
from reproduce.declare import plan
from reproduce.declare.plan import Profile
from reproduce.declare.runs import Run, run_id
from reproduce.run import fingerprints
from reproduce.run.store import SCHEMA, Store
from reproduce.tasks.accuracy import ACCURACY
from reproduce.tasks.classification import TEST_ERROR, TOP5_ERROR

ROOT = Path(__file__).parents[2]
#: Methods of Table 1, the table that tests run.
TABLE_1 = len(plan.experiment(1).methods)
TABLE_1_TWICE = sum(min(2, method.seeds or 2) for method in plan.experiment(1).methods)
#: The metrics of the paper's tables.
METRICS = {metric.name: metric for metric in (TEST_ERROR, TOP5_ERROR, ACCURACY)}
FAKE = "tests.reproduce.fake_backend:FakeBackend"

_TINY = """
[tiny]
description = "for tests"
seeds = {seeds}
threads = 1
jobs = {jobs}
width = 4
same_data = {comparable}
same_width = {comparable}
[tiny.slot.cifar10.data]
name = "digits"
image_size = 16
train_per_class = 8
test_per_class = 4
[tiny.slot.cifar100]
like = "cifar10"
[tiny.slot.cifar100.data]
name = "digits"
image_size = 16
train_per_class = 6
test_per_class = 4
[tiny.slot.cifar10.recipe]
iterations = {iterations}
batch_size = 8
learning_rate = 0.001
momentum = 0.9
weight_decay = 5e-4
schedule = "steps"
milestones = [0.5]
decay_factor = 0.1
warmup = 0.1
label_smoothing = 0.0
precision = "float32"
augment = "crop"
evaluations = 2
"""


def write_profile(
    folder: Path, *, seeds: int = 2, jobs: int = 1, iterations: int = 6, comparable: bool = False
) -> Path:
    """A file that declares the profile ``tiny``."""
    path = folder / "profiles.toml"
    text = _TINY.format(seeds=seeds, jobs=jobs, iterations=iterations, comparable=str(comparable).lower())
    path.write_text(text, encoding="utf-8")
    return path


def arguments(command: str, folder: Path, *more: str, backend: str = FAKE) -> list[str]:
    """Arguments of ``python -m reproduce`` for the profile ``tiny`` in ``folder``."""
    profiles = folder / "profiles.toml"
    fixed = ["--profile", "tiny", "--profiles", str(profiles)]
    if command not in ("plan", "rehearse"):
        fixed += ["--results", str(folder / "results")]
    return [command, *fixed, "--backend", backend, *more]


def _heed_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def private_cache(folder: Path) -> str:
    """A cache of its own in ``folder``, with the kernels that this process has: compiling them takes 12 s a cache.

    That an empty cache is filled is tested in ``tests/nsl/test_kernels.py``.
    """
    cache = folder / "cache"
    if kernels := library():
        copy = cache / "nsl" / Path(kernels._name).name
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(kernels._name, copy)
    return str(cache)


def start(command: list[str], folder: Path, **environment: str) -> subprocess.Popen[str]:
    """Start ``python -m reproduce`` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "reproduce", *command],
        cwd=ROOT,
        env={**os.environ, "XDG_CACHE_HOME": private_cache(folder), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts what it sends to the background with Ctrl-C ignored, and children inherit that.
        preexec_fn=_heed_ctrl_c,
    )


def call(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m reproduce`` to its end."""
    process = start(command, folder, **environment)
    out, err = process.communicate(timeout=3600)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def run_on(dataset: dict[str, Any]) -> Run:
    """Some run on a data set."""
    return Run(label="some", dataset=dataset, model={"name": "cnn9"}, recipe={}, seed=0, threads=1)


MARK = "0123456789abcdef"
EXECUTION = {"device": "none", "kernels": "plain", "matmul": "highest"}


def put_record(
    store: Store,
    run: Run,
    error: float,
    *,
    status: str = "finished",
    parameters: int = 1000,
    mark: str = MARK,
    observations: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Store a record of ``run`` with the given test error, as if it had been trained on data ``mark``."""
    config = run.config(mark, EXECUTION)
    record = {
        "schema": SCHEMA,
        "id": run_id(config),
        "config": config,
        "status": status,
        "result": {
            "test_error": error,
            "curve": [{"images": run.images, "test_error": error}],
            "train_seconds": 10.0,
            "evaluate_seconds": 2.0,
            "diverged": status == "diverged",
        },
        "parameters": parameters,
        "observations": observations or {},
        "attempts": [{"started": "2026-01-01T00:00:00+00:00", "seconds": 12.0}],
    }
    store.write(record)
    return record


def fill(store: Store, profile: Profile, number: int, errors: dict[str, list[float]], **parameters: int) -> None:
    """Store records of a table: ``errors[method key]`` by seed, on every data set of the table."""
    experiment = plan.experiment(number)
    marks = {fingerprints.dataset_key(profile.slots[slot].data): MARK for slot in experiment.datasets}
    store.folder.mkdir(parents=True, exist_ok=True)
    known = fingerprints.recorded(store.folder)
    (store.folder / "data.json").write_text(json.dumps(known | marks), "utf-8")
    for slot in experiment.datasets:
        for key, values in errors.items():
            for seed, error in enumerate(values):
                run = profile.run(experiment.method(key), slot, seed)
                put_record(store, run, error, parameters=parameters.get(key, 1000))


def drawn(picture: Callable[[], Any]) -> Figure:
    """The figure behind a picture that a report shows."""
    found: list[Figure] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reproduce.show.figures.png", lambda figure: found.append(figure) or b"")
        picture()
    return found[0]


class TwoClasses(nn.Module):
    """A linear classifier of images [3, S, S]: logits w.x and -w.x.

    Args:
        weight: w [3 S S].
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        score = x.flatten(1) @ self.weight
        return torch.stack([score, -score], 1)
