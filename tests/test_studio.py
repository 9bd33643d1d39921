"""The studio: its interface with a worker that only talks, and its page in a real browser with real runs."""

import json
import os
import runpy
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import trimesh
import uvicorn
import yaml
from axe_core_python.sync_playwright import Axe
from starlette.testclient import TestClient

from dreamfusion import __version__
from dreamfusion.app.gate import Gate
from dreamfusion.assets.finish import Pivot
from dreamfusion.assets.formats import FORMATS, save_glb
from dreamfusion.assets.mesh import Mesh
from dreamfusion.config import load_config, parse_config, save_config
from dreamfusion.errors import DreamFusionError
from dreamfusion.io.claims import claim
from dreamfusion.studio import orders
from dreamfusion.studio.gallery import Gallery
from dreamfusion.studio.job import Job
from dreamfusion.studio.orders import parse_order
from dreamfusion.studio.removal import remove_run
from dreamfusion.studio.routes import Studio, create_app
from dreamfusion.studio.serve import listening, named_models, opened, serve

TALKER = """
import json, os, shutil, signal, sys
order = json.loads(sys.stdin.readline())
asked = order["options"].get("prompt", order["kind"])
def say(**message):
    print(json.dumps(message), flush=True)
def stop(*_):
    say(stopped="Stopped by SIGTERM")
    sys.exit()
signal.signal(signal.SIGTERM, stop)
if asked == "refuse":
    say(error="It cannot be done.")
elif asked == "crash":
    sys.exit("Something broke.")
else:
    folder = order["options"].get("output", order["options"].get("run"))
    say(folder=folder, steps=2, step=0)
    say(step=1)
    if asked == "wait":
        signal.pause()
    elif asked == "copy":
        shutil.copytree(os.path.join(os.path.dirname(folder), "ball"), folder)
    say(note=json.dumps(order))
    say(step=2)
    say(files=[folder + "/mesh.glb"])
"""
ROOT = Path(__file__).parents[1]
FAKE = (sys.executable, "-S", "-c", TALKER)
DRAWER = "from support.worlds import shrink_pictures as s; s(); from dreamfusion.studio.worker import main; main()"
"""The real worker with finished pictures of a few pixels, as in all tests."""

pytestmark = pytest.mark.skipif(os.name == "nt", reason="its workers are stopped by signals here")


