"""Which data a run sees, known without loading them again.

A run's identity contains the data's fingerprint, and computing it means loading the data (and torch). It
is kept in two places: ``<results>/<profile>/data.json`` says which data the profile's records were made
from, and travels with the records, so that tables can be made where the data are not; a cache in the
user's cache folder says which files with which sizes and dates had which fingerprint, so that an
unchanged data folder is not read again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from reproduce import tasks
from reproduce.declare.runs import Run
from reproduce.declare.shapes import CATALOGUE
from reproduce.run.files import canonical_json, digest, locked, write_text
from reproduce.run.store import read_record, record_files

#: What a failed run says when the fingerprint it was planned with is not that of the data.
DROPPED = "its entry is dropped"

#: Key of ``data.json`` that holds the hash of the others.
CHECKSUM = "checksum"

#: Files of the data folder that a task's own set, which the catalogue does not have, may be read from.
PATTERNS = ("*", "*/*")

#: Bytes of a set's files above which they are not hashed, so that none can be named when one changes in silence.
MOST_HASHED = 2 << 30

Loader = Callable[[Run, str | None], str]


def _home_cache() -> Path:
    """``~/.cache``, or what ``nsl`` uses in its place; ``nsl``, and so torch, is loaded only where there is no home."""
    try:
        return Path.home() / ".cache"
    except RuntimeError:
        from nsl.folders import home_cache

        return home_cache()


def default_root() -> Path:
    """Where ``nsl.data.load`` looks for data when no folder is named."""
    named = os.environ.get("NSL_DATA")
    return Path(os.path.expanduser(named)) if named else _home_cache() / "nsl"


def check_folder(data: str | None) -> None:
    """Complain when a data folder is named, by DATA or NSL_DATA, that does not exist."""
    named, name, advice = data, "DATA", "leave DATA out"
    if not data:
        named, name, advice = os.environ.get("NSL_DATA"), "NSL_DATA", "unset NSL_DATA"
    if named and not Path(os.path.expanduser(named)).is_dir():
        raise FileNotFoundError(
            f"{name}={named} is not a folder; name the folder that holds the data, or {advice} to download them."
        )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _signature(run: Run, data: str | None, loader: str) -> str:
    """A hash that changes whenever the contents of the run's data set may have changed."""
    dataset = run.dataset
    sources = Path(__file__).parents[2] / "nsl" / "data"
    parts: list[Any] = [dataset, loader]
    entry = CATALOGUE.get(dataset["name"])
    if entry and entry.embedded:
        parts.append([path.read_text(encoding="utf-8") for path in sorted(sources.glob("*.py"))])
        parts.append({package: _version(package) for package in entry.packages})
    else:
        if entry is None:  # its task's own: what that makes is determined by its file too
            parts.append(tasks.source(run.task).read_text(encoding="utf-8"))
        parts.append(_states(_files(run, data)))
    return digest(parts)


def _states(files: list[Path]) -> list[tuple[str, int, int]]:
    """Path, size and time of the last change of every file that is still there: others may be writing beside us."""
    found: list[tuple[str, int, int]] = []
    for path in files:
        with suppress(FileNotFoundError):
            state = path.stat()
            found.append((str(path.resolve()), state.st_size, state.st_mtime_ns))
    return found


def _files(run: Run, data: str | None) -> list[Path]:
    """Files of the data folder that the run's data set may be read from: neither hidden, as half-written ones are, nor
    what is remembered here, which may lie in the same folder."""
    entry = CATALOGUE.get(run.dataset["name"])
    if entry and entry.embedded:
        return []
    root = Path(os.path.expanduser(data)) if data else default_root()
    patterns = entry.patterns if entry else PATTERNS
    ours = {_cache_path(), _files_path()}
    found = {path for pattern in patterns for path in root.glob(pattern)} - ours
    hidden = re.compile(r"(^|/)\.")
    return sorted(p for p in found if p.is_file() and not hidden.search(p.relative_to(root).as_posix()))


def _hashed(files: list[Path]) -> dict[str, str]:
    """SHA-256 by path; nothing of sets above `MOST_HASHED`, and of what cannot be read."""
    found: dict[str, str] = {}
    with suppress(OSError):
        if sum(path.stat().st_size for path in files) > MOST_HASHED:
            return found
        for path in files:
            with path.open("rb") as stream:
                found[str(path.resolve())] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def changed(runs: Iterable[Run], data: str | None) -> list[str]:
    """Files of the runs' data that differ from what they were when the fingerprints were remembered."""
    known = _read_json(_files_path())
    now: dict[str, str] = {}
    for run in {dataset_key(run.dataset): run for run in runs}.values():
        now |= _hashed(_files(run, data))
    return sorted(path for path, content in now.items() if known.get(path, content) != content)


def _cache_path() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or _home_cache()) / "nsl" / "fingerprints.json"


def _files_path() -> Path:
    """What the files contained then: a file can change and keep its size and date."""
    return _cache_path().with_name("files.json")


def _read_json(path: Path) -> dict[str, str]:
    """A JSON object of strings; empty when the file is absent or unreadable, since it can be made again."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(key): str(value) for key, value in found.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def forget(fingerprint: str) -> Path:
    """Drop a fingerprint that turned out wrong from the user's cache; returns the path of the cache."""
    _update(_cache_path(), lambda known: {key: value for key, value in known.items() if value != fingerprint})
    return _cache_path()


