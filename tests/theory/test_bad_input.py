from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import theory.__main__ as theory_main
from nsl.outputs import OutputError
from theory import (
    DiagonalSimilarity,
    Factorised,
    FlowError,
    LinearRegression,
    MatrixCompletion,
    MatrixSensing,
    Product,
    SeparableClassification,
    Standard,
    adaptive_flow,
    closed_forms,
    convex,
    gradient_descent,
    implicit_midpoint,
    integrate,
)
from theory.__main__ import main
from theory.chebyshev import follow
from theory.claims import ledger, training
from theory.flows import Decayed, lambda_balanced
from theory.trajectory import ended

rng = np.random.default_rng(0)
X, Y = rng.standard_normal((3, 4)), rng.standard_normal((2, 4))
W = rng.standard_normal((3, 2))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: LinearRegression(X, Y[:, :3]), "one sample a column"),
        (lambda: LinearRegression(X * np.nan, Y), "X holds NaN"),
        (lambda: LinearRegression("abc", Y), "array of real numbers"),
        (lambda: LinearRegression(X[:, :2], Y[:, :2]).whitened(), "rank-deficient"),
        (
            lambda: closed_forms.whitened_riccati(LinearRegression(X, Y), W, np.eye(3), 0.0, np.ones(1)),
            "whitened",
        ),
        (lambda: convex.minimum_hypentropy(np.ones((3, 2)), np.ones(2), 0.1), "linearly dependent"),
        (lambda: Factorised(W, np.eye(2)), "M0 must be [3, 3]"),
        (lambda: DiagonalSimilarity(W, np.ones(2)), "mu0 must have 3 entries"),
        (lambda: Product([np.eye(3), np.eye(2)]), "cannot be multiplied"),
        (lambda: integrate(LinearRegression(X, Y), Standard(np.eye(3))), "effective weight of shape (3, 2)"),
        (lambda: integrate(LinearRegression(X, Y), Standard(W), method="magic"), "method must be one of"),
        (lambda: integrate(LinearRegression(X, Y), Standard(W), times=[1, 2]), "starts with 0"),
        (lambda: MatrixSensing(np.ones((2, 3, 3)), np.ones(3)), "must agree"),
        (lambda: MatrixCompletion((2, 2), [0, 0], [1, 1], [1.0, 2.0]), "observed twice"),
        (lambda: MatrixCompletion((2, 2), [0, 2], [1, 1], [1.0, 2.0]), "outside the 2x2"),
        (lambda: SeparableClassification(X, np.array([1, -1, 2, 1])), "+1 or -1"),
        (
            lambda: SeparableClassification(np.array([[1.0, 1.0]]), np.array([1, -1])),
            "not linearly separable",
        ),
        (
            lambda: gradient_descent(LinearRegression(X, Y), Standard(W), step=10.0, steps=500),
            "diverges at step",
        ),
        (
            lambda: gradient_descent(LinearRegression(X, Y), Standard(W), step=-1.0, steps=5),
            "step must be > 0",
        ),
        (lambda: implicit_midpoint(LinearRegression(X, Y), Standard(W), step=50.0, steps=5), "too large"),
        (lambda: ledger.find("no-such-claim"), "there is no claim"),
        (lambda: LinearRegression(X * 1j, Y), "real numbers"),
        (lambda: LinearRegression(X, [["a"] * 4]), "Y must be an array of real numbers"),
        (lambda: MatrixCompletion((2, 2), [0.0, 1.7], [1, 0], [1.0, 2.0]), "rows must be a non-empty array of int"),
        (lambda: DiagonalSimilarity(W, np.eye(3)), "give np.diagonal(M)"),
        (lambda: integrate(LinearRegression(X, Y), Standard(W), times=[0, np.nan]), "times holds NaN"),
        (lambda: integrate(LinearRegression(X, Y), Standard(W), horizon=0), "positive, finite time"),
        (lambda: integrate(LinearRegression(X, Y), Standard(W), horizon=-1.0), "positive, finite time"),
        (lambda: integrate(LinearRegression(X, Y), Standard(W), rtol=float("nan")), "rtol must be above 0"),
        (lambda: follow(LinearRegression(X, Y), Standard(W), stop_loss=1e-3), "give the start a batch axis"),
        (lambda: convex.maximum_margin(np.array([[1.0, -1.0]]), "l2"), "not linearly separable"),
        (lambda: Decayed(Standard(W), (0.1, 0.1)), "rates must be 1 finite numbers"),
        (lambda: Standard(W).started(np.ones(5)), "must have 6 entries"),
        (lambda: Decayed(Standard(W), (np.nan,)), "rates must be 1 finite numbers"),
        (lambda: lambda_balanced(np.ones((2, 3, 3)), 0.5, rng), "weight must be one matrix"),
        (lambda: lambda_balanced(np.ones((3, 3)), np.nan, rng), "lam must be a finite number"),
        (lambda: closed_forms.balanced_grams(np.ones((4, 2)), 0.5), "at least as many outputs as inputs"),
        (lambda: convex.minimum_hypentropy(X, Y[0], 0.0), "alpha must be a positive, finite number"),
        (lambda: convex.minimum_hypentropy(X, Y[0], np.nan), "alpha must be a positive, finite number"),
        (lambda: convex.maximum_margin(X * np.nan, "l2"), "signed holds NaN"),
        (lambda: convex.maximum_margin(X, "l3"), 'norm must be "l1" or "l2"'),
        (lambda: SeparableClassification(np.ones((2, 3, 4)), np.ones(4)), "X must be one matrix"),
        (lambda: integrate(LinearRegression(X, Y), Standard(W), samples=2.5), "samples must be a whole number"),
        (lambda: integrate(LinearRegression(X, Y), Standard(W), times=[0, 1], horizon=1.0), "neither horizon nor"),
        (lambda: integrate(LinearRegression(X, Y), Standard(W), times=[0, 1], stop_loss=1.0), "neither horizon nor"),
        (lambda: adaptive_flow(LinearRegression(X, Y), Standard(W[None]), stop_loss=np.nan), "stop_loss must be"),
        (lambda: adaptive_flow(LinearRegression(X, Y), Standard(W[None]), stop_loss=0.1, horizon=0), "horizon must"),
        (lambda: adaptive_flow(LinearRegression(X, Y), Standard(W[None]), stop_loss=0.1, rtol=0, atol=0), "not both 0"),
        (lambda: adaptive_flow(LinearRegression(X, Y), Standard(W[None]), stop_loss=0.1, max_steps=0), "max_steps"),
        (lambda: adaptive_flow(LinearRegression(X, Y), Standard(W.T[None]), stop_loss=0.1), "of shape (3, 2)"),
        (lambda: follow(LinearRegression(X, Y), Standard(W.T[None]), stop_loss=0.1), "of shape (3, 2)"),
        (lambda: integrate(LinearRegression(X, Y), Standard(W), rtol=np.inf), "rtol must be above 0 and finite"),
        (lambda: integrate(LinearRegression(X, Y), Standard(W), atol=np.inf), "atol must be at least 0 and finite"),
        (lambda: integrate(LinearRegression(X, Y), Standard(W), samples=0), "samples must be a whole number of at"),
        (lambda: gradient_descent(LinearRegression(X, Y), Standard(W), step=0.1, steps=10.0), "whole number (an int)"),
        (lambda: gradient_descent(LinearRegression(X, Y), Standard(W), step=np.inf, steps=1), "step must be > 0 and f"),
        (lambda: implicit_midpoint(LinearRegression(X, Y), Standard(W), step=0.1, steps=1, every=0), "every must be"),
        (lambda: MatrixCompletion((2.9, 2), [0], [0], [1.0]), "shape[0] must be a whole number (an int), got 2.9"),
        (lambda: MatrixCompletion((-2, 2), [0], [0], [1.0]), "shape[0] must be a whole number of at least 1, got -2"),
        (lambda: MatrixCompletion((2, 2, 2), [0], [0], [1.0]), "the two sizes (n, m)"),
        (lambda: LinearRegression(np.stack([X] * 2), np.stack([Y] * 3)), "batch axes must be equal or left out, got X"),
        (lambda: MatrixSensing(np.ones((2, 3, 4, 4)), np.ones((5, 3))), "got A (2,) and y (5,)"),
    ],
)
def test_bad_input_gives_one_clear_sentence(call, words):
    with pytest.raises(ValueError) as caught:
        call()
    text = str(caught.value)
    assert words in text
    assert "\n" not in text