def until(true: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Wait until something holds and return it."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, "it never held"
        time.sleep(0.01)
    return found


class Client:
    """Somebody who has the address; ``owner`` is what a browser would keep."""

    def __init__(self, runs: Path, command: tuple[str, ...] = FAKE, *, public: bool = False, models: Any = ()) -> None:
        self.opening = opened(runs, models, command)
        self.queue = self.opening.__enter__()
        self.gate = Gate("127.0.0.1", 8090, command="dreamfusion studio")
        app = create_app(Studio(self.queue, Gallery(runs), public), self.gate)
        self.http = TestClient(app, base_url=f"http://127.0.0.1:8090/{self.gate.token}/")

    def ask(self, method: str, path: str, body: Any = None, *, status: int = 200, owner: str = "me") -> Any:
        response = self.http.request(method, path, json=body, headers={"X-Owner": owner})
        assert response.status_code == status, response.text
        return response.json()

    def make(self, prompt: str, owner: str = "me", **more: Any) -> str:
        (job,) = self.ask("POST", "api/jobs", {"kind": "generate", "prompt": prompt, **more}, status=201, owner=owner)[
            "jobs"
        ]
        return job["id"]

    def job(self, number: str, owner: str = "me") -> Any:
        return self.ask("GET", f"api/jobs/{number}", owner=owner)

    def ended(self, number: str) -> Any:
        until(lambda: self.job(number)["state"] in ("done", "stopped", "failed"))
        return self.job(number)

    def waits(self, number: str) -> None:
        """Wait until a job has taken a step."""
        until(lambda: self.job(number)["step"] == 1)

    def close(self) -> None:
        self.opening.__exit__(None, None, None)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    client = Client(tmp_path)
    yield client
    client.close()


def save_run(folder: Path, prompt: str = "a red mushroom") -> Path:
    """Write what a run of three steps leaves, with a ball as its object."""
    with claim(folder):
        save_config(parse_config({"prompt": prompt, "steps": 3}), folder / "config.yaml")
        (folder / "checkpoints" / "step_000003").mkdir(parents=True)
        (folder / "checkpoints" / "step_000003" / "state.json").write_text("{}")
        ball = trimesh.creation.icosphere(subdivisions=2, radius=0.7)
        vertices = ball.vertices.astype(np.float32)
        colors = np.tile(np.float32((0.8, 0.1, 0.1)), (len(vertices), 1))
        save_glb(Mesh(vertices, ball.faces.astype(np.int64), vertices / 0.7, colors), folder / "mesh.glb")
    return folder


# --- the queue --------------------------------------------------------------------------------------------------------


def test_an_order_is_carried_out_in_a_process_of_its_own(client: Client, tmp_path: Path):
    done = client.ended(client.make("a red mushroom", seed=3, preset="quick"))
    assert (done["state"], done["run"], done["step"], done["steps"]) == ("done", "a-red-mushroom", 2, 2)
    assert done["files"] == ["mesh.glb"]
    told = json.loads(done["notes"][0])
    output = str(tmp_path / "a-red-mushroom")
    prior = {"kind": "toybox"}
    asked = {"prompt": "a red mushroom", "preset": "quick", "seed": 3, "guidance": prior, "output": output}
    assert told == {"kind": "generate", "options": asked}


def test_a_folder_is_given_once(client: Client, tmp_path: Path):
    save_run(tmp_path / "a-red-mushroom")
    assert client.ended(client.make("a red mushroom"))["run"] == "a-red-mushroom-2"


def test_what_goes_wrong_is_told_in_one_line(client: Client, tmp_path: Path):
    refused, crashed = client.make("refuse"), client.make("crash")
    assert client.ended(refused)["message"] == "It cannot be done."
    crash = client.ended(crashed)
    assert crash["state"] == "failed"
    assert crash["message"].startswith("The worker ended with code 1: Something broke. (see ")
    (row,) = client.ask("POST", "api/jobs", {"kind": "generate", "prompt": "a"}, status=201)["jobs"]
    assert client.ended(row["id"])["state"] == "done", "the queue goes on"


def test_a_run_is_stopped_and_what_waits_is_taken_out(client: Client):
    going, waiting = client.make("wait"), client.make("wait")
    client.waits(going)
    assert client.job(waiting)["place"] == 1
    client.ask("POST", f"api/jobs/{waiting}/stop")
    assert client.job(waiting)["state"] == "stopped"
    client.ask("POST", f"api/jobs/{going}/stop")
    assert client.ended(going)["message"] == "Stopped by SIGTERM"
    client.ask("POST", f"api/jobs/{going}/stop")
    assert client.ask("POST", "api/jobs/nix/stop", status=404)["error"] == "There is no such job."
    refusal = client.ask("PUT", f"api/jobs/{going}/prompt", {"prompt": "a blue car"}, status=400)
    assert refusal["error"] == "The prompt can be changed while the run takes steps."


def test_users_take_turns(client: Client):
    client.waits(client.make("wait", owner="ann"))
    numbers = [client.make("wait", owner=owner) for owner in ("ann", "ann", "bob", "bob")]
    rows = client.ask("GET", "api/jobs", owner="bob")["jobs"]
    order = [row["id"] for row in rows if row["state"] == "waiting"]
    assert order == [numbers[2], numbers[0], numbers[3], numbers[1]]
    assert [row["mine"] for row in rows] == [False, True, False, True, False]
    assert "ann" not in json.dumps(rows)


def test_pictures_do_not_wait_behind_runs(client: Client, tmp_path: Path):
    save_run(tmp_path / "ball")
    client.waits(client.make("wait"))
    body = {"kind": "export", "run": "ball", "format": ["stl", "glb"]}
    (job,) = client.ask("POST", "api/jobs", body, status=201)["jobs"]
    assert job["title"] == "STL, GLB of ball"
    assert client.ended(job["id"])["state"] == "done"


def test_what_waits_outlives_the_studio(tmp_path: Path):
    first = Client(tmp_path)
    going = first.make("wait")
    first.waits(going)
    first.make("a blue car", seed=7)
    first.close()
    assert first.queue.get(going).state == "stopped", "with a checkpoint, as by any signal"
    second = Client(tmp_path)
    (job,) = second.ask("GET", "api/jobs")["jobs"]
    assert job["order"]["prompt"] == "a blue car"
    assert job["mine"]
    assert second.ended(job["id"])["state"] == "done"
    second.close()


def test_many_at_once_are_all_taken_or_none(client: Client):
    body = {"kind": "generate", "prompts": ["a red car", "a blue car"], "seed": 1}
    jobs = client.ask("POST", "api/jobs", body, status=201)["jobs"]
    assert [(job["order"]["prompt"], job["order"]["seed"]) for job in jobs] == [("a red car", 1), ("a blue car", 1)]
    count = len(client.ask("GET", "api/jobs")["jobs"])
    client.ask("POST", "api/jobs", body | {"prompts": ["a red car", " "]}, status=400)
    refusal = client.ask("POST", "api/jobs", body | {"prompts": ["a"] * 201}, status=400)
    assert refusal["error"] == "At most 200 jobs may wait: let some of them end first."
    assert len(client.ask("GET", "api/jobs")["jobs"]) == count


def test_the_time_left_counts_steps_and_the_writing():
    job = Job(parse_order({"kind": "generate", "prompt": "a"}), "me", state="running")
    job.hear({"folder": "a", "steps": 100, "step": 20}, now=0.0)
    assert job.seconds_left(5.0, now=1.0) is None, "no step has been taken yet"
    job.hear({"step": 30}, now=20.0)
    assert job.seconds_left(5.0, now=20.0) == pytest.approx(70 * 2.0 + 5.0)
    job.hear({"step": 100}, now=160.0)
    assert job.seconds_left(5.0, now=162.0) == pytest.approx(3.0)
    assert job.seconds_left(5.0, now=166.0) is None, "it takes longer than the last time: nobody knows"


BAD = [
    ({"kind": "generat"}, "kind: give one of generate"),
    ([], "kind: give one of"),
    ({"kind": "generate"}, "prompt: Field required"),
    ({"kind": "generate", "prompt": "  "}, "prompt: "),
    ({"kind": "generate", "prompt": "a" * 2001}, "prompt: "),
    ({"kind": "generate", "prompt": "a", "steps": 0}, "steps: "),
    ({"kind": "generate", "prompt": "a", "seed": -1}, "seed: "),
    ({"kind": "generate", "prompt": "a", "preset": "best"}, "preset: "),
    ({"kind": "generate", "prompt": "a", "output": "/etc"}, "output: "),
    ({"kind": "generate", "prompt": "a", "model": "/etc/model"}, "not started with the model /etc/model"),
    ({"kind": "generate", "prompts": []}, "prompts: give a list"),
    ({"kind": "refine", "run": "../ball"}, "There is no run ../ball here"),
    ({"kind": "refine", "run": "nix"}, "There is no run nix here"),
    ({"kind": "render", "run": "ball", "size": 1}, "size: "),
    ({"kind": "render", "run": "ball", "background": "/etc/passwd"}, "background: "),
    ({"kind": "render", "run": "ball", "environment": "/etc/passwd"}, "environment: "),
    ({"kind": "export", "run": "ball", "format": ["fbx"]}, "format.0: "),
    ({"kind": "export", "run": "ball", "format": []}, "format: "),
    ({"kind": "export", "run": "ball", "faces": 1}, "faces: "),
    ({"kind": "export", "run": "empty"}, "empty has nothing to show yet"),
]


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    runs = tmp_path_factory.mktemp("lasting")
    save_run(runs / "ball")
    save_config(parse_config({"prompt": "nothing"}), save_run(runs / "empty") / "config.yaml")
    (runs / "empty" / "checkpoints" / "step_000003").rename(runs / "empty" / "checkpoints" / "x")
    client = Client(runs)
    yield client
    client.close()


@pytest.mark.parametrize(("body", "line"), BAD)
def test_bad_orders_get_one_line(lasting: Client, body: Any, line: str):
    error = lasting.ask("POST", "api/jobs", body, status=400)["error"]
    assert line in error
    assert len(error.splitlines()) == 1


def test_bad_requests_get_one_line(lasting: Client):
    assert lasting.http.post("api/jobs", content=b"{").json()["error"] == "Send JSON."
    assert lasting.http.post("api/jobs", content=b" " * 1_000_001).status_code == 413
    assert lasting.http.post("api/jobs", content=iter([b"{}"])).status_code == 413, "of unknown length"
    assert lasting.ask("GET", "api/nix", status=404)["error"] == "Not Found"
    assert "sort: give one of" in lasting.ask("GET", "api/runs?sort=x", status=400)["error"]
    assert "no whole number" in lasting.ask("GET", "api/runs?first=x", status=400)["error"]
    assert "0 to take it back" in lasting.ask("PUT", "api/runs/ball/rating", {"stars": 6}, status=400)["error"]
    assert "whole number" in lasting.ask("PUT", "api/runs/ball/rating", {"stars": True}, status=400)["error"]


def test_models_are_those_that_the_studio_was_started_with(tmp_path: Path):
    client = Client(tmp_path, models=("sd", "some/model"))
    assert client.ask("GET", "api/options")["models"] == ["toybox", "sd", "some/model"]
    told = json.loads(client.ended(client.make("a corgi", model="some/model", guidance_scale=7))["notes"][0])
    assert told["options"]["guidance"] == {"kind": "diffusers", "model": "some/model", "guidance_scale": 7.0}
    assert named_models(["sd"])["sd"] == {"kind": "sd"}
    client.close()


def test_words_are_offered_and_read(lasting: Client):
    words = lasting.ask("GET", "api/options")["words"]
    assert "mushroom" in words["kind"]
    assert words["part"]["house"] == "roof"
    read = lasting.ask("GET", "api/reading?prompt=a crimson toadstool")
    assert (read["prompt"], read["problem"]) == ("a red mushroom", None)
    assert lasting.ask("GET", "api/reading?prompt=a red dragon")["problem"].startswith(
        "The embedded prior does not know: dragon."
    )
    assert "name one kind" in lasting.ask("GET", "api/reading?prompt=a red")["problem"]


def test_orders_take_what_the_package_takes():
    assert get_args(orders.Format) == FORMATS
    assert get_args(orders.Pivot) == get_args(Pivot)


# --- who may ask ------------------------------------------------------------------------------------------------------


def test_nobody_asks_without_the_secret_or_in_another_name(lasting: Client):
    token, http = lasting.gate.token, lasting.http
    for path in ("/", "/api/jobs", f"/{token[:-1]}/", "/page/studio.js", "/runs/ball/mesh.glb"):
        assert http.get(f"http://127.0.0.1:8090{path}").status_code == 403
    assert http.get("", headers={"Host": "evil.example"}).status_code == 403
    assert http.get("", headers={"Origin": "http://evil.example"}).status_code == 403
    assert "dreamfusion studio printed" in http.get("http://127.0.0.1:8090/").text
    assert http.get(f"http://127.0.0.1:8090/{token}", follow_redirects=False).headers["location"] == f"/{token}/"
    page = http.get("")
    assert page.status_code == 200
    assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]
    assert "unsafe" not in page.headers["Content-Security-Policy"]
    assert page.headers["Cache-Control"] == "no-store"


