"""The store of run records: one JSON file a run, written atomically, checked on reading, safe for many
processes.

``<results>/<profile>/runs/<id>.json`` is a record, ``locks/<declared id>.lock`` is held (``filelock``) while the
run executes, ``checkpoints/<id>.pt`` is the training's own state until the record exists (``<id>.PART.pt`` of a
training in parts), and beside it ``<id>.attempts.json`` says who worked on it. A lock dies with the process that holds
it, so a killed run leaves nothing to clean up.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reproduce.declare.runs import declared_id, run_id
from reproduce.run.files import canonical_json, digest, finite, locked, visible, write_text

SCHEMA = 2

#: What two executions of the same run may differ in: when, where and how fast.
EPHEMERAL = ("attempts", "checksum")
EPHEMERAL_RESULTS = (
    "train_seconds",
    "evaluate_seconds",
    "images_per_second",
    "adapt_seconds",
    "predict_seconds",
    "backbone_attempts",
)


class RecordError(ValueError):
    """A record that cannot be trusted; the message names the file and what to do."""


def checksum(record: dict[str, Any]) -> str:
    """SHA-256 of the canonical JSON of the record without its ``checksum``."""
    return digest({key: value for key, value in record.items() if key != "checksum"})


def record_files(runs: Path) -> list[Path]:
    """The files of records in a folder."""
    return visible(runs, "*.json")


def read_record(path: Path) -> dict[str, Any]:
    """The record in ``path``; :class:`RecordError` when it is damaged or belongs to another file."""
    advice = "delete the file to run it again"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise RecordError(f"Run record {path} is not valid JSON; {advice}.") from None
    if isinstance(record, dict) and isinstance(record.get("schema"), int) and record["schema"] > SCHEMA:
        raise RecordError(f"Run record {path} is of the newer schema {record['schema']}; update this checkout.")
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise RecordError(f"Run record {path} is not of schema {SCHEMA}; {advice}.")
    if record.get("checksum") != checksum(record):
        raise RecordError(f"Run record {path} does not match its checksum; {advice}.")
    if record["id"] != path.stem or run_id(record["config"]) != record["id"]:
        raise RecordError(f"Run record {path} holds another run ({record['id']}); {advice}.")
    return record


class Store:
    """The records of one profile below ``results``."""

    def __init__(self, results: Path, profile: str) -> None:
        self.folder = results / profile
        self.runs = self.folder / "runs"
        self.locks = self.folder / "locks"
        self.checkpoints = self.folder / "checkpoints"
        self.kept = self.folder / "weights"
        self._known: dict[str, str] = {}  # identity of a record to its declared identity
        self._read: dict[Path, tuple[tuple[int, int, int], dict[str, Any]]] = {}

    def path(self, identity: str) -> Path:
        """Where the record of a run is or would be."""
        return self.runs / f"{identity}.json"

    def checkpoint(self, identity: str) -> Path:
        """Where the training keeps its state until the record is stored."""
        return self.checkpoints / f"{identity}.pt"

    def weights(self, identity: str) -> Path:
        """Where the trained network of a run is kept."""
        return self.kept / f"{identity}.safetensors"

    def read(self, identity: str) -> dict[str, Any] | None:
        """The record of a run, or None when there is none yet."""
        path = self.path(identity)
        return self._record(path) if path.exists() else None

    def _record(self, path: Path) -> dict[str, Any]:
        """:func:`read_record`, once a file as long as it stays as it is: tables and notebooks ask many times."""
        found = path.stat()
        now = (found.st_ino, found.st_mtime_ns, found.st_size)
        before, record = self._read.get(path, (None, {}))
        if now != before:
            record = read_record(path)
            self._read[path] = (now, record)
        return record

    def attempts(self, identity: str) -> Path:
        """Where the attempts at a run are noted until the record exists."""
        return self.checkpoints / f"{identity}.attempts.json"

    def find(self, declared: str) -> dict[str, Any] | None:
        """The record of a declared run, however it was executed; of several the first by execution."""
        for path in record_files(self.runs):
            if path.stem not in self._known:
                self._known[path.stem] = declared_id(self._record(path)["config"])
        found = [self.read(identity) for identity, known in self._known.items() if known == declared]
        present = [record for record in found if record is not None]
        return min(present, key=execution_order, default=None)

    def write(self, record: dict[str, Any]) -> Path:
        """Store ``record`` (without ``checksum``, which is added) and drop the run's checkpoints and attempts."""
        complete = finite(record)
        complete["checksum"] = checksum(complete)
        path = self.path(complete["id"])
        # One line a key: small files whose history can still be read.
        lines = [f"{json.dumps(key)}: {canonical_json(complete[key])}" for key in sorted(complete)]
        write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")
        self.drop(complete["id"])
        return path

    def drop(self, identity: str) -> None:
        """Remove the checkpoints and attempts of a run."""
        for leftover in self.checkpoints.glob(f"{identity}.*"):
            leftover.unlink(missing_ok=True)

    def tidy(self) -> None:
        """Remove the checkpoints and attempts of stored runs: a process killed right after its record left them."""
        for leftover in self.checkpoints.glob("*.*"):
            if self.path(leftover.name.partition(".")[0]).exists():
                leftover.unlink(missing_ok=True)

    def records(self) -> Iterator[dict[str, Any]]:
        """All records, in order of identity, to be read only: others get the same objects."""
        for path in record_files(self.runs):
            yield self._record(path)

    @contextmanager
    def claim(self, declared: str, identity: str) -> Iterator[bool]:
        """Hold the lock of a declared run to execute it as ``identity``; yields False when another process holds it."""
        with locked(self.locks / f"{declared}.lock", wait=False) as mine:
            if mine:
                # Whoever holds the lock is the only writer: what a killed predecessor left half-written can go.
                for folder in (self.checkpoints, self.runs, self.kept):
                    for leftover in folder.glob(f"*{identity}*.partial"):
                        leftover.unlink(missing_ok=True)
            yield mine

    def running(self, declared: str) -> bool:
        """Whether some process holds the declared run's lock now; False where locks cannot be asked for.

        A shared lock of a file that is only read: network and read-only file systems refuse more than that.
        """
        try:
            import fcntl

            with (self.locks / f"{declared}.lock").open("rb") as stream:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except (ImportError, OSError):
            pass
        return False


def execution_order(record: dict[str, Any]) -> str:
    """Sorting key of records of one declared run."""
    return canonical_json(record["config"]["execution"])


def essence(record: dict[str, Any]) -> dict[str, Any]:
    """The part of a record that must not depend on when, where or how often it was interrupted."""
    kept = {key: value for key, value in record.items() if key not in EPHEMERAL}
    kept["result"] = {key: value for key, value in record["result"].items() if key not in EPHEMERAL_RESULTS}
    return kept


def differences(first: Store, second: Store, common: bool = False) -> list[str]:
    """One sentence for every difference between two stores, timings and environment aside.

    With ``common`` only of the runs that both have.
    """
    left = {record["id"]: essence(record) for record in first.records()}
    right = {record["id"]: essence(record) for record in second.records()}
    found = []
    for identity in sorted(left.keys() & right.keys() if common else left.keys() | right.keys()):
        if identity not in left or identity not in right:
            missing = first.folder if identity not in left else second.folder
            found.append(f"Run {identity} is missing in {missing}.")
            continue
        a, b = left[identity], right[identity]
        if canonical_json(a) != canonical_json(b):
            parts = sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))
            found.append(f"Run {identity} differs in: {', '.join(parts)}.")
    return found
