"""Gates fail where the dynamics they speak of is wrong."""

from __future__ import annotations

import numpy as np
import pytest

import theory
from theory.claims import ledger, mutants
from theory.flows import Factorised


@pytest.mark.parametrize("name", ["flow-equations", "balanced-closed-form", "bounded-predictor", "norms-diverge"])
def test_a_gate_fails_under_every_mutant_it_speaks_of(name):
    known = ledger.find(name)
    assert known.mutants
    assert {mutant: ledger.fate(known, mutant) for mutant in known.mutants} == dict.fromkeys(known.mutants, "killed")


def test_a_mutant_is_gone_after_its_context():
    pair, state, descent = Factorised(np.ones((2, 1)), np.eye(2)), np.ones(6), np.ones((2, 1))
    before = pair.velocity(state, descent)
    with mutants.applied("doubled rate"):
        assert mutants.active() == "doubled rate"
        np.testing.assert_array_equal(pair.velocity(state, descent), 2 * before)
    assert mutants.active() == ""
    np.testing.assert_array_equal(pair.velocity(state, descent), before)


def test_every_gated_claim_names_mutants():
    measured = {"practice", "shared-mask", "noise-and-large-steps"}
    assert {claim.id for claim in ledger.registered() if claim.number < ledger.OWN_NUMBERS and not claim.mutants} == (
        measured
    )


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
