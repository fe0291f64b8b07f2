"""MAML: an initialisation from which a few gradient steps adapt the whole network.

Source: Finn, Abbeel, Levine, "Model-agnostic meta-learning for fast adaptation of deep networks", ICML 2017; the
first-order variant is from the same paper.

Batch norm always uses the statistics of the batch it sees, support or query, in training and in testing, and keeps no
running ones, as the authors' code does. The query set of an episode is therefore classified jointly (transductively).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nsl.data.episodes import EpisodeSampler
from nsl.data.fewshot import ImageSet
from nsl.fewshot.evaluation import evaluate, now
from nsl.fewshot.heads import cross_entropy, one_hot
from nsl.fewshot.inner import Parameters, Rates, descend_once, meta_loss
from nsl.fewshot.meta import Tasks, image_fetcher, meta_train
from nsl.fewshot.method import STEP_PASSES, Adapted, FewShotMethod
from nsl.fewshot.pretrain import as_dataset
from nsl.fewshot.settings import History, Place, Settings
from nsl.kernels.layouts import layouts_kept
from nsl.models.backbones import BackboneClassifier, create_backbone

#: Largest images on which tasks side by side pay on a CPU; measured on two cores by `make bench`.
VECTORISED_SIZE = 16


class GradientMeta(FewShotMethod):
    """What MAML and the meta-learned similarities share: start values that are trained through gradient steps.

    Args:
        settings: the circumstances; `settings.meta.way` must be `settings.way`, whose classifier is meta-learned.
        rate: of the inner gradient steps.
        train_steps: inner steps in training.
        steps: inner steps in testing.
        first_order: see `nsl.fewshot.inner.descend`.
        first_order_until: the part of the meta-training, 0 to 1, that is of first order before the rest is of second
            order (derivative-order annealing: Antoniou et al., "How to train your MAML", ICLR 2019): it sees
            several times as many episodes in the same time.
        validation_episodes: episodes of the validation classes by which the training chooses between its start and its
            later states; 0, or no validation classes in `fit`: it ends with its last.
        vectorise: see `nsl.fewshot.inner.meta_loss`; None: where it pays. On a CPU that is on small images, as was
            measured: per-task kernels become grouped convolutions, which are slow on maps that fill a core by
            themselves. On CUDA both are timed when the training begins, and the faster is kept in its checkpoint and
            its history ("choice"): their sums have different orders.

    Raises:
        ValueError: training episodes have another number of classes, or a part is not within 0 and 1.
    """

    network: BackboneClassifier

    def __init__(
        self,
        settings: Settings,
        *,
        rate: float = 0.01,
        train_steps: int = 5,
        steps: int = 10,
        first_order: bool = False,
        first_order_until: float = 0.0,
        validation_episodes: int = 0,
        vectorise: bool | None = None,
    ) -> None:
        if settings.meta.way != settings.way:
            raise ValueError(
                f"{self.name}: training episodes must have the {settings.way} classes of test episodes, "
                f"got {settings.meta.way}"
            )
        if not 0 <= first_order_until <= 1:
            raise ValueError(f"{self.name}: first_order_until must be within 0 and 1, got {first_order_until!r}")
        super().__init__(settings)
        self.rate, self.train_steps, self.steps = rate, train_steps, steps
        self.first_order, self.first_order_until = first_order, first_order_until
        self.validation_episodes = validation_episodes
        # Under autocast vmap's batched products mix precisions.
        possible = settings.meta.precision == "float32"
        self.measures = vectorise is None and possible and self.device.type == "cuda"
        usual = possible and settings.image_size <= VECTORISED_SIZE
        self.vectorise = usual if vectorise is None else vectorise

    def fit(self, base: ImageSet, place: Place | None = None, validation: ImageSet | None = None) -> History:
        if self.validation_episodes and isinstance(validation, ImageSet):
            meta, names = self.settings.meta, validation.class_names
            try:  # before any training: a backbone's takes hours
                EpisodeSampler(validation.labels, self.settings.way, meta.shot, meta.query, 1, class_names=names)
            except ValueError as error:
                raise ValueError(f"{self.name}: no episode of the validation classes is possible. {error}") from None
        return super().fit(base, place, validation)

    def adapts(self, name: str) -> bool:
        """Whether the inner steps change this parameter of `network`."""
        return True

    def start(self) -> dict[str, nn.Parameter]:
        """The parameters that are meta-learned and adapted; no other is touched."""
        return {name: p for name, p in self.network.named_parameters() if self.adapts(name)}

    def rates(self) -> Rates:
        """Step sizes of the inner steps, in training and in testing."""
        return self.rate

    def learned_rates(self) -> list[nn.Parameter]:
        """What the meta-training learns beside `start`."""
        return []

    def inner_loss(self, fast: Parameters, items: Tensor, targets: Tensor) -> Tensor:
        """Mean cross entropy of items [n, 3, S, S] with one-hot targets [n, way] under `fast`."""
        with layouts_kept():
            return cross_entropy(torch.func.functional_call(self.network, fast, (items,)), targets)

    def loss(self, tasks: Tasks) -> Tensor:
        """The meta-loss of a meta-batch."""
        way, dtype = self.settings.way, tasks.support.dtype
        early = tasks.iteration < self.first_order_until * self.settings.meta.iterations
        first_order = self.first_order or early
        return meta_loss(
            # Twice as fast; of second order it is slower, and vmap has no such layout.
            self._channels_last if first_order and not self.vectorise else self.inner_loss,
            dict(self.start()),
            tasks.support,
            one_hot(tasks.support_labels, way, dtype),
            tasks.query,
            one_hot(tasks.query_labels, way, dtype),
            steps=self.train_steps,
            rate=self.rates(),
            first_order=first_order,
            vectorise=self.vectorise,
        )

    def _channels_last(self, fast: Parameters, items: Tensor, targets: Tensor) -> Tensor:
        return self.inner_loss(fast, items.contiguous(memory_format=torch.channels_last), targets)

    def meta_train(self, base: ImageSet, place: Place) -> History:
        """Learn the start values, and rates where they are learned, on episodes of the base classes."""
        assert self.moments is not None
        settings, identity, score = self.settings, self.training_identity(base), None
        if self.validation_episodes and self.validation is not None:
            identity["validation"] = as_dataset(self.validation).fingerprint
            score = self._score(self.validation)
        return meta_train(
            self.network,
            self.loss,
            base,
            image_fetcher(base, self.moments, settings.meta.augment, self.device),
            settings.meta,
            seed=settings.seed,
            identity=identity,
            device=self.device,
            place=place,
            parameters=[*self.start().values(), *self.learned_rates()],
            score=score,
            choose=self._choose if self.measures else None,
        )

    def _choose(self, known: bool | None, tasks: Tasks) -> bool:
        """Whether to compute tasks side by side: as before, or as is faster."""
        self.vectorise = self._seconds(True, tasks) < self._seconds(False, tasks) if known is None else known
        return self.vectorise

    def _seconds(self, vectorise: bool, tasks: Tasks) -> float:
        """Of two gradients computed so, after one that warms up; infinite where memory does not suffice."""
        self.vectorise = vectorise
        try:
            for turn in range(3):
                if turn == 1:
                    started = now(self.device)
                torch.autograd.grad(self.loss(tasks), [*self.start().values()], allow_unused=True)
            return now(self.device) - started
        except torch.OutOfMemoryError:  # side by side, which takes more
            return float("inf")

    def _score(self, validation: ImageSet) -> Callable[[], float]:
        """Mean accuracy in percent on the same episodes whenever it is called."""
        represented, meta = self.represent(validation.images), self.settings.meta

        def score() -> float:
            count, seed = self.validation_episodes, self.settings.seed
            return evaluate(self, validation, meta.shot, meta.query, count, seed, represented).mean

        return score

    def train(self, base: ImageSet, place: Place) -> History:
        return {"meta": self.meta_train(base, place)}

    def adapted(self, support: Tensor, labels: Tensor, steps: int) -> Adapted:
        targets = one_hot(labels, self.settings.way, support.dtype)
        start: Parameters = dict(self.start())
        fast = descend_once(lambda p: self._channels_last(p, support, targets), start, steps, self.rates())

        def classify(query: Tensor) -> Tensor:
            query = query.contiguous(memory_format=torch.channels_last)
            return torch.func.functional_call(self.network, fast, (query,))

        return Adapted(classify, fast)

    @classmethod
    def task_passes(cls, support: int, query: int, options: Mapping[str, Any]) -> float:
        """A step of second order is differentiated once more."""
        first = options.get("first_order", False) or options.get("first_order_until", 0.0)
        inner = int(options.get("train_steps", 5)) * (2 - float(first))
        return STEP_PASSES * (support * inner + query)

    @classmethod
    def episode_passes(cls, support: int, query: int, steps: int) -> int:
        return STEP_PASSES * steps * support + query

    @property
    def adapted_parameters(self) -> int:
        return sum(p.numel() for p in self.start().values())


class MAML(GradientMeta):
    """Every parameter is meta-learned and adapted."""

    name = "maml"

    def build(self) -> BackboneClassifier:
        settings = self.settings
        backbone = create_backbone(settings.backbone, width=settings.width, batch_statistics=True)
        return BackboneClassifier(backbone, settings.way, settings.image_size)
