"""A fitted few-shot method in one file of safetensors, as `nsl.training.export` has trained networks.

    save_method(path, method, facts)
    method, about = load_method(path)
    method.adapt(method.represent(support), labels)
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from nsl.fewshot import create_method
from nsl.fewshot.method import FewShotMethod
from nsl.fewshot.settings import MetaRecipe, Settings
from nsl.training.export import ExportError, check_shapes, read_tensors, write_tensors
from nsl.training.schedule import Recipe


def save_method(path: Path, method: FewShotMethod, training: dict[str, Any] | None = None) -> None:
    """Write a fitted method under a temporary name, then rename.

    Args:
        path: usually ends in .safetensors.
        method: after `fit`.
        training: JSON-ready facts to keep, such as data, recipe and result.

    Raises:
        ValueError: the method has not been fitted.
    """
    if method.moments is None:
        raise ValueError(f"{method.name}: call fit before save_method.")
    settings = asdict(method.settings) | {"pretrain": method.settings.pretrain.as_dict()}
    del settings["device"]
    mean, std = method.moments
    about = {
        "model": {"few_shot": method.name, "settings": settings, "options": method.options},
        "data": {"image_size": method.settings.image_size, "mean": list(mean), "std": list(std)},
        "training": training or {},
    }
    write_tensors(path, method.trained_tensors(), about)


def load_method(path: Path, device: str = "cpu") -> tuple[FewShotMethod, dict[str, Any]]:
    """The method in `path`, fitted, and what `save_method` was told of it.

    Args:
        path: the file.
        device: where it computes, as in `Settings`.

    Raises:
        FileNotFoundError: there is no such file.
        ExportError: it is damaged, holds a network instead, or does not fit the method that it names.
    """
    tensors, about = read_tensors(path)
    wanted, data = about.get("model", {}), about.get("data", {})
    if "few_shot" not in wanted:
        raise ExportError(f"{path} holds a network and no few-shot method; read it with nsl.load.")

    def build(where: str) -> FewShotMethod:
        known = dict(wanted["settings"])
        pretrain, meta = Recipe(**known.pop("pretrain")), MetaRecipe(**known.pop("meta"))
        settings = Settings(**known, pretrain=pretrain, meta=meta, device=where)
        return create_method(wanted["few_shot"], settings, **wanted["options"])

    check_shapes(path, tensors, lambda: build("meta").trained_tensors())
    method = build(device)
    method.restore(tensors, (tuple(data["mean"]), tuple(data["std"])))
    return method, about
