"""The commands of ``python -m reproduce``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from reproduce import tasks, theory, torture
from reproduce.declare import overrides
from reproduce.declare.runs import Run, declared_id
from reproduce.declare.sizes import check_memory
from reproduce.run import fingerprints, progress
from reproduce.run.executors import LocalExecutor, Report
from reproduce.run.files import path_argument
from reproduce.run.store import Store, differences, record_files
from reproduce.session import EXECUTED, PROFILES, RESULTS, SHARED, SHOWN, Session, common, session
from reproduce.show import notebooks, tables


@dataclass(frozen=True)
class Command:
    """A command: its help, its arguments and what it does."""

    help: str
    declare: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


class RunFailures(ValueError):
    """Some runs failed; the message names each with its reason."""


class Executor(Protocol):
    """What executes runs and says each one's end."""

    def execute(self, jobs: list[tuple[Run, str]]) -> Report:
        """Execute every (run, data fingerprint); returns when all are stored or have failed."""
        ...


def _executor(arguments: argparse.Namespace, now: Session, runs: list[Run]) -> Executor:
    """What executes runs: processes of this machine, or jobs of a cluster."""
    threads = max(run.threads for run in runs)
    if arguments.executor == "local":
        if arguments.cluster:
            raise ValueError(f"CLUSTER={arguments.cluster} belongs to EXECUTOR=slurm; leave it out or choose that.")
        return LocalExecutor(now.store, min(now.jobs, len(runs)), threads, now.backend, now.data)
    from reproduce.run.cluster import CLUSTERS, ClusterExecutor

    if arguments.executor not in CLUSTERS:
        known = ", ".join(["local", *CLUSTERS])
        raise ValueError(f"EXECUTOR={arguments.executor!r} is unknown; choose one of: {known}.")
    # A cluster has its own queue: without JOBS, everything is submitted at once.
    jobs = None if arguments.executor == "slurm" and not (arguments.jobs or "").strip() else now.jobs
    return ClusterExecutor(now.store, arguments.executor, jobs, threads, now.backend, now.data, arguments.cluster)


def _shares(jobs: list[tuple[Run, str]]) -> Callable[[tuple[Run, str]], bool]:
    """Sorting key that puts runs last whose first training is that of an earlier one: side by side they would wait."""
    keys = [(tasks.named(run.task).shares(run), run) for run, _ in jobs]
    first = dict(reversed(keys))
    return lambda job: first[tasks.named(job[0].task).shares(job[0])] is not job[0]


def run_runs(arguments: argparse.Namespace) -> int:
    """Execute the missing runs."""
    now = session(arguments)
    _execute(arguments, now, now.runs)
    return 0


def _execute(arguments: argparse.Namespace, now: Session, runs: list[Run], again: bool = True) -> None:
    """Execute those of the runs that have no record yet; ``again`` when a remembered fingerprint turns out wrong."""
    if arguments.executor == "local":
        _check_memory(now, runs)
    executor = _executor(arguments, now, runs)  # before any data are loaded: what is wrong with it is said at once
    marks = now.fingerprints(runs)
    jobs = [(run, marks[fingerprints.dataset_key(run.dataset)]) for run in runs]
    missing = [(run, mark) for run, mark in jobs if now.store.find(declared_id(run.declared(mark))) is None]
    for line in fingerprints.replaced(now.store.folder, marks):
        print(line, flush=True)
    print(f"{now.profile.name}: {len(jobs) - len(missing)} of {len(jobs)} runs are stored.", flush=True)
    now.store.tidy()
    if not missing:
        return
    try:
        report = executor.execute(sorted(missing, key=_shares(missing)))
    finally:
        fingerprints.keep(now.store.folder, marks)
    if again and any(fingerprints.DROPPED in failure for failure in report.failures):
        files = fingerprints.changed((run for run, _ in missing), now.data)
        why = f"{', '.join(files)} changed" if files else "no file is known to have changed"
        print(f"A remembered fingerprint was wrong ({why}); it is computed anew and the runs go on.", flush=True)
        _execute(arguments, now, runs, again=False)
        return
    if report.failures:
        count = len(report.failures)
        raise RunFailures(f"{count} of {len(missing)} runs failed. {' '.join(report.failures)}")


def _check_memory(now: Session, runs: list[Run]) -> None:
    """Refuse settings with which a network is too large for this machine; what was declared is known to fit."""
    if overrides.SIGN in now.profile.name:
        check_memory(runs)


def _recorded(now: Session) -> dict[str, str]:
    """Fingerprints of the data the profile's records were made with."""
    return fingerprints.recorded(now.store.folder)


