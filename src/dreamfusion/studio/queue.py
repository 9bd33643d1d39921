"""Who is next: a thread per lane takes job after job, in turn among those who asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from dreamfusion.errors import DreamFusionError
from dreamfusion.io.files import slugify, write_text
from dreamfusion.runs.control import Requests
from dreamfusion.studio.job import Job
from dreamfusion.studio.orders import Generate, Lane, Order, Refine, parse_order
from dreamfusion.studio.work import WORKER, Work

LANES: tuple[Lane, ...] = ("runs", "files")
MOST_WAITING = 200
"""Jobs that one owner may have waiting."""
KEPT = 100
"""Jobs that are remembered after their end."""
_PATIENCE_SECONDS = 60.0


class Queue:
    """The jobs of a studio, in the order in which they were asked for. All methods may be called from any thread.

    ``models`` says what each name of a model means: the keys of ``guidance`` in a run's configuration.
    """

    def __init__(
        self, runs: Path, models: dict[str, dict[str, Any]], home: Path, command: Sequence[str] = WORKER
    ) -> None:
        self.runs, self.models, self._home, self._command = runs, models, home, command
        self._jobs: list[Job] = []
        self._served: dict[tuple[Lane, str], int] = {}
        self._turn = 0
        self._closing = False
        self._changed = threading.Condition()
        self._writing = 10.0
        self._threads = [threading.Thread(target=self._serve, args=(lane,), daemon=True) for lane in LANES]

    def open(self) -> None:
        """Take up what an earlier studio left waiting, and begin."""
        with suppress(OSError, ValueError, KeyError, TypeError, DreamFusionError):
            rows = json.loads((self._home / "queue.json").read_text(encoding="utf-8"))
            self._jobs = [Job(parse_order(row["order"]), str(row["owner"])) for row in rows]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop what is going on, with a checkpoint, and keep what waits for the next studio."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            works = [(job, job.work) for job in self._jobs if job.work is not None]
        for job, work in works:
            work.stop(job.folder)
        for _, work in works:
            if not work.wait(_PATIENCE_SECONDS):
                work.kill()
        for thread in self._threads:
            thread.join()

    def add(self, orders: Sequence[Order], owner: str) -> list[Job]:
        """Put orders at the end of the queue, all or none; DreamFusionError if there is no such model, or no room."""
        for order in orders:
            if isinstance(order, Generate) and order.model not in self.models:
                raise DreamFusionError(
                    f"The studio was not started with the model {order.model}: choose {' or '.join(self.models)}, "
                    "or start it with --model."
                )
        jobs = [Job(order, owner) for order in orders]
        with self._changed:
            if sum(job.state == "waiting" and job.owner == owner for job in self._jobs) + len(jobs) > MOST_WAITING:
                raise DreamFusionError(f"At most {MOST_WAITING} jobs may wait: let some of them end first.")
            ended = [job for job in self._jobs if job.ended]
            forgotten = ended[: max(0, len(ended) - KEPT)]
            self._jobs = [job for job in self._jobs if job not in forgotten] + jobs
            self._keep()
            self._changed.notify_all()
        return jobs

    def get(self, number: str) -> Job | None:
        """Return a job by its id."""
        with self._changed:
            return next((job for job in self._jobs if job.id == number), None)

    def stop(self, job: Job) -> None:
        """End a job: one that waits is dropped, a run leaves a checkpoint."""
        with self._changed:
            if job.state == "waiting":
                job.state, job.message = "stopped", "Taken out of the queue."
                self._keep()
            elif job.work is not None:
                job.stopping = True
                job.work.stop(job.folder)

    def change_prompt(self, job: Job, prompt: str) -> None:
        """Tell a run its new prompt; DreamFusionError if it is not going on."""
        if job.folder is None or job.state != "running" or not Requests(job.folder).open:
            raise DreamFusionError("The prompt can be changed while the run takes steps.")
        Requests(job.folder).send("prompt", prompt)

    def as_json(self, owner: str) -> list[dict[str, Any]]:
        """Return what the interface tells of all jobs, those that are next first and the ended ones last."""
        with self._changed:
            waiting = self._in_turn()
            going = [job for job in self._jobs if job.state == "running"]
            ended = [job for job in reversed(self._jobs) if job.ended]
            places = {job.id: place for place, job in enumerate(waiting, 1)}
            return [job.as_json(owner, places.get(job.id), self._writing) for job in [*going, *waiting, *ended]]

    def busy(self, folder: Path) -> bool:
        """Return whether a job is about this run."""
        with self._changed:
            return any(
                not job.ended and (job.folder == folder or getattr(job.order, "run", None) == folder.name)
                for job in self._jobs
            )

    # --- what the threads do ------------------------------------------------------------------------------------------

    def _serve(self, lane: Lane) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._in_turn(lane))
                if self._closing:
                    return
                job = self._in_turn(lane)[0]
                self._turn += 1
                self._served[lane, job.owner] = self._turn
                job.state = "running"
                self._keep()
                try:
                    job.work = Work(self._asked(job), self._home / f"{lane}.log", self._command)
                except (OSError, DreamFusionError) as error:
                    job.hear({"error": str(error)})
                    continue
            self._listen(job, job.work)

    def _listen(self, job: Job, work: Work) -> None:
        for told in work.messages():
            with self._changed:
                job.hear(told)
                if job.state == "done":
                    self._writing = job.seconds_writing() or self._writing
        with self._changed:
            job.work = None

    def _in_turn(self, lane: Lane | None = None) -> list[Job]:
        """Return the waiting jobs in the order in which they will be taken: owners take turns."""
        waiting = [job for job in self._jobs if job.state == "waiting" and lane in (None, job.order.lane)]
        ahead: dict[str, int] = {}
        keys: dict[str, tuple[int, int]] = {}
        for job in waiting:
            before = ahead.get(job.owner, 0)
            ahead[job.owner] = before + 1
            keys[job.id] = (before, self._served.get((job.order.lane, job.owner), 0))
        return sorted(waiting, key=lambda job: keys[job.id])

    def _asked(self, job: Job) -> dict[str, Any]:
        """Return the worker's order, with the folder of a new run, which is the job's from now on."""
        order, options = job.order, job.order.options()
        if isinstance(order, Generate):
            prior = dict(self.models[options.pop("model")])
            prior |= {key: options.pop(key) for key in ("negative_prompt", "guidance_scale") if key in options}
            job.folder = self._new_folder(slugify(order.prompt))
            options |= {"guidance": prior, "output": str(job.folder)}
        else:
            run = self.runs / order.run
            if isinstance(order, Refine):
                job.folder = self._new_folder(f"{order.run}-refined")
                options["output"] = str(job.folder)
            else:
                job.folder = run
            options["run"] = str(run)
        return {"kind": order.kind, "options": options}

    def _new_folder(self, name: str) -> Path:
        """Return a folder that is not there and that no job has been given."""
        taken = {job.folder for job in self._jobs if not job.ended}
        number, folder = 1, self.runs / name
        while folder in taken or folder.exists():
            number += 1
            folder = self.runs / f"{name}-{number}"
        return folder

    def _keep(self) -> None:
        """Write down what waits: a studio that ends must not forget it."""
        rows = [
            {"order": job.order.model_dump(mode="json", exclude_none=True), "owner": job.owner}
            for job in self._jobs
            if job.state == "waiting"
        ]
        with suppress(OSError, DreamFusionError):
            write_text(self._home / "queue.json", json.dumps(rows))
