"""The loop for networks that are no classifiers of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nsl.training import CheckpointError, Recipe
from nsl.training.fit import fit, order_of

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
Y = X @ torch.tensor([[1.0], [2.0], [-1.0]])
RECIPE = Recipe(iterations=12, batch_size=5, learning_rate=0.1, schedule="constant", warmup=0, evaluations=3)


def squared(model: nn.Module, chosen: Tensor, _step: int) -> Tensor:
    return (model(X[chosen]) - Y[chosen]).square().mean()


def run(checkpoint: Path | None = None, loss: Any = squared, **changes: Any) -> tuple[nn.Module, dict[str, Any]]:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    options: dict[str, Any] = {"seed": 1, "identity": "line", "checkpoint": checkpoint, **changes}
    return model, fit(
        model, loss, lambda m: {"test_error": (m(X) - Y).square().mean().item()}, len(X), RECIPE, **options
    )


def test_a_line_is_learned_and_the_curve_has_its_points() -> None:
    _, result = run()
    assert [point["iteration"] for point in result["curve"]] == [4, 8, 12]
    assert result["test_error"] == result["curve"][-1]["test_error"] < 1
    assert not result["diverged"]


def test_an_interrupted_training_ends_at_the_same_numbers(tmp_path: Path) -> None:
    _, whole = run()
    calls = 0

    def breaks(model: nn.Module, chosen: Tensor, step: int) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 7:
            raise KeyboardInterrupt
        return squared(model, chosen, step)

    file = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        run(file, breaks, minutes=0.0)
    _, resumed = run(file)
    for key in ("curve", "test_error", "iterations_done"):
        assert resumed[key] == whole[key]


def test_what_a_network_draws_is_the_seeds_and_leaves_the_global_state_alone() -> None:
    def dropped(model: nn.Module, chosen: Tensor, _step: int) -> Tensor:
        return (model(nn.functional.dropout(X[chosen], 0.5)) - Y[chosen]).square().mean()

    _, one = run(loss=dropped)
    before = torch.get_rng_state()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    torch.set_rng_state(state)  # elsewhere than `run` was
    other = fit(
        model, dropped, lambda m: {"test_error": (m(X) - Y).square().mean().item()}, len(X), RECIPE, seed=1, identity=""
    )
    assert other["test_error"] == one["test_error"]
    assert torch.equal(torch.get_rng_state(), state)
    torch.set_rng_state(before)


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "state.pt"
    run(file, minutes=0.0)
    with pytest.raises(CheckpointError, match="belongs to another training"):
        run(file, seed=2)


def test_a_loss_that_is_no_number_ends_the_training() -> None:
    _, result = run(loss=lambda model, chosen, step: squared(model, chosen, step) / (0 if step == 5 else 1))
    assert result["diverged"]
    assert result["divergence"] == "training loss inf at iteration 6"
    assert result["iterations_done"] == 6
    assert "test_error" not in result


def test_a_last_step_that_breaks_the_weights_is_a_divergence() -> None:
    """Its loss is a number; what it makes of the weights is none."""

    class Breaking(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: Tensor) -> Tensor:
            return value.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient * float("nan")

    def loss(model: torch.nn.Module, chosen: Tensor, step: int) -> Tensor:
        found = squared(model, chosen, step)
        return Breaking.apply(found) if step == last else found  # type: ignore[no-any-return]

    last = run()[1]["iterations_done"] - 1
    _, result = run(loss=loss)
    assert result["diverged"]
    assert "weights that are no numbers" in result["divergence"]
    assert "test_error" not in result


def test_every_epoch_has_an_order_of_its_own() -> None:
    assert sorted(order_of(9, 0, 0).tolist()) == list(range(9))
    assert order_of(9, 0, 0).tolist() != order_of(9, 0, 1).tolist()


def test_a_metric_that_is_no_number_at_the_end_is_a_divergence() -> None:
    def measured(at: int) -> Any:
        calls = iter(range(10))
        return lambda m: {"test_error": torch.tensor(float("inf")) if next(calls) == at else torch.tensor(1.0)}

    def result(at: int) -> dict[str, Any]:
        return fit(nn.Linear(3, 1), squared, measured(at), len(X), RECIPE, seed=1, identity="")

    early, late = result(0), result(2)
    assert (early["diverged"], early["test_error"]) == (False, 1.0)
    assert early["curve"][0]["test_error"] is None
    assert late["divergence"] == "test_error that is no number after iteration 12"


def test_a_checkpoint_with_other_frozen_parameters_is_refused(tmp_path: Path) -> None:
    def trained(frozen: int) -> None:
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
        model[frozen].requires_grad_(False)
        kept: dict[str, Any] = {"checkpoint": tmp_path / "state.pt", "minutes": 0.0}
        fit(model, squared, lambda m: {"test_error": 0.0}, len(X), RECIPE, seed=1, identity="", **kept)

    trained(0)
    with pytest.raises(CheckpointError, match="belongs to another training"):
        trained(1)
