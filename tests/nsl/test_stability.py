"""The cause of the collapse at learning rate 0.1, on the embedded digits."""

from __future__ import annotations

import math

import pytest
import torch

import nsl
from nsl.data import load
from nsl.training.stability import classifier_curvature, first_steps, main


def test_the_power_iteration_finds_the_hessians_largest_eigenvalue() -> None:
    torch.manual_seed(0)
    model = nsl.create_model("cnn9", 3, width=2, image_size=8).double()
    images = torch.randn(6, 3, 8, 8, dtype=torch.float64)
    h = model.features(images).flatten(1).detach()
    p = (h @ model.classifier.weight.flatten(1).T).softmax(1).detach()
    blocks = [torch.kron(torch.diag(q) - torch.outer(q, q), torch.outer(f, f)) for q, f in zip(p, h)]
    expected = torch.linalg.eigvalsh(torch.stack(blocks).mean(0))[-1].item()
    found = classifier_curvature(model, images, iterations=500)
    assert math.isclose(found.eigenvalue, expected, rel_tol=1e-6)
    assert math.isclose(found.limit, 2 / expected, rel_tol=1e-6)


def test_a_rate_far_above_the_classifiers_limit_kills_the_features_and_a_small_classifier_rate_saves_them() -> None:
    data = load("digits", image_size=16, train_per_class=100)
    losses, dead, curvature = first_steps(data, learning_rate=0.5, classifier_rate=1.0, steps=20, width=16)
    assert curvature.momentum_limit < 0.05
    assert max(losses) > 3 * math.log(10)
    saved, dead_saved, _ = first_steps(data, learning_rate=0.5, classifier_rate=0.01, steps=20, width=16)
    assert max(saved[1:]) < max(losses)
    assert dead_saved <= dead
    assert saved[-1] < losses[0]


def test_a_number_of_steps_that_is_none_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--steps", "0"])
    assert ended.value.code == 2
    assert "argument --steps: must be a whole number of 1 to" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (PermissionError(13, "Permission denied", "batches"), 2, "error: [Errno 13] Permission denied: 'batches'\n"),
        (ValueError("one\n  two"), 2, "error: one two\n"),
        (KeyboardInterrupt(), 130, "Interrupted.\n"),
    ],
)
def test_data_that_cannot_be_read_and_ctrl_c_are_one_line(
    error: BaseException, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("nsl.training.stability.load", fail)
    with pytest.raises(SystemExit) as ended:
        main([])
    assert (ended.value.code, capsys.readouterr().err) == (code, line)
