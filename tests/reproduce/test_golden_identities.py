"""The identities of all planned runs: a reorganisation of the code must not orphan a stored record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reproduce.declare import plan
from reproduce.declare.runs import declared_id

GOLDEN = Path(__file__).with_name("golden_identities.json")


def identities(name: str) -> dict[str, str]:
    """Declared identities by the runs' names, of data whose fingerprint is left out."""
    profile = plan.profile(name)
    found = {run.name: declared_id(run.declared("")) for run in plan.planned_runs(profile, plan.tables())}
    for key in plan.beyond():
        runs = plan.planned_runs(profile, (key,))
        found |= {f"beyond {key}: {run.name}": declared_id(run.declared("")) for run in runs}
    return found


def write() -> None:
    """Write the file again, of the runs as they are planned now."""
    made = {name: identities(name) for name in ("demo", "cpu", "paper", "paper-bf16")}
    GOLDEN.write_text(json.dumps(made, indent=1, sort_keys=True) + "\n")


WRITE = "python -m tests.reproduce.test_golden_identities"
CHANGED = (
    "what is declared now changes or drops these runs, and their records would no longer be found: take it back, or, "
    "where a model computes something else on purpose, raise its number in REVISIONS (reproduce/declare/runs.py) and "
    f"run `{WRITE}`"
)


@pytest.mark.parametrize("name", ["demo", "cpu", "paper", "paper-bf16"])
def test_the_planned_runs_have_the_identities_they_always_had(name: str) -> None:
    now, stored = identities(name), json.loads(GOLDEN.read_text())[name]
    assert {run: now.get(run) for run in stored} == stored, CHANGED
    new = sorted(set(now) - set(stored))
    assert not new, f"new runs, {new[0]} among them: keep their identities by `{WRITE}`"


if __name__ == "__main__":
    write()
