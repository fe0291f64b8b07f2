"""What adapting to a task changes, and what it leaves alone to the bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nsl.fewshot import METHODS, FewShotMethod, Place, evaluate
from nsl.fewshot.dynamic_nsn import DynamicNSN
from nsl.fewshot.finetune import Finetune
from nsl.fewshot.meta_nsn import MetaStaticNSN
from nsl.fewshot.method import Adapted
from nsl.fewshot.static_nsn import StaticNSN
from tests.nsl.fewshot.toy import method, toy


def state(found: FewShotMethod) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in found.network.state_dict().items()}


def same(before: dict[str, torch.Tensor], found: FewShotMethod) -> bool:
    after = found.network.state_dict()
    return before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def episode(found: FewShotMethod) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Support, labels and queries of three novel classes, three images of each."""
    novel = toy().novel
    where = torch.cat([torch.nonzero(novel.labels == c).flatten()[:6] for c in range(3)]).view(3, 6)
    support, query = where[:, :3].flatten(), where[:, 3:].flatten()
    items = found.represent(novel.images)
    return items[support], torch.arange(3).repeat_interleave(3), items[query]


@pytest.mark.parametrize("name", sorted(METHODS))
def test_adapting_and_predicting_leave_the_trained_network_alone(name: str) -> None:
    found = method(name, iterations=1)
    found.fit(toy().base)
    before = state(found)
    support, labels, query = episode(found)
    adapted = found.adapt(support, labels)
    first = adapted.predict(query)
    assert first.shape == (9, 3)
    assert not first.requires_grad
    assert same(before, found)
    attributes = {name: id(value) for name, value in vars(found).items()}
    again = found.adapt(support.flip(0), labels.flip(0))
    again.predict(query)
    assert {name: id(value) for name, value in vars(found).items()} == attributes  # nothing is left in the method
    torch.testing.assert_close(adapted.predict(query), first, rtol=0, atol=0)  # nor does one task touch another


@pytest.mark.parametrize("name", ["finetune", "static_nsn", "maml", "proto"])
def test_images_may_be_represented_in_inference_mode(name: str) -> None:
    found = method(name, iterations=1)
    found.fit(toy().base)
    support, labels, query = episode(found)
    expected = found.adapt(support, labels).predict(query)
    with torch.inference_mode():
        represented, _, _ = episode(found)
    assert represented.is_inference()
    assert torch.equal(found.adapt(represented, labels).predict(query), expected)


def test_static_adaptation_changes_the_similarity_and_the_classifier_only() -> None:
    found = method("static_nsn", iterations=2)
    assert isinstance(found, StaticNSN)
    found.fit(toy().base)
    before = state(found)
    support, labels, _ = episode(found)
    learned = found.adapt(support, labels).learned
    similarities = {name for name in before if name.endswith(".similarity")}
    assert set(learned) == similarities | {"classifier.weight", "classifier.bias"}
    assert len(similarities) == 4
    assert all(not torch.equal(learned[name], before[name]) for name in similarities)
    assert same(before, found)
    features = found._features
    assert found.adapted_parameters == 4 * 81 + 3 * (features + 1)
    assert all(torch.equal(before[name], torch.eye(9).flatten()) for name in similarities)


def test_dynamic_adaptation_changes_the_classifier_only() -> None:
    found = method("dynamic_nsn", iterations=2)
    assert isinstance(found, DynamicNSN)
    found.fit(toy().base)
    before = state(found)
    support, labels, _ = episode(found)
    learned = found.adapt(support, labels).learned
    assert same(before, found)
    assert [tuple(part.shape) for part in learned.values()] == [(3, found._features), (3,)]
    assert found.adapted_parameters == 3 * (found._features + 1)
    assert any(name.startswith("convolutions.0.neural.predictor.") for name in before)


def test_without_a_step_static_nsn_is_the_plain_backbone() -> None:
    plain, static = method("finetune", iterations=3), method("static_nsn", iterations=3)
    assert isinstance(plain, Finetune)
    assert isinstance(static, StaticNSN)
    features = []
    for found in (plain, static):
        found.fit(toy().base)
        support, labels, query = episode(found)
        learned = found.adapt(support, labels, steps=0).learned
        with torch.no_grad():
            features.append(found.features(learned, query))
    with torch.no_grad():
        torch.testing.assert_close(features[1], plain.network(query), rtol=0, atol=0)
        torch.testing.assert_close(features[1], features[0], rtol=0, atol=0)


def test_steps_are_asked_of_methods_that_take_them_only() -> None:
    found = method("proto", iterations=1)
    found.fit(toy().base)
    support, labels, _ = episode(found)
    with pytest.raises(ValueError, match="proto: adapting takes no gradient steps; leave steps out"):
        found.adapt(support, labels, steps=3)


def test_a_class_without_an_image_is_refused() -> None:
    found = method("proto", iterations=1)
    found.fit(toy().base)
    support, labels, _ = episode(found)
    with pytest.raises(ValueError, match=r"with an image of each; got the classes \[0, 2\]"):
        found.adapt(support[labels != 1], labels[labels != 1])


