"""A card beside every kept network, made from its record: what it is, on which data, with which result and limits.

``weights/ID.json`` is what :mod:`nsl.zoo` reads. Cards are written with the tables, when a run's rows are known.
"""

from __future__ import annotations

import json
from typing import Any

from reproduce.declare import plan
from reproduce.declare.shapes import CATALOGUE, title
from reproduce.run.files import visible, write_text
from reproduce.run.store import Store
from reproduce.show.rows import make_tables

#: What of a record's result a card repeats.
RESULTS = ("test_error", "test_top5_error", "accuracy", "half_width", "train_seconds")

LIMITS = (
    "one training with one seed; its result is of the last iteration, on test data that chose nothing; for research, "
    "not examined for any use"
)


def card(record: dict[str, Any], profile: plan.Profile, rows: list[dict[str, Any]], scope: str) -> dict[str, Any]:
    """The card of a record whose network stands for these rows of the tables."""
    config = record["config"]
    name = str(config["dataset"]["name"])
    label = rows[0]["label"] if rows else f"{config['model']['name']} (a trial)"
    return {
        "id": record["id"],
        "profile": profile.name,
        "label": label,
        "rows": rows,
        "data": {
            "name": name,
            "title": title(name),
            "licence": CATALOGUE[name].terms if name in CATALOGUE else "not in the catalogue of data sets",
            "fingerprint": config["dataset"]["fingerprint"],
        },
        "model": config["model"],
        "parameters": record["parameters"],
        "recipe": {key: value for key, value in config["recipe"].items() if not isinstance(value, dict)}
        or {key: json.dumps(value, sort_keys=True) for key, value in config["recipe"].items()},
        "seed": config["seed"],
        "result": {key: record["result"][key] for key in RESULTS if record["result"].get(key) is not None},
        "scope": scope,
        "limits": LIMITS,
        "config": config,
        "code": [{key: item.get(key) for key in ("commit", "version", "torch")} for item in record["attempts"]],
    }


def write_cards(profile: plan.Profile, store: Store) -> int:
    """Write the cards of all kept networks that have a record; returns how many there are."""
    kept = {path.stem for path in visible(store.kept, "*.safetensors")}
    if not kept:
        return 0
    rows: dict[str, list[dict[str, Any]]] = {identity: [] for identity in kept}
    scopes: dict[str, str] = {}
    for table in make_tables(plan.every(), profile, store):
        number = table.experiment.table
        for row in table.rows:
            for record in row.records.values():
                if record["id"] in kept:
                    found = {"table": number, "method": row.method.key, "label": row.method.label, "slot": row.slot}
                    rows[record["id"]].append(found)
                    scopes.setdefault(record["id"], str(profile.scope(row.slot, row.method)))
    written = 0
    for identity in sorted(kept):
        stored = store.read(identity)
        if stored is None:  # its record was deleted, as advised of a damaged one: the network is of no row
            (store.kept / f"{identity}.json").unlink(missing_ok=True)
        else:
            content = card(stored, profile, rows[identity], scopes.get(identity, "a trial on data that no table shows"))
            write_text(store.kept / f"{identity}.json", json.dumps(content, indent=1, sort_keys=True) + "\n")
            written += 1
    return written
