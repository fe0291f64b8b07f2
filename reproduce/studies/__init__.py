"""Experiments of single notebooks, beside the six tables, and the checks that claims of kind "computed" name."""

from __future__ import annotations

import importlib
from functools import cache

#: By name: the function that says whether a statement holds, and in words what it computed, alike on every machine.
CHECKS = {
    "attention": "related:attention_agrees",
    "dynamic_filters": "related:filters_agree",
    "folded": "related:folded_is_plain",
    "hyperspherical": "related:sphere_agrees",
    "mahalanobis": "related:rankings_agree",
    "schemes": "related:orders_agree",
}


@cache
def outcome(check: str) -> tuple[bool, str]:
    """What a check finds: whether its statement holds, and what was computed, in words."""
    module, _, name = CHECKS[check].partition(":")
    found: tuple[bool, str] = getattr(importlib.import_module(f"reproduce.studies.{module}"), name)()
    return found
