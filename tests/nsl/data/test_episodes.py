"""Episodes are drawn as they should be, from any labels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nsl.data import EpisodeSampler

settings.register_profile("episodes", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("episodes")


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Any], int, int, int]:
    """Labels in random order, some classes larger than needed, and the numbers of an episode."""
    way, shot, query = draw(st.integers(2, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    classes = draw(st.integers(way, way + 3))
    name = draw(st.sampled_from([lambda c: c, lambda c: 7 * c - 3, lambda c: f"class {c}"]))
    labels = [name(c) for c in range(classes) for _ in range(shot + query + draw(st.integers(0, 3)))]
    return draw(st.permutations(labels)), way, shot, query


@given(cases(), st.integers(0, 2**40))
def test_an_episode_has_the_asked_images_of_the_asked_classes_and_none_twice(
    case: tuple[list[Any], int, int, int], seed: int
) -> None:
    labels, way, shot, query = case
    for episode in EpisodeSampler(labels, way, shot, query, 3, seed=seed):
        taken = torch.cat([episode.support, episode.query]).tolist()
        assert len(set(taken)) == len(taken) == way * (shot + query)
        assert len(set(episode.classes)) == way
        for positions, numbers, count in (
            (episode.support, episode.support_labels, shot),
            (episode.query, episode.query_labels, query),
        ):
            assert [labels[p] for p in positions.tolist()] == [episode.classes[n] for n in numbers.tolist()]
            assert numbers.tolist() == [w for w in range(way) for _ in range(count)]


@given(cases(), st.integers(0, 2**40), st.integers(0, 9))
def test_an_episode_depends_on_seed_and_number_only(
    case: tuple[list[Any], int, int, int], seed: int, index: int
) -> None:
    labels, way, shot, query = case
    long, short = (EpisodeSampler(labels, way, shot, query, n, seed=seed) for n in (10, index + 1))
    list(long)  # asking for others in between changes nothing
    assert torch.equal(long[index].support, short[index].support)
    assert torch.equal(long[index].query, short[index].query)


@given(cases())
def test_a_generator_fixes_the_sequence(case: tuple[list[Any], int, int, int]) -> None:
    labels, way, shot, query = case
    first, second = (
        EpisodeSampler(labels, way, shot, query, 2, torch.Generator().manual_seed(5))[1] for _ in range(2)
    )
    assert torch.equal(first.query, second.query)


def test_other_episodes_and_other_seeds_differ() -> None:
    labels = torch.arange(10).repeat(20)
    sampler = EpisodeSampler(labels, 5, 5, 5, 50, seed=0)
    assert len({tuple(e.support.tolist()) for e in sampler}) == 50
    assert not torch.equal(sampler[0].support, EpisodeSampler(labels, 5, 5, 5, 50, seed=1)[0].support)


def test_every_class_and_every_image_is_drawn_sooner_or_later() -> None:
    sampler = EpisodeSampler(torch.arange(6).repeat(8), 3, 2, 2, 200)
    assert torch.cat([torch.cat([e.support, e.query]) for e in sampler]).unique().tolist() == list(range(48))


@pytest.mark.parametrize(
    ("labels", "options", "words"),
    [
        ([0] * 9 + [1] * 9 + [2] * 3, {}, r"class 2 has 3 images, an episode takes 4 of it \(1 support and 3 query\)"),
        ([0] * 9 + [1] * 9 + [2] * 3, {"class_names": ["a", "b", "c"]}, "class 'c' has 3 images"),
        (["x"] * 9 + ["y"] * 2, {}, "class 'y' has 2 images"),
        ([0] * 9, {}, "2 classes an episode need at least that many, got 1"),
        ([0] * 9 + [1] * 9, {"n_shot": 0}, "n_shot must be a whole number of at least 1, got 0"),
        ([0] * 9 + [1] * 9, {"n_way": 1}, "n_way must be a whole number of at least 2, got 1"),
        ([0] * 9 + [1] * 9, {"n_episodes": True}, "n_episodes must be"),
        ([0] * 9 + [1] * 9, {"seed": -1}, "seed must be a whole number of at least 0"),
        (torch.zeros(4), {}, "labels must be whole numbers"),
    ],
)
def test_bad_input_is_one_clear_sentence(labels: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        EpisodeSampler(labels, **{"n_way": 2, "n_shot": 1, "n_query": 3, "n_episodes": 1, **options})


def test_an_episode_that_is_not_there_is_an_index_error() -> None:
    with pytest.raises(IndexError, match="episode 2 was asked for, there are 0 to 1"):
        EpisodeSampler([0, 0, 1, 1], 2, 1, 1, 2)[2]
