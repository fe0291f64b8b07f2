"""The paper's predictor: bounded whatever its weights are, near the identity at the start, for every kernel."""

from __future__ import annotations

import random
import tomllib
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

import nsl
from nsl.kernels.geometry import output_size
from nsl.layers import middle
from nsl.layers.structure import Block
from nsl.layers.structures import make_structure

DTYPES = [torch.float32, torch.bfloat16]


def identity(layer: nsl.DynamicNSConv2d, similarity: torch.Tensor) -> torch.Tensor:
    if similarity.dim() == 4:
        return torch.ones_like(similarity)
    return torch.eye(layer.taps, dtype=similarity.dtype).view(1, layer.taps, layer.taps, 1, 1)


def random_layer(number: int, similarity: str, **options: object) -> tuple[nsl.DynamicNSConv2d, torch.Tensor]:
    draw = random.Random(number)
    kernel = (draw.randint(1, 4), draw.randint(1, 4))
    torch.manual_seed(number)
    channels = draw.randint(1, 20)
    layer = nsl.DynamicNSConv2d(
        channels,
        draw.randint(1, 6),
        kernel,
        draw.randint(1, 2),
        (kernel[0] // 2, kernel[1] // 2),
        draw.randint(1, 2),
        similarity=similarity,
        predictor_options={"hidden": draw.choice([1, 3, 16, 40]), **options},
    )
    size = draw.randint(7, 12), draw.randint(7, 12)
    images = 10 ** draw.uniform(-2, 3) * torch.randn(draw.randint(1, 3), channels, *size)
    if draw.random() < 0.5:
        images = images.contiguous(memory_format=torch.channels_last)
    return layer, images


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("similarity", ["diagonal", "unconstrained"])
def test_the_similarity_stays_within_one_of_the_identity_whatever_the_weights(
    similarity: str, dtype: torch.dtype
) -> None:
    for number in range(50):
        layer, images = random_layer(number, similarity)
        with torch.no_grad():
            m = layer.predict_similarity(images)
            assert (m - identity(layer, m)).std() < 0.2
            for parameter in layer.predictor.parameters():
                parameter.mul_(1000)
            m = layer.to(dtype).predict_similarity(images.to(dtype)).float()
        assert (m - identity(layer, m)).abs().max() <= 1 + 1e-6


def test_patch_and_kernel_that_are_parallel_reach_the_bound_and_do_not_pass_it() -> None:
    predictor = nsl.SpherePredictor(4, 1, 3, hidden=1).bfloat16()
    with torch.no_grad():
        for convolution in (predictor.first, predictor.second):
            convolution.weight.fill_(1000)
        found = predictor(torch.full((1, 4, 9, 9), 7.0, dtype=torch.bfloat16).contiguous())
    assert found.max() <= 1
    assert found[0, 0, 3, 3] > 0.98


def test_with_relu_the_output_lies_between_0_and_1() -> None:
    layer, images = random_layer(3, "diagonal", relu_output=True)
    with torch.no_grad():
        for parameter in layer.predictor.parameters():
            parameter.mul_(1000)
        m = layer.predict_similarity(images)
    assert m.min() >= 1
    assert m.max() <= 2


@pytest.mark.parametrize("operator", ["cosine", "linear", "sigmoid", "learnable_sigmoid"])
def test_the_output_is_that_of_two_hyperspherical_convolutions(operator: str) -> None:
    torch.manual_seed(0)
    predictor = nsl.SpherePredictor(3, 9, 3, 2, 1, hidden=5, operator=operator).double()
    images = torch.randn(2, 3, 9, 8, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    first = nsl.SphereConv2d(3, 5, 3, 2, 1, operator=operator).double()
    second = nsl.SphereConv2d(5, 9, 3, padding=1, operator=operator).double()
    first.load_state_dict(predictor.first.state_dict())
    second.load_state_dict(predictor.second.state_dict())
    torch.testing.assert_close(predictor(images), second(first(images).relu()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("geometry", [(3, 1, 1, 1), (3, 2, 1, 1), ((2, 3), 1, (1, 0), 2), (4, 2, 2, 1)])
def test_fused_and_module_by_module_agree_in_outputs_and_gradients(
    geometry: tuple[int, int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    predictor = nsl.SpherePredictor(4, 6, *geometry, hidden=7).double()
    images = torch.randn(3, 4, 11, 9, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    images.requires_grad_()
    inputs = [images, *predictor.parameters()]
    found = predictor(images)
    slope = torch.randn_like(found)
    gradients = torch.autograd.grad(found, inputs, slope)
    monkeypatch.setattr(middle, "_fits", lambda *_: False)
    monkeypatch.setattr("nsl.layers.spherical.path", lambda _: "plain")
    wanted = predictor(images)
    for one, other in zip((found, *gradients), (wanted, *torch.autograd.grad(wanted, inputs, slope))):
        assert (one - other).abs().max() <= 1e-12 * max(1.0, other.abs().max().item())


@pytest.mark.parametrize("kernel", [2, 4, (2, 3), (16, 1)])
@pytest.mark.parametrize("predictor", ["sphere", "cnn", "release"])
def test_even_kernels_predict_on_the_layers_own_map(predictor: str, kernel: int | tuple[int, int]) -> None:
    layer = nsl.DynamicNSConv2d(3, 4, kernel, predictor=predictor, predictor_options={"hidden": 5})
    images = torch.randn(2, 3, 18, 9)
    assert layer.predict_similarity(images).shape == (2, layer.taps, *layer(images).shape[2:])


@pytest.mark.parametrize("sharing", ["disjoint", "shared"])
@pytest.mark.parametrize("similarity", ["diagonal", "unconstrained"])
def test_shared_and_disjoint_predictors_are_bounded(similarity: str, sharing: str) -> None:
    name = f"nsn9_dynamic_{similarity}"
    model = nsl.create_model(name, 10, width=4, image_size=16, sharing=sharing)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1000)
        layer = model.stages[0][1].conv
        m = layer.predict_similarity(torch.randn(2, 4, 8, 8))
    assert (m - identity(layer, m)).abs().max() <= 1 + 1e-6


def test_without_the_residual_the_similarity_is_the_prediction_alone() -> None:
    torch.manual_seed(0)
    layer = nsl.DynamicNSConv2d(3, 4, 3, similarity="symmetric", residual=False)
    images = torch.randn(1, 3, 6, 6)
    raw = layer.predictor(images).movedim(1, -1)
    expected = make_structure("symmetric").assemble(raw, Block((3, 3))).movedim((-2, -1), (1, 2))
    torch.testing.assert_close(layer.predict_similarity(images), expected)
    assert layer.predict_similarity(images).abs().max() < 0.3


def test_shared_kernels_serve_only_the_predictor_and_the_layers_they_are_made_for() -> None:
    kernels = nsl.SharedKernels(4, 9, 3)
    with pytest.raises(ValueError, match="share only among layers of equal kernel size"):
        nsl.SpherePredictor(3, 25, 5, shared=kernels)
    with pytest.raises(ValueError, match="do not belong to this predictor"):
        nsl.ReleasePredictor(3, 9, 3, shared=kernels)
    with pytest.raises(ValueError, match="belongs to shared kernels"):
        nsl.SpherePredictor(3, 9, 3, adaptation=nn.Identity())


@pytest.mark.parametrize(("kernel", "taps"), [(2, 4), ((3, 4), 12), ((4, 1), 4)])
@pytest.mark.parametrize("stride", [1, 2])
def test_shared_kernels_may_be_even(kernel: Any, taps: int, stride: int) -> None:
    kernels = nsl.SharedKernels(4, taps, kernel, hidden=5).double()
    predictor = nsl.SpherePredictor(3, taps, kernel, stride, shared=kernels).double()
    x = torch.randn(2, 3, 9, 8, dtype=torch.float64)
    height, width = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    size = ((9 - height) // stride + 1, (8 - width) // stride + 1)
    assert predictor(x).shape == (2, taps, *size)
    # Beside the same with maps padded by hand: one more zero after than before where a side is even.
    pads = ((width - 1) // 2, width // 2, (height - 1) // 2, height // 2)
    plain = [nsl.SphereConv2d(a, b, kernel, bias=False).double() for a, b in ((4, 5), (5, taps))]
    for own, shared in zip(plain, (kernels.first, kernels.second)):
        own.weight.data.copy_(shared.weight.data)
    maps = torch.relu(plain[0](F.pad(predictor.adaptation(x), pads)))
    assert_close(predictor(x), plain[1](F.pad(maps, pads)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("predictor", ["sphere", "cnn", "release"])
def test_wrong_options_of_a_predictor_are_named(predictor: str) -> None:
    with pytest.raises(ValueError, match=f"predictor '{predictor}' has no option 'hiden', it takes .*'hidden'"):
        nsl.DynamicNSConv2d(3, 4, 3, predictor=predictor, predictor_options={"hiden": 3})
    for hidden in (0, -1):
        with pytest.raises(ValueError, match="hidden must be at least 1"):
            nsl.DynamicNSConv2d(3, 4, 3, predictor=predictor, predictor_options={"hidden": hidden})


def test_a_hook_on_a_convolution_of_the_predictor_is_called() -> None:
    predictor = nsl.SpherePredictor(3, 9, 3, padding=1)
    seen: list[str] = []
    for name in ("first", "second"):
        getattr(predictor, name).register_forward_hook(lambda *_, name=name: seen.append(name))
    predictor(torch.randn(1, 3, 5, 5).contiguous(memory_format=torch.channels_last))
    assert seen == ["first", "second"]


@pytest.mark.parametrize("synchronised", [False, True])
def test_reset_to_identity_silences_batch_norm_also_when_it_is_synchronised(synchronised: bool) -> None:
    layer = nsl.DynamicNSConv2d(3, 4, 3, predictor="cnn", predictor_options={"hidden": 4})
    if synchronised:
        nn.SyncBatchNorm.convert_sync_batchnorm(layer)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter))
    nsl.reset_to_identity(layer)
    assert torch.equal(layer.eval().predict_similarity(torch.randn(1, 3, 6, 6)), torch.ones(1, 9, 4, 4))


def test_the_cnn_predictor_says_what_its_default_head_does_and_which_one_table_1_has() -> None:
    text = " ".join(str(nsl.CNNPredictor.__doc__).split())
    assert nsl.CNNPredictor(3, 9, 3).head == "batchnorm"
    assert 'default head "batchnorm" the networks of this project stay at chance' in text
    with (Path(__file__).parents[2] / "reproduce/declare/experiments/table1.toml").open("rb") as file:
        rows = {row["key"]: row for row in tomllib.load(file)["methods"]}
    assert rows["dynamic_cnn"]["options"]["predictor_options"] == {"head": "sigmoid"}
    assert 'Table 1 has head="sigmoid"' in text


def test_a_cnn_predictor_starts_small_as_spherenet_does_unless_it_is_not_to() -> None:
    def deviations(**options: Any) -> list[float]:
        predictor = nsl.CNNPredictor(32, 9, 3, hidden=64, head="none", **options)
        return [layer.weight.std().item() for layer in (predictor.first, predictor.second)]

    he = [(2 / (9 * 32)) ** 0.5, (2 / (9 * 64)) ** 0.5]
    assert deviations(small=False) == pytest.approx(he, rel=0.1)
    assert deviations() == pytest.approx([0.1 * he[0], 1e-3 * he[1]], rel=0.1)


class OneAnImage(nn.Module):
    """A predictor of a user's: one bounded M an image."""

    def __init__(
        self, channels: int, freedom: int, kernel: Any, stride: Any, padding: Any, dilation: Any, *, bound=0.5
    ) -> None:
        super().__init__()
        self.linear, self.bound = nn.Linear(channels, freedom), bound
        self.place = (kernel, stride, padding, dilation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = output_size((x.shape[2], x.shape[3]), *self.place)
        numbers = self.bound * torch.tanh(self.linear(x.mean((2, 3))))
        return numbers[:, :, None, None].expand(-1, -1, *size)

    def reset_to_identity(self) -> None:
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)


def test_a_class_of_the_users_makes_a_predictor_for_every_layer_of_a_network() -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 16, 16)
    cases: list[tuple[str, dict[str, Any]]] = [
        ("nsn9_dynamic_diagonal", {}),
        ("nsn9_dynamic_unconstrained", {"predictor_options": {"bound": 0.1}}),
    ]
    for name, more in cases:
        network = nsl.create_model(name, 5, width=4, image_size=16, predictor=OneAnImage, **more)
        made = [module for module in network.modules() if isinstance(module, OneAnImage)]
        assert len(made) == 9
        assert {module.bound for module in made} == {more.get("predictor_options", {}).get("bound", 0.5)}
        network(images).sum().backward()
        assert all(p.grad is not None for p in made[0].parameters())
    backbone = nsl.convert(nn.Sequential(nn.Conv2d(3, 4, 3)), kind="dynamic", predictor=OneAnImage)
    assert isinstance(backbone[0].predictor, OneAnImage)
    with pytest.raises(ValueError, match=r"predictor OneAnImage has no option 'hidden', it takes \['bound'\]"):
        nsl.DynamicNSConv2d(3, 4, 3, predictor=OneAnImage, predictor_options={"hidden": 3})
    with pytest.raises(ValueError, match="a module, or a class or function that makes one, got 3"):
        nsl.DynamicNSConv2d(3, 4, 3, predictor=3)  # type: ignore[arg-type]


def test_the_hidden_maps_that_a_factory_has_chosen_stay() -> None:
    class Asks(nsl.SpherePredictor):
        def __init__(self, *place: Any, hidden: int) -> None:
            super().__init__(*place, hidden=hidden)

    class Named(nsl.SpherePredictor):
        def __init__(self, a: int, b: int, kernel: Any, stride: Any, padding: Any, dilation: Any, hidden=5) -> None:
            super().__init__(a, b, kernel, stride, padding, dilation, hidden=hidden)

    def maps(predictor: Any, **more: Any) -> set[int]:
        made = nsl.create_model("nsn9_dynamic_diagonal", 5, width=8, image_size=16, predictor=predictor, **more)
        return {m.predictor.first.out_channels for m in made.modules() if isinstance(m, nsl.DynamicNSConv2d)}

    assert maps(partial(nsl.SpherePredictor, hidden=7)) == {7}
    assert maps(Named) == {5}
    assert maps(Named, predictor_options={"hidden": 9}) == {9}
    assert maps(Asks) == maps("sphere") == {16}


def test_without_the_identity_only_hes_start_passes_a_signal_on() -> None:
    """The release's small scales are made for M = I + output; alone they silence a stack of layers."""

    def spread(**options: Any) -> float:
        torch.manual_seed(0)
        model = nsl.create_model(
            "nsn9_dynamic_diagonal", width=8, image_size=16, residual=False, predictor_options=options
        )
        with torch.no_grad():
            return float(model(torch.randn(8, 3, 16, 16)).std())

    assert spread() < 1e-3 < 0.1 < spread(small=False)


def test_a_start_that_is_not_small_is_of_own_kernels() -> None:
    shared = nsl.SharedKernels(4, 9, 3)
    with pytest.raises(ValueError, match="small=False is of a layer's own kernels"):
        nsl.SpherePredictor(4, 9, 3, shared=shared, small=False)
    assert "small=False" in repr(nsl.SpherePredictor(4, 9, 3, small=False))


def test_the_full_spherenet_of_the_release_keeps_its_norms_with_any_structure() -> None:
    for similarity in ("diagonal", "unconstrained"):
        own = {full: nsl.DynamicNSConv2d(4, 4, 3, similarity=similarity, predictor="release",
                                         predictor_options={"full": full}) for full in (False, True)}
        kinds = {full: type(layer.neural.predictor.second_norm) for full, layer in own.items()}
        assert kinds[True] is nn.BatchNorm2d
        assert kinds[False] is (nn.Identity if similarity == "unconstrained" else nn.BatchNorm2d)
