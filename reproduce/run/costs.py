"""What tables cost before they are paid for: images, multiply-adds, hours here and on an H100, disk.

The unit is a *pass*: one image once forward through the run's network. A training step counts three passes an image
(forward, and backward for inputs and for weights). Seconds here are passes times the seconds of a pass, which
:func:`calibrate` measures on the very networks in about ten seconds, on the CPU or, where there is one, on the CUDA
card; seconds on an H100 are multiply-adds over a stated share of a stated peak, an assumption and no measurement.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import TYPE_CHECKING

from reproduce import tasks
from reproduce.declare import plan
from reproduce.declare.runs import Run
from reproduce.run.executors import cards, unheard
from reproduce.run.files import canonical_json
from reproduce.run.progress import duration
from reproduce.tasks.task import STEP_PASSES

if TYPE_CHECKING:
    import torch

#: Seconds that the calibration may take, processes' start aside.
CALIBRATION_SECONDS = 10.0
#: Steps between two looks at the clock on a card, so that its launches run ahead as they do in a training.
CARD_STEPS = 32
#: Dense tensor-core peak of an H100 SXM in floating-point operations a second (NVIDIA's data sheet): convolutions in
#: float32 run as TF32 in PyTorch's defaults.
H100_PEAK = {"float32": 494.7e12, "bfloat16": 989.4e12}
#: The share of it that small convolutions and elementwise work are assumed to reach.
H100_UTILISATION = 0.10
#: Bytes of a run's record, from those that are stored.
RECORD_BYTES = 150_000
#: Before the calibration has said anything: multiply-adds a second, to choose its batches.
_GUESS = 20e9


@dataclass(frozen=True)
class Work:
    """One run's work: training ``images``, ``passes``, multiply-adds of a pass and parameters of its network."""

    images: int
    passes: int
    pass_cost: int
    parameters: int

    @property
    def multiply_adds(self) -> int:
        """Of the whole run."""
        return self.passes * self.pass_cost


def work(run: Run) -> Work:
    """What a run does, by itself: with all that it could share with others."""
    import nsl

    task = tasks.named(run.task)
    sizes = task.shape(run.dataset)
    built = task.network(run, sizes)
    cost = nsl.count_multiply_adds(built, sizes.image_size)
    return Work(run.images, task.passes(run, sizes), cost, nsl.count_parameters(built))


def network_key(run: Run) -> str:
    """Runs with equal keys cost the same a pass."""
    task = tasks.named(run.task)
    sizes, (_, precision) = task.shape(run.dataset), task.training(run)
    return canonical_json([run.task, run.model, sizes.image_size, sizes.classes, precision])


def _seconds(device: torch.device, threads: int) -> float:
    """A clock of work done: the CPU's own time, or on a card the time at which all that was launched is done."""
    import torch

    if device.type == "cpu":
        return time.process_time() / threads
    torch.cuda.current_stream(device).synchronize()
    return time.perf_counter()


