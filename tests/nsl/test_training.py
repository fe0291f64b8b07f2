"""The training loop: schedule, resume to the same bits, divergence, damaged checkpoints."""

from __future__ import annotations

import math
import signal
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nsl
from nsl.data import Dataset, make_dataset
from nsl.training import (
    CheckpointError,
    Execution,
    Recipe,
    batches,
    observe,
    parameter_groups,
    save_checkpoint,
    train,
)
from nsl.training import state as state_module
from nsl.training.ending import interruptible

KEPT = ("test_error", "test_loss", "train_loss", "train_error", "curve", "iterations_done", "diverged")


def tiny(size: int = 8) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(96) % 4
    images = torch.randint(0, 60, (96, 3, size, size), generator=generator, dtype=torch.uint8)
    for image, label in zip(images, labels):  # a bright quarter tells the class
        i, j = divmod(int(label), 2)
        image[:, i * 4 : i * 4 + 4, j * 4 : j * 4 + 4] += 150
    return make_dataset("tiny", images[:64], labels[:64], images[64:], labels[64:], ("a", "b", "c", "d"))


RECIPE = Recipe(iterations=24, batch_size=16, learning_rate=0.05, augment="crop", evaluations=3)


def run(name: str = "nsn9_dynamic_diagonal", recipe: Recipe = RECIPE, **kwargs: Any) -> Any:
    torch.manual_seed(3)
    model = nsl.create_model(name, 4, width=4, image_size=8)
    return model, train(model, tiny(), recipe, seed=3, execution=Execution(progress=False, **kwargs))


def test_a_tiny_network_learns_a_tiny_task() -> None:
    _, result = run("cnn9", Recipe(iterations=80, batch_size=16, learning_rate=0.02, augment="none"))
    assert not result.diverged
    assert result.test_error < 20
    assert len(result.curve) == 8
    assert result.curve[-1]["iteration"] == result.iterations_done == 80


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others() -> None:
    (_, a), (_, b) = run(), run()
    assert all(getattr(a, key) == getattr(b, key) for key in KEPT)
    torch.manual_seed(3)
    model = nsl.create_model("nsn9_dynamic_diagonal", 4, width=4, image_size=8)
    other = train(model, tiny(), RECIPE, seed=4, execution=Execution(progress=False))
    assert other.train_loss != a.train_loss


