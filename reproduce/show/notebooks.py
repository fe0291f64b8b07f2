"""Executing the notebooks with papermill, and leaving alone those whose inputs have not changed.

A notebook is a jupytext percent file; what comes out is ``<results>/<profile>/notebooks/NAME.ipynb``. Its
metadata carry a hash of all it depends on: its source, the profile, the repository's files it imports, however deep,
and, for a table, the records and the table files it reads. The kernel is the Python that runs this command.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from reproduce.declare import plan
from reproduce.run.executors import end_with_parent
from reproduce.run.files import digest, write_text
from reproduce.run.store import Store
from reproduce.show.closure import ROOT, closure_texts
from reproduce.show.rows import make_table

#: Where a wheel puts them, beside the packages of its environment.
INSTALLED = Path(sys.prefix) / "share" / "neural-similarity-learning" / "notebooks"

#: The percent files: of the checkout, or those that came with an installed wheel.
SOURCES = ROOT / "notebooks" if (ROOT / "notebooks").is_dir() else INSTALLED

#: Key of the notebook's metadata that holds the hash of its inputs.
STAMP = "reproduce_inputs"

#: Kernel that ipykernel installs beside the Python it belongs to.
KERNEL = "python3"


def names(tables: tuple[int, ...]) -> list[str]:
    """Notebooks to execute: those of the chosen tables; with all tables, also those of none but the theory's."""
    if not SOURCES.is_dir():
        raise FileNotFoundError(f"{SOURCES} does not exist; run this in a checkout, or install the package again.")
    if set(tables) == set(plan.tables()):
        return [path.stem for path in sorted(SOURCES.glob("*.py")) if not path.stem.startswith("theory_")]
    return [f"table{number}" for number in sorted(tables)]


def _text_hash(paths: list[Path]) -> str:
    total = hashlib.sha256()
    for path in paths:
        total.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()


def inputs_hash(name: str, profile: plan.Profile, store: Store) -> str:
    """Hash of everything the executed notebook depends on."""
    parts: list[Any] = [name, profile.name, closure_texts(SOURCES / f"{name}.py")]
    if name.startswith("table") and name.removeprefix("table").isdigit():
        table = make_table(int(name.removeprefix("table")), profile, store)
        parts.append(sorted(record["checksum"] for row in table.rows for record in row.records.values()))
        files = sorted((store.folder / "tables").glob(f"{name}*.csv"))
        parts.append(_text_hash([plan.EXPERIMENTS / f"{name}.toml", *files]))
    return digest(parts)


def output_path(name: str, store: Store) -> Path:
    """Where the executed notebook is."""
    return store.folder / "notebooks" / f"{name}.ipynb"


def stamp(path: Path) -> str | None:
    """The hash of the inputs an executed notebook was made from; None when there is no such notebook."""
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["metadata"][STAMP])
    except (OSError, ValueError, KeyError):
        return None


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

    source = jupytext.read(path)
    source.metadata["kernelspec"] = {"name": KERNEL, "display_name": "Python 3", "language": "python"}
    with tempfile.TemporaryDirectory(prefix="reproduce-") as folder:
        # A fresh IPython folder: no start-up files of the user's, and no note about the local transport.
        os.environ["IPYTHONDIR"] = folder
        settings = Path(folder) / "profile_default" / "ipython_kernel_config.py"
        settings.parent.mkdir()
        settings.write_text("c = get_config()\nc.IPKernelApp.log_level = 50\n", encoding="utf-8")
        plain, executed = Path(folder) / path.with_suffix(".ipynb").name, Path(folder) / "executed.ipynb"
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
    write_text(output, nbformat.writes(done))
    return time.monotonic() - started


def _start_watching(threads: int) -> None:
    # Notebooks that compute side by side share the cores; more threads than cores make each of them many times slower.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    threading.Thread(target=end_with_parent, daemon=True).start()


def _reason(error: BaseException) -> str:
    """The last line of a failing cell's own message."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def execute_all(
    tables: tuple[int, ...],
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
            due.append((name, mark))
    say(f"{profile.name}: {len(chosen) - len(due)} of {len(chosen)} notebooks are up to date.")
    if not due:
        return []
    folder = store.folder.parent.resolve()
    folder = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
    parameters = {"profile": profile.name, "results": str(folder)}
    failures: list[str] = []
    context = multiprocessing.get_context("spawn")
    workers = min(jobs, len(due))
    threads = max(1, (os.cpu_count() or 1) // workers)
    with ProcessPoolExecutor(workers, context, initializer=_start_watching, initargs=(threads,)) as pool:
        waiting = {
            pool.submit(execute, SOURCES / f"{name}.py", output_path(name, store), parameters, mark): name
            for name, mark in due
        }
        with contextlib.ExitStack() as stack:
            stack.callback(pool.shutdown, wait=False, cancel_futures=True)
            for future in as_completed(waiting):
                name = waiting[future]
                try:
                    say(f"notebook {name}: executed in {future.result():.0f} s")
                except Exception as error:
                    failures.append(f"Notebook {name} failed: {_reason(error)}")
                    say(failures[-1])
    return failures
