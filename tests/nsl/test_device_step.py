"""A training step without the host: it reads nothing back, copies nothing over, and is the same step.

The device is "meta", fake tensors, or the CPU in a GPU's ways of working; what needs a card is marked `cuda` and
skipped without.
"""

from __future__ import annotations

import gc
import re
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import nsl
from nsl.data import Dataset, augment
from nsl.fewshot.meta import image_fetcher
from nsl.kernels import paths
from nsl.training import Execution, Recipe, batches, evaluate, train
from nsl.training import execution as execution_module
from nsl.training import state as state_module
from nsl.training.batches import DeviceBatches, HostBatches, generator, images_per_second
from nsl.training.evaluate import Evaluator
from nsl.training.graph import WARM_UP, Captured
from nsl.training.loop import ClassifierState
from nsl.training.optimiser import ScheduledSGD
from nsl.training.schedule import AUGMENTATIONS
from nsl.training.side_by_side import pass_turn
from nsl.training.step import ClassifierStep
from reproduce import tasks
from reproduce.declare import plan
from reproduce.declare.runs import Run
from reproduce.declare.shapes import Shape
from tests.nsl.fewshot.toy import method, toy
from tests.nsl.golden import RECIPE, network
from tests.nsl.side_by_side import side_by_side
from tests.nsl.test_training import tiny

no_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class HostWork(TorchDispatchMode):
    """Counts what waits for a device or copies between it and the host."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.all: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = str(function)
        self.all.add(name)
        if name.startswith(("aten._local_scalar_dense", "aten.lift_fresh", "aten.nonzero", "aten.is_nonzero")):
            self.found[name] += 1
        if name.startswith("aten._to_copy") and str(kwargs.get("device", args[0].device)) != str(args[0].device):
            self.found[name] += 1
        if name.startswith("aten.copy_") and args[0].device != args[1].device:
            self.found[name] += 1
        return function(*args, **kwargs)


def placed(name: str, device: str) -> nn.Module:
    with torch.device(device):
        return nsl.create_model(name, 4, width=4, image_size=8)


def prepared(model: nn.Module, dataset: Dataset, recipe: Recipe) -> tuple[ClassifierStep, ClassifierState, Evaluator]:
    """Step, state and evaluator on the model's device, as `train` makes them."""
    device = next(model.parameters()).device
    execution = Execution(device=device, progress=False, graph=False)
    optimiser = ScheduledSGD(model, recipe, on_device=True)
    step = ClassifierStep(model, dataset, recipe, optimiser, execution, seed=0)
    evaluator = Evaluator(model, dataset, recipe.precision)
    parts = {"model": model, "optimiser": optimiser}
    state = ClassifierState(
        {}, parts, execution, device=device, size=16, evaluator=evaluator, recipe=recipe, log=None
    )
    step.note = state.note
    return step, state, evaluator


