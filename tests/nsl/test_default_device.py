"""`torch.set_default_device` moves what users make, and nothing that the package makes inside."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import nsl
from nsl.data.augment import crop_flip, resized_crop, window_flip

FACTORIES = {
    "arange", "as_tensor", "empty", "eye", "full", "linspace", "ones", "rand", "randint", "randn", "randperm", "tensor",
    "tril_indices", "zeros",
}  # fmt: skip


def _unnamed(path: Path) -> list[str]:
    tree = ast.parse(path.read_text())
    # A module's own state follows the default device, as that of torch.nn does.
    state = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("Parameter", "register_buffer")
        for part in ast.walk(node)
    }
    return [
        f"{path}:{node.lineno}: torch.{node.func.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "torch"
        and node.func.attr in FACTORIES
        and not any(keyword.arg in ("device", "out") for keyword in node.keywords)
        and id(node) not in state
    ]


def test_every_call_that_makes_a_tensor_names_its_device() -> None:
    package = Path(nsl.__file__).parent
    found = [line for path in sorted(package.rglob("*.py")) for line in _unnamed(path)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("change", [crop_flip, window_flip, resized_crop])
def test_images_are_augmented_on_their_own_device_whatever_the_default(change: Callable[..., torch.Tensor]) -> None:
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    size = {"size": 12} if change is window_flip else {}
    expected = change(images, torch.Generator().manual_seed(0), **size)
    with torch.device("meta"):
        found = change(images, torch.Generator().manual_seed(0), **size)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["nsn9_dynamic_unconstrained", "nsn9_static_diagonal", "spherenet"])
def test_a_network_trains_on_its_own_device_whatever_the_default(name: str) -> None:
    torch.manual_seed(0)
    options = {"variant": "release"} if name.startswith("nsn9") else {}
    model = nsl.create_model(name, width=4, image_size=8, **options)
    images = torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    with torch.device("meta"):
        (model(images).square().sum() + nsl.orthogonality_penalty(model) + nsl.similarity_penalty(model)).backward()
        model.reset_parameters() if hasattr(model, "reset_parameters") else None
    assert all(parameter.grad is not None and parameter.grad.device.type == "cpu" for parameter in model.parameters())
