"""The real training with a checkpoint after every step, for the tests that kill it."""

from __future__ import annotations

from reproduce.run.worker import NslBackend


class EagerBackend(NslBackend):
    """Trains with ``nsl`` and saves as often as it can."""

    checkpoint_minutes = 0.0