def test_a_public_studio_keeps_jobs_to_their_owners_and_deletes_nothing(tmp_path: Path):
    save_run(tmp_path / "ball")
    client = Client(tmp_path, public=True)
    number = client.make("wait", owner="ann")
    client.waits(number)
    for owner in ("bob", ""):
        client.ask("POST", f"api/jobs/{number}/stop", status=403, owner=owner)
        client.ask("PUT", f"api/jobs/{number}/prompt", {"prompt": "a"}, status=403, owner=owner)
    client.ask("DELETE", "api/runs/ball", status=403)
    assert (tmp_path / "ball" / "mesh.glb").exists()
    client.ask("POST", f"api/jobs/{number}/stop", owner="ann")
    assert client.ended(number)["state"] == "stopped"
    client.close()


def test_only_files_of_runs_are_served(lasting: Client):
    runs = lasting.queue.runs
    (runs / "secret.txt").write_text("secret")
    (runs / "ball" / "link.txt").symlink_to(runs / "secret.txt")
    for path in (
        "runs/ball/..%2Fsecret.txt",
        "runs/..%2Fball/mesh.glb",
        "runs/ball/.dreamfusion",
        "runs/ball/link.txt",
    ):
        assert lasting.http.get(path).status_code == 404, path
    assert lasting.http.get("runs/.studio/queue.json").status_code == 404
    got = lasting.http.get("runs/ball/mesh.glb?download")
    assert got.content == (runs / "ball" / "mesh.glb").read_bytes()
    assert 'filename="ball-mesh.glb"' in got.headers["Content-Disposition"]
    page = lasting.http.get("runs/ball/viewer")
    assert "a red mushroom" in page.text
    assert "sandbox allow-scripts" in page.headers["Content-Security-Policy"]
    assert "ball and empty" in lasting.http.get("runs/ball/beside/empty").text
    (runs / "ball" / "link.txt").unlink()


