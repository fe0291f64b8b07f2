"""The one interface of all few-shot methods."""

from __future__ import annotations

import inspect
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from nsl.data.augment import normalise
from nsl.data.fewshot import ImageSet
from nsl.fewshot.meta import Fetch, Tasks, image_fetcher, meta_train
from nsl.fewshot.options import checked
from nsl.fewshot.pretrain import as_dataset, moments
from nsl.fewshot.settings import History, Place, Settings
from nsl.layers.conv import NSConv2d
from nsl.layers.similarity import random_state_kept
from nsl.numbers import is_whole

#: Images that are represented at once.
BATCH = 256
#: Passes through a network that a training step counts an image: forward, and backward for inputs and for weights.
STEP_PASSES = 3


@dataclass(frozen=True, eq=False)
class Adapted:
    """A method adapted to one task.

    Attributes:
        classify: queries [Q, ...] from `represent` to logits [Q, way].
        learned: what gradient steps or a formula made for this task, by name.
    """

    classify: Callable[[Tensor], Tensor]
    learned: Mapping[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def predict(self, query: Tensor) -> Tensor:
        """Queries [Q, ...] from `represent` to logits [Q, way]."""
        return self.classify(query)


class _Seeded(ABCMeta):
    """Construction that checks the options, draws from the settings' seed and leaves the caller's random state as it
    was."""

    @property
    def __signature__(cls) -> inspect.Signature:
        """That of the constructor, which `__call__` would hide."""
        own = inspect.signature(cls.__init__)  # type: ignore[misc]
        return own.replace(parameters=list(own.parameters.values())[1:], return_annotation=inspect.Signature.empty)

    def __call__(cls, *arguments: Any, **options: Any) -> Any:
        ours = cls.__module__.startswith("nsl.")  # what a subclass of a user's may mean, it says itself
        options = checked(getattr(cls, "name", cls.__name__), cls.__signature__, options, ours)
        with random_state_kept():
            return super().__call__(*arguments, **options)


class FewShotMethod(metaclass=_Seeded):
    """Learn from the base classes, adapt to a support set, classify queries.

        method.fit(data.base)
        support = method.represent(images)      # once for any number of episodes
        adapted = method.adapt(support, labels)
        logits = adapted.predict(method.represent(queries))

    The fitted method is not changed by adapting: everything about a task is in what `adapt` returns.

    Args:
        settings: the circumstances.

    Attributes:
        network: what is trained.
        options: of the method by name, defaults included.
        steps: gradient steps of `adapt`, unless it is told another number; None for a method that takes none.
    """

    #: Name in `nsl.fewshot.METHODS`.
    name: ClassVar[str]
    #: The similarity of its network: "none", "static" or "dynamic".
    kind: str = "none"
    #: Whether `represent` gives features of a backbone that no task changes: an episode then needs it no more.
    features_once: ClassVar[bool] = False
    #: Whether the training on episodes is on such features.
    trains_on_features: ClassVar[bool] = False
    #: Whether adapting changes the similarities of layers; `adapted_similarities` then says how.
    adapts_similarities: ClassVar[bool] = False
    options: dict[str, Any]

    def __new__(cls, *_: Any, **options: Any) -> Self:
        found = super().__new__(cls)
        found.options = cls.defaults() | {name: value for name, value in options.items() if name != "settings"}
        return found

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """The method's options with their defaults, by name."""
        known = inspect.signature(cls).parameters.values()
        # `**more` stands for options of other names, and is none itself.
        own = [one for one in known if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD) and one.name != "settings"]
        return {one.name: one.default for one in own}

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.device = settings.torch_device()
        self.steps: int | None = None
        self.moments: tuple[tuple[float, ...], tuple[float, ...]] | None = None
        self.validation: ImageSet | None = None
        self.fitted = self.begun = False
        torch.manual_seed(settings.seed)
        self.network: nn.Module = self.build()
        self.network.to(self.device)

    @abstractmethod
    def build(self) -> nn.Module:
        """The network before training."""

    def fit(self, base: ImageSet, place: Place | None = None, validation: ImageSet | None = None) -> History:
        """Train on the base classes.

        Args:
            base: images uint8 [N, 3, S, S] and labels [N].
            place: where to keep the state; a training that was interrupted goes on.
            validation: images of other classes, for the methods that choose one of their states by them.

        Returns:
            The curves of the trainings.

        Raises:
            TypeError: it is no set of images.
            ValueError: the images have another size than the settings, or a class has too few for an episode; or the
                method was fitted before, or began to be.
            Diverged: the loss is no longer finite.
        """
        if not isinstance(base, ImageSet):
            raise TypeError(f"fit takes the images of the base classes (data.base), got {type(base).__name__}")
        if not isinstance(validation, ImageSet | None):
            raise TypeError(f"validation must be images of classes (data.validation), got {type(validation).__name__}")
        if not isinstance(place, Place | None):
            raise TypeError(f"place must be a Place(checkpoint=...), got {type(place).__name__}")
        if base.image_size != self.settings.image_size:
            raise ValueError(
                f"{base.name} has images of {base.image_size} pixels, the settings say {self.settings.image_size}."
            )
        if self.fitted:
            raise ValueError(f"{self.name} was fitted before and would go on from there; make a new one to start anew.")
        if self.begun:
            raise ValueError(
                f"{self.name} is half trained, since its first fit ended before its time; make a new one, which goes "
                "on from the place that was given to the first."
            )
        self.moments = moments(base)
        self.validation = validation
        self.begun = True
        try:
            with random_state_kept():
                history = self.train(base, place or Place())
        except BaseException:
            self.moments = None  # nothing is represented by what is half trained
            raise
        self.validation, self.fitted = None, True
        self.network.eval()
        return history

    @abstractmethod
    def train(self, base: ImageSet, place: Place) -> History:
        """The trainings of this method."""

    def train_on_episodes(
        self, loss: Callable[[Tasks], Tensor], base: ImageSet, place: Place, fetch: Fetch | None = None
    ) -> History:
        """Train the network on episodes of the base classes by `settings.meta`, for the methods that do only this.

        Args:
            loss: mean over the tasks of a meta-batch.
            base, place: what `train` was given.
            fetch: what makes items of places in the set; None: its images, augmented and normalised.
        """
        assert self.moments is not None
        meta = self.settings.meta
        self.network.train()
        history = meta_train(
            self.network,
            loss,
            base,
            fetch or image_fetcher(base, self.moments, meta.augment, self.device),
            meta,
            seed=self.settings.seed,
            identity=self.training_identity(base),
            device=self.device,
            place=place,
        )
        return {"meta": history}

    def training_identity(self, base: ImageSet) -> dict[str, Any]:
        """Everything that determines what `train` makes of the base classes; the device aside."""
        return {
            "method": self.name,
            "options": self.options,
            "settings": self.settings.as_dict(),
            "data": as_dataset(base).fingerprint,
        }

    def trained_tensors(self) -> dict[str, Tensor]:
        """Everything that `fit` left and `represent`, `adapt` and `predict` need, by name; `restore` takes it."""
        return {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}

    def restore(self, tensors: dict[str, Tensor], moments: tuple[tuple[float, ...], tuple[float, ...]]) -> None:
        """Take over what another object of the same method and settings learned, in place of `fit`.

        Args:
            tensors: of its `trained_tensors`.
            moments: mean and standard deviation of the base classes' channels.
        """
        self.moments = moments
        prefix = "network."
        mine = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        self.network.load_state_dict(mine)
        self.network.eval()
        self.fitted = True

    def embed(self, images: Tensor) -> Tensor:
        """What does not depend on the task: [B, 3, S, S] normalised to what `adapt` takes. Default: the images."""
        return images

    def represent(self, images: Tensor) -> Tensor:
        """Images as `adapt` and `predict` take them: features where the backbone is frozen, else normalised images.

        Args:
            images: uint8 [B, 3, S, S].

        Returns:
            [B, ...] on the device.

        Raises:
            ValueError: the method has not been fitted, or the images are of another size or form.
        """
        self.check_fitted("represent")
        assert self.moments is not None
        size = self.settings.image_size
        if not isinstance(images, Tensor) or images.dim() != 4 or images.shape[1:] != (3, size, size):
            got = list(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise ValueError(f"{self.name}: images must be a tensor [B, 3, {size}, {size}] as in training, got {got}.")
        mean, std = self.moments
        self.network.eval()
        with torch.no_grad():
            parts = [
                self.embed(normalise(part.to(self.device), mean, std, channels_last=True))
                for part in images.split(BATCH)
            ]
        return torch.cat(parts)

    def check_fitted(self, what: str) -> None:
        """Raise ValueError where there is no training behind the network, or one that ended before its time."""
        if self.moments is None:
            raise ValueError(f"{self.name}: call fit before {what}.")

    def adapt(self, support: Tensor, labels: Tensor, steps: int | None = None) -> Adapted:
        """Adapt to a task.

        Args:
            support: [S, ...] from `represent`.
            labels: int64 [S], values 0 .. way - 1.
            steps: gradient steps, other than the method's own number.

        Raises:
            ValueError: steps are negative or were asked of a method that takes none, labels do not fit the support, a
                class has no image, it needs `fit` first, or inference mode is on.
        """
        self.check_fitted("adapt")
        whole = isinstance(labels, Tensor) and labels.dtype == torch.int64
        if not whole or list(labels.shape) != [len(support)]:
            got = f"{labels.dtype} {list(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
            raise ValueError(f"{self.name}: labels must be a tensor int64 [{len(support)}], one an image, got {got}.")
        way, found = self.settings.way, sorted(set(labels.tolist()))
        if found != list(range(way)):
            raise ValueError(
                f"{self.name}: labels must be 0 to {way - 1}, since settings.way is {way}, with an image of each; got "
                f"the classes {found}."
            )
        if steps is not None and not is_whole(steps, 0):
            raise ValueError(f"{self.name}: steps must be a whole number from 0 on, got {steps!r}.")
        if steps is not None and self.steps is None:
            raise ValueError(f"{self.name}: adapting takes no gradient steps; leave steps out.")
        if torch.is_inference_mode_enabled():
            raise ValueError(f"{self.name}: adapt needs gradients; use torch.no_grad() in place of inference_mode().")
        if support.is_inference():  # represented in inference mode, whose tensors no graph may keep
            support = support.clone()
        with torch.enable_grad():  # whoever adapts may keep no graph of their own
            return self.adapted(support, labels, (self.steps or 0) if steps is None else int(steps))

    @abstractmethod
    def adapted(self, support: Tensor, labels: Tensor, steps: int) -> Adapted:
        """What `adapt` returns; `steps` says nothing to a method that takes none."""

    def adapted_similarities(self, adapted: Adapted) -> list[tuple[str, Tensor, Tensor]]:
        """Layer name, M_s [K, K] before and after adapting, of every layer whose similarity the method adapts."""
        found = []
        for name, layer in self.network.named_modules() if self.adapts_similarities else ():
            if isinstance(layer, NSConv2d):
                start = layer.similarity.detach()
                free = adapted.learned.get(f"{name}.neural.similarity", start)
                assemble = layer.structure.assemble
                found.append((name, assemble(start, layer.block), assemble(free, layer.block)))
        return found

    @classmethod
    def task_passes(cls, support: int, query: int, options: Mapping[str, Any]) -> float:
        """Images through the backbone for one task of the training on episodes, a training step counting three.

        Args:
            support, query: images of the task.
            options: of the method, as `options` has them.
        """
        return 0 if cls.trains_on_features else STEP_PASSES * (support + query)

    @classmethod
    def episode_passes(cls, support: int, query: int, steps: int) -> int:
        """Images through the backbone for one test episode, beside those of `represent`; arguments as above."""
        return 0 if cls.features_once else support + query

    @property
    def parameters(self) -> int:
        """Number of trained scalars, those of a classifier of the base classes aside."""
        return sum(p.numel() for p in self.network.parameters())

    @property
    @abstractmethod
    def adapted_parameters(self) -> int:
        """Number of scalars that `adapt` learns for one task."""
