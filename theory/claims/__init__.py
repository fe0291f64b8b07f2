"""The claims ledger: every theoretical statement of section 5, of the results it cites and of NSL's own."""

from __future__ import annotations

from importlib import import_module

_CHAPTERS = (
    "equations",
    "limits",
    "bias",
    "margins",
    "discrete",
    "systems",
    "practice",
    "blocks",
    "predictor",
    "start",
    "training",
    "filters",
)


def load() -> None:
    """Import every chapter, which enters its claims in the registry."""
    for chapter in _CHAPTERS:
        import_module(f"theory.claims.{chapter}")
