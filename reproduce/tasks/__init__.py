"""What runs do and what their tables show: one task a file, each a :class:`reproduce.tasks.task.Task`.

A task is found by its name, which is that of its file. Nothing else lists the tasks: a new one is a new file here. Its
docstring says how to add one.
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reproduce.tasks.task import Task


#: The task of configurations that name none: Tables 1 to 5.
CLASSIFICATION = "classification"


def _module(name: str) -> str:
    return f"reproduce.tasks.{name.replace('-', '_')}"


@cache
def named(name: str) -> Task:
    """The task called ``name``: ``TASK`` of the file in ``reproduce/tasks`` of that name.

    Raises:
        ValueError: there is no such file.
    """
    if not name.replace("-", "_").isidentifier() or importlib.util.find_spec(_module(name)) is None:
        raise ValueError(f"task {name!r} has no file in reproduce/tasks; write one that ends in TASK, an instance.")
    task: Task = importlib.import_module(_module(name)).TASK
    return task


def of(record: dict[str, Any]) -> Task:
    """The task of a stored run."""
    return named(record["config"].get("task", CLASSIFICATION))


def source(name: str) -> Path:
    """The file of a task."""
    found = importlib.util.find_spec(_module(name))
    assert found is not None
    assert found.origin is not None
    return Path(found.origin)
