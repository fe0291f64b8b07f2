"""Measuring a fitted method on episodes of the novel classes: accuracy, its interval, time and size of adapting."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch

from nsl.data.episodes import EpisodeSampler
from nsl.data.fewshot import ImageSet
from nsl.fewshot.method import FewShotMethod
from nsl.training.execution import upload
from nsl.training.side_by_side import pass_turn, wait_for

#: Normal quantile of the 95 % intervals that the literature reports over 600 episodes.
QUANTILE = 1.959964


@dataclass(frozen=True)
class Evaluation:
    """Accuracies of one method on a sequence of episodes.

    Attributes:
        accuracies: percent, one an episode, in the order of the episodes.
        adapt_seconds: median seconds of `adapt` for one episode.
        predict_seconds: median seconds of `predict` for all queries of an episode.
        adapted_parameters: scalars learned for one task.
    """

    accuracies: tuple[float, ...]
    adapt_seconds: float
    predict_seconds: float
    adapted_parameters: int

    @property
    def mean(self) -> float:
        """Mean accuracy in percent."""
        return sum(self.accuracies) / len(self.accuracies)

    @property
    def half_width(self) -> float | None:
        """Half the 95 % interval of the mean, None for a single episode."""
        return interval(self.accuracies)[1]


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and half the 95 % normal interval of the mean; None for a single value.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("the interval of no values was asked for; pass at least one")
    mean = sum(values) / len(values)
    if len(values) == 1:
        return mean, None
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, QUANTILE * (variance / len(values)) ** 0.5


def paired(first: Sequence[float], second: Sequence[float]) -> tuple[float, float | None]:
    """Mean of first minus second, episode by episode, with half its 95 % interval.

    Raises:
        ValueError: the two were not measured on the same episodes.
    """
    if len(first) != len(second):
        raise ValueError(f"paired differences need the same episodes, got {len(first)} and {len(second)}")
    return interval([a - b for a, b in zip(first, second)])


def evaluate(
    method: FewShotMethod,
    novel: ImageSet,
    shot: int,
    query: int,
    episodes: int,
    seed: int,
    represented: torch.Tensor | None = None,
    steps: int | None = None,
) -> Evaluation:
    """Accuracy on episodes of the novel classes.

    Args:
        method: fitted.
        novel: images and labels of classes the method has not seen.
        shot, query: images a class.
        episodes: how many; episode i is the same for every method, way, shot and query being equal.
        seed: of the episodes.
        represented: `method.represent(novel.images)`, when it is there already.
        steps: see `FewShotMethod.adapt`.

    Raises:
        TypeError: the classes are no set of images.
        ValueError: too few classes or images for such episodes.
    """
    if not isinstance(novel, ImageSet):
        raise TypeError(f"evaluate takes the images of classes, as data.novel, got {type(novel).__name__}")
    sampler = EpisodeSampler(
        novel.labels, method.settings.way, shot, query, episodes, seed=seed, class_names=novel.class_names
    )
    everything = method.represent(novel.images) if represented is None else represented
    device = everything.device
    wanted = upload(torch.arange(method.settings.way, device="cpu").repeat_interleave(query), device)
    right, adapting, predicting = [], [], []
    for episode in sampler:
        where = upload(torch.cat([episode.support, episode.query]), device)
        support, queries = everything[where].split([len(episode.support), len(episode.query)])
        labels = upload(episode.support_labels, device)
        started = now(device)
        adapted = method.adapt(support, labels, steps)
        between = now(device)
        logits = adapted.predict(queries)
        predicting.append(now(device) - between)
        adapting.append(between - started)
        # Where an adaptation has diverged there is no answer, whatever `argmax` makes of it.
        answered = logits.isfinite().all(1)
        right.append(((logits.argmax(1) == wanted) & answered).float().mean())
        pass_turn()
    accuracies = [100.0 * value for value in wait_for(torch.stack(right))]
    return Evaluation(tuple(accuracies), median(adapting), median(predicting), method.adapted_parameters)


def now(device: torch.device) -> float:
    """A clock of what is done: on CUDA it waits for the present stream."""
    if device.type == "cuda":  # this training's work only: others on the card have streams of their own
        torch.cuda.current_stream(device).synchronize()
    return time.perf_counter()
