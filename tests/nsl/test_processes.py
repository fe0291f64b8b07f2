"""Worker processes end with the one that started them, and Ctrl-C is one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

WORK = """
import os, sys, time
from pathlib import Path
from nsl.processes import workers

def sleep(folder):
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(60)

if __name__ == "__main__":
    try:
        with workers(2) as pool:
            for waiting in [pool.submit(sleep, sys.argv[1]) for _ in range(2)]:
                waiting.result()
    except KeyboardInterrupt:
        sys.exit(130)
"""


def started(command: list[str]) -> subprocess.Popen[str]:
    """A command in a process group of its own, which Ctrl-C reaches as it would from a terminal."""
    return subprocess.Popen(
        command,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def until(condition: Callable[[], bool], seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def alive(number: str) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_when_the_process_that_started_them_does(tmp_path: Path, number: signal.Signals) -> None:
    script, folder = tmp_path / "work.py", tmp_path / "pids"
    script.write_text(WORK)
    folder.mkdir()
    process = started([sys.executable, str(script), str(folder)])
    until(lambda: len(list(folder.iterdir())) == 2)
    pids = [path.name for path in folder.iterdir()]
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, said = process.communicate(timeout=300)
    until(lambda: not any(alive(pid) for pid in pids), 10)
    assert "Traceback" not in said
    assert process.returncode == (130 if number == signal.SIGINT else -number)


IMPORTING = """
import multiprocessing, sys, time
from pathlib import Path
from nsl.processes import workers
from reproduce.run.executors import unheard

if __name__ == "__mp_main__":  # the worker, which reads this file first
    Path(sys.argv[1]).touch()
    time.sleep(60)

def by_pool():
    with workers(1) as pool:
        pool.submit(print).result()

def by_hand():
    process = multiprocessing.get_context("spawn").Process(target=print, daemon=True)
    with unheard():
        process.start()
    process.join()

if __name__ == "__main__":
    try:
        {"pool": by_pool, "hand": by_hand}[sys.argv[2]]()
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.parametrize("way", ["pool", "hand"])
def test_a_worker_that_still_imports_does_not_hear_ctrl_c(tmp_path: Path, way: str) -> None:
    script, begun = tmp_path / "work.py", tmp_path / "begun"
    script.write_text(IMPORTING)
    process = started([sys.executable, str(script), str(begun), way])
    until(begun.exists)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=50)
    assert (process.returncode, said) == (130, "")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["theory", "claims", "--only", "19", "--out", "{folder}/out"], "Interrupted; claims that were checked"),
        (
            ["nsl.train", "--model", "cnn9", "--data", "digits", "--iterations", "99999", "--result", "{folder}/out/r"],
            "Interrupted; with --checkpoint",
        ),
    ],
)
def test_ctrl_c_is_one_line(tmp_path: Path, command: list[str], words: str) -> None:
    module, *rest = (part.replace("{folder}", str(tmp_path)) for part in command)
    process = started([sys.executable, "-u", "-m", module, *rest])
    until((tmp_path / "out").exists)  # made once all is imported, before the work
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=300)
    # CPython ends itself by the signal, which a shell reports as 130 too, where the key press met code in `exec`.
    assert process.returncode in (130, -signal.SIGINT)
    assert said.startswith(words)
    assert len(said.splitlines()) == 1
