"""The layers of the notebook on the paper's Figures 1 to 3: trained for a moment, and which predictors serve which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

import nsl
from nsl.data.augment import normalise
from nsl.data.dataset import Dataset

L = TypeVar("L", bound=nn.Module)


def train_briefly(layer: L, digits: Dataset, steps: int = 60) -> L:
    """Train ``layer`` (3 to 8 channels) in front of a linear classifier, and return it in evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(layer, nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(128, 10))
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for _ in range(steps):
        chosen = torch.randint(len(digits.train_images), (64,), generator=generator)
        inputs = normalise(digits.train_images[chosen], digits.mean, digits.std)
        loss = nn.functional.cross_entropy(network(inputs), digits.train_labels[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return layer.eval()


@dataclass(frozen=True)
class Ownership:
    """Which predictor serves which dynamic layer of NSN-9.

    Attributes:
        layers: names. own: trainable numbers that only this layer uses. shared: 0 where it uses others too, else -1.
        common: the trainable numbers that layers share. total: of all predictors.
    """

    layers: list[str]
    own: list[int]
    shared: list[int]
    common: int
    total: int


def ownership(sharing: str) -> Ownership:
    """Counted on the network of width 32; ``sharing`` is "disjoint" or "shared"."""
    model = nsl.create_model("nsn9_dynamic_diagonal", 10, sharing=sharing)
    layers = [module for module in model.modules() if isinstance(module, nsl.DynamicNSConv2d)]
    users: dict[int, int] = {}
    for layer in layers:
        for parameter in layer.predictor.parameters():
            users[id(parameter)] = users.get(id(parameter), 0) + 1
    own = [sum(p.numel() for p in layer.predictor.parameters() if users[id(p)] == 1) for layer in layers]
    shared = [0 if any(users[id(p)] > 1 for p in layer.predictor.parameters()) else -1 for layer in layers]
    names = [f"conv {number + 1}: {layer.in_channels} channels" for number, layer in enumerate(layers)]
    total = nsl.count_parameters(model) - nsl.count_parameters(nsl.create_model("cnn9", 10))
    return Ownership(names, own, shared, total - sum(own), total)
