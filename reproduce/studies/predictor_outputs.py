"""The experiment on "can not converge if trivially applying CNN to the predictor" (paper 7.1), notebook size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

import nsl
import nsl.data
from nsl.training import Execution, Recipe, train
from reproduce.show import figures
from reproduce.show.looks import looks
from reproduce.show.rows import Table

#: Table 1's other reading of "trivially": no identity, He's start.
NAIVE = "dynamic_cnn_naive"

#: Label to the arguments of `nsl.create_model`.
PREDICTORS: dict[str, dict[str, Any]] = {
    "SphereNet": {"predictor": "sphere"},
    "SphereNet, no identity": {"predictor": "sphere", "residual": False},
    "SphereNet, no identity, He's start": {
        "predictor": "sphere", "residual": False, "predictor_options": {"small": False},
    },
    "release": {"predictor": "release"},
    "CNN, batch-normalised": {"predictor": "cnn"},
    "CNN, sigmoid": {"predictor": "cnn", "predictor_options": {"head": "sigmoid"}},
    "CNN, tanh": {"predictor": "cnn", "predictor_options": {"head": "tanh"}},
    "CNN, trivial": {"predictor": "cnn", "predictor_options": {"head": "none"}},
}  # fmt: skip
#: The demo's recipe with a shorter budget; the same for every predictor.
RECIPE = Recipe(
    iterations=150, batch_size=32, learning_rate=0.1, schedule="linear", warmup=0.1, classifier_rate=0.05,
    augment="crop", evaluations=10,
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """How one training ended.

    Attributes:
        label: of `PREDICTORS`.
        losses: mean training loss of each tenth of the budget, until it diverged.
        test_error: percent, None after a divergence.
        divergence: in words, None where there was none.
    """

    label: str
    losses: list[float]
    test_error: float | None
    divergence: str | None


def run(label: str, seed: int = 0) -> Outcome:
    """Train dynamic NSN-9 (diagonal, width 8) on the digits with one predictor."""
    dataset = nsl.data.load("digits", image_size=16)
    torch.manual_seed(seed)
    model = nsl.create_model("nsn9_dynamic_diagonal", 10, width=8, image_size=16, **PREDICTORS[label])
    result = train(model, dataset, RECIPE, seed=seed, execution=Execution(device="cpu", progress=False))
    losses = [loss for point in result.curve if (loss := point["train_loss"]) is not None]
    return Outcome(label, losses, result.test_error, result.divergence)


def signal(label: str, seed: int = 0) -> tuple[float, float]:
    """Standard deviations of the signal behind the first and the last dynamic layer before any training: of what batch
    norm, whose weights are 1, makes of 64 digits there."""
    images = nsl.data.load("digits", image_size=16).test_images[:64].float() / 255
    torch.manual_seed(seed)
    network = nsl.create_model("nsn9_dynamic_diagonal", 10, width=8, image_size=16, **PREDICTORS[label])
    seen: list[float] = []
    for name, part in network.named_modules():
        if name.startswith("stages") and name.endswith(".norm"):
            part.register_forward_hook(lambda *event: seen.append(float(event[-1].std())))
    with torch.no_grad():
        network.train()(images)
    return seen[0], seen[-1]


def curves(outcomes: list[Outcome]) -> Any:
    """Training loss against iterations."""
    figure = figures.new_figure(6.4, 3.6)
    ax = figure.subplots()
    step = RECIPE.iterations / RECIPE.evaluations
    own = looks([outcome.label for outcome in outcomes])
    for outcome in outcomes:
        places = [step * (i + 1) for i in range(len(outcome.losses))]
        ax.plot(places, outcome.losses, marker=".", color=own[outcome.label].colour, label=outcome.label)
    ax.axhline(math.log(10), color="grey", linestyle=":", linewidth=1)
    ax.set(xlabel="iterations", ylabel="training loss (nats)", ylim=(0, 4))
    note: dict[str, Any] = {"transform": ax.get_yaxis_transform(), "ha": "right", "va": "bottom", "fontsize": 7}
    ax.text(0.99, math.log(10), "chance", **note)
    ax.legend(fontsize=7)
    return figure


def other_reading(table: Table) -> str:
    """What became of the other reading's runs in Table 1, in a sentence."""
    own = [row for row in table.rows if row.method.key == NAIVE]
    runs, bad = sum(len(row.records) for row in own), sum(row.diverged for row in own)
    if not runs:
        return "The reading without both is not run in this profile's Table 1."
    if runs == 1:
        return f"Without both, Table 1's run {'diverged' if bad else 'did not diverge'}."
    return f"Without both, {bad} of Table 1's {runs} runs diverged."


def markdown(outcomes: list[Outcome]) -> str:
    """The outcomes as a Markdown table."""
    lines = ["| Predictor | Test error % | Training |", "|---|---|---|"]
    for outcome in outcomes:
        error = "–" if outcome.test_error is None else f"{outcome.test_error:.1f}"
        lines.append(f"| {outcome.label} | {error} | {outcome.divergence or 'to the end'} |")
    return "\n".join(lines)
