"""The nearest-neighbour baseline: the class of the support image whose features are closest.

Source: Ravi and Larochelle, "Optimization as a model for few-shot learning", ICLR 2017 (row "Baseline nearest
neighbor"), on the features of a classifier of the base classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nsl.fewshot.finetune import Pretrained
from nsl.fewshot.heads import cosine, squared_distances
from nsl.fewshot.method import Adapted
from nsl.fewshot.settings import Settings

METRICS = ("cosine", "euclidean")


class NearestNeighbour(Pretrained):
    """One nearest neighbour among the support images.

    Args:
        settings: the circumstances.
        metric: "cosine" or "euclidean".

    Raises:
        ValueError: unknown metric.
    """

    name = "nearest"

    def __init__(self, settings: Settings, *, metric: str = "cosine") -> None:
        if metric not in METRICS:
            raise ValueError(f"metric must be one of {list(METRICS)}, got {metric!r}")
        super().__init__(settings)
        self.metric = metric

    def adapted(self, support: Tensor, labels: Tensor, steps: int) -> Adapted:
        """The logits are the closeness of the nearest support image of every class, [Q, way]."""

        def classify(query: Tensor) -> Tensor:
            near = cosine(query, support) if self.metric == "cosine" else -squared_distances(query, support)
            return torch.stack([near[:, labels == w].amax(1) for w in range(self.settings.way)], 1)

        return Adapted(classify)

    @property
    def adapted_parameters(self) -> int:
        return 0
