"""Distance metric learning: one nearest neighbour under x^T M y, M = L L^T, before and after learning M (paper 3.1)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.tasks.task import Outcome, Task
from reproduce.verdicts.metrics import Metric, tested_images

if TYPE_CHECKING:
    from nsl.data import Dataset
    from reproduce.declare.runs import Run
    from reproduce.declare.shapes import Shape

ERROR = Metric("test_error", "1-NN error", False, 1.0, tested=tested_images)


class MetricLearning(Task):
    """The nearest training image's class, in a metric that is Euclidean or learned by neighbourhood components."""

    name = "metric"
    metric = ERROR
    on_gpu = False

    def model(self, method: Any, options: dict[str, Any]) -> dict[str, Any]:
        return {"name": method.model, **{name: value for name, value in options.items() if name != "width"}}

    def train(self, run: Run, dataset: Dataset, checkpoint: Path, minutes: float, progress: bool) -> Outcome:
        """Images as vectors of grey values, standardised by one mean and one deviation."""
        import torch

        from nsl.layers.mahalanobis import Mahalanobis, neighbourhood_loss
        from nsl.training import save_checkpoint

        def vectors(images: Any) -> Any:
            return images.float().mean(1).flatten(1)

        train, test = vectors(dataset.train_images), vectors(dataset.test_images)
        centre, scale = train.mean(), train.std() * train.shape[1] ** 0.5
        train, test = (train - centre) / scale, (test - centre) / scale
        torch.manual_seed(run.seed)
        metric = Mahalanobis(train.shape[1], run.model.get("rank"))

        def measure(model: Any) -> dict[str, float]:
            nearest = torch.cat([model.squared_distance(part, train).argmin(1) for part in test.split(500)])
            wrong = (dataset.train_labels[nearest] != dataset.test_labels).float().mean()
            return {"test_error": 100 * float(wrong)}

        if run.model["name"] == "euclidean":
            found = measure(metric)
            save_checkpoint(checkpoint, {"identity": "nothing is trained"})
            result: dict[str, Any] = {**found, "curve": [], "diverged": False, "train_seconds": 0.0}
            return Outcome(result, 0, {})

        def loss(model: Any, chosen: Any, _step: int) -> Any:
            return neighbourhood_loss(model, train[chosen], dataset.train_labels[chosen])

        keeping: Any = {"checkpoint": checkpoint, "minutes": minutes, "progress": progress}
        result = self.fitted(run, dataset, metric, loss, measure, len(train), **keeping)
        eigenvalues = torch.linalg.eigvalsh(metric.matrix().detach().double()).flip(0)
        observations = {"eigenvalues": [round(float(value), 4) for value in eigenvalues]}
        return Outcome(result, metric.factor.numel(), observations)

    def network(self, run: Run, sizes: Shape) -> Any:
        """The linear map L, which is what a distance costs beside the Euclidean one, as a classifier for the clock."""
        from torch import nn

        features = sizes.image_size**2
        rank = int(run.model.get("rank", features))

        class Mapped(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.factor = nn.Linear(features, rank, bias=False)

            def forward(self, images: Any) -> Any:
                return self.factor(images.mean(1).flatten(1))[:, :1].expand(-1, sizes.classes)

        return Mapped()


TASK = MetricLearning()