def status(arguments: argparse.Namespace) -> int:
    """Say what is done, running and missing, and how long the rest will take."""
    now = session(arguments)
    states = progress.survey(now.runs, _recorded(now), now.store)
    for line in progress.lines(states, now.jobs):
        print(line)
    known = {state.identity for state in states}
    others = [path for path in record_files(now.store.runs) if path.stem not in known]
    if others:
        print(f"{len(others)} more stored records belong to other tables, seeds or an earlier declaration.")
    return 0


def show_plan(arguments: argparse.Namespace) -> int:
    """Say what the tables cost, or which runs they need."""
    if arguments.name and arguments.profile:
        raise ValueError(f"plan {arguments.name} and --profile {arguments.profile} both name a profile; give one.")
    if arguments.runs and arguments.jobs:
        raise ValueError("--jobs is for what the runs cost; leave it out with --runs.")
    arguments.profile = arguments.name or arguments.profile
    now = session(arguments)
    if arguments.runs:
        for run in now.runs:
            options = ", ".join(f"{key}={value}" for key, value in run.options.items())
            print(f"{run.name}: {run.model['name']}({options}), {run.images:,} images")
    else:
        from reproduce.run import costs

        _check_memory(now, now.runs)
        found = costs.estimate(now.profile, now.tables, now.seeds, now.jobs, now.slots, now.methods)
        for line in costs.lines(found, now.profile, now.jobs):
            print(line)
    seeds = "the profile's seeds" if now.seeds is None else f"{now.seeds} seeds"
    print(f"{len(now.runs)} runs for tables {', '.join(map(str, now.tables))}, {seeds}.")
    return 0


def rehearse(arguments: argparse.Namespace) -> int:
    """Two steps of every run at full size, without records."""
    from reproduce.run import rehearsal

    now = session(arguments)
    _check_memory(now, now.runs)
    problems = rehearsal.rehearse(now.runs, now.data)
    if problems:
        raise ValueError(f"{len(problems)} rehearsals failed. {' '.join(problems)}")
    return 0


def _declare_plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", default=None, metavar="PROFILE", help=PROFILES)
    parser.add_argument("--runs", action="store_true", help="list the runs instead of their cost")
    common("profile", "tables", "slots", "methods", "seeds", "jobs", "set")(parser)


def make_tables(arguments: argparse.Namespace) -> int:
    """Write the tables from the stored records."""
    now = session(arguments)
    made = tables.write_tables(now.tables, now.profile, now.store)
    for table in made:
        print(f"\n{table.experiment.name}: {table.experiment.title}. {tables.scope_sentence(table)}\n")
        print(tables.markdown_rows(table))
    return 0


def execute_notebooks(arguments: argparse.Namespace) -> int:
    """Execute the notebooks that are out of date."""
    now = session(arguments)
    failures = notebooks.execute_all(now.tables, now.profile, now.store, now.jobs)
    if failures:
        raise ValueError(" ".join(failures))
    return 0


def _declare_notebooks(parser: argparse.ArgumentParser) -> None:
    common(*SHOWN)(parser)
    parser.add_argument("--jobs", default=None, help="notebooks executed side by side (default: the profile's)")


def reproduce(arguments: argparse.Namespace) -> int:
    """Runs, tables and notebooks: what ``make reproduce`` does. Failed runs leave their rows empty.

    Raises:
        ValueError: of all steps that failed, the first one's reasons first.
    """
    problems: list[Exception] = []
    for step in (run_runs, make_tables, execute_notebooks):
        try:
            step(arguments)
        except RunFailures as error:
            problems.append(error)
        except (ValueError, OSError) as error:
            # What the next step needs is not there; the reasons of failed runs are still to be told.
            problems.append(error)
            break
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise ValueError(" ".join(map(str, problems))) from problems[-1]
    folder = arguments.results / arguments.profile
    print(f"\nTables, executed notebooks and summary.md are in {folder}.")
    return 0


def compare(arguments: argparse.Namespace) -> int:
    """Compare two folders of one profile's results, timings and environment aside."""
    first, second = (Store(folder.parent, folder.name) for folder in (arguments.first, arguments.second))
    for store in (first, second):
        if not store.runs.is_dir():
            raise FileNotFoundError(f"{store.folder} has no runs/; name a folder such as results/demo.")
    count = len({record["id"] for record in first.records()} & {record["id"] for record in second.records()})
    if arguments.common and not count:
        raise ValueError(f"{first.folder} and {second.folder} have no run in common; name two folders that have.")
    found = differences(first, second, arguments.common)
    for line in found:
        print(line)
    if not found:
        shown = "one record is" if count == 1 else f"{count} records are"
        print(f"The {shown} equal, timings and environment aside.")
    return 1 if found else 0


