"""Following a run: requests that its loop takes, a changed prompt with resuming, and the live page in a browser."""

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import yaml
from PIL import Image

from dreamfusion.app.view import Viewer, check, open_server
from dreamfusion.config import load_config, parse_config
from dreamfusion.errors import DreamFusionError, Stopped
from dreamfusion.io.checkpoints import latest_checkpoint, list_checkpoints, load_checkpoint
from dreamfusion.runs.control import Requests
from dreamfusion.runs.generate import generate
from support.worlds import SHORT, toy_prior

FEW = SHORT | {"steps": 8, "checkpoint_every": 100}


def start(folder: Path, at: dict[int, Any] | None = None, **options: Any) -> Any:
    """Generate, and call ``at[n]`` with the run's requests after step n."""

    def on_step(step: Any) -> None:
        if at and step.number in at:
            at[step.number](Requests(folder))

    prior = toy_prior("mushroom", views=8, size=16)
    # A text of its own for each prompt, which the analytic prior would take for the same.
    embed = prior.embed
    prior.asked = []
    prior.embed = lambda prompts: (prior.asked.append(prompts[0]), embed(prompts))[1]
    result = generate(guidance_model=prior, on_step=on_step, assets=False, **options)
    return result, prior.asked


def same(a: Path, b: Path) -> bool:
    one, two = (load_checkpoint(latest_checkpoint(run / "checkpoints")) for run in (a, b))
    return one.step == two.step and all(torch.equal(one.tensors[name], two.tensors[name]) for name in one.tensors)


def test_a_stop_leaves_a_checkpoint_and_no_requests(tmp_path: Path):
    run = tmp_path / "run"
    with pytest.raises(Stopped):
        start(run, {3: lambda r: r.send("stop")}, prompt="a red mushroom", output=run, **FEW)
    assert list(list_checkpoints(run / "checkpoints")) == [3]
    assert not Requests(run).open
    with pytest.raises(DreamFusionError, match="Cannot write"):
        Requests(run).send("stop")


