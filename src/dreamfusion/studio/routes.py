"""The HTTP interface: what docs/studio.md describes. The page is a client of it like any other."""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from dreamfusion import __version__
from dreamfusion.app.gate import Gate
from dreamfusion.assets.viewer import save_viewer
from dreamfusion.config import PictureShading
from dreamfusion.config.presets import PRESETS, RefinePreset
from dreamfusion.errors import DreamFusionError
from dreamfusion.standard import Format
from dreamfusion.studio.gallery import Gallery, Sort
from dreamfusion.studio.guard import Guard
from dreamfusion.studio.job import Job
from dreamfusion.studio.orders import Generate, Resume, parse_order
from dreamfusion.studio.queue import Queue
from dreamfusion.studio.removal import remove_run
from dreamfusion.studio.words import reading, vocabulary

PAGE = Path(__file__).parent / "page"
MOST_BYTES = 1_000_000
OWNER = "X-Owner"
"""The header by which a client is known again: any text of its own, which is told to nobody."""
_ALONE = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src 'self' data: blob:; "
_ALONE += "media-src 'self'; connect-src data: blob:; frame-ancestors 'self'; sandbox allow-scripts allow-downloads"
"""For files of a run: a page among them cannot speak in the name of the studio."""


@dataclass(frozen=True)
class Studio:
    """What the interface works on. A ``public`` one deletes nothing; only owners stop and change their jobs."""

    queue: Queue
    gallery: Gallery
    public: bool = False


def create_app(studio: Studio, gate: Gate | None, around: Sequence[str] = ()) -> ASGIApp:
    """Return the whole application behind its gate; ``around`` are pages that may frame it."""
    routes = _Routes(studio)
    app = Starlette(
        routes=[
            Route("/", lambda request: FileResponse(PAGE / "index.html")),
            Mount("/page", StaticFiles(directory=PAGE)),
            Route("/api/options", routes.options),
            Route("/api/reading", routes.reading),
            Route("/api/jobs", routes.list_jobs, methods=["GET"]),
            Route("/api/jobs", routes.with_body(routes.add_jobs), methods=["POST"]),
            Route("/api/jobs/{id}", routes.job, methods=["GET"]),
            Route("/api/jobs/{id}/stop", routes.stop_job, methods=["POST"]),
            Route("/api/jobs/{id}/prompt", routes.with_body(routes.change_prompt), methods=["PUT"]),
            Route("/api/runs", routes.list_runs),
            Route("/api/runs/{name}", routes.run, methods=["GET"]),
            Route("/api/runs/{name}", routes.delete_run, methods=["DELETE"]),
            Route("/api/runs/{name}/rating", routes.with_body(routes.rate), methods=["PUT"]),
            Route("/runs/{name}/viewer", routes.viewer),
            Route("/runs/{name}/beside/{other}", routes.viewer),
            Route("/runs/{name}/{file}", routes.file),
        ],
        exception_handlers={DreamFusionError: _refused, HTTPException: _refused},  # type: ignore[dict-item]
    )
    return Guard(app, gate, around)


def _refused(request: Request, error: Exception) -> Response:
    """Say in one line what is wrong."""
    if isinstance(error, HTTPException):
        return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)
    return JSONResponse({"error": str(error)}, 400)


