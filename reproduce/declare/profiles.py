"""What ``PROFILE=`` chooses: data, width, budget and recipe in every slot, from ``experiments/profiles.toml``.

A *slot* is the place of one of the paper's data sets: tables name slots, a profile says what stands in them. It holds
everything that a run needs beside its row, for every table alike. A table's own file may add slots to the profiles.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from reproduce import tasks
from reproduce.declare import overrides
from reproduce.declare.experiments import EXPERIMENTS, Key, Method, every, experiment, parts_of, read
from reproduce.declare.runs import Run
from reproduce.declare.shapes import CATALOGUE, title
from reproduce.verdicts.statistics import Scope


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``over``; tables within are merged likewise."""
    both = {
        key: merged(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
        for key, value in over.items()
    }
    return {**base, **both}


@dataclass(frozen=True)
class Slot:
    """What a profile runs in the place of one data set.

    Attributes:
        name: of the slot: the paper's data set, unless it is another slot at another budget.
        data: name and options of the data set that stands in it.
        recipe: of the training; what it holds is the task's.
        width: of the networks; ``widths``, by backbone, go before it.
        seeds, threads, jobs: as in :class:`Profile`.
        same_data, same_width: whether data and networks are the paper's.
        method: for single rows of a table, by their keys, what differs: ``width``, ``recipe``, ``options``,
            ``handicap``.
        of, times: of a slot that is the slot ``of`` with ``times`` as many iterations, all else equal: rates, warm-up
            and milestones are fractions of the training, so that the schedule scales with it.
    """

    name: str
    data: dict[str, Any]
    recipe: dict[str, Any]
    width: int
    seeds: int
    threads: int
    jobs: int
    same_data: bool
    same_width: bool
    widths: dict[str, int] = field(default_factory=dict)
    method: dict[str, dict[str, Any]] = field(default_factory=dict)
    of: str = ""
    times: float = 1.0

    @property
    def place(self) -> str:
        """The paper's data set that the slot is for."""
        return self.of or self.name

    @property
    def multiple(self) -> str:
        """The budget beside the profile's own, in words; empty where it is that."""
        if self.times == 1:
            return ""
        if self.times > 1:
            return f"{self.times:g} times the budget"
        return f"{Fraction(self.times).limit_denominator(100)} of the budget"

    @property
    def title(self) -> str:
        """How its data set is written: CIFAR-10, or what stands in for it; with the budget where it is another."""
        name = str(self.data["name"])
        data = title(name) if name == self.place else f"{title(name)} (for {title(self.place)})"
        return f"{data}, {self.multiple}" if self.multiple else data

    @property
    def budget(self) -> float:
        """Training images of a run as a fraction of the paper's; where the paper names no budget: 1."""
        if self.place not in CATALOGUE or not (most := CATALOGUE[self.place].paper_images):
            return 1.0
        return float(self.recipe["iterations"] * self.recipe["batch_size"] / most)

    @property
    def scope(self) -> Scope:
        """What results can speak about."""
        data = "" if self.same_data else self.title.replace(" (for ", " for ").replace(")", "")
        width = "other widths than full" if self.widths else f"width {self.width} (full: 32)"
        return Scope(data, "" if self.same_width else width, self.budget)

    def width_of(self, method: Method) -> int:
        """Width of a row's network."""
        return int(self.method.get(method.key, {}).get("width", self.widths.get(method.backbone, self.width)))


def _precisions(recipe: dict[str, Any]) -> set[str]:
    """All that a recipe, of one training or of several, trains in."""
    parts = [_precisions(value) for value in recipe.values() if isinstance(value, dict)]
    return set().union({recipe["precision"]} if "precision" in recipe else set(), *parts)


@dataclass(frozen=True)
class Profile:
    """Slots, and what they share unless they say otherwise: ``seeds``, ``threads`` of a run, ``jobs`` side by side,
    ``width``, ``same_data``, ``same_width``. ``whole_tables`` says that a table's seeds are run before the next table,
    so that finished tables come early, and not seed by seed through all tables; ``select`` says what was tried to
    choose recipes (:mod:`reproduce.run.selection`).
    """

    name: str
    description: str
    seeds: int
    threads: int
    jobs: int
    width: int
    same_data: bool
    same_width: bool
    slots: dict[str, Slot]
    whole_tables: bool = False
    select: dict[str, dict[str, Any]] = field(default_factory=dict)

    def jobs_for(self, chosen: tuple[Key, ...]) -> int:
        """Runs side by side: what the slots of the tables agree on, else the profile's own number."""
        names = {slot for table in chosen for slot in experiment(table).within(self.name).datasets}
        numbers = {self.slots[name].jobs for name in names if name in self.slots}
        return numbers.pop() if len(numbers) == 1 else self.jobs

    def handicap(self, method: Method, slot: str) -> str:
        """What keeps the method from its published strength in this profile; empty where nothing is known to."""
        return str(self.slots[slot].method.get(method.key, {}).get("handicap", method.handicap))

    def precisions(self, slot: str, *methods: Method) -> set[str]:
        """What these methods train in on the data in ``slot``."""
        return set().union(*(_precisions(self.run(method, slot, 0).recipe) for method in methods))

    def scope(self, slot: str, *methods: Method) -> Scope:
        """What results of these methods can speak about: the slot's scope, with the precision that they trained in."""
        found = self.precisions(slot, *methods)
        rounded = "" if "bfloat16" not in found else "in bfloat16" if len(found) == 1 else "in bfloat16 and float32"
        return replace(self.slots[slot].scope, precision=rounded)

    def run(self, method: Method, slot: str, seed: int) -> Run:
        """The run of one method on the data set in ``slot`` with one seed."""
        declared, task = self.slots[slot], tasks.named(method.task)
        own = declared.method.get(method.key, {})
        options = {"width": declared.width_of(method), **method.options, **own.get("options", {})}
        return Run(
            label=f"{method.label}, {declared.multiple}" if declared.multiple else method.label,
            dataset=dict(declared.data),
            model=task.model(method, options),
            recipe=task.recipe(method, merged(merged(declared.recipe, method.recipe), own.get("recipe", {}))),
            seed=seed,
            threads=declared.threads,
            task=method.task,
        )


#: What may differ for a row of a table, and what says how recipes are tried.
_ROW = ("width", "recipe", "options", "handicap")
_SELECT = ("table", "slot", "methods", "validation", "seeds", "trial", "candidates", "grid")
#: What a slot may say that is another one at another budget.
_PART = ("of", "times")
#: What slots take from their profile unless they say otherwise.
_SHARED = ("seeds", "threads", "jobs", "width", "same_data", "same_width")


def _slot(name: str, slots: dict[str, dict[str, Any]], shared: dict[str, Any]) -> Slot:
    """A slot with its recipe; ``like`` names the slot whose recipe it changes, ``of`` the one whose budget."""
    if (whole := slots[name].get("of")) is not None:
        _known(f"slot.{name}", slots[name], _PART)
        same, times = _slot(whole, slots, shared), float(slots[name]["times"])
        recipe = {**same.recipe, "iterations": round(times * same.recipe["iterations"])}
        return replace(same, name=name, of=whole, times=times, recipe=recipe)
    own = {key: value for key, value in slots[name].items() if key != "like"}
    if (model := slots[name].get("like")) is not None:
        own["recipe"] = merged(_slot(model, slots, shared).recipe, own.get("recipe", {}))
    return Slot(name=name, **{**shared, **own})


def _declared(path: Path | None) -> dict[str, dict[str, Any]]:
    """All profiles as they are written, with what the tables' own files add to them."""
    found = read(path or EXPERIMENTS / "profiles.toml")
    for source in sorted(EXPERIMENTS.glob("*.toml")):
        for name, added in read(source).get("profiles", {}).items():
            if name in found:
                found[name] = merged(found[name], added)
    return found


def names() -> tuple[str, ...]:
    """The declared profiles."""
    return tuple(_declared(None))


def _check(found: Profile) -> None:
    """Raise KeyError for a key that nothing would read."""
    for slot in found.slots.values():
        here = [table for table in map(experiment, every()) if {slot.name, slot.place} & table.everywhere]
        rows = [row for declared in here for row in declared.methods]
        where = f"slot.{slot.name}"
        _known(f"{where}.widths", slot.widths, [row.backbone for row in rows])
        _known(f"{where}.method", slot.method, [row.key for row in rows])
        for key, own in slot.method.items():
            _known(f"{where}.method.{key}", own, _ROW)
    for key, declared in found.select.items():
        _known(f"select.{key}", declared, _SELECT)


def _known(where: str, given: Iterable[str], known: Iterable[str]) -> None:
    if unknown := sorted(set(given) - set(known)):
        raise KeyError(f"{where}.{unknown[0]} is not read; known are {', '.join(sorted({*known} - {''})) or 'none'}")


def profile(name: str, path: Path | None = None) -> Profile:
    """The profile called ``name``, from ``experiments/profiles.toml`` unless another file is named.

    ``like`` in a profile names another one that it changes; the name may change settings itself, see
    :mod:`reproduce.declare.overrides`.
    """
    declared, written = _declared(path), overrides.base_of(name)
    if written not in declared:
        raise ValueError(f"PROFILE={name!r} is unknown; choose one of: {', '.join(declared)}.")
    raw = dict(declared[written])
    try:
        if (base := raw.pop("like", None)) is not None:
            raw = merged(declared[base], raw)
        raw = overrides.changed(name, raw)
        slots = raw.pop("slot", {})
        shared = {key: raw[key] for key in _SHARED}
        found = Profile(name=name, slots={slot: _slot(slot, slots, shared) for slot in slots}, **raw)
        _check(found)
        return found
    except RecursionError:
        source = path or EXPERIMENTS / "profiles.toml"
        raise ValueError(f"{source}: profile {name!r} has slots that are like one another in a circle.") from None
    except (TypeError, KeyError, AttributeError) as error:
        source = path or EXPERIMENTS / "profiles.toml"
        raise ValueError(f"{source}: profile {name!r} is incomplete or misspelt ({error}).") from None


def parse_slots(text: str | None, chosen: Profile) -> tuple[str, ...] | None:
    """Slots from text such as ``cifar10`` or ``cifar10,cifar100``; None or empty means all of the profile's."""
    if text is None or not text.strip():
        return None
    wanted = tuple(parts_of(text))
    for name in wanted:
        if name not in chosen.slots:
            known = ", ".join(chosen.slots)
            raise ValueError(f"SLOTS: profile {chosen.name} declares no data for {name!r}; choose from {known}.")
    return wanted
