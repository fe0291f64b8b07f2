"""What users do with the layers in networks of their own: nothing is lost in silence, and what cannot be is said."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nsl
from nsl.data import DataError, make_dataset
from nsl.data.dataset import Dataset
from nsl.fewshot import Settings
from nsl.fewshot.settings import MetaRecipe, Place
from nsl.models.cost import count_multiply_adds
from nsl.training import Execution, Recipe, evaluate, train
from nsl.training.checkpoint import CheckpointError

IMAGES = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def toy(classes: int = 3) -> Dataset:
    """A few random images."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (24, 3, 8, 8), dtype=torch.uint8, generator=draw)
    labels = torch.arange(24) % classes
    return make_dataset("toy", images, labels, images[:6], labels[:6], [str(place) for place in range(classes)])


def network(frozen: int | None = None, outputs: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, outputs),
    )  # fmt: skip
    if frozen is not None:
        model[frozen].requires_grad_(False)
    return model


RECIPE = Recipe(iterations=6, batch_size=8, augment="none", evaluations=1)
QUIET = Execution(device="cpu", progress=False)


# Converting and folding.
@pytest.mark.parametrize("name", ["weight", "bias"])
def test_a_tensor_that_is_no_parameter_is_not_replaced_by_a_random_one(name: str) -> None:
    plain = nn.Conv2d(3, 4, 3)
    value = getattr(plain, name).data + 1
    delattr(plain, name)
    plain.register_buffer(name, value)
    with pytest.raises(ValueError, match=f"'{name}' is a buffer or a plain tensor"):
        nsl.convert(nn.Sequential(plain))
    other = nn.Conv2d(3, 4, 3)
    del other.bias
    other.bias = value if name == "bias" else torch.ones(4)
    with pytest.raises(ValueError, match="'bias' is a buffer or a plain tensor"):
        nsl.convert(nn.Sequential(other))


class WithReLU(nsl.NSConv2d):
    """A subclass that says nothing of folding."""

    def forward(self, input: Tensor) -> Tensor:
        return torch.relu(super().forward(input))


class Folding(WithReLU):
    """One that does."""

    def fold(self) -> nn.Module:
        return nn.Sequential(super().fold(), nn.ReLU())


def test_what_a_layer_computes_otherwise_than_its_class_is_not_folded_away() -> None:
    with pytest.raises(ValueError, match="the forward of WithReLU, a class without a `fold`"):
        nsl.fold(nn.Sequential(WithReLU(3, 4, 3)))
    own = Folding(3, 4, 3)
    expected = own(IMAGES)
    torch.testing.assert_close(nsl.fold(nn.Sequential(own))(IMAGES), expected)
    patched = nsl.NSConv2d(3, 4, 3)
    before = patched.forward
    patched.forward = lambda input: torch.relu(before(input))  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="a forward of its own"):
        nsl.fold(nn.Sequential(patched))


def test_a_kernel_cut_by_hand_is_not_folded_into_copies_of_itself() -> None:
    layer = nsl.NSConv2d(3, 4, 3, bias=False)
    layer.weight = nn.Parameter(layer.weight[:1].detach())
    with pytest.raises(ValueError, match=r"the kernel is \[1, 3, 3, 3\], but the layer's arguments say \[4, 3, 3, 3\]"):
        layer.fold()


@pytest.mark.parametrize("kind", [nsl.NSRNNCell, nsl.NSGRUCell])
def test_folding_a_cell_under_autocast_rounds_nothing(kind: Callable[..., Any]) -> None:
    cell = kind(5, 6, similarity="unconstrained")
    nn.init.normal_(cell.similarity_ih)
    wanted = cell.fold().weight_ih
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(cell.fold().weight_ih, wanted)


def test_folding_a_hypernetwork_keeps_its_type_and_what_is_frozen() -> None:
    layer = nsl.HyperConv2d(3, 4, 3)
    wanted = layer.fold().weight
    layer.requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        plain = layer.fold()
    assert torch.equal(plain.weight, wanted)
    assert not any(parameter.requires_grad for parameter in plain.parameters())