def test_meta_learning_the_similarity_leaves_the_pretrained_kernels_and_statistics_to_the_bit(
    tmp_path: Path,
) -> None:
    place = Place(shared=tmp_path)
    plain = method("finetune", iterations=3)
    plain.fit(toy().base, place)
    found = method("meta_static_nsn", iterations=3)
    assert isinstance(found, MetaStaticNSN)
    found.fit(toy().base, place)
    pretrained = plain.network.state_dict()
    trained = found.network.backbone.state_dict()
    assert all(torch.equal(trained[name], value) for name, value in pretrained.items())
    moved = [name for name in trained if name not in pretrained]
    assert len(moved) == 4
    assert all(name.endswith(".similarity") for name in moved)
    assert all(not torch.equal(trained[name], torch.eye(9).flatten()) for name in moved)
    support, labels, _ = episode(found)
    learned = found.adapt(support, labels).learned
    after = found.network.backbone.state_dict()
    assert all(torch.equal(after[name], value) for name, value in pretrained.items())
    assert set(learned) == {f"backbone.{name}" for name in moved} | {"classifier.weight", "classifier.bias"}


def test_meta_learning_the_similarity_does_not_lose_to_its_own_start(tmp_path: Path) -> None:
    """The start: the pretrained backbone with M = I, whose classifier takes the same steps. On episodes that
    neither has seen, of classes under strong noise."""
    data, place = toy(classes=20, images=20, noise=90.0), Place(shared=tmp_path)

    def accuracy(rate: float, iterations: int) -> float:
        found = method("meta_static_nsn", iterations=30)
        meta = replace(found.settings.meta, iterations=iterations, learning_rate=rate, shot=3, query=5)
        found = MetaStaticNSN(replace(found.settings, meta=meta))
        found.fit(data.base, place)
        return evaluate(found, data.novel, 3, 5, 20, 0).mean

    start, learned = accuracy(0.0, 1), accuracy(3e-3, 10)
    assert start > 40  # chance is 33 %
    assert learned >= start


def test_the_inner_rates_of_classifier_and_similarity_are_learned_apart() -> None:
    found = method("meta_static_nsn", iterations=3, classifier_rate=2.0, similarity_rate=0.05)
    assert isinstance(found, MetaStaticNSN)
    start = found.rates()
    assert isinstance(start, dict)
    assert {round(float(rate), 4) for name, rate in start.items() if name.startswith("classifier.")} == {2.0}
    assert {round(float(rate), 4) for name, rate in start.items() if name.endswith(".similarity")} == {0.05}
    found.fit(toy().base)
    learned = found.rates()
    assert isinstance(learned, dict)
    # The classifier's bias has no gradient at a start where every class has as many images.
    assert all(learned[name] != start[name] for name in start if name != "classifier.bias")
    assert found.steps == found.train_steps
    fixed = method("meta_static_nsn", iterations=3, learn_rates=False)
    assert isinstance(fixed, MetaStaticNSN)
    before = fixed.network.log_rates.clone()
    fixed.fit(toy().base)
    assert torch.equal(fixed.network.log_rates, before)
    assert fixed.parameters == found.parameters - 6
    with pytest.raises(ValueError, match="similarity_rate must be positive, got 0"):
        method("meta_static_nsn", similarity_rate=0.0)


def test_the_order_of_the_support_set_does_not_matter_where_it_should_not() -> None:
    for name in ("finetune_classifier", "nearest", "proto", "kshot", "leo"):  # baseline_pp descends by batches
        found = method(name, iterations=1)
        found.fit(toy().base)
        support, labels, query = episode(found)
        first = found.adapt(support, labels).predict(query)
        order = torch.tensor([8, 0, 4, 3, 1, 7, 6, 2, 5])
        second = found.adapt(support[order], labels[order]).predict(query)
        torch.testing.assert_close(second, first, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_adapting_is_the_same_for_whoever_keeps_no_graph(name: str) -> None:
    found = method(name, iterations=1)
    found.fit(toy().base)
    support, labels, query = episode(found)
    expected = found.adapt(support, labels).predict(query)
    with torch.no_grad():
        assert torch.equal(found.adapt(support, labels).predict(query), expected)
    with torch.inference_mode(), pytest.raises(ValueError, match=r"use torch.no_grad\(\) in place of inference_mode"):
        found.adapt(support, labels)


def test_an_answer_that_is_no_number_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    found = method("nearest", iterations=1)
    found.fit(toy().base)

    def diverged(support: torch.Tensor, labels: torch.Tensor, steps: int) -> Adapted:
        return Adapted(lambda query: torch.full((len(query), 3), float("nan")))

    monkeypatch.setattr(found, "adapted", diverged)
    assert evaluate(found, toy().novel, 1, 2, 3, seed=0).mean == 0


def test_static_nsn_with_m_held_is_its_control() -> None:
    """Table 6's row "held": the same start, scale, steps, rate, momentum and decay, and no M."""
    static = method("static_nsn", iterations=3, steps=7, backbone_rate=0.0)
    held = method("finetune_classifier", iterations=3, steps=7)
    for found in (static, held):
        found.fit(toy().base)
    logits = []
    for found in (static, held):
        support, labels, query = episode(found)
        logits.append(found.adapt(support, labels).predict(query))
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-5)
