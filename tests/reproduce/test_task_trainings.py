"""What a task trains, by which seed, on which data, and that its measures are those they are called."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nsl.fewshot
import nsl.training
import nsl.training.fit
from nsl.data import hold_out, load, make_dataset
from nsl.data.scenes import load_segmentation
from nsl.fewshot import FewShotMethod
from reproduce import tasks
from reproduce.declare import plan
from reproduce.declare.runs import NUMERICS, REVISIONS, Run
from reproduce.run import executors, selection
from reproduce.tasks.few_shot import on_validation
from reproduce.tasks.robustness import TASK as ROBUSTNESS
from reproduce.tasks.robustness import attacked, attacks
from tests.reproduce.helpers import TwoClasses

#: A row of every task, and the seeds that its trainings have, beside that of the run.
ROWS: dict[str, tuple[plan.Key, str, tuple[int, ...]]] = {
    "classification": (1, "dynamic", (0,)),
    "few-shot": (6, "proto", (0,)),
    "stages": ("stages", "dynamic_both", (0, 1000, 2000)),
    "sequences": ("sequences", "gru", (0,)),
    "segmentation": ("segmentation", "cnn", (0,)),
    "metric": ("metric", "psd", (0,)),
    "robustness": ("robustness", "cnn", (0,)),
}


def run_of(table: plan.Key, key: str | None, seed: int = 0, profile: str = "demo") -> Run:
    chosen, experiment = plan.profile(profile), plan.experiment(table)
    methods = [method.key for method in experiment.methods]
    return chosen.run(experiment.method(key if key in methods else methods[-1]), experiment.datasets[0], seed)


def trained(run: Run, folder: Path, steps: int = 2) -> Any:
    task = tasks.named(run.task)
    return task.train(task.shortened(run, steps), task.load(run.dataset, None), folder / "run.pt", 5.0, False)


@pytest.mark.parametrize("name", ROWS)
def test_a_runs_seed_is_that_of_its_start_and_of_its_training(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, key, offsets = ROWS[name]
    starts: list[int] = []
    trainings: list[int] = []
    seeding, training, fitting, making = (
        torch.manual_seed, nsl.training.train, nsl.training.fit.fit, nsl.fewshot.create_method,
    )  # fmt: skip

    def seed_recorded(seed: int) -> Any:
        starts.append(seed)
        return seeding(seed)

    def recorded(call: Any) -> Any:
        def called(*arguments: Any, **named: Any) -> Any:
            trainings.append(named["seed"])
            return call(*arguments, **named)

        return called

    def made(method: str, settings: Any, **options: Any) -> Any:
        trainings.append(settings.seed)
        return making(method, settings, **options)

    monkeypatch.setattr(torch, "manual_seed", seed_recorded)
    monkeypatch.setattr(nsl.training, "train", recorded(training))
    monkeypatch.setattr(nsl.training.fit, "fit", recorded(fitting))
    monkeypatch.setattr(nsl.fewshot, "create_method", made)
    run = run_of(table, key, seed=5)
    assert run.task == name
    trained(run, tmp_path)
    assert 5 in starts
    assert trainings == [5 + offset for offset in offsets]


# Which data.
def test_held_out_images_are_training_images_and_the_test_images_are_gone() -> None:
    whole, held = load("digits", image_size=8), load("digits", image_size=8, validation=20)
    training = {image.numpy().tobytes() for image in whole.train_images}
    kept = {image.numpy().tobytes() for image in held.train_images}
    assert len(held.train_images) == len(whole.train_images) - 20
    assert all(image.numpy().tobytes() in training for image in held.test_images)
    assert not any(image.numpy().tobytes() in kept for image in held.test_images)
    labels = {image.numpy().tobytes(): int(label) for image, label in zip(whole.train_images, whole.train_labels)}
    for images, told in ((held.test_images, held.test_labels), (held.train_images, held.train_labels)):
        assert all(labels[image.numpy().tobytes()] == int(label) for image, label in zip(images, told))
    assert held.fingerprint == hold_out(whole, 20).fingerprint == "a3231750e2805353"


def test_every_trial_of_a_few_shot_recipe_is_measured_on_the_validation_classes() -> None:
    for name in ("cpu", "paper"):
        runs = [run for choice in selection.choices(plan.profile(name), 6) for run in choice.runs]
        assert all(run.recipe["episodes"]["split"] == "validation" for run in runs)
        assert runs or name == "paper"


@pytest.mark.parametrize("trial", [False, True])
def test_a_few_shot_run_sees_validation_classes_in_training_and_the_named_ones_in_testing(
    trial: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(6, "nearest")
    task = tasks.named(run.task)
    data = task.load(run.dataset, None)
    seen: dict[str, Any] = {}
    fit, evaluate = FewShotMethod.fit, nsl.fewshot.evaluate

    def fitting(self: FewShotMethod, base: Any, place: Any = None, validation: Any = None) -> Any:
        seen["base"], seen["validation"] = base, validation
        return fit(self, base, place, validation)

    def evaluating(method: Any, novel: Any, *arguments: Any) -> Any:
        seen.setdefault("tested", []).append(novel)
        return evaluate(method, novel, *arguments)

    monkeypatch.setattr(FewShotMethod, "fit", fitting)
    monkeypatch.setattr(nsl.fewshot, "evaluate", evaluating)
    short = task.shortened(run, 2)
    task.train(on_validation(short) if trial else short, data, tmp_path / "run.pt", 5.0, False)
    assert seen["base"] is data.base
    assert seen["validation"] is data.validation
    assert seen["tested"]
    assert all(tested is (data.validation if trial else data.novel) for tested in seen["tested"])


def test_scenes_for_validation_are_of_training_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = load("digits", image_size=16)
    # No nine among the training digits, nothing else among the test digits.
    marked = replace(digits, train_labels=digits.train_labels % 9, test_labels=torch.full_like(digits.test_labels, 9))
    monkeypatch.setattr("nsl.data.digits.load_digits", lambda **_: marked)
    options = {"image_size": 32, "train": 20, "test": 20}
    assert set(load_segmentation("digit_scenes", **options).test_masks.unique().tolist()) == {0, 10}
    assert 10 not in load_segmentation("digit_scenes", **options, validation=20).test_masks


def test_later_stages_have_the_later_rate(tmp_path: Path) -> None:
    run = run_of("stages", None)
    run = replace(run, recipe=run.recipe | {"schedule": "constant", "warmup": 0.0, "milestones": []})
    curve = trained(run, tmp_path, 3).result["curve"]
    first, later = run.recipe["learning_rate"], run.recipe["learning_rate"] * run.recipe["later_rate"]
    assert [point["learning_rate"] for point in curve] == pytest.approx([first, later, later])


# Measures.
def measured(run: Run, data: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, network: nn.Module) -> dict[str, Any]:
    """What a task's measure says of a network that is told."""
    found: dict[str, Any] = {}

    def fit(model: Any, loss: Any, measure: Any, count: int, recipe: Any, **_: Any) -> dict[str, Any]:
        with torch.no_grad():
            found.update(measure(network))
        raise StopIteration

    monkeypatch.setattr(nsl.training.fit, "fit", fit)
    with pytest.raises(StopIteration):
        tasks.named(run.task).train(run, data, folder / "run.pt", 5.0, False)
    return found