def test_wrong_arguments_of_conversion_are_one_sentence() -> None:
    model = network()
    for arguments, words in (
        ({"where": "0"}, "where must be a function"),
        ({"bogus": 1, "where": lambda name, module: True}, r"module '0': .*bogus"),
        ({"learn_shape": True, "shape_threshold": 1.0, "where": lambda name, module: name == "0"}, "below 1, where"),
        ({"learn_shape": True, "shape_rate": -1.0, "where": lambda name, module: name == "0"}, "not negative"),
    ):
        with pytest.raises(ValueError, match=words):
            nsl.convert(copy.deepcopy(model), **arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"an instance of nn\.Module"):
        nsl.convert(nn.Conv2d)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="takes one dynamic layer, got Sequential"):
        nsl.reset_to_identity(model)  # type: ignore[arg-type]


# Shapes.
def test_a_folded_shift_layer_refuses_what_the_layer_refuses() -> None:
    layer = nsl.NSConv2d(3, 4, 5, similarity="shift")
    with torch.no_grad():
        layer.similarity.zero_()
        layer.similarity.view(25, 25)[:, 0] = 1
    folded = layer.fold()
    torch.testing.assert_close(folded(IMAGES), layer(IMAGES))
    with pytest.raises(ValueError, match="input of 3x3 is smaller than the kernel"):
        folded(IMAGES[..., :3, :3])
    with pytest.raises(ValueError, match="input of 2x2 is smaller than the kernel"):
        nsl.DeformConv2d(3, 4, 3)(IMAGES[..., :2, :2])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"bias": torch.ones(1)}, r"bias must be \[4\]"),
        ({"padding": "same"}, "padding must be an integer"),
        ({"padding": -1}, "padding at least 0"),
        ({"stride": 0}, "must be at least 1"),
    ],
)
def test_impossible_arguments_of_the_function_are_named(changed: dict[str, Any], words: str) -> None:
    weight, mask = torch.randn(4, 3, 3, 3), torch.ones(2, 9, 4, 4)
    with pytest.raises(ValueError, match=words):
        nsl.neural_similarity_conv2d(IMAGES, weight, mask, **changed)
    pairs = nsl.neural_similarity_conv2d(IMAGES, weight, torch.ones(2, 9, 6, 6), padding=(1,))  # type: ignore[arg-type]
    torch.testing.assert_close(pairs, nn.functional.conv2d(IMAGES, weight, padding=1))


def test_a_dynamic_layer_whose_geometry_is_changed_says_so() -> None:
    layer = nsl.DynamicNSConv2d(3, 4, 3, padding=1)
    layer.padding_mode = "circular"
    with pytest.raises(ValueError, match="but the predictor was made for"):
        layer(IMAGES)
    layer = nsl.DynamicNSConv2d(3, 4, 3, padding=1)
    layer.dilation, layer.padding = (2, 2), (2, 2)
    with pytest.raises(ValueError, match="make a new layer"):
        layer(IMAGES)


