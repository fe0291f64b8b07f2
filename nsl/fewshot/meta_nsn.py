"""Meta-learned NSN: a pretrained backbone whose similarity is meta-learned (paper 7.2, equation 7).

    min_M sum_i L_i(f_{M'}),   M' = M - eta grad_M L_i(f_M)

The backbone is pretrained on the base classes and stays fixed to the bit; MAML is done over the similarity and the
classifier only. Batch norm keeps the running statistics of the pretraining, so that queries are classified one by
one, unlike in MAML.

A similarity and a classifier that starts from zero need different step sizes: on features of norm one the classifier
has to move by tens, while M stays near the identity. Each adapted tensor therefore has an inner rate of its own, which
is meta-learned with the start values (Li et al., "Meta-SGD", arXiv 1707.09835, 2017); the paper names none.

The paper leaves a meta-learned dynamic similarity to the future; `MetaDynamicNSN` is ours: the predictors take the
place of M.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from nsl.data.fewshot import ImageSet
from nsl.fewshot.finetune import BaseClassifier
from nsl.fewshot.heads import feature_scale
from nsl.fewshot.inner import Rates
from nsl.fewshot.maml import GradientMeta
from nsl.fewshot.meta import image_fetcher
from nsl.fewshot.settings import History, Place, Settings
from nsl.kernels.layouts import layouts_kept
from nsl.models.backbones import BackboneClassifier

#: Images over which mean and scale of the pretrained features are measured.
SCALE_IMAGES = 512


class StandardisedClassifier(BackboneClassifier):
    """A linear classifier, zero at first, on features minus a constant vector and times a constant scalar.

    The constants are the mean of the pretrained backbone's features on the base classes, and one over the mean norm of
    what is left. What all images have in common would otherwise be the direction of largest curvature, and limit the
    classifier's steps to what five of them cannot do much with.

    Attributes:
        centre, scale: the constants, [D] and a scalar.
        log_rates: [P], logarithms of the inner rates of the P tensors that are adapted, in their order.
    """

    centre: torch.Tensor
    scale: torch.Tensor
    log_rates: nn.Parameter

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.register_buffer("centre", torch.zeros(self.classifier.in_features))
        self.register_buffer("scale", torch.ones(()))
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    @torch.no_grad()
    def standardise(self, images: torch.Tensor) -> None:
        """Take the constants from the features of images [B, 3, S, S]."""
        with layouts_kept():
            features = self.backbone(images)
        self.centre.copy_(features.mean(0))
        self.scale.copy_(feature_scale(features - self.centre))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """[B, 3, S, S] to logits [B, way]."""
        return self.classifier((self.backbone(images) - self.centre) * self.scale)


class _MetaNSN(BaseClassifier, GradientMeta):
    """What the static and the dynamic variant share.

    Args:
        settings: the circumstances; the backbone is "cnn4" or "cnn9".
        similarity: "diagonal" or "unconstrained".
        classifier_rate, similarity_rate: the inner rates of the classifier and of what determines the similarity, at
            the start of the meta-training.
        learn_rates: whether the meta-training learns them, one a tensor, by their logarithms.
        train_steps, steps, first_order, first_order_until, validation_episodes, vectorise: as in
            `GradientMeta`.

    Raises:
        ValueError: a rate is not positive.
    """

    network: StandardisedClassifier

    def __init__(
        self,
        settings: Settings,
        *,
        similarity: str = "unconstrained",
        classifier_rate: float = 10.0,
        similarity_rate: float = 0.03,
        learn_rates: bool = True,
        train_steps: int = 5,
        steps: int = 5,
        first_order: bool = False,
        first_order_until: float = 0.0,
        validation_episodes: int = 0,
        vectorise: bool | None = None,
    ) -> None:
        for name, rate in (("classifier_rate", classifier_rate), ("similarity_rate", similarity_rate)):
            if not 0 < rate < float("inf"):
                raise ValueError(f"{self.name}: {name} must be positive, got {rate!r}")
        self.similarity = similarity
        self.classifier_rate, self.similarity_rate, self.learn_rates = classifier_rate, similarity_rate, learn_rates
        super().__init__(
            settings,
            train_steps=train_steps,
            steps=steps,
            first_order=first_order,
            first_order_until=first_order_until,
            validation_episodes=validation_episodes,
            vectorise=vectorise,
        )

    def build(self) -> StandardisedClassifier:
        network = StandardisedClassifier(self._backbone(self.kind), self.settings.way, self.settings.image_size)
        rates = [
            self.classifier_rate if name.startswith("classifier.") else self.similarity_rate
            for name, _ in network.named_parameters()
            if self.adapts(name)
        ]
        network.log_rates = nn.Parameter(torch.tensor(rates).log())
        return network

    def rates(self) -> Rates:
        return dict(zip(self.start(), self.network.log_rates.exp().unbind()))

    def learned_rates(self) -> list[nn.Parameter]:
        return [self.network.log_rates] if self.learn_rates else []

    @property
    def parameters(self) -> int:
        return super().parameters - (0 if self.learn_rates else self.network.log_rates.numel())

    @property
    def backbone(self) -> nn.Module:
        return self.network.backbone

    def train(self, base: ImageSet, place: Place) -> History:
        assert self.moments is not None
        _, before = self.pretrain(base, place)
        # Evaluation mode: the running statistics are part of the backbone that stays fixed.
        self.network.eval()
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(self.adapts(name))
        self.network.log_rates.requires_grad_(self.learn_rates)
        some = torch.arange(0, len(base.labels), max(1, len(base.labels) // SCALE_IMAGES), device="cpu")
        self.network.standardise(image_fetcher(base, self.moments, "none", self.device)(some, torch.Generator()))
        return {"pretrain": before, "meta": self.meta_train(base, place)}


class MetaStaticNSN(_MetaNSN):
    """Equation (7): the static similarity and the classifier are meta-learned, the kernels stay as pretrained."""

    name = "meta_static_nsn"
    kind = "static"
    adapts_similarities = True

    def pretrained_kind(self) -> str:
        return "none"

    def adapts(self, name: str) -> bool:
        return name.endswith(".similarity") or name.startswith("classifier.")


class MetaDynamicNSN(_MetaNSN):
    """The predictors of a dynamic network and the classifier are meta-learned; ours, not the paper's.

    Beside the options of all: `predictor` and `predictor_options`, see `nsl.DynamicNSConv2d`.

    Only the predictors' last convolutions are adapted: nothing but they stands between a step and the predicted
    similarity, as nothing does in the static network.
    """

    name = "meta_dynamic_nsn"
    kind = "dynamic"

    def __init__(
        self,
        settings: Settings,
        *,
        similarity: str = "diagonal",
        predictor: str = "sphere",
        predictor_options: dict[str, Any] | None = None,
        classifier_rate: float = 10.0,
        similarity_rate: float = 0.03,
        learn_rates: bool = True,
        train_steps: int = 5,
        steps: int = 5,
        validation_episodes: int = 0,
    ) -> None:
        self.predictor, self.predictor_options = predictor, predictor_options
        # First order and task by task: the compiled dynamic convolution has a first derivative only.
        super().__init__(
            settings,
            similarity=similarity,
            classifier_rate=classifier_rate,
            similarity_rate=similarity_rate,
            learn_rates=learn_rates,
            train_steps=train_steps,
            steps=steps,
            validation_episodes=validation_episodes,
            first_order=True,
            vectorise=False,
        )

    def adapts(self, name: str) -> bool:
        return ".predictor.second." in name or name.startswith("classifier.")

    @classmethod
    def task_passes(cls, support: int, query: int, options: Mapping[str, Any]) -> float:
        return super().task_passes(support, query, {**options, "first_order": True})
