"""Training on episodes of the base classes (Vinyals et al., NeurIPS 2016): one loop for all methods that do it."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nsl.data.augment import normalise
from nsl.data.episodes import EpisodeSampler
from nsl.data.fewshot import ImageSet
from nsl.fewshot.settings import Diverged, History, MetaRecipe, Place
from nsl.training.checkpoint import CheckpointError, check_optimiser, load_checkpoint, save_checkpoint, training_goes_on
from nsl.training.loop import augment, generator

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
    """Fetches normalised images, augmented as `MetaRecipe.augment` says (`kind`)."""

    def fetch(where: Tensor, draw: torch.Generator) -> Tensor:
        return normalise(augment(base.images[where], kind, draw).to(device), *moments)

    return fetch


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

    Returns:
        {"curve": [{"iteration", "loss"}, ...], "seconds": ...}, with `score` also "selection":
        [{"iteration", "accuracy"}, ...], the start first.

    Raises:
        Diverged: the loss is no longer finite.
        CheckpointError: the checkpoint is damaged or belongs to another training.
        ValueError: a class has too few images for an episode.
    """
    sampler = _sampler(base, recipe, seed)
    chosen = [p for p in network.parameters() if p.requires_grad] if parameters is None else list(parameters)
    optimiser = torch.optim.Adam(chosen, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    identity = {**identity, "recipe": asdict(recipe), "seed": seed}
    best = Best(score, chosen)
    start, seconds, total, counted = 0, 0.0, 0.0, 0
    curve: list[dict[str, float]] = []
    state = _kept(place, identity)
    if state is not None:
        try:
            network.load_state_dict(state["network"])
            optimiser.load_state_dict(state["optimiser"])
            check_optimiser(optimiser)
            start, seconds, total, counted = state["position"]
            curve = state["curve"]
            best.load(state["best"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"checkpoint {place.checkpoint} does not fit this network; delete it") from error

    @training_goes_on()
    def save(position: int) -> None:
        if place.checkpoint is not None:
            kept: dict[str, Any] = {"identity": identity, "position": [position, seconds, total, counted]}
            kept |= {"network": network.state_dict(), "optimiser": optimiser.state_dict()}
            save_checkpoint(place.checkpoint, {**kept, "curve": curve, "best": best.state()})

    points = {round(recipe.iterations * (i + 1) / CURVE_POINTS) for i in range(CURVE_POINTS)}
    bar = _bar(place.progress, recipe.iterations, start)
    if start == 0:
        best.look(0)
    last_save = mark = time.perf_counter()
    for iteration in range(start, recipe.iterations):
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate(iteration)
        tasks = _meta_batch(sampler, fetch, recipe, seed, iteration, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            value = loss(tasks)
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(chosen, GRADIENT_NORM)
        optimiser.step()
        number = _finite(value, iteration)
        total, counted = total + number, counted + 1
        now = time.perf_counter()
        seconds, mark = seconds + now - mark, now
        if bar is not None:
            bar.set_postfix_str(f"loss {total / counted:.3f}", refresh=False)
            bar.update(1)
        if iteration + 1 in points:
            curve.append({"iteration": iteration + 1, "loss": total / counted})
            total, counted = 0.0, 0
            best.look(iteration + 1)
            mark = time.perf_counter()
        # The finished training is kept too: what follows it, hundreds of test episodes, may be interrupted.
        if mark - last_save > 60 * place.minutes or iteration + 1 == recipe.iterations:
            save(iteration + 1)
            last_save = time.perf_counter()
    if bar is not None:
        bar.close()
    best.restore()
    return {"curve": curve, "seconds": seconds} | ({"selection": best.seen} if best.seen else {})


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
    labels = [episodes[0].support_labels.to(device), episodes[0].query_labels.to(device)]
    support, query = items.split([len(part) for part in labels], dim=1)
    return Tasks(support, labels[0], query, labels[1], iteration, generator(seed, _LOSS, iteration))


def _finite(loss: Tensor, iteration: int) -> float:
    """The loss as a number; Diverged where it is none."""
    number = loss.item()
    if not math.isfinite(number):
        raise Diverged(f"training on episodes diverged: loss {number} at iteration {iteration + 1}")
    return number


def _kept(place: Place, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The state of this training that a checkpoint has; None when there is no checkpoint."""
    if place.checkpoint is None or not place.checkpoint.exists():
        return None
    state = load_checkpoint(place.checkpoint)
    if state.get("identity") != identity:
        raise CheckpointError(f"checkpoint {place.checkpoint} belongs to another training; delete it to start again")
    return state


def _bar(progress: bool, total: int, initial: int) -> Any:
    if not progress or not sys.stderr.isatty():
        return None
    from tqdm import tqdm

    return tqdm(total=total, initial=initial, desc="episodes", unit="step", mininterval=0.5)
