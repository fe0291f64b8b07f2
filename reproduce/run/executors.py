"""Executing many runs in worker processes on this machine.

Each worker is a spawned process that takes one run after another over a pipe. Only the parent decides
what runs next; a worker that dies loses its runs, which is reported, and is replaced. A run that another
invocation is executing is looked at again later. When the parent dies, however it dies, its workers end
themselves.

On a CPU ``jobs`` are processes. With CUDA cards there is one process a card, and ``jobs`` runs are shared out among
them, side by side on a card (``nsl.training.side_by_side``): processes on one card would only take turns.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from reproduce import tasks
from reproduce.declare.runs import Run
from reproduce.run.store import Store
from reproduce.run.worker import Backend, execute, load_backend

#: How an attempt at a run ended, and a sentence.
Answer = tuple[str, str]

#: What says how many threads libraries use.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")

_RETRY_SECONDS = 2.0
#: What workers have for saving their trainings when they are told to end; clusters and clouds usually kill after 30.
GRACE_SECONDS = 20.0
#: Exit code of a process that SIGTERM ended.
_ENDED = 128 + signal.SIGTERM


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
    card: int
    jobs: dict[int, _Job] = field(default_factory=dict)


def cards() -> int:
    """CUDA cards that this process may use; without a driver PyTorch is not even imported."""
    if not os.path.exists("/dev/nvidiactl"):
        return 0
    import torch

    return torch.cuda.device_count()


def end_with_parent() -> None:
    """Wait for the parent process to end, then end this one: for a thread of a worker process.

    `nsl.processes` does so too; importing it imports torch, which would come between a worker and this watch.
    """
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


def _serve(pipe: Connection, store: Store, backend_path: str, data: str | None, progress: bool, slots: int) -> None:
    """A worker's life."""
    working: list[_Job] = []
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # what is started here hears what it likes
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=_end, args=(working,), daemon=True).start())
    threading.Thread(target=end_with_parent, daemon=True).start()
    backend = load_backend(backend_path)

    def answer(job: _Job) -> Answer:
        working.append(job)
        try:
            return attempt(job.run, job.fingerprint, store, backend, data, progress)
        finally:
            working.remove(job)

    serve_jobs(pipe, answer, slots)


def _end(working: list[_Job]) -> None:
    """End this worker: trainings save and leave, what does not do so in time is given up."""
    training = sys.modules.get("nsl.training.ending")  # where it is not there, nothing trains
    if training is not None:
        training.ENDING.set()
    given_up = time.monotonic() + GRACE_SECONDS
    while working and time.monotonic() < given_up:
        time.sleep(0.02)
    os._exit(_ENDED)


@contextmanager
def ending_with_sigterm() -> Iterator[None]:
    """SIGTERM leaves what is inside by SystemExit, so that workers, or jobs of a cluster, are told too."""

    def leave(*_: Any) -> None:
        with suppress(OSError):  # nobody may be listening any more
            print("Told to end; the same command goes on from here.", file=sys.stderr, flush=True)
        raise SystemExit(_ENDED)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def serve_jobs(pipe: Connection, answer: Callable[[_Job], Answer], slots: int) -> None:
    """Receive (number, job), answer (number, status, text), until None comes: one job at a time, or ``slots`` of them
    side by side, each a thread that has its turns on the card."""

    def receive() -> tuple[int, _Job] | None:
        try:
            found: tuple[int, _Job] | None = pipe.recv()
        except EOFError:
            return None
        return found

    if slots == 1:
        while (received := receive()) is not None:
            pipe.send((received[0], *answer(received[1])))
        return
    import torch

    from nsl.training.side_by_side import Turns

    turns, threads, sending = Turns(), [], threading.Lock()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def work(number: int, job: _Job) -> None:
        found = turns.run(lambda: answer(job), device)
        with sending:
            pipe.send((number, *found))

    while (received := receive()) is not None:
        threads.append(threading.Thread(target=work, args=received, daemon=True))
        threads[-1].start()
    for thread in threads:
        thread.join()


def summary(record: dict[str, Any]) -> str:
    """One line that says how a run ended."""
    result = record["result"]
    if record["status"] == "diverged":
        return f"diverged ({result.get('divergence') or 'no reason recorded'})"
    metric = tasks.of(record).metric
    value = result.get(metric.name)
    found = "no number" if value is None else f"{value:.2f} %"
    return f"{metric.title} {found} in {result['train_seconds']:.0f} s"


