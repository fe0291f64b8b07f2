"""Baseline++: classifiers by cosine, on the base classes and on the support set.

Source: Chen, Liu, Kira, Wang, Huang, "A closer look at few-shot classification", ICLR 2019. Not a row of the paper's
Table 6.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from nsl.fewshot.finetune import Pretrained
from nsl.fewshot.heads import cosine, cross_entropy, one_hot
from nsl.fewshot.method import Adapted
from nsl.fewshot.settings import Settings
from nsl.layers.similarity import random_state_kept
from nsl.models.backbones import Backbone
from nsl.training.execution import upload


class CosineClassifier(nn.Module):
    """Logits: `scale` times the class's learned norm times the cosine of feature and class direction.

    Shapes: [B, D] to [B, num_classes]; direction [num_classes, D], norm [num_classes].
    """

    def __init__(self, features: int, num_classes: int, scale: float) -> None:
        super().__init__()
        self.direction = nn.Parameter(torch.empty(num_classes, features))
        self.scale = scale
        nn.init.kaiming_uniform_(self.direction, a=math.sqrt(5))  # as of `nn.Linear`
        self.norm = nn.Parameter(self.direction.detach().norm(dim=1))

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * self.norm * cosine(features, self.direction)


class _CosineNetwork(nn.Module):
    def __init__(self, backbone: Backbone, num_classes: int, image_size: int, scale: float) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = CosineClassifier(backbone.output_size(image_size), num_classes, scale)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.backbone(images))


class BaselinePlusPlus(Pretrained):
    """The cosine classifier of the base classes, replaced by one trained on the support set from a random start.

    All numbers are those of the authors' code; start and batches follow from the seed of the settings, so that they are
    the same in every task.

    Args:
        settings: the circumstances.
        scale: factor of the cosines (theirs: 2 up to 200 classes).
        steps: gradient steps, on `batch_size` images each: 100 passes over a support set of 25.
        rate, momentum, dampening, decay: of the descent.
        batch_size: images of a step; every pass over the support set is in a new order.
    """

    name = "baseline_pp"

    def __init__(
        self,
        settings: Settings,
        *,
        scale: float = 2.0,
        steps: int = 700,
        rate: float = 0.01,
        momentum: float = 0.9,
        dampening: float = 0.9,
        decay: float = 1e-3,
        batch_size: int = 4,
    ) -> None:
        super().__init__(settings)
        self.scale, self.steps, self.batch_size = scale, steps, batch_size
        self.rate, self.momentum, self.dampening, self.decay = rate, momentum, dampening, decay
        self._features = self.network.output_size(settings.image_size)

    def classifier(self, backbone: Backbone, classes: int) -> nn.Module:
        return _CosineNetwork(backbone, classes, self.settings.image_size, self.scale)

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "classifier": "cosine, norms", "scale": self.scale}

    def adapted(self, support: Tensor, labels: Tensor, steps: int) -> Adapted:
        targets = one_hot(labels, self.settings.way, support.dtype)
        with random_state_kept():
            torch.manual_seed(self.settings.seed)
            head = CosineClassifier(self._features, self.settings.way, self.scale).to(support)
            batches = _batches(len(support), self.batch_size, steps)
        optimiser = torch.optim.SGD(
            head.parameters(), self.rate, self.momentum, dampening=self.dampening, weight_decay=self.decay
        )
        for places in batches:
            here = upload(places, support.device)
            optimiser.zero_grad()
            cross_entropy(head(support[here]), targets[here]).backward()
            optimiser.step()
        head.requires_grad_(False)
        return Adapted(head, {"direction": head.direction, "norm": head.norm})

    @property
    def adapted_parameters(self) -> int:
        return self.settings.way * (self._features + 1)


def _batches(items: int, size: int, count: int) -> list[Tensor]:
    """Positions of so many batches: passes over all items in random order, the last batch of a pass shorter."""
    found: list[Tensor] = []
    while len(found) < count:
        found += torch.randperm(items, device="cpu").split(size)
    return found[:count]
