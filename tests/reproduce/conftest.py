"""Settings of these tests: nothing depends on the machine's speed or on chance."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("reproduce", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("reproduce")
