"""The lock names every package of the environment, with the versions that are pinned."""

from __future__ import annotations

import re
import sys
import sysconfig
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def name(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()


LOCKED = {
    name(line.split("==")[0]): line.split("==")[1].strip()
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    if "==" in line
}


def test_every_pin_of_pyproject_is_locked_as_it_is() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    for pin in (pin.split(";")[0] for extra in ("reproduce", "site", "dev") for pin in extras[extra]):
        package, version = pin.split("==")
        assert LOCKED.get(name(package)) == version, pin


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the lock is that of Python 3.11")
def test_what_is_installed_is_what_is_locked() -> None:
    own = {"pip", "setuptools", "neural-similarity-learning"}
    # Only the environment's own folder: setuptools, once imported, puts packages of its own on the path.
    # A wheel for CPUs only calls itself 2.13.0+cpu.
    installed = {
        name(found.metadata["Name"]): found.version.split("+")[0]
        for found in distributions(path=[sysconfig.get_path("purelib")])
    }
    assert {key: LOCKED.get(key) for key in installed if key not in own} == {
        key: version for key, version in installed.items() if key not in own
    }


def test_make_env_installs_the_lock() -> None:
    assert "-c requirements.lock" in (ROOT / "Makefile").read_text(encoding="utf-8")
