"""What a method is told is checked before it trains, and what it keeps can be read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nsl.fewshot import METHODS, Place, Settings, create_method
from nsl.fewshot.meta_nsn import MetaDynamicNSN, MetaStaticNSN
from nsl.fewshot.proto import ProtoNet
from tests.nsl.fewshot.toy import method, toy

WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("finetune", {"steps": -1}, "finetune: steps must be a whole number of at least 0, got -1"),
    ("finetune", {"steps": 1.5}, "finetune: steps must be a whole number"),
    ("finetune", {"rate": float("nan")}, "finetune: rate must be a finite number that is not negative, got nan"),
    ("finetune", {"momentum": 1.0}, "finetune: momentum must be below 1"),
    ("maml", {"train_steps": -1}, "maml: train_steps must be"),
    ("maml", {"vectorise": "no"}, "maml: vectorise must be True or False, got 'no'"),
    ("meta_static_nsn", {"steps": "3"}, "meta_static_nsn: steps must be a whole number"),
    ("leo", {"dropout": 2.0}, "leo: dropout must be below 1"),
    ("leo", {"latent": 0}, "leo: latent must be a whole number of at least 1"),
    ("baseline_pp", {"batch_size": 0}, "baseline_pp: batch_size must be a whole number of at least 1"),
    ("dynamic_nsn", {"predictor_options": 3}, "dynamic_nsn: predictor_options must be a dict"),
]


@pytest.mark.parametrize(("name", "options", "message"), WRONG)
def test_an_impossible_option_is_refused_before_any_training(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        method(name, **options)


def test_numbers_of_numpy_are_taken_and_a_training_with_them_goes_on(tmp_path: Path) -> None:
    """They went into the checkpoint, which was then called damaged."""
    place = Place(checkpoint=tmp_path / "run.pt")
    options = {"rate": np.float64(0.01), "train_steps": np.int64(2)}
    found = method("maml", **options)
    assert [type(found.options[name]) for name in options] == [float, int]
    first = found.fit(toy().base, place)
    assert method("maml", **options).fit(toy().base, place)["meta"]["curve"] == first["meta"]["curve"]


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"leo", "kshot", "tadam"}))
def test_nothing_is_adapted_before_it_is_fitted(name: str) -> None:
    found, labels = method(name), torch.arange(3)
    with pytest.raises(ValueError, match=f"{name}: call fit before adapt"):
        found.adapt(torch.zeros(3, 3, 16, 16), labels)


def test_images_that_were_changed_in_place_are_trained_on_as_they_are() -> None:
    base = toy().base
    changed = type(base)(base.name, base.images.clone(), base.labels, base.class_names)
    method("finetune").fit(changed)
    changed.images.fill_(200)
    found = method("finetune")
    found.fit(changed)
    assert found.moments is not None
    assert found.moments[0] == pytest.approx((200 / 255,) * 3)


class Shifted(ProtoNet):
    """A method of a user's, whose options may mean anything."""

    name = "shifted"

    def __init__(self, settings: Settings, *, shift: float = -1.0, momentum: float = 0.5, offset: int = -1) -> None:
        super().__init__(settings)
        self.shift, self.momentum, self.offset = shift, momentum, offset


class Halved(MetaStaticNSN):
    """A method of a user's beside one of ours, with an option of its own and all of the other's."""

    name = "halved"

    def __init__(self, settings: Settings, *, half: float = 0.5, **more: Any) -> None:
        super().__init__(settings, **more)
        self.half = half


class Gentle(MetaDynamicNSN):
    """The same with options of its own only: those of the other are as it says."""

    name = "gentle"

    def __init__(self, settings: Settings, *, gentleness: float = 0.1) -> None:
        super().__init__(settings, similarity_rate=gentleness, train_steps=1, steps=2)


def test_a_meta_learned_network_can_be_subclassed() -> None:
    """Both constructors handed on `self.options`, which are the subclass's, and `**more` counted as an option."""
    settings = method("meta_static_nsn").settings
    halved = Halved(settings, half=0.25, steps=3, similarity="diagonal")
    assert halved.options == {"half": 0.25, "steps": 3, "similarity": "diagonal"}
    assert (halved.half, halved.steps, halved.train_steps, halved.similarity) == (0.25, 3, 5, "diagonal")
    assert halved.fit(toy().base)["meta"]["curve"]
    gentle = Gentle(settings)
    assert gentle.options == {"gentleness": 0.1}
    assert (gentle.similarity_rate, gentle.steps, gentle.first_order, gentle.vectorise) == (0.1, 2, True, False)


def test_a_listed_method_may_hand_on_options_that_it_does_not_name(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = method("meta_static_nsn").settings
    monkeypatch.setitem(METHODS, "halved", Halved)
    assert create_method("halved", settings, steps=3).steps == 3


def test_a_method_of_a_users_has_its_own_ranges_and_options_of_their_types() -> None:
    settings = method("proto").settings
    found = Shifted(settings, shift=torch.tensor(-2.0), momentum=1.0, offset=-2)
    assert found.options == {"shift": -2.0, "momentum": 1.0, "offset": -2}
    with pytest.raises(ValueError, match=r"shifted: offset must be a whole number, got 0\.5"):
        Shifted(settings, offset=0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="dynamic_nsn: predictor must be a text, got <class"):
        method("dynamic_nsn", predictor=ProtoNet)
    with pytest.raises(TypeError, match="validation must be images of classes"):
        method("maml", validation_episodes=3).fit(toy().base, None, "x")  # type: ignore[arg-type]