def pass_seconds(run: Run, threads: int, seconds: float, card: bool = False) -> float:
    """Seconds of one pass: training steps for about ``seconds``, over images and passes of a step.

    On the CPU the batch is the run's own, or smaller where one step of it would take longer, and what is measured is
    the processor's time, the median over steps: a machine that does other things at the moment is not taken for a slow
    one. On a card the step is the run's own, captured as a graph, and the median is over blocks of ``CARD_STEPS``.
    """
    import torch
    import torch.nn.functional as F

    import nsl
    from nsl.training.execution import own_stream
    from nsl.training.graph import WARM_UP, Captured

    torch.set_num_threads(threads)
    place, task = torch.device("cuda" if card and torch.cuda.is_available() else "cpu"), tasks.named(run.task)
    sizes, (usual, precision) = task.shape(run.dataset), task.training(run)
    model = task.network(run, sizes).to(place, memory_format=torch.channels_last).train()
    step_cost = STEP_PASSES * nsl.count_multiply_adds(model, sizes.image_size) / _GUESS
    batch = usual if card else max(2, min(usual, int(seconds / step_cost)))
    images = torch.randn(batch, 3, sizes.image_size, sizes.image_size, device=place)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(sizes.classes, (batch,), device=place)
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)

    def step() -> None:
        with torch.autocast(place.type, torch.bfloat16, enabled=precision == "bfloat16"):
            logits = model(images)
        optimiser.zero_grad(set_to_none=True)
        F.cross_entropy(logits.float(), labels).backward()
        optimiser.step()

    timings: list[float] = []
    with own_stream(place):
        call, block = Captured(step, place), CARD_STEPS if card else 1
        for _ in range(WARM_UP + 1 if card else 0):  # the last of them captures
            call()
        started = time.perf_counter()
        while len(timings) < 2 or time.perf_counter() - started < seconds:
            mark = _seconds(place, threads)
            for _ in range(block):
                call()
            timings.append((_seconds(place, threads) - mark) / block)
            if timings[0] > seconds:
                break
    # The first step also allocates; it counts only where it is the only one.
    return median(timings[1:] or timings) / batch / STEP_PASSES


def _measure(arguments: tuple[list[Run], int, float, bool]) -> tuple[float, str, list[float]]:
    """When the process was ready, the name of the card it measures on, and seconds of a pass of every run."""
    runs, threads, seconds, card = arguments
    import torch

    import nsl  # noqa: F401
    from reproduce.run.memory import keep_freed_memory
    from reproduce.run.worker import choose_arithmetic

    keep_freed_memory()
    name = ""
    if card:
        choose_arithmetic()
        name = torch.cuda.get_device_name()
    ready = time.time()
    return ready, name, [pass_seconds(run, threads, seconds, card and tasks.named(run.task).on_gpu) for run in runs]


@dataclass(frozen=True)
class Calibration:
    """Seconds of a pass by :func:`network_key`, seconds until a process is ready, and the card, if it was one."""

    passes: dict[str, float]
    start: float
    card: str = ""


def calibrate(runs: Iterable[Run], jobs: int, threads: int, seconds: float = CALIBRATION_SECONDS) -> Calibration:
    """Measure in as many processes at once as runs will execute, at most ``jobs``; with a CUDA card on that, in one."""
    runs = list(runs)
    distinct = list({network_key(run): run for run in runs}.values())
    share, found_cards = seconds / max(1, len(distinct)), cards()
    context, processes = multiprocessing.get_context("spawn"), 1 if found_cards else min(jobs, len(runs))
    begun = time.time()
    with unheard():
        started = context.Pool(processes)
    with started as pool:
        found = pool.map(_measure, [(distinct, threads, share, found_cards > 0)] * processes, chunksize=1)
    columns = zip(*(column for *_, column in found))
    measured = {network_key(run): fmean(column) for run, column in zip(distinct, columns)}
    return Calibration(measured, max(ready for ready, *_ in found) - begun, found[0][1])


@dataclass(frozen=True)
class Cost:
    """A table's cost: number of runs, training images, multiply-adds, seconds here and on one H100."""

    table: plan.Key
    runs: int
    images: int
    multiply_adds: int
    here: float
    h100: float


@dataclass(frozen=True)
class Estimate:
    """Costs by table, seconds of starting, bytes of data, of checkpoints at a time and of records, and the card."""

    costs: tuple[Cost, ...]
    start: float
    data: int
    checkpoints: int
    records: int
    card: str = ""


def _h100_seconds(run: Run, done: Work) -> float:
    _, precision = tasks.named(run.task).training(run)
    return 2 * done.multiply_adds / (H100_PEAK[precision] * H100_UTILISATION)


