"""What is to be run: the declared tables and profiles under one name, and the runs they need."""

from __future__ import annotations

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
    wanted = tuple((text or "").replace(",", " ").split())
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

    Seeds are outermost, so that all tables fill up seed by seed, or, in a profile with ``whole_tables``, tables.
    ``seeds`` None means every slot's own number.
    """
    found: dict[str, Run] = {}
    numbers = {name: slot.seeds if seeds is None else seeds for name, slot in chosen.slots.items()}
    every = range(max(numbers.values(), default=0))
    order = [(key, seed) for key in keys for seed in every]
    for key, seed in order if chosen.whole_tables else sorted(order, key=lambda item: item[1]):
        declared = experiment(key)
        for slot in declared.datasets:
            if slot not in chosen.slots or (slots is not None and slot not in slots) or seed >= numbers[slot]:
                continue
            most = declared.seeds.get(chosen.name, seed + 1)
            for method in declared.methods if seed < most else ():
                if (methods is None or method.key in methods) and seed < (method.seeds or seed + 1):
                    run = chosen.run(method, slot, seed)
                    found.setdefault(repr(run.declared("")), run)
    return list(found.values())