def test_double_precision_stays_double_under_autocast() -> None:
    layer = nsl.DynamicNSConv2d(3, 4, 3, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(IMAGES.double()).dtype == torch.float64


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nsl.LowRank(2.5), "low_rank: rank must be a whole number"),  # type: ignore[arg-type]
        (lambda: nsl.HardSparse(2.5), "hard_sparse: nonzeros must be a whole number"),  # type: ignore[arg-type]
        (lambda: nsl.FewTaps(1.5), "few_taps: count must be a whole number"),  # type: ignore[arg-type]
        (lambda: nsl.Dilated(1.5), "dilated: factor must be a whole number"),  # type: ignore[arg-type]
        (lambda: nsl.NSLinear(4, 3, block_size=2.0), "block_size must divide"),  # type: ignore[arg-type]
        (lambda: nsl.DeformConv2d(3, 4, 3).offsets(IMAGES[0]), r"input must be \[B, 3, H, W\]"),
        (lambda: nsl.HyperConv2d(3, 4, 3, dynamic=True).kernel(IMAGES[0]), r"input must be \[B, 3, H, W\]"),
        (lambda: nsl.SelectedConv2d(3, 4, 3).gates(IMAGES[0]), r"input must be \[B, 3, H, W\]"),
    ],
)
def test_what_is_no_whole_number_or_no_batch_is_named(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


# Gradients.
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    "layer",
    [
        *(lambda p=p, s=s: nsl.DynamicNSConv2d(16, 4, 3, padding=1, predictor=p, similarity=s)  # type: ignore[misc]
          for p in ("sphere", "cnn", "release") for s in ("diagonal", "unconstrained")),
        lambda: nsl.SphereConv2d(16, 4, 3, padding=1),
        lambda: nsl.GlobalSimilarity(*(nn.Conv2d(16, width, 1) for width in (4, 4, 16)), gamma=0.5),
    ],
)  # fmt: skip
def test_many_gradients_at_once_are_those_one_after_the_other(
    layer: Callable[[], nn.Module], channels_last: bool
) -> None:
    torch.manual_seed(0)
    module = layer().eval()
    x = torch.randn(2, 16, 5, 5)
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    x.requires_grad_()
    output, wanted = module(x), [x, *module.parameters()]
    outer = torch.randn(3, *output.shape)
    options: dict[str, Any] = {"retain_graph": True, "allow_unused": True}
    many = torch.autograd.grad(output, wanted, outer, is_grads_batched=True, **options)
    single = [torch.autograd.grad(output, wanted, gradient, **options) for gradient in outer]
    for place, found in enumerate(many):
        for number, gradients in enumerate(single):
            if found is not None:
                assert not found.requires_grad
                torch.testing.assert_close(found[number], gradients[place], rtol=1e-4, atol=1e-4)


def test_attention_over_maps_of_other_sizes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"positions of the input \[2, 3, 6, 6\], and value its channels"):
        nsl.GlobalSimilarity(value=nn.Conv2d(3, 2, 1))(IMAGES)


def test_an_empty_batch_reaches_every_parameter() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nsl.DeformConv2d(4, 4, 3))
    model(torch.randn(0, 4, 8, 8)).sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("predictor", ["sphere", "cnn", "release"])
def test_hooks_on_all_parts_of_a_predictor_are_called(predictor: str) -> None:
    layer = nsl.DynamicNSConv2d(16, 8, 3, padding=1, predictor=predictor)
    called: set[int] = set()
    for module in layer.modules():
        module.register_full_backward_hook(lambda module, *_: called.add(id(module)))
        module.register_full_backward_pre_hook(lambda module, *_: called.add(-id(module)))
    x = torch.randn(2, 16, 8, 8).to(memory_format=torch.channels_last).requires_grad_()
    layer(x).sum().backward()
    for name, module in layer.predictor.named_children():
        if any(True for _ in module.parameters()):
            assert {id(module), -id(module)} <= called, name


def test_a_patched_part_of_a_predictor_is_not_passed_by() -> None:
    layer = nsl.DynamicNSConv2d(16, 8, 3, padding=1).eval()
    second = layer.predictor.second
    before = second.forward
    second.forward = lambda input: 0 * before(input)
    x = torch.randn(2, 16, 8, 8).to(memory_format=torch.channels_last)
    assert torch.equal(layer.predict_similarity(x), torch.ones(2, 9, 8, 8))


