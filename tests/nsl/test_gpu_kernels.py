"""The GPU's kernels against the definition in float64: on a card, and without one in Triton's interpreter.

Every test here computes on `DEVICE`. Collected without a card, they skip; the last one then runs this file again in a
process of its own with `TRITON_INTERPRET=1`, where the kernels run as NumPy on the CPU.
"""

from __future__ import annotations

import copy
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import nsl
from nsl.kernels import operators, paths, sphere

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
on_device = pytest.mark.skipif(
    DEVICE == "cpu" and not INTERPRETED, reason="needs a CUDA device; the interpreter runs it in a process of its own"
)
ROOT = Path(__file__).parents[2]

#: batch, height, width, channels, filters, kernel, stride, padding, dilation
GEOMETRIES = [
    (2, 7, 5, 5, 7, (3, 3), (1, 1), (1, 1), (1, 1)),
    (2, 7, 8, 3, 33, (3, 3), (2, 1), (1, 0), (1, 2)),
    (1, 11, 7, 17, 4, (3, 5), (2, 3), (2, 2), (2, 1)),
    (2, 6, 6, 40, 20, (1, 1), (1, 1), (0, 0), (1, 1)),
    (2, 5, 6, 24, 16, (2, 4), (1, 2), (0, 3), (1, 1)),
    (1, 3, 4, 140, 70, (2, 2), (1, 1), (1, 1), (1, 1)),  # more than one block of channels and of filters
    (2, 4, 5, 32, 32, (3, 3), (1, 1), (1, 1), (1, 1)),
    (1, 3, 3, 2, 3, (3, 3), (3, 3), (4, 4), (2, 2)),
    (1, 9, 9, 1, 1, (5, 5), (2, 2), (2, 2), (1, 1)),
]
#: Largest error, relative to the norm. Interpreted bfloat16 is cut off, not rounded; a GPU's TF32 is not tested here.
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 8e-3, torch.float16: 6e-4}


@pytest.fixture(autouse=True)
def _kernels_on_poisoned_memory() -> Iterator[None]:
    """New tensors hold NaN, so that an element that no kernel writes shows itself; float32 products are IEEE's."""
    before = torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    if DEVICE == "cuda":
        from nsl.kernels.precision import set_float32_products

        set_float32_products("ieee")
    with paths.only("triton"):
        yield
    torch.use_deterministic_algorithms(before)


def error(found: Tensor, exact: Tensor) -> float:
    assert found.shape == exact.shape
    return ((found.double() - exact).norm() / exact.norm().clamp_min(1e-30)).item()


def tensors(number: int, block: int, dtype: torch.dtype) -> tuple[list[Tensor], Tensor, list[int]]:
    """x, w and m with one or two axes of taps, dy, and the window, of one of the geometries."""
    batch, height, width, channels, filters, *window = GEOMETRIES[number]
    (kh, kw), stride, padding, dilation = window
    out = nsl.kernels.geometry.output_size((height, width), *window)
    draw = torch.Generator().manual_seed(number)
    shapes = [
        (batch, height, width, channels),
        (kh * kw, channels, filters),
        (batch, *out, *(kh * kw,) * block),
        (batch, *out, filters),
    ]
    *leaves, dy = (torch.randn(shape, generator=draw).to(DEVICE, dtype) for shape in shapes)
    return leaves, dy, [kh, kw, *stride, *padding, *dilation]


CASES = [
    (number, block, dtype)
    for dtype in TOLERANCE
    for block in (1, 2)
    for number, (*_, kernel, _, _, _) in enumerate(GEOMETRIES)
    if (block == 1 or kernel != (5, 5)) and (dtype == torch.float32 or number in (5, 6)[: 3 - block])
]


@on_device
@pytest.mark.cuda
@pytest.mark.parametrize("number, block, dtype", CASES)
def test_output_and_gradients_are_the_definitions_and_repeat_bit_for_bit(
    number: int, block: int, dtype: torch.dtype
) -> None:
    leaves, dy, window = tensors(number, block, dtype)
    exact = [leaf.double().requires_grad_() for leaf in leaves]
    expected = operators.definition(*exact, window)
    wanted = [expected, *torch.autograd.grad(expected, exact, dy.double())]
    runs = []
    for _ in range(2 if DEVICE == "cuda" or number == 7 else 1):  # NumPy is deterministic: twice is for the card
        y = operators.similarity_conv(*(leaf.requires_grad_() for leaf in leaves), window)
        runs.append([y, *torch.autograd.grad(y, leaves, dy)])
    for found, again, true in zip(runs[0], runs[-1], wanted):
        assert torch.equal(found, again)
        assert error(found, true) < TOLERANCE[dtype]


