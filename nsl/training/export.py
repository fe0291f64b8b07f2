"""A trained network in one file: weights and what they are, in safetensors, which holds no code.

    save_model(path, model, "nsn9_dynamic_diagonal", {"width": 32}, dataset, result)
    model, about = load_model(path)
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nsl.data.dataset import Dataset
from nsl.models.registry import create_model, shapes_built, without_memory
from nsl.outputs import check_regular, replacing

FORMAT = "nsl-1"
#: The fact that tells which names are the same tensors.
SHARED = "shared"


class ExportError(ValueError):
    """A file of weights cannot be used; the sentence names the file and what to do."""


def _library() -> Any:
    try:
        import safetensors.torch
    except ImportError:
        advice = "run `make env`, or install the extra [export]"
        raise ExportError(f"Exported networks need safetensors, which is not installed; {advice}.") from None
    return safetensors


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of names, types, shapes and bytes of the tensors, and of what is said of them."""
    total = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def save_model(
    path: str | os.PathLike[str],
    model: nn.Module,
    name: str,
    options: dict[str, Any],
    dataset: Dataset,
    training: dict[str, Any] | None = None,
) -> None:
    """Write a network under a temporary name, then rename.

    Args:
        path: usually ends in .safetensors.
        model: made by `create_model(name, dataset.num_classes, image_size=dataset.image_size, **options)`.
        name, options: as for `nsl.create_model`.
        dataset: what it was trained on: classes, size, mean and std go into the file.
        training: JSON-ready facts to keep, such as recipe, seed and result.

    Raises:
        ValueError: the network is not what `create_model` makes of name and options, as a folded or compiled one is
            not, or the options cannot be written down.
    """
    _check_named(model, name, options, dataset)
    about = {
        "model": {"name": name, "options": options, "parameters": sum(p.numel() for p in model.parameters())},
        "data": {
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "class_names": list(dataset.class_names),
            "image_size": dataset.image_size,
            "mean": list(dataset.mean),
            "std": list(dataset.std),
        },
        "training": training or {},
    }
    write_tensors(path, model.state_dict(), about)


def _check_named(model: nn.Module, name: str, options: dict[str, Any], dataset: Dataset) -> None:
    """Refuse a network that a reader of the file would not get back: it is built again from name and options."""
    try:
        json.dumps(options)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"options {options!r} cannot be written into a file ({error}); name structures by their names"
        ) from None
    made = without_memory(
        lambda: create_model(name, dataset.num_classes, image_size=dataset.image_size, **options),
        f"model {name!r} cannot be built with {options}: ",
    )
    shapes = {key: value.shape for key, value in made.state_dict().items()}
    if reason := _differing(model.state_dict(), shapes, "that one"):
        raise ValueError(
            f"the network is not {name!r} with options {options} ({reason}); save it before it is folded, wrapped or "
            "compiled, with all options it was made with"
        )
    # Batch norm that processes share is what batch norm is to a reader.
    said = [repr(network).replace("SyncBatchNorm", "BatchNorm2d") for network in (model, made)]
    if said[0] != said[1]:
        lines = zip(*(text.splitlines() for text in said))
        here, there = next(((a.strip(), b.strip()) for a, b in lines if a != b), ("longer", "shorter"))
        raise ValueError(
            f"the network is not {name!r} with options {options}, which has {there!r} where it has {here!r}; give all "
            "options it was made with"
        )


