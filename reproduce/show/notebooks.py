"""Executing the notebooks with papermill, and leaving alone those whose inputs have not changed.

A notebook is a jupytext percent file; what comes out is ``<results>/<profile>/notebooks/NAME.ipynb``. Its
metadata carry a hash of all it depends on: its source, the profile, the repository's files it imports, however deep,
and, for a table, the records that it reads or its verdicts rest on, and the table files it reads. The kernel is the
Python that runs this command.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Callable
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

from reproduce import tasks
from reproduce.declare import plan
from reproduce.run.files import digest, last_line, write_text
from reproduce.run.store import Store
from reproduce.show.closure import ROOT, closure_texts
from reproduce.show.rows import make_table

#: Where a wheel puts them, beside the packages of its environment.
INSTALLED = Path(sys.prefix) / "share" / "neural-similarity-learning" / "notebooks"

#: The percent files: of the checkout, or those that came with an installed wheel.
SOURCES = ROOT / "notebooks" if (ROOT / "notebooks").is_dir() else INSTALLED

#: Key of the notebook's metadata that holds the hash of its inputs.
STAMP = "reproduce_inputs"

#: Key of the notebook's metadata that holds the hash of all else in it: a damaged notebook is executed again.
CONTENT = "reproduce_content"

#: Kernel that ipykernel installs beside the Python it belongs to.
KERNEL = "python3"

#: How a notebook asks for the report of a table.
_REPORTS = re.compile(r"Report\(\"?(\w+)\"?,")


def names(tables: tuple[plan.Key, ...]) -> list[str]:
    """Notebooks to execute: those of the tables; with all of the paper's, also those of none but the theory's."""
    if not SOURCES.is_dir():
        raise FileNotFoundError(f"{SOURCES} does not exist; run this in a checkout, or install the package again.")
    every = {path.stem: read_tables(path.stem) for path in SOURCES.glob("*.py")}
    beyond, whole = set(plan.beyond()), set(tables) >= set(plan.tables())
    found = [name for name, read in every.items() if set(tables) & (set(read) & beyond or set(read))]
    if whole:
        found += [name for name, read in every.items() if not read and not name.startswith("theory_")]
    return sorted(found)


def read_tables(name: str) -> tuple[plan.Key, ...]:
    """The tables that a notebook reads: those whose reports its source asks for."""
    asked = _REPORTS.findall((SOURCES / f"{name}.py").read_text(encoding="utf-8"))
    return tuple(dict.fromkeys(key for key in plan.every() if str(key) in asked))


def _text_hash(paths: list[Path]) -> str:
    total = hashlib.sha256()
    for path in paths:
        total.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()


def inputs_hash(name: str, profile: plan.Profile, store: Store) -> str:
    """Hash of everything the executed notebook depends on."""
    parts: list[Any] = [name, profile.name, closure_texts(SOURCES / f"{name}.py")]
    for key in read_tables(name):
        table = make_table(key, profile, store)
        stem = table.experiment.stem
        rows = (*table.rows, *table.peers)
        parts.append(sorted(record["checksum"] for row in rows for record in row.records.values()))
        files = sorted((store.folder / "tables").glob(f"{stem}*.csv"))
        # The table's task is imported by its name, which the notebook's closure does not see.
        parts.append(closure_texts(tasks.source(table.experiment.task)))
        parts.append(_text_hash([plan.EXPERIMENTS / f"{stem}.toml", *files]))
    return digest(parts)


def output_path(name: str, store: Store) -> Path:
    """Where the executed notebook is."""
    return store.folder / "notebooks" / f"{name}.ipynb"


def _content_hash(notebook: dict[str, Any]) -> str:
    """Hash of everything in a notebook but the hash itself."""
    metadata = {key: value for key, value in notebook["metadata"].items() if key != CONTENT}
    return digest({**notebook, "metadata": metadata})


def stamp(path: Path) -> str | None:
    """The hash of the inputs an executed notebook was made from; None when there is none, or not as it was written."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        whole = notebook["metadata"][CONTENT] == _content_hash(notebook)
        return str(notebook["metadata"][STAMP]) if whole else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def seal(text: str) -> str:
    """A notebook's JSON with the hash of its content in its metadata."""
    notebook = json.loads(text)
    notebook["metadata"][CONTENT] = _content_hash(notebook)
    return json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def execute(path: Path, output: Path, parameters: dict[str, Any], mark: str) -> float:
    """Execute the percent file ``path`` into ``output``, stamped with ``mark``; returns the seconds it took."""
    started = time.monotonic()
    # The kernel next to this interpreter goes before one that the user may have installed elsewhere.
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    os.environ["JUPYTER_PATH"] = str(Path(sys.prefix) / "share" / "jupyter")
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    # Records that are written beside the notebooks must not depend on a user's own plotting settings.
    os.environ["MATPLOTLIBRC"] = os.devnull
    import jupytext
    import nbformat
    import papermill

    from nsl.outputs import scratch

    source = jupytext.read(path)
    source.metadata["kernelspec"] = {"name": KERNEL, "display_name": "Python 3", "language": "python"}
    with scratch("reproduce-notebook-") as folder:
        # A fresh IPython folder: no start-up files of the user's, and no note about the local transport.
        os.environ["IPYTHONDIR"] = str(folder)
        settings = folder / "profile_default" / "ipython_kernel_config.py"
        settings.parent.mkdir()
        settings.write_text("c = get_config()\nc.IPKernelApp.log_level = 50\n", encoding="utf-8")
        plain, executed = folder / path.with_suffix(".ipynb").name, folder / "executed.ipynb"
        nbformat.write(source, plain)
        papermill.execute_notebook(
            str(plain), str(executed), parameters, cwd=str(ROOT), progress_bar=False, kernel_name=KERNEL
        )
        done = nbformat.read(executed, as_version=4)
    done.metadata[STAMP] = mark
    # Paths and times of this machine do not belong into a file that may be committed.
    done.metadata.pop("papermill", None)
    for number, cell in enumerate(done.cells):
        cell["id"] = f"cell-{number}"  # otherwise random
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
    write_text(output, seal(nbformat.writes(done)))
    return time.monotonic() - started