LAYERS = [
    ("diagonal", "sphere", 1), ("unconstrained", "sphere", 2), ("diagonal", "release", 2), ("unconstrained", "cnn", 1),
]  # fmt: skip


def layer_and_images(similarity: str, predictor: str, stride: int) -> tuple[nsl.DynamicNSConv2d, Tensor]:
    torch.manual_seed(0)
    kernel, padding = (3, 1) if similarity == "diagonal" else ((1, 3), (0, 1))  # K^2 loops are long when interpreted
    layer = nsl.DynamicNSConv2d(
        5, 6, kernel, stride, padding, similarity=similarity, predictor=predictor, predictor_options={"hidden": 8}
    )
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    images = torch.randn(2, 5, 5, 6).contiguous(memory_format=torch.channels_last)
    return layer.to(DEVICE), images.to(DEVICE).requires_grad_()


def second_derivatives(layer: nsl.DynamicNSConv2d, images: Tensor) -> list[Tensor]:
    inputs = [images, *layer.parameters()]
    y = layer(images)
    first = torch.autograd.grad(y.square().sum(), inputs, create_graph=True)
    second = torch.autograd.grad(sum(gradient.square().sum() for gradient in first), inputs)
    return [y, *first, *second]


@on_device
@pytest.mark.cuda
@pytest.mark.parametrize("similarity, predictor, stride", LAYERS)
def test_a_layer_has_its_first_and_second_derivatives(similarity: str, predictor: str, stride: int) -> None:
    layer, images = layer_and_images(similarity, predictor, stride)
    found = second_derivatives(layer, images)
    with paths.only("plain"):
        wanted = second_derivatives(copy.deepcopy(layer).double(), images.detach().double().requires_grad_())
    assert max(error(one, other) for one, other in zip(found, wanted)) < 1e-5


@on_device
@pytest.mark.cuda
@pytest.mark.parametrize("similarity, predictor, stride", LAYERS[:2])
def test_autocast_and_the_compiler_go_through(similarity: str, predictor: str, stride: int) -> None:
    layer, images = layer_and_images(similarity, predictor, stride)
    inputs = [images, *layer.parameters()]

    def step(call: torch.nn.Module, autocast: bool) -> list[Tensor]:
        with torch.autocast(DEVICE, torch.bfloat16, enabled=autocast):
            y = call(images)
        return [y, *torch.autograd.grad(y.square().sum(), inputs)]

    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for autocast in (False, True):
        eager = step(layer, autocast)
        for one, other in zip(eager, step(compiled, autocast)):
            assert error(one, other.double()) < (4e-2 if autocast else 1e-5)
        assert eager[0].dtype == (torch.bfloat16 if autocast else torch.float32)
        with paths.only("plain"):
            plain = step(layer, autocast)
        assert error(eager[0], plain[0].double()) < (2e-2 if autocast else 1e-5)


@on_device
@pytest.mark.cuda
def test_transforms_and_export_take_the_definition() -> None:
    layer, images = layer_and_images("diagonal", "sphere", 1)
    parameters = dict(layer.named_parameters())

    def loss(values: dict[str, Tensor], image: Tensor) -> Tensor:
        return torch.func.functional_call(layer, values, (image[None],)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, images.detach())
    whole = torch.autograd.grad(layer(images).square().sum(), list(parameters.values()))
    for one, other in zip(each.values(), whole):
        assert error(one.sum(0), other.double()) < 1e-5
    program = torch.export.export(layer.eval(), (images.detach(),))
    assert not [node for node in program.graph.nodes if "nsl" in str(node.target)]