# --- the gallery ------------------------------------------------------------------------------------------------------


def test_runs_are_found_rated_and_sorted(client: Client, tmp_path: Path):
    for name, prompt, age in (("a", "a red mushroom", 30), ("b", "a blue car", 20), ("c", "a red car", 10)):
        config = save_run(tmp_path / name, prompt) / "config.yaml"
        os.utime(config, (time.time() - age,) * 2)
    (tmp_path / "other").mkdir()

    def names(query: str = "") -> list[str]:
        return [run["name"] for run in client.ask("GET", f"api/runs?{query}")["runs"]]

    assert names() == ["c", "b", "a"]
    assert names("search=RED") == ["c", "a"]
    assert names("search=car red") == ["c"]
    assert names("sort=name&first=1&count=1") == ["b"]
    assert client.ask("PUT", "api/runs/a/rating", {"stars": 4})["rating"] == 4
    assert names("sort=rating") == ["a", "c", "b"]
    run = client.ask("GET", "api/runs/a")
    assert (run["state"], run["step"], run["steps"], run["viewer"]) == ("finished", 3, 3, True)
    assert [file["name"] for file in run["files"]] == ["mesh.glb"]


def test_a_run_is_deleted_and_nothing_else(client: Client, tmp_path: Path):
    run = save_run(tmp_path / "a")
    client.ask("PUT", "api/runs/a/rating", {"stars": 5})
    (run / "notes.txt").write_text("mine")
    assert "holds notes.txt" in client.ask("DELETE", "api/runs/a", status=400)["error"]
    (run / "notes.txt").unlink()
    (run / "previews").mkdir()
    (run / "previews" / "holiday.png").write_bytes(b"mine")
    assert "holds previews/holiday.png" in client.ask("DELETE", "api/runs/a", status=400)["error"]
    (run / "previews" / "holiday.png").unlink()
    changed = (run / "mesh.glb").read_bytes()
    (run / "mesh.glb").write_bytes(changed[:-1] + b"x")
    assert "holds mesh.glb" in client.ask("DELETE", "api/runs/a", status=400)["error"]
    (run / "mesh.glb").write_bytes(changed)
    (run / "link").symlink_to(tmp_path)
    assert "holds link" in client.ask("DELETE", "api/runs/a", status=400)["error"]
    (run / "link").unlink()
    with claim(run):
        assert "Another process is at work" in client.ask("DELETE", "api/runs/a", status=400)["error"]
    assert client.ask("DELETE", "api/runs/a") == {"deleted": "a"}
    assert not run.exists()
    client.ask("DELETE", "api/runs/a", status=404)


