"""Starting the studio: one for each folder of runs, on a port that is free, until Ctrl-C."""

from __future__ import annotations

import os
import socket
import sys
import webbrowser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

from dreamfusion.app.gate import Gate
from dreamfusion.errors import DreamFusionError
from dreamfusion.io.claims import InUseError, claim
from dreamfusion.io.files import prepare_output_dir
from dreamfusion.studio.gallery import Gallery
from dreamfusion.studio.queue import Queue
from dreamfusion.studio.work import WORKER

HOME = ".studio"
"""The studio's own folder among the runs: what waits, and what its workers said last."""


def serve(
    runs: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8090,
    models: Sequence[str] = (),
    browser: bool = True,
    public: bool = False,
) -> None:
    """Serve the page until Ctrl-C.

    A ``public`` studio has no secret, for a place that is open to everybody, such as a Hugging Face Space.
    Raises DreamFusionError if another studio serves this folder, the port is taken, or a library is missing.
    """
    try:
        import uvicorn

        from dreamfusion.studio.routes import Studio, create_app
        from dreamfusion.studio.words import vocabulary
    except ImportError:
        raise DreamFusionError('The studio needs starlette and uvicorn: pip install "dreamfusion[studio]".') from None
    with opened(runs, models) as queue, listening(host, port) as listener:
        gate = None if public else Gate(host, listener.getsockname()[1], command="dreamfusion studio")
        around = ("https://huggingface.co", "https://*.hf.space") if public else ()
        app = create_app(Studio(queue, Gallery(runs), public), gate, around)
        if gate is not None:
            print(f"{gate.address}\nWhoever has this address can use the studio. Ctrl-C ends it.", flush=True)
            if browser and _has_screen():
                webbrowser.open(gate.address)
        Thread(target=vocabulary, daemon=True).start()  # loads PyTorch, which takes seconds, before somebody asks
        config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=2)
        uvicorn.Server(config).run([listener])


def named_models(models: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return what each name of a model means in a configuration; the embedded prior is always among them."""
    return {"toybox": {"kind": "toybox"}} | {
        name: {"kind": "sd"} if name == "sd" else {"kind": "diffusers", "model": name} for name in models
    }


@contextmanager
def opened(runs: Path, models: Sequence[str] = (), command: Sequence[str] = WORKER) -> Iterator[Queue]:
    """Own the queue of a folder of runs while the block lasts; DreamFusionError if another studio does."""
    prepare_output_dir(runs)
    home = runs / HOME
    try:
        with claim(home):
            queue = Queue(runs.absolute(), named_models(models), home.absolute(), command)
            queue.open()
            try:
                yield queue
            finally:
                queue.close()
    except InUseError:
        raise DreamFusionError(
            f"Another studio serves {runs}: open its page, end it, or choose another folder with --runs."
        ) from None


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Hold a listening socket while the block lasts; DreamFusionError if there can be none."""
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or "no such port"
        raise DreamFusionError(f"Cannot serve on {host}:{port} ({reason}): choose another with --port.") from None
    with listener:
        yield listener


def _has_screen() -> bool:
    """Return whether a browser would show a window, and not take over the terminal."""
    return sys.platform in ("win32", "darwin") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