@on_device
@pytest.mark.cuda
@pytest.mark.parametrize("block", [1, 2])
def test_the_convolutions_operators_are_registered_rightly(block: int) -> None:
    draw = torch.Generator().manual_seed(0)
    shapes = ((1, 3, 3, 2), (2, 2, 3), (1, 3, 2, *(2,) * block), (1, 3, 2, 3))
    x, w, m, dy = (torch.randn(shape, generator=draw).to(DEVICE) for shape in shapes)
    window = [1, 2, 1, 1, 0, 0, 1, 1]
    for operator, arguments in (
        (operators.similarity_conv, (x, w, m, window)),
        (operators.input_gradients, (dy, x, w, m, window)),
        (operators.weight_gradient, (dy, x, w, m, window)),
    ):
        inputs = tuple(a.requires_grad_() if isinstance(a, Tensor) else a for a in arguments)
        torch.library.opcheck(operator, inputs)


@on_device
@pytest.mark.cuda
def test_the_predictors_operators_are_registered_rightly_and_have_second_derivatives() -> None:
    draw = torch.Generator().manual_seed(0)
    x, e, s, inverse, w = (
        (torch.rand(shape, generator=draw) + 0.5).to(DEVICE).requires_grad_()
        for shape in ((2, 5, 4, 7), (2, 5, 4), (2, 5, 4), (2, 3, 4), (3, 3, 3, 2))
    )
    window, out = [3, 3, 2, 1, 1, 1, 1, 1], [3, 4]
    y = torch.randn(2, 5, 4, 6, generator=draw).to(DEVICE).requires_grad_()
    for operator, arguments in (
        (sphere.row_energy, (x,)),
        (sphere.row_energy_gradient, (e, x)),
        (sphere.inverse_norms, (e, out, window, 1e-4)),
        (sphere.scale_rows, (x, s, "relu", 7, True)),
        (sphere.scale_rows, (x, s, "clamp", 6, False)),
        (sphere.scale_rows_gradient, (y, e, x, s, "relu")),
        (sphere.unit_rows, (w, 8, torch.float32, 1e-4)),
        (sphere.unit_rows_gradient, (torch.randn_like(w), w, 1e-4)),
    ):
        torch.library.opcheck(operator, arguments)
    exact = sphere.inverse_definition(e.detach().double(), out, window, 1e-4)
    assert error(sphere.inverse_norms(e, out, window, 1e-4), exact) < 1e-6
    assert inverse.shape == exact.shape


@on_device
@pytest.mark.cuda
def test_hidden_maps_and_their_energy_come_out_as_they_are_stored() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, 4, 70, generator=draw).to(DEVICE, torch.bfloat16)
    s = torch.rand(3, 5, 4, generator=draw).to(DEVICE)
    y, e = sphere.scale_rows(x, s, "relu", 70, True)
    exact = (x.double() * s.double().unsqueeze(-1)).relu()
    assert error(y, exact) < TOLERANCE[torch.bfloat16]
    assert error(e, y.double().square().sum(-1)) < 1e-6  # a sum of squares in bfloat16 would be 2e-3 off
    first, _ = sphere.scale_rows(x, s, "clamp", 9, False)
    assert first.shape == (3, 5, 4, 9)
    assert error(first, (x.double() * s.double().unsqueeze(-1))[..., :9].clamp(-1, 1)) < TOLERANCE[torch.bfloat16]


@pytest.mark.cuda
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device: TF32 and graphs exist there only")
def test_on_a_card_tf32_leaves_the_patch_norm_alone_and_a_captured_step_repeats_the_eager_one() -> None:
    from nsl.kernels.precision import set_float32_products

    set_float32_products("tf32")
    layer, images = layer_and_images("diagonal", "sphere", 1)
    norm = nsl.patch_norm(images, 3, padding=1)
    assert error(norm, nsl.patch_norm(images.double(), 3, padding=1)) < 1e-6
    inputs = [images, *layer.parameters()]

    def step() -> list[Tensor]:
        y = layer(images)
        return [y, *torch.autograd.grad(y.square().sum(), inputs)]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            eager = step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    graph.replay()
    for one, other in zip(eager, captured):
        assert torch.equal(one, other)


@pytest.mark.skipif(DEVICE == "cuda" or INTERPRETED, reason="the tests above have run on the device")
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed (Linux only)")
def test_without_a_card_the_interpreter_passes_the_tests_above() -> None:
    command = [sys.executable, "-m", "pytest", "-o", "addopts=", __file__, "-n", "0", "-x", "-q"]
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTEST_XDIST_WORKER", None)
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=900)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout  # and not all skipped