# Costs.
def test_recurrent_layers_and_attention_are_counted() -> None:
    class Sequences(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(3 * 16, 8, batch_first=True)
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
            self.linear = nn.Linear(16, 1)

        def forward(self, images: Tensor) -> Tensor:
            rows = images.flatten(2).transpose(1, 2)  # [B, 256, 3]
            self.lstm(input=rows.reshape(1, 16, 48))
            x = rows.reshape(1, 48, 16)
            return self.linear(self.attention(x, x, x)[0])

    by_hand = 16 * 4 * 8 * (48 + 8) + 48 * 16 * 4 * 16 + 2 * 48 * 48 * 16 + 48 * 16
    assert count_multiply_adds(Sequences(), 16) == by_hand
    assert count_multiply_adds(nn.Flatten(), 16) == 0


# Training and evaluating.
def test_an_evaluation_of_no_images_or_in_an_unknown_precision_is_refused() -> None:
    for changed, words in (
        ({"batch_size": -1}, "batch_size must be a whole number"),
        ({"precision": "bf16"}, r"precision must be one of \['float32', 'bfloat16'\]"),
    ):
        with pytest.raises(ValueError, match=words):
            evaluate(network(), toy(), **changed)  # type: ignore[arg-type]


def test_networks_that_cannot_be_trained_are_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"must give logits \[8, 3\] of so many images, got \[8, 2\]"):
        train(network(outputs=2), toy(), RECIPE, seed=0, execution=QUIET)

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            found = self.inner(images)
            return found, found

    with pytest.raises(ValueError, match="got tuple"):
        train(Two(), toy(), RECIPE, seed=0, execution=QUIET)
    with pytest.raises(ValueError, match="Sequential has no parameter to train"):
        train(network().requires_grad_(False), toy(), RECIPE, seed=0, execution=QUIET)
    with pytest.raises(ValueError, match="seed must be a whole number from 0 on, got None"):
        train(network(), toy(), RECIPE, seed=None, execution=QUIET)  # type: ignore[arg-type]


def test_a_training_goes_on_with_the_same_frozen_parameters_only(tmp_path: Path) -> None:
    place = Execution(device="cpu", progress=False, checkpoint=tmp_path / "c.pt", checkpoint_minutes=0)

    class Stop(Exception):
        pass

    def stop(iteration: int) -> None:
        if iteration == 4:
            raise Stop

    with pytest.raises(Stop):
        train(network(1), toy(), RECIPE, seed=0, execution=place, before_step=stop)
    with pytest.raises(CheckpointError, match="belongs to another training"):
        train(network(2), toy(), RECIPE, seed=0, execution=place)
    resumed, fresh = network(1), network(1)
    train(resumed, toy(), RECIPE, seed=0, execution=place)
    train(fresh, toy(), RECIPE, seed=0, execution=QUIET)
    assert all(torch.equal(one, other) for one, other in zip(resumed.parameters(), fresh.parameters()))


# Data, settings, places.
def test_data_that_are_no_tensors_are_named() -> None:
    data = toy()
    parts = [data.train_images, data.train_labels, data.test_images, data.test_labels]
    with pytest.raises(DataError, match="mine: train images must be a tensor, got ndarray"):
        make_dataset("mine", parts[0].numpy(), *parts[1:], data.class_names)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="mine: test labels must be a tensor, got list"):
        make_dataset("mine", *parts[:3], parts[3].tolist(), data.class_names)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="class names must be texts"):
        make_dataset("mine", *parts, [0, 1, 2])  # type: ignore[arg-type]


def test_impossible_settings_of_few_shot_learning_are_told_before_any_training() -> None:
    for changed, words in (
        ({"way": 1}, "way must be at least 2"),
        ({"way": 2.5}, "way must be a whole number"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"image_size": 0}, "image_size must be a whole number"),
        ({"width": 0}, "width must be a whole number"),
    ):
        with pytest.raises(ValueError, match=words):
            Settings(**{"image_size": 16, **changed})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="meta recipe: way must be at least 2"):
        MetaRecipe(iterations=1, way=1)


def test_places_are_taken_as_texts_and_at_home() -> None:
    home = Path.home()
    assert Execution(checkpoint="~/c.pt").checkpoint == home / "c.pt"  # type: ignore[arg-type]
    assert Place(shared="~/s").shared == home / "s"  # type: ignore[arg-type]
