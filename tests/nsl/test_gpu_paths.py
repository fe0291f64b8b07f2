"""Which way a tensor takes, what a record says of it, and how many launches a layer is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import nsl
from nsl.kernels import compiled, paths, tiles
from nsl.kernels.patches import chunk_bounds
from nsl.kernels.precision import float32_products, set_float32_products

#: Kernels that an operator launches, where it is not one: zeros and sums of parts count too.
LAUNCHES = {
    "nsl.similarity_conv_input_gradients.default": 2,
    "nsl.similarity_conv_weight_gradient.default": 3,
    "aten.convolution_backward.default": 2,
}
#: Creating a tensor of the Python side, asking for its device.
NO_LAUNCH = ("prim.device", "aten.empty", "aten.new_empty", "aten.detach")


class Launches(TorchDispatchMode):
    """Counts what would be launched on a GPU, operator by operator; views are free."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = str(function)
        if not function.is_view and not name.startswith(NO_LAUNCH):
            self.counts[name] += LAUNCHES.get(name, 1)
        return result


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("similarity", ["diagonal", "unconstrained"])
@pytest.mark.parametrize("predictor", ["sphere", "release", "cnn"])
def test_a_dynamic_layer_is_at_most_forty_launches_forward_and_backward(
    predictor: str, similarity: str, autocast: bool
) -> None:
    layer = nsl.DynamicNSConv2d(32, 32, 3, padding=1, bias=False, similarity=similarity, predictor=predictor)
    layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    dtype = torch.bfloat16 if autocast else torch.float32
    with FakeTensorMode(allow_non_fake_inputs=True), paths.only("triton"):
        images = torch.empty(128, 32, 32, 32, dtype=dtype).contiguous(memory_format=torch.channels_last)
        images.requires_grad_()
        with Launches() as launches:
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                output = layer(images)
            torch.autograd.grad(output, [images, *layer.parameters()], torch.empty_like(output))
    assert launches.counts.total() <= 40, launches.counts
    assert launches.counts["nsl.similarity_conv.default"] == 1
    assert not [name for name in launches.counts if "_local_scalar_dense" in name]


def test_the_cpu_takes_its_own_kernels_and_other_cases_the_plain_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    native = "plain" if compiled.library() is None else "native"
    assert paths.path(torch.empty(2)) == native
    assert paths.path(torch.empty(2, dtype=torch.float16)) == "plain"
    assert torch.func.vmap(lambda x: torch.tensor(paths.path(x) == "plain").expand_as(x))(torch.empty(2)).all()
    monkeypatch.setattr(compiled, "library", lambda: None)
    assert paths.path(torch.empty(2)) == "plain"


@pytest.fixture
def unknown_cards() -> Iterator[None]:
    """What a card can do is found once a process: nothing is known before the test, and nothing after it."""
    paths._launches.cache_clear()
    yield
    paths._launches.cache_clear()


@pytest.mark.usefixtures("unknown_cards")
def test_a_gpu_takes_triton_where_type_and_card_allow_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "_HAS_TRITON", True)
    with FakeTensorMode():
        tensors = {dtype: torch.empty(2, device="cuda", dtype=dtype) for dtype in (torch.float32, torch.float64)}
        assert [paths.path(tensor) for tensor in tensors.values()] == ["triton", "plain"]
        with paths.only("plain"):
            assert paths.path(tensors[torch.float32]) == "plain"
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
        assert paths.path(tensors[torch.float32]) == "plain"
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
        monkeypatch.setattr(paths, "_HAS_TRITON", False)
        assert paths.path(tensors[torch.float32]) == "plain"


