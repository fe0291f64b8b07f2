"""The commands of ``python -m reproduce``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from reproduce import fingerprints, plan
from reproduce.executors import LocalExecutor
from reproduce.runs import Run, run_id
from reproduce.store import Store, differences
from reproduce.worker import DEFAULT_BACKEND, load_backend

RESULTS = Path("results")


@dataclass(frozen=True)
class Command:
    """A command: its help, its arguments and what it does."""

    help: str
    declare: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


@dataclass(frozen=True)
class Session:
    """What the common arguments mean: profile, tables, seeds, store."""

    profile: plan.Profile
    tables: tuple[int, ...]
    seeds: int
    jobs: int
    data: str | None
    store: Store
    backend: str

    @property
    def runs(self) -> list[Run]:
        """The runs the chosen tables need."""
        return plan.planned_runs(self.profile, self.tables, self.seeds)

    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of the data as they are now, by data set."""
        datasets = {fingerprints.dataset_key(run.dataset): run.dataset for run in self.runs}
        return fingerprints.current(
            self.store.folder,
            list(datasets.values()),
            self.data,
            lambda dataset, data: load_backend(self.backend).fingerprint(dataset, data),
            self.backend,
        )


def declare_common(parser: argparse.ArgumentParser) -> None:
    """The arguments that most commands share."""
    parser.add_argument("--profile", default="demo", help="demo, cpu or paper (default: demo)")
    parser.add_argument(
        "--tables", default=None, help="tables to reproduce, such as 1, 1-4 or 1,3 (default: all)"
    )
    parser.add_argument("--seeds", default=None, help="number of seeds (default: the profile's)")
    parser.add_argument(
        "--data", default=None, help="folder of the data (default: NSL_DATA, then ~/.cache/nsl)"
    )
    parser.add_argument("--jobs", default=None, help="runs executed side by side (default: the profile's)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of results (default: results)")
    parser.add_argument("--profiles", type=Path, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--backend", default=DEFAULT_BACKEND, help=argparse.SUPPRESS)


def _count(text: str | None, default: int, name: str) -> int:
    if text is None or not text.strip():
        return default
    if not text.strip().isdigit() or int(text) < 1:
        raise ValueError(f"{name}={text!r} is not understood; write a whole number of at least 1.")
    return int(text)


def session(arguments: argparse.Namespace) -> Session:
    """The common arguments, checked."""
    profile = plan.profile(arguments.profile, arguments.profiles)
    data = arguments.data or None
    fingerprints.check_folder(data)
    return Session(
        profile=profile,
        tables=plan.parse_tables(arguments.tables),
        seeds=_count(arguments.seeds, profile.seeds, "SEEDS"),
        jobs=_count(arguments.jobs, profile.jobs, "JOBS"),
        data=data,
        store=Store(arguments.results, profile.name),
        backend=arguments.backend,
    )


def run_runs(arguments: argparse.Namespace) -> int:
    """Execute the missing runs."""
    now = session(arguments)
    marks = now.fingerprints()
    jobs = [(run, marks[fingerprints.dataset_key(run.dataset)]) for run in now.runs]
    missing = [(run, mark) for run, mark in jobs if now.store.read(run_id(run.config(mark))) is None]
    print(f"{now.profile.name}: {len(jobs) - len(missing)} of {len(jobs)} runs are stored.", flush=True)
    if not missing:
        return 0
    executor = LocalExecutor(
        now.store, min(now.jobs, len(missing)), now.profile.threads, now.backend, now.data
    )
    report = executor.execute(missing)
    if report.failures:
        count = len(report.failures)
        raise ValueError(f"{count} of {len(missing)} runs failed. {' '.join(report.failures)}")
    return 0


def compare(arguments: argparse.Namespace) -> int:
    """Compare two folders of one profile's results, timings and environment aside."""
    stores = [Store(folder.parent, folder.name) for folder in (arguments.first, arguments.second)]
    for store in stores:
        if not store.runs.is_dir():
            raise FileNotFoundError(f"{store.folder} has no runs/; name a folder such as results/demo.")
    found = differences(*stores)
    for line in found:
        print(line)
    if not found:
        print(f"The {len(list(stores[0].records()))} records are equal, timings and environment aside.")
    return 1 if found else 0


def _declare_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", type=Path, help="a profile's folder of results, such as results/demo")
    parser.add_argument("second", type=Path, help="another")


COMMANDS = {
    "run": Command("execute the missing runs", declare_common, run_runs),
    "compare": Command("compare the records of two result folders", _declare_compare, compare),
}
