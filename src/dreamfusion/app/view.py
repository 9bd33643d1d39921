"""The live viewer: a page, served by viser, that shows a run and follows it while it goes on (`dreamfusion view`)."""

from __future__ import annotations

import html
import json
import math
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

from dreamfusion.app.gate import Gate, guarded
from dreamfusion.assets.formats import save_glb
from dreamfusion.config import load_config
from dreamfusion.errors import DreamFusionError
from dreamfusion.io.checkpoints import latest_checkpoint
from dreamfusion.method.cameras import spherical_position
from dreamfusion.runs.control import Requests
from dreamfusion.runs.results import open_run
from dreamfusion.standard import MESH_RESOLUTION

_POLL_SECONDS = 1.0
_SNAPSHOT_SECONDS = 10.0
"""How often a run is asked for a checkpoint to look at, at most."""
_RESOLUTION = 64
"""Of the mesh that is shown while a run goes on."""


def view(run: Path, *, host: str = "127.0.0.1", port: int = 8080) -> None:
    """Serve the page until Ctrl-C; DreamFusionError if there is nothing to show, the port is taken, or no viser."""
    check(run)
    server, address = open_server(host, port)
    viewer = Viewer(run, server)
    print(f"{address}\nWhoever has this address can stop the run. Ctrl-C ends the viewer, not the run.", flush=True)
    while True:
        viewer.refresh()
        time.sleep(_POLL_SECONDS)


def check(run: Path) -> None:
    """Raise DreamFusionError unless the folder holds a run that has something to show or is going on."""
    if not (run / "config.yaml").is_file():
        raise DreamFusionError(f"{run} holds no run: give the folder that generate printed.")
    load_config(run / "config.yaml")
    if latest_checkpoint(run / "checkpoints") is None and not Requests(run).open:
        raise DreamFusionError(f"{run} has nothing to show yet: continue it with dreamfusion generate --resume {run}.")


def open_server(host: str, port: int) -> tuple[Any, str]:
    """Return a viser server behind a gate and the address that opens it.

    Raises DreamFusionError if the port cannot be used, or if viser is missing or starts no server that can be guarded.
    """
    try:
        import viser
    except ImportError:
        raise DreamFusionError('The viewer needs viser: pip install "dreamfusion[view]".') from None
    # viser takes the next free port silently, which nobody would look at.
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, port), family=family) as probe:
            port = probe.getsockname()[1]
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or "no such port"
        raise DreamFusionError(f"Cannot serve on {host}:{port} ({reason}): choose another with --port.") from None
    gate = Gate(host, port)
    with guarded(gate) as ports:
        server = viser.ViserServer(host=host, port=port, label="DreamFusion", verbose=False)
    if ports != [port]:
        server.stop()
        raise DreamFusionError(f"viser {viser.__version__} cannot be guarded: pip install viser==1.1.1.")
    return server, gate.address