def _use_threads(threads: int) -> None:
    # Notebooks that compute side by side share the cores; more threads than cores make each of them many times slower.
    os.environ["OMP_NUM_THREADS"] = str(threads)


def execute_due(
    due: list[tuple[Path, Path, str]], parameters: dict[str, Any], jobs: int, say: Callable[[str], None]
) -> list[str]:
    """Execute notebooks ``(percent file, output, mark)``, ``jobs`` at a time; returns one sentence a failure."""
    if not due:
        return []
    from nsl.processes import workers

    failures: list[str] = []
    count = min(jobs, len(due))
    threads = max(1, (os.cpu_count() or 1) // count)
    with workers(count, _use_threads, (threads,)) as pool:
        waiting = {
            pool.submit(execute, path, output, parameters, mark): path.stem for path, output, mark in due
        }
        for future in as_completed(waiting):
            name = waiting[future]
            try:
                say(f"notebook {name}: executed in {future.result():.0f} s")
            except Exception as error:  # papermill wraps whatever a cell raised
                failures.append(f"Notebook {name} failed: {last_line(error)}")
                say(failures[-1])
    return failures


def relative(folder: Path) -> Path:
    """A folder as kernels are told it, which run in the repository's root: a path in it names no one's home folder."""
    folder = folder.resolve()
    return folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder


def execute_all(
    tables: tuple[plan.Key, ...],
    profile: plan.Profile,
    store: Store,
    jobs: int,
    say: Callable[[str], None] = lambda line: print(line, flush=True),
) -> list[str]:
    """Execute the notebooks that are out of date, ``jobs`` at a time; returns one sentence a failure."""
    due = []
    chosen = names(tables)
    for name in chosen:
        mark = inputs_hash(name, profile, store)
        if stamp(output_path(name, store)) != mark:
            due.append((SOURCES / f"{name}.py", output_path(name, store), mark))
    say(f"{profile.name}: {len(chosen) - len(due)} of {len(chosen)} notebooks are up to date.")
    parameters = {"profile": profile.name, "results": str(relative(store.folder.parent))}
    return execute_due(due, parameters, jobs, say)
