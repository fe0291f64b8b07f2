"""Discriminative k-shot learning: a Gaussian prior over softmax weights, learned from those of the base classes.

Source: Bauer, Rojas-Carulla, Swiatkowski, Schoelkopf, Turner, "Discriminative k-shot learning using probabilistic
models", arXiv 1706.00326, 2017. Its four steps:

    1. representational learning: a network with softmax weights W~ on the base classes; its features Phi stay fixed
    2. concept learning: a Gaussian prior N(w; mu, Sigma) over the weights of a class, fitted to the rows of W~
    3. k-shot learning: the posterior p(W | D) proportional to prod_c N(w_c; mu, Sigma) prod_n softmax(W Phi_n)_{y_n}
    4. k-shot testing: with the posterior's maximum
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nsl.data.fewshot import ImageSet
from nsl.fewshot.finetune import Pretrained
from nsl.fewshot.heads import feature_scale, one_hot
from nsl.fewshot.method import Adapted
from nsl.fewshot.settings import History, Place, Settings
from nsl.models.backbones import Backbone, BackboneClassifier

PRIORS = ("isotropic", "diagonal")


def fit_prior(weights: Tensor, prior: str = "isotropic") -> tuple[Tensor, Tensor]:
    """Mean and variances of a Gaussian over class weights, by moments.

    Args:
        weights: W~ [C, D], one row a base class.
        prior: "isotropic" (one variance) or "diagonal" (one a dimension).

    Returns:
        mu [D] and the diagonal of Sigma [D].

    Raises:
        ValueError: unknown prior.
    """
    if prior not in PRIORS:
        raise ValueError(f"prior must be one of {list(PRIORS)}, got {prior!r}")
    mean = weights.mean(0)
    variance = (weights - mean).square().mean(0)
    if prior == "isotropic":
        variance = variance.mean().expand_as(variance)
    return mean, variance.clamp_min(1e-12)


def log_posterior(weight: Tensor, features: Tensor, targets: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """log p(W | D) up to a constant.

    Args:
        weight: W [way, D].
        features: Phi [S, D].
        targets: one-hot [S, way].
        mean, variance: of the prior, [D].

    Returns:
        sum_n log softmax(W Phi_n)_{y_n} - 1/2 sum_c (w_c - mu)^T Sigma^-1 (w_c - mu), a scalar.
    """
    likelihood = ((features @ weight.T).log_softmax(1) * targets).sum()
    return likelihood - 0.5 * ((weight - mean).square() / variance).sum()


def maximum(features: Tensor, targets: Tensor, mean: Tensor, variance: Tensor, steps: int = 50) -> Tensor:
    """The weights [way, D] that maximise `log_posterior`, by L-BFGS from the prior's mean; arguments as there."""
    weight = mean.expand(targets.shape[1], -1).clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [weight], max_iter=steps, tolerance_grad=1e-9, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = -log_posterior(weight, features, targets, mean, variance)
        value.backward()
        return value

    optimiser.step(closure)
    return weight.detach()


class DiscriminativeKShot(Pretrained):
    """The posterior's maximum over the softmax weights of the new classes.

    Args:
        settings: the circumstances (the source's backbone is "resnet34").
        prior: "isotropic" or "diagonal".
        steps: L-BFGS iterations.

    The classifier of the base classes has no bias, so that its weights are all there is to a class.
    """

    name = "kshot"

    def __init__(self, settings: Settings, *, prior: str = "isotropic", steps: int = 50) -> None:
        if prior not in PRIORS:
            raise ValueError(f"prior must be one of {list(PRIORS)}, got {prior!r}")
        super().__init__(settings)
        self.prior, self.steps = prior, steps
        self._prior: tuple[Tensor, Tensor, Tensor] | None = None
        self._features = self.network.output_size(settings.image_size)

    def classifier(self, backbone: Backbone, classes: int) -> nn.Module:
        whole = BackboneClassifier(backbone, classes, self.settings.image_size)
        whole.classifier = nn.Linear(whole.classifier.in_features, classes, bias=False)
        return whole

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "classifier": "no bias"}

    def train(self, base: ImageSet, place: Place) -> History:
        whole, history = self.pretrain(base, place)
        assert isinstance(whole, BackboneClassifier)
        weights = whole.classifier.weight.detach()
        # Features are scaled to norm one for the optimiser's sake; the weights take the inverse, the products stay.
        some = torch.arange(0, len(base.labels), max(1, len(base.labels) // 512), device="cpu")
        scale = feature_scale(self.represent(base.images[some]))
        self._prior = (*fit_prior(weights / scale, self.prior), scale)
        return {"pretrain": history}

    def trained_tensors(self) -> dict[str, Tensor]:
        if self._prior is None:
            empty, scale = torch.empty(self._features, device="meta"), torch.empty((), device="meta")
            return {**super().trained_tensors(), "mean": empty, "variance": empty, "scale": scale}
        return {**super().trained_tensors(), **dict(zip(("mean", "variance", "scale"), self._prior))}

    def restore(self, tensors: dict[str, Tensor], moments: tuple[tuple[float, ...], tuple[float, ...]]) -> None:
        super().restore(tensors, moments)
        mean, variance, scale = (tensors[name].to(self.device) for name in ("mean", "variance", "scale"))
        self._prior = (mean, variance, scale)

    def adapted(self, support: Tensor, labels: Tensor, steps: int) -> Adapted:
        assert self._prior is not None
        mean, variance, scale = self._prior
        targets = one_hot(labels, self.settings.way, support.dtype)
        weight = maximum(support * scale, targets, mean, variance, steps) * scale
        return Adapted(lambda query: query @ weight.T, {"weight": weight})

    @property
    def adapted_parameters(self) -> int:
        return self.settings.way * self._features
