"""Why the training needs a warm-up: the classifier's curvature at the start, measured.

CNN-9's classifier is a linear layer without batch norm over 16 * 4w features (2048 at width 32), all non-negative
after ReLU and pooling, so their squared norm is in the thousands. The Hessian of the cross entropy with respect to
the classifier's weights is E[(diag(p) - p p^T) (x) h h^T]; its largest eigenvalue lambda grows with ||h||^2.
Gradient descent on it is stable for learning rates below 2 / lambda (below 2 (1 + momentum) / lambda with heavy-ball
momentum). At learning rate 0.1 the first steps are many times too long: the logits explode, their gradient drives
the last batch norms' shifts down until every ReLU is dead, and the loss settles at ln(classes), that of a guess.
The precision plays no part in it.

    python -m nsl.training.stability --data DIR       # the figures of DISCREPANCIES.md, on CIFAR-10
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nsl.arguments import Parser, whole
from nsl.data import Dataset, load, normalise
from nsl.models import PlainCNN, create_model
from nsl.training.batches import batches
from nsl.training.optimiser import parameter_groups
from nsl.training.ranges import LARGEST
from nsl.training.schedule import Recipe


@dataclass(frozen=True)
class Curvature:
    """feature_norm: mean ||h||^2; eigenvalue: lambda; limit, momentum_limit: largest stable learning rates."""

    feature_norm: float
    eigenvalue: float
    limit: float
    momentum_limit: float


@torch.no_grad()
def classifier_curvature(model: PlainCNN, images: Tensor, momentum: float = 0.9, iterations: int = 50) -> Curvature:
    """Largest Hessian eigenvalue with respect to the classifier, by power iteration.

    Args:
        model: a network with `features` and `classifier`, in training mode as at the first step.
        images: normalised float [B, 3, S, S].
        momentum: of the optimiser.
        iterations: of the power iteration.
    """
    features = model.features(images)
    logits = model.classifier(features).flatten(1).double()
    h, p = features.flatten(1).double(), logits.softmax(1)
    vector = torch.ones(p.shape[1], h.shape[1], dtype=torch.float64, device=p.device)
    vector[::2] = -1  # not constant over classes: that direction has no curvature
    eigenvalue = torch.zeros((), device=p.device)
    for _ in range(iterations):
        vector = vector / vector.norm()
        directional = h @ vector.T
        product = p * directional - p * (p * directional).sum(1, keepdim=True)
        vector = product.T @ h / len(h)
        eigenvalue = vector.norm()
    top = eigenvalue.item()
    return Curvature(h.square().sum(1).mean().item(), top, 2 / top, 2 * (1 + momentum) / top)


def first_steps(
    dataset: Dataset,
    *,
    learning_rate: float,
    classifier_rate: float,
    steps: int,
    width: int = 32,
    seed: int = 0,
    floor: float = 0.0,
) -> tuple[list[float], float, Curvature]:
    """Loss of the first steps of CNN-9 without a warm-up.

    ``floor`` is added to every probability before the logarithm, which bounds loss and gradient: the authors' SphereNet
    code has 1e-4 there.

    Returns:
        The losses, the fraction of images whose features are all zero after the last step (dead ReLUs), and the
        curvature before the first.
    """
    recipe = Recipe(iterations=steps, learning_rate=learning_rate, warmup=0.0, classifier_rate=classifier_rate)
    torch.manual_seed(seed)
    model = create_model("cnn9", dataset.num_classes, width=width, image_size=dataset.image_size)
    assert isinstance(model, PlainCNN)
    groups = parameter_groups(model, recipe)
    optimiser = torch.optim.SGD(
        [{**group, "lr": learning_rate * group["rate"]} for group in groups], momentum=recipe.momentum
    )
    losses, curvature, dead = [], None, 0.0
    for batch, labels in batches(dataset.train_images, dataset.train_labels, recipe, seed):
        inputs = normalise(batch, dataset.mean, dataset.std)
        if curvature is None:
            curvature = classifier_curvature(model, inputs, recipe.momentum)
        features = model.features(inputs)
        logits = model.classifier(features).flatten(1)
        loss = F.nll_loss((logits.softmax(1) + floor).log(), labels) if floor else F.cross_entropy(logits, labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        dead = float((features.flatten(1).amax(1) <= 0).float().mean())
    assert curvature is not None
    return losses, dead, curvature


def parser() -> Parser:
    """The command line."""
    made = Parser(prog="python -m nsl.training.stability", description=__doc__.splitlines()[0])
    made.add_argument("--data", default=None, help="folder of CIFAR-10 (default: NSL_DATA, then ~/.cache/nsl)")
    made.add_argument("--steps", type=whole(1, LARGEST), default=20, help="of the training (default: 20)")
    return made


def main(given: list[str] | None = None) -> None:
    """Print the figures."""
    try:
        arguments = parser().parse_args(given)
        _print(load("cifar10", arguments.data), arguments.steps)
    except (ValueError, OSError) as error:
        parser().exit(2, f"error: {' '.join(str(error).split())}\n")
    except KeyboardInterrupt:
        parser().exit(130, "Interrupted.\n")


def _print(dataset: Dataset, steps: int) -> None:
    for rate, floor in ((1.0, 0.0), (0.05, 0.0), (1.0, 1e-4)):
        losses, dead, curvature = first_steps(
            dataset, learning_rate=0.1, classifier_rate=rate, steps=steps, floor=floor
        )
        if (rate, floor) == (1.0, 0.0):
            print(
                f"CNN-9 at the start: ||h||^2 {curvature.feature_norm:.0f}, lambda {curvature.eigenvalue:.0f}, stable "
                f"below {curvature.limit:.4f} ({curvature.momentum_limit:.4f} with momentum 0.9)"
            )
        shown = " ".join(f"{loss:.2f}" for loss in losses)
        added = f", {floor:g} added to probabilities" if floor else ""
        print(f"learning rate 0.1, classifier {0.1 * rate:g}{added}: loss {shown}; dead {100 * dead:.0f} %")


if __name__ == "__main__":
    main()
