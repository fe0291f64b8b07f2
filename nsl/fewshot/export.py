"""A fitted few-shot method in one file of safetensors, as `nsl.training.export` has trained networks.

    save_method(path, method, facts)
    method, about = load_method(path)
    logits = method.adapt(method.represent(support), labels).predict(method.represent(query))
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from nsl.fewshot import create_method
from nsl.fewshot.method import FewShotMethod
from nsl.fewshot.settings import MetaRecipe, Settings
from nsl.training.export import ExportError, check_shapes, is_few_shot, moments_of, read_tensors, write_tensors
from nsl.training.schedule import Recipe


def save_method(path: Path, method: FewShotMethod, training: dict[str, Any] | None = None) -> None:
    """Write a fitted method under a temporary name, then rename.

    Args:
        path: usually ends in .safetensors.
        method: after `fit`.
        training: JSON-ready facts to keep, such as data, recipe and result.

    Raises:
        ValueError: the method has not been fitted, or an option was changed since it was made: the file holds the
            options, so that it would be another method's.
    """
    method.check_fitted("save_method")
    _check_unchanged(method)
    assert method.moments is not None
    mean, std = method.moments
    about = {
        "model": {"few_shot": method.name, "settings": method.settings.as_dict(), "options": method.options},
        "data": {"image_size": method.settings.image_size, "mean": list(mean), "std": list(std)},
        "training": training or {},
    }
    write_tensors(path, method.trained_tensors(), about)


def _check_unchanged(method: FewShotMethod) -> None:
    """Refuse an attribute of an option's name that is not what the option makes of it."""
    settings = replace(method.settings, device="meta")
    fresh = create_method(method.name, settings, **method.options)
    for name, given in method.options.items():
        if given is None:  # left to the method, which may find out while it is fitted
            continue
        made, now = getattr(fresh, name, None), getattr(method, name, None)
        if isinstance(made, str | int | float) and made != now:
            raise ValueError(
                f"{method.name}: {name} is {now!r} and was made as {made!r}, which is what a file would say; make the "
                f"method with {name}={now!r}."
            )


def load_method(path: Path, device: str = "cpu") -> tuple[FewShotMethod, dict[str, Any]]:
    """The method in `path`, fitted, and what `save_method` was told of it.

    Args:
        path: the file.
        device: where it computes, as in `Settings`.

    Raises:
        FileNotFoundError: there is no such file.
        ExportError: it is damaged, holds a network instead, or does not fit the method that it names.
    """
    return method_of(path, *read_tensors(path), device)


def method_of(
    path: Path, tensors: dict[str, Tensor], about: dict[str, Any], device: str = "cpu"
) -> tuple[FewShotMethod, dict[str, Any]]:
    """`load_method` of a file that `nsl.training.export.read_tensors` has read."""
    if not is_few_shot(about):
        raise ExportError(f"{path} holds a network and no few-shot method; read it with nsl.load.")
    wanted, moments = about["model"], moments_of(path, about)

    def build(where: str) -> FewShotMethod:
        known = dict(wanted["settings"])
        pretrain, meta = Recipe(**known.pop("pretrain")), MetaRecipe(**known.pop("meta"))
        settings = Settings(**known, pretrain=pretrain, meta=meta, device=where)
        return create_method(wanted["few_shot"], settings, **wanted["options"])

    check_shapes(path, tensors, lambda: build("meta").trained_tensors())
    method = build(device)
    method.restore(tensors, moments)
    return method, about