def _update(path: Path, change: Callable[[dict[str, str]], dict[str, str]]) -> None:
    """Change what is remembered there, while other commands wait: what they have added or dropped stays so."""
    # A cache folder that cannot be written or locked costs time, not correctness. Hidden files are no data.
    with suppress(OSError), locked(path.with_name(f".{path.stem}.lock")):
        before = _read_json(path)
        after = change(dict(before))
        if after != before:
            write_text(path, json.dumps(after, indent=1, sort_keys=True) + "\n")


def dataset_key(dataset: dict[str, Any]) -> str:
    """How ``data.json`` names a data set: its name and options as canonical JSON."""
    return canonical_json(dataset)


def _kept(path: Path) -> dict[str, str]:
    """What ``data.json`` says; nothing where it is absent or, which is said on stderr, damaged."""
    if not path.exists():
        return {}
    try:
        known = {str(key): str(value) for key, value in json.loads(path.read_text(encoding="utf-8")).items()}
        intact = known.pop(CHECKSUM, None) in (None, digest(known))
    except (OSError, ValueError, AttributeError):
        known, intact = {}, False
    if intact:
        return known
    print(f"{path} is damaged; what the data are is taken from the records beside it.", file=sys.stderr, flush=True)
    return {}


@cache
def _of_record(path: Path, written: int) -> tuple[str, str]:
    """The data that a record names, by :func:`dataset_key`, and their fingerprint; read once a time of writing."""
    dataset = dict(read_record(path)["config"]["dataset"])
    fingerprint = str(dataset.pop("fingerprint", ""))
    return dataset_key(dataset), fingerprint


def _of_records(folder: Path) -> dict[str, set[str]]:
    """Fingerprints that the stored records themselves name, by :func:`dataset_key`."""
    found: dict[str, set[str]] = {}
    for path in record_files(folder / "runs"):
        key, fingerprint = _of_record(path, path.stat().st_mtime_ns)
        found.setdefault(key, set()).add(fingerprint)
    return found


def recorded(folder: Path) -> dict[str, str]:
    """Fingerprints by :func:`dataset_key` that the records of a profile (in ``folder``) were made with.

    ``data.json`` says so; what it lacks, or all where it is damaged, the records say themselves.

    Raises:
        ValueError: records of one data set name several fingerprints, and ``data.json`` does not choose.
        RecordError: a record is damaged.
    """
    known = _kept(folder / "data.json")
    for key, fingerprints in _of_records(folder).items():
        if key not in known and len(fingerprints) > 1:
            raise ValueError(
                f"{folder / 'data.json'} does not say which data {key} are, and the records beside it were made with "
                f"{' and '.join(sorted(fingerprints))}; run the profile again, or delete the records of other data."
            )
        known.setdefault(key, min(fingerprints))
    return known


def current(
    folder: Path, runs: Iterable[Run], data: str | None, load: Loader, loader: str
) -> dict[str, str]:
    """Fingerprints of the runs' data as they are now; ``load`` is called only for those that may have changed.

    ``loader`` names what loads, so that two of them do not share what is remembered. The answer is also
    written to ``data.json`` in ``folder``, see :func:`keep`.
    """
    cache, found = _read_json(_cache_path()), dict[str, str]()
    hashes, fresh = dict[str, str](), dict[str, str]()
    for key, run in {dataset_key(run.dataset): run for run in runs}.items():
        signature = _signature(run, data, loader)
        if signature not in cache:
            fingerprint = load(run, data)
            # Loading may have downloaded files: what is remembered is how they are now.
            fresh[_signature(run, data, loader)] = fingerprint
            hashes |= _hashed(_files(run, data))
            found[key] = fingerprint
        else:
            found[key] = cache[signature]
    if fresh:
        _update(_cache_path(), lambda known: known | fresh)
        _update(_files_path(), lambda known: known | hashes)
    keep(folder, found)
    return found


def keep(folder: Path, found: dict[str, str]) -> None:
    """Note in ``data.json`` of a profile which data its tables are of.

    Other data than those of stored records are noted once a record of them is stored too: until then the tables show
    what there is.
    """
    # Other commands wait: between reading and writing nothing may be added that would be lost.
    with locked(folder / "locks" / "data.lock"):
        path = folder / "data.json"
        known = _kept(path)
        new = {key: mark for key, mark in found.items() if known.get(key) != mark}
        if new and any(key in known for key in new):
            stored = _of_records(folder)
            new = {key: mark for key, mark in new.items() if not _waits(stored.get(key, set()), known.get(key), mark)}
        if new or not path.exists():
            known |= new
            write_text(path, json.dumps(known | {CHECKSUM: digest(known)}, indent=1, sort_keys=True) + "\n")


def _waits(stored: set[str], before: str | None, mark: str) -> bool:
    """Whether records are of the data noted before, and none yet of the new ones."""
    return before in stored and mark not in stored


def replaced(folder: Path, found: dict[str, str]) -> list[str]:
    """A line for every data set that is not the one of the stored records."""
    known = recorded(folder)
    return [
        f"The data {key} (fingerprint {mark}) are not those of the stored records ({known[key]}): runs are made anew, "
        "and the tables show the stored ones until the first of the new is there."
        for key, mark in found.items()
        if known.get(key, mark) != mark
    ]
