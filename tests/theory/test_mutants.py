"""Gates fail where the dynamics they speak of is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import theory
from theory import trajectory
from theory.claims import bias, ledger, mutants
from theory.flows import Factorised, Product


@pytest.mark.parametrize(
    "name", ["flow-equations", "balanced-closed-form", "bounded-predictor", "norms-diverge", "weight-decay"]
)
def test_a_gate_fails_under_every_mutant_it_speaks_of(name):
    known = ledger.find(name)
    assert known.mutants
    assert [ledger.fate(known, mutant) for mutant in known.mutants] == ["killed"] * len(known.mutants)


def test_a_mutant_is_gone_after_its_context():
    pair, state, descent = Factorised(np.ones((2, 1)), np.eye(2)), np.ones(6), np.ones((2, 1))
    before = pair.velocity(state, descent)
    with mutants.applied("doubled rate"):
        assert mutants.active() == "doubled rate"
        assert not trajectory.GUARDED
        np.testing.assert_array_equal(pair.velocity(state, descent), 2 * before)
    assert mutants.active() == ""
    assert trajectory.GUARDED
    np.testing.assert_array_equal(pair.velocity(state, descent), before)


def test_a_single_factor_is_not_frozen_and_the_first_of_several_is():
    rng = np.random.default_rng(0)
    descent = rng.standard_normal((3, 3))
    single, triple = (Product(list(rng.standard_normal((depth, 3, 3)))) for depth in (1, 3))
    free = single.velocity(single.initial, descent), triple.velocity(triple.initial, descent)
    with mutants.applied("frozen M"):
        np.testing.assert_array_equal(single.velocity(single.initial, descent), free[0])
        frozen = triple.velocity(triple.initial, descent)
    assert np.all(frozen[:9] == 0)
    np.testing.assert_array_equal(frozen[9:], free[1][9:])


def test_a_gate_of_depth_notices_that_the_first_factor_does_not_learn():
    """As the note of claim 11 says: N = 1 is W itself and learns, and the test error of N = 2 is no smaller."""
    with mutants.applied("frozen M"):
        runs = bias.shared_depth_runs(ledger.Settings(quick=True))
    assert all(np.all(run.end.converged) for run in runs[:3])
    assert bias.depth_gates(runs) == {
        ("effective_rank", 2): True,
        ("test_error", 2): False,
        ("effective_rank", 3): True,
        ("test_error", 3): True,
    }
    assert bias.depth_changes(runs)["test_error", 2][0] < -0.1


def test_every_gated_claim_names_mutants():
    measured = {"practice", "shared-mask", "noise-and-large-steps"}
    assert {claim.id for claim in ledger.registered() if claim.number < ledger.OWN_NUMBERS and not claim.mutants} == (
        measured
    )


def test_every_gate_of_the_ledger_was_asked_under_all_its_wrong_dynamics_and_failed():
    """No run raised before its gate was asked, and no mutant survived."""
    rows = ledger.read(Path(__file__).parents[2] / "results" / "theory")
    gated = [row for row in rows if row["verdict"] != ledger.MEASURED]
    for row in gated:
        assert set(row["mutants"].values()) == {"killed"}, row["id"]
    guide = " ".join((Path(__file__).parents[2] / "docs" / "guide.md").read_text(encoding="utf-8").split())
    assert f"checks {len(rows)} claims" in guide
    assert f"{len(gated)} are gated" in guide
    assert {len(rows) - len(gated): "three are only measured"}[3] in guide


def test_runs_that_claims_share_are_made_once_for_each_mutant():
    made = []

    @ledger.shared
    def runs(settings):
        made.append(mutants.active())
        return len(made)

    assert [runs(ledger.Settings()), runs(ledger.Settings()), runs(ledger.Settings(quick=True))] == [1, 1, 2]
    with mutants.applied("doubled rate"):
        assert [runs(ledger.Settings()), runs(ledger.Settings())] == [3, 3]
    assert made == ["", "", "doubled rate"]


def test_an_unknown_mutant_is_named():
    with pytest.raises(ValueError, match="no mutant"), mutants.applied("nothing"):
        pass


def test_a_claim_of_ones_own_enters_the_ledger_and_a_blind_gate_is_told():
    @theory.claim(
        id="test-blind", statement="Nothing.", source="a test", threshold="none", mutants=("frozen M", "doubled rate")
    )
    def blind(settings):
        return theory.Finding(theory.verdict_of(True), {"figure": 1.0}, "none")

    try:
        verdict = theory.check("test-blind")
        assert verdict.claim.number >= ledger.OWN_NUMBERS
        assert verdict.mutants == {"frozen M": "survived", "doubled rate": "survived"}
        text = theory.ledger_text(verdict)
        assert "0 of 2 (survived: frozen M, doubled rate)" in text
        with pytest.raises(ValueError, match="entered twice"):
            theory.claim(id="test-blind", statement="", source="", threshold="")(blind)
        with pytest.raises(ValueError, match="no mutant is called"):
            theory.claim(id="other", statement="", source="", threshold="", mutants=("x",))(blind)
    finally:
        ledger._REGISTRY.pop("test-blind")


def test_dynamics_that_the_integrator_refuses_are_told_from_a_gate_that_failed():
    @theory.claim(id="test-refused", statement="", source="", threshold="", mutants=("frozen M",))
    def refused(settings):
        if mutants.active():
            raise theory.FlowError("it does not descend.")
        return theory.Finding(theory.verdict_of(True), {}, "none")

    try:
        verdict = theory.check("test-refused")
        assert verdict.mutants == {"frozen M": "refused"}
        assert "0 of 1 (refused: frozen M)" in theory.ledger_text(verdict)
    finally:
        ledger._REGISTRY.pop("test-refused")
