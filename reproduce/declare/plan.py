"""What is to be run: the declared tables and profiles under one name, and the runs they need."""

from __future__ import annotations

from itertools import product

from reproduce import tasks
from reproduce.declare.experiments import (
    EXPERIMENTS,
    Claim,
    Experiment,
    Key,
    Method,
    beyond,
    every,
    experiment,
    parse_tables,
    parts_of,
    tables,
)
from reproduce.declare.profiles import Profile, Slot, names, parse_slots, profile
from reproduce.declare.runs import Run

__all__ = [
    "EXPERIMENTS",
    "Claim",
    "Experiment",
    "Key",
    "Method",
    "Profile",
    "Slot",
    "beyond",
    "every",
    "experiment",
    "names",
    "parse_methods",
    "parse_slots",
    "parse_tables",
    "planned_runs",
    "profile",
    "tables",
]


def parse_methods(text: str | None, keys: tuple[Key, ...]) -> tuple[str, ...] | None:
    """Keys of rows of the tables from text such as ``cnn`` or ``cnn,dynamic``; None or empty means all."""
    wanted = tuple(parts_of(text)) if text and text.strip() else ()
    known = dict.fromkeys(method.key for key in keys for method in experiment(key).methods)
    for name in wanted:
        if name not in known:
            raise ValueError(f"--methods names {name!r}, which no chosen table has; choose from {', '.join(known)}.")
    return wanted or None


def planned_runs(
    chosen: Profile,
    keys: tuple[Key, ...],
    seeds: int | None = None,
    slots: tuple[str, ...] | None = None,
    methods: tuple[str, ...] | None = None,
) -> list[Run]:
    """Every run the tables need (on the data sets in ``slots`` and of ``methods`` only, where given), each once.

    Seeds are outermost, so that all tables fill up seed by seed, or, in a profile with ``whole_tables``, tables, the
    one with the fewest training pixels first: finished tables come early. ``seeds`` None means every slot's own number.
    """
    if chosen.whole_tables and len(keys) > 1:
        parts = [planned_runs(chosen, (key,), seeds, slots, methods) for key in keys]
        # A run that tables share has the name that the first of them gives it, whichever comes first here.
        named = {run.key: run for part in reversed(parts) for run in part}
        order = dict.fromkeys(run.key for part in sorted(parts, key=_pixels) for run in part)
        return [named[run] for run in order]
    found: dict[str, Run] = {}
    numbers = {name: slot.seeds if seeds is None else seeds for name, slot in chosen.slots.items()}
    every = range(max(numbers.values(), default=0))
    for seed, key in product(every, keys):
        declared = experiment(key).within(chosen.name)
        for slot in declared.datasets:
            if slot not in chosen.slots or (slots is not None and slot not in slots) or seed >= numbers[slot]:
                continue
            for method in declared.methods:
                if (methods is None or method.key in methods) and seed < (method.seeds or seed + 1):
                    run = chosen.run(method, slot, seed)
                    found.setdefault(run.key, run)
    return list(found.values())


def _pixels(runs: list[Run]) -> int:
    """Pixels of all training images: what tables are ordered by, without building their networks."""
    return sum(run.images * tasks.named(run.task).shape(run.dataset).image_size ** 2 for run in runs)
