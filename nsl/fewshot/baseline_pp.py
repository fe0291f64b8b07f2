"""Baseline++: classifiers by cosine, on the base classes and on the support set.

Source: Chen, Liu, Kira, Wang, Huang, "A closer look at few-shot classification", ICLR 2019. Not a row of the paper's
Table 6.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsl.fewshot.finetune import Pretrained
from nsl.fewshot.heads import cosine, cross_entropy, one_hot
from nsl.fewshot.method import Adapted
from nsl.fewshot.settings import Settings
from nsl.models.backbones import Backbone


class CosineClassifier(nn.Module):
    """Logits: `scale` times the cosine of feature and class weight.

    Shapes: [B, D] to [B, num_classes]; weight [num_classes, D].
    """

    def __init__(self, features: int, num_classes: int, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, features))
        self.scale = scale
        nn.init.kaiming_normal_(self.weight)

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * cosine(features, self.weight)


class _CosineNetwork(nn.Module):
    def __init__(self, backbone: Backbone, num_classes: int, image_size: int, scale: float) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = CosineClassifier(backbone.output_size(image_size), num_classes, scale)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.backbone(images))


class BaselinePlusPlus(Pretrained):
    """The cosine classifier of the base classes, replaced by one trained on the support set.

    Args:
        settings: the circumstances.
        scale: factor of the cosines.
        steps, rate, momentum: gradient descent on the support set, which starts from the class means.
    """

    name = "baseline_pp"

    def __init__(
        self,
        settings: Settings,
        *,
        scale: float = 10.0,
        steps: int = 40,
        rate: float = 0.1,
        momentum: float = 0.9,
    ) -> None:
        super().__init__(settings)
        self.scale, self.steps, self.rate, self.momentum = scale, steps, rate, momentum
        self._features = self.network.output_size(settings.image_size)

    def classifier(self, backbone: Backbone, classes: int) -> nn.Module:
        return _CosineNetwork(backbone, classes, self.settings.image_size, self.scale)

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "classifier": "cosine", "scale": self.scale}

    def adapted(self, support: Tensor, labels: Tensor, steps: int) -> Adapted:
        targets = one_hot(labels, self.settings.way, support.dtype)
        weight = F.normalize(targets.T @ F.normalize(support, dim=1), dim=1).requires_grad_()
        speed = torch.zeros_like(weight)
        for _ in range(steps):
            (gradient,) = torch.autograd.grad(cross_entropy(self.scale * cosine(support, weight), targets), weight)
            with torch.no_grad():
                speed.mul_(self.momentum).add_(gradient)
                weight.sub_(self.rate * speed)
        learned = weight.detach()
        return Adapted(lambda query: self.scale * cosine(query, learned), {"weight": learned})

    @property
    def adapted_parameters(self) -> int:
        return self.settings.way * self._features