def estimate(
    profile: plan.Profile,
    tables: tuple[plan.Key, ...],
    seeds: int | None,
    jobs: int,
    slots: tuple[str, ...] | None = None,
    methods: tuple[str, ...] | None = None,
) -> Estimate:
    """The cost of the tables, as ``plan.planned_runs`` chooses; what several share is paid for by the first: a run
    that is in two tables, or the training of a backbone that methods start from."""
    by_table: list[tuple[plan.Key, list[Run]]] = []
    seen: set[str] = set()
    for table in tables:
        needed = plan.planned_runs(profile, (table,), seeds, slots, methods)
        own = [run for run in needed if run.key not in seen]
        seen |= {run.key for run in own}
        by_table.append((table, own))
    every = [run for _, own in by_table for run in own]
    speed = calibrate(every, jobs, profile.threads)
    # Several runs on one card share it: counted as one after the other.
    side_by_side = min(jobs, max(1, cards())) if speed.card else jobs
    works = {network_key(run) + canonical_json([run.recipe, run.dataset]): run for run in every}
    counted = {key: work(run) for key, run in works.items()}

    def of(run: Run) -> Work:
        return counted[network_key(run) + canonical_json([run.recipe, run.dataset])]

    costs, paid = [], set[str]()
    for table, own in by_table:
        done = []
        for run in own:
            task, mine = tasks.named(run.task), of(run)
            again = task.shared_images(run) if task.shares(run) in paid else 0
            done.append(replace(mine, images=mine.images - again, passes=mine.passes - STEP_PASSES * again))
            paid.add(task.shares(run))
        # A few long runs cannot be shared out evenly: never less than the longest one.
        seconds = [work.passes * speed.passes[network_key(run)] for run, work in zip(own, done)]
        here = max([sum(seconds) / side_by_side, *seconds]) if seconds else 0.0
        h100 = sum(_h100_seconds(run, work) for run, work in zip(own, done))
        images, total = sum(work.images for work in done), sum(work.multiply_adds for work in done)
        costs.append(Cost(table, len(own), images, total, here, h100))
    data = {canonical_json(run.dataset): tasks.named(run.task).shape(run.dataset).bytes for run in every}
    # Weights and momentum of the runs that are executing.
    checkpoints = sum(sorted((8 * of(run).parameters for run in every), reverse=True)[:jobs])
    # The command itself and its workers import the libraries and load the data, one after the other.
    records = RECORD_BYTES * len(every)
    return Estimate(tuple(costs), 2 * speed.start, sum(data.values()), checkpoints, records, speed.card)


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError


def lines(found: Estimate, profile: plan.Profile, jobs: int) -> list[str]:
    """The estimate as text."""
    text = [f"{'table':>5} {'runs':>5} {'images':>15} {'multiply-adds':>14} {'here':>12} {'one H100':>12}"]
    fields = ("runs", "images", "multiply_adds", "here", "h100")
    total = Cost(0, *(sum(getattr(cost, name) for cost in found.costs) for name in fields))
    total = replace(total, here=total.here + found.start)
    for cost in (*found.costs, total):
        name = "all" if cost is total else str(cost.table)
        text.append(
            f"{name:>5} {cost.runs:>5} {cost.images:>15,} {cost.multiply_adds:>14.2e} "
            f"{duration(cost.here):>12} {duration(cost.h100):>12}"
        )
    how = f"{jobs} side by side with {profile.threads} threads each"
    if found.card:
        how = f"on {found.card}, captured steps, as if one run followed the other on a card"
    text.append(
        f"Here: {how}, from a calibration of about "
        f"{CALIBRATION_SECONDS:.0f} s on these networks; training, evaluation and, in all, {found.start:.0f} s of "
        "starting; not the notebooks."
    )
    text.append(
        f"H100: {100 * H100_UTILISATION:.0f} % of its dense peak ({H100_PEAK['float32'] / 1e12:.0f} TFLOP/s in TF32, "
        f"{H100_PEAK['bfloat16'] / 1e12:.0f} in bfloat16), an assumption; one run at a time."
    )
    text.append(
        f"Disk: data {_size(found.data)}, checkpoints {_size(found.checkpoints)}, records {_size(found.records)}."
    )
    return text
