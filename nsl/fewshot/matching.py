"""MatchingNet: an attention over the support set, optionally with full-context embeddings.

Source: Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra, "Matching networks for one shot learning", NeurIPS 2016.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nsl.data.fewshot import ImageSet
from nsl.fewshot.heads import cosine, full_precision, one_hot
from nsl.fewshot.meta import Tasks
from nsl.fewshot.method import Adapted, FewShotMethod
from nsl.fewshot.proto import flat
from nsl.fewshot.settings import History, Place, Settings
from nsl.models.backbones import Backbone, create_backbone
from nsl.training.execution import upload


class FullContext(nn.Module):
    """Embeddings that see the whole support set: a bidirectional LSTM g over it, and an attention LSTM f.

        g(x_i, S) = forward_i + backward_i + g'(x_i)
        h^_k, c_k = LSTM(f'(q), [h_{k-1}, r_{k-1}], c_{k-1}),  h_k = h^_k + f'(q)
        r_k = sum_i softmax_i(h_k . g(x_i)) g(x_i),            f(q, S) = h_K

    Args:
        features: D.
        processing_steps: K.

    Shapes: support [T, S, D] and query [T, Q, D] to the same shapes.
    """

    def __init__(self, features: int, processing_steps: int = 5) -> None:
        super().__init__()
        self.processing_steps = processing_steps
        self.over_support = nn.LSTM(features, features, batch_first=True, bidirectional=True)
        self.over_query = nn.LSTMCell(2 * features, features)

    def forward(self, support: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        both = self.over_support(support)[0]
        forward, backward = both.chunk(2, -1)
        known = forward + backward + support
        tasks, queries, size = query.shape
        start = query.reshape(-1, size)
        hidden, cell = start, torch.zeros_like(start)
        for _ in range(self.processing_steps):
            attention = (hidden.view(tasks, queries, size) @ known.transpose(1, 2)).softmax(-1)
            read = (attention @ known).reshape(-1, size)
            hidden, cell = self.over_query(torch.cat([start, read], 1), (hidden, cell))
            hidden = hidden + start
        return known, hidden.view(tasks, queries, size)


class _MatchingNetwork(nn.Module):
    def __init__(self, backbone: Backbone, context: FullContext | None) -> None:
        super().__init__()
        self.backbone = backbone
        self.context = context


class MatchingNet(FewShotMethod):
    """p(y | q, S) = sum_i a(q, x_i) y_i, a the softmax over the support of scaled cosines.

    Args:
        settings: the circumstances.
        full_context: use `FullContext` (the paper's Table 6 quotes the value with it).
        scale: of the cosines before the softmax. The source has none (1); with 1 the largest possible probability
            of a class in a 5-way 5-shot episode is 0.65, and the training barely moves.
    """

    name = "matching"
    features_once = True
    network: _MatchingNetwork

    def __init__(self, settings: Settings, *, full_context: bool = True, scale: float = 10.0) -> None:
        self.full_context, self.scale = full_context, scale
        super().__init__(settings)

    def build(self) -> _MatchingNetwork:
        backbone = create_backbone(self.settings.backbone, width=self.settings.width)
        size = backbone.output_size(self.settings.image_size)
        return _MatchingNetwork(backbone, FullContext(size) if self.full_context else None)

    def embed(self, images: Tensor) -> Tensor:
        return self.network.backbone(images)

    @full_precision
    def logits(self, support: Tensor, targets: Tensor, query: Tensor) -> Tensor:
        """log p of query [T, Q, D] given support [T, S, D] with one-hot targets [S, way]: [T, Q, way]."""
        if self.network.context is not None:
            support, query = self.network.context(support, query)
        attention = (self.scale * cosine(query, support)).softmax(-1)
        return (attention @ targets).clamp_min(1e-12).log()

    def loss(self, tasks: Tasks) -> Tensor:
        """Mean negative log likelihood of the queries."""
        way, count = self.settings.meta.way, len(tasks.support_labels)
        items = self.network.backbone(flat(tasks)).unflatten(0, (len(tasks.support), -1))
        support, query = items[:, :count], items[:, count:]
        if self.network.context is not None:
            # The LSTM reads a sequence: in a fixed order of classes it would learn the order.
            order = upload(torch.randperm(count, generator=tasks.generator, device="cpu"), support.device)
        else:
            order = torch.arange(count, device=support.device)
        targets = one_hot(tasks.support_labels[order], way, support.dtype)
        wanted = one_hot(tasks.query_labels, way, support.dtype)
        return -(self.logits(support[:, order], targets, query) * wanted).sum(-1).mean()

    def train(self, base: ImageSet, place: Place) -> History:
        return self.train_on_episodes(self.loss, base, place)

    def adapted(self, support: Tensor, labels: Tensor, steps: int) -> Adapted:
        draw = torch.Generator().manual_seed(0)
        order = upload(torch.randperm(len(labels), generator=draw, device="cpu"), labels.device)
        known, targets = support[order].unsqueeze(0), one_hot(labels[order], self.settings.way, support.dtype)
        return Adapted(lambda query: self.logits(known, targets, query.unsqueeze(0))[0])

    @property
    def adapted_parameters(self) -> int:
        return 0
