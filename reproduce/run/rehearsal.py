"""A rehearsal: every run at full size, for two steps, so that a protocol that nobody here can afford is no dead code.

Each network is built as the profile declares it and goes through the code of the real run in a process of its own:
two training steps with a checkpoint between them, one evaluation, and a second start that resumes from the checkpoint
and must reach the same numbers. A set that is not on this machine is replaced by noise of its shape. Nothing is stored.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from reproduce.declare.runs import FEWSHOT, Run
from reproduce.declare.shapes import shape
from reproduce.run.files import canonical_json
from reproduce.run.store import EPHEMERAL_RESULTS
from reproduce.run.worker import NslBackend

STEPS = 2
#: Images of the evaluation, and of every class where episodes are drawn.
TEST_IMAGES, CLASS_IMAGES = 128, 30


def shortened(run: Run) -> Run:
    """The run with two steps in place of its budget; batches, networks and episodes keep their sizes."""
    if run.task != FEWSHOT:
        return replace(run, recipe={**run.recipe, "iterations": STEPS, "evaluations": 1})
    recipe: dict[str, Any] = {name: dict(part) for name, part in run.recipe.items()}
    for name in ("pretrain", "meta"):
        if name in recipe:
            recipe[name]["iterations"] = STEPS
    if "pretrain" in recipe:
        recipe["pretrain"]["evaluations"] = 1
    recipe["episodes"] |= {"count": 2, "shot_count": 1, "step_counts": [0, 1], "step_episodes": 1}
    return replace(run, recipe=recipe)


def noise(run: Run) -> Any:
    """Random images with the sizes and classes of the run's data set: two batches and a small test set."""
    import torch

    from nsl.data import make_dataset, split_classes

    sizes = shape(run.dataset)
    random = torch.Generator().manual_seed(0)
    stored = sizes.stored_size or sizes.image_size

    def images(count: int) -> Any:
        return torch.randint(0, 256, (count, 3, stored, stored), dtype=torch.uint8, generator=random)

    name = f"{run.dataset['name']} (noise)"
    if run.task == FEWSHOT:
        stored = sizes.image_size
        counts = {"base": sizes.classes, "validation": 1, "novel": 20}
        names = [f"{part} {i}" for part, count in counts.items() for i in range(count)]
        split = {part: [n for n in names if n.startswith(f"{part} ")] for part in counts}
        labels = torch.arange(len(names)).repeat_interleave(CLASS_IMAGES)
        return split_classes(name, images(len(labels)), labels, names, split)
    count = STEPS * int(run.recipe["batch_size"])
    classes = [f"class {i}" for i in range(sizes.classes)]
    parts = (images(count), torch.arange(count) % sizes.classes)
    made = make_dataset(name, *parts, images(TEST_IMAGES), torch.arange(TEST_IMAGES) % sizes.classes, classes)
    return replace(made, crop_size=sizes.image_size) if stored != sizes.image_size else made


class RehearsalBackend(NslBackend):
    """The real backend with a checkpoint after every step, and noise in place of absent data."""

    checkpoint_minutes = 0.0

    def __init__(self, run: Run, data: str | None) -> None:
        super().__init__()
        self.run = run
        self.real = True
        try:
            self.found = self._real(run.dataset, data)
        except ValueError:  # nsl.data.DataError: absent
            self.found, self.real = noise(run), False

    @staticmethod
    def _real(dataset: dict[str, Any], data: str | None) -> Any:
        import nsl.data

        name = dataset["name"]
        options = {key: value for key, value in dataset.items() if key != "name"}
        if "imagenet" in name and name in nsl.data.NAMES:
            # Enough to see that the folder can be read; packing all of it is for the training.
            options |= {"train_per_class": 2, "test_per_class": 1}
        load = nsl.data.load_fewshot if name in nsl.data.FEWSHOT_NAMES else nsl.data.load
        return load(name, Path(data) if data else None, download=False, **options)

    def _load(self, dataset: dict[str, Any], data: str | None) -> Any:
        return self.found


@dataclass(frozen=True)
class Rehearsed:
    """How a rehearsal went: seconds from start to end, of a step, and the process's peak memory in bytes."""

    name: str
    problem: str = ""
    seconds: float = 0.0
    step_seconds: float = 0.0
    peak: int = 0
    parameters: int = 0
    real: bool = False


def _numbers(result: dict[str, Any]) -> str:
    kept = {key: value for key, value in result.items() if key not in EPHEMERAL_RESULTS}
    # A backbone that was trained before is loaded, with its curve and its seconds.
    return json.dumps(kept, sort_keys=True)


def rehearse_run(run: Run, data: str | None, folder: Path) -> Rehearsed:
    """Train for two steps, start again from the checkpoint, compare."""
    short = shortened(run)
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

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    total = time.perf_counter() - started
    return Rehearsed(run.name, "", total, seconds / STEPS, peak, first.parameters, backend.real)


def _serve(pipe: Connection, run: Run, data: str | None, folder: Path) -> None:
    try:
        pipe.send(rehearse_run(run, data, folder))
    except Exception as error:
        pipe.send(Rehearsed(run.name, f"{type(error).__name__}: {' '.join(str(error).split())}"))


def rehearse_alone(run: Run, data: str | None) -> Rehearsed:
    """:func:`rehearse_run` in a process of its own, on the CPU, so that its peak memory is its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    before = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")}
    os.environ.update(CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS=str(run.threads))
    with tempfile.TemporaryDirectory() as folder:
        process = context.Process(target=_serve, args=(theirs, run, data, Path(folder)), daemon=True)
        try:
            process.start()
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
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
    for number, run in enumerate(distinct.values(), start=1):
        found = rehearse_alone(run, data)
        start = f"[{number}/{len(distinct)}] {found.name}: "
        if found.problem:
            problems.append(f"{found.name}: {found.problem}")
            say(start + f"failed, {found.problem}")
            continue
        peaks.append(found.peak)
        say(
            f"{start}{found.parameters:,} parameters, {found.step_seconds:.2f} s a step, {found.seconds:.0f} s in all, "
            f"peak {found.peak / 2**30:.1f} GiB, {'its own data' if found.real else 'noise'}"
        )
    minutes = (time.perf_counter() - started) / 60
    if peaks:
        say(
            f"{len(peaks)} of {len(distinct)} configurations rehearsed in {minutes:.0f} min, "
            f"peak memory {max(peaks) / 2**30:.1f} GiB; nothing was stored."
        )
    return problems
