"""Nothing that a profile declares is ignored: another value is another run, another order, other words, or an error."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from reproduce.declare import plan, profiles
from reproduce.run import selection

Place = tuple[Any, ...]


def leaves(value: Any, place: Place = ()) -> Iterator[Place]:
    """Where single values are; a list is one."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*place, key))
    else:
        yield place


def other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, list):
        last = {**value[-1], "momentum": 0.5} if value and isinstance(value[-1], dict) else 0.95
        return [*value, last]
    return value + "x" if isinstance(value, str) else value + 1 if isinstance(value, int) else value / 2 + 0.013


def planned(name: str) -> Any:
    """All that follows from a profile before anything is run."""
    found = plan.profile(name)
    runs = [(run.label, run.declared("")) for run in plan.planned_runs(found, plan.every())]
    words = [(slot.title, slot.scope, slot.budget, slot.seeds) for slot in found.slots.values()]
    handicaps = [
        found.handicap(method, slot)
        for table in plan.every()
        for slot in plan.experiment(table).datasets
        if slot in found.slots
        for method in plan.experiment(table).methods
    ]
    jobs = [found.jobs_for((table,)) for table in plan.every()] + [found.jobs]
    choices = [selection.choices(found, table) for table in plan.every()]
    return repr([runs, words, handicaps, jobs, choices, found.description])


DECLARED = profiles._declared(None)
PLACES = [(name, *place) for name in DECLARED for place in leaves(DECLARED[name])]


@pytest.mark.parametrize("name", DECLARED)
def test_no_value_of_a_profile_is_ignored(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    usual, ignored = planned(name), []
    for place in (place[1:] for place in PLACES if place[0] == name):
        changed = copy.deepcopy(DECLARED)
        part: Any = changed[name]
        for key in place[:-1]:
            part = part[key]
        part[place[-1]] = other(part[place[-1]])
        monkeypatch.setattr(profiles, "_declared", lambda path, changed=changed: changed)
        try:
            if planned(name) == usual:
                ignored.append(".".join(map(str, place)))
        except (ValueError, KeyError):
            continue
    assert ignored == []


MISSPELT: list[Place] = [
    ("nonsense",),
    ("slot", "cifar10", "nonsense"),
    ("slot", "cifar10_quarter", "recipe"),
    ("slot", "mini_imagenet", "widths", "cnn5"),
    ("slot", "mini_imagenet", "method", "nonsense", "width"),
    ("slot", "mini_imagenet", "method", "maml", "widht"),
    ("select", "cifar10", "nonsense"),
    ("slot", "mini_imagenet", "recipe", "episodes", "nonsense"),
]


@pytest.mark.parametrize("place", MISSPELT, ids=".".join)
def test_a_misspelt_key_of_a_profile_is_an_error(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = copy.deepcopy(DECLARED)
    part: Any = changed["cpu"]
    for key in place[:-1]:
        part = part.setdefault(key, {})
    part[place[-1]] = 1
    monkeypatch.setattr(profiles, "_declared", lambda path: changed)
    with pytest.raises(ValueError, match=place[-1] if place[-1] != "width" else "nonsense"):
        planned("cpu")
