"""The trainings of the notebook on converting a network: plain digits, and the same lying on their side."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import nn

import nsl
import nsl.data
from nsl.data.augment import normalise
from nsl.data.dataset import Dataset
from nsl.training import Execution, Recipe, evaluate, train

#: The same for the pretraining and for every adaptation.
RECIPE = Recipe(
    iterations=150, batch_size=64, learning_rate=0.1, schedule="linear", warmup=0.1, classifier_rate=0.05,
    augment="crop", evaluations=1,
)  # fmt: skip


def digits() -> Dataset:
    """The handwritten digits at 16x16 pixels."""
    return nsl.data.load("digits", image_size=16)


def turned(dataset: Dataset) -> Dataset:
    """The same images turned by a right angle."""
    return replace(
        dataset,
        train_images=dataset.train_images.rot90(1, (2, 3)).contiguous(),
        test_images=dataset.test_images.rot90(1, (2, 3)).contiguous(),
    )


def fit(model: nn.Module, dataset: Dataset) -> nn.Module:
    """Train what is trainable in place; returns the model in evaluation mode."""
    train(model, dataset, RECIPE, seed=0, execution=Execution(device="cpu", progress=False))
    return model.eval()


def pretrained() -> nn.Module:
    """A plain CNN-9 of width 8 trained on the digits."""
    torch.manual_seed(0)
    return fit(nsl.create_model("cnn9", 10, width=8, image_size=16), digits())


def averages_only(model: nn.Module, dataset: Dataset) -> nn.Module:
    """A copy whose batch norms have seen the data once and nothing else has changed."""
    model = copy.deepcopy(model).train()
    with torch.no_grad():
        for part in dataset.train_images.split(RECIPE.batch_size):
            model(normalise(part, dataset.mean, dataset.std))
    return model.eval()


def test_error(model: nn.Module, dataset: Dataset) -> float:
    """Percent."""
    return evaluate(model, dataset).error


def trainable(model: nn.Module) -> int:
    """Number of scalars that are not frozen."""
    return nsl.count_parameters(model)
