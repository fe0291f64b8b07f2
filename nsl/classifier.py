"""Where the classifier of any network is: what `nsl.convert` leaves alone, `nsl.freeze_backbone` trains and a recipe's
`classifier_rate` is for."""

from __future__ import annotations

from torch import nn

#: Usual names of a classifier, in the order in which they are tried.
CLASSIFIER_NAMES = ("classifier", "fc", "head", "linear")


def _named(network: nn.Module) -> list[nn.Module]:
    found = [getattr(network, name, None) for name in CLASSIFIER_NAMES]
    # Without parameters it stands for a classifier that was taken off, as nn.Identity does.
    return [part for part in found if isinstance(part, nn.Module) and next(part.parameters(), None) is not None]


def _inner(model: nn.Module) -> nn.Module | None:
    """What a wrapper is around, an `nn.Sequential` being one of its last part; None where it is no wrapper."""
    for name in ("module", "_orig_mod"):
        if isinstance(found := getattr(model, name, None), nn.Module):
            return found
    return model[-1] if isinstance(model, nn.Sequential) and len(model) else None


def unwrapped(model: nn.Module) -> nn.Module:
    """The network itself: without what shares its training (`nn.DataParallel`, DDP), averages or compiles it, and out
    of an `nn.Sequential` that it ends, as after a normalisation. Where no classifier is found, the model as it is."""
    inner: nn.Module | None = model
    while inner is not None and not _named(inner):
        inner = _inner(inner)
    return model if inner is None else inner


def named_classifiers(model: nn.Module) -> list[nn.Module]:
    """Parts of the network that have a classifier's name and parameters, the likeliest first; maybe none."""
    return _named(unwrapped(model))