@contextmanager
def unheard() -> Iterator[None]:
    """Processes that are started inside do not hear Ctrl-C from their first instruction on; here it comes afterwards.

    A key press reaches the whole group. The parent decides, and a process that is still importing would only add a
    traceback.
    """
    resource_tracker.ensure_running()  # the first process starts it, and that would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def environment(changes: dict[str, str]) -> Iterator[None]:
    """The environment changed for what is started inside, then as it was."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class LocalExecutor:
    """Executes up to ``jobs`` runs at a time: in processes of ``threads`` threads each, on CUDA in one a card."""

    def __init__(self, store: Store, jobs: int, threads: int, backend: str, data: str | None) -> None:
        if jobs < 1:
            raise ValueError(f"JOBS={jobs} is too small; at least one process is needed.")
        self.store = store
        self.jobs = jobs
        self.threads = threads
        self.backend = backend
        self.data = data
        found = cards()
        self.processes = min(jobs, found) if found else jobs
        self._numbers = itertools.count()

    def slots(self, card: int) -> int:
        """Runs side by side in the process of a card: ``jobs`` in all."""
        return self.jobs // self.processes + (card < self.jobs % self.processes)

    def _start(self, progress: bool, card: int) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        given = (theirs, self.store, self.backend, self.data, progress, self.slots(card))
        process = context.Process(target=_serve, args=given, daemon=True)
        # Libraries read these once, when they are first imported in the worker.
        changes = dict.fromkeys(THREAD_VARIABLES, str(self.threads)) | _only_card(card)
        with environment(changes), unheard():
            process.start()
        theirs.close()
        return _Worker(process, ours, card)

    def execute(
        self, jobs: list[tuple[Run, str]], say: Callable[[str], None] = lambda line: print(line, flush=True)
    ) -> Report:
        """Execute every (run, data fingerprint); returns when all are stored or have failed.

        SIGTERM and Ctrl-C end it; the workers save their trainings first.
        """
        with ending_with_sigterm():
            return self._execute(jobs, say)

    def _execute(self, jobs: list[tuple[Run, str]], say: Callable[[str], None]) -> Report:
        report = Report()
        waiting: deque[tuple[float, _Job]] = deque((0.0, _Job(run, mark)) for run, mark in jobs)
        total, done = len(waiting), 0
        workers: list[_Worker] = []
        progress = self.jobs == 1 and sys.stderr.isatty()
        try:
            while waiting or any(worker.jobs for worker in workers):
                for worker in list(workers):
                    if not self._fill(worker, waiting):
                        worker.process.join(timeout=5)
                        worker.pipe.close()
                        workers.remove(worker)
                more = any(item[0] <= time.monotonic() for item in waiting)
                if more and len(workers) < min(self.processes, total):
                    taken = {worker.card for worker in workers}
                    workers.append(self._start(progress, min(set(range(self.processes)) - taken)))
                    continue
                busy = [worker for worker in workers if worker.jobs]
                if not busy:
                    time.sleep(0.1)
                    continue
                for ready_pipe in wait([worker.pipe for worker in busy], timeout=0.5):
                    worker = next(item for item in busy if item.pipe is ready_pipe)
                    for job, (status, text) in self._answers(worker, workers):
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
                worker.process.terminate()
            for worker in workers:
                worker.process.join(timeout=GRACE_SECONDS + 2)
                if worker.process.is_alive():
                    worker.process.kill()
                worker.pipe.close()
        return report

    def _fill(self, worker: _Worker, waiting: deque[tuple[float, _Job]]) -> bool:
        """Give a worker what it has room for; False: it died while idle, lost no run, and another takes its place."""
        while len(worker.jobs) < self.slots(worker.card):
            ready = next((item for item in waiting if item[0] <= time.monotonic()), None)
            if ready is None:
                break
            number = next(self._numbers)
            try:
                worker.pipe.send((number, ready[1]))
            except OSError:
                return bool(worker.jobs)  # with jobs its end is read like an answer
            waiting.remove(ready)
            worker.jobs[number] = ready[1]
        return True

    @staticmethod
    def _answers(worker: _Worker, workers: list[_Worker]) -> list[tuple[_Job, Answer]]:
        """What a worker says of one of its jobs, or the end of all of them where it died; it is then removed."""
        try:
            number, status, text = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            worker.process.join()
            worker.pipe.close()
            workers.remove(worker)
            lost = "failed", f"its process ended with code {worker.process.exitcode}"
            return [(job, lost) for job in worker.jobs.values()]
        return [(worker.jobs.pop(number), (status, text))]


def _only_card(card: int) -> dict[str, str]:
    """The environment of a process that is to see one card of those that this one sees; nothing without cards."""
    if not cards():
        return {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return {"CUDA_VISIBLE_DEVICES": visible.split(",")[card] if visible else str(card)}