@pytest.mark.parametrize("augment", AUGMENTATIONS)
@pytest.mark.parametrize("device", ["cpu", "meta", "fake"])
def test_nothing_in_a_step_waits_for_the_device_or_copies_from_the_host(
    device: str, augment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU, on "meta", where a copy from the host is one between devices, and with the GPU's operators."""
    data, recipe = replace(tiny(12), crop_size=8), replace(RECIPE, augment=augment)
    assert len(data.mean) == 3  # computed here: fake tensors have no values
    mode: Any = FakeTensorMode(allow_non_fake_inputs=True) if device == "fake" else nullcontext()
    if device == "meta":  # which autocast does not know
        monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    model = placed("nsn9_dynamic_diagonal", "meta" if device == "meta" else "cpu")
    with mode, paths.only("triton" if device == "fake" else "native"):
        step, _, _ = prepared(model, data, recipe)
        step.optimiser.begin(0)
        step.batches.begin(0)
        step.work()  # the optimiser makes its momentum
        with HostWork() as seen:
            step.work()
    assert seen.found == Counter()


#: Operators that add with atomics on CUDA (documentation of `torch.use_deterministic_algorithms`), in any order. Not
#: max_pool2d's gradient, which that names too: its kernels gather.
UNORDERED = re.compile(
    r"aten\.(grid_sampler_.*_backward|upsample_.*_backward|.*adaptive_.*_backward|\w+_pad\dd_backward|scatter_add|"
    r"scatter_reduce|index_add|index_put|put_|embedding_dense_backward|nll_loss2d|histc|bincount|cumsum|median|kthvalue)"
)


def declared_networks() -> dict[str, tuple[Run, nn.Module]]:
    """Every network that a table of classifications trains, narrow, for four classes; by its configuration."""
    found: dict[str, tuple[Run, nn.Module]] = {}
    for run in plan.planned_runs(plan.profile("paper"), plan.every(), 1):
        if run.task not in ("classification", "robustness"):
            continue
        key = str({name: value for name, value in run.model.items() if name != "width"})
        if key not in found:
            sizes = Shape(16, 4, 96, 32, 16)
            small = replace(run, model={**run.model, "width": 2})
            found[key] = run, tasks.named(run.task).network(small, sizes)
    return found


def test_no_step_of_a_declared_network_waits_copies_or_adds_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph could not be made of the first two, and numbers would not repeat with the third."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    data, unordered = tiny(16), set()
    assert len(data.mean) == 3
    for run, model in declared_networks().values():
        with paths.only("plain"):
            # On the meta device, where a copy from the host is seen, which on the CPU is none.
            step, _, _ = prepared(model.to("meta"), data, replace(RECIPE, augment="crop_flip"))
            step.optimiser.begin(0)
            step.batches.begin(0)
            step.work()
            with HostWork() as seen:
                step.work()
        assert seen.found == Counter(), run.name
        if any(UNORDERED.match(name) for name in seen.all):
            unordered.add(run.model["name"])
    assert unordered == {"deformable9"}  # as docs/gpu.md says


@pytest.mark.parametrize("name", ["cnn9", "nsn9_static_unconstrained", "nsn9_dynamic_unconstrained"])
def test_nothing_in_a_batch_of_an_evaluation_waits_for_the_device(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    _, _, evaluator = prepared(placed(name, "meta"), tiny(), RECIPE)
    images = torch.empty(16, 3, 8, 8, dtype=torch.uint8, device="meta")
    labels = torch.zeros(16, dtype=torch.int64, device="meta")
    with torch.no_grad(), HostWork() as seen:
        evaluator.model.eval()
        evaluator._measure(images, labels)
    assert seen.found == Counter()


@pytest.mark.parametrize("augment", AUGMENTATIONS)
@pytest.mark.parametrize("kind", [DeviceBatches, HostBatches])
def test_batches_of_a_stretch_equal_those_of_single_steps(kind: type[DeviceBatches], augment: str) -> None:
    data, recipe, crop = tiny(12), replace(RECIPE, augment=augment, iterations=11), 8
    images, labels = data.train_images, data.train_labels
    single = list(batches(images, labels, recipe, 1, crop_size=crop))
    for start in (0, 6):
        source = kind(images, labels, recipe, 1, crop_size=crop, every=4)
        for iteration in range(start, recipe.iterations):
            source.begin(iteration)
            found = source.batch()
            assert all(torch.equal(one, other) for one, other in zip(found, single[iteration])), iteration


@pytest.mark.parametrize("name", ["cnn9", "nsn9_static_unconstrained"])
def test_the_update_by_a_rate_of_the_device_is_sgds(name: str) -> None:
    found = []
    for on_device in (False, True):
        torch.manual_seed(0)
        model = nsl.create_model(name, 4, width=2, image_size=8)
        optimiser = ScheduledSGD(model, RECIPE, on_device=on_device)
        for iteration in range(4):
            draw = torch.Generator().manual_seed(iteration)
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=draw)
            optimiser.begin(iteration)
            optimiser.step(torch.tensor([iteration]))
        found.append([*model.parameters()])
        state = optimiser.state_dict()
        assert len(state["state"]) == len(found[-1])
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-7)