def test_folders_of_others_stay(tmp_path: Path):
    save_config(parse_config({"prompt": "a"}), tmp_path / "config.yaml")
    with pytest.raises(DreamFusionError, match="not made by this program"):
        remove_run(tmp_path)
    assert (tmp_path / "config.yaml").exists()


def test_a_run_at_work_is_not_deleted_nor_continued_twice(client: Client, tmp_path: Path):
    save_run(tmp_path / "wait")
    number = client.make("wait")
    client.waits(number)
    save_run(tmp_path / "wait-2")
    assert "at work" in client.ask("DELETE", "api/runs/wait-2", status=409)["error"]
    assert "at work" in client.ask("POST", "api/jobs", {"kind": "resume", "run": "wait-2"}, status=400)["error"]


# --- starting ---------------------------------------------------------------------------------------------------------


def test_a_second_studio_and_a_busy_port_get_one_line(tmp_path: Path):
    with (
        opened(tmp_path, command=FAKE),
        pytest.raises(DreamFusionError, match=r"Another studio serves .*: open its page, end it, or choose"),
        opened(tmp_path, command=FAKE),
    ):
        pass
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(DreamFusionError, match=f"Cannot serve on 127.0.0.1:{port} .*: choose another with --port"):
            serve(tmp_path, port=port, browser=False)
    with pytest.raises(DreamFusionError, match="no such port"), listening("127.0.0.1", 99999):
        pass
    with opened(tmp_path, command=FAKE):
        pass


