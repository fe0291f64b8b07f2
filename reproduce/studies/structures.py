"""The experiment of the notebook on structures: one small network a structure, before and after training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import nsl
import nsl.data
from nsl.layers.structure import Structure
from nsl.training import Execution, Recipe, train
from reproduce.show import figures

#: What is compared, with the labels of the pictures. Kernels are 5x5, so K = 25.
STRUCTURES: dict[str, str | Structure] = {
    "diagonal (DNS)": "diagonal",
    "unconstrained (UNS)": "unconstrained",
    "full": "full",
    "symmetric": "symmetric",
    "PSD": "psd",
    "low rank, r = 3": nsl.LowRank(3),
    "l1 on UNS": nsl.L1("unconstrained", 1e-3),
    "at most 25 non-zeros": nsl.HardSparse(25),
    "shift": "shift",
    "dilated, factor 2": nsl.Dilated(2),
    "D R (learned shape)": "diagonal",
}
#: The same for every structure, with a larger rate than the tables' for the visible movement of M in so few steps.
RECIPE = Recipe(
    iterations=150, batch_size=64, learning_rate=0.1, schedule="linear", warmup=0.1, classifier_rate=0.1,
    augment="crop", evaluations=1,
)  # fmt: skip


class SmallNet(nn.Module):
    """root 3x3 | 5x5 NSL | pool | 5x5 NSL | pool | linear, batch norm and ReLU after each convolution.

    Shapes: [B, 3, 16, 16] to logits [B, 10].
    """

    def __init__(self, similarity: str | Structure, learn_shape: bool = False, width: int = 8) -> None:
        super().__init__()
        options: dict[str, Any] = {"padding": 2, "bias": False, "similarity": similarity, "learn_shape": learn_shape}
        self.root = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.first = nsl.NSConv2d(width, width, 5, **options)
        self.second = nsl.NSConv2d(width, 2 * width, 5, **options)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for channels in (width, width, 2 * width))
        self.classifier = nn.Linear(2 * width * 16, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.norms[0](self.root(images)))
        x = nn.functional.max_pool2d(torch.relu(self.norms[1](self.first(x))), 2)
        x = nn.functional.max_pool2d(torch.relu(self.norms[2](self.second(x))), 2)
        return self.classifier(x.flatten(1))


@dataclass(frozen=True)
class Outcome:
    """What one structure did.

    Attributes:
        label: of `STRUCTURES`.
        free_numbers: of the second layer, those of the shape included.
        matrices: M of the second layer before and after training; of an unshared one the block of the first channel.
        kernels: mean over filters and channels of |M^T W| [5, 5], before and after.
        test_error: percent.
        folded: what the second layer folds into.
        fold_gap: largest difference of the network's logits before and after folding.
    """

    label: str
    free_numbers: int
    matrices: tuple[NDArray[np.float64], NDArray[np.float64]]
    kernels: tuple[NDArray[np.float64], NDArray[np.float64]]
    test_error: float
    folded: str
    fold_gap: float

    @property
    def stayed_diagonal(self) -> bool:
        """Whether M is a diagonal without a zero after training, as it was before."""
        after = self.matrices[1]
        return bool(np.array_equal(after, np.diag(np.diag(after))) and np.diag(after).all())


@torch.no_grad()
def _seen(layer: nsl.NSConv2d) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    matrix = layer.similarity_matrix()[: layer.taps, : layer.taps]
    kernel = layer.effective_weight().abs().mean((0, 1))
    return matrix.double().numpy().copy(), kernel.double().numpy().copy()


def run(label: str, seed: int = 0) -> Outcome:
    """Train the small network with one structure on the digits."""
    dataset = nsl.data.load("digits", image_size=16)
    torch.manual_seed(seed)
    model = SmallNet(STRUCTURES[label], learn_shape=label.startswith("D R"))
    before = _seen(model.second)
    result = train(model, dataset, RECIPE, seed=seed, execution=Execution(device="cpu", progress=False))
    after = _seen(model.second)
    model.eval()
    images = dataset.test_images[:64].float() / 255
    with torch.no_grad():
        expected = model(images)
        neural = model.second.neural
        free = neural.similarity.numel() + (0 if neural.shape is None else neural.shape.numel())
        folded = nsl.fold(model)
        gap = float((folded(images) - expected).abs().max())
    description = repr(folded.second).replace("\n", " ")
    return Outcome(
        label,
        free,
        (before[0], after[0]),
        (before[1], after[1]),
        float("nan") if result.test_error is None else result.test_error,
        " ".join(description.split()),
        gap,
    )


def pictures(outcomes: list[Outcome]) -> Any:
    """M minus the identity and the kernel's effective shape, before and after, one column a structure."""
    figure = figures.new_figure(1.45 * len(outcomes) + 1.0, 6.2)
    axes = np.asarray(figure.subplots(4, len(outcomes), squeeze=False), dtype=object)
    moved = [matrix - np.eye(len(matrix)) for outcome in outcomes for matrix in outcome.matrices]
    spread = max(float(np.quantile(np.abs(matrix), 0.995)) for matrix in moved) or 1.0
    heights = max(float(kernel.max()) for outcome in outcomes for kernel in outcome.kernels)
    top: Any = None
    bottom: Any = None
    for column, outcome in enumerate(outcomes):
        axes[0, column].set_title(outcome.label, fontsize=7)
        for row in (0, 1):
            matrix = outcome.matrices[row] - np.eye(len(outcome.matrices[row]))
            top = axes[row, column].imshow(matrix, cmap="PuOr", vmin=-spread, vmax=spread)
            bottom = axes[2 + row, column].imshow(outcome.kernels[row], cmap="cividis", vmin=0, vmax=heights)
        for ax in axes[:, column]:
            ax.set(xticks=[], yticks=[])
    rows = ("$M - I$\nbefore", "$M - I$\nafter", "kernel\nbefore", "kernel\nafter")
    for ax, name in zip(axes[:, 0], rows):
        ax.set_ylabel(name, fontsize=8)
    figure.colorbar(top, ax=list(axes[:2].flatten()), label="$M - I$", shrink=0.8)
    figure.colorbar(bottom, ax=list(axes[2:].flatten()), label="mean $|M^T W|$", shrink=0.8)
    return figure


def markdown(outcomes: list[Outcome]) -> str:
    """The outcomes as a Markdown table."""
    lines = [
        "| Structure | Free numbers, 5x5 | Test error % | Non-zeros of M | Folds into | Largest change of a logit |",
        "|---|---|---|---|---|---|",
    ]
    for outcome in outcomes:
        after = outcome.matrices[1]
        part = " (first channel's block)" if outcome.label == "full" else ""
        kind = outcome.folded.split("(")[0]
        lines.append(
            f"| {outcome.label} | {outcome.free_numbers} | {outcome.test_error:.1f} "
            f"| {np.count_nonzero(after)} of {after.size}{part} | `{kind}` | {outcome.fold_gap:.0e} |"
        )
    return "\n".join(lines)
