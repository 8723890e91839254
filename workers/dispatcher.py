"""The loop between the tables and the workers: `python -m workers.dispatcher`.

Inspect what was uploaded, plan what was submitted, lease shards while workers are free, collect answers, keep leases alive, finish
jobs. Everything it knows is in the tables; it can be killed at any step and another one goes on.
"""

from __future__ import annotations

import functools
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType

import structlog

from certify import Model
from certify.errors import AssayError, Problem
from storage import catalog, jobs, shards
from storage.artifacts import Artifacts
from storage.database import Database
from storage.errors import Busy, LostLease
from storage.logs import configure
from storage.private import private_service
from storage.records import ShardLease
from workers.beside import beside
from workers.datasets import read_dataset
from workers.executor import Answer, Executor, LocalExecutor, failure
from workers.finalize import concluded
from workers.inspections import Inspections
from workers.plan import plan_job
from workers.settings import WorkerSettings

log = structlog.get_logger()


@dataclass
class _Held:
    """A shard this dispatcher holds: its next heartbeat, whether it was told to stop, and whether its job was cancelled."""

    lease: ShardLease
    next_beat: float
    stopping: bool = False
    cancelled: bool = False


class Dispatcher:
    """One of possibly many; leases and fencing keep them apart."""

    def __init__(self, db: Database, artifacts: Artifacts, executor: Executor, settings: WorkerSettings) -> None:
        self.db, self.executor, self.settings = db, executor, settings
        self.fetch = functools.lru_cache(maxsize=4)(artifacts.get)
        self._held: dict[str, _Held] = {}
        self._answered: list[tuple[Answer, bool]] = []
        self._stopping: Callable[[], bool] = lambda: False
        self._inspections = Inspections(db, artifacts, settings, self._told_to_stop)

    def run(self, stopping: Callable[[], bool]) -> None:
        """Work until `stopping` answers true; then give back what is unfinished."""
        self._stopping = stopping
        log.info("dispatcher started", action="start", worker=self.settings.worker_name, device=self.executor.device)
        reopened = False
        while not stopping():
            try:
                if not reopened:
                    self._inspections.reopen()
                    reopened = True
                self.step()
            except Exception:
                # The database or the cluster may come back; a loop that ends would leave every job waiting.
                log.exception("step failed", action="step_failed")
                time.sleep(2.0)
        self._release()
        log.info("dispatcher stopped", action="stop")

    def _told_to_stop(self) -> bool:
        return self._stopping()

    def step(self) -> None:
        """One turn of the loop."""
        self._inspections.step()
        self._plan()
        self._lease()
        self._collect(self.executor.answers(self.settings.poll_seconds))
        self._beat()
        self._finalize()

    def _plan(self) -> None:
        waiting = jobs.next_unplanned(self.db)
        if waiting is None:
            return
        job, dataset, model = waiting
        try:
            assert model.facts is not None
            assert dataset.facts is not None
            plan, parts = plan_job(job.spec, model.facts, dataset.facts, self.executor.device, self.settings.memory)
        except Exception as error:
            # It would be the oldest job at every turn, and no other would ever be planned.
            problem = Problem(field="job", detail=f"could not be planned: {type(error).__name__}: {error}", mend="see the dispatcher's log")
            jobs.fail_job(self.db, job.id, [problem])
            log.exception("planning failed", action="plan_failed", job=job.id)
            return
        if jobs.plan_job(self.db, job.id, plan, parts):
            log.info("planned", action="planned", job=job.id, shards=len(parts))

    def _lease(self) -> None:
        while self.executor.free():
            lease = shards.lease_shard(self.db, self.settings.worker_name, self.settings.lease_seconds)
            if lease is None:
                return
            self._held[lease.id] = _Held(lease, time.monotonic())
            jobs.set_condition(self.db, lease.job_id, "")
            try:
                self.executor.submit(lease, self.fetch)
            except Exception as error:
                self._collect([failure(lease, error)])
        running = {held.lease.job_id for held in self._held.values()}
        for job_id in jobs.waiting_jobs(self.db):
            if job_id not in running:
                jobs.set_condition(self.db, job_id, self.executor.condition())

    def _collect(self, fresh: Sequence[Answer]) -> None:
        """Store answers. One that cannot be stored now is kept for the next turn, without heartbeats: if it never can, its lease ends."""
        for answer in fresh:
            held = self._held.pop(answer.lease.id, None)
            self._answered.append((answer, held is not None and held.cancelled))
        waiting, self._answered = self._answered, []
        for position, (answer, cancelled) in enumerate(waiting):
            try:
                self._store(answer, cancelled)
            except LostLease:
                log.warning("answer came too late", action="lease_lost", job=answer.lease.job_id, shard=answer.lease.ix)
            except Exception:
                self._answered += [*waiting[position + 1 :], waiting[position]]
                raise

    def _store(self, answer: Answer, cancelled: bool) -> None:
        lease = answer.lease
        try:
            if answer.findings is not None:
                shards.finish_shard(self.db, lease, answer.findings)
            elif answer.cancelled and cancelled:
                shards.cancel_shard(self.db, lease)
            elif answer.cancelled:  # stopped, but not for its job: somebody still wants it
                shards.release_shard(self.db, lease)
            else:
                shards.fail_shard(self.db, lease, answer.problems, retry=answer.retry)
            log.info("shard ended", action="shard_ended", job=lease.job_id, shard=lease.ix, attempt=lease.attempts, ok=not answer.problems)
        except ValueError as error:  # results that are not those of the shard
            log.exception("wrong answer", action="answer_refused", job=lease.job_id, shard=lease.ix)
            problem = Problem(field=f"certifiers.{lease.certifier}", detail=f"the worker's answer was refused: {error}", mend="report this")
            shards.fail_shard(self.db, lease, [problem], retry=False)

    def _beat(self) -> None:
        for held in list(self._held.values()):
            if time.monotonic() < held.next_beat:
                continue
            held.next_beat = time.monotonic() + min(2.0, self.settings.lease_seconds / 3)
            progress = self.executor.progress(held.lease.id)
            done, samples = (progress.examples, progress.samples) if progress else (0, 0)
            try:
                status = shards.heartbeat(self.db, held.lease, self.settings.lease_seconds, examples_done=done, samples_done=samples)
            except LostLease:
                log.warning("lease lost", action="lease_lost", job=held.lease.job_id, shard=held.lease.ix)
                status = None
            held.cancelled = status is not None and status.cancel_requested
            if (status is None or held.cancelled) and not held.stopping:
                held.stopping = True
                self.executor.stop(held.lease.id)

    def _finalize(self) -> None:
        job = jobs.next_unfinalized(self.db)
        if job is None:
            return
        try:
            found = catalog.get_model(self.db, job.tenant_id, job.model_id)
            made, wrong = concluded(
                self.db,
                job,
                found.facts,
                lambda: Model.from_onnx(self.fetch(job.model_digest), found.value_range),
                functools.lru_cache(maxsize=1)(lambda: read_dataset(self.fetch(job.dataset_digest))),
            )
        except Busy:
            raise  # it is no fault of the job
        except Exception as error:
            problem = Problem(field="report", detail=f"could not be made: {type(error).__name__}: {error}", mend="see the dispatcher's log")
            jobs.fail_job(self.db, job.id, [problem])
            log.exception("report failed", action="report_failed", job=job.id)
            return
        for problem in wrong:
            log.error("results contradict each other", action="contradiction", job=job.id, problem=problem.sentence())
        jobs.finish_job(self.db, job.id, made, wrong)
        log.info("job ended", action="job_ended", job=job.id)

    def _release(self) -> None:
        for held in self._held.values():
            self.executor.stop(held.lease.id)
            try:
                shards.release_shard(self.db, held.lease)
            except LostLease:
                continue
            except Exception:
                log.exception("release failed", action="release_failed", shard=held.lease.ix)  # the lease will end by itself
        self._inspections.close()
        self.executor.close()


def make_executor(settings: WorkerSettings) -> Executor:
    if settings.executor == "local":
        return LocalExecutor()
    from workers.ray_executor import RayExecutor

    return RayExecutor(settings)


def main() -> None:
    """Run until SIGTERM or Ctrl-C."""
    configure()
    settings = WorkerSettings.load()
    settings.forget_secrets()
    private_service(settings.home)
    db = Database(settings.database_url)
    db.migrate()
    # A list, not an Event: two signals close together would deadlock on the Event's lock.
    signals: list[int] = []

    def _stop(number: int, _frame: FrameType | None) -> None:
        signals.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    executor = make_executor(settings)
    for number in (signal.SIGTERM, signal.SIGINT):  # Ray installs its own handlers
        signal.signal(number, _stop)
    with beside(db, settings):
        Dispatcher(db, Artifacts(settings.artifacts), executor, settings).run(lambda: bool(signals))


if __name__ == "__main__":
    try:
        main()
    except AssayError as error:  # a wrong setting, say
        sys.stderr.write(f"assay: {error}\n")
        sys.exit(4)
