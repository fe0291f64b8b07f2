"""From a name to its data: the catalogue's loader, called with checked options."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

from nsl.data.catalogue import CATALOGUE, names
from nsl.data.dataset import DataError
from nsl.data.root import data_root
from nsl.numbers import is_whole, plain

#: Options that may be None, which means that they are not given.
_OPTIONAL = ("train_per_class", "test_per_class", "images_per_class", "validation")


def load_entry(
    kind: str,
    name: str,
    options: dict[str, Any],
    root: str | os.PathLike[str] | None = None,
    download: bool = False,
    hold_out: Callable[[Any, int], Any] | None = None,
) -> Any:
    """What the loader of the set `name` of this kind returns.

    Where `hold_out` is given, it and not the loader takes the option `validation`, with the whole set.

    Raises:
        DataError: unknown name or option, an option's value of another type than its own (`plain` is True or False,
            the others are whole numbers), a missing folder, or what the loader raises.
    """
    known = names(kind)
    if name not in known:
        raise DataError(f"Unknown {kind} {name!r}; known {'are' if known[1:] else 'is'} {', '.join(known)}.")
    entry, what = CATALOGUE[name], f"{kind.capitalize()} {name!r}"
    if unknown := sorted(set(options) - set(entry.options)):
        raise DataError(f"{what} has no option {', '.join(unknown)}; known are {', '.join(entry.options)}.")
    for option, value in options.items():
        if option == "plain":
            if not isinstance(value, bool):
                raise DataError(f"{what}: {option} must be True or False, got {value!r}.")
        elif not is_whole(value) and not (option in _OPTIONAL and value is None):
            raise DataError(f"{what}: {option} must be a whole number, got {value!r}.")
    given = {"name": name, "root": data_root(root), "download": download}
    options = {option: plain(value) for option, value in options.items()}
    needed = {key: given[key] for key in entry.needs}
    validation = options.pop("validation", None) if hold_out else None
    module, function = entry.loader.split(":")
    loaded = getattr(import_module(module), function)(**needed, **options)
    return hold_out(loaded, validation) if hold_out and validation is not None else loaded
