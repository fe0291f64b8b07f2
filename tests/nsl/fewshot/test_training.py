"""Trainings on base classes and on episodes: reproducible, resumable, shared, and clear about what is wrong."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from nsl.data import DataError, ImageSet
from nsl.fewshot import (
    METHODS,
    Adapted,
    Diverged,
    FewShotMethod,
    MetaRecipe,
    Place,
    Settings,
    create_method,
    evaluate,
    interval,
    paired,
)
from nsl.fewshot import maml as maml_module
from nsl.fewshot.export import save_method
from nsl.fewshot.meta import image_fetcher
from nsl.fewshot.pretrain import as_dataset
from nsl.training import state as state_module
from nsl.training.batches import generator
from nsl.training.checkpoint import CheckpointError
from nsl.training.schedule import AUGMENTATIONS
from nsl.training.step import ClassifierStep
from tests.nsl.fewshot.toy import method, toy


def fitted(name: str, place: Place | None = None, **options: object) -> FewShotMethod:
    found = method(name, **options)  # type: ignore[arg-type]
    found.fit(toy().base, place)
    return found


def test_every_method_learns_an_easy_set() -> None:
    """Chance is 33 %: a handful of iterations is enough for patterns like these."""
    for name in ("proto", "finetune", "static_nsn", "dynamic_nsn", "baseline_pp", "kshot", "nearest"):
        # The 34 layers start as few: their residual branches are zero at first.
        found = fitted(name, iterations=60 if name == "kshot" else 12)
        result = evaluate(found, toy().novel, 5, 5, 6, 0)
        assert result.mean > 55, name
        assert len(result.accuracies) == 6
        assert result.adapt_seconds > 0


@pytest.mark.parametrize("name", ["proto", "maml", "meta_static_nsn", "leo", "tadam"])
def test_an_interrupted_training_ends_with_the_same_network(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fitted(name)
    place = Place(checkpoint=tmp_path / "run.pt", minutes=0.0)
    calls = 0
    real = state_module.save_checkpoint

    def interrupt(path: Path, state: dict[str, object]) -> None:
        nonlocal calls
        real(path, state)
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(state_module, "save_checkpoint", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fitted(name, place)
    monkeypatch.undo()
    resumed = fitted(name, place)
    results = [evaluate(found, toy().novel, 2, 3, 4, 0).accuracies for found in (whole, resumed)]
    assert results[0] == results[1]
    for (key, left), right in zip(whole.network.state_dict().items(), resumed.network.state_dict().values()):
        torch.testing.assert_close(left, right, rtol=0, atol=0, msg=key)


def test_methods_that_start_from_the_same_classifier_train_it_once(tmp_path: Path) -> None:
    place = Place(shared=tmp_path)
    first = method("finetune").fit(toy().base, place)["pretrain"]
    second = method("static_nsn").fit(toy().base, place)["pretrain"]
    assert (first["shared"], second["shared"]) == (False, True)
    assert first["curve"] == second["curve"]
    assert len(list(tmp_path.glob("backbone-*.pt"))) == 1
    method("dynamic_nsn").fit(toy().base, place)
    assert len(list(tmp_path.glob("backbone-*.pt"))) == 2
    for path in tmp_path.glob("backbone-*.pt"):
        path.write_bytes(b"x")
    with pytest.raises(CheckpointError, match="is damaged; delete it"):
        method("finetune").fit(toy().base, place)


def test_a_shared_classifier_of_other_arithmetic_is_named_and_trained_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Place(shared=tmp_path)
    method("finetune").fit(toy().base, place)
    (first,) = tmp_path.glob("backbone-*.pt")
    assert capsys.readouterr().err == ""
    with patch("torch.backends.cpu.get_cpu_capability", lambda: "none"):
        assert not method("finetune").fit(toy().base, place)["pretrain"]["shared"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"The base classes are trained anew with vectors none, since {first} was made with vectors ")


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    place = Place(checkpoint=tmp_path / "run.pt")
    fitted("proto", place)
    with pytest.raises(CheckpointError, match=r"belongs to another training.*delete it"):
        fitted("proto", place, iterations=5)


def test_a_checkpoint_of_other_images_settings_or_options_is_refused(tmp_path: Path) -> None:
    place = Place(checkpoint=tmp_path / "run.pt")
    first = fitted("maml", place, width=2, iterations=1)
    base = toy().base
    other = replace(base, images=base.images.flip(0))
    assert other.name == base.name
    changed: list[tuple[FewShotMethod, ImageSet]] = [
        (method("maml", width=2, iterations=1), other),
        (method("maml", width=2, iterations=1, rate=0.2), base),
        (method("maml", width=2, iterations=1, train_steps=3), base),
        (method("maml", width=2, iterations=1, first_order=True), base),
        (method("proto", width=2, iterations=1), base),
        (create_method("maml", replace(first.settings, pretrain=replace(first.settings.pretrain, batch_size=8))), base),
    ]
    for found, images in changed:
        with pytest.raises(CheckpointError, match=r"belongs to another training.*delete it"):
            found.fit(images, place)
    fitted("maml", place, width=2, iterations=1)


def test_every_augmentation_of_a_recipe_is_done() -> None:
    base, where = toy().base, torch.arange(6)

    def fetched(kind: str) -> torch.Tensor:
        return image_fetcher(base, ((0.0,) * 3, (1.0,) * 3), kind, torch.device("cpu"))(where, generator(0))

    with pytest.raises(ValueError, match="window_flip' needs stored images larger than the network's input"):
        fetched("window_flip")
    drawn = {kind: fetched(kind) for kind in AUGMENTATIONS if kind != "window_flip"}
    assert all(images.shape == (6, 3, 16, 16) for images in drawn.values())
    kinds = list(drawn)
    same = {(a, b) for a in kinds for b in kinds if a < b and torch.equal(drawn[a], drawn[b])}
    assert same == set()


def test_a_training_ends_with_its_best_state_by_validation_classes_even_when_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([50.0, 70.0, 60.0, 70.0, 10.0])
    monkeypatch.setattr(maml_module.GradientMeta, "_score", lambda *_: lambda: next(scores))
    options = {"width": 2, "train_steps": 1, "validation_episodes": 1}
    found = method("maml", iterations=4, **options)  # type: ignore[arg-type]
    place = Place(checkpoint=tmp_path / "run.pt")
    history = found.fit(toy().base, place, toy().novel)["meta"]
    assert [point["accuracy"] for point in history["selection"]] == [50.0, 70.0, 60.0, 70.0, 10.0]
    assert [point["iteration"] for point in history["selection"]] == [0, 1, 2, 3, 4]
    one = method("maml", iterations=4, width=2, train_steps=1)
    states = []
    monkeypatch.setattr(
        maml_module.GradientMeta, "_score", lambda self, _: lambda: states.append(weights(self)) or float(len(states))
    )
    last = method("maml", iterations=4, **options)  # type: ignore[arg-type]
    last.fit(toy().base, None, toy().novel)
    one.fit(toy().base, None, toy().novel)  # asked for none: the last state
    assert torch.equal(weights(found), states[1])
    assert torch.equal(weights(last), states[-1])
    assert torch.equal(weights(one), states[-1])
    # What was measured before an interruption is in the checkpoint.
    again = method("maml", iterations=4, **options)  # type: ignore[arg-type]
    assert again.fit(toy().base, place, toy().novel)["meta"]["selection"] == history["selection"]
    assert torch.equal(weights(again), states[1])
    other = replace(toy().novel, images=toy().novel.images.flip(0))
    with pytest.raises(CheckpointError, match="belongs to another training"):
        method("maml", iterations=4, **options).fit(toy().base, place, other)  # type: ignore[arg-type]


def test_too_few_validation_classes_are_refused_before_any_training(monkeypatch: pytest.MonkeyPatch) -> None:
    found = method("meta_static_nsn", validation_episodes=1, steps=1)
    monkeypatch.setattr(type(found), "train", lambda *_: pytest.fail("trained"))
    with pytest.raises(ValueError, match=r"meta_static_nsn: no episode of the validation classes is possible.* got 1"):
        found.fit(toy().base, None, toy().validation)


def weights(found: FewShotMethod) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in found.network.parameters()])


def test_every_option_of_a_method_is_remembered_with_its_default() -> None:
    maml = method("maml", rate=0.2)
    assert maml.options["rate"] == 0.2
    assert maml.options["train_steps"] == 5
    for name, build in METHODS.items():
        known = set(inspect.signature(build).parameters) - {"settings"}
        assert set(method(name).options) == known, name


def test_a_shared_classifier_remembers_every_attempt_at_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nsl.fewshot import pretrain as pretrain_module

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pretrain_module, "train", stop)
        with pytest.raises(KeyboardInterrupt):
            fitted("finetune", Place(shared=tmp_path, attempt={"commit": "a"}))
    history = method("finetune").fit(toy().base, Place(shared=tmp_path, attempt={"commit": "b"}))["pretrain"]
    first, second = history["attempts"]
    assert (first["commit"], first["seconds"], second["commit"]) == ("a", None, "b")
    assert second["seconds"] > 0
    assert first["started"] <= second["started"]
    again = method("static_nsn").fit(toy().base, Place(shared=tmp_path, attempt={"commit": "c"}))["pretrain"]
    assert again["attempts"] == history["attempts"]
    assert not list(tmp_path.glob("*.attempts.json"))


def test_the_same_seed_gives_the_same_network_and_another_seed_another() -> None:
    def weights(seed: int) -> torch.Tensor:
        settings = replace(method("proto").settings, seed=seed)
        found = create_method("proto", settings)
        found.fit(toy().base)
        return next(iter(found.network.parameters())).detach()

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_a_loss_that_is_not_finite_ends_the_training() -> None:
    found = method("proto", iterations=30)
    with torch.no_grad():
        next(iter(found.network.parameters())).fill_(float("nan"))
    with pytest.raises(Diverged, match="loss nan at iteration 1"):
        found.fit(toy().base)


def test_features_of_a_frozen_backbone_are_computed_once() -> None:
    found = fitted("finetune_classifier", iterations=1)
    calls = []
    found.embed = lambda images: (calls.append(len(images)), found.network(images))[1]  # type: ignore[method-assign, func-returns-value]
    evaluate(found, toy().novel, 2, 3, 10, 0)
    assert sum(calls) == len(toy().novel.images)


def test_all_methods_see_the_same_episodes() -> None:
    seen: dict[str, list[list[int]]] = {}
    for name in ("nearest", "proto"):
        found = fitted(name, iterations=1)
        items = torch.arange(len(toy().novel.labels)).float().unsqueeze(1)
        own: list[list[int]] = []
        seen[name] = own

        def adapted(support: torch.Tensor, labels: torch.Tensor, steps: int, own: list[list[int]] = own) -> Adapted:
            own.append(support.flatten().int().tolist())
            return Adapted(lambda query: torch.zeros(len(query), 3))

        found.adapted = adapted  # type: ignore[method-assign]
        evaluate(found, toy().novel, 2, 3, 5, 0, items)
    assert seen["nearest"] == seen["proto"]


def test_intervals_and_paired_differences() -> None:
    assert interval([50.0]) == (50.0, None)
    mean, half = interval([40.0, 60.0])
    assert (mean, half) == (50.0, pytest.approx(1.959964 * 10, rel=1e-6))
    assert paired([3.0, 5.0], [1.0, 3.0]) == (2.0, 0.0)
    with pytest.raises(ValueError, match="the same episodes, got 1 and 2"):
        paired([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="no values"):
        interval([])


def test_bad_input_is_one_clear_sentence() -> None:
    settings = Settings(image_size=16)
    with pytest.raises(ValueError, match="few-shot method must be one of"):
        create_method("svm", settings)
    with pytest.raises(ValueError, match="'proto' has no option 'steps'"):
        create_method("proto", settings, steps=3)
    with pytest.raises(ValueError, match="backbone must be 'resnet12'"):
        create_method("tadam", settings)
    with pytest.raises(ValueError, match="must have the 5 classes of test episodes, got 3"):
        create_method("maml", replace(settings, meta=MetaRecipe(iterations=1, way=3)))
    with pytest.raises(ValueError, match="needs the backbone 'cnn4' or 'cnn9', got 'resnet12'"):
        create_method("static_nsn", replace(settings, backbone="resnet12"))
    with pytest.raises(ValueError, match="metric must be one of"):
        create_method("nearest", settings, metric="l1")
    with pytest.raises(ValueError, match="has images of 16 pixels, the settings say 32"):
        create_method("proto", replace(settings, image_size=32)).fit(toy().base)
    with pytest.raises(ValueError, match="call fit before represent"):
        create_method("proto", settings).represent(toy().base.images)
    with pytest.raises(ValueError, match="tasks must be a whole number"):
        MetaRecipe(iterations=1, tasks=0)
    with pytest.raises(ValueError, match="schedule must be one of"):
        MetaRecipe(iterations=1, schedule="steps")
    large = replace(method("proto").settings, meta=MetaRecipe(iterations=1, way=3, shot=10, query=10))
    with pytest.raises(ValueError, match=r"class 'pattern 0' has 14 images, an episode takes 20 of it"):
        create_method("proto", large).fit(toy().base)


def test_every_method_has_its_own_name_and_says_where_it_is_from() -> None:
    for found in METHODS.values():
        assert issubclass(found, FewShotMethod)
        assert found.__doc__


META_TRAINED = ("matching", "proto", "relation", "maml", "meta_static_nsn", "meta_dynamic_nsn", "tadam", "leo")


@pytest.mark.parametrize("name", META_TRAINED)
def test_half_precision_starts_with_the_loss_of_full_precision(name: str) -> None:
    losses = []
    # An untrained backbone's inner steps are steep: with the usual rates the loss is large and any rounding changes it.
    gentle = {"classifier_rate": 0.1, "similarity_rate": 1e-4} if name.startswith("meta_") else {}
    for precision in ("float32", "bfloat16"):
        found = method(name, iterations=1, **gentle)
        meta = replace(found.settings.meta, precision=precision)
        found = create_method(name, replace(found.settings, meta=meta), **gentle)
        losses.append(found.fit(toy().base)["meta"]["curve"][-1]["loss"])
        assert all(p.dtype == torch.float32 for p in found.network.parameters())
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_tasks_are_vectorised_where_it_pays() -> None:
    small = method("maml")
    assert small.vectorise  # type: ignore[attr-defined]
    for changed in (
        replace(small.settings, image_size=32),
        replace(small.settings, meta=replace(small.settings.meta, precision="bfloat16")),
    ):
        assert not create_method("maml", changed).vectorise  # type: ignore[attr-defined]
        assert create_method("maml", changed, vectorise=True).vectorise  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["static_nsn", "leo", "tadam"])
def test_creating_and_fitting_a_method_leaves_the_global_random_state_alone(name: str) -> None:
    torch.manual_seed(123)
    before = torch.get_rng_state()
    found = method(name, iterations=1)
    assert torch.equal(torch.get_rng_state(), before)
    found.fit(toy().base)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_only_image_of_a_base_class_is_trained_and_not_held_out() -> None:
    images = torch.zeros(5, 3, 4, 4, dtype=torch.uint8)
    found = as_dataset(ImageSet("mine", images, torch.tensor([0, 0, 1, 2, 2]), ("a", "b", "c")))
    assert found.train_labels.tolist() == [0, 1, 2]
    assert found.test_labels.tolist() == [0, 2]
    with pytest.raises(DataError, match="mine: no class has two images, one to train and one to hold out"):
        as_dataset(ImageSet("mine", images, torch.arange(5), tuple("abcde")))


def test_where_both_ways_of_computing_tasks_are_timed_the_faster_is_kept_and_recorded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on a card, the clock's looks being made up: nine seconds side by side, one for the loop."""
    clock = iter([0.0, 9.0, 9.0, 10.0])
    monkeypatch.setattr(maml_module, "now", lambda device: next(clock))
    histories = []
    for _ in range(2):  # the second goes on from the first's checkpoint, and looks at no clock
        timed = method("maml", iterations=2, train_steps=1)
        assert isinstance(timed, maml_module.GradientMeta)
        assert not timed.measures  # on the CPU a rule decides
        timed.measures = True
        histories.append(timed.fit(toy().base, Place(checkpoint=tmp_path / "meta.pt"))["meta"])
        assert timed.vectorise is False
    loop = method("maml", iterations=2, train_steps=1, vectorise=False).fit(toy().base)["meta"]
    assert [history["choice"] for history in histories] == [False, False]
    assert "choice" not in loop
    assert histories[0]["curve"] == histories[1]["curve"] == loop["curve"]


