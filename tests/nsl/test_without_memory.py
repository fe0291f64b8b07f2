"""Layers on devices without memory, with tensors that have none, and under tools that take layers for plain ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import fusion, skip_init

import nsl

DYNAMIC = sorted(set(nsl.STRUCTURES) - {"full", "l1"})


def randomised(layer: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.rand_like(parameter) - 0.5)
    return layer.eval()


@pytest.mark.parametrize("similarity", DYNAMIC)
def test_a_dynamic_layer_from_the_meta_device_knows_its_identity(similarity: str) -> None:
    """It was a buffer that no state dict holds: after `to_empty` it was garbage, after assigning still on meta."""
    torch.manual_seed(0)
    options: Any = {"similarity": similarity, "predictor_options": {"hidden": 2}}
    layer, x = randomised(nsl.DynamicNSConv2d(3, 4, 3, **options)), torch.randn(2, 3, 5, 5)
    for assign in (False, True):
        twin = nsl.DynamicNSConv2d(3, 4, 3, device="meta", **options)
        if not assign:
            twin.to_empty(device="cpu")
            for buffer in twin.buffers():
                buffer.fill_(float("nan"))  # what memory may hold
        twin.load_state_dict(layer.state_dict(), assign=assign)
        assert torch.equal(twin(x), layer(x))


@pytest.mark.parametrize(
    ("kind", "arguments", "options"),
    [
        (nsl.NSConv1d, (3, 4, 3), {"similarity": "unconstrained", "learn_shape": True}),
        (nsl.NSConv2d, (3, 4, 3), {"similarity": "low_rank", "learn_shape": True}),
        (nsl.NSConvTranspose2d, (3, 4, 3), {"similarity": "dilated"}),
        (nsl.DynamicNSConv2d, (3, 4, 3), {"similarity": "unconstrained"}),
        (nsl.DynamicNSConv2d, (3, 4, 3), {"similarity": nsl.LowRank(2, residual=True), "predictor": "release"}),
        (nsl.DynamicNSLinear, (4, 3), {"similarity": "unconstrained", "block_size": 2}),
        (nsl.NSGRUCell, (4, 3), {}),
        (nsl.SphereConv2d, (3, 4, 3), {"operator": "learnable_sigmoid"}),
    ],
)
def test_a_layer_whose_initialisation_was_skipped_starts_as_any_other_after_reset_parameters(
    kind: type[nn.Module], arguments: tuple[int, ...], options: dict[str, Any]
) -> None:
    late = skip_init(kind, *arguments, **options)
    for tensor in (*late.parameters(), *late.buffers()):
        tensor.data.fill_(100)  # what memory may hold
    torch.manual_seed(0)
    late.reset_parameters()
    torch.manual_seed(0)
    twin: Any = kind(*arguments, **options)
    torch.manual_seed(0)
    twin.reset_parameters()
    assert all(torch.equal(value, late.state_dict()[key]) for key, value in twin.state_dict().items())


@pytest.mark.parametrize("bias", [False, True])
def test_batch_norm_is_not_fused_into_a_hyperspherical_convolution(bias: bool) -> None:
    """Its output does not scale with its weight: the fused one was wrong by 0.46."""
    layer, norm = nsl.SphereConv2d(3, 4, 3, bias=bias).eval(), randomised(nn.BatchNorm2d(4))
    with pytest.raises(ValueError, match="batch norm and the like cannot be folded into it"):
        fusion.fuse_conv_bn_eval(layer, norm)
    layer.load_state_dict(nsl.SphereConv2d(3, 4, 3, bias=bias).state_dict(), assign=True)  # loading goes on


@pytest.mark.parametrize("kind", [nsl.NSConv2d, nsl.DynamicNSConv2d])
def test_batch_norm_is_fused_into_the_layers_whose_output_scales_with_their_weight(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    layer, norm, x = randomised(kind(3, 4, 3)), randomised(nn.BatchNorm2d(4)), torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(fusion.fuse_conv_bn_eval(layer, norm)(x), norm(layer(x)))  # type: ignore[type-var]


@pytest.mark.parametrize("channels", [3, 16])
@pytest.mark.parametrize("predictor", ["sphere", "cnn", "release"])
def test_no_kernel_is_given_a_fake_tensor(predictor: str, channels: int) -> None:
    """It ended the process: a fake tensor has no memory for a kernel to read."""
    with FakeTensorMode():
        layer = nsl.DynamicNSConv2d(channels, 4, 3, padding=1, predictor=predictor)
        x = torch.empty(2, channels, 6, 5).to(memory_format=torch.channels_last).requires_grad_()
        y = layer(x)
        y.sum().backward()
        assert y.shape == (2, 4, 6, 5)
        assert x.grad is not None
        assert x.grad.shape == x.shape


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
@pytest.mark.parametrize("channels", [3, 16])
def test_a_traced_graph_of_forward_and_backward_holds_for_other_inputs(mode: str, channels: int) -> None:
    """The graph returned NaN: the kernels had written where no graph looks."""
    torch.manual_seed(0)
    layer = randomised(nsl.DynamicNSConv2d(channels, 4, 3, padding=1, predictor_options={"hidden": 4}))

    def gradient(x: Tensor) -> Tensor:
        return torch.autograd.grad(layer(x).square().sum(), x)[0]

    x = torch.randn(2, channels, 6, 5).contiguous(memory_format=torch.channels_last).requires_grad_()
    graph = make_fx(gradient, tracing_mode=mode, _allow_non_fake_inputs=True)(x)
    other = torch.randn_like(x, requires_grad=True)
    torch.testing.assert_close(graph(other), gradient(other), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("similarity", ["unconstrained", "low_rank", "symmetric"])
def test_the_forward_derivative_of_a_dynamic_layer_in_all_its_parameters_is_the_finite_difference(
    similarity: str,
) -> None:
    import torch.autograd.forward_ad as forward_ad

    torch.manual_seed(0)
    options: Any = {"similarity": similarity, "padding": 1, "predictor_options": {"hidden": 3}, "dtype": torch.float64}
    layer, x = randomised(nsl.DynamicNSConv2d(2, 3, 3, **options)), torch.randn(2, 2, 5, 4, dtype=torch.float64)
    values = {name: value.detach() for name, value in layer.named_parameters()}
    tangents = {name: torch.randn_like(value) for name, value in values.items()}

    def at(step: float) -> Tensor:
        moved = {name: value + step * tangents[name] for name, value in values.items()}
        return torch.func.functional_call(layer, moved, (x,))

    with forward_ad.dual_level():
        duals = {name: forward_ad.make_dual(value, tangents[name]) for name, value in values.items()}
        found = forward_ad.unpack_dual(torch.func.functional_call(layer, duals, (x,))).tangent
    assert found is not None
    torch.testing.assert_close(found, (at(1e-6) - at(-1e-6)) / 2e-6, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nsl.DynamicNSConv2d(3, 4, 3), (2, 5, 6, 6)),
        (nsl.DynamicNSConv2d(3, 4, 3), (3, 6)),
        (nsl.SphereConv2d(3, 4, 3), (2, 5, 6, 6)),
        (nsl.DynamicNSLinear(4, 3), (2, 5)),
        (nsl.NSGRUCell(4, 3), (2, 5)),
    ],
)
def test_an_input_of_other_channels_is_named_with_the_shape_that_is_expected(
    layer: nn.Module, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"input must be \[.*\], got \[" + ", ".join(map(str, shape))):
        layer(torch.randn(shape))


def test_a_folded_shift_layer_that_loads_other_taps_keeps_its_parameter() -> None:
    """An optimiser that was given it would go on with the old one."""
    layers = []
    for count in (1, 3):
        layer = nsl.NSConv2d(2, 3, 3, similarity="shift")
        with torch.no_grad():
            layer.similarity.zero_()
            layer.similarity.view(9, 9)[range(9), [k % count for k in range(9)]] = 1
        layers.append(layer.fold())
    few, many = layers
    weight, x = few.pointwise.weight, torch.randn(2, 2, 5, 5)
    optimiser = torch.optim.SGD(few.parameters(), lr=0.1)
    few(x).sum().backward()
    few.load_state_dict(many.state_dict())
    assert few.pointwise.weight is weight
    torch.testing.assert_close(few(x), many(x))
    few(x).square().sum().backward()
    optimiser.step()
    assert not torch.equal(few(x), many(x))


def test_attention_over_one_image_is_that_over_a_batch_of_one() -> None:
    """Without B its channels were taken for images: other numbers, in silence."""
    torch.manual_seed(0)
    layer, x = randomised(nsl.GlobalSimilarity(**nsl.sphere_maps(8), gamma=0.5)), torch.randn(8, 4, 3)
    torch.testing.assert_close(layer(x), layer(x.unsqueeze(0)).squeeze(0))
