"""Executing runs as jobs of a cluster: one submitted job a missing run, through submitit.

The folder of results must be one that every node sees and that has file locks. A job claims its run in the store as a
worker process does, so a second `make reproduce`, or a job that a scheduler started twice, never trains a run twice. A
job that is preempted or runs out of its time is queued again and goes on from the run's checkpoint.

submitit's own files (the submitted job, its logs) are in ``<results>/<profile>/cluster/``.
"""

from __future__ import annotations

import time
import tomllib
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reproduce.declare.runs import Run
from reproduce.run.executors import THREAD_VARIABLES, Answer, Report, attempt, ending_with_sigterm, environment
from reproduce.run.files import last_line
from reproduce.run.store import Store
from reproduce.run.worker import load_backend

#: What EXECUTOR may say, and submitit's name for it.
CLUSTERS = {"slurm": "slurm", "submitit-local": "local"}
#: What a job asks for where the CLUSTER file does not say otherwise: a day, queued again when that is not enough.
TIMEOUT_MINUTES = 24 * 60
#: A run that takes longer than a job is queued again so often; submitit by itself gives up after three time-outs.
TIMEOUTS = 1000
_POLL_SECONDS = {"slurm": 5.0, "local": 0.1}
_BUSY_SECONDS = 5.0


class RunJob:
    """One run as a job: called on the node, it executes the run and answers (status, text).

    A signal that the job is to end makes submitit call :meth:`checkpoint` and queue its answer again.
    """

    def __init__(self, run: Run, fingerprint: str, store: Store, backend: str, data: str | None) -> None:
        self.run = run
        self.fingerprint = fingerprint
        self.store = store
        self.backend = backend
        self.data = data

    def __call__(self) -> Answer:
        backend = load_backend(self.backend)
        while True:
            answer = attempt(self.run, self.fingerprint, self.store, backend, self.data, progress=False)
            if answer[0] != "busy":
                return answer
            time.sleep(_BUSY_SECONDS)

    def checkpoint(self) -> Any:
        """The same job again: the training's state is in the store, at most ``checkpoint_minutes`` old."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def read_parameters(path: Path | None) -> dict[str, Any]:
    """submitit's parameters of a job from a TOML file, such as ``timeout_min = 600`` or ``slurm_partition = "gpu"``."""
    if path is None:
        return {}
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"CLUSTER={path} does not exist; name a TOML file of job parameters.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"CLUSTER={path} is not valid TOML ({error}); correct it.") from None
    return found


class ClusterExecutor:
    """Submits runs, waits for them and gathers their answers; the records themselves come through the store.

    Args:
        store: on a file system that every node sees.
        cluster: a key of :data:`CLUSTERS`.
        jobs: how many may be submitted at once; None: all.
        threads: of a run.
        backend, data: as in :class:`reproduce.run.executors.LocalExecutor`.
        parameters: TOML file of submitit's parameters.

    Raises:
        ValueError: submitit is not installed, there is no such cluster here, or it does not know a parameter.
    """

    def __init__(
        self,
        store: Store,
        cluster: str,
        jobs: int | None,
        threads: int,
        backend: str,
        data: str | None,
        parameters: Path | None = None,
    ) -> None:
        try:
            import submitit
        except ImportError:
            raise ValueError(f"EXECUTOR={cluster} needs submitit, which is not installed; run `make env`.") from None
        # A job may start in another folder.
        self.store = Store(store.folder.parent.resolve(), store.folder.name)
        self.cluster = CLUSTERS[cluster]
        self.jobs = jobs
        self.threads = threads
        self.backend = backend
        self.data = None if data is None else str(Path(data).resolve())
        wanted = {"timeout_min": TIMEOUT_MINUTES, "cpus_per_task": threads, "name": "nsl"}
        wanted |= read_parameters(parameters)
        # Not one of the parameters of a job: submitit takes it where the executor is made.
        timeouts = wanted.pop("slurm_max_num_timeout", TIMEOUTS)
        if isinstance(timeouts, bool) or not isinstance(timeouts, int) or timeouts < 0:
            raise ValueError(
                f"CLUSTER={parameters}: slurm_max_num_timeout must be a whole number of at least 0, got {timeouts!r}."
            )
        try:
            folder = self.store.folder / "cluster"
            self.executor = submitit.AutoExecutor(
                folder=folder, cluster=self.cluster, slurm_max_num_timeout=timeouts
            )
            # Also of local jobs, which have no such argument.
            vars(self.executor._executor)["max_num_timeout"] = timeouts
            self.executor.update_parameters(**wanted)
        except (RuntimeError, NameError, TypeError, AssertionError) as error:
            source = "" if parameters is None else f" with CLUSTER={parameters}"
            raise ValueError(f"EXECUTOR={cluster}{source} cannot be used: {error}") from None

    def _submit(self, run: Run, fingerprint: str) -> Any:
        job = RunJob(run, fingerprint, self.store, self.backend, self.data)
        # Both kinds of jobs inherit the environment; libraries read the number of threads when they are imported.
        with environment(dict.fromkeys(THREAD_VARIABLES, str(self.threads))):
            return self.executor.submit(job)

    @staticmethod
    def _answer(job: Any) -> Answer:
        """What a job that has ended answered, or why it did not."""
        try:
            status, text = job.result()
        except Exception as error:
            return "failed", f"its job {job.job_id} ended without an answer ({last_line(error)})"
        return status, text

    def execute(
        self, jobs: list[tuple[Run, str]], say: Callable[[str], None] = lambda line: print(line, flush=True)
    ) -> Report:
        """Execute every (run, data fingerprint); returns when all are stored or have failed.

        SIGTERM and Ctrl-C end it; what was submitted is taken back.
        """
        with ending_with_sigterm():
            return self._execute(jobs, say)

    def _execute(self, jobs: list[tuple[Run, str]], say: Callable[[str], None]) -> Report:
        report = Report()
        waiting, total, done = deque(jobs), len(jobs), 0
        submitted: list[tuple[Run, Any]] = []
        try:
            while waiting or submitted:
                while waiting and (self.jobs is None or len(submitted) < self.jobs):
                    run, fingerprint = waiting.popleft()
                    submitted.append((run, self._submit(run, fingerprint)))
                ended = [item for item in submitted if item[1].done()]
                for item in ended:
                    submitted.remove(item)
                    run, (status, text) = item[0], self._answer(item[1])
                    done += 1
                    if status == "done":
                        report.finished.append(run.name)
                        say(f"[{done}/{total}] {run.name}: {text}")
                    else:
                        report.failures.append(f"{run.name} failed: {text}")
                        say(f"[{done}/{total}] {run.name}: failed, see the end")
                if not ended:
                    time.sleep(_POLL_SECONDS[self.cluster])
        finally:
            # Reached with jobs left only on an interruption: they are taken back, and their checkpoints stay.
            for _, job in submitted:
                job.cancel(check=False)
        return report