def test_data_without_batch_axes_are_shared_by_all_members():
    batch = LinearRegression(X, np.stack([Y, 2 * Y]))
    np.testing.assert_allclose(batch.members(np.array([1])).loss(np.zeros((1, 3, 2))), [2 * np.sum(Y**2)])


def test_a_margin_too_small_to_be_seen_is_told_from_a_program_that_failed(monkeypatch):
    from types import SimpleNamespace

    import scipy.optimize

    def columns(margin):
        return np.array([[1.0, -1.0], [0.0, margin]])

    for norm in ("l1", "l2"):
        assert convex.maximum_margin(columns(1e-7), norm)[1] == pytest.approx(5e-8, rel=1e-2)
        with pytest.raises(ValueError, match="or by a margin below about 1e-08 of the largest sample"):
            convex.maximum_margin(columns(1e-9), norm)
    assert convex.maximum_margin(columns(1e-8), "l1")[1] == pytest.approx(5e-9, rel=1e-6)
    with pytest.raises(ValueError, match="or by a margin below about 1e-08"):
        convex.maximum_margin(columns(1e-8), "l2")
    monkeypatch.setattr(scipy.optimize, "linprog", lambda *_, **__: SimpleNamespace(status=4, message="Numerical."))
    with pytest.raises(ValueError, match=r"was not decided \(Numerical\); rescale"):
        SeparableClassification(columns(1.0), [1, 1])


