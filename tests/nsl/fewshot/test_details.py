"""Details of few-shot methods, each with the number that it has to be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nsl.fewshot import METHODS, MetaRecipe, Place, evaluate
from nsl.fewshot.kshot import DiscriminativeKShot
from nsl.fewshot.leo import LEO
from nsl.fewshot.meta import GRADIENT_NORM, meta_train
from nsl.fewshot.tadam import TADAM
from tests.nsl.fewshot.toy import method, tasks, toy

OPTIONS = Path(__file__).with_name("options.json")


@pytest.mark.parametrize("name", METHODS)
def test_a_method_leaves_the_global_random_state_alone(name: str) -> None:
    settings = method(name).settings
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = METHODS[name](settings), METHODS[name](settings)
    assert torch.equal(torch.get_rng_state(), before)
    for one, other in zip(first.network.parameters(), second.network.parameters()):
        assert torch.equal(one, other)  # from the settings' seed


def test_the_rate_of_a_meta_training_falls_evenly_and_ends_a_step_above_zero() -> None:
    recipe = MetaRecipe(iterations=4, learning_rate=0.8)
    assert [recipe.rate(step) for step in range(4)] == pytest.approx([0.8, 0.6, 0.4, 0.2])


@pytest.mark.parametrize("name", ["maml", "meta_static_nsn"])
def test_the_state_that_is_best_on_validation_classes_is_tested(name: str) -> None:
    """The score of the network that is returned, computed again, is the best of all that were seen."""
    found = method(name, iterations=4, validation_episodes=4)
    validation = toy().novel
    history = found.fit(toy().base, Place(), validation)
    seen = [point["accuracy"] for point in history["meta"]["selection"]]
    meta = found.settings.meta
    again = evaluate(found, validation, meta.shot, meta.query, 4, found.settings.seed)
    assert again.mean == pytest.approx(max(seen))
    assert 20 < again.mean <= 100


def test_long_gradients_of_a_meta_training_are_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain descent in place of Adam: the first step is as long as the rate times the largest norm."""
    network = nn.Linear(3, 1, bias=False)
    before = network.weight.detach().clone()
    monkeypatch.setattr(torch.optim, "Adam", lambda chosen, lr, weight_decay: torch.optim.SGD(chosen, lr))
    recipe = MetaRecipe(iterations=1, tasks=1, way=3, shot=1, query=1, learning_rate=0.1)

    def fetch(where: Tensor, _: torch.Generator) -> Tensor:
        return torch.ones(len(where), 3)

    meta_train(
        network, lambda batch: 1e6 * network(batch.support).sum(), toy().base, fetch, recipe, seed=0, identity={},
        device=torch.device("cpu"), place=Place(),
    )  # fmt: skip
    moved = float((network.weight - before).detach().norm())
    assert moved == pytest.approx(0.1 * GRADIENT_NORM, rel=1e-4)


def test_leos_divergence_is_added_to_its_loss() -> None:
    losses, batch = [], tasks(2, 2, 2, 2, (method("leo", way=2)._features,))  # type: ignore[attr-defined]
    for beta in (0.0, 1.0):
        found = method("leo", way=2, beta=beta)
        assert isinstance(found, LEO)
        found.settings = replace(found.settings, meta=replace(found.settings.meta, way=2))
        found.latent.double()
        with torch.no_grad():
            found.latent.encoder.weight.mul_(3)  # far from the prior
        part = replace(batch, generator=torch.Generator().manual_seed(3))
        kl = found.adapted_weights(
            part.support, torch.eye(2, dtype=torch.float64).repeat_interleave(2, 0), torch.Generator().manual_seed(3)
        )[1]
        part = replace(batch, generator=torch.Generator().manual_seed(3))
        losses.append(float(found.loss(part).detach()))
    assert float(kl.detach()) > 0
    assert losses[1] - losses[0] == pytest.approx(float(kl.detach()), rel=1e-6)


def test_tadams_metric_scale_is_learned() -> None:
    found = method("tadam", way=2, width=2, iterations=4, auxiliary=False)
    assert isinstance(found, TADAM)
    batch = tasks(1, 2, 1, 1, (3, 16, 16))
    found.loss(replace(batch, support=batch.support.float(), query=batch.query.float(), iteration=0)).backward()
    gradient = found.network.log_metric_scale.grad
    assert gradient is not None
    assert gradient.abs() > 0


def test_the_prior_of_discriminative_k_shot_is_that_of_the_base_classes_weights() -> None:
    """Its features are divided by a scale, so its weights are multiplied by it: products stay what they were."""
    found = method("kshot", iterations=2)
    assert isinstance(found, DiscriminativeKShot)
    kept: dict[str, Any] = {}
    pretrain = found.pretrain

    def recorded(base: Any, place: Any) -> Any:
        kept["whole"] = pretrain(base, place)
        return kept["whole"]

    found.pretrain = recorded  # type: ignore[method-assign]
    found.fit(toy().base)
    mean, _, scale = found._prior  # type: ignore[misc]
    weights = kept["whole"][0].classifier.weight.detach()
    torch.testing.assert_close(mean * scale, weights.mean(0))
    features = found.represent(toy().base.images[:8])
    adapted = found.adapt(found.represent(toy().novel.images[:3]), torch.arange(3), steps=0)
    assert adapted.predict(features).shape == (8, 3)
    torch.testing.assert_close((features * scale) @ (mean), features @ (mean * scale))


def options() -> dict[str, Any]:
    """All methods' options with their defaults, as text: records do not say options that nobody declared."""
    return {name: {key: repr(value) for key, value in sorted(method(name).options.items())} for name in sorted(METHODS)}


def write() -> None:
    OPTIONS.write_text(json.dumps(options(), indent=1, sort_keys=True) + "\n", encoding="utf-8")


def test_defaults_of_methods_are_the_ones_that_stored_records_were_made_with() -> None:
    """A default that is changed changes runs under their old names: see NUMERICS in `reproduce/declare/runs.py`."""
    assert options() == json.loads(OPTIONS.read_text(encoding="utf-8"))


if __name__ == "__main__":
    write()
