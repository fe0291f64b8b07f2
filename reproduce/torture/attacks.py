"""The attacks: each disturbs a command once, gives the same command again and compares what was stored."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from reproduce.run.store import Store
from reproduce.torture.victims import PROFILE, Undisturbed

#: What a file system gives away at once, in bytes.
PAGE = 4096


class Lost(Exception):
    """Something was lost; the message says what."""


@dataclass
class Score:
    """What came of an attack: ``struck`` are the tries in which the command was really disturbed."""

    tries: int = 0
    struck: int = 0
    lost: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Attack:
    """An attack in words, the commands it suits, and one try of it; the try says whether it disturbed anything."""

    what: str
    victims: tuple[str, ...]
    attack: Callable[[Undisturbed, Path, random.Random], bool]


def _end(process: subprocess.Popen[str]) -> None:
    """Kill the whole process group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def _again(undisturbed: Undisturbed, folder: Path) -> None:
    """The same command to its end, which must store what the undisturbed one did."""
    process = undisturbed.start(folder)
    _, err = process.communicate()
    if process.returncode:
        raise Lost(f"the command given again ends with code {process.returncode}: {_last(err)}")
    _compare(undisturbed, folder)


def _compare(undisturbed: Undisturbed, folder: Path) -> None:
    try:
        found = undisturbed.victim.outcome(folder)
    except (OSError, ValueError) as error:
        raise Lost(f"what was stored cannot be read: {error}") from None
    if found != undisturbed.outcome:
        raise Lost("what was stored is not what the undisturbed command stored")


def _last(err: str) -> str:
    return (err.strip().splitlines() or ["nothing on the standard error stream"])[-1][:300]


def kill(undisturbed: Undisturbed, folder: Path, chance: random.Random) -> bool:
    """SIGKILL to the process group at a random moment."""
    undisturbed.prepare(folder)
    process = undisturbed.start(folder)
    with suppress(subprocess.TimeoutExpired):
        process.wait(chance.uniform(0, undisturbed.seconds))
    struck = process.poll() is None
    _end(process)
    _again(undisturbed, folder)
    return struck


@contextmanager
def _own_disk(folder: Path) -> Iterator[bool]:
    """``folder`` as a file system of its own, where mounting is permitted."""
    try:
        mounted = _mount(folder, "-t", "tmpfs", "torture")
    except FileNotFoundError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)


def _mount(folder: Path, *arguments: str) -> bool:
    return subprocess.run(["mount", *arguments, str(folder)], capture_output=True).returncode == 0


def _pages(folder: Path) -> int:
    """Bytes that the files take in whole pages."""
    return sum(-(-path.stat().st_size // PAGE) * PAGE for path in folder.rglob("*") if path.is_file())


def full_disk(undisturbed: Undisturbed, folder: Path, chance: random.Random) -> bool:
    """A disk too small for what is stored, or files that may not grow; then room again."""
    import resource  # not on Windows, where the other commands import this file too

    share, ends = chance.uniform(0.05, 0.9), undisturbed.folder
    with _own_disk(folder) as mounted:
        undisturbed.prepare(folder)
        begun = _pages(folder)
        size = int(begun + share * (_pages(ends) - begun))
        most = int(share * max(path.stat().st_size for path in ends.rglob("*") if path.is_file()))
        if mounted and not _mount(folder, "-o", f"remount,size={size}"):
            raise Lost(f"the disk cannot be made {size} bytes small")

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

        process = undisturbed.start(folder, None if mounted else limit)
        _, err = process.communicate()
        if process.returncode < 0 or "Traceback" in err:
            raise Lost(f"code {process.returncode} on a full disk: {_last(err)}")
        if process.returncode == 0:
            _compare(undisturbed, folder)
        if mounted:
            _mount(folder, "-o", "remount,size=1g")
        _again(undisturbed, folder)
    return process.returncode != 0 or "cannot be written" in err


def together(undisturbed: Undisturbed, folder: Path, chance: random.Random) -> bool:
    """Two of the same command at once, the second a random moment later."""
    undisturbed.prepare(folder)
    first = undisturbed.start(folder)
    time.sleep(chance.uniform(0, undisturbed.seconds / 2))
    second, struck = undisturbed.start(folder), first.poll() is None
    for process in (first, second):
        _, err = process.communicate()
        if process.returncode:
            _end(second)
            raise Lost(f"one of two commands ends with code {process.returncode}: {_last(err)}")
    _compare(undisturbed, folder)
    if undisturbed.victim.name == "run":
        twice = [record["id"] for record in Store(folder / "results", PROFILE).records() if len(record["attempts"]) > 1]
        if twice:
            raise Lost(f"executed more than once: {', '.join(twice)}")
    return struck


def flip(undisturbed: Undisturbed, folder: Path, chance: random.Random) -> bool:
    """One bit of a checkpoint: named, or the run begins again; never another result in silence."""
    undisturbed.prepare(folder)
    process, file = undisturbed.start(folder), folder / "run.pt"
    while process.poll() is None and not file.exists():
        time.sleep(0.01)
    _end(process)
    if not file.exists() or (folder / "result.json").exists():
        return False
    content = bytearray(file.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)
    process = undisturbed.start(folder)
    _, err = process.communicate()
    if process.returncode == 0:
        _compare(undisturbed, folder)
        return True
    if "Traceback" in err or file.name not in err:
        raise Lost(f"a damaged checkpoint is not named: {_last(err)}")
    file.unlink()
    _again(undisturbed, folder)
    return True


ATTACKS = {
    "kill": Attack("kill -9 of the process group", ("run", "tables", "theory", "pack", "train"), kill),
    "disk": Attack("a full disk", ("run", "tables", "pack", "train"), full_disk),
    "together": Attack("two commands at once on one folder", ("run", "tables", "pack"), together),
    "flip": Attack("one flipped bit in a checkpoint", ("train",), flip),
}