def _declare_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", type=path_argument, help="a profile's folder of results, such as results/demo")
    parser.add_argument("second", type=path_argument, help="another")
    parser.add_argument("--common", action="store_true", help="only the runs that both have, such as a row run again")


def select(arguments: argparse.Namespace) -> int:
    """Execute the missing trials of a table's recipes and say which recipe they choose."""
    from reproduce.run import selection
    from reproduce.show.cells import as_markdown

    arguments.profile, arguments.tables = arguments.name, str(arguments.table)
    now = session(arguments)
    chosen = {table: selection.choices(now.profile, table) for table in now.tables}
    runs = [run for found in chosen.values() for choice in found for run in choice.runs]
    if not runs:
        raise ValueError(
            f"Profile {now.profile.name} declares no trials for table {arguments.table}; add a section "
            f"[{now.profile.name}.select.NAME] to reproduce/declare/experiments/profiles.toml."
        )
    _execute(arguments, now, runs)
    tables.write_tables(now.tables, now.profile, now.store)
    rows = [row for table in now.tables for row in selection.rows(now.profile, now.store, table)]
    print(as_markdown({name: name.replace("_", " ") for name in selection.COLUMNS}, rows))
    for table in (table for table, found in chosen.items() if not found):
        print(f"Profile {now.profile.name} declares no trials for table {table}.")
    return 0


def _declare_select(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="PROFILE", help="demo, cpu, paper or paper-bf16")
    parser.add_argument("table", metavar="TABLE", help="number or name of the table, or several as for TABLES")
    common(*EXECUTED)(parser)


def bench(arguments: argparse.Namespace) -> int:
    """Run the benchmarks."""
    from reproduce.bench import BENCHMARKS, run_benchmarks

    folder = arguments.results / "bench"
    count = run_benchmarks(BENCHMARKS, folder, arguments.names)
    print(f"{count} benchmarks, stored in {folder}.")
    return 0


#: Keys of ``reproduce.bench.BENCHMARKS``, which imports torch.
BENCHES = (
    "dynamic_convolution", "training_step", "folded_inference", "input_pipeline", "maml_iteration", "gpu", "gpu_steps",
)  # fmt: skip


def _declare_bench(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", help=f"benchmarks to run, of {', '.join(BENCHES)} (default: all)")
    parser.add_argument("--results", type=path_argument, default=RESULTS, help="folder of results (default: results)")


def picture(arguments: argparse.Namespace) -> int:
    """Draw the README's picture from stored records."""
    from reproduce.show.report import draw_picture

    now = session(arguments)
    print(f"Drawn: {draw_picture(now.profile, now.store, arguments.output)}")
    return 0


def _declare_picture(parser: argparse.ArgumentParser) -> None:
    common("profile", "results", "set")(parser)
    parser.add_argument(
        "--output", type=path_argument, default=Path("notebooks/picture.png"), help="default: notebooks/picture.png"
    )


def site(arguments: argparse.Namespace) -> int:
    """Build the offline site."""
    from reproduce.site.build import build

    print(build(arguments.results, arguments.output))
    return 0


def _declare_site(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=path_argument, default=RESULTS, help="folder of results (default: results)")
    parser.add_argument("--output", type=path_argument, default=Path("build/site"), help="default: build/site")


COMMANDS = {
    "all": Command("missing runs, tables and notebooks: what `make reproduce` does", common(*SHARED), reproduce),
    "run": Command("execute the missing runs", common(*SHARED), run_runs),
    "tables": Command("write the tables from the stored records", common(*SHOWN), make_tables),
    "notebooks": Command("execute the notebooks that are out of date", _declare_notebooks, execute_notebooks),
    "select": Command("try recipes on validation data and say which is best", _declare_select, select),
    "status": Command(
        "what is done, running, missing; predicted remaining time",
        common(*SHOWN, "slots", "methods", "seeds", "jobs"),
        status,
    ),
    "plan": Command("what the tables cost: images, multiply-adds, hours, disk", _declare_plan, show_plan),
    "rehearse": Command(
        "two steps, an evaluation and a resume of every run; stores nothing",
        common("profile", "tables", "slots", "methods", "data", "set"),
        rehearse,
    ),
    "compare": Command("compare the records of two result folders", _declare_compare, compare),
    "bench": Command("run the benchmarks", _declare_bench, bench),
    "theory": Command("the claims of section 5 and the theory's notebooks", theory.declare, theory.run),
    "torture": Command("kills, full disks, two at once, damaged checkpoints", torture.declare, torture.run),
    "site": Command("build an offline site of all results", _declare_site, site),
    "picture": Command("draw the README's picture from stored records", _declare_picture, picture),
}