KILLED = """
import os, signal, sys
from pathlib import Path
from dreamfusion.runs.control import Requests
with Requests(Path(sys.argv[1])) as requests:
    assert requests.open
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name == "nt", reason="there are no such signals")
def test_a_killed_run_is_not_taken_for_a_running_one(finished: Path, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(run)], timeout=300)
    assert killed.returncode < 0
    requests = Requests(run)
    assert requests.folder.is_dir(), "nobody could remove it"
    assert not requests.open
    server, _ = open_server("127.0.0.1", 0)
    try:
        viewer = Viewer(run, server)
        viewer.refresh()
        assert "not running" in viewer._handles["status"].content
    finally:
        server.stop()
    machine, number, birth = (requests.folder / "process").read_text().split()
    born = psutil.Process().create_time()
    (requests.folder / "process").write_text(f"{machine} {os.getpid()} {born}")
    assert requests.open
    (requests.folder / "process").write_text(f"{machine} {os.getpid()} {born - 1e4}")
    assert not requests.open, "another one that has got its number since"
    (requests.folder / "process").write_text(f"elsewhere {number} {birth}")
    assert requests.open, "which nobody here can know"
    with requests:
        assert requests.open
    assert not requests.folder.exists()


def test_a_snapshot_is_a_checkpoint_and_changes_nothing(tmp_path: Path):
    start(tmp_path / "plain", prompt="a red mushroom", output=tmp_path / "plain", **FEW)
    seen = {}

    def look(requests: Requests) -> None:
        seen["steps"] = list(list_checkpoints(tmp_path / "run/checkpoints"))

    at = {4: lambda r: r.send("snapshot"), 5: look}
    start(tmp_path / "run", at, prompt="a red mushroom", output=tmp_path / "run", **FEW)
    assert seen["steps"] == [4]
    assert same(tmp_path / "run", tmp_path / "plain")


def test_a_changed_prompt_is_recorded_resumed_and_reproduced(tmp_path: Path):
    run = tmp_path / "run"
    at = {3: lambda r: r.send("prompt", "a blue mushroom\n")}
    _, asked = start(run, at, prompt="a red mushroom", output=run, **FEW)
    assert asked == [f"a {c} mushroom, front view" for c in ("red", "red", "blue")]
    config = load_config(run / "config.yaml")
    assert config.prompts == {0: "a red mushroom", 3: "a blue mushroom"}
    assert [config.prompt_at(step) for step in (0, 2, 3, 8)] == ["a red mushroom"] * 2 + ["a blue mushroom"] * 2

    _, asked = start(tmp_path / "again", config_file=run / "config.yaml", output=tmp_path / "again")
    assert same(run, tmp_path / "again")
    stop = at | {5: lambda r: r.send("stop")}
    with pytest.raises(Stopped):
        start(tmp_path / "stopped", stop, prompt="a red mushroom", output=tmp_path / "stopped", **FEW)
    _, asked = start(tmp_path / "stopped", resume=tmp_path / "stopped")
    assert asked[-1] == "a blue mushroom, front view"
    assert same(run, tmp_path / "stopped")


def test_a_prompt_that_cannot_be_is_refused_and_the_run_goes_on(tmp_path: Path):
    run = tmp_path / "run"
    answers = []
    at = {2: lambda r: r.send("prompt", "  "), 4: lambda r: answers.append(r.answered())}
    start(run, at, prompt="a red mushroom", output=run, **FEW)
    assert "stays as it was" in answers[0]
    assert load_config(run / "config.yaml").later_prompts == {}
    assert load_checkpoint(latest_checkpoint(run / "checkpoints")).step == 8


@pytest.mark.slow
def test_the_embedded_prior_takes_a_new_prompt_and_refuses_unknown_words(tmp_path: Path):
    run, answers = tmp_path / "run", []
    at = {
        1: lambda r: r.send("prompt", "a purple zebra"),
        2: lambda r: (answers.append(r.answered()), r.send("prompt", "a blue car")),
        3: lambda r: answers.append(r.answered()),
    }
    tiny = {"steps": 4, "views": 1, "resolution": 8, "device": "cpu"}

    def on_step(step: Any) -> None:
        if step.number in at:
            at[step.number](Requests(run))

    generate("a red mushroom", output=run, assets=False, on_step=on_step, **tiny)
    assert "zebra" in answers[0]
    assert answers[1] == "From step 2 on the prompt is: a blue car"
    assert load_config(run / "config.yaml").later_prompts == {2: "a blue car"}


def test_an_odd_schedule_of_prompts_is_refused():
    with pytest.raises(DreamFusionError, match="later_prompts"):
        parse_config({"prompt": "a", "later_prompts": {-1: "b"}})
    with pytest.raises(DreamFusionError, match="later_prompts"):
        parse_config({"prompt": "a", "later_prompts": {1: ""}})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "mushroom"
    torch.set_num_threads(1)
    start(folder, prompt="a red mushroom", output=folder, **FEW | {"steps": 20, "preview_every": 10})
    return folder


@contextmanager
def live_page(run: Path, browser: Any) -> Iterator[tuple[Viewer, Any]]:
    """The viewer of a run and its page in the browser, which must not complain."""
    complaints = []
    server, address = open_server("127.0.0.1", 0)
    try:
        viewer = Viewer(run, server)
        viewer.refresh()
        page = browser.new_page(viewport={"width": 700, "height": 700})
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: complaints.append(str(e)))
        page.goto(address)
        page.get_by_text("step 20 of 20").wait_for(timeout=120_000)
        yield viewer, page
        assert complaints == []
        page.close()
    finally:
        server.stop()


def wait_for(page: Any, look: Any, right: Any) -> Any:
    """Look until it is right, which takes a browser that draws in software some time, and return what was seen."""
    deadline = time.monotonic() + 120
    while not right(seen := look()):
        assert time.monotonic() < deadline, seen
        page.wait_for_timeout(300)
    return seen


def test_the_live_page_shows_the_object_and_its_light(finished: Path, browser: Any):
    with live_page(finished, browser) as (_, page):
        assert page.get_by_text("not running").is_visible()
        assert page.get_by_text("a red mushroom").first.is_visible()
        for name in ("Change the prompt", "Stop the run"):
            assert page.get_by_role("button", name=name).is_disabled(), "there is no run to ask"

        def middle() -> np.ndarray:
            # The picture's left half: the panel covers the right one.
            png = page.screenshot(timeout=120_000)
            return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)[350, 350]

        lit = wait_for(page, middle, lambda color: color.min() < 235)
        around = page.locator("[role=slider][aria-valuemin='-180']")
        assert around.get_attribute("aria-valuenow") == "65"
        thumb = around.bounding_box()
        page.mouse.move(thumb["x"] + thumb["width"] / 2, thumb["y"] + thumb["height"] / 2)
        page.mouse.down()
        page.mouse.move(thumb["x"] - 200, thumb["y"] + thumb["height"] / 2, steps=5)
        page.mouse.up()
        assert int(around.get_attribute("aria-valuenow")) < -150, "the light is behind the object"
        wait_for(page, middle, lambda color: abs(color - lit).max() > 15)


MARKUP = """<img src=x onerror="document.title='taken'"></script><script>document.title='taken'</script>{1+1} ![x](y)"""


def test_markup_in_a_prompt_and_in_answers_is_text(finished: Path, browser: Any, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"prompt": MARKUP}))
    with Requests(run) as requests, live_page(run, browser) as (viewer, page):
        requests.answer(f"No: {MARKUP}")
        viewer.refresh()
        page.get_by_text(f"No: {MARKUP}").wait_for(timeout=120_000)
        assert page.get_by_text(MARKUP, exact=True).is_visible()
        assert page.locator("input[value*=onerror]").input_value() == MARKUP
        assert page.locator("img[src=x]").count() == 0
        assert page.title() != "taken"


def test_the_live_page_stops_a_run_and_gives_it_another_prompt(finished: Path, browser: Any, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    with Requests(run) as requests, live_page(run, browser) as (viewer, page):
        page.locator("input[value='a red mushroom']").fill("a blue car")
        page.get_by_role("button", name="Change the prompt").click()
        assert wait_for(page, requests.take, bool) == {"prompt": "a blue car"}
        requests.answer("From step 20 on the prompt is: a blue car")
        viewer.refresh()
        page.get_by_text("From step 20 on").wait_for(timeout=120_000)
        page.get_by_role("button", name="Stop the run").click()
        assert wait_for(page, requests.take, bool) == {"stop": ""}


def test_the_page_asks_a_run_for_its_newest_state(finished: Path, tmp_path: Path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text((finished / "config.yaml").read_text())
    (run / "metrics.jsonl").write_text(json.dumps({"step": 7}) + "\n")
    with pytest.raises(DreamFusionError, match="nothing to show yet"):
        check(run)
    with Requests(run) as requests:
        check(run)
        server, _ = open_server("127.0.0.1", 0)
        try:
            viewer = Viewer(run, server)
            viewer.refresh()
            assert "step 7 of 20" in viewer._handles["status"].content
            assert not viewer._handles["stop"].disabled
            viewer._send("prompt", "a blue car")
            assert requests.take() == {"prompt": "a blue car", "snapshot": ""}
            assert requests.take() == {}
            requests.answer("Understood.")
            viewer.refresh()
            assert "Understood." in viewer._handles["status"].content
        finally:
            server.stop()


def test_what_cannot_be_viewed_gets_one_line(finished: Path, tmp_path: Path):
    with pytest.raises(DreamFusionError, match="holds no run"):
        check(tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"prompt": "a", "stepz": 1}))
    with pytest.raises(DreamFusionError, match="stepz"):
        check(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "dreamfusion", "view", str(finished), "--port", port]
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=300, env=os.environ | {"COLUMNS": "200"}
        )
    assert result.returncode == 1
    assert f"Cannot serve on 127.0.0.1:{port}" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