def test_the_nearest_neighbours_class_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grey = torch.tensor([0, 100, 250], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 2, 2).contiguous()
    tested = torch.tensor([90, 200, 10, 110], dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 3, 2, 2).contiguous()
    # Nearest are 1, 2, 0 and 1: the last is wrong.
    data = make_dataset("line", grey, torch.tensor([0, 1, 2]), tested, torch.tensor([1, 2, 0, 2]), ["a", "b", "c"])

    class Euclidean(nn.Module):
        def squared_distance(self, x: Tensor, y: Tensor) -> Tensor:
            return torch.cdist(x, y).square()

    run = run_of("metric", "psd")
    assert measured(run, data, tmp_path, monkeypatch, Euclidean()) == {"test_error": 25.0}


class Says(nn.Module):
    """A network that says what it was given, whatever its input."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, _: Tensor) -> Tensor:
        return self.outputs


def test_errors_of_sequences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile, experiment = plan.profile("demo"), plan.experiment("sequences")
    for slot in experiment.datasets:
        run = profile.run(experiment.methods[-1], slot, 0)
        data = tasks.named(run.task).load(run.dataset, None)
        if data.num_classes:
            right = nn.functional.one_hot(data.test_targets, data.num_classes).float()
            half = right.clone()
            half[: len(half) // 2] = half[: len(half) // 2].roll(1, 1)
            expected = 100 * (len(half) // 2) / len(half)
            answers = ((right, 0.0), (half, expected))
        else:
            mean = torch.full_like(data.test_targets, float(data.train_targets.mean()))
            answers = ((data.test_targets[:, None], 0.0), (mean[:, None], 100.0))
        for said, error in answers:
            with monkeypatch.context() as patched:
                found = measured(run, data, tmp_path, patched, Says(said))
            assert found["test_error"] == pytest.approx(error, abs=1e-4)


def test_errors_of_segmentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of("segmentation", None)
    data = tasks.named(run.task).load(run.dataset, None)
    data = replace(data, test_images=data.test_images[:4], test_masks=data.test_masks[:4])
    right = nn.functional.one_hot(data.test_masks.long(), data.num_classes).movedim(-1, 1).float()
    with monkeypatch.context() as patched:
        found = measured(run, data, tmp_path, patched, Says(right))
    assert (found["mean_iou"], found["pixel_error"]) == (100.0, 0.0)
    with monkeypatch.context() as patched:
        found = measured(run, data, tmp_path, patched, Says(right.roll(1, 1)))
    assert (found["mean_iou"], found["pixel_error"]) == (0.0, 100.0)


def test_an_attack_keeps_pixels_pixels_and_its_errors_are_means_over_the_radii() -> None:
    """All images are black or white: where only a step out of the range would help the attacker, nothing helps."""

    images = torch.zeros(20, 3, 4, 4, dtype=torch.uint8)
    images[10:] = 255
    labels = torch.tensor([1] * 10 + [0] * 10)  # black images have the lower score
    data = make_dataset("extremes", images, labels, images, labels, ["a", "b"])
    seen: list[tuple[float, float]] = []
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (data.mean, data.std))

    class Watched(TwoClasses):
        def forward(self, x: Tensor) -> Tensor:
            pixels = (x * std + mean).detach()
            seen.append((float(pixels.min()), float(pixels.max())))
            return super().forward(x)

    attack = {"radii": [1, 16, 200], "steps": 3, "images": 20}
    found = attacked(Watched(torch.ones(3 * 4 * 4)), data, attack, 0)
    assert min(low for low, _ in seen) > -1e-4
    assert max(high for _, high in seen) < 1 + 1e-4
    for kind in ("fgsm", "pgd"):
        errors = found["attack"][kind]
        assert errors == sorted(errors)
        assert found[f"{kind}_error"] == pytest.approx(sum(errors) / 3)
    assert 0 < found["fgsm_error"] < 100
    recipe = {"recipe": ROBUSTNESS.recipe(SimpleNamespace(), {}) | {"attack": attack}}  # type: ignore[arg-type]
    assert attacks({"config": recipe}) == 60


@pytest.mark.parametrize("name", ["sequences", "segmentation", "metric"])
@pytest.mark.parametrize("changed", [{"precision": "bfloat16"}, {"label_smoothing": 0.1}, {"augment": "crop_flip"}])
def test_settings_that_a_loss_does_not_look_at_are_refused(
    name: str, changed: dict[str, Any], tmp_path: Path
) -> None:
    table, key, _ = ROWS[name]
    run = run_of(table, key)
    with pytest.raises(ValueError, match=f"{next(iter(changed))} is .*, which the task {name} does not have"):
        trained(replace(run, recipe={**run.recipe, **changed}), tmp_path)


def test_a_revised_method_trains_its_backbone_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(6, "nearest")
    first = trained(run, tmp_path).result["backbone_attempts"]
    assert trained(run, tmp_path).result["backbone_attempts"] == first
    monkeypatch.setitem(REVISIONS, run.model["name"], 1)
    assert len(list(tmp_path.glob("shared-*"))) == 1
    trained(run, tmp_path)
    assert {path.name for path in tmp_path.glob("shared-*")} == {f"shared-{NUMERICS}", f"shared-{NUMERICS}.1"}


def test_a_run_without_a_number_is_said_so() -> None:
    record = {"status": "finished", "config": {}, "result": {"test_error": None, "train_seconds": 3.0}}
    assert executors.summary(record) == "test error no number in 3 s"
