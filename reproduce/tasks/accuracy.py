"""What Table 6 measures, episode by episode, and which training on the base classes its runs share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reproduce.run.files import digest
from reproduce.verdicts.metrics import Metric


def episode_accuracies(record: Mapping[str, Any]) -> list[float]:
    """Accuracy of every test episode of a record, in percent."""
    result = record["result"]
    return [100.0 * right / result["queries"] for right in result["right"]]


def base_training(config: Mapping[str, Any]) -> str | None:
    """A digest of what determines the training on the base classes that a run starts from; None where it has none.

    Runs of one digest start from one training (`identity` of the methods in `nsl.fewshot` decides which): a static
    similarity folds away, so only a dynamic one counts, with its predictor, and so does a classifier of the base
    classes that is a method's own.
    """
    from nsl.fewshot import METHODS
    from nsl.fewshot.finetune import Finetune

    if "pretrain" not in config["recipe"]:
        return None
    method = METHODS[config["model"]["name"]]
    options = method.defaults() | config["model"]
    named = ["backbone", "width"]
    if method.kind == "dynamic":
        named += ["similarity", "predictor", "predictor_options"]
    classifier = getattr(method, "classifier", Finetune.classifier)
    if classifier is not Finetune.classifier:
        named.append("scale")
    parts = {name: options.get(name) for name in named}
    own = {key: config[key] for key in ("seed", "dataset")}
    return digest([parts, classifier.__qualname__, own, config["recipe"]["pretrain"]])


def start(record: Mapping[str, Any]) -> tuple[str, str] | None:
    """Which training on the base classes a record starts from, and a digest of that training's curve."""
    curve, key = record["result"].get("curves", {}).get("pretrain"), base_training(record["config"])
    return None if curve is None or key is None else (key, digest(curve))


#: The margin is that of the other tables: less than the smallest difference that Table 6 calls an advantage (0.42,
#: static NSN over RelationNet), and than the paper's interval.
ACCURACY = Metric("accuracy", "accuracy", True, 0.25, episodes=episode_accuracies, start=start)