@pytest.mark.parametrize("name", ["cnn9", "nsn9_static_unconstrained", "nsn9_dynamic_diagonal"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_interrupted_training_resumes_to_the_same_bits(
    tmp_path: Path, name: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(**{**RECIPE.as_dict(), "precision": precision})
    whole_model, whole = run(name, recipe)
    file = tmp_path / "run.pt"
    real, calls = state_module.save_checkpoint, []

    def save_then_die(path: Path, state: dict[str, Any]) -> None:
        real(path, state)
        calls.append(state["result"]["iterations_done"])
        if len(calls) == 13:
            raise KeyboardInterrupt

    monkeypatch.setattr(state_module, "save_checkpoint", save_then_die)
    with pytest.raises(KeyboardInterrupt):
        run(name, recipe, checkpoint=file, checkpoint_minutes=0)
    assert calls[-1] == 13
    monkeypatch.setattr(state_module, "save_checkpoint", real)
    model, resumed = run(name, recipe, checkpoint=file, checkpoint_minutes=1e9)
    assert all(getattr(resumed, key) == getattr(whole, key) for key in KEPT)
    for key, value in whole_model.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


def test_a_diverging_training_is_reported_and_not_raised() -> None:
    _, result = run("cnn9", Recipe(iterations=30, batch_size=16, learning_rate=1e12, warmup=0))
    assert result.diverged
    assert "iteration" in result.divergence
    assert result.test_error is None


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 broken zip"])
def test_a_damaged_checkpoint_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "run.pt"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"run\.pt is damaged.*delete it"):
        run(checkpoint=file)


def test_a_truncated_checkpoint_and_one_of_another_run_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "run.pt"
    save_checkpoint(file, {"identity": {"seed": 99}})
    with pytest.raises(CheckpointError, match="belongs to another training"):
        run(checkpoint=file)
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(CheckpointError, match="damaged"):
        run(checkpoint=file)
    assert not list(tmp_path.glob("*.partial"))


def test_the_papers_steps_scale_with_the_budget() -> None:
    for iterations in (640, 64_000):
        recipe = Recipe(iterations=iterations, warmup=0)
        tenth = [recipe.rate(int(iterations * f)) for f in (0, 0.53, 0.54, 0.84, 0.85, 0.999)]
        assert tenth == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_the_linear_schedule_warms_up_and_falls_to_zero() -> None:
    recipe = Recipe(iterations=1000, schedule="linear", warmup=0.1)
    rates = [recipe.rate(i) for i in range(1000)]
    assert rates[0] == pytest.approx(0.001)
    assert max(rates) == pytest.approx(0.1)
    assert rates.index(max(rates)) in (99, 100)
    assert rates[-1] < 2e-4
    assert recipe.evaluation_points() == {125, 250, 375, 500, 625, 750, 875, 1000}


@pytest.mark.parametrize(
    ("field", "value"),
    [("schedule", "steep"), ("precision", "fp8"), ("augment", "mixup"), ("iterations", 0), ("learning_rate", -1.0)],
)
def test_a_wrong_recipe_names_its_field(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"recipe: {field} must"):
        Recipe(**{"iterations": 10, field: value})


def test_batches_from_the_middle_equal_those_of_a_whole_pass() -> None:
    data = tiny()
    whole = list(batches(data.train_images, data.train_labels, RECIPE, seed=1))
    late = list(batches(data.train_images, data.train_labels, RECIPE, seed=1, start=10))
    assert len(whole) == RECIPE.iterations
    for (a, x), (b, y) in zip(whole[10:], late):
        assert torch.equal(a, b)
        assert torch.equal(x, y)


def test_each_epoch_shows_every_image_once() -> None:
    data = tiny()
    index = torch.arange(64)
    recipe = Recipe(iterations=8, batch_size=16, augment="none")
    seen = torch.cat([labels for _, labels in batches(data.train_images, index, recipe, seed=0)])
    assert seen[:64].sort().values.tolist() == seen[64:].sort().values.tolist() == index.tolist()
    assert seen[:64].tolist() != seen[64:].tolist()


def test_weight_decay_touches_kernels_only_and_more_under_the_release_variant() -> None:
    recipe = Recipe(iterations=1, weight_decay=5e-4)

    def decayed(variant: str) -> dict[float, int]:
        model = nsl.create_model("nsn9_static_unconstrained", 10, width=4, variant=variant)
        groups = parameter_groups(model, recipe)
        assert sum(p.numel() for g in groups for p in g["params"]) == nsl.count_parameters(model)
        return {group["weight_decay"]: len(group["params"]) for group in groups}

    assert decayed("paper") == {5e-4: 11, 0.0: 20 + 9}
    assert decayed("release") == {5e-4: 11 + 20, 5e-3: 9}


def test_the_classifier_rate_scales_the_classifier_only() -> None:
    model = nsl.create_model("cnn9", 10, width=4)
    groups = parameter_groups(model, Recipe(iterations=1, classifier_rate=0.05))
    scaled = [p for group in groups if group["rate"] == 0.05 for p in group["params"]]
    assert [id(p) for p in scaled] == [id(model.classifier.weight)]
    assert {group["rate"] for group in groups} == {0.05, 1.0}
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    frozen = nsl.create_model("cnn9", 4, width=4, image_size=8)
    start = frozen.classifier.weight.detach().clone()
    data = make_dataset("zeros", images, torch.arange(4), images, torch.arange(4), ("a", "b", "c", "d"))
    train(frozen, data, Recipe(iterations=3, classifier_rate=0.0, augment="none"), seed=0)
    assert torch.equal(frozen.classifier.weight, start)


def test_observations_hold_the_learned_and_the_predicted_similarities() -> None:
    data = tiny()
    static = observe(nsl.create_model("nsn9_static_diagonal", 4, width=4, image_size=8), data)
    assert len(static["static"]) == 9
    assert "dynamic" not in static
    dynamic = observe(nsl.create_model("nsn9_dynamic_diagonal", 4, width=4, image_size=8, learn_shape=True), data)
    first = dynamic["dynamic"][0]
    assert len(dynamic["dynamic"]) == 9
    assert (len(first["maps"]), len(first["maps"][0])) == (9, 8)
    assert first["shape"] == [1.0] * 9
    assert "maps" not in dynamic["dynamic"][1]
    assert observe(nsl.create_model("cnn9", 4, width=4, image_size=8), data) == {}


def press_and_forget() -> None:
    with suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@interruptible()
def press_then_fail() -> None:
    press_and_forget()
    raise ImportError("half imported")


@interruptible()
def press_then_train() -> None:
    press_and_forget()
    run("cnn9")


def test_a_key_press_that_a_library_swallowed_or_renamed_still_interrupts() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            press_then_fail()
        with pytest.raises(KeyboardInterrupt):
            press_then_train()
        with pytest.raises(ImportError), interruptible():
            raise ImportError("truly absent")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_parts_in_evaluation_mode_stay_so() -> None:
    torch.manual_seed(3)
    model = nsl.create_model("nsn9_static_diagonal", 4, width=4, image_size=8)
    nsl.freeze_backbone(model)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.eval()
    before = [norm.running_mean.clone() for norm in norms]
    train(model, tiny(), replace(RECIPE, iterations=4), seed=0)
    assert all(torch.equal(norm.running_mean, kept) for norm, kept in zip(norms, before))
    assert model.training
    assert not any(norm.training for norm in norms)
    model.eval()  # of a whole network it is no wish to freeze anything
    train(model, tiny(), replace(RECIPE, iterations=4), seed=0)
    assert not torch.equal(norms[0].running_mean, before[0])


def test_recurrent_weights_are_decayed_as_kernels_are() -> None:
    model = torch.nn.ModuleList([nsl.DynamicNSGRUCell(4, 3, hidden=2), torch.nn.GRU(4, 3), torch.nn.Linear(3, 2)])
    decayed = {
        id(parameter)
        for group in parameter_groups(model, Recipe(iterations=1, weight_decay=5e-4))
        for parameter in group["params"]
        if group["weight_decay"]
    }
    assert {name for name, parameter in model.named_parameters() if id(parameter) in decayed} == {
        name for name, _ in model.named_parameters() if "weight" in name
    }


def test_windows_of_images_that_are_no_larger_are_refused() -> None:
    with pytest.raises(ValueError, match="window_flip' needs stored images larger than the network's input"):
        run("cnn9", replace(RECIPE, augment="window_flip"))


def interrupted(model: nn.Module, file: Path, **more: Any) -> None:
    """A training that is ended after twelve steps and leaves its checkpoint."""

    def stop(step: int) -> None:
        if step == 12:
            raise KeyboardInterrupt

    execution = Execution(progress=False, checkpoint=file, checkpoint_minutes=0.0)
    with pytest.raises(KeyboardInterrupt):
        train(model, tiny(), RECIPE, seed=0, execution=execution, before_step=stop, **more)


def small(similarity: str = "symmetric", residual: bool = True) -> nn.Module:
    torch.manual_seed(0)
    layers = [nsl.NSConv2d(3, 4, 3, similarity=similarity), nsl.DynamicNSConv2d(4, 4, 3, residual=residual)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))


def ridge(model: nn.Module) -> Tensor:
    return sum(p.square().sum() for p in model.parameters())  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("other", "more"), [(small("psd"), {}), (small(residual=False), {}), (small(), {"penalty": ridge})]
)
def test_a_checkpoint_of_another_network_or_penalty_is_refused(
    tmp_path: Path, other: nn.Module, more: dict[str, Any]
) -> None:
    interrupted(small(), tmp_path / "run.pt")
    with pytest.raises(CheckpointError, match="belongs to another training"):
        train(other, tiny(), RECIPE, seed=0, execution=Execution(checkpoint=tmp_path / "run.pt"), **more)


