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
    runs = plan.planned_runs(profile, (*plan.tables(), "budget"))
    return {run.name: declared_id(run.declared("")) for run in runs}


@pytest.mark.parametrize("name", ["demo", "cpu", "paper", "paper-bf16"])
def test_the_planned_runs_have_the_identities_they_always_had(name: str) -> None:
    # A changed declaration changes them on purpose: then write the file again, and carry stored records along.
    assert identities(name) == json.loads(GOLDEN.read_text())[name]
