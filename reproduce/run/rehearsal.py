"""A rehearsal: every run at full size, for two steps, so that a protocol that nobody here can afford is no dead code.

Each network is built as the profile declares it and goes through the code of the real run in a process of its own:
two training steps with a checkpoint between them, one evaluation, and a second start that resumes from the checkpoint
and must reach the same numbers. A set that is not on this machine is replaced by noise of its shape. Nothing is stored.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from reproduce import tasks
from reproduce.declare.runs import Run
from reproduce.declare.shapes import CATALOGUE
from reproduce.run.executors import environment, unheard
from reproduce.run.files import canonical_json
from reproduce.run.store import EPHEMERAL_RESULTS
from reproduce.run.worker import NslBackend

STEPS = 2
#: Batches that the input side alone is timed over.
INPUT_STEPS = 4


class RehearsalBackend(NslBackend):
    """The real backend with a checkpoint after every step, and noise in place of absent data."""

    checkpoint_minutes = 0.0

    def __init__(self, run: Run, data: str | None) -> None:
        super().__init__()
        self.run = run
        #: Why there is noise, empty where the set itself is there.
        self.absent = ""
        task = tasks.named(run.task)
        try:
            self.found = task.load(_few(run.dataset), data, download=False)
        except ValueError as error:  # nsl.data.DataError: absent, or damaged
            self.found, self.absent = task.noise(run, STEPS), " ".join(str(error).split())

    def _load(self, run: Run, data: str | None) -> Any:
        return self.found


def _few(dataset: dict[str, Any]) -> dict[str, Any]:
    """A few images of sets that are packed first: that the folder can be read is seen; packing is for the training."""
    entry = CATALOGUE.get(dataset["name"])
    return dataset | ({"train_per_class": 2, "test_per_class": 1} if entry and entry.stored_size else {})


@dataclass(frozen=True)
class Rehearsed:
    """How a rehearsal went: seconds from start to end, of a step, and the process's peak memory in bytes.

    ``input_rate`` is images a second of the input side alone (gathering and augmenting, without a network), 0 where
    training is on episodes. ``absent`` says why there was noise in place of the set, empty where there was none.
    """

    name: str
    problem: str = ""
    seconds: float = 0.0
    step_seconds: float = 0.0
    peak: int = 0
    parameters: int = 0
    input_rate: float = 0.0
    absent: str = ""


def _numbers(result: dict[str, Any]) -> str:
    kept = {key: value for key, value in result.items() if key not in EPHEMERAL_RESULTS}
    # A backbone that was trained before is loaded, with its curve and its seconds.
    return json.dumps(kept, sort_keys=True)


def rehearse_run(run: Run, data: str | None, folder: Path) -> Rehearsed:
    """Train for two steps, start again from the checkpoint, compare."""
    short = tasks.named(run.task).shortened(run, STEPS)
    backend = RehearsalBackend(short, data)
    checkpoint = folder / "rehearsal.pt"
    started = time.perf_counter()
    first = backend.train(short, data, checkpoint, False)
    once = time.perf_counter() - started
    if not any(folder.iterdir()):
        return Rehearsed(run.name, "it wrote no checkpoint.")
    second = backend.train(short, data, checkpoint, False)
    if _numbers(first.result) != _numbers(second.result):
        return Rehearsed(run.name, "it resumed from its checkpoint to other numbers.")
    seconds = float(first.result.get("train_seconds") or once)
    import resource

    # Kibibytes, on macOS bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    total = time.perf_counter() - started
    rate = _input_rate(run, backend.found)
    return Rehearsed(run.name, "", total, seconds / STEPS, peak, first.parameters, rate, backend.absent)


def _input_rate(run: Run, dataset: Any) -> float:
    """Images a second that the input side of a run's training achieves alone, on the device it would train on."""
    from nsl.data import Dataset
    from nsl.training import Recipe
    from nsl.training.batches import images_per_second
    from nsl.training.execution import choose_device

    if not isinstance(dataset, Dataset):
        return 0.0
    # A task may keep more in its recipe than the training's own settings.
    own = {field.name: run.recipe[field.name] for field in fields(Recipe) if field.name in run.recipe}
    return images_per_second(dataset, Recipe(**own), choose_device(), INPUT_STEPS)


def _serve(pipe: Connection, run: Run, data: str | None, folder: Path) -> None:
    try:
        pipe.send(rehearse_run(run, data, folder))
    except Exception as error:
        pipe.send(Rehearsed(run.name, f"{type(error).__name__}: {' '.join(str(error).split())}"))


def rehearse_alone(run: Run, data: str | None) -> Rehearsed:
    """:func:`rehearse_run` in a process of its own, on the CPU, so that its peak memory is its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    from nsl.outputs import scratch

    with scratch("reproduce-rehearsal-") as folder:
        process = context.Process(target=_serve, args=(theirs, run, data, folder), daemon=True)
        with environment({"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(run.threads)}), unheard():
            process.start()
        theirs.close()
        try:
            found: Rehearsed = ours.recv()
        except EOFError:
            process.join()
            why = "killed, most likely for memory" if process.exitcode == -9 else f"code {process.exitcode}"
            found = Rehearsed(run.name, f"its process ended ({why}).")
        process.join()
        ours.close()
    return found


def rehearse(
    runs: list[Run], data: str | None, say: Callable[[str], None] = lambda line: print(line, flush=True)
) -> list[str]:
    """Rehearse every configuration once (seeds differ in nothing but the seed); returns the problems."""
    distinct: dict[str, Run] = {}
    for run in runs:
        distinct.setdefault(canonical_json([run.task, run.dataset, run.model, run.recipe]), run)
    problems, peaks, started = [], [], time.perf_counter()
    said: set[str] = set()
    for number, run in enumerate(distinct.values(), start=1):
        found = rehearse_alone(run, data)
        start = f"[{number}/{len(distinct)}] {found.name}: "
        if found.problem:
            problems.append(f"{found.name}: {found.problem}")
            say(start + f"failed, {found.problem}")
            continue
        peaks.append(found.peak)
        data_used = "noise" if found.absent else "its own data"
        if found.absent and found.absent not in said:  # the same set is missing in many configurations
            said.add(found.absent)
            data_used += f" ({found.absent})"
        alone = f"input alone {found.input_rate:,.0f} images/s, " if found.input_rate else ""
        say(
            f"{start}{found.parameters:,} parameters, {found.step_seconds:.2f} s a step, {found.seconds:.0f} s in all, "
            f"{alone}peak {found.peak / 2**30:.1f} GiB, {data_used}"
        )
    minutes = (time.perf_counter() - started) / 60
    if peaks:
        say(
            f"{len(peaks)} of {len(distinct)} configurations rehearsed in {minutes:.0f} min, "
            f"peak memory {max(peaks) / 2**30:.1f} GiB; nothing was stored."
        )
    return problems
