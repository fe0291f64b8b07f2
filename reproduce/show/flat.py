"""All records of a profile as one flat table, ``records.csv``: a line a run, for pandas and spreadsheets."""

from __future__ import annotations

from typing import Any

from reproduce.run.store import Store
from reproduce.show.cells import as_csv

#: Columns, and where in a record each is.
COLUMNS: dict[str, tuple[str, ...]] = {
    "id": ("id",),
    "status": ("status",),
    "task": ("config", "task"),
    "dataset": ("config", "dataset", "name"),
    "model": ("config", "model", "name"),
    "seed": ("config", "seed"),
    "parameters": ("parameters",),
    "multiply_adds": ("multiply_adds",),
    "test_error": ("result", "test_error"),
    "test_top5_error": ("result", "test_top5_error"),
    "accuracy": ("result", "accuracy"),
    "pgd_error": ("result", "pgd_error"),
    "fgsm_error": ("result", "fgsm_error"),
    "mean_iou": ("result", "mean_iou"),
    "train_error": ("result", "train_error"),
    "train_seconds": ("result", "train_seconds"),
    "device": ("config", "execution", "device"),
}

#: Parts of the configuration whose settings follow, one column each, named part.setting.
_PARTS = ("dataset", "model", "recipe")


def _at(record: dict[str, Any], path: tuple[str, ...]) -> Any:
    found: Any = record
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _settings(record: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def add(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, part in value.items():
                add(f"{name}.{key}", part)
        else:
            found[name] = value

    for part in _PARTS:
        add(part, {key: value for key, value in record["config"][part].items() if key != "name"})
    return found


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def csv_of(store: Store) -> str:
    """The records of a store as CSV, in order of identity; cells are empty where a record has no such thing."""
    rows, settings = [], dict[str, None]()
    for record in store.records():
        own = _settings(record)
        settings |= dict.fromkeys(own)
        rows.append({name: _at(record, path) for name, path in COLUMNS.items()} | own)
    columns = (*COLUMNS, *sorted(settings))
    return as_csv(columns, [{name: _text(row.get(name)) for name in columns} for row in rows])