def test_programs_and_solvers_that_fail_are_named(monkeypatch):
    from theory import dynamics

    monkeypatch.setattr(convex, "_solve", lambda program, tolerance: None)
    with pytest.raises(ValueError, match="was not solved"):
        convex.penalised_minimum(X, Y, 0.1, "nuclear")
    failed = type("Failed", (), {"success": False, "message": "step size", "t": np.array([0.0, 1.5])})
    monkeypatch.setattr(training, "solve_ivp", lambda *_, **__: failed)
    with pytest.raises(FlowError, match=r"ended at time 1.5 of 2 \(step size\)"):
        training.heavy_ball_residual(LinearRegression(X, Y), Factorised(W, np.eye(3)), 0.1, 2.0)
    monkeypatch.setattr(dynamics, "solve_ivp", lambda *_, **__: failed)
    with pytest.raises(ValueError, match=r"could not be followed for time 40 \(step size\)"):
        dynamics.DynamicNeuralUnit().respond(0.0, [1.0])


def test_limit_of_a_path_that_has_not_converged_is_refused():
    path = integrate(LinearRegression(X, Y), Standard(W), times=[0.0, 0.01])
    with pytest.raises(FlowError, match="has not converged"):
        path.limit()
    assert path.limit(strict=False).shape == (3, 2)


def test_a_path_stopped_by_its_loss_has_fitted_and_not_converged():
    square = LinearRegression(X[:, :2], Y[:, :2])
    path = integrate(square, Standard(W), stop_loss=1e-3)
    assert path.fitted
    assert not path.converged
    assert ended(path) is path
    with pytest.raises(FlowError, match="stopped by stop_loss"):
        path.limit()
    path = integrate(square, Standard(W))
    assert (path.fitted, path.converged) == (False, True)
    with pytest.raises(FlowError, match="1 of 1 flows stopped"):
        ended(integrate(square, Standard(W), horizon=1e-3, stop_loss=1e-3))


def test_command_line_says_what_is_wrong_in_one_line(capsys):
    assert main(["claims", "--only", "nothing"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: there is no claim 'nothing'")
    assert error.count("\n") == 1


def test_claims_are_numbered_without_gaps_and_written_the_same_twice(tmp_path):
    numbers = [claim.number for claim in ledger.registered() if claim.number < ledger.OWN_NUMBERS]
    assert numbers == list(range(1, 1 + len(numbers)))
    assert len(numbers) >= 29
    for name in ("a", "b"):
        ledger.write([ledger.run(ledger.find("flow-equations"), quick=True)], tmp_path / name)
    first = (tmp_path / "a" / "claims.json").read_bytes()
    assert first == (tmp_path / "b" / "claims.json").read_bytes()
    row = json.loads(first)["claims"][0]
    assert row["verdict"] == "holds"
    assert row["profile"] == "quick"
    assert "flow-equations" in (tmp_path / "a" / "claims.md").read_text()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "claims.json",
        "claims.lock",
        "claims.md",
    ]


@pytest.mark.parametrize(
    "name", ["dissipation", "depth-lowers-rank", "norms-diverge", "discrete-steps", "order-in-the-input"]
)
def test_a_claim_is_checked_from_its_name(name):
    row = ledger.run(ledger.find(name), quick=True, mutate=False).as_dict()
    assert row["verdict"] == "holds"
    assert row["experiment"]
    assert all(np.isfinite(value) for value in row["measured"].values())


def test_a_damaged_ledger_is_named(tmp_path):
    (tmp_path / "claims.json").write_text("{")
    with pytest.raises(ValueError, match=r"claims\.json is not a ledger"):
        ledger.read(tmp_path)


def test_importing_theory_loads_neither_scipy_nor_torch():
    code = "import sys, theory; print('scipy' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import theory; theory.integrate", "ModuleNotFoundError: The theory needs scipy, which is not installed; run"),
        ("from theory.__main__ import main; main(['claims'])", "error: The theory needs scipy, which is not installed"),
    ],
)
def test_without_scipy_there_is_one_line_that_says_what_to_install(code, said):
    code = f"import sys; sys.modules['scipy'] = None; {code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert said in done.stderr.splitlines()[-1]