@pytest.mark.parametrize("name", ["proto", "maml"])
def test_a_method_whose_fit_was_interrupted_is_not_used_and_not_gone_on_with(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(path: Path, state: dict[str, object]) -> None:
        raise KeyboardInterrupt

    found = method(name)
    monkeypatch.setattr(state_module, "save_checkpoint", interrupt)
    with pytest.raises(KeyboardInterrupt):
        found.fit(toy().base, Place(checkpoint=tmp_path / "run.pt", minutes=0.0))
    monkeypatch.undo()
    with pytest.raises(ValueError, match=f"{name}: call fit before represent"):
        found.represent(toy().novel.images[:3])
    with pytest.raises(ValueError, match=f"{name}: call fit before save_method"):
        save_method(tmp_path / "method.safetensors", found)
    with pytest.raises(ValueError, match=f"{name} is half trained"):
        found.fit(toy().base)


@pytest.mark.parametrize("shape", [(2, 3, 40, 40), (2, 16, 16, 3), (3, 16, 16)])
def test_images_of_another_form_are_not_represented(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"proto: images must be a tensor \[B, 3, 16, 16\] as in training, got"):
        fitted("proto").represent(torch.zeros(shape, dtype=torch.uint8))


def test_a_second_fit_of_one_method_is_refused() -> None:
    found = fitted("proto")
    with pytest.raises(ValueError, match="proto was fitted before and would go on from there"):
        found.fit(toy().base)
    loaded = method("proto")
    assert found.moments is not None
    loaded.restore(found.trained_tensors(), found.moments)
    with pytest.raises(ValueError, match="proto was fitted before"):
        loaded.fit(toy().base)


@pytest.mark.parametrize("name", ["finetune", "meta_static_nsn"])
def test_a_training_on_base_classes_goes_on_from_the_place_too(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path / "run.pt", minutes=0.0)
    fitted(name, place)
    assert (tmp_path / "run.pretrain.pt").exists()
    stepped = []
    monkeypatch.setattr(ClassifierStep, "__call__", lambda self, iteration: stepped.append(iteration))
    again = fitted(name, place)
    assert stepped == []
    monkeypatch.undo()
    whole = fitted(name)
    assert all(torch.equal(a, b) for a, b in zip(again.network.parameters(), whole.network.parameters()))


def test_leo_trains_on_features_of_images_as_they_are() -> None:
    settings = replace(method("leo").settings, meta=MetaRecipe(iterations=1, augment="crop_flip"))
    with pytest.raises(ValueError, match=r"meta\.augment must be 'none', got 'crop_flip'"):
        create_method("leo", settings)
