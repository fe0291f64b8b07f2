"""The middle of a predictor, fused, computes what its modules compute, in every mode and to every order."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from nsl.kernels import compiled, patches
from nsl.layers import middle as module
from nsl.layers.predictors import CNNPredictor, ReleasePredictor, SpherePredictor
from nsl.layers.spherical import SphereConv2d

pytestmark = pytest.mark.skipif(compiled.library() is None, reason="no C++ compiler here: nothing is fused")

NORMS = ("training", "evaluation", "none")


class Case:
    """A predictor's middle in float64, and the same in another type."""

    def __init__(
        self, channels: int, norm: str, scaled: bool, dtype: torch.dtype = torch.float64, sphere: bool = False
    ) -> None:
        torch.manual_seed(channels)
        z = (2 * torch.randn(3, channels, 7, 6) + 3).to(dtype)
        self.z = z.contiguous(memory_format=torch.channels_last).requires_grad_()
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        self.scale = (torch.rand(3, 1, 7, 6) + 0.5).to(wide).requires_grad_() if scaled else None
        self.norm: nn.Module = nn.Identity()
        if norm != "none":
            self.norm = nn.BatchNorm2d(channels, 1e-3).to(wide).train(norm == "training")
            with torch.no_grad():
                for tensor in (*self.norm.parameters(), *list(self.norm.buffers())[:2]):
                    tensor.copy_(torch.rand_like(tensor) + 0.5)
        kind = SphereConv2d if sphere else nn.Conv2d
        self.second = kind(channels, 9, 3, padding=1, bias=False).to(dtype)

    def inputs(self) -> list[Tensor]:
        scale = [] if self.scale is None else [self.scale]
        return [self.z, *scale, *self.norm.parameters(), self.second.weight]

    def exact(self) -> Case:
        """The same numbers in float64."""
        other = copy.deepcopy(self)
        other.z = self.z.detach().double().requires_grad_()
        other.scale = None if self.scale is None else self.scale.detach().double().requires_grad_()
        other.norm, other.second = other.norm.double(), other.second.double()
        return other

    def output(self) -> Tensor:
        # The modules work in place on what they are given, as they may on a convolution's output.
        return module.middle(self.z * 1, self.scale, self.norm, self.second)


def by_modules(case: Case, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    monkeypatch.setattr(module, "_fits", lambda *_: False)
    output = case.output()
    monkeypatch.undo()
    return output


@pytest.mark.parametrize("sphere", [True, False])
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("channels", [1, 5, 64, 70])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 5e-6), (torch.bfloat16, 2e-2)]
)
def test_output_gradients_and_statistics_are_those_of_the_modules(
    dtype: torch.dtype,
    tolerance: float,
    channels: int,
    norm: str,
    scaled: bool,
    sphere: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if sphere and dtype == torch.bfloat16:
        tolerance *= 2  # kernels are divided by their norms in bfloat16 too
    case = Case(channels, norm, scaled, dtype, sphere)
    exact = case.exact()
    assert module._fits(case.z, case.norm, case.second)
    output, wanted = case.output(), by_modules(exact, monkeypatch)
    slope = torch.randn_like(output)
    gradients = torch.autograd.grad(output, case.inputs(), slope)
    expected = torch.autograd.grad(wanted, exact.inputs(), slope.double())
    for found, right in zip((output, *gradients), (wanted, *expected)):
        assert (found.double() - right).abs().max().item() <= tolerance * max(1.0, right.abs().max().item())
    for found, right in zip(case.norm.buffers(), exact.norm.buffers()):
        torch.testing.assert_close(found.double(), right.double(), rtol=1e-5, atol=1e-6)


def test_images_taken_one_by_one_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for size in (1, 1 << 30):
        monkeypatch.setattr(patches, "_CHUNK_BYTES", size)
        case = Case(5, "training", True)
        output = case.output()
        found.append([output, *torch.autograd.grad(output, case.inputs(), torch.ones_like(output))])
    for one, all_ in zip(*found):
        torch.testing.assert_close(one, all_, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sphere", [True, False])
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("norm", NORMS)
def test_first_and_second_derivatives_equal_finite_differences(norm: str, scaled: bool, sphere: bool) -> None:
    case = Case(3, norm, scaled, sphere=sphere)
    case.z = case.z[:, :, :3, :2].detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    if case.scale is not None:
        case.scale = case.scale[:, :, :3, :2].detach().requires_grad_()

    def function(*tensors: Tensor) -> Tensor:
        z, rest = tensors[0], list(tensors[1:])
        scale = rest.pop(0) if scaled else None
        parameters = dict(zip([name for name, _ in case.norm.named_parameters()], rest))
        norm_module = copy.deepcopy(case.norm)
        for name, value in parameters.items():
            delattr(norm_module, name)
            setattr(norm_module, name, value)
        return module.middle(z * 1, scale, norm_module, case.second)

    inputs = tuple(tensor for tensor in case.inputs()[:-1])
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("predictor", [SpherePredictor, ReleasePredictor, CNNPredictor])
def test_only_the_first_convolutions_map_is_kept(predictor: type[nn.Module]) -> None:
    layer = predictor(4, 9, 3, padding=1, hidden=32)
    image = torch.randn(2, 4, 8, 8).contiguous(memory_format=torch.channels_last)
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        layer(image)
    hidden_map = 2 * 32 * 8 * 8 * 4
    assert sum(1 for size in kept.values() if size >= hidden_map) == 1


def test_a_number_that_is_none_stays_visible() -> None:
    case = Case(4, "none", False)
    with torch.no_grad():
        case.z[0, 0, 0, 0] = float("nan")
    assert case.output().isnan().any()


@pytest.mark.parametrize(
    "reason", ["hook", "bias", "affine", "momentum", "layout", "one position", "autocast", "operator"]
)
def test_what_the_fused_way_does_not_know_is_left_to_the_modules(reason: str) -> None:
    case = Case(4, "training", True, torch.float32)
    z = case.z.detach()
    if reason == "hook":
        case.norm.register_forward_hook(lambda *_: None)
    elif reason == "bias":
        case.second = nn.Conv2d(4, 9, 3, padding=1)
    elif reason == "affine":
        case.norm = nn.BatchNorm2d(4, affine=False)
    elif reason == "momentum":
        case.norm = nn.BatchNorm2d(4, momentum=None)
    elif reason == "operator":
        case.second = SphereConv2d(4, 9, 3, padding=1, operator="linear")
    elif reason == "layout":
        z = z.contiguous()
    elif reason == "one position":
        z = z[:1, :, :1, :1].contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=reason == "autocast"):
        assert not module._fits(z, case.norm, case.second)