def _repeated(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Names of tensors that are another one's memory, to the first name of it: modules that layers share."""
    first: dict[tuple[Any, ...], str] = {}
    shared = {}
    for name, tensor in tensors.items():
        if tensor.numel():
            place = (tensor.data_ptr(), tensor.device, tensor.dtype, tuple(tensor.shape), tensor.stride())
            if first.setdefault(place, name) != name:
                shared[name] = first[place]
    return shared


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors and JSON-ready facts of them with a check sum, under a temporary name, then rename.

    What several names share is written once.

    Raises:
        OSError: it cannot be written, because the disk is full for example.
    """
    shared = _repeated(tensors)
    # Contiguous copies: safetensors refuses tensors that share memory.
    kept = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items() if key not in shared}
    facts = {**about, SHARED: shared} if shared else about
    metadata = {"format": FORMAT, **{key: json.dumps(value, sort_keys=True) for key, value in facts.items()}}
    metadata["checksum"] = _checksum(kept, metadata)
    with replacing(path) as temporary:
        # Not `save_file`, whose error on a full disk is no OSError.
        temporary.write_bytes(_library().torch.save(kept, metadata))


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write_tensors` was given.

    Raises:
        FileNotFoundError: there is no such file.
        ExportError: it is damaged, or not one of ours.
    """
    path = Path(path).expanduser()
    check_regular(path, "the exported network")
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; name a file that `python -m nsl.train --export` wrote.")
    library = _library()
    try:
        with library.safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
        tensors = library.torch.load_file(path)
    except (library.SafetensorError, OSError, ValueError) as error:
        raise ExportError(f"{path} is not a readable safetensors file ({error}); export the network again.") from None
    if metadata.get("format") != FORMAT:
        raise ExportError(f"{path} has no description of a network of this package; export it again.")
    if metadata.pop("checksum", None) != _checksum(tensors, metadata):
        raise ExportError(f"{path} does not match its check sum, so it has been damaged; export the network again.")
    try:
        about = {key: json.loads(value) for key, value in metadata.items() if key != "format"}
        return tensors | {name: tensors[of] for name, of in about.pop(SHARED, {}).items()}, about
    except (ValueError, RecursionError, KeyError, AttributeError, TypeError):
        raise _nameless(path) from None


def _nameless(path: Path) -> ExportError:
    return ExportError(f"{path} does not say of what network and data it is; export the network again.")


def moments_of(path: Path, about: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation a channel, in units of 0..1, out of a file's facts.

    Raises:
        ExportError: they are not three finite numbers each.
    """
    try:
        mean, std = tuple(about["data"]["mean"]), tuple(about["data"]["std"])
        sound = all(type(value) in (int, float) and math.isfinite(value) for value in mean + std)
    except (KeyError, TypeError):
        sound = False
    if not sound or [len(mean), len(std)] != [3, 3]:
        raise _nameless(path)
    return mean, std


def _check_description(path: Path, about: Mapping[str, Any]) -> None:
    """Whether a file's facts have the form that `save_model` writes.

    Raises:
        ExportError: they have another one.
    """
    moments_of(path, about)
    try:
        wanted, data = about["model"], about["data"]
        names = data["class_names"]
        sound = (
            all(isinstance(part, dict) for part in (wanted, wanted["options"], data))
            and all(isinstance(text, str) for text in (wanted["name"], data["name"], *names))
            and isinstance(names, list)
            and type(data["image_size"]) is int
        )
    except (KeyError, TypeError):
        sound = False
    if not sound:
        raise _nameless(path)


def check_shapes(path: Path, tensors: Mapping[str, Tensor], build: Callable[[], Mapping[str, Tensor]]) -> None:
    """Refuse tensors that do not fit those that `build` would make, before memory is spent.

    Raises:
        ExportError: names or shapes differ (the sentence names the first), or there is no such network.
    """
    try:
        wanted = shapes_built(build)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise ExportError(f"{path} describes a network that cannot be built ({reason}); export it again.") from None
    if reason := _differing(tensors, wanted, "the network"):
        raise ExportError(f"{path} does not fit the network that it names ({reason}); export it again.")


def _differing(tensors: Mapping[str, Tensor], wanted: Mapping[str, torch.Size], where: str) -> str:
    """The first name that tensors and wanted shapes have not alike, with both, in words; empty where there is none."""
    for name in sorted(wanted.keys() | tensors.keys()):
        found = tensors[name].shape if name in tensors else None
        if wanted.get(name) != found:
            here, there = ("missing" if shape is None else tuple(shape) for shape in (found, wanted.get(name)))
            return f"{name} is {here} in it and {there} in {where}"
    return ""


def load_model(path: str | os.PathLike[str]) -> tuple[nn.Module, dict[str, Any]]:
    """The network in `path`, in evaluation mode, and what `save_model` was told of it.

    Returns:
        The module, from images normalised with about["data"]["mean"] and ["std"] to logits, and about, with the keys
        model, data and training.

    Raises:
        FileNotFoundError: there is no such file.
        ExportError: it is damaged, or not one of ours, or does not fit the network that it names.
    """
    return network_of(Path(path), *read_tensors(path))


def is_few_shot(about: Mapping[str, Any]) -> bool:
    """Whether a file's facts are those of a few-shot method, which `nsl.fewshot.export` writes."""
    return isinstance(about.get("model"), dict) and "few_shot" in about["model"]


def network_of(path: Path, tensors: Mapping[str, Tensor], about: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """`load_model` of a file that `read_tensors` has read."""
    if is_few_shot(about):
        raise ExportError(f"{path} holds a few-shot method; read it with nsl.load or nsl.fewshot.export.load_method.")
    _check_description(path, about)
    wanted, data = about["model"], about["data"]

    def build() -> nn.Module:
        options = {"image_size": data["image_size"], **wanted["options"]}
        return create_model(wanted["name"], len(data["class_names"]), **options)

    check_shapes(path, tensors, lambda: build().state_dict())
    with torch.random.fork_rng(devices=[]):
        model = build()
    model.load_state_dict(tensors)
    return model.eval(), about
