"""The finetuning baseline: a classifier of the base classes, finetuned on the support set.

Source: Ravi and Larochelle, "Optimization as a model for few-shot learning", ICLR 2017 (row "Baseline finetune");
with the backbone frozen it is the "Baseline" of Chen et al., "A closer look at few-shot classification", ICLR 2019.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nsl.data.fewshot import ImageSet
from nsl.fewshot.heads import cross_entropy, feature_scale, fit_linear, one_hot
from nsl.fewshot.method import STEP_PASSES, Adapted, FewShotMethod
from nsl.fewshot.pretrain import pretrain
from nsl.fewshot.settings import History, Place, Settings
from nsl.models.backbones import Backbone, BackboneClassifier, create_backbone


class BaseClassifier(FewShotMethod):
    """A method that starts from the backbone of a classifier of the base classes, which exists during `train` only."""

    #: "none", "static" or "dynamic", and the structure: of the backbone that `build` makes.
    kind, similarity = "none", "diagonal"
    #: Of a dynamic similarity, see `nsl.DynamicNSConv2d`.
    predictor = "sphere"
    predictor_options: dict[str, Any] | None = None

    @property
    def backbone(self) -> nn.Module:
        """The part of `network` that the base classes train."""
        return self.network

    def _backbone(self, kind: str) -> Backbone:
        settings = self.settings
        return create_backbone(
            settings.backbone,
            width=settings.width,
            kind=kind,
            similarity=self.similarity,
            predictor=self.predictor,
            predictor_options=self.predictor_options if kind == "dynamic" else None,
        )

    def classifier(self, backbone: Backbone, classes: int) -> nn.Module:
        """The network that is trained on the base classes; `backbone` is its attribute of that name."""
        return BackboneClassifier(backbone, classes, self.settings.image_size)

    def pretrained_kind(self) -> str:
        """Kind of the backbone that is trained on the base classes."""
        return self.kind

    def identity(self) -> dict[str, Any]:
        """What tells the classifier of the base classes from others."""
        kind = self.pretrained_kind()
        found: dict[str, Any] = {"backbone": self.settings.backbone, "width": self.settings.width, "kind": kind}
        if kind != "none":
            found |= {"similarity": self.similarity, "predictor": [self.predictor, self.predictor_options]}
        return found

    def pretrain(self, base: ImageSet, place: Place) -> tuple[nn.Module, History]:
        """Train the base classes' classifier; its backbone's weights go into `backbone`."""
        settings = self.settings
        torch.manual_seed(settings.seed)
        backbone = self._backbone(self.pretrained_kind())
        whole = self.classifier(backbone, base.num_classes).to(self.device)
        history = pretrain(
            whole,
            base,
            settings.pretrain,
            seed=settings.seed,
            device=settings.device,
            identity=self.identity(),
            place=place,
        )
        # A static similarity that was not trained stays the identity: the only names that may be missing.
        missing, unexpected = self.backbone.load_state_dict(backbone.state_dict(), strict=False)
        assert not unexpected
        assert all(name.endswith(".similarity") for name in missing)
        return whole, history


class Pretrained(BaseClassifier):
    """What methods share whose `network` is that backbone."""

    features_once = True
    network: Backbone

    def build(self) -> Backbone:
        return self._backbone(self.kind)

    def train(self, base: ImageSet, place: Place) -> History:
        return {"pretrain": self.pretrain(base, place)[1]}

    def embed(self, images: Tensor) -> Tensor:
        return self.network(images)


class LinearOnFeatures(Pretrained):
    """A linear classifier retrained on frozen features: they are computed once, not once an episode."""

    name = "linear"

    def __init__(self, settings: Settings, *, steps: int = 100, rate: float = 1.0, decay: float = 1e-3) -> None:
        super().__init__(settings)
        self.steps, self.rate, self.decay = steps, rate, decay
        self._features = self.network.output_size(settings.image_size)

    def adapted(self, support: Tensor, labels: Tensor, steps: int) -> Adapted:
        scale = feature_scale(support)
        targets = one_hot(labels, self.settings.way, support.dtype)
        weight, bias = fit_linear(support * scale, targets, steps=steps, rate=self.rate, decay=self.decay)
        return Adapted(
            lambda query: torch.addmm(bias, query * scale, weight.T),
            {"classifier.weight": weight, "classifier.bias": bias},
        )

    @property
    def adapted_parameters(self) -> int:
        return self.settings.way * (self._features + 1)


class GradientAdaptation(Pretrained):
    """Gradient steps with momentum on chosen parameters of the backbone and on a new linear classifier.

    Batch norm keeps the running statistics of the base classes, so that a query's class does not depend on the
    other queries; without a step the features are those of the pretrained backbone.

    Args:
        settings: the circumstances.
        steps: gradient steps on the whole support set.
        rate: step size of the classifier, which sees features of mean norm one and starts from zero.
        backbone_rate: step size of the backbone's parameters.
        momentum: of the steps.
        decay: l2 coefficient on the classifier's weight.
    """

    features_once = False

    def __init__(
        self,
        settings: Settings,
        *,
        steps: int = 40,
        rate: float = 1.0,
        backbone_rate: float = 0.01,
        momentum: float = 0.9,
        decay: float = 1e-3,
    ) -> None:
        super().__init__(settings)
        self.steps, self.rate, self.backbone_rate = steps, rate, backbone_rate
        self.momentum, self.decay = momentum, decay
        self._features = self.network.output_size(settings.image_size)

    def adapts(self, name: str) -> bool:
        """Whether `adapt` changes this parameter of the backbone."""
        return True

    def embed(self, images: Tensor) -> Tensor:
        return images

    def features(self, fast: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """[B, 3, S, S] to [B, D] with adapted parameters, by the backbone's names; others are not looked at."""
        own = {name: value for name, value in fast.items() if not name.startswith("classifier.")}
        return torch.func.functional_call(self.network, own, (images,))

    def adapted(self, support: Tensor, labels: Tensor, steps: int) -> Adapted:
        way = self.settings.way
        targets = one_hot(labels, way, support.dtype)
        start = {name: p for name, p in self.network.named_parameters() if self.adapts(name)}
        fast = {name: p.detach().clone().requires_grad_() for name, p in start.items()}
        with torch.no_grad():
            scale = feature_scale(self.features(fast, support))
        weight = support.new_zeros(way, self._features).requires_grad_()
        bias = support.new_zeros(way).requires_grad_()
        leaves = [*fast.values(), weight, bias]
        rates = [self.backbone_rate] * len(fast) + [self.rate, self.rate]
        speeds = [torch.zeros_like(leaf) for leaf in leaves]
        for _ in range(steps):
            logits = torch.addmm(bias, self.features(fast, support) * scale, weight.T)
            loss = cross_entropy(logits, targets) + 0.5 * self.decay * weight.square().sum()
            gradients = torch.autograd.grad(loss, leaves)
            with torch.no_grad():
                for leaf, gradient, speed, rate in zip(leaves, gradients, speeds, rates):
                    speed.mul_(self.momentum).add_(gradient)
                    leaf.sub_(rate * speed)
        head = {"classifier.weight": weight, "classifier.bias": bias}
        learned = {name: p.detach() for name, p in {**fast, **head}.items()}

        def classify(query: Tensor) -> Tensor:
            w, b = learned["classifier.weight"], learned["classifier.bias"]
            return torch.addmm(b, self.features(learned, query) * scale, w.T)

        return Adapted(classify, learned)

    @classmethod
    def episode_passes(cls, support: int, query: int, steps: int) -> int:
        return STEP_PASSES * steps * support + query

    @property
    def adapted_parameters(self) -> int:
        inner = sum(p.numel() for name, p in self.network.named_parameters() if self.adapts(name))
        return inner + self.settings.way * (self._features + 1)


class Finetune(GradientAdaptation):
    """All parameters and a new classifier are finetuned on the support set."""

    name = "finetune"


class FinetuneClassifier(LinearOnFeatures):
    """Only a new classifier is trained, on frozen features (Chen et al., 2019: "Baseline").

    The classifier is the one of `DynamicNSN`, so that the two differ in the backbone alone.
    """

    name = "finetune_classifier"
