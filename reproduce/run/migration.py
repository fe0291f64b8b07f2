"""Carrying stored records along when what identifies a run changes.

Schema 1 knew neither how a run was executed nor its attempts, and its dynamic networks had the release's predictor
without saying so, which was then the default. Numbers are not touched: a record gets a new identity and new words for
what it always was, and is checked before and after.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reproduce.declare.runs import run_id
from reproduce.run.store import SCHEMA, RecordError, Store, checksum, record_files

_KERNELS = {"compiled": "native", "eager": "plain"}
#: Models of schema 1 whose predictor was the release's where they named none.
_DYNAMIC = (
    "nsn9_dynamic_diagonal",
    "nsn9_dynamic_unconstrained",
    "nsn10_dynamic_diagonal",
    "dynamic_nsn",
    "meta_dynamic_nsn",
)


def migrated(record: dict[str, Any]) -> dict[str, Any]:
    """A record of schema 1 in the words of schema 2."""
    config, environment = dict(record["config"]), record["environment"]
    if config["model"]["name"] in _DYNAMIC and "predictor" not in config["model"]:
        config["model"] = {**config["model"], "predictor": "release"}
    config["execution"] = {
        "device": "cpu" if environment["device"] == "cpu" else "cuda",
        "kernels": _KERNELS[environment["kernels"]],
        "matmul": "highest",  # PyTorch's default, which nothing changed then
    }
    kept = {
        key: value
        for key, value in record.items()
        if key not in ("code", "environment", "started", "finished", "checksum")
    }
    machine = {key: environment[key] for key in ("python", "platform", "cpu", "cores", "torch", "device")}
    seconds = record["result"]["train_seconds"] + (record["result"].get("evaluate_seconds") or 0.0)
    attempt = {**record["code"], **machine, "started": record["started"], "seconds": round(seconds, 1)}
    return {**kept, "schema": SCHEMA, "id": run_id(config), "config": config, "attempts": [attempt]}


def migrate(folder: Path) -> list[str]:
    """Rewrite the records of schema 1 in a profile's folder; returns a sentence for each.

    Raises:
        RecordError: a record is damaged; nothing of it is changed, those before it are done.
    """
    store = Store(folder.parent, folder.name)
    done = []
    for path in record_files(store.runs):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise RecordError(f"Run record {path} is not valid JSON; delete the file to run it again.") from None
        if record.get("schema") != 1:
            continue
        if record.get("checksum") != checksum(record) or record["id"] != path.stem:
            raise RecordError(f"Run record {path} does not match its checksum; delete the file to run it again.")
        new = migrated(record)
        store.write(new)
        written = store.read(new["id"])
        assert written is not None
        if any(written[key] != record[key] for key in ("result", "observations", "parameters", "status")):
            raise RecordError(f"Run record {path} could not be carried along unchanged; it was left as it is.")
        path.unlink()
        done.append(f"{record['id']} is now {new['id']}.")
    return done
