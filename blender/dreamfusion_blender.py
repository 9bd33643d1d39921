"""DreamFusion in Blender: a prompt in the sidebar of the 3D view becomes an object at the 3D cursor.

One file: install it under Edit > Preferences > Add-ons > Install from Disk, start `dreamfusion studio`, and paste the
address that it prints. Blender goes on while the studio works. docs/studio.md describes the interface.
"""

import json
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import bpy

bl_info = {
    "name": "DreamFusion",
    "description": "Words in, a 3D object out, by a DreamFusion studio",
    "author": "The DreamFusion maintainers",
    "version": (0, 1, 0),
    "blender": (4, 2, 0),
    "location": "View3D > Sidebar > DreamFusion",
    "category": "Add Mesh",
}
EVERY_SECONDS = 1.0
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""The studio is on this machine or near it: a proxy for the web would not find it."""


def ask(address: str, method: str, path: str, body: Any = None) -> Any:
    """Return the studio's answer, JSON as values and files as bytes; RuntimeError with one line if there is none."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"X-Owner": "Blender", "Content-Type": "application/json"}
    try:
        request = urllib.request.Request(f"{address.strip().rstrip('/')}/{path}", data, headers, method=method)
        with _DIRECT.open(request, timeout=10) as response:
            answer = response.read()
            return json.loads(answer) if response.headers.get_content_type() == "application/json" else answer
    except urllib.error.HTTPError as error:
        text = error.read().decode()
        raise RuntimeError(json.loads(text)["error"] if text.startswith("{") else text.strip()) from None
    except (OSError, ValueError):
        raise RuntimeError("No studio answers there: start dreamfusion studio and paste its address.") from None


def place(address: str, run: str) -> list[Any]:
    """Import the mesh of a run, put it at the 3D cursor, and return its objects."""
    data = ask(address, "GET", f"runs/{urllib.parse.quote(run, safe='')}/mesh.glb")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mesh.glb"
        file.write_bytes(data)
        before = set(bpy.data.objects)
        bpy.ops.import_scene.gltf(filepath=str(file))
    placed = [one for one in bpy.data.objects if one not in before]
    for one in placed:
        if one.parent is None:
            one.location += bpy.context.scene.cursor.location
    return placed


def said(job: dict[str, Any]) -> str:
    """Return what there is to say of a job."""
    if job["state"] != "running":
        return job["message"] or job["state"]
    left = "" if job["seconds_left"] is None else f", {job['seconds_left']:.0f} s left"
    return f"step {job['step']} of {job['steps']}{left}" if job["steps"] else "loading"


def follow(address: str, number: str) -> Any:
    """Return a function for Blender's timer: it tells how a job goes on, and imports what it made."""

    def look() -> float | None:
        settings = bpy.context.scene.dreamfusion
        try:
            job = ask(address, "GET", f"api/jobs/{number}")
            settings.status = said(job)
            if job["state"] == "done":
                place(address, job["run"])
        except RuntimeError as error:
            settings.status = str(error)
            return None
        return EVERY_SECONDS if job["state"] in ("waiting", "running") else None

    return look


class DreamFusionSettings(bpy.types.PropertyGroup):
    """What the panel holds."""

    address: bpy.props.StringProperty(name="Address", description="What dreamfusion studio printed")
    prompt: bpy.props.StringProperty(name="Prompt", default="a red mushroom")
    preset: bpy.props.EnumProperty(name="Preset", items=[(name, name, "") for name in ("quick", "default", "high")])
    seed: bpy.props.IntProperty(name="Seed", min=0)
    job: bpy.props.StringProperty(options={"HIDDEN"})
    status: bpy.props.StringProperty(name="Status")


class DREAMFUSION_OT_make(bpy.types.Operator):  # noqa: N801  # as Blender wants it
    """Make an object from the prompt."""

    bl_idname = "dreamfusion.make"
    bl_label = "Make it"

    def execute(self, context: Any) -> set[str]:
        """Put the order into the studio's queue."""
        settings = context.scene.dreamfusion
        order = {"kind": "generate", "prompt": settings.prompt, "preset": settings.preset, "seed": settings.seed}
        try:
            (job,) = ask(settings.address, "POST", "api/jobs", order)["jobs"]
        except RuntimeError as error:
            return refused(self, settings, error)
        settings.job, settings.status = job["id"], "waiting"
        bpy.app.timers.register(follow(settings.address, job["id"]), first_interval=EVERY_SECONDS)
        return {"FINISHED"}


class DREAMFUSION_OT_stop(bpy.types.Operator):  # noqa: N801
    """Stop what the studio makes for this scene; it keeps a checkpoint."""

    bl_idname = "dreamfusion.stop"
    bl_label = "Stop"

    def execute(self, context: Any) -> set[str]:
        """Ask the studio; the timer tells how it ended."""
        settings = context.scene.dreamfusion
        try:
            ask(settings.address, "POST", f"api/jobs/{settings.job}/stop")
        except RuntimeError as error:
            return refused(self, settings, error)
        return {"FINISHED"}


def refused(operator: Any, settings: Any, error: RuntimeError) -> set[str]:
    """Show what the studio said against it."""
    settings.status = str(error)
    operator.report({"WARNING"}, str(error))
    return {"CANCELLED"}


class DREAMFUSION_PT_panel(bpy.types.Panel):  # noqa: N801
    """The panel in the sidebar."""

    bl_label = "DreamFusion"
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "DreamFusion"

    def draw(self, context: Any) -> None:
        """Draw the fields, the buttons and what goes on."""
        for name in ("address", "prompt", "preset", "seed"):
            self.layout.prop(context.scene.dreamfusion, name)
        row = self.layout.row()
        row.operator(DREAMFUSION_OT_make.bl_idname)
        row.operator(DREAMFUSION_OT_stop.bl_idname)
        self.layout.label(text=context.scene.dreamfusion.status)


CLASSES = (DreamFusionSettings, DREAMFUSION_OT_make, DREAMFUSION_OT_stop, DREAMFUSION_PT_panel)


def register() -> None:
    """Add the panel."""
    for one in CLASSES:
        bpy.utils.register_class(one)
    bpy.types.Scene.dreamfusion = bpy.props.PointerProperty(type=DreamFusionSettings)


def unregister() -> None:
    """Take the panel away."""
    del bpy.types.Scene.dreamfusion
    for one in reversed(CLASSES):
        bpy.utils.unregister_class(one)
