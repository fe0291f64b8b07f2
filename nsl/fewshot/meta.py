"""Training on episodes of the base classes (Vinyals et al., NeurIPS 2016): one loop for all methods that do it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nsl.data.augment import Normalise
from nsl.data.episodes import EpisodeSampler
from nsl.data.fewshot import ImageSet
from nsl.fewshot.settings import Diverged, History, MetaRecipe, Place
from nsl.training.batches import DEVICE_BYTES, carry_out, generator
from nsl.training.batches import draw as drawn
from nsl.training.execution import upload
from nsl.training.state import TrainingState

#: Points of the training curve.
CURVE_POINTS = 8
#: Gradients are scaled down to this norm: one bad episode must not end a training.
GRADIENT_NORM = 10.0

_EPISODES, _AUGMENT, _LOSS = 11, 12, 13


@dataclass(frozen=True, eq=False)
class Tasks:
    """A meta-batch. T tasks, S = way * shot support items, Q = way * query query items, both class by class.

    Attributes:
        support: [T, S, ...].
        support_labels: int64 [S], the same for every task.
        query: [T, Q, ...].
        query_labels: int64 [Q].
        iteration: of the training, from 0.
        generator: for what the loss draws; depends on seed and iteration only.
    """

    support: Tensor
    support_labels: Tensor
    query: Tensor
    query_labels: Tensor
    iteration: int
    generator: torch.Generator


class Best:
    """The best of a training's states by accuracy on other classes, so that it cannot end behind its start there.

    Args:
        score: accuracy of the present state in percent; None: the last state is the best.
        parameters: what a state consists of.
    """

    def __init__(self, score: Callable[[], float] | None, parameters: Sequence[nn.Parameter]) -> None:
        self.score, self.parameters = score, parameters
        self.seen: list[dict[str, float]] = []
        self.values: list[Tensor] = []

    def look(self, iteration: int) -> None:
        """Measure the present state; of equal ones the first is kept."""
        if self.score is None:
            return
        accuracy = self.score()
        if not self.seen or accuracy > max(point["accuracy"] for point in self.seen):
            self.values = [p.detach().clone() for p in self.parameters]
        self.seen.append({"iteration": iteration, "accuracy": accuracy})

    @torch.no_grad()
    def restore(self) -> None:
        """Put the best state back."""
        for parameter, value in zip(self.parameters, self.values):
            parameter.copy_(value)

    def state(self) -> dict[str, Any]:
        return {"seen": self.seen, "values": self.values}

    def load(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]
        self.values = [value.to(p.device) for value, p in zip(state["values"], self.parameters)]


Fetch = Callable[[Tensor, torch.Generator], Tensor]
"""Positions int64 [n] in the base classes to what the network takes, [n, ...]."""


def image_fetcher(
    base: ImageSet, moments: tuple[Sequence[float], Sequence[float]], kind: str, device: torch.device
) -> Fetch:
    """Fetches normalised images, augmented as `MetaRecipe.augment` says (`kind`).

    On CUDA the images lie there where they have room; what is drawn goes over without waiting.
    """
    prepared = Normalise(*moments, device)
    here = device.type == "cuda" and base.images.numel() <= DEVICE_BYTES
    images = base.images.to(device) if here else base.images
    stored = (images.shape[2], images.shape[3])

    def fetch(where: Tensor, draw: torch.Generator) -> Tensor:
        choices = [upload(choice, device) for choice in drawn(kind, draw, len(where), stored, None)]
        chosen = images.index_select(0, upload(where, device)) if here else upload(images[where], device)
        return prepared(carry_out(chosen, kind, choices, None))

    return fetch


class EpisodesState(TrainingState):
    """The state of `meta_train`; the numbers of a checkpoint are its position, its curve and the best state so far.

    Args:
        best: looks at the network at the points of the curve.
        arguments: see `TrainingState`.
    """

    def __init__(self, *arguments: Any, best: Best, **more: Any) -> None:
        super().__init__(*arguments, size=1, **more)
        self.best = best
        self.choice: bool | None = None

    def numbers(self) -> dict[str, Any]:
        position = [self.iteration, self.seconds, self.loss_sum, self.seen]
        return {"position": position, "curve": self.curve, "best": self.best.state(), "choice": self.choice}

    def restore(self, kept: dict[str, Any]) -> None:
        self.iteration, self.seconds, self.loss_sum, self.seen = kept["position"]
        self.curve, self.choice = kept["curve"], kept["choice"]
        self.best.load(kept["best"])

    def measure(self) -> None:
        self.curve.append({"iteration": self.iteration, "loss": self.loss_sum / self.seen})
        self.best.look(self.iteration)


def meta_train(
    network: nn.Module,
    loss: Callable[[Tasks], Tensor],
    base: ImageSet,
    fetch: Fetch,
    recipe: MetaRecipe,
    *,
    seed: int,
    identity: dict[str, Any],
    device: torch.device,
    place: Place,
    parameters: Sequence[nn.Parameter] | None = None,
    score: Callable[[], float] | None = None,
    choose: Callable[[bool | None, Tasks], bool] | None = None,
) -> History:
    """Minimise the mean of `loss` over episodes of the base classes.

    Args:
        network: trained in place, by `parameters` (default: all that require a gradient).
        loss: a meta-batch to a scalar.
        base: labels [N] and class names; episodes are drawn from these.
        fetch: what an episode consists of.
        recipe: iterations, meta-batch, rates, episodes.
        seed: of the episodes, the augmentation and what the loss draws.
        identity: everything else that determines the result, JSON-ready: `FewShotMethod.training_identity`. A
            checkpoint of another identity is refused.
        device: where the labels are needed.
        place: checkpoint and progress.
        parameters: what is trained, see `network`.
        score: accuracy of the present network on classes that are neither trained on nor tested on; with it the
            training ends with the best of its start and its points of the curve.
        choose: how `loss` is to be computed where that is measured, before the first step: given the choice of the
            checkpoint that the training goes on from, or None, and the first meta-batch. What it says is kept.

    Returns:
        {"curve": [{"iteration", "loss"}, ...], "seconds": ...}, with `score` also "selection":
        [{"iteration", "accuracy"}, ...], the start first, and with `choose` "choice".

    Raises:
        Diverged: the loss is no longer finite.
        CheckpointError: the checkpoint is damaged or belongs to another training.
        ValueError: a class has too few images for an episode.
    """
    sampler = _sampler(base, recipe, seed)
    chosen = [p for p in network.parameters() if p.requires_grad] if parameters is None else list(parameters)
    optimiser = torch.optim.Adam(chosen, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    state = EpisodesState(
        {**identity, "recipe": asdict(recipe), "seed": seed},
        {"network": network, "optimiser": optimiser},
        place.execution("episodes"),
        device=device,
        total=recipe.iterations,
        points={round(recipe.iterations * (i + 1) / CURVE_POINTS) for i in range(CURVE_POINTS)},
        best=Best(score, chosen),
    )
    state.resume()
    if choose is not None:
        state.choice = choose(state.choice, _meta_batch(sampler, fetch, recipe, seed, 0, device))
    if state.iteration == 0:
        state.best.look(0)
    clock = torch.zeros(1, dtype=torch.int64, device=device)
    for iteration in state.steps():
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate(iteration)
        tasks = _meta_batch(sampler, fetch, recipe, seed, iteration, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            value = loss(tasks)
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(chosen, GRADIENT_NORM)
        optimiser.step()
        state.note(clock.fill_(iteration), value)
    if state.divergence is not None:
        raise Diverged(f"training on episodes diverged: {state.divergence}")
    state.best.restore()
    more: History = {"selection": state.best.seen} if state.best.seen else {}
    more |= {} if state.choice is None else {"choice": state.choice}
    return {"curve": state.curve, "seconds": state.seconds, **more}


def _sampler(base: ImageSet, recipe: MetaRecipe, seed: int) -> EpisodeSampler:
    """The episodes of a whole training."""
    sizes, count = (recipe.way, recipe.shot, recipe.query), recipe.iterations * recipe.tasks
    return EpisodeSampler(base.labels, *sizes, count, generator(seed, _EPISODES), class_names=base.class_names)


def _meta_batch(
    sampler: EpisodeSampler, fetch: Fetch, recipe: MetaRecipe, seed: int, iteration: int, device: torch.device
) -> Tasks:
    """The episodes of one iteration."""
    episodes = [sampler[iteration * recipe.tasks + t] for t in range(recipe.tasks)]
    where = torch.cat([torch.cat([e.support, e.query]) for e in episodes])
    items = fetch(where, generator(seed, _AUGMENT, iteration)).unflatten(0, (recipe.tasks, -1))
    labels = [upload(part, device) for part in (episodes[0].support_labels, episodes[0].query_labels)]
    support, query = items.split([len(part) for part in labels], dim=1)
    return Tasks(support, labels[0], query, labels[1], iteration, generator(seed, _LOSS, iteration))
