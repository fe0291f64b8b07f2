"""The commands that are attacked, each small, and what each leaves behind."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reproduce.run.store import Store, essence
from reproduce.run.worker import NslBackend

ROOT = Path(__file__).parents[2]
#: A profile of seconds, and the smallest table of Table 1's data set.
PROFILE = "demo+slot.cifar10.recipe.iterations=30+slot.cifar10.recipe.evaluations=1+width=4"
TABLE = "3"
CLASSES = ("n01440764", "n01443537")


class EagerBackend(NslBackend):
    """Keeps a checkpoint of every step, so that a run that is killed goes on in its middle."""

    checkpoint_minutes = 0.0


@dataclass(frozen=True)
class Victim:
    """A command: its arguments after ``python -m``, what it needs in its folder, and what it stored there."""

    name: str
    arguments: Callable[[Path], list[str]]
    outcome: Callable[[Path], Any]
    prepare: Callable[[Path, Mapping[str, Undisturbed]], None] = lambda folder, known: None


class Undisturbed:
    """A command that was left alone: its folder, what it stored and how long it took.

    Raises:
        ValueError: it fails without being disturbed.
    """

    def __init__(self, victim: Victim, temporary: Path, known: dict[str, Undisturbed]) -> None:
        self.victim, self.folder, self.caches = victim, temporary / victim.name, temporary / "cache"
        self.known = known
        if victim.name == "tables" and "run" not in known:
            known["run"] = Undisturbed(VICTIMS["run"], temporary, known)
        # The first call fills the caches (kernels, fingerprints), so that the second one's time is the usual one.
        for folder in (temporary / f"{victim.name}-first", self.folder):
            folder.mkdir()
            self.prepare(folder)
            begun = time.monotonic()
            process = self.start(folder)
            _, err = process.communicate()
            self.seconds = time.monotonic() - begun
            if process.returncode:
                raise ValueError(f"{victim.name} fails undisturbed: {err.strip()[-300:]}")
        self.outcome = victim.outcome(self.folder)
        if self.outcome != victim.outcome(temporary / f"{victim.name}-first"):
            raise ValueError(f"{victim.name} stores something else the second time, though nothing disturbed it.")

    def prepare(self, folder: Path) -> None:
        """Put what the command reads into ``folder``."""
        self.victim.prepare(folder, self.known)

    def start(self, folder: Path, limit: Callable[[], None] | None = None) -> subprocess.Popen[str]:
        """The command in a process group of its own; ``limit`` is called in the child before it begins."""
        places = {"XDG_CACHE_HOME": str(self.caches), "NSL_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, "-m", *self.victim.arguments(folder)],
            cwd=ROOT,
            env={**os.environ, **places},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=limit,
        )


def _hashes(folder: Path, pattern: str) -> dict[str, str]:
    """Names and hashes of the files in a folder."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob(pattern))}


def _timeless(value: Any) -> Any:
    """``value`` without what differs from call to call: times and the machine."""
    if isinstance(value, dict):
        return {
            key: _timeless(item) for key, item in value.items() if "second" not in key and key not in _CIRCUMSTANCES
        }
    return [_timeless(item) for item in value] if isinstance(value, list) else value


_CIRCUMSTANCES = ("date", "started", "finished", "checksum", "environment", "images_per_second")


def _common(folder: Path) -> list[str]:
    chosen = ["--profile", PROFILE, "--tables", TABLE, "--seeds", "1", "--jobs", "2"]
    return [*chosen, "--results", str(folder / "results"), "--backend", f"{__name__}:EagerBackend"]


def _records(folder: Path) -> Any:
    store = Store(folder / "results", PROFILE)
    known = json.loads((store.folder / "data.json").read_text("utf-8"))
    return {record["id"]: essence(record) for record in store.records()}, known


def _copy_records(folder: Path, known: Mapping[str, Undisturbed]) -> None:
    shutil.copytree(known["run"].folder / "results", folder / "results")


def _tables(folder: Path) -> Any:
    place = folder / "results" / PROFILE
    return _hashes(place / "tables", "*"), _hashes(place, "summary.md"), _records(folder)


def _claims(folder: Path) -> Any:
    return _timeless(json.loads((folder / "theory" / "claims.json").read_text("utf-8")))


def _draw_pictures(folder: Path, known: Mapping[str, Undisturbed]) -> None:
    """Tiny-ImageNet's layout with noise."""
    from PIL import Image

    place, noise, lines = folder / "data" / "tiny-imagenet-25", np.random.default_rng(0), []
    (place / "val" / "images").mkdir(parents=True)
    for wnid in CLASSES:
        (place / "train" / wnid / "images").mkdir(parents=True)
        for number in range(40):
            pixels = Image.fromarray(noise.integers(0, 256, (64, 64, 3), dtype=np.uint8))
            pixels.save(place / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", "JPEG")
        pixels.save(place / "val" / "images" / f"val_{wnid}.JPEG", "JPEG")
        lines.append(f"val_{wnid}.JPEG\t{wnid}\t0\t0\t1\t1\n")
    (place / "wnids.txt").write_text("\n".join(CLASSES) + "\n")
    (place / "val" / "val_annotations.txt").write_text("".join(lines))


def _pack(folder: Path) -> list[str]:
    place = str(folder / "data")
    return ["nsl.data.imagenet", "pack", "tiny_imagenet_25", "--root", place, "--image-size", "64", "--workers", "2"]


def _train(folder: Path) -> list[str]:
    network = ["--model", "cnn9", "--option", "width=4", "--data", "digits", "--augment", "none"]
    recipe = ["--iterations", "400", "--batch-size", "16", "--evaluations", "2", "--device", "cpu"]
    kept = ["--checkpoint", str(folder / "run.pt"), "--checkpoint-minutes", "0.001"]
    return ["nsl.train", *network, *recipe, *kept, "--result", str(folder / "result.json")]


VICTIMS = {
    victim.name: victim
    for victim in (
        Victim("run", lambda folder: ["reproduce", "run", *_common(folder)], _records),
        Victim("tables", lambda folder: ["reproduce", "tables", *_common(folder)], _tables, _copy_records),
        Victim(
            "theory",
            lambda folder: ["theory", "claims", "--quick", "--only", "4", "--out", str(folder / "theory")],
            _claims,
        ),
        Victim("pack", _pack, lambda folder: _hashes(folder / "cache", "packed/*/*.u8"), _draw_pictures),
        Victim("train", _train, lambda folder: _timeless(json.loads((folder / "result.json").read_text("utf-8")))),
    )
}