class _Routes:
    """One method per route; those with a ``body`` get the JSON that was sent."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio

    def with_body(self, method: Callable[[Request, Any], Response]) -> Callable[[Request], Awaitable[Response]]:
        """Read the JSON of a request before the method is called."""

        async def answer(request: Request) -> Response:
            length = request.headers.get("Content-Length", "")
            if not length.isdigit() or int(length) > MOST_BYTES:
                raise HTTPException(413, f"Send at most {MOST_BYTES:,} bytes, and say how many.")
            try:
                body = json.loads(await request.body())
            except (ValueError, RecursionError):
                raise HTTPException(400, "Send JSON.") from None
            return await run_in_threadpool(method, request, body)

        return answer

    # --- what can be asked for ----------------------------------------------------------------------------------------

    def options(self, request: Request) -> Response:
        """Return what the page offers."""
        return JSONResponse(
            {
                "version": __version__,
                "public": self.studio.public,
                "models": list(self.studio.queue.models),
                "presets": PRESETS,
                "refine_presets": [name for name in get_args(RefinePreset) if name != "nemo-dmtet"],
                "shadings": get_args(PictureShading),
                "formats": get_args(Format),
                "words": vocabulary(),
            }
        )

    def reading(self, request: Request) -> Response:
        """Return how the embedded prior reads a prompt."""
        return JSONResponse(reading(request.query_params.get("prompt", "")[:2000]))

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def list_jobs(self, request: Request) -> Response:
        """Return all jobs."""
        return JSONResponse({"jobs": self.studio.queue.as_json(_owner(request))})

    def add_jobs(self, request: Request, body: Any) -> Response:
        """Take one order, or {"prompts": [...], ...} for one of each prompt."""
        values = body if isinstance(body, dict) else {}
        prompts = values.pop("prompts", None)
        if prompts is not None and not (isinstance(prompts, list) and prompts):
            raise DreamFusionError("prompts: give a list of texts.")
        several = [values] if prompts is None else [values | {"prompt": prompt} for prompt in prompts]
        orders = [parse_order(one) for one in several]
        for order in orders:
            if not isinstance(order, Generate):
                self._check_run(self.studio.gallery.folder(order.run), resuming=isinstance(order, Resume))
        owner = _owner(request) or secrets.token_hex(8)
        jobs = self.studio.queue.add(orders, owner)
        return JSONResponse({"jobs": [job.as_json(owner, None, 0.0) for job in jobs]}, 201)

    def job(self, request: Request) -> Response:
        """Return one job."""
        job = self._job(request)
        return JSONResponse(next(row for row in self.studio.queue.as_json(_owner(request)) if row["id"] == job.id))

    def stop_job(self, request: Request) -> Response:
        """End a job; a run leaves a checkpoint."""
        job = self._own_job(request)
        self.studio.queue.stop(job)
        return JSONResponse({"id": job.id, "state": job.state})

    def change_prompt(self, request: Request, body: Any) -> Response:
        """Give a run another prompt."""
        prompt = body.get("prompt") if isinstance(body, dict) else None
        if not isinstance(prompt, str) or not 0 < len(prompt.strip()) <= 2000:
            raise DreamFusionError("prompt: give a text of at most 2,000 characters.")
        job = self._own_job(request)
        self.studio.queue.change_prompt(job, prompt)
        return JSONResponse({"id": job.id, "prompt": prompt})

    def _job(self, request: Request) -> Job:
        job = self.studio.queue.get(request.path_params["id"])
        if job is None:
            raise HTTPException(404, "There is no such job.")
        return job

    def _own_job(self, request: Request) -> Job:
        job = self._job(request)
        if self.studio.public and not (job.owner and job.owner == _owner(request)):
            raise HTTPException(403, "This job is somebody else's.")
        return job

    def _check_run(self, folder: Path, *, resuming: bool) -> None:
        """Raise DreamFusionError if nothing can be made of a run."""
        run = self.studio.gallery.describe(folder)
        if self.studio.queue.busy(folder) and (resuming or run["state"] == "running"):
            raise DreamFusionError(f"{folder.name} is at work already: wait until that job has ended.")
        if not resuming and not run["step"]:
            raise DreamFusionError(f"{folder.name} has nothing to show yet: continue it first.")

    # --- runs ---------------------------------------------------------------------------------------------------------

    def list_runs(self, request: Request) -> Response:
        """Return runs by search, in an order, from a place on."""
        query = request.query_params
        sort = query.get("sort", "newest")
        if sort not in get_args(Sort):
            raise DreamFusionError(f"sort: give one of {', '.join(get_args(Sort))}.")
        runs = self.studio.gallery.list(query.get("search", ""), sort)  # type: ignore[arg-type]
        first, count = _whole(query.get("first", "0")), _whole(query.get("count", "1000"))
        return JSONResponse({"total": len(runs), "runs": runs[first : first + count]})

    def run(self, request: Request) -> Response:
        """Return one run."""
        return JSONResponse(self.studio.gallery.describe(self._folder(request)))

    def rate(self, request: Request, body: Any) -> Response:
        """Give stars to a run."""
        stars = body.get("stars") if isinstance(body, dict) else None
        if not isinstance(stars, int) or isinstance(stars, bool):
            raise DreamFusionError("stars: give a whole number.")
        folder = self._folder(request)
        self.studio.gallery.rate(folder, stars)
        return JSONResponse(self.studio.gallery.describe(folder))

    def delete_run(self, request: Request) -> Response:
        """Delete the folder of a run."""
        folder = self._folder(request)
        if self.studio.public:
            raise HTTPException(403, "Nothing is deleted in a public studio.")
        if self.studio.queue.busy(folder):
            raise HTTPException(409, f"{folder.name} is at work: stop its job first.")
        remove_run(folder)
        return JSONResponse({"deleted": folder.name})

    def file(self, request: Request) -> Response:
        """Return one file of a run; ``?download`` asks the browser to keep it."""
        folder, name = self._folder(request), request.path_params["file"]
        path = folder / name
        if Path(name).name != name or name.startswith(".") or path.is_symlink() or not path.is_file():
            raise HTTPException(404, f"{folder.name} has no file {name}.")
        saved = f"{folder.name}-{name}" if "download" in request.query_params else None
        return FileResponse(path, filename=saved, headers={"Content-Security-Policy": _ALONE})

    def viewer(self, request: Request) -> Response:
        """Return the viewer page of a run as it is made today, or of two, side by side."""
        folder = self._folder(request)
        other = self._folder(request, "other") if "other" in request.path_params else None
        labels = () if other is None else (folder.name, other.name)
        title = " and ".join(labels) or self.studio.gallery.describe(folder)["prompt"]
        with TemporaryDirectory() as scratch:
            page = Path(scratch) / "viewer.html"
            beside = None if other is None else other / "mesh.glb"
            save_viewer(folder / "mesh.glb", page, title, beside=beside, labels=labels)
            text = page.read_text(encoding="utf-8")
        return Response(text, media_type="text/html", headers={"Content-Security-Policy": _ALONE})

    def _folder(self, request: Request, key: str = "name") -> Path:
        try:
            return self.studio.gallery.folder(request.path_params[key])
        except DreamFusionError as error:
            raise HTTPException(404, str(error)) from None


def _owner(request: Request) -> str:
    return request.headers.get(OWNER, "")[:200]


def _whole(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise DreamFusionError(f"{text!r} is no whole number.")
    return int(text)
