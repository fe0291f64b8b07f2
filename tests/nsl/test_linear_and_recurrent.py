"""Fully connected layers, recurrent cells and convolutions of other dimensions against dense definitions."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import nsl
from tests.nsl.test_structures import DYNAMIC, NAMES, SHARED, randomise


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("block_size", [None, 3])
def test_the_linear_layer_equals_the_dense_definition(name: str, block_size: int | None) -> None:
    torch.manual_seed(0)
    layer = nsl.NSLinear(6, 4, similarity=name, dtype=torch.float64, block_size=block_size, learn_shape=True)
    randomise(layer)
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    matrix = layer.similarity_matrix()
    dense = torch.block_diag(*[matrix] * (6 // len(matrix)))
    expected = torch.einsum("oi,ij,abj->abo", layer.weight, dense, x) + layer.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.fold()(x), layer(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", DYNAMIC)
@pytest.mark.parametrize("block_size", [None, 3])
def test_the_dynamic_linear_layer_equals_the_dense_definition(name: str, block_size: int | None) -> None:
    torch.manual_seed(0)
    layer = nsl.DynamicNSLinear(6, 4, similarity=name, dtype=torch.float64, block_size=block_size, hidden=5)
    plain = nn.Linear(6, 4, dtype=torch.float64)
    plain.load_state_dict({"weight": layer.weight, "bias": layer.bias})
    x = torch.randn(7, 6, dtype=torch.float64)
    if name not in ("low_rank", "dilated"):
        torch.testing.assert_close(layer(x), plain(x), rtol=1e-12, atol=1e-12)  # starts as the plain layer
    randomise(layer)
    predicted = layer.predict_similarity(x)
    if layer.structure.is_mask:
        predicted = torch.diag_embed(predicted)
    for row, matrix, y in zip(x, predicted, layer(x)):
        dense = torch.block_diag(*[matrix] * (6 // len(matrix)))
        torch.testing.assert_close(y, layer.weight @ dense @ row + layer.bias, rtol=1e-12, atol=1e-12)


def test_gradcheck_of_the_dynamic_linear_layer() -> None:
    torch.manual_seed(0)
    layer = nsl.DynamicNSLinear(4, 3, similarity="unconstrained", dtype=torch.float64, block_size=2, hidden=3)
    randomise(layer)
    names, values = zip(*[(n, p.detach().clone().requires_grad_()) for n, p in layer.named_parameters()])
    x = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, *p: torch.func.functional_call(layer, dict(zip(names, p)), (x,)), (x, *values)
    )


CELLS = [
    (nsl.NSRNNCell, nn.RNNCell, {}),
    (nsl.NSRNNCell, nn.RNNCell, {"nonlinearity": "relu"}),
    (nsl.NSGRUCell, nn.GRUCell, {}),
]


@pytest.mark.parametrize("cell, plain, options", CELLS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bias", [True, False])
def test_a_cell_equals_the_plain_cell_with_the_effective_weights(
    cell: type, plain: type, options: dict, name: str, bias: bool
) -> None:
    torch.manual_seed(0)
    layer = cell(3, 4, bias, similarity=name, dtype=torch.float64, **options)
    randomise(layer)
    x, state = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    expected = plain(3, 4, bias, dtype=torch.float64, **options)
    with torch.no_grad():
        expected.weight_ih.copy_(layer.weight_ih @ layer.similarity_matrix("ih"))
        expected.weight_hh.copy_(layer.weight_hh @ layer.similarity_matrix("hh"))
        if bias:
            expected.bias_ih.copy_(layer.bias_ih)
            expected.bias_hh.copy_(layer.bias_hh)
    for arguments in ((x,), (x, state), (x[0],), (x[0], state[0])):
        torch.testing.assert_close(layer(*arguments), expected(*arguments), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(layer.fold()(*arguments), layer(*arguments), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cell, plain, options", CELLS)
def test_a_cell_starts_as_the_plain_one_and_trains(cell: type, plain: type, options: dict) -> None:
    torch.manual_seed(0)
    layer = cell(3, 4, similarity="unconstrained", **options)
    torch.manual_seed(0)
    reference = plain(3, 4, **options)
    x = torch.randn(5, 3)
    torch.testing.assert_close(layer(layer(x)[:, :3]), reference(reference(x)[:, :3]))
    layer(x).sum().backward()
    assert layer.similarity_ih.grad.abs().sum() > 0
    torch.manual_seed(1)
    assert torch.autograd.gradcheck(
        lambda m: torch.func.functional_call(layer.double(), {"neural_ih.similarity": m}, (x.double(),)),
        (torch.randn(9, dtype=torch.float64, requires_grad=True),),
    )


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(SHARED),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 2),
    st.integers(0, 2),
    st.integers(1, 2),
    st.integers(0, 10**6),
)
def test_convolutions_of_other_dimensions_equal_plain_ones_with_the_effective_weight(
    name: str, channels: int, kernel: int, stride: int, padding: int, dilation: int, seed: int
) -> None:
    torch.manual_seed(seed)
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "dtype": torch.float64}
    least = dilation * (kernel - 1) + 2
    for layer, function, dimensions in (
        (nsl.NSConv1d(channels, 2, kernel, similarity=name, **geometry), nn.functional.conv1d, 1),
        (nsl.NSConv3d(channels, 2, (kernel, 1, 2), similarity=name, **geometry), nn.functional.conv3d, 3),
        (nsl.NSConvTranspose2d(channels, 2, kernel, similarity=name, **geometry), nn.functional.conv_transpose2d, 2),
    ):
        x = torch.randn(2, channels, *[least + 1 + 2 * padding] * dimensions, dtype=torch.float64)
        if name not in ("low_rank", "dilated"):
            torch.testing.assert_close(layer.effective_weight(), layer.weight)
        randomise(layer)
        matrix = layer.similarity_matrix()
        kernels = torch.einsum("fck,kl->fcl", layer.weight.flatten(2), matrix).view_as(layer.weight)
        expected = function(x, kernels, layer.bias, stride=stride, padding=padding, dilation=dilation)
        if expected.numel():
            torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-10)
            torch.testing.assert_close(layer.fold()(x), expected, rtol=1e-12, atol=1e-10)


def test_the_transposed_layer_is_the_transpose_of_the_convolution() -> None:
    torch.manual_seed(0)
    forward = nsl.NSConv2d(3, 4, 3, stride=2, padding=1, bias=False, similarity="unconstrained", dtype=torch.float64)
    randomise(forward)
    backward = nsl.NSConvTranspose2d(
        4, 3, 3, stride=2, padding=1, bias=False, similarity="unconstrained", dtype=torch.float64
    )
    backward.load_state_dict(forward.state_dict())
    x, y = torch.randn(1, 3, 7, 9, dtype=torch.float64), torch.randn(1, 4, 4, 5, dtype=torch.float64)
    assert (forward(x) * y).sum().item() == pytest.approx((x * backward(y)).sum().item())


def test_unfit_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="block_size must divide in_features = 6"):
        nsl.NSLinear(6, 2, block_size=4)
    with pytest.raises(ValueError, match="nonlinearity must be"):
        nsl.NSRNNCell(2, 2, nonlinearity="sine")
    with pytest.raises(ValueError, match=r"input must be \[B, 2\]"):
        nsl.NSGRUCell(2, 2)(torch.zeros(1, 1, 2))
    with pytest.raises(ValueError, match="predictor must return"):
        nsl.DynamicNSLinear(4, 2, predictor=nn.Linear(4, 3))(torch.zeros(1, 4))


@pytest.mark.parametrize(
    ("cls", "plain"),
    [
        (nsl.NSLinear, nn.Linear), (nsl.DynamicNSLinear, nn.Linear), (nsl.NSRNNCell, nn.RNNCell),
        (nsl.NSGRUCell, nn.GRUCell), (nsl.DynamicNSRNNCell, nn.RNNCell), (nsl.DynamicNSGRUCell, nn.GRUCell),
    ],
)  # fmt: skip
def test_a_call_with_every_argument_of_the_plain_layer_in_its_order_means_the_same(cls: Any, plain: Any) -> None:
    values = {
        "in_features": 4, "out_features": 3, "input_size": 4, "hidden_size": 3, "bias": False, "nonlinearity": "relu",
        "device": "meta", "dtype": torch.float64,
    }  # fmt: skip
    given = [values[name] for name in inspect.signature(plain).parameters]
    found = list(cls(*given).parameters())
    assert {(parameter.device.type, parameter.dtype) for parameter in found} == {("meta", torch.float64)}
    with pytest.raises(TypeError, match="positional argument"):
        cls(*given, "unconstrained")


def test_a_long_vector_in_float16_keeps_its_similarity() -> None:
    torch.manual_seed(0)
    layer = nsl.DynamicNSLinear(1024, 4)
    nn.init.normal_(layer.predictor.second.weight)
    x = 10 * torch.randn(8, 1024)  # squares that float16 cannot add up
    wanted = layer.predict_similarity(x)
    found = layer.half().predict_similarity(x.half()).float()
    assert (wanted - 1).abs().max() > 1
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.02)