class Viewer:
    """The page of one run: its newest mesh under a light of the viewer's choice, and the controls of the run."""

    def __init__(self, run: Path, server: Any) -> None:
        self.run, self.server, self.requests = run, server, Requests(run)
        self._shown: Path | None = None
        self._note = ""
        self._preview_time = self._asked = 0.0
        self._handles: dict[str, Any] = {}
        self._build()

    def refresh(self) -> None:
        """Show what is new: newest mesh, preview and step; ask the run for a checkpoint if it is behind."""
        config = load_config(self.run / "config.yaml")
        step = self._last_step()
        newest = latest_checkpoint(self.run / "checkpoints")
        going = self.requests.open
        for name in ("stop", "prompt", "change"):
            self._handles[name].disabled = not going
        notes = [config.prompt_at(step), f"step {step} of {config.steps}" + ("" if going else ", not running")]
        if newest is not None and newest != self._shown:
            self._note = self._show(newest, final=not going)
        notes += [self._note, self.requests.answered()]
        self._handles["status"].content = _as_html(notes)
        self._show_preview()
        behind = newest is None or int(newest.name.removeprefix("step_")) < step
        if going and behind and time.monotonic() - self._asked > _SNAPSHOT_SECONDS:
            self._asked = time.monotonic()
            self._send("snapshot")

    def _build(self) -> None:
        """Put light, status and controls on the page."""
        scene, gui, handles = self.server.scene, self.server.gui, self._handles
        scene.set_up_direction("+z")
        scene.configure_default_lights(enabled=False)
        scene.configure_environment_map(None)
        self.server.initial_camera.position = tuple(_toward(30.0, 15.0, 2.2))
        self.server.initial_camera.look_at = (0.0, 0.0, 0.0)
        handles["ambient_light"] = scene.add_light_ambient("/ambient")
        handles["lamp"] = scene.add_light_directional("/lamp", cast_shadow=False)
        handles["status"] = gui.add_html(_as_html(["Opening ..."]))
        with gui.add_folder("Light"):
            for name, low, high, start in (("around", -180, 180, 65), ("height", -90, 90, 50), ("ambient", 0, 100, 40)):
                slider = gui.add_slider(name.capitalize(), min=low, max=high, step=1, initial_value=start)
                slider.on_update(lambda _: self._set_light())
                handles[name] = slider
        with gui.add_folder("Run"):
            handles["prompt"] = gui.add_text("Prompt", initial_value=load_config(self.run / "config.yaml").prompt)
            handles["change"] = gui.add_button("Change the prompt")
            handles["stop"] = gui.add_button("Stop the run", color="red")
        handles["change"].on_click(lambda _: self._send("prompt", handles["prompt"].value))
        handles["stop"].on_click(lambda _: self._send("stop"))
        self._set_light()

    def _send(self, kind: Any, text: str = "") -> None:
        with suppress(DreamFusionError):  # the run has just ended
            self.requests.send(kind, text)

    def _set_light(self) -> None:
        around, height, ambient = (self._handles[name].value for name in ("around", "height", "ambient"))
        self._handles["lamp"].position = tuple(_toward(around, height, 5.0))
        # viser maps tones as film does, in which the full strength of pi would bleach colours.
        self._handles["lamp"].intensity = 0.5 * math.pi * (1 - ambient / 100)
        self._handles["ambient_light"].intensity = 0.5 * math.pi * ambient / 100

    def _show(self, checkpoint: Path, *, final: bool) -> str:
        """Show the mesh of the newest checkpoint; return what there is to say."""
        try:
            scene = open_run(self.run, "cpu").finished
            mesh = scene.mesh(MESH_RESOLUTION if final else _RESOLUTION)
        except OSError:
            return ""  # the run has just replaced this checkpoint; the next look finds another
        except DreamFusionError as error:
            self._shown = checkpoint
            return str(error)
        self._shown = checkpoint
        with TemporaryDirectory() as folder:
            save_glb(mesh, Path(folder) / "mesh.glb")
            glb = (Path(folder) / "mesh.glb").read_bytes()
        # glTF's x, y, z are our y, z, x: a third of a turn about the diagonal.
        self.server.scene.add_glb("/object", glb, wxyz=(0.5, 0.5, 0.5, 0.5), cast_shadow=False)
        return ""

    def _show_preview(self) -> None:
        """Show preview.png if it has changed."""
        path = self.run / "preview.png"
        with suppress(OSError):
            changed = path.stat().st_mtime
            if changed != self._preview_time:
                with Image.open(path) as picture:
                    pixels = np.asarray(picture.convert("RGB"))
                if "preview" in self._handles:
                    self._handles["preview"].image = pixels
                else:
                    self._handles["preview"] = self.server.gui.add_image(pixels, label="preview.png")
                self._preview_time = changed

    def _last_step(self) -> int:
        """Return the last step in metrics.jsonl, 0 if there is none."""
        with suppress(OSError, ValueError, IndexError, KeyError):
            rows = (self.run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
            return int(json.loads(rows[-1])["step"])
        return 0


def _as_html(notes: Sequence[str]) -> str:
    """Return texts as paragraphs, the first one bold. Whatever they hold is text: a prompt is anybody's."""
    first, *others = (html.escape(note) for note in notes if note)
    paragraphs = [f"<b>{first}</b>", *others]
    return "".join(f'<p style="margin:0.5em;overflow-wrap:anywhere">{paragraph}</p>' for paragraph in paragraphs)


def _toward(azimuth_deg: float, elevation_deg: float, distance: float) -> list[float]:
    return spherical_position(*(torch.tensor([float(v)]) for v in (distance, azimuth_deg, elevation_deg)))[0].tolist()