def test_a_library_that_is_there_but_does_not_load_is_not_told_to_be_missing(monkeypatch):
    def broken(*_, **__):
        raise ImportError("libfoo.so: undefined symbol", name="scipy")

    monkeypatch.setattr(theory_main, "claims", broken)
    with pytest.raises(ImportError, match="undefined symbol"):
        main(["claims"])


def test_two_processes_that_write_one_ledger_lose_no_row(tmp_path, monkeypatch):
    """Both read it before either has written: without a lock the row of one is lost."""
    finding = ledger.Finding(ledger.HOLDS, {"figure": 1.0}, "none")
    rows = {name: ledger.Verdict(ledger.find(name), finding, True, 0.0) for name in ("1", "4", "25")}
    ledger.write([rows["1"]], tmp_path)
    real = ledger.read

    def read(out):
        found = real(out)
        time.sleep(0.3)
        return found

    monkeypatch.setattr(ledger, "read", read)
    writers = [threading.Thread(target=ledger.write, args=([rows[name]], tmp_path)) for name in ("4", "25")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [row["number"] for row in real(tmp_path)] == [1, 4, 25]


def test_a_ledger_that_cannot_be_locked_is_told_in_one_sentence(tmp_path):
    (tmp_path / "claims.lock").mkdir()
    with pytest.raises(OutputError, match=r"claims\.lock cannot be locked \(Is a directory\); name another folder"):
        ledger.write([], tmp_path)


def test_figures_are_listed_with_a_colon_between_name_and_value():
    finding = ledger.Finding(ledger.HOLDS, {"effective rank, N = 1": 13.9}, "none")
    few = ledger.ledger_text(ledger.Verdict(ledger.find("1"), finding, True, 0.0))
    assert "| effective rank, N = 1: 13.9 |" in few
    finding = ledger.Finding(ledger.HOLDS, {f"N = {k}": 13.9 for k in range(ledger.READABLE + 1)}, "none")
    assert "\n- N = 0: 13.9\n" in ledger.ledger_text(ledger.Verdict(ledger.find("1"), finding, True, 0.0))


def test_the_ten_lines_of_the_package_docstring_work():
    import doctest

    import theory

    assert doctest.testmod(theory).failed == 0


def test_theory_knows_nothing_of_reproduce():
    from pathlib import Path

    import theory

    for path in Path(theory.__file__).parent.rglob("*.py"):
        assert not re.search(r"^\s*(?:import|from) reproduce\b", path.read_text(encoding="utf-8"), re.MULTILINE), path


class _Own(LinearRegression):
    """A loss as one writes it for a single weight."""

    def loss(self, weight):
        return 0.5 * np.sum((self.Y - weight.swapaxes(-1, -2) @ self.X) ** 2)


class _Turned(LinearRegression):
    def descent(self, weight):
        return self.X @ (self.Y - weight.T @ self.X).T


@pytest.mark.parametrize(("kind", "name"), [(_Own, "loss"), (_Turned, "descent")])
def test_a_problem_that_takes_no_batches_is_told_how_to(kind, name):
    problem = kind(np.ones((3, 4)), np.ones((2, 4)))
    with pytest.raises(ValueError, match=rf"problem's {name} must take weights \[2, 3, 2\].*for leading axes"):
        integrate(problem, Standard(np.zeros((3, 2))))
