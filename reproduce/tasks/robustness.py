"""Adversarial robustness: a classifier trained as in Table 4, then attacked (paper 2, of decoupled operators).

Sources: Goodfellow, Shlens, Szegedy, Explaining and Harnessing Adversarial Examples, ICLR 2015 (FGSM); Madry et al.,
Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018 (PGD with a random start).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from reproduce.tasks.classification import Classification
from reproduce.tasks.task import Task
from reproduce.verdicts.metrics import Metric, Record, tested_images

if TYPE_CHECKING:
    from nsl.data import Dataset
    from reproduce.declare.experiments import Method
    from reproduce.declare.runs import Run


def attacks(record: Record) -> int:
    """Attacked images, each counted once a radius."""
    attack = record["config"]["recipe"]["attack"]
    return int(attack["images"]) * len(attack["radii"])


PGD_ERROR = Metric("pgd_error", "error under PGD", False, 1.0, tested=attacks)
FGSM_ERROR = Metric("fgsm_error", "error under FGSM", False, 1.0, mark="fgsm", tested=attacks)
CLEAN_ERROR = Metric("test_error", "test error", False, 1.0, mark="clean", tested=tested_images)

#: Largest change of a pixel, in 255ths; the metrics are means over these radii. PGD takes `steps` steps of radius / 4.
#: Attacked are the first `images` test images.
ATTACK = {"radii": [1, 2, 4, 8], "steps": 10, "images": 200}
BATCH = 100
#: Attacked in a rehearsal.
SHORT_IMAGES = 10


class Robustness(Classification):
    """A classification whose network is attacked after its training."""

    name = "robustness"
    metric = PGD_ERROR
    more_metrics = (FGSM_ERROR, CLEAN_ERROR)

    def recipe(self, method: Method, declared: dict[str, Any]) -> dict[str, Any]:
        return {**declared, "attack": dict(ATTACK)}

    def shortened(self, run: Run, steps: int) -> Run:
        short = super().shortened(run, steps)
        return replace(short, recipe=short.recipe | {"attack": short.recipe["attack"] | {"images": SHORT_IMAGES}})

    def schedule(self, run: Run) -> dict[str, Any]:
        return {name: value for name, value in run.recipe.items() if name != "attack"}

    def examined(self, run: Run, model: Any, dataset: Dataset) -> tuple[dict[str, Any], dict[str, Any]]:
        return attacked(model, dataset, run.recipe["attack"], run.seed), {}

    columns = Task.columns


def attacked(model: Any, dataset: Dataset, attack: dict[str, Any], seed: int) -> dict[str, Any]:
    """Errors in percent of a trained classifier under attack, float32, in evaluation mode.

    Returns:
        attack: {"fgsm", "pgd": one error a radius, "clean": without attack}, and fgsm_error and pgd_error, their means.
    """
    import torch
    import torch.nn.functional as F

    model.eval()
    device = next(model.parameters()).device
    mean = torch.tensor(dataset.mean, device=device).view(3, 1, 1)
    std = torch.tensor(dataset.std, device=device).view(3, 1, 1)
    count = min(int(attack["images"]), len(dataset.test_images))
    random = torch.Generator().manual_seed(seed)

    def logits(pixels: Any) -> Any:
        return model(((pixels - mean) / std).contiguous(memory_format=torch.channels_last)).float()

    def uphill(pixels: Any, labels: Any) -> Any:
        pixels = pixels.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits(pixels), labels, reduction="sum"), pixels)
        return gradient.sign()

    def wrong(pixels: Any, labels: Any) -> int:
        with torch.no_grad():
            return int((logits(pixels).argmax(1) != labels).sum())

    radii = [float(radius) / 255 for radius in attack["radii"]]
    counts: dict[str, list[int]] = {"fgsm": [0] * len(radii), "pgd": [0] * len(radii), "clean": [0]}
    for start in range(0, count, BATCH):
        stop = min(start + BATCH, count)
        clean = dataset.test_images[start:stop].to(device).float() / 255
        labels = dataset.test_labels[start:stop].to(device)
        counts["clean"][0] += wrong(clean, labels)
        direction = uphill(clean, labels)
        for place, radius in enumerate(radii):
            counts["fgsm"][place] += wrong((clean + radius * direction).clamp(0, 1), labels)
            offset = (2 * torch.rand(clean.shape, generator=random) - 1).to(device) * radius
            moved = (clean + offset).clamp(0, 1)
            for _ in range(int(attack["steps"])):
                moved = moved + radius / 4 * uphill(moved, labels)
                moved = torch.minimum(torch.maximum(moved, clean - radius), clean + radius).clamp(0, 1)
            counts["pgd"][place] += wrong(moved, labels)
    errors = {name: [100 * value / count for value in values] for name, values in counts.items()}
    means = {f"{name}_error": sum(errors[name]) / len(radii) for name in ("fgsm", "pgd")}
    return {"attack": {"radii": attack["radii"], **errors}, **means}


TASK = Robustness()