def test_scales_are_not_decayed_and_projections_are_whatever_their_shape() -> None:
    model = torch.nn.ModuleDict(
        {"scale": torch.nn.LayerNorm([2, 3, 3]), "attention": torch.nn.MultiheadAttention(4, 2, kdim=3, vdim=5)}
    )
    groups = parameter_groups(model, Recipe(iterations=1, weight_decay=5e-4))
    decayed = {id(parameter) for group in groups if group["weight_decay"] for parameter in group["params"]}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in decayed}
    assert names == {f"attention.{name}_proj_weight" for name in "qkv"} | {"attention.out_proj.weight"}


def test_the_releases_decay_of_batch_norm_is_that_of_shared_batch_norm_too() -> None:
    def decayed(model: torch.nn.Module) -> int:
        groups = parameter_groups(model, Recipe(iterations=1, weight_decay=5e-4))
        return sum(p.numel() for group in groups if group["weight_decay"] for p in group["params"])

    model = nsl.create_model("nsn9_dynamic_diagonal", 4, width=4, image_size=8, variant="release")
    before = decayed(model)
    assert decayed(torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)) == before


@pytest.mark.parametrize("strength", [2e-4, 2e-2])
def test_the_strength_of_a_penalty_is_part_of_what_a_checkpoint_is_of(tmp_path: Path, strength: float) -> None:
    def penalty(coefficient: float) -> Any:
        return partial(nsl.orthogonality_penalty, coefficient=coefficient)

    interrupted(small(), tmp_path / "run.pt", penalty=penalty(2e-4))
    execution = Execution(checkpoint=tmp_path / "run.pt", progress=False)
    if strength == 2e-4:
        train(small(), tiny(), RECIPE, seed=0, execution=execution, penalty=penalty(strength))
    else:
        with pytest.raises(CheckpointError, match="belongs to another training"):
            train(small(), tiny(), RECIPE, seed=0, execution=execution, penalty=penalty(strength))


