"""RelationNet: a learned comparison of query and class.

Source: Sung, Yang, Zhang, Xiang, Torr, Hospedales, "Learning to compare: relation network for few-shot learning",
CVPR 2018.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsl.data.fewshot import ImageSet
from nsl.fewshot.heads import cross_entropy, full_precision, one_hot
from nsl.fewshot.meta import Tasks
from nsl.fewshot.method import Adapted, FewShotMethod
from nsl.fewshot.proto import flat
from nsl.fewshot.settings import History, Place, Settings
from nsl.models.backbone import Backbone, halve
from nsl.models.backbones import create_backbone


class Relation(nn.Module):
    """Two convolutions with batch norm, ReLU and pooling on the two maps side by side, then two linear layers.

    Args:
        channels: C of each of the two maps.
        size: h = w of the maps.
        hidden: of the linear layers.

    Shapes: [B, 2 * C, h, w] to logits [B] of the relation score.
    """

    def __init__(self, channels: int, size: int, hidden: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(2 * channels, channels, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels)
        for _ in range(2):
            size = max(1, size // 2)
        self.hidden = nn.Linear(channels * size * size, hidden)
        self.score = nn.Linear(hidden, 1)

    def forward(self, pairs: Tensor) -> Tensor:
        maps = halve(F.relu(self.first_norm(self.first(pairs))))
        maps = halve(F.relu(self.second_norm(self.second(maps))))
        return self.score(F.relu(self.hidden(maps.flatten(1)))).squeeze(1)


class _RelationNetwork(nn.Module):
    def __init__(self, backbone: Backbone, relation: Relation) -> None:
        super().__init__()
        self.backbone = backbone
        self.relation = relation


class RelationNet(FewShotMethod):
    """Relation scores r = sigmoid(g(class map, query map)), trained to 1 for equal and 0 for other classes.

    The class map is the sum over the shots (divided by their number: the same function up to the scale of a
    weight, and one network serves several shots). With CNN-4 only the first two blocks pool, as in the source.

    Args:
        settings: the circumstances.
        loss: "mse", the source's, or "cross_entropy" over the classes, which trains faster.
    """

    name = "relation"
    features_once = True
    network: _RelationNetwork

    def __init__(self, settings: Settings, *, loss: str = "mse") -> None:
        if loss not in ("mse", "cross_entropy"):
            raise ValueError(f"loss must be one of ['mse', 'cross_entropy'], got {loss!r}")
        self.objective = loss
        super().__init__(settings)

    def build(self) -> _RelationNetwork:
        options: dict[str, Any] = {"pools": 2} if self.settings.backbone == "cnn4" else {}
        backbone = create_backbone(self.settings.backbone, width=self.settings.width, **options)
        size = self.settings.image_size
        with torch.no_grad():
            maps = backbone.eval().features(next(backbone.parameters()).new_zeros(2, 3, size, size))
        backbone.train()
        return _RelationNetwork(backbone, Relation(backbone.channels, maps.shape[-1]))

    def embed(self, images: Tensor) -> Tensor:
        return self.network.backbone.features(images)

    def scores(self, classes: Tensor, query: Tensor) -> Tensor:
        """Logits of the scores of class maps [T, way, C, h, w] and query maps [T, Q, C, h, w]: [T, Q, way]."""
        tasks, way, queries = classes.shape[0], classes.shape[1], query.shape[1]
        left = classes.unsqueeze(1).expand(-1, queries, -1, -1, -1, -1)
        right = query.unsqueeze(2).expand(-1, -1, way, -1, -1, -1)
        pairs = torch.cat([left, right], 3).flatten(0, 2)
        return self.network.relation(pairs).view(tasks, queries, way)

    def loss(self, tasks: Tasks) -> Tensor:
        """The objective over all pairs of query and class."""
        way, count = self.settings.meta.way, len(tasks.support_labels)
        maps = self.network.backbone.features(flat(tasks)).unflatten(0, (len(tasks.support), -1))
        classes = maps[:, :count].unflatten(1, (way, -1)).mean(2)
        scores = self.scores(classes, maps[:, count:])
        return self.objective_of(scores, one_hot(tasks.query_labels, way, tasks.query.dtype))

    @full_precision
    def objective_of(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Of logits [T, Q, way] and one-hot targets [Q, way]."""
        if self.objective == "mse":
            return (scores.sigmoid() - targets).square().mean()
        return cross_entropy(scores, targets)

    def train(self, base: ImageSet, place: Place) -> History:
        return self.train_on_episodes(self.loss, base, place)

    def adapted(self, support: Tensor, labels: Tensor, steps: int) -> Adapted:
        classes = torch.stack([support[labels == w].mean(0) for w in range(self.settings.way)])
        return Adapted(lambda query: self.scores(classes.unsqueeze(0), query.unsqueeze(0))[0])

    @property
    def adapted_parameters(self) -> int:
        return 0
