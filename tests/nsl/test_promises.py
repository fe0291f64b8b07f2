"""What docstrings promise of training and data, tried with what users give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import nsl
from nsl.data import DataError, EpisodeSampler, centre_crop, crop_flip, make_dataset, resized_crop, window_flip
from nsl.fewshot import Settings
from nsl.fewshot import evaluate as evaluate_episodes
from nsl.training import Execution, Recipe, evaluate, load_checkpoint, save_checkpoint, train
from nsl.training.batches import DeviceBatches
from nsl.training.observe import observe
from tests.nsl.fewshot.toy import method, toy

IMAGES = torch.randint(0, 256, (50, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(50) % 7
DATA = make_dataset("seven", IMAGES, LABELS, IMAGES[:16], LABELS[:16], list("abcdefg"))
CPU: dict[str, Any] = {"device": "cpu", "progress": False}


def small(classes: int = 7) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, classes))


def recipe(**changes: Any) -> Recipe:
    return Recipe(**{"iterations": 3, "batch_size": 16, "evaluations": 1, "augment": "none", **changes})


def test_a_training_told_in_numbers_of_numpy_goes_on(tmp_path: Path) -> None:
    """Its checkpoint was called damaged, with the advice to delete it."""
    moments = (tuple(np.full(3, 0.5)), tuple(np.full(3, 0.25)))
    told = {"learning_rate": np.float64(0.1), "iterations": np.int64(3), "milestones": (np.float32(0.5),)}
    results = [
        train(
            small(),
            replace(DATA, moments=moments),
            recipe(**told),
            seed=np.int64(1),  # type: ignore[arg-type]
            execution=Execution(**CPU, checkpoint=tmp_path / "run.pt", keep_last=True),
        )
        for _ in range(2)
    ]
    assert results[0].test_loss == results[1].test_loss
    assert type(recipe(**told).learning_rate) is float
    assert type(recipe(**told).iterations) is int


@pytest.mark.parametrize("classes", [3, 5])
def test_a_network_of_fewer_classes_than_the_data_is_not_evaluated(classes: int) -> None:
    """Of five classes the right one is always among the first five."""
    few = classes > LABELS
    data = make_dataset("seven", IMAGES, LABELS, IMAGES[few][:8], LABELS[few][:8], list("abcdefg"))
    with pytest.raises(ValueError, match=r"the network must give logits \[8, 7\]"):
        evaluate(small(classes), data)


def test_a_network_without_parameters_is_evaluated_and_observed() -> None:
    class Constant(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.eye(7)[torch.zeros(len(images), dtype=torch.int64)]

    assert evaluate(Constant(), DATA).error == 100 * float((DATA.test_labels != 0).double().mean())
    assert observe(Constant(), DATA) == {}


def test_the_deviation_of_one_position_is_zero() -> None:
    one = make_dataset("one", IMAGES[:, :, :1, :1], LABELS, IMAGES[:1, :, :1, :1], LABELS[:1], list("abcdefg"))
    network = nn.Sequential(nsl.DynamicNSConv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4, 7))
    assert observe(network, one)["dynamic"][0]["std"] == [[0.0] * 3] * 3


@pytest.mark.parametrize("size", [12, 0, -1])
def test_a_crop_that_is_no_part_of_the_image_is_refused(size: int) -> None:
    images = torch.zeros(2, 3, 9, 13, dtype=torch.uint8)
    with pytest.raises(ValueError, match=rf"a crop of {size} x {size} cannot be cut out"):
        centre_crop(images, size)


@pytest.mark.parametrize("own", [range(0, 8, 2), range(10, 40), range(-2, 4)])
def test_own_images_are_a_run_within_the_batch(own: range) -> None:
    with pytest.raises(ValueError, match="own must be a run of places within the batch of 16 images"):
        DeviceBatches(IMAGES, LABELS, recipe(), 0, own=own)


def test_a_changed_episode_changes_no_other() -> None:
    sampler = EpisodeSampler(LABELS, np.int64(5), 2, 3, 4, seed=np.int64(3))  # type: ignore[arg-type]
    first = sampler[0].support_labels.clone()
    sampler[0].support_labels.add_(1)
    assert torch.equal(sampler[1].support_labels, first)
    with pytest.raises(ValueError, match=r"seed must be a whole number of at least 0, got 1\.5"):
        EpisodeSampler(LABELS, 5, 2, 3, 4, seed=1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="class 0 has 8 images, an episode takes 12"):
        EpisodeSampler(LABELS, 5, 2, 10, 4, class_names=[])


def test_no_image_is_augmented_to_no_image() -> None:
    none, random = IMAGES[:0], torch.Generator()
    found = [crop_flip(none, random), window_flip(none, random, 5), resized_crop(none, random, 6)]
    assert [list(part.shape) for part in found] == [[0, 3, 8, 8], [0, 3, 5, 5], [0, 3, 6, 6]]


def test_what_is_no_tensor_of_images_is_refused() -> None:
    with pytest.raises(ValueError, match="takes a tensor of uint8 images, got ndarray"):
        resized_crop(IMAGES.numpy(), torch.Generator())  # type: ignore[arg-type]
    with pytest.raises(DataError, match="the test split has no images"):
        make_dataset("none", IMAGES, LABELS, IMAGES[:0], LABELS[:0], list("abcdefg"))


def test_a_network_with_volumes_trains() -> None:
    network = nn.Sequential(nn.Unflatten(1, (3, 1)), nsl.NSConv3d(3, 4, 1), nn.Flatten(), nn.Linear(256, 7))
    assert not train(network, DATA, recipe(), seed=0, execution=Execution(**CPU)).diverged
    mixed = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), network)
    train(mixed, DATA, recipe(), seed=0, execution=Execution(**CPU))
    assert mixed[0].weight.is_contiguous(memory_format=torch.channels_last)


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"execution": Execution(**CPU, sync_batch_norm=True)}, ValueError, "sync_batch_norm needs CUDA"),
    ({"execution": 3}, TypeError, "execution must be a Execution, got int"),
    ({"model": 3}, TypeError, "model must be a Module, got int"),
    ({"model": nn.Sequential(nn.Flatten(), nn.LazyLinear(7))}, ValueError, r"the network's 1\.weight has no shape yet"),
]


@pytest.mark.parametrize(("changed", "kind", "message"), WRONG)
def test_wrong_arguments_of_a_training_are_one_sentence(
    changed: dict[str, Any], kind: type[Exception], message: str
) -> None:
    arguments = {"model": small(), "dataset": DATA, "recipe": recipe(), "execution": Execution(**CPU)} | changed
    with pytest.raises(kind, match=message):
        train(seed=0, **arguments)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"accumulate": 2.0}, "execution: accumulate must be a whole number of at least 1"),
        ({"checkpoint_minutes": "5"}, "execution: checkpoint_minutes must be a finite number"),
    ],
)
def test_a_wrong_execution_is_one_sentence(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Execution(**changed)


def test_a_device_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"device must be 'auto' or one of PyTorch's.* got 'gpu'"):
        train(small(), DATA, recipe(), seed=0, execution=Execution(device="gpu", progress=False))
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device 'cuda' was asked for, and PyTorch finds no CUDA here"):
            train(small(), DATA, recipe(), seed=0, execution=Execution(device="cuda", progress=False))


def test_checkpoints_are_named_by_texts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save_checkpoint("~/run.pt", {"a": 1})
    assert load_checkpoint("~/run.pt")["a"] == load_checkpoint(str(tmp_path / "run.pt"))["a"] == 1


def test_few_shot_learning_says_what_it_takes() -> None:
    data, found = toy(), method("proto")
    with pytest.raises(TypeError, match="validation must be images of classes"):
        found.fit(data.base, None, data)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="place must be a Place"):
        found.fit(data.base, Path("run.pt"))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"evaluate takes the images of classes, as data\.novel, got FewShotData"):
        evaluate_episodes(found, data, 1, 1, 1, 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="settings: pretrain must be a Recipe, got NoneType"):
        Settings(image_size=16, pretrain=None)  # type: ignore[arg-type]


def test_a_network_that_has_learned_nothing_is_told() -> None:
    """A classifier torn away in the first steps gives every image the same logits, and no number is infinite."""
    torch.manual_seed(0)
    network = nsl.create_model("cnn9", 7, width=4, image_size=8)
    nn.init.zeros_(network.classifier.weight)
    network.classifier.requires_grad_(False)
    with pytest.warns(UserWarning, match=r"has learned next to nothing: its loss is 1\.95, that of guessing"):
        train(network, DATA, recipe(iterations=50), seed=0, execution=Execution(**CPU))
