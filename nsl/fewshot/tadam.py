"""TADAM: prototypes with a learned metric scale and a backbone conditioned on the task.

Source: Oreshkin, Rodriguez, Lacoste, "TADAM: task dependent adaptive metric for improved few-shot learning",
NeurIPS 2018.

    p(y = k | x) = softmax(-alpha d(z(x), c_k)),  d squared Euclidean, alpha learned          metric scaling
    z(x) = f(x; gamma, beta): every convolution's map, after batch norm, is gamma * map + beta   conditioning
    gamma = gamma_0 g(c) + 1,  beta = beta_0 h(c),  c = mean of the unconditioned prototypes  task embedding network

gamma_0 and beta_0 are scalars, one of each a convolution, and penalised, so that conditioning is used where it helps;
with them zero the network is the unconditioned one. Now and then a step also trains on all base classes; as in the
authors' code that comes beside the episodes, and does not replace them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsl.data.fewshot import ImageSet
from nsl.fewshot.heads import class_means, cross_entropy, one_hot, prototypes, squared_distances
from nsl.fewshot.meta import Fetch, Tasks, image_fetcher
from nsl.fewshot.method import STEP_PASSES, Adapted, FewShotMethod
from nsl.fewshot.settings import History, Place, Settings
from nsl.models.backbone import Film
from nsl.models.backbones import ResNet12, create_backbone
from nsl.training.execution import upload


class _Embedding(nn.Module):
    """A residual fully connected network: [D] to [channels]."""

    def __init__(self, features: int, channels: int) -> None:
        super().__init__()
        self.first = nn.Linear(features, channels)
        self.second = nn.Linear(channels, channels)
        self.third = nn.Linear(channels, channels)

    def forward(self, task: Tensor) -> Tensor:
        start = F.relu(self.first(task))
        return self.third(start + F.relu(self.second(start)))


class TaskEmbeddingNetwork(nn.Module):
    """One (gamma, beta) a convolution from the task's representation.

    Args:
        features: D of the representation.
        channels: of every conditioned convolution.

    Shapes: [D] to a list of (gamma [C_l], beta [C_l]).
    """

    def __init__(self, features: int, channels: list[int]) -> None:
        super().__init__()
        self.gammas = nn.ModuleList(_Embedding(features, size) for size in channels)
        self.betas = nn.ModuleList(_Embedding(features, size) for size in channels)
        self.gamma_scale = nn.ParameterList(nn.Parameter(torch.zeros(())) for _ in channels)
        self.beta_scale = nn.ParameterList(nn.Parameter(torch.zeros(())) for _ in channels)

    def forward(self, task: Tensor) -> Film:
        return [
            (gamma_scale * gamma(task) + 1, beta_scale * beta(task))
            for gamma, beta, gamma_scale, beta_scale in zip(
                self.gammas, self.betas, self.gamma_scale, self.beta_scale
            )
        ]

    def penalty(self) -> Tensor:
        """Half the sum of squares of gamma_0 and beta_0."""
        return 0.5 * torch.stack([*self.gamma_scale, *self.beta_scale]).square().sum()


class _TadamNetwork(nn.Module):
    def __init__(self, backbone: ResNet12, image_size: int) -> None:
        super().__init__()
        features = backbone.output_size(image_size)
        self.backbone = backbone
        self.task = TaskEmbeddingNetwork(features, backbone.film_channels())
        # The start is not given: twice the mean squared difference, so that no width starts overconfident. By its
        # logarithm, because Adam's first steps would otherwise carry a small scale through zero.
        self.log_metric_scale = nn.Parameter(torch.tensor(math.log(2.0 / features)))
        self.auxiliary: nn.Linear | None = None

    def embed(self, images: Tensor, film: Film | None = None) -> Tensor:
        """[B, 3, S, S] to [B, D]."""
        return self.backbone.features(images, film).mean((2, 3))


class TADAM(FewShotMethod):
    """Metric scaling, task conditioning and auxiliary co-training.

    Args:
        settings: the circumstances; the backbone must be "resnet12".
        conditioning: use the task embedding network.
        penalty: coefficient of half the squares of gamma_0 and beta_0.
        auxiliary: train on all base classes too, with probability 0.9^(1 + floor(20 t / T)) at iteration t of T.
        auxiliary_batch: images of all base classes in such a step.

    Raises:
        ValueError: another backbone.
    """

    name = "tadam"
    network: _TadamNetwork

    def __init__(
        self,
        settings: Settings,
        *,
        conditioning: bool = True,
        penalty: float = 0.01,
        auxiliary: bool = True,
        auxiliary_batch: int = 64,
    ) -> None:
        if settings.backbone != "resnet12":
            raise ValueError(f"tadam: the backbone must be 'resnet12', got {settings.backbone!r}")
        super().__init__(settings)
        self.conditioning, self.penalty = conditioning, penalty
        self.auxiliary, self.auxiliary_batch = auxiliary, auxiliary_batch
        self._base: tuple[Fetch, Tensor] | None = None

    def build(self) -> _TadamNetwork:
        backbone = create_backbone("resnet12", width=self.settings.width)
        assert isinstance(backbone, ResNet12)
        return _TadamNetwork(backbone, self.settings.image_size)

    def condition(self, support: Tensor, labels: Tensor, way: int) -> Film | None:
        """gamma and beta for a support set [S, 3, h, w]; None without conditioning."""
        if not self.conditioning:
            return None
        return self.network.task(class_means(self.network.embed(support), labels, way).mean(0))

    def logits(self, query: Tensor, centres: Tensor) -> Tensor:
        """-alpha ||q - c||^2 of features [Q, D] and prototypes [way, D]: [Q, way]."""
        return -self.network.log_metric_scale.exp() * squared_distances(query, centres)

    def loss(self, tasks: Tasks) -> Tensor:
        """Episodes, and now and then all base classes."""
        meta = self.settings.meta
        total = self.penalty * self.network.task.penalty()
        chance = _chance(tasks.iteration, meta.iterations)
        if self.auxiliary and float(torch.rand((), generator=tasks.generator, device="cpu")) < chance:
            total = total + self.auxiliary_loss(tasks.generator)
        for support, query in zip(tasks.support, tasks.query):
            film = self.condition(support, tasks.support_labels, meta.way)
            both = torch.cat([support, query]).contiguous(memory_format=torch.channels_last)
            items = self.network.embed(both, film)
            centres = prototypes(items[: len(support)], meta.way)
            logits = self.logits(items[len(support) :], centres)
            targets = one_hot(tasks.query_labels, meta.way, logits.dtype)
            total = total + cross_entropy(logits, targets) / len(tasks.support)
        return total

    def auxiliary_loss(self, draw: torch.Generator) -> Tensor:
        """Cross entropy over all base classes on a random batch, without conditioning."""
        assert self._base is not None
        assert self.network.auxiliary is not None
        fetch, labels = self._base
        where = torch.randint(0, len(labels), (self.auxiliary_batch,), generator=draw, device="cpu")
        logits = self.network.auxiliary(self.network.embed(fetch(where, draw)))
        return F.cross_entropy(logits.float(), upload(labels[where], logits.device))

    def train(self, base: ImageSet, place: Place) -> History:
        assert self.moments is not None
        settings = self.settings
        torch.manual_seed(settings.seed)
        features = self.network.backbone.output_size(settings.image_size)
        self.network.auxiliary = nn.Linear(features, base.num_classes).to(self.device)
        fetch = image_fetcher(base, self.moments, settings.meta.augment, self.device)
        self._base = fetch, base.labels
        history = self.train_on_episodes(self.loss, base, place, fetch)
        # The classifier of the base classes helps the training only.
        self.network.auxiliary, self._base = None, None
        return history

    @torch.no_grad()
    def adapted(self, support: Tensor, labels: Tensor, steps: int) -> Adapted:
        way = self.settings.way
        film = self.condition(support, labels, way)
        centres = class_means(self.network.embed(support, film), labels, way)
        return Adapted(lambda query: self.logits(self.network.embed(query, film), centres))

    @classmethod
    def task_passes(cls, support: int, query: int, options: Mapping[str, Any]) -> float:
        twice = support if options["conditioning"] else 0  # without conditioning, for the task's representation
        more = options["auxiliary_batch"] * fmean(_chance(t, 20) for t in range(20)) if options["auxiliary"] else 0.0
        # More than one task a step would share the auxiliary images.
        return STEP_PASSES * (support + query + twice + more)

    @classmethod
    def episode_passes(cls, support: int, query: int, steps: int) -> int:
        return 2 * support + query

    @property
    def adapted_parameters(self) -> int:
        """None is learned for a task: gamma and beta are predicted."""
        return 0


def _chance(iteration: int, iterations: int) -> float:
    """Of training on all base classes too at an iteration."""
    return float(0.9 ** (1 + 20 * iteration // iterations))
