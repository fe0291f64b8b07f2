"""Executing many runs in worker processes on this machine.

Each worker is a spawned process that takes one run after another over a pipe. Only the parent decides
what runs next; a worker that dies loses its run, which is reported, and is replaced. A run that another
invocation is executing is looked at again later. When the parent dies, however it dies, its workers end
themselves.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from reproduce import tasks
from reproduce.declare.runs import CLASSIFICATION, Run
from reproduce.run.store import Store
from reproduce.run.worker import Backend, execute, load_backend

#: How an attempt at a run ended, and a sentence.
Answer = tuple[str, str]

_RETRY_SECONDS = 2.0


@dataclass
class Report:
    """What became of the runs that were asked for."""

    finished: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Job:
    run: Run
    fingerprint: str


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    job: _Job | None = None


def end_with_parent() -> None:
    """Wait for the parent process to end, then end this one: for a thread of a worker process."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def attempt(run: Run, fingerprint: str, store: Store, backend: Backend, data: str | None, progress: bool) -> Answer:
    """Execute a run: ("done", what came out), ("failed", why), or ("busy", "") while another process has it."""
    try:
        record = execute(run, fingerprint, store, backend, data, progress)
        return ("busy", "") if record is None else ("done", summary(record))
    except Exception as error:
        known = isinstance(error, ValueError | OSError)
        text = str(error) if known else f"{type(error).__name__}: {error}"
        if not known:
            traceback.print_exc()
        return "failed", " ".join(text.split())


def _serve(pipe: Connection, store: Store, backend_path: str, data: str | None, progress: bool) -> None:
    """A worker's loop: receive a job, execute it, answer (status, text)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=end_with_parent, daemon=True).start()
    backend = load_backend(backend_path)
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        if job is None:
            return
        pipe.send(attempt(job.run, job.fingerprint, store, backend, data, progress))


def summary(record: dict[str, Any]) -> str:
    """One line that says how a run ended."""
    result = record["result"]
    if record["status"] == "diverged":
        return f"diverged ({result.get('divergence') or 'no reason recorded'})"
    metric = tasks.named(record["config"].get("task", CLASSIFICATION)).metric
    return f"{metric.title} {result[metric.name]:.2f} % in {result['train_seconds']:.0f} s"


class LocalExecutor:
    """Executes runs in up to ``jobs`` processes of ``threads`` threads each."""

    def __init__(self, store: Store, jobs: int, threads: int, backend: str, data: str | None) -> None:
        if jobs < 1:
            raise ValueError(f"JOBS={jobs} is too small; at least one process is needed.")
        self.store = store
        self.jobs = jobs
        self.threads = threads
        self.backend = backend
        self.data = data

    def _start(self, progress: bool) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_serve, args=(theirs, self.store, self.backend, self.data, progress), daemon=True
        )
        # Libraries read the thread count once, when they are first imported in the worker.
        before = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        os.environ.update(dict.fromkeys(before, str(self.threads)))
        try:
            process.start()
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
        theirs.close()
        return _Worker(process, ours)

    def execute(
        self, jobs: list[tuple[Run, str]], say: Callable[[str], None] = lambda line: print(line, flush=True)
    ) -> Report:
        """Execute every (run, data fingerprint); returns when all are stored or have failed."""
        report = Report()
        waiting: deque[tuple[float, _Job]] = deque((0.0, _Job(run, mark)) for run, mark in jobs)
        total, done = len(waiting), 0
        workers: list[_Worker] = []
        progress = self.jobs == 1 and sys.stderr.isatty()
        try:
            while waiting or any(worker.job for worker in workers):
                now = time.monotonic()
                for worker in list(workers):
                    ready = next((item for item in waiting if item[0] <= now), None)
                    if worker.job is None and ready is not None:
                        try:
                            worker.pipe.send(ready[1])
                        except OSError:  # it died while idle and lost no run: another one takes its place
                            worker.process.join(timeout=5)
                            worker.pipe.close()
                            workers.remove(worker)
                            continue
                        waiting.remove(ready)
                        worker.job = ready[1]
                if len(workers) < min(self.jobs, total) and any(item[0] <= now for item in waiting):
                    workers.append(self._start(progress))
                    continue
                busy = [worker for worker in workers if worker.job]
                if not busy:
                    time.sleep(0.1)
                    continue
                for ready_pipe in wait([worker.pipe for worker in busy], timeout=0.5):
                    worker = next(item for item in busy if item.pipe is ready_pipe)
                    job = worker.job
                    assert job is not None
                    worker.job = None
                    try:
                        status, text = worker.pipe.recv()
                    except (EOFError, ConnectionResetError):
                        worker.process.join()
                        workers.remove(worker)
                        status, text = "failed", f"its process ended with code {worker.process.exitcode}"
                    if status == "busy":
                        waiting.append((time.monotonic() + _RETRY_SECONDS, job))
                        continue
                    done += 1
                    if status == "done":
                        report.finished.append(job.run.name)
                        say(f"[{done}/{total}] {job.run.name}: {text}")
                    else:
                        report.failures.append(f"{job.run.name} failed: {text}")
                        say(f"[{done}/{total}] {job.run.name}: failed, see the end")
            for worker in workers:
                with suppress(OSError):  # one that died while idle needs no word to end
                    worker.pipe.send(None)
            for worker in workers:
                worker.process.join(timeout=10)
        finally:
            for worker in workers:
                if worker.process.is_alive():
                    worker.process.terminate()
                    worker.process.join(timeout=5)
                    if worker.process.is_alive():
                        worker.process.kill()
                worker.pipe.close()
        return report