class HostTensors(TorchDispatchMode):
    """Notes what makes a tensor on the host and copies it to the device, or waits for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = str(function)
        copied = name.startswith("aten._to_copy") and str(kwargs.get("device", args[0].device)) != str(args[0].device)
        if copied or name.startswith(("aten.lift_fresh", "aten._local_scalar_dense")):
            self.found.append(name)
        return function(*args, **kwargs)


@pytest.mark.parametrize("name", sorted(set(nsl.STRUCTURES) - {"full", "l1"}))
def test_a_similarity_is_assembled_without_a_tensor_of_the_host(name: str) -> None:
    structure = nsl.layers.structures.make_structure(name)
    block = nsl.Block((3, 3))
    free = torch.empty(2, structure.degrees_of_freedom(block), device="meta")
    with HostTensors() as seen:
        (structure.mask if structure.is_mask else structure.assemble)(free, block)
    assert seen.found == []


@pytest.mark.parametrize("operator", ["linear", "sigmoid"])
def test_an_operator_of_the_angle_needs_no_tensor_of_the_host(
    operator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tensor", "as_tensor"):  # both fill a tensor of the host and copy it
        monkeypatch.setattr(torch, name, None)
    with HostTensors() as seen:
        nsl.angular(torch.empty(2, 3, device="meta"), operator)
    assert seen.found == []


def test_one_setting_moves_the_products_of_all_libraries_and_leaves_every_other_reader_of_them_working() -> None:
    backends = torch.backends
    before = backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32
    try:
        for products in ("tf32", "ieee"):
            set_float32_products(products)  # type: ignore[arg-type]
            assert float32_products() == {"matmul": products, "convolution": products}
            assert (backends.cudnn.rnn.fp32_precision == "tf32") == (products == "tf32")  # type: ignore[attr-defined]
            # What PyTorch's compiler, other libraries and a record of the CPU ask: mixed settings raise there.
            assert backends.cuda.matmul.allow_tf32 == backends.cudnn.allow_tf32 == (products == "tf32")
            assert paths.describe("cpu")["matmul"] == ("high" if products == "tf32" else "highest")
        with pytest.raises(ValueError, match="'ieee' or 'tf32'"):
            set_float32_products("bf16")  # type: ignore[arg-type]
    finally:
        backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32 = before


def test_a_record_names_the_path_and_on_a_card_what_decides_the_last_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert paths.describe("cpu") == {"kernels": paths.path(torch.empty(0)), "matmul": "highest"}
    monkeypatch.setattr(paths, "path", lambda tensor: "triton")
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    found = paths.describe("cuda")
    assert found["kernels"] == "triton"
    assert {"matmul", "convolution", "cudnn_benchmark", "cudnn_deterministic", "cublas_workspace"} <= set(found)


def test_a_device_other_than_the_cpu_works_in_one_chunk() -> None:
    assert chunk_bounds(128, 1 << 20, torch.device("cuda")) == (128, [(0, 128)])
    assert len(chunk_bounds(128, 1 << 20)[1]) > 8


def test_the_split_of_a_weights_gradient_depends_on_sizes_only_and_covers_every_position() -> None:
    for positions in (1, 63, 5000, 131072):
        for programs in (1, 9, 36, 5000):
            stretch = tiles.stretch(positions, programs, 32)
            splits = -(-positions // stretch)
            assert stretch % 32 == 0
            assert splits * stretch >= positions
            assert splits == 1 or splits * programs <= tiles.WEIGHT_PROGRAMS


@pytest.mark.parametrize("similarity", ["diagonal", "unconstrained"])
def test_gradients_of_gradients_count_the_predictors_path_once(similarity: str) -> None:
    torch.manual_seed(0)
    layer = nsl.DynamicNSConv2d(20, 4, 3, padding=1, similarity=similarity).double()
    with torch.no_grad():
        for parameter in layer.predictor.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    images = torch.randn(1, 20, 4, 4, dtype=torch.float64, requires_grad=True)

    def penalty() -> list[Tensor]:
        first = torch.autograd.grad(layer(images).square().sum(), images, create_graph=True)[0]
        return [first, *torch.autograd.grad(first.square().sum(), [images, *layer.parameters()])]

    found = penalty()
    # Inside a transform every operation is plain.
    wanted = torch.func.grad(lambda x: layer(x).square().sum())(images.detach())
    torch.testing.assert_close(found[0], wanted, rtol=1e-10, atol=1e-10)


def test_a_module_of_a_kind_that_is_not_fused_still_computes_on_the_gpus_path() -> None:
    """The middle of a predictor with a bias, whose operators run on fake tensors: shapes only."""
    second = nsl.SphereConv2d(4, 5, 3, padding=1, bias=True)
    with FakeTensorMode(allow_non_fake_inputs=True), paths.only("triton"):
        z = torch.empty(2, 4, 6, 6)
        output = nsl.layers.middle.middle(z, torch.empty(2, 1, 6, 6), nn.Identity(), second)
    assert output.shape == (2, 5, 6, 6)


@pytest.mark.usefixtures("unknown_cards")
def test_where_triton_cannot_build_the_plain_operations_are_taken_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: torch.device) -> None:
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(paths, "_HAS_TRITON", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    launch = pytest.importorskip("nsl.kernels.launch")
    monkeypatch.setattr(launch, "touch", fail)
    with pytest.warns(UserWarning, match="Failed to find C compiler.*python3-dev"):
        assert not paths._usable(None)
    monkeypatch.setattr(torch.version, "hip", "6.0")
    monkeypatch.setattr(launch, "touch", lambda _: None)
    paths._launches.cache_clear()
    assert not paths._usable(0)
    monkeypatch.setattr(torch.version, "hip", None)
    paths._launches.cache_clear()
    assert paths._usable(0)
