"""Static and dynamic layers against the dense float64 definition."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import nsl
import nsl.kernels.convolution as functional
from nsl.kernels import compiled, patches
from nsl.kernels.geometry import output_size
from tests.nsl.configurations import Geometry, random_geometry
from tests.nsl.oracle import dense_neural_similarity_conv2d

SEEDS = range(100)
STRUCTURES = ["diagonal", "unconstrained"]


@pytest.fixture(autouse=True)
def _even_small_calls_take_the_chunked_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' shapes are small; without this they would all be unfolded."""
    monkeypatch.setattr(functional, "_UNFOLD_ELEMENTS", 0)


@pytest.fixture(params=["compiled", "eager"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both versions of `nsl.kernels.patches`, whatever this machine would choose."""
    if request.param == "eager":
        monkeypatch.setattr(compiled, "library", lambda: None)
    elif compiled.library() is None:
        pytest.skip("no C++ compiler here")
    return request.param


@pytest.mark.parametrize("similarity", STRUCTURES)
@pytest.mark.parametrize("seed", range(20))
def test_unfolding_and_chunking_are_the_same_function(
    seed: int, similarity: str, kernels: str
) -> None:
    g = random_geometry(seed)
    torch.manual_seed(seed)
    out = output_size(g.size, g.kernel, g.stride, g.padding, g.dilation)
    blocks = (g.taps,) if similarity == "diagonal" else (g.taps, g.taps)
    tensors = [
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in [
            (g.batch, g.channels, *g.size),
            (g.filters, g.channels // g.groups, *g.kernel),
            (g.batch, *blocks, *out),
        ]
    ]
    x, weight, similarity_map = tensors
    results = [
        [y, *torch.autograd.grad(y.square().sum(), tensors)]
        for y in (
            nsl.neural_similarity_conv2d(x, weight, similarity_map, None, g.stride, g.padding, g.dilation, g.groups),
            functional.by_patches(x, weight, similarity_map, g.stride, g.padding, g.dilation, g.groups),
        )
    ]
    for chunked, unfolded in zip(*results):
        torch.testing.assert_close(chunked, unfolded, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("similarity", STRUCTURES)
@pytest.mark.parametrize("seed", range(20))
def test_the_published_definition_is_the_oracle_and_what_the_kernels_compute(seed: int, similarity: str) -> None:
    g = random_geometry(seed)
    torch.manual_seed(seed)
    out = output_size(g.size, g.kernel, g.stride, g.padding, g.dilation)
    blocks = (g.taps,) if similarity == "diagonal" else (g.taps, g.taps)
    shapes = [(g.batch, g.channels, *g.size), (g.filters, g.channels // g.groups, *g.kernel), (g.batch, *blocks, *out)]
    tensors = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    arguments = (*tensors, torch.randn(g.filters, dtype=torch.float64), g.stride, g.padding, g.dilation, g.groups)
    found = nsl.reference_conv2d(*arguments)
    torch.testing.assert_close(found, dense_neural_similarity_conv2d(*arguments), rtol=0, atol=1e-10)
    torch.testing.assert_close(found, nsl.neural_similarity_conv2d(*arguments), rtol=0, atol=1e-10)


def layer_arguments(g: Geometry) -> dict:
    return {
        "in_channels": g.channels,
        "out_channels": g.filters,
        "kernel_size": g.kernel,
        "stride": g.stride,
        "padding": g.padding,
        "dilation": g.dilation,
        "groups": g.groups,
        "bias": g.bias,
        "dtype": torch.float64,
    }


def randomise(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter))


@pytest.mark.parametrize("similarity", STRUCTURES)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_static_layer_and_its_fold_equal_the_dense_definition(seed: int, similarity: str) -> None:
    g = random_geometry(seed)
    torch.manual_seed(seed)
    layer = nsl.NSConv2d(**layer_arguments(g), similarity=similarity, learn_shape=seed % 3 == 0)
    randomise(layer)
    x = torch.randn(g.batch, g.channels, *g.size, dtype=torch.float64)
    y = layer(x)
    matrix = layer.similarity_matrix()[None, :, :, None, None].expand(g.batch, -1, -1, *y.shape[-2:])
    expected = dense_neural_similarity_conv2d(
        x, layer.weight, matrix, layer.bias, g.stride, g.padding, g.dilation, g.groups
    )
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-10)
    folded = layer.fold()
    assert type(folded) is nn.Conv2d
    torch.testing.assert_close(folded(x), y, rtol=0, atol=1e-12)


@pytest.mark.parametrize("similarity", STRUCTURES)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_dynamic_layer_equals_the_dense_definition(seed: int, similarity: str) -> None:
    g = random_geometry(seed)
    torch.manual_seed(seed)
    layer = nsl.DynamicNSConv2d(
        **layer_arguments(g),
        similarity=similarity,
        predictor="cnn" if seed % 2 else "sphere",
        predictor_options={"hidden": 3},
        learn_shape=seed % 3 == 0,
    ).eval()
    randomise(layer)
    x = torch.randn(g.batch, g.channels, *g.size, dtype=torch.float64)
    predicted = layer.predict_similarity(x)
    shape = layer.boolean_shape()
    if shape is not None:  # D R: the rows of M are the kernel's taps
        predicted = predicted * shape.view(1, -1, *[1] * (predicted.dim() - 2))
    expected = dense_neural_similarity_conv2d(
        x, layer.weight, predicted, layer.bias, g.stride, g.padding, g.dilation, g.groups
    )
    y = layer(x)
    assert predicted.shape[-2:] == y.shape[-2:]
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("similarity", STRUCTURES)
@pytest.mark.parametrize("chunk", [1, 1 << 22])
@pytest.mark.parametrize("seed", range(0, 100, 5))
def test_gradients_for_input_weight_and_similarity_pass_gradcheck(
    seed: int, chunk: int, similarity: str, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patches, "_CHUNK_BYTES", chunk)  # one image a chunk, and all in one
    g = random_geometry(seed)
    generator = torch.Generator().manual_seed(seed)
    out = output_size(g.size, g.kernel, g.stride, g.padding, g.dilation)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()

    blocks = (g.taps,) if similarity == "diagonal" else (g.taps, g.taps)
    inputs = (
        draw(g.batch, g.channels, *g.size),
        draw(g.filters, g.channels // g.groups, *g.kernel),
        draw(g.batch, *blocks, *out),
    )
    assert torch.autograd.gradcheck(
        lambda x, w, m: nsl.neural_similarity_conv2d(
            x, w, m, None, g.stride, g.padding, g.dilation, g.groups
        ),
        inputs,
        fast_mode=True,
    )


@pytest.mark.parametrize("similarity", STRUCTURES)
@pytest.mark.parametrize("needs", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2)])
def test_gradients_are_right_when_only_some_are_wanted(
    needs: tuple[int, ...], similarity: str, kernels: str
) -> None:
    torch.manual_seed(0)
    blocks = (9,) if similarity == "diagonal" else (9, 9)
    tensors = [
        torch.randn(shape, dtype=torch.float64) for shape in [(2, 3, 5, 4), (4, 3, 3, 3), (2, *blocks, 5, 4)]
    ]
    for i in needs:
        tensors[i].requires_grad_()
    assert torch.autograd.gradcheck(
        lambda *t: nsl.neural_similarity_conv2d(*t, padding=1), tensors, fast_mode=True
    )


@pytest.mark.parametrize("similarity", STRUCTURES)
def test_second_derivatives_pass_gradgradcheck(similarity: str, kernels: str) -> None:
    torch.manual_seed(0)
    blocks = (4,) if similarity == "diagonal" else (4, 4)
    shapes = [(1, 2, 3, 3), (2, 2, 2, 2), (1, *blocks, 3, 2)]
    tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]

    def run(x: torch.Tensor, w: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
        return nsl.neural_similarity_conv2d(x, w, m, None, (1, 2), (1, 1), (2, 1))

    assert torch.autograd.gradcheck(run, tensors)
    assert torch.autograd.gradgradcheck(run, tensors)


@pytest.mark.parametrize("kind", ["static", "dynamic"])
@pytest.mark.parametrize("similarity", STRUCTURES)
@pytest.mark.parametrize("learn_shape", [False, True])
def test_layer_gradients_pass_gradcheck(kind: str, similarity: str, learn_shape: bool) -> None:
    torch.manual_seed(1)
    if kind == "static":
        layer: nn.Module = nsl.NSConv2d(
            2, 3, 3, padding=1, similarity=similarity, learn_shape=learn_shape, dtype=torch.float64
        )
    else:
        layer = nsl.DynamicNSConv2d(
            2,
            3,
            3,
            padding=1,
            similarity=similarity,
            learn_shape=learn_shape,
            dtype=torch.float64,
            predictor_options={"hidden": 3},
        )
    # The threshold has no finite-difference derivative: its rule has a test of its own.
    names = [name for name, _ in layer.named_parameters() if not name.endswith("shape")]
    values = tuple(torch.randn_like(layer.get_parameter(name)).requires_grad_() for name in names)
    x = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)

    def run(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, dict(zip(names, parameters)), (x,))

    assert torch.autograd.gradcheck(run, (x, *values))


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("similarity", STRUCTURES)
def test_the_identity_similarity_is_a_plain_convolution_in_every_padding_mode(
    similarity: str, padding_mode: str
) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64)
    plain = nn.Conv2d(4, 6, 3, 2, 1, 1, 2, True, padding_mode, dtype=torch.float64)
    static = nsl.NSConv2d(4, 6, 3, 2, 1, 1, 2, True, padding_mode, similarity=similarity, dtype=torch.float64)

    class Zero(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.new_zeros(x.shape[0], 9 if similarity == "diagonal" else 81, 4, 3)

    dynamic = nsl.DynamicNSConv2d(
        4, 6, 3, 2, 1, 1, 2, True, padding_mode, similarity=similarity, predictor=Zero(), dtype=torch.float64
    )
    for layer in (static, dynamic):
        layer.load_state_dict(plain.state_dict(), strict=False)
        torch.testing.assert_close(layer(x), plain(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "cls",
    [nsl.NSConv1d, nsl.NSConv2d, nsl.NSConv3d, nsl.NSConvTranspose2d, nsl.DynamicNSConv2d, nsl.UnsharedNSConv2d],
)
def test_a_call_with_every_argument_of_the_plain_convolution_in_its_order_means_the_same(cls: Any) -> None:
    parameters = inspect.signature(cls.plain).parameters
    values = {
        "in_channels": 4, "out_channels": 6, "kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 0,
        "dilation": 1, "groups": 2, "bias": False, "padding_mode": "zeros", "device": "meta", "dtype": torch.float64,
    }  # fmt: skip
    layer = cls(*(values[name] for name in parameters))
    assert (layer.weight.device.type, layer.weight.dtype, layer.bias) == ("meta", torch.float64, None)
    assert {parameter.device.type for parameter in layer.parameters()} == {"meta"}
    assert [layer.stride[0], layer.padding[0], layer.dilation[0], layer.groups] == [2, 1, 1, 2]
    with pytest.raises(TypeError, match="positional argument"):
        cls(*(values[name] for name in parameters), "unconstrained")


@pytest.mark.parametrize("padding", ["same", "valid", 1, (2, 0)])
def test_padding_is_given_as_in_conv2d(padding: str | int | tuple[int, int]) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 2, 8, 8)
    expected = nn.Conv2d(2, 3, 3, padding=padding)(x).shape
    assert nsl.NSConv2d(2, 3, 3, padding=padding)(x).shape == expected
    assert nsl.DynamicNSConv2d(2, 3, 3, padding=padding)(x).shape == expected


def test_an_unbatched_image_works_in_the_static_layer_as_in_conv2d() -> None:
    assert nsl.NSConv2d(2, 3, 3)(torch.randn(2, 8, 8)).shape == (3, 6, 6)


def test_the_gradient_of_the_boolean_shape_reaches_the_real_shape_unchanged() -> None:
    """D_r <- D_r - eta dLoss/dD: compare with the gradient at an explicit D."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    layer = nsl.NSConv2d(
        3, 4, 3, similarity="unconstrained", learn_shape=True, shape_threshold=0.5, dtype=torch.float64
    )
    assert layer.shape is not None
    with torch.no_grad():
        layer.similarity.copy_(torch.randn(81))
        layer.shape.copy_(torch.tensor([0.9, 0.1, 0.6, 0.4, 1.0, 0.5, 0.7, 0.2, 0.8]))
    layer(x).square().sum().backward()
    d = torch.tensor([1, 0, 1, 0, 1, 0, 1, 0, 1.0], dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(layer.boolean_shape(), d, rtol=0, atol=0)
    matrix = torch.diag(d) @ layer.similarity.detach().view(9, 9)
    kernel = (layer.weight.detach().flatten(2) @ matrix).view(4, 3, 3, 3)
    torch.nn.functional.conv2d(x, kernel, layer.bias.detach()).square().sum().backward()
    torch.testing.assert_close(layer.shape.grad, d.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("similarity", STRUCTURES)
@pytest.mark.parametrize("cls", [nsl.NSConv2d, nsl.DynamicNSConv2d])
def test_layers_survive_state_dict_deepcopy_and_pickle(cls: type[nn.Module], similarity: str) -> None:
    torch.manual_seed(0)
    layer = cls(3, 4, 3, padding=1, similarity=similarity, learn_shape=True).eval()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x = torch.randn(2, 3, 6, 6)
    fresh = cls(3, 4, 3, padding=1, similarity=similarity, learn_shape=True).eval()
    fresh.load_state_dict(layer.state_dict())
    for twin in (fresh, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(twin(x), layer(x), rtol=0, atol=0)
    assert layer.to(torch.float64)(x.double()).dtype == torch.float64


def test_layers_name_what_is_wrong_in_one_sentence() -> None:
    with pytest.raises(ValueError, match="similarity must be one of"):
        nsl.NSConv2d(1, 1, 3, similarity="diag")
    with pytest.raises(ValueError, match="predictor must be one of"):
        nsl.DynamicNSConv2d(1, 1, 3, predictor="mlp")
    with pytest.raises(ValueError, match="GiB of float32 weights"):
        nsl.DynamicNSConv2d(1, 1, (512, 1), similarity="unconstrained")
    with pytest.raises(ValueError, match=r"predictor must return \[B, 9, Ho, Wo\]"):
        nsl.DynamicNSConv2d(1, 1, 3, predictor=nn.Conv2d(1, 4, 3))(torch.randn(1, 1, 5, 5))
    with pytest.raises(ValueError, match="smaller than the kernel"):
        nsl.neural_similarity_conv2d(torch.randn(1, 1, 2, 2), torch.randn(1, 1, 3, 3), torch.ones(1, 9, 1, 1))
    with pytest.raises(ValueError, match="similarity must be"):
        nsl.neural_similarity_conv2d(torch.randn(1, 1, 4, 4), torch.randn(1, 1, 3, 3), torch.ones(1, 8, 2, 2))
    with pytest.raises(ValueError, match="weight must be"):
        nsl.neural_similarity_conv2d(torch.randn(1, 2, 4, 4), torch.randn(1, 1, 3, 3), torch.ones(1, 9, 2, 2))


def test_a_users_own_structure_works_in_both_layers() -> None:
    class Symmetric(nsl.Structure):
        name = "symmetric"

        def degrees_of_freedom(self, block: nsl.Block) -> int:
            return block.taps * (block.taps + 1) // 2

        def identity(self, block: nsl.Block) -> torch.Tensor:
            rows, columns = torch.triu_indices(block.taps, block.taps)
            return (rows == columns).float() / 2

        def assemble(self, free: torch.Tensor, block: nsl.Block) -> torch.Tensor:
            rows, columns = torch.triu_indices(block.taps, block.taps)
            upper = free.new_zeros(*free.shape[:-1], block.taps, block.taps)
            upper[..., rows, columns] = free
            return upper + upper.transpose(-1, -2)

    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, 5)
    static = nsl.NSConv2d(3, 4, 3, similarity=Symmetric())
    torch.testing.assert_close(static.similarity_matrix(), torch.eye(9))
    dynamic = nsl.DynamicNSConv2d(3, 4, 3, similarity=Symmetric())
    m = dynamic.predict_similarity(x)
    assert m.shape == (2, 9, 9, 3, 3)
    torch.testing.assert_close(m, m.transpose(1, 2))
    assert dynamic(x).shape == (2, 4, 3, 3)


def test_mixed_precision_stays_close_to_float32() -> None:
    torch.manual_seed(0)
    layer = nsl.DynamicNSConv2d(8, 8, 3, padding=1)
    x = torch.randn(4, 8, 8, 8)
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    assert (y.float() - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("similarity", STRUCTURES)
def test_cuda_equals_the_cpu(similarity: str) -> None:
    torch.manual_seed(0)
    layer = nsl.DynamicNSConv2d(3, 4, 3, padding=1, similarity=similarity, dtype=torch.float64).eval()
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    expected = layer(x)
    torch.testing.assert_close(layer.cuda()(x.cuda()).cpu(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("unconstrained", [False, True])
def test_a_similarity_of_another_type_is_brought_to_the_inputs(dtype: torch.dtype, unconstrained: bool) -> None:
    torch.manual_seed(0)
    x, w = torch.randn(2, 16, 8, 8), torch.randn(8, 16, 3, 3, requires_grad=True)
    m = torch.eye(9)[None, :, :, None, None].expand(2, 9, 9, 8, 8) if unconstrained else torch.ones(2, 9, 8, 8)
    found = nsl.neural_similarity_conv2d(x, w, m.to(dtype), padding=1)
    wanted = torch.nn.functional.conv2d(x, w, padding=1)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    slopes = [torch.autograd.grad(y.square().sum(), w)[0] for y in (found, wanted)]
    torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-2)


def test_a_predictor_may_compute_in_another_precision_than_its_layer() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Conv2d(16, 9, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weight = self.net.weight.float()
            return 0.1 * torch.tanh(torch.nn.functional.conv2d(x.float(), weight, padding=1))

    torch.manual_seed(0)
    layer, x = nsl.DynamicNSConv2d(16, 8, 3, padding=1, predictor=Wide()), torch.randn(2, 16, 8, 8)
    wanted = layer(x)
    found = copy.deepcopy(layer).bfloat16()(x.bfloat16())
    assert (found.float() - wanted).abs().max() < 0.1
