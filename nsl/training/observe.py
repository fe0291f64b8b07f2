"""Small pictures of what the layers learnt, JSON-ready for the run record; notebooks draw them without a network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nsl.data.augment import centre_crop, normalise
from nsl.data.dataset import Dataset
from nsl.layers.conv import DynamicNSConv2d, NSConv2d
from nsl.models.modes import evaluating

SAMPLE = 64


def _rounded(tensor: Tensor, digits: int = 3) -> list[Any]:
    scale = 10**digits
    return ((tensor.double() * scale).round() / scale).tolist()


@torch.no_grad()
def observe(model: nn.Module, dataset: Dataset) -> dict[str, Any]:
    """The learned similarities, and for a dynamic network the predicted ones of the first test images.

    Returns:
        {"static": [{"layer", "M" [K][K], "shape" [K] if learned}],
         "dynamic": [{"layer", "mean", "std" (over 64 test images and all positions: [kh][kw] for a diagonal
            similarity, [K][K] otherwise), "maps" [K][h][w] of the first test image (the diagonal of M; first
            dynamic layer only), "shape" [K] if learned}],
         "other": [{"layer", and what the layer's method `observed(input)` says of those test images}],
         "image": uint8 [3][H][W], the first test image, only with "dynamic" or "other"}
    """
    device = next(model.parameters(), torch.empty(0, device="cpu")).device
    static: list[dict[str, Any]] = []
    dynamic: list[dict[str, Any]] = []
    other: list[dict[str, Any]] = []
    hooks = []

    def describe(name: str, layer: nn.Module) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
            seen = layer.observed(inputs[0])  # type: ignore[operator]
            other.append({"layer": name} | {key: _rounded(value.float().cpu()) for key, value in seen.items()})

        return hook

    def shape_of(layer: NSConv2d | DynamicNSConv2d) -> dict[str, Any]:
        shape = layer.boolean_shape()
        return {} if shape is None else {"shape": _rounded(shape.cpu(), 0)}

    def record(name: str, layer: DynamicNSConv2d) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
            similarity = layer.predict_similarity(inputs[0]).float().cpu()
            entry: dict[str, Any] = {"layer": name}
            axes = (0, similarity.dim() - 2, similarity.dim() - 1)
            mean = similarity.mean(axes)  # of one position there is no deviation
            std = similarity.std(axes) if similarity.numel() > mean.numel() else torch.zeros_like(mean)
            if similarity.dim() == 4:
                mean, std = mean.view(layer.kernel_size), std.view(layer.kernel_size)
            entry["mean"], entry["std"] = _rounded(mean), _rounded(std)
            if not dynamic:
                first = similarity[0]
                maps = first if first.dim() == 3 else torch.diagonal(first, dim1=0, dim2=1).movedim(-1, 0)
                entry["maps"] = _rounded(maps, 2)
            dynamic.append(entry | shape_of(layer))

        return hook

    for name, module in model.named_modules():
        if isinstance(module, NSConv2d):
            static.append(
                {"layer": name, "M": _rounded(module.similarity_matrix().cpu())} | shape_of(module)
            )
        elif isinstance(module, DynamicNSConv2d):
            hooks.append(module.register_forward_hook(record(name, module)))
        elif callable(getattr(module, "observed", None)):
            hooks.append(module.register_forward_hook(describe(name, module)))
    observations: dict[str, Any] = {}
    if static:
        observations["static"] = static
    if hooks:
        images = centre_crop(dataset.test_images[:SAMPLE], dataset.crop_size).to(device)
        try:
            with evaluating(model):
                model(normalise(images, dataset.mean, dataset.std, channels_last=True))
        finally:
            for hook in hooks:
                hook.remove()
        if dynamic:
            observations["dynamic"] = dynamic
        if other:
            observations["other"] = other
        observations["image"] = centre_crop(dataset.test_images[:1], dataset.crop_size)[0].tolist()
    return observations
