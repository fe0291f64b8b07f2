"""records.csv has every stored record once, with its settings as columns."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from reproduce.declare import plan
from reproduce.run.store import Store
from reproduce.show.flat import csv_of
from reproduce.show.tables import write_tables
from tests.reproduce.helpers import fill


def test_every_record_is_a_line_with_its_settings_and_results(tmp_path: Path) -> None:
    profile, store = plan.profile("paper"), Store(tmp_path, "paper")
    fill(store, profile, 1, {"cnn": [8.0, 8.5], "dynamic": [7.0]})
    write_tables((1,), profile, store)
    text = (store.folder / "records.csv").read_text(encoding="utf-8")
    rows = {row["id"]: row for row in csv.DictReader(io.StringIO(text))}
    records = {record["id"]: record for record in store.records()}
    assert rows.keys() == records.keys()
    for identity, record in records.items():
        assert float(rows[identity]["test_error"]) == record["result"]["test_error"]
        assert rows[identity]["model"] == record["config"]["model"]["name"]
        assert rows[identity]["recipe.iterations"] == str(record["config"]["recipe"]["iterations"])


def test_the_stored_records_of_all_tasks_fit_into_one_table() -> None:
    store = Store(Path(__file__).parents[2] / "results", "cpu")
    rows = list(csv.DictReader(io.StringIO(csv_of(store))))
    assert len(rows) == len(list(store.records()))
    assert {row["task"] for row in rows} >= {"", "few-shot"}
