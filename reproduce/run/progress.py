"""What is done, running and missing, and how long the rest will take, judged by the records' own timings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import exp, log
from statistics import fmean, median
from typing import Any

import numpy as np

from reproduce import tasks
from reproduce.declare.runs import Run, declared_id
from reproduce.run import fingerprints
from reproduce.run.files import canonical_json
from reproduce.run.store import Store

#: The model every other one's cost is compared with.
_YARDSTICK = "cnn9"
#: What of an attempt's environment, beside its day, tells sittings apart.
_SITTING = ("commit", "cpu", "cores", "vectors", "device", "threads")
#: Weight of the pull of a sitting's slowness towards 0, beside the records' weight of 1.
_PULL = 0.3


@dataclass(frozen=True)
class State:
    """One planned run and what has become of it: "done", "diverged", "running" or "missing"."""

    run: Run
    identity: str | None
    state: str
    predicted_seconds: float | None


#: What an image costs by in one part of a recipe of several (few-shot learning): parts differ in cost, so that the mean
#: over all images depends on how many each has.
_PART = ("precision", "iterations", "batch_size", "tasks", "way", "shot", "query")


def _network(model: dict[str, Any], recipe: dict[str, Any]) -> str:
    """What an image costs by: the network and, where the recipe names one, the precision."""
    parts = {name: part.get("precision") for name, part in recipe.items() if isinstance(part, dict)}
    return canonical_json([model, recipe.get("precision"), parts])


def _exactly(model: dict[str, Any], recipe: dict[str, Any]) -> str:
    """The same, to the numbers of a recipe of parts."""
    parts = {
        name: {key: part.get(key) for key in _PART} for name, part in recipe.items() if isinstance(part, dict)
    }
    return canonical_json([_network(model, recipe), parts])


def _slowness(seen: Sequence[tuple[tuple[str, str], str, float]]) -> dict[str, float]:
    """The logarithm of how slow each sitting was, of ``(what ran, sitting, seconds)``; 0 is one like the others.

    Where a sitting ran nothing that another one ran, nothing says how slow it was: a slight pull towards 0 decides.
    """
    costs, sittings = sorted({cost for cost, *_ in seen}), sorted({sitting for _, sitting, _ in seen})
    equations, unknowns = len(seen) + len(sittings), len(costs) + len(sittings)
    rows, wanted = np.zeros((equations, unknowns)), np.zeros(equations)
    for i, (cost, sitting, seconds) in enumerate(seen):
        rows[i, costs.index(cost)] = rows[i, len(costs) + sittings.index(sitting)] = 1.0
        wanted[i] = log(seconds)
    rows[len(seen) :, len(costs) :] = _PULL * np.eye(len(sittings))
    found = np.linalg.lstsq(rows, wanted)[0] if seen else wanted
    return dict(zip(sittings, found[len(costs) :].tolist()))


class Costs:
    """Seconds a training image costs (evaluation included), by model and data set.

    Records come from machines, and hours of one machine, that differ several times in speed, so that the mean of a
    model's own times says as much about where it ran as about the model. The logarithm of a time is therefore taken
    as the sum of what model and data cost and of how slow its sitting was (one machine, day and commit), told apart
    by least squares over all records. A run is foretold at the pace of the newest record's sitting, as suits the time
    that is left here, or at a ``typical`` pace, the median over all records: words about it then stay as they are when
    a machine is busy.
    """

    def __init__(self, records: Iterable[dict[str, Any]], *, typical: bool = False) -> None:
        seen: list[tuple[tuple[str, str], tuple[str, int], str, float]] = []
        newest, here = "", ""
        for record in records:
            if record["status"] != "finished":
                continue
            config, result = record["config"], record["result"]
            data = {key: value for key, value in config["dataset"].items() if key != "fingerprint"}
            seconds = result["train_seconds"] + (result.get("evaluate_seconds") or 0.0)
            if not seconds > 0:
                continue
            task, model = tasks.of(record), _network(config["model"], config["recipe"])
            exact = _exactly(config["model"], config["recipe"])
            seconds /= max(1, task.images(config["recipe"]))
            last = record["attempts"][-1] if record.get("attempts") else {}
            started = str(last.get("started", ""))
            sitting = canonical_json([started[:10], *(last.get(name) for name in _SITTING)])
            if started >= newest:
                newest, here = started, sitting
            kind = (task.name + model, task.shape(data).image_size)
            seen.append(((exact, canonical_json(data)), kind, sitting, seconds))
        slowness = _slowness([(cost, sitting, seconds) for cost, _, sitting, seconds in seen])
        paces = [slowness[sitting] for _, _, sitting, _ in seen]
        pace = median(paces) if typical and paces else slowness.get(here, 0.0)
        measured: dict[tuple[str, str], list[float]] = {}
        alike: dict[tuple[str, int], list[float]] = {}
        for cost, kind, sitting, seconds in seen:
            there = seconds * exp(pace - slowness[sitting])
            measured.setdefault(cost, []).append(there)
            alike.setdefault(kind, []).append(there)
        self._cost = {key: fmean(values) for key, values in measured.items()}
        self._alike = {key: fmean(values) for key, values in alike.items()}

    def predict(self, run: Run) -> float | None:
        """Seconds the run will take: as measured on the same data, scaled from other data, or None.

        The scale is that of CNN-9 on both data sets; where it has no record, data of one image size cost alike.
        """
        model, data = _exactly(run.model, run.recipe), canonical_json(run.dataset)
        if (model, data) in self._cost:
            return self._cost[model, data] * run.images
        width = {key: value for key, value in run.model.items() if key == "width"}
        yardstick = _exactly({"name": _YARDSTICK, **width}, run.recipe)
        here = self._cost.get((yardstick, data))
        ratios = [
            cost / self._cost[yardstick, other]
            for (name, other), cost in self._cost.items()
            if name == model and (yardstick, other) in self._cost
        ]
        if here is not None and ratios:
            return here * fmean(ratios) * run.images
        task = tasks.named(run.task)
        each = self._alike.get((task.name + _network(run.model, run.recipe), task.shape(run.dataset).image_size))
        return None if each is None else each * run.images


def survey(runs: list[Run], marks: dict[str, str], store: Store) -> list[State]:
    """The state of every planned run; ``marks`` are data fingerprints by ``fingerprints.dataset_key``."""
    costs = Costs(store.records())
    found = []
    for run in runs:
        mark = marks.get(fingerprints.dataset_key(run.dataset))
        identity = None if mark is None else declared_id(run.declared(mark))
        record = None if identity is None else store.find(identity)
        if record is not None:
            state = "diverged" if record["status"] == "diverged" else "done"
            found.append(State(run, record["id"], state, 0.0))
            continue
        running = identity is not None and store.running(identity)
        found.append(State(run, identity, "running" if running else "missing", costs.predict(run)))
    return found


def duration(seconds: float) -> str:
    """Seconds as text such as ``2 h 05 min``, ``12 min``, ``40 s``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def lines(states: list[State], jobs: int) -> list[str]:
    """The survey as text."""
    text = []
    for state in states:
        left = ""
        if state.state in ("missing", "running"):
            known = state.predicted_seconds is not None
            left = f"  {duration(state.predicted_seconds or 0)}" if known else "  time unknown"
        text.append(f"{state.state:>8}  {state.identity or '-' * 16}  {state.run.name}{left}")
    counts = {name: sum(state.state == name for state in states) for name in ("done", "diverged")}
    counts |= {name: sum(state.state == name for state in states) for name in ("running", "missing")}
    text.append(", ".join(f"{count} {name}" for name, count in counts.items()))
    remaining = [state for state in states if state.state in ("missing", "running")]
    if remaining:
        known_seconds = [s.predicted_seconds for s in remaining if s.predicted_seconds is not None]
        unknown = len(remaining) - len(known_seconds)
        # A few long runs cannot be shared out evenly: never less than the longest one.
        total = duration(max([sum(known_seconds) / jobs, *known_seconds]))
        if not known_seconds:
            text.append("Remaining time unknown: no comparable run is stored yet.")
        else:
            more = f", plus {unknown} runs of unknown length" if unknown else ""
            text.append(f"Remaining: about {total} with {jobs} side by side{more}.")
    return text
