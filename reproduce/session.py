"""The arguments that the commands of ``python -m reproduce`` share, and what they mean together."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reproduce.declare import overrides, plan
from reproduce.declare.runs import Run
from reproduce.run import fingerprints
from reproduce.run.files import path_argument
from reproduce.run.store import Store
from reproduce.run.worker import DEFAULT_BACKEND, load_backend

RESULTS = Path("results")
DEFAULT_PROFILE = "demo"
PROFILES = "demo, cpu, paper or paper-bf16 (default: demo)"
#: The largest number of seeds, or of runs side by side, that is no slip of the finger.
MOST = 1000


def _data(text: str) -> str:
    """The folder of the data; empty where none is named."""
    return str(path_argument(text)) if text.strip() else ""


_DATA_HELP = "folder of the data, of nsl train --root (default: NSL_DATA, then ~/.cache/nsl)"
#: The arguments that commands share, as `add_argument` takes them.
SHARED: dict[str, dict[str, Any]] = {
    "profile": {"default": None, "help": PROFILES},
    "tables": {
        "default": None,
        "help": f"tables such as 1, 1-4, 1,3 or beyond, or of those {', '.join(plan.beyond())} (default: the paper's)",
    },
    "slots": {"default": None, "help": "data sets to run, such as cifar10 (default: the tables' all)"},
    "methods": {"default": None, "help": "rows to run, by their keys, such as cnn (default: all)"},
    "seeds": {"default": None, "help": "number of seeds (default: the profile's)"},
    "data": {"type": _data, "default": None, "help": _DATA_HELP},
    "jobs": {"default": None, "help": "runs executed side by side (default: the profile's)"},
    "results": {"type": path_argument, "default": RESULTS, "help": "folder of results (default: results)"},
    "executor": {"default": "local", "help": "local (processes), slurm, or submitit-local (default: local)"},
    "cluster": {"type": path_argument, "default": None, "help": "TOML file of job parameters for slurm"},
    "set": {
        "action": "append",
        "default": [],
        "metavar": "PROFILE.KEY=VALUE",
        "help": "change a setting, e.g. cpu.width=16",
    },
}
#: Which of them choose what to show, and how to execute runs.
SHOWN = ("profile", "tables", "results", "set")
EXECUTED = ("data", "jobs", "results", "executor", "cluster", "set")


@dataclass(frozen=True)
class Session:
    """What the common arguments mean: profile, tables, seeds, store."""

    profile: plan.Profile
    tables: tuple[plan.Key, ...]
    seeds: int | None
    jobs: int
    data: str | None
    store: Store
    backend: str
    slots: tuple[str, ...] | None = None
    methods: tuple[str, ...] | None = None

    @property
    def runs(self) -> list[Run]:
        """The runs the chosen tables need."""
        found = plan.planned_runs(self.profile, self.tables, self.seeds, self.slots, self.methods)
        if not found:
            where = "" if self.slots is None else f" on {', '.join(self.slots)}"
            where += "" if self.methods is None else f" of {', '.join(self.methods)}"
            tables = ", ".join(map(str, self.tables))
            raise ValueError(f"Profile {self.profile.name} runs nothing{where} for tables {tables}; choose others.")
        return found

    def fingerprints(self, runs: list[Run]) -> dict[str, str]:
        """Fingerprints of the runs' data as they are now, by data set."""
        load = load_backend(self.backend).fingerprint
        return fingerprints.current(self.store.folder, runs, self.data, load, self.backend)


def common(*names: str) -> Callable[[argparse.ArgumentParser], None]:
    """What declares those of the shared arguments that a command heeds; given another one, it says so."""

    def declare(parser: argparse.ArgumentParser) -> None:
        for name, how in SHARED.items():
            if name in names:
                parser.add_argument(f"--{name}", **how)
            else:
                parser.set_defaults(**{name: [] if name == "set" else how.get("default")})
        parser.set_defaults(reads_data="data" in names)
        parser.add_argument("--profiles", type=path_argument, default=None, help=argparse.SUPPRESS)
        parser.add_argument("--backend", default=DEFAULT_BACKEND, help=argparse.SUPPRESS)

    return declare


def _count(text: str | None, name: str) -> int | None:
    """A number that was given; None where none was."""
    if text is None or not text.strip():
        return None
    digits = text.strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) < 6 and 1 <= int(digits) <= MOST):
        raise ValueError(f"{name}={text!r} is not understood; write a whole number from 1 to {MOST}.")
    return int(text)


#: Settings by which no run is another one.
_NOT_OF_RUNS = ("jobs", "description", "handicap", "select", "same_data", "same_width", "whole_tables")


def _check_settings(found: plan.Profile, tables: tuple[plan.Key, ...], path: Path | None) -> None:
    """Refuse settings that reach no run of the chosen tables: their results would lie in a folder that says they do."""
    base, *changes = found.name.split(overrides.SIGN)
    keys = [change.partition("=")[0] for change in changes]
    if not any(set(key.split(".")).isdisjoint(_NOT_OF_RUNS) for key in keys):
        return
    changed, declared = (
        [run.key for run in plan.planned_runs(profile, tables)] for profile in (found, plan.profile(base, path))
    )
    if changed == declared:
        raise ValueError(
            f"--set {', '.join(f'{base}.{change}' for change in changes)} changes no run of tables "
            f"{', '.join(map(str, tables))}: these are the declared values, or slots and rows have their own."
        )


def session(arguments: argparse.Namespace) -> Session:
    """The common arguments, checked."""
    profile = DEFAULT_PROFILE if arguments.profile is None else arguments.profile
    arguments.profile, arguments.set = overrides.named(profile, arguments.set), []
    found = plan.profile(arguments.profile, arguments.profiles)
    data = arguments.data or None
    if arguments.reads_data:  # others do without the folder that NSL_DATA names
        fingerprints.check_folder(data)
    numbers = plan.parse_tables(arguments.tables)
    _check_settings(found, numbers, arguments.profiles)
    return Session(
        profile=found,
        tables=numbers,
        seeds=_count(arguments.seeds, "SEEDS"),
        jobs=_count(arguments.jobs, "JOBS") or found.jobs_for(numbers),
        data=data,
        store=Store(arguments.results, found.name),
        backend=arguments.backend,
        slots=plan.parse_slots(arguments.slots, found),
        methods=plan.parse_methods(arguments.methods, numbers),
    )
