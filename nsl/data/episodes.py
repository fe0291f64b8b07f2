"""Episodes: small classification tasks drawn from a labelled set (Vinyals et al., NeurIPS 2016; paper 7.2).

An episode takes `n_way` classes, `n_shot` labelled images of each as the support set and `n_query` others of each
as the query set. Episode i depends on the seed and on i alone: every method, process and order of asking sees the
same one.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nsl.numbers import is_whole


def _order(label: Any) -> Any:
    """Labels of several types can be sorted too."""
    return type(label).__name__, label


@dataclass(frozen=True, eq=False)
class Episode:
    """One task; support and query are class by class, in the order of `classes`.

    Attributes:
        classes: the labels (as given to the sampler) of the task's classes; class number w of the task is classes[w].
        support: int64 [n_way * n_shot], positions in the set.
        support_labels: int64 [n_way * n_shot], values 0 .. n_way - 1.
        query: int64 [n_way * n_query].
        query_labels: int64 [n_way * n_query].
    """

    classes: tuple[Hashable, ...]
    support: Tensor
    support_labels: Tensor
    query: Tensor
    query_labels: Tensor


class EpisodeSampler(Sequence[Episode]):
    """A fixed sequence of episodes over any labels.

    Args:
        labels: one label an item: an integer tensor, or a sequence of numbers or strings.
        n_way: classes an episode, at least 2.
        n_shot: support images a class, at least 1.
        n_query: query images a class, at least 1.
        n_episodes: length of the sequence, at least 1.
        generator: draws the seed of the sequence; without one, `seed` is it.
        seed: of the sequence; not used with a generator.
        class_names: names for the error messages, by label number; the labels themselves without.

    Raises:
        ValueError: a number is too small, there are fewer classes than n_way, or a class has too few images.
        IndexError: an episode outside 0 .. n_episodes - 1 is asked for.
    """

    def __init__(
        self,
        labels: Tensor | Sequence[Hashable],
        n_way: int,
        n_shot: int,
        n_query: int,
        n_episodes: int,
        generator: torch.Generator | None = None,
        *,
        seed: int = 0,
        class_names: Sequence[str] | None = None,
    ) -> None:
        for name, value, least in (
            ("n_way", n_way, 2),
            ("n_shot", n_shot, 1),
            ("n_query", n_query, 1),
            ("n_episodes", n_episodes, 1),
        ):
            if not is_whole(value, least):
                raise ValueError(f"EpisodeSampler: {name} must be a whole number of at least {least}, got {value!r}.")
        self.n_way, self.n_shot, self.n_query, self.n_episodes = map(int, (n_way, n_shot, n_query, n_episodes))
        if isinstance(labels, Tensor):
            if labels.dim() != 1 or labels.is_floating_point():
                raise ValueError(
                    f"EpisodeSampler: labels must be whole numbers [N], got {labels.dtype} {list(labels.shape)}."
                )
            labels = labels.tolist()
        positions: dict[Hashable, list[int]] = {}
        for position, label in enumerate(labels):
            positions.setdefault(label, []).append(position)
        # Sorted, so that the order of first appearance does not matter.
        self.classes: tuple[Hashable, ...] = tuple(sorted(positions, key=_order))
        self._positions = [np.asarray(positions[label], np.int64) for label in self.classes]
        if len(self.classes) < n_way:
            raise ValueError(
                f"EpisodeSampler: {n_way} classes an episode need at least that many, got {len(positions)}."
            )
        needed = n_shot + n_query
        for label, found in zip(self.classes, self._positions):
            if len(found) < needed:
                named = class_names is not None and len(class_names) > 0 and isinstance(label, int)
                name = repr(class_names[label] if named else label)  # type: ignore[call-overload, index]
                raise ValueError(
                    f"EpisodeSampler: class {name} has {len(found)} images, "
                    f"an episode takes {needed} of it ({n_shot} support and {n_query} query)."
                )
        if generator is not None:
            seed = int(torch.randint(0, 2**62, (), generator=generator, device=generator.device))
        if not is_whole(seed, 0):
            raise ValueError(f"EpisodeSampler: seed must be a whole number of at least 0, got {seed!r}.")
        self.seed = int(seed)
        self._support_labels = torch.arange(n_way, device="cpu").repeat_interleave(n_shot)
        self._query_labels = torch.arange(n_way, device="cpu").repeat_interleave(n_query)

    def __len__(self) -> int:
        return self.n_episodes

    def __iter__(self) -> Iterator[Episode]:
        return (self[index] for index in range(self.n_episodes))

    def __getitem__(self, index: int) -> Episode:  # type: ignore[override]
        if not 0 <= index < self.n_episodes:
            raise IndexError(f"EpisodeSampler: episode {index} was asked for, there are 0 to {self.n_episodes - 1}.")
        draw = np.random.Generator(np.random.PCG64(np.random.SeedSequence((self.seed, index))))
        chosen = draw.choice(len(self.classes), self.n_way, replace=False)
        taken = np.stack(
            [draw.choice(self._positions[c], self.n_shot + self.n_query, replace=False) for c in chosen]
        )
        return Episode(
            classes=tuple(self.classes[c] for c in chosen),
            support=torch.from_numpy(taken[:, : self.n_shot].reshape(-1)),
            support_labels=self._support_labels.clone(),
            query=torch.from_numpy(taken[:, self.n_shot :].reshape(-1)),
            query_labels=self._query_labels.clone(),
        )