def test_a_space_starts_a_public_studio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    started: list[Any] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda server, sockets: started.append(server.config.app))
    monkeypatch.setenv("RUNS", str(tmp_path))
    monkeypatch.setenv("PORT", "0")
    monkeypatch.setenv("MODELS", "sd")
    runpy.run_path(str(ROOT / "spaces" / "app.py"), run_name="__main__")
    http = TestClient(started[0], base_url="http://any.hf.space/")
    assert "frame-ancestors https://huggingface.co" in http.get("").headers["Content-Security-Policy"]
    told = http.get("api/options").json()
    assert (told["public"], told["models"]) == (True, ["toybox", "sd"])
    _, front, _ = (ROOT / "spaces" / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    facts = yaml.safe_load(front)
    assert (facts["sdk"], facts["app_port"]) == ("docker", 7860)
    wanted = (ROOT / "spaces" / "requirements.txt").read_text().strip()
    assert wanted == f"./dreamfusion-{__version__}-py3-none-any.whl[studio]"


# --- the page ---------------------------------------------------------------------------------------------------------


@contextmanager
def served(runs: Path, command: tuple[str, ...]) -> Iterator[str]:
    """Serve a studio and give its address."""
    with opened(runs, command=command) as queue, listening("127.0.0.1", 0) as listener:
        gate = Gate("127.0.0.1", listener.getsockname()[1])
        app = create_app(Studio(queue, Gallery(runs)), gate)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield gate.address
        finally:
            server.should_exit = True
            thread.join()


def test_the_example_client_makes_and_downloads(tmp_path: Path):
    client = runpy.run_path(str(ROOT / "examples" / "studio_client.py"))["Studio"]
    with served(tmp_path / "runs", FAKE) as address:
        studio = client(address, "an example")
        ball = save_run(tmp_path / "runs" / "a ball")
        assert studio.order("generate", prompt="a red car", seed=2)["run"] == "a-red-car"
        mesh = studio.download("a ball", "mesh.glb", tmp_path / "out.glb")
        assert mesh.read_bytes() == (ball / "mesh.glb").read_bytes()
        with pytest.raises(RuntimeError, match=r"^It cannot be done\.$"):
            studio.order("generate", prompt="refuse")
        with pytest.raises(RuntimeError, match=r"^There is no run nix here\.$"):
            studio.order("refine", run="nix")
        with pytest.raises(RuntimeError, match=r"^Open the whole address"):
            client(address[:-2]).ask("GET", "api/jobs")


BLENDER = """
import os, runpy, sys, time, traceback
import bpy
addon = runpy.run_path(sys.argv[1])
addon["register"]()
settings = bpy.context.scene.dreamfusion

def follow(until=lambda: False):
    look = addon["follow"](settings.address, settings.job)  # a timer's, which without a window nobody calls
    while look() is not None and not until():
        time.sleep(0.02)

def use():
    settings.address, settings.prompt = "http://127.0.0.1:9/x", "copy"
    assert bpy.ops.dreamfusion.make() == {"CANCELLED"}
    assert settings.status.startswith("No studio answers there"), settings.status
    settings.address = sys.argv[2]
    assert bpy.ops.dreamfusion.make() == {"FINISHED"}
    bpy.context.scene.cursor.location = (1, 2, 3)
    before = set(bpy.data.objects)
    follow()
    assert settings.status == "done", settings.status
    (ball,) = [one for one in bpy.data.objects if one not in before and one.type == "MESH"]
    assert len(ball.data.polygons) == 320, len(ball.data.polygons)
    bpy.context.view_layer.update()
    assert [round(v, 3) for v in ball.matrix_world.translation] == [1, 2, 3]
    settings.prompt = "wait"
    assert bpy.ops.dreamfusion.make() == {"FINISHED"}
    follow(lambda: "step 1 of 2" in settings.status)
    assert bpy.ops.dreamfusion.stop() == {"FINISHED"}
    follow()
    assert settings.status == "Stopped by SIGTERM", settings.status
    addon["unregister"]()
    print("placed")

try:
    use()
except Exception:
    traceback.print_exc()
for stream in (sys.stdout, sys.stderr):
    stream.flush()
os._exit(0)  # a module of Blender's with classes still registered hangs when Python ends
"""


@pytest.mark.skipif(find_spec("bpy") is None, reason="no Blender here: pip install bpy==4.5.*, Python 3.11")
def test_the_add_on_brings_an_object_into_blender(tmp_path: Path):
    save_run(tmp_path / "ball")
    with served(tmp_path, FAKE) as address:
        command = [sys.executable, "-c", BLENDER, str(ROOT / "blender" / "dreamfusion_blender.py"), address]
        said = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert "placed" in said.stdout, said.stderr


def test_an_object_is_made_looked_at_downloaded_and_refined(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    here = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(here), str(here.parent), *sys.path]))
    complaints: list[str] = []
    with served(tmp_path, (sys.executable, "-c", DRAWER)) as address:
        page = browser.new_page(viewport={"width": 1300, "height": 900})
        page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: complaints.append(str(e)))
        page.on("request", lambda r: complaints.append(r.url) if elsewhere(r.url, address) else None)
        page.set_default_timeout(400_000)
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        page.locator("#prompt").press_sequentially("a crimson mush")
        offered = page.locator("#suggestions option").evaluate_all("all => all.map((one) => one.value)")
        assert offered == ["a crimson mushroom"]
        page.locator("#prompt").fill("a crimson mushroom")
        page.get_by_text("Read as “a red mushroom”.").wait_for()
        page.get_by_label("Preset").first.select_option("quick")
        page.get_by_label("Steps").first.fill("2")
        page.get_by_role("button", name="Make it").click()
        page.locator("#jobs h3", has_text="a crimson mushroom").wait_for()
        page.locator("#object-title", has_text="a crimson mushroom").wait_for()
        assert load_config(tmp_path / "a-crimson-mushroom" / "config.yaml").steps == 2
        page.frame_locator("#viewer").locator("body[data-ready]").wait_for()
        with page.expect_download() as taken:
            page.get_by_role("link", name="mesh.glb").click()
        assert taken.value.suggested_filename == "a-crimson-mushroom-mesh.glb"
        assert Path(taken.value.path()).read_bytes() == (tmp_path / "a-crimson-mushroom" / "mesh.glb").read_bytes()
        page.get_by_label("4 of 5").check(force=True)
        page.locator("#gallery .facts", has_text="★★★★").wait_for()
        for theme in ("light", "dark"):
            assert page.evaluate("document.documentElement.dataset.theme") == theme
            page.frame_locator("#viewer").locator(f":root[data-theme={theme}]").wait_for()
            found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21aa", "best-practice"]})
            assert [(rule["id"], rule["nodes"][0]["html"]) for rule in found["violations"]] == []
            page.locator("#theme").click()
        page.locator("#object summary", has_text="Refine").click()
        page.locator("#refine-preset").select_option("quick")
        page.locator("#refine").get_by_label("Steps").fill("1")
        page.locator("#refine").get_by_role("button", name="Refine").click()
        page.locator("#gallery .facts", has_text="refined").wait_for()
        page.close()
    assert load_config(tmp_path / "a-crimson-mushroom-refined" / "config.yaml").scene.kind == "mesh"
    assert complaints == []


def elsewhere(url: str, address: str) -> bool:
    return not url.startswith((address, "data:", "blob:"))