@pytest.fixture
def stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU is looked at as rarely as a GPU."""
    for module in (state_module, sys.modules[DeviceBatches.__module__]):
        monkeypatch.setattr(module, "stretch", lambda device: 7)


@pytest.mark.usefixtures("stretches")
def test_a_training_that_is_looked_at_rarely_has_the_numbers_of_one_that_is_looked_at_always(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, logged = tmp_path / "run.pt", []
    rare = train(network("cnn9"), tiny(), RECIPE, seed=3, log=lambda step, values: logged.append(step))
    saved: list[int] = []
    real = state_module.save_checkpoint

    def save_then_die(path: Path, kept: dict[str, Any]) -> None:
        real(path, kept)
        saved.append(kept["result"]["iterations_done"])
        if len(saved) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(state_module, "save_checkpoint", save_then_die)
    kept = Execution(progress=False, checkpoint=file, checkpoint_minutes=0)
    with pytest.raises(KeyboardInterrupt):
        train(network("cnn9"), tiny(), RECIPE, seed=3, execution=kept)
    monkeypatch.undo()
    assert saved == [7, 8, 14]
    resumed = train(network("cnn9"), tiny(), RECIPE, seed=3, execution=Execution(progress=False, checkpoint=file))
    always = train(network("cnn9"), tiny(), RECIPE, seed=3)
    assert rare.curve == resumed.curve == always.curve
    assert sorted(set(logged)) == list(range(1, 25))


@pytest.mark.usefixtures("stretches")
def test_a_divergence_that_is_seen_late_is_the_one_that_is_seen_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(iterations=30, batch_size=16, learning_rate=1e12, warmup=0)
    late = train(network("cnn9"), tiny(), recipe, seed=3)
    monkeypatch.undo()
    at_once = train(network("cnn9"), tiny(), recipe, seed=3)
    assert late.diverged
    assert (late.divergence, late.iterations_done) == (at_once.divergence, at_once.iterations_done)


def test_without_a_gpu_a_captured_function_is_called_as_it_is() -> None:
    calls: list[int] = []
    captured = Captured(lambda: calls.append(1), torch.device("cpu"))
    for _ in range(WARM_UP + 2):
        captured()
    assert len(calls) == WARM_UP + 2


def test_trainings_side_by_side_have_the_numbers_that_they_have_alone() -> None:
    def one(seed: int) -> Any:
        torch.manual_seed(seed)
        model = nsl.create_model("nsn9_static_diagonal", 4, width=2, image_size=8)
        return train(model, tiny(), RECIPE, seed=seed, execution=Execution(device="cpu", progress=False)).curve

    together = side_by_side([lambda seed=seed: one(seed) for seed in (1, 2, 3)], torch.device("cpu"))
    assert together == [one(seed) for seed in (1, 2, 3)]


def test_one_training_at_a_time_has_the_turn_and_each_comes_to_it_in_order() -> None:
    inside, order = [0], []
    others = threading.active_count()

    def call(number: int) -> int:
        for _ in range(3):
            inside[0] += 1
            assert inside[0] == 1
            while not order and threading.active_count() < others + 3:
                time.sleep(0.01)  # a busy machine may start the others late
            time.sleep(0.02)
            order.append(number)
            inside[0] -= 1
            pass_turn()
        return number

    assert side_by_side([lambda n=n: call(n) for n in range(3)], torch.device("cpu")) == [0, 1, 2]
    assert sorted(order) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert order[-3:] != [order[-1]] * 3
    with pytest.raises(ValueError, match="the second"):
        side_by_side([lambda: None, lambda: int("the second")], torch.device("cpu"))


def test_few_shot_methods_that_share_a_classifier_do_not_wait_for_each_other_for_ever(tmp_path: Path) -> None:
    from nsl.fewshot import Place

    place = Place(shared=tmp_path)
    fits = [lambda n=n: method(n, iterations=9).fit(toy().base, place)["pretrain"] for n in ("finetune", "static_nsn")]
    found = side_by_side(fits, torch.device("cpu"))
    assert sorted(history["shared"] for history in found) == [False, True]


@pytest.mark.parametrize("augment", [kind for kind in AUGMENTATIONS if kind != "window_flip"])
def test_episodes_are_fetched_on_the_device_without_waiting(augment: str) -> None:
    base, moments = toy().base, ((0.5,) * 3, (0.2,) * 3)
    wanted = image_fetcher(base, moments, augment, torch.device("cpu"))(torch.arange(6), generator(0))
    assert wanted.shape == (6, 3, 16, 16)
    fetch = image_fetcher(base, moments, augment, torch.device("cpu"))
    with HostWork() as seen:
        fetch(torch.arange(6), generator(0))
    assert seen.found == Counter()


def test_the_input_side_alone_is_timed() -> None:
    assert images_per_second(tiny(), RECIPE, torch.device("cpu"), steps=3) > 0


@pytest.fixture
def card() -> Iterator[torch.device]:
    execution_module.deterministic()
    yield torch.device("cuda")
    torch.cuda.synchronize()


@pytest.mark.cuda
@no_card
@pytest.mark.parametrize("name", ["cnn9", "nsn9_static_unconstrained", "nsn9_dynamic_diagonal"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_captured_training_has_the_numbers_of_one_launched_step_by_step(
    card: torch.device, name: str, precision: str
) -> None:
    recipe = replace(RECIPE, precision=precision)
    found = []
    for graph in (False, True, True):
        model: nn.Module = network(name)
        execution = Execution(device=card, progress=False, graph=graph)
        found.append((train(model, tiny(), recipe, seed=3, execution=execution).curve, model.state_dict()))
    assert found[0][0] == found[1][0] == found[2][0]
    for key, value in found[0][1].items():
        assert torch.equal(value, found[1][1][key]), key


@pytest.mark.cuda
@no_card
def test_a_training_on_the_card_is_near_that_of_the_cpu_and_its_batches_are_equal(card: torch.device) -> None:
    data = tiny()
    on_card = DeviceBatches(data.train_images, data.train_labels, RECIPE, 1, device=card)
    for iteration, (images, labels) in enumerate(batches(data.train_images, data.train_labels, RECIPE, 1)):
        on_card.begin(iteration)
        found: tuple[Tensor, Tensor] = on_card.batch()
        assert torch.equal(found[0].cpu(), images)
        assert torch.equal(found[1].cpu(), labels)
    curves = [
        train(network("cnn9"), data, RECIPE, seed=3, execution=Execution(device=device, progress=False)).curve
        for device in ("cpu", card)
    ]
    first = [[curve[0]["train_loss"], curve[0]["test_loss"]] for curve in curves]
    assert first[0] == pytest.approx(first[1], rel=0.05)


@pytest.mark.cuda
@no_card
def test_a_training_on_the_card_resumes_to_the_same_numbers(card: torch.device, tmp_path: Path) -> None:
    file = tmp_path / "run.pt"
    whole = train(network("cnn9"), tiny(), RECIPE, seed=3, execution=Execution(device=card, progress=False))
    real, calls = state_module.save_checkpoint, []

    def save_then_die(path: Path, kept: dict[str, Any]) -> None:
        real(path, kept)
        calls.append(path)
        raise KeyboardInterrupt

    kept = Execution(device=card, progress=False, checkpoint=file, checkpoint_minutes=0)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(state_module, "save_checkpoint", save_then_die)
        with pytest.raises(KeyboardInterrupt):
            train(network("cnn9"), tiny(), RECIPE, seed=3, execution=kept)
    assert train(network("cnn9"), tiny(), RECIPE, seed=3, execution=kept).curve == whole.curve


@pytest.mark.cuda
@no_card
def test_trainings_side_by_side_on_the_card_have_the_numbers_that_they_have_alone(card: torch.device) -> None:
    def one(seed: int) -> Any:
        torch.manual_seed(seed)
        model = nsl.create_model("nsn9_dynamic_diagonal", 4, width=4, image_size=8)
        return train(model, tiny(), RECIPE, seed=seed, execution=Execution(device=card, progress=False)).curve

    together = side_by_side([lambda seed=seed: one(seed) for seed in (1, 2, 3)], card)
    assert together == [one(seed) for seed in (1, 2, 3)]


@pytest.mark.cuda
@no_card
def test_a_step_on_the_card_never_waits_for_it(card: torch.device) -> None:
    step, _, _ = prepared(placed("nsn9_dynamic_diagonal", "cuda"), tiny(), RECIPE)
    for iteration in range(3):
        step(iteration)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert evaluate(step.model, tiny()).loss > 0


@pytest.mark.cuda
@no_card
@pytest.mark.parametrize("name", ["proto", "maml", "meta_static_nsn"])
def test_few_shot_on_the_card_repeats_itself(card: torch.device, name: str) -> None:
    settings = replace(method(name).settings, device="cuda")
    # Which way is the faster is measured anew by every training, and their last bits differ.
    options = {} if name == "proto" else {"vectorise": True}
    curves = [nsl.fewshot.create_method(name, settings, **options).fit(toy().base)["meta"]["curve"] for _ in range(2)]
    assert curves[0] == curves[1]


def test_a_training_that_has_ended_holds_nothing() -> None:
    """A captured step and what it works on hold each other; the collector may come too late for the card's memory."""
    found: list[weakref.ref[Any]] = []
    gc.collect()
    gc.disable()
    try:
        for _ in range(2):
            model = placed("cnn9", "cpu")
            found.append(weakref.ref(model))
            execution = Execution(device="cpu", progress=False)
            train(model, tiny(), replace(RECIPE, iterations=2), seed=0, execution=execution)
            del model
        assert found[-1]() is None
    finally:
        gc.enable()


def test_the_penalty_of_the_release_copies_nothing_from_the_host() -> None:
    network = nsl.create_model("spherenet", 4, width=2).to("meta")
    with HostWork() as seen:
        nsl.orthogonality_penalty(network)
    assert seen.found == Counter()


def test_the_grid_of_the_card_is_that_of_the_cpu() -> None:
    (affine,) = augment.resized_crop_choices(torch.Generator().manual_seed(0), 5)
    for size in ((7, 9), (16, 16)):
        wanted = torch.nn.functional.affine_grid(affine, [5, 3, *size], align_corners=False)
        torch.testing.assert_close(augment._grid(affine, [5, 3, *size]), wanted)