@pytest.mark.parametrize("chosen", [{"accumulate": 2}, {"compiled": True}])
def test_a_checkpoint_is_refused_by_a_training_that_computes_otherwise(tmp_path: Path, chosen: dict[str, Any]) -> None:
    interrupted(small(), tmp_path / "run.pt")
    with pytest.raises(CheckpointError, match="belongs to another training"):
        train(small(), tiny(), RECIPE, seed=0, execution=Execution(checkpoint=tmp_path / "run.pt", **chosen))


def test_dropout_is_drawn_from_the_seed_and_goes_on_as_it_would_have(tmp_path: Path) -> None:
    def net() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 4))

    whole, again = net(), net()
    first = train(whole, tiny(), RECIPE, seed=0, execution=Execution(progress=False))
    torch.rand(7)
    state = torch.get_rng_state()
    interrupted(again, tmp_path / "run.pt")
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    resumed = net()
    second = train(
        resumed, tiny(), RECIPE, seed=0, execution=Execution(progress=False, checkpoint=tmp_path / "run.pt")
    )
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters()))
    assert [point["train_loss"] for point in first.curve] == [point["train_loss"] for point in second.curve]


def test_a_structures_penalty_counts_once_also_where_it_is_asked_for() -> None:
    losses = []
    for penalty in (None, nsl.similarity_penalty):
        recipe = Recipe(iterations=1, batch_size=16)
        losses.append(train(small("l1"), tiny(), recipe, seed=0, penalty=penalty).train_loss)
    assert losses[0] == losses[1]


def test_a_heavy_penalty_at_the_start_is_no_divergence() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nsl.NSConv2d(3, 32, 3, similarity=nsl.L1("full", 30.0)), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(32, 4),
    )  # fmt: skip
    result = train(model, tiny(), Recipe(iterations=2, batch_size=4, learning_rate=1e-4), seed=0)
    assert result.train_loss is not None
    assert result.train_loss > 50 * math.log(4)
    assert not result.diverged


@pytest.mark.parametrize("changed", [{"crop_size": 6}, {"moments": ((0.1,) * 3, (0.5,) * 3)}])
def test_a_checkpoint_of_inputs_made_otherwise_is_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    file, dataset = tmp_path / "state.pt", tiny()
    recipe = Recipe(iterations=3, batch_size=4)
    keeping = Execution(checkpoint=file, checkpoint_minutes=0.0, keep_last=True)
    train(small(), dataset, recipe, seed=0, execution=keeping)
    with pytest.raises(CheckpointError, match="belongs to another training"):
        train(small(), replace(dataset, **changed), recipe, seed=0, execution=keeping)


def test_images_that_are_no_data_set_are_refused_in_one_sentence() -> None:
    model, pair = nsl.create_model("cnn9", 4, width=4, image_size=8), (torch.zeros(2, 3, 8, 8), torch.zeros(2))
    for use in (lambda: nsl.training.evaluate(model, pair), lambda: train(model, pair, Recipe(iterations=1), seed=0)):  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="dataset must be a Dataset, got tuple; make one"):
            use()


def test_logits_that_are_no_numbers_are_wrong_answers() -> None:
    class Lost(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            return torch.full((len(x), 4), float("nan")) * self.weight

    assert nsl.training.evaluate(Lost(), tiny()).error == 100
