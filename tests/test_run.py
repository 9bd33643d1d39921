import copy
import dataclasses
import gc
import json
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

import dreamfusion
from dreamfusion.assets import texture
from dreamfusion.config import PicturesConfig, SceneConfig, load_config
from dreamfusion.errors import DreamFusionError, Stopped
from dreamfusion.fields.nerf import NerfField
from dreamfusion.fields.tetrahedra import TetrahedraConfig
from dreamfusion.guidance.families import open_prior
from dreamfusion.io.checkpoints import latest_checkpoint, list_checkpoints, load_checkpoint
from dreamfusion.renderers.output import RenderOutput
from dreamfusion.runs import results
from dreamfusion.runs.generate import generate
from dreamfusion.runs.missing import not_found
from dreamfusion.runs.refine import refine
from dreamfusion.runs.results import export_run, open_run
from dreamfusion.scenes.mesh import MeshScene
from dreamfusion.standard import EMBEDDED_PRIOR
from support.worlds import SHORT, toy_prior

# A run in another process, with the analytic prior, that can be killed.
SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from support.worlds import SHORT, shrink_pictures, toy_prior
from dreamfusion.runs.generate import generate
from dreamfusion.runs.missing import not_found
shrink_pictures()
kind = dict(SHORT, steps=60)
prior = toy_prior("mushroom", views=8, size=16)
if sys.argv[1] == "resume":
    generate(resume=sys.argv[2], guidance_model=prior)
else:
    generate("a red mushroom", output=sys.argv[2], guidance_model=prior, **kind)
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dreamfusion.Result:
    """A finished short run."""
    folder = tmp_path_factory.mktemp("runs") / "mushroom"
    torch.set_num_threads(1)
    return generate("a red mushroom", output=folder, guidance_model=toy_prior("mushroom", views=8, size=16), **SHORT)


def test_a_run_leaves_everything_it_promises(finished: dreamfusion.Result):
    folder = finished.folder
    names = {path.name for path in folder.iterdir()}
    promised = {
        ".dreamfusion",
        "turntable.mp4",
        "contact_sheet.png",
        "mesh.glb",
        "viewer.html",
        "config.yaml",
        "metrics.jsonl",
        "checkpoints",
        "preview.png",
        "previews",
        "thumbnail.png",
        "growth.mp4",
    }
    assert names == promised
    assert sorted(path.name for path in (folder / "previews").iterdir()) == [
        f"step_{step:06d}.png" for step in (5, 10, 15, 20)
    ]
    assert Image.open(finished.thumbnail).size == (16, 16)
    rows = [json.loads(row) for row in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 21))
    assert {"opacity", "noise_error", "t_max", "grad_norm"} <= set(rows[0])
    assert list(list_checkpoints(folder / "checkpoints")) == [15, 20]
    assert Image.open(finished.contact_sheet).size[0] > 8 * 16
    assert len(trimesh.load(finished.mesh, force="mesh").faces) > 100


def test_the_saved_configuration_reproduces_the_run(finished: dreamfusion.Result, tmp_path: Path):
    prior = toy_prior("mushroom", views=8, size=16)
    again = generate(config_file=finished.folder / "config.yaml", output=tmp_path / "again", guidance_model=prior)
    assert (again.folder / "metrics.jsonl").read_text() == (finished.folder / "metrics.jsonl").read_text()
    for a, b in zip(again.scene.field.parameters(), finished.scene.field.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_finished_run_can_be_exported_again(finished: dreamfusion.Result, tmp_path: Path):
    before = (finished.folder / "mesh.glb").read_bytes()
    (mesh,) = export_run(finished.folder, output=tmp_path / "m.glb", resolution=32, texture_size=64)
    assert len(trimesh.load(mesh, force="mesh").faces) > 50
    assert (finished.folder / "mesh.glb").read_bytes() == before


def test_one_export_writes_several_formats(finished: dreamfusion.Result, tmp_path: Path):
    small = {"resolution": 32, "max_faces": 400, "texture_size": 64}
    paths = export_run(finished.folder, formats=("glb", "stl", "obj", "stl"), output=tmp_path / "new/toy.stl", **small)
    assert [path.name for path in paths] == ["toy.glb", "toy.stl", "toy.obj", "toy.mtl", "toy.png"]
    assert set((tmp_path / "new").iterdir()) == set(paths), "every file is named"
    for path in paths[:3]:
        assert 300 < len(trimesh.load(path, force="mesh").faces) <= 400
    assert trimesh.load(paths[1]).is_watertight
    assert Image.open(tmp_path / "new/toy.png").size == (64, 64)
    (path,) = export_run(finished.folder, output=tmp_path / "toy.PLY", size_mm=50, **small)
    assert trimesh.load(path).extents.max() == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"formats": ("fbx",)}, "No mesh format is called fbx"),
        ({"output": Path("toy.gltf")}, "end it in .glb"),
        ({"output": Path("toy.glb"), "formats": ("stl", "ply")}, "is no stl or ply"),
        ({"resolution": 8}, "--resolution"),
        ({"max_faces": 10}, "--faces"),
        ({"max_faces": 10_000_000}, "--faces"),
        ({"texture_size": 16}, "--texture-size"),
        ({"size_mm": 0.0}, "--size-mm"),
        ({"size_mm": float("nan")}, "--size-mm"),
        ({"height_m": 0.0}, "--height"),
        ({"height_m": 1.0, "size_mm": 50.0}, "not both"),
        ({"lod": 7}, "--lod"),
    ],
)
def test_exporting_refuses_what_it_cannot_do(finished: dreamfusion.Result, arguments: dict, message: str, in_tmp: Path):
    before = {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*")}
    with pytest.raises(DreamFusionError, match=message) as caught:
        export_run(finished.folder, **arguments)
    assert "\n" not in str(caught.value)
    assert {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*")} == before
    assert list(in_tmp.iterdir()) == []


def test_a_game_gets_levels_of_detail_that_stand_on_their_base(finished: dreamfusion.Result, tmp_path: Path):
    notes: list[str] = []
    small = {"resolution": 32, "max_faces": 800, "texture_size": 128, "on_note": notes.append}
    paths = export_run(finished.folder, output=tmp_path / "toy.glb", lod=2, pivot="base", height_m=0.3, **small)
    assert [path.name for path in paths] == ["toy.glb", "toy_lod1.glb", "toy_lod2.glb"]
    for path, faces, texels in zip(paths, (800, 200, 50), (128, 64, 64), strict=True):
        body = trimesh.load(path, force="mesh")
        assert 0.7 * faces <= len(body.faces) <= faces
        assert body.bounds[0, 1] == pytest.approx(0, abs=1e-6), "y is up in glTF, and the base at 0"
        assert body.bounds[1, 1] == pytest.approx(0.3, abs=1e-6)
        assert body.visual.material.baseColorTexture.size == (texels, texels)
    assert notes == []
    tree = json.loads(paths[0].read_bytes()[20:].split(b"BIN\0")[0].rsplit(b"}", 1)[0] + b"}")
    assert tree["meshes"][0]["name"] == tree["materials"][0]["name"] == finished.config.prompt
    assert tree["asset"]["extras"] == {"prompt": finished.config.prompt, "seed": finished.config.seed}


def test_a_mesh_that_cannot_be_reduced_is_told(
    finished: dreamfusion.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    notes: list[str] = []
    target = tmp_path / "m.stl"
    export_run(finished.folder, output=target, resolution=32, max_faces=300, on_note=notes.append)
    assert notes == []
    monkeypatch.setattr(results, "reduced", lambda mesh, *_: mesh)
    export_run(finished.folder, output=target, resolution=32, max_faces=300, on_note=notes.append)
    (note,) = notes
    count = len(trimesh.load(target).faces)
    assert count > 300
    assert f"{count:,} faces" in note


def test_an_export_that_cannot_be_written_says_so(finished: dreamfusion.Result, tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DreamFusionError, match=r"file; remove it|file of that name is in the way"):
        export_run(finished.folder, output=tmp_path / "file/toy.glb")


def test_an_empty_scene_leaves_the_earlier_mesh(finished: dreamfusion.Result, tmp_path: Path, monkeypatch):
    copy = tmp_path / "copy"
    shutil.copytree(finished.folder, copy)
    before = (copy / "mesh.glb").read_bytes()
    monkeypatch.setattr(NerfField, "density", lambda field, x: torch.zeros(len(x)))
    with pytest.raises(DreamFusionError, match="scene is empty"):
        export_run(copy)
    assert (copy / "mesh.glb").read_bytes() == before


def test_what_there_is_of_a_scene_of_fog_is_written_where_no_mesh_is_needed(
    finished: dreamfusion.Result, tmp_path: Path, caplog
):
    pictures = finished.config.pictures.model_copy(update={"mesh_needed": False, "sheet_resolution": 16})
    scene = copy.deepcopy(finished.scene)
    with torch.no_grad():
        for parameter in scene.field.density_network.parameters():
            parameter.zero_()
        scene.field.density_network[-1].bias.fill_(-100.0)
    empty = dataclasses.replace(
        finished, folder=tmp_path, scene=scene, config=finished.config.model_copy(update={"pictures": pictures})
    )
    results.write_assets(empty)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["contact_sheet.png"]
    assert "Left out: mesh.glb" in caplog.text
    with pytest.raises(DreamFusionError, match="empty"):
        results.write_assets(dataclasses.replace(empty, config=finished.config))


def test_without_xatlas_a_run_still_ends_with_a_mesh(finished: dreamfusion.Result, tmp_path: Path, monkeypatch):
    assert trimesh.load(finished.mesh, force="mesh").visual.material.baseColorTexture is not None
    for module in (results, texture):
        monkeypatch.setattr(module, "can_unwrap", lambda: False)
    result = dataclasses.replace(finished, folder=tmp_path)
    results.write_assets(result)
    notes: list[str] = []
    (exported,) = export_run(finished.folder, output=tmp_path / "toy.glb", resolution=32, on_note=notes.append)
    for path in (result.mesh, exported):
        assert trimesh.load(path, force="mesh").visual.material.baseColorTexture is None
        assert "COLOR_0" in path.read_bytes().decode("latin-1")
    assert ["xatlas" in note for note in notes] == [True]
    with pytest.raises(DreamFusionError, match="pip install xatlas"):
        export_run(finished.folder, formats=("glb", "obj"), output=tmp_path / "other")
    assert {path.suffix for path in tmp_path.iterdir()} & {".obj", ".mtl"} == set()


def test_an_output_that_holds_a_run_is_left_alone(finished: dreamfusion.Result):
    before = {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*")}
    prior = toy_prior("mushroom", views=8, size=16)
    with pytest.raises(DreamFusionError, match=r"already holds a run.*--resume"):
        generate("a red mushroom", output=finished.folder, guidance_model=prior, **SHORT)
    assert {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*")} == before


def test_the_default_folder_is_the_prompt_and_never_overwrites(in_tmp: Path):
    prior = toy_prior("mushroom", views=8, size=16)
    folders = [generate("A red/mushroom!", guidance_model=prior, **dict(SHORT, steps=2)).folder for _ in range(2)]
    assert [str(folder) for folder in folders] == ["runs/a-red-mushroom", "runs/a-red-mushroom-2"]


@pytest.mark.slow
def test_resume_after_kill_9_is_bit_equal(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent)))

    def start(*arguments: str) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, str(script), *arguments], stdout=subprocess.DEVNULL)

    assert start("new", str(tmp_path / "whole")).wait(timeout=3600) == 0
    killed = start("new", str(tmp_path / "killed"))
    deadline = time.monotonic() + 300
    metrics = tmp_path / "killed/metrics.jsonl"
    # Kill between two checkpoints, with rows written since the last one.
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 15):
        assert killed.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    reached = load_checkpoint(latest_checkpoint(tmp_path / "killed/checkpoints")).step
    assert 0 < reached < 60
    assert not (tmp_path / "killed/mesh.glb").exists()
    assert start("resume", str(tmp_path / "killed")).wait(timeout=3600) == 0

    a, b = (load_checkpoint(latest_checkpoint(tmp_path / name / "checkpoints")) for name in ("whole", "killed"))
    assert a.step == b.step == 60
    assert a.tensors.keys() == b.tensors.keys()
    for name, tensor in a.tensors.items():
        assert torch.equal(tensor, b.tensors[name]), name
    assert (tmp_path / "whole/metrics.jsonl").read_text() == metrics.read_text()
    assert (tmp_path / "whole/mesh.glb").read_bytes() == (tmp_path / "killed/mesh.glb").read_bytes()


def test_a_stop_by_the_user_leaves_a_checkpoint(tmp_path: Path):
    def stop(step) -> None:
        if step.number == 3:
            raise KeyboardInterrupt

    prior = toy_prior("mushroom", views=8, size=16)
    with pytest.raises(Stopped, match="--resume") as caught:
        generate("a red mushroom", output=tmp_path / "run", guidance_model=prior, on_step=stop, **SHORT)
    assert caught.value.number == signal.SIGINT
    assert load_checkpoint(latest_checkpoint(tmp_path / "run/checkpoints")).step == 3


FULL = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nA page of advice"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("Failed to allocate 4000000000 bytes on device 'cuda:0'"),
)


@pytest.mark.parametrize("error", FULL, ids=["torch-cuda", "torch-cpu", "warp"])
def test_full_memory_at_a_step_makes_smaller_portions_and_then_one_line(error, tmp_path: Path, monkeypatch, caplog):
    prior = toy_prior("mushroom", views=8, size=16)
    encode, calls = prior.encode, []

    def fills_up(image):
        calls.append(len(image))
        if len(calls) in (3, 12):
            raise error
        return encode(image)

    monkeypatch.setattr(prior, "encode", fills_up)
    # Two steps of two views; the third fails, and is taken again in portions of one view; so do those that follow.
    with pytest.raises(DreamFusionError, match="Not enough memory at step 7, even for one view") as caught:
        generate("a red mushroom", output=tmp_path / "run", guidance_model=prior, **SHORT)
    message = str(caught.value)
    assert "\n" not in message
    assert calls == [2, 2, 2] + [1] * 9
    assert [record.getMessage() for record in caplog.records] == [
        "Not enough memory at step 3: goes on with the views of a step in 2 portions."
    ]
    assert all(remedy in message for remedy in ("image_size", "checkpoint_vae", "tiny_vae", "offload"))
    assert list(list_checkpoints(tmp_path / "run/checkpoints")) == [5]
    assert load_checkpoint(latest_checkpoint(tmp_path / "run/checkpoints")).step == 5


def test_other_errors_at_a_step_are_not_taken_for_full_memory(tmp_path: Path, monkeypatch):
    def fails(image):
        raise RuntimeError("shapes do not match")

    prior = toy_prior("mushroom", views=8, size=16)
    monkeypatch.setattr(prior, "encode", fails)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        generate("a red mushroom", output=tmp_path / "run", guidance_model=prior, **SHORT)


def test_a_run_that_is_resumed_at_its_last_step_writes_its_results_again(finished: dreamfusion.Result, tmp_path: Path):
    shutil.copytree(finished.folder, tmp_path / "run")
    for name in ("mesh.glb", "viewer.html"):
        (tmp_path / "run" / name).unlink()
    generate(resume=tmp_path / "run", guidance_model=toy_prior("mushroom", views=8, size=16))
    for name in ("mesh.glb", "viewer.html", "metrics.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (finished.folder / name).read_bytes()


def test_an_export_has_the_asked_resolution_and_texture(finished: dreamfusion.Result, tmp_path: Path):
    counts = []
    for resolution in (16, 32):
        (path,) = export_run(finished.folder, output=tmp_path / f"{resolution}.stl", resolution=resolution)
        counts.append(len(trimesh.load(path).faces))
    assert 2.5 * counts[0] < counts[1], "a surface has four times the triangles"
    small = {"resolution": 16, "max_faces": 100, "texture_size": 96}
    paths = export_run(finished.folder, output=tmp_path / "toy.obj", **small)
    assert Image.open(paths[-1]).size == (96, 96)


def test_resume_refuses_what_would_change_the_course(finished: dreamfusion.Result, tmp_path: Path):
    with pytest.raises(DreamFusionError, match="no run to resume"):
        generate(resume=tmp_path)
    with pytest.raises(DreamFusionError, match="keeps its seed"):
        generate(resume=finished.folder, seed=3)
    with pytest.raises(DreamFusionError, match="keeps its prompt"):
        generate("a blue car", resume=finished.folder)
    for steps, reason in ((-5, "steps"), (0, "steps"), (10, "20 steps old already")):
        with pytest.raises(DreamFusionError, match=reason):
            generate(resume=finished.folder, steps=steps, guidance_model=toy_prior("mushroom", views=8, size=16))
    for name, value in {"preset": "quick", "output": tmp_path, "config_file": tmp_path / "a.yaml"}.items():
        with pytest.raises(DreamFusionError, match=f"leave out --{name.removesuffix('_file')}"):
            generate(resume=finished.folder, **{name: value})
    assert load_config(finished.folder / "config.yaml") == finished.config
    with pytest.raises(DreamFusionError, match="no run with a checkpoint"):
        open_run(tmp_path)


def test_a_truncated_checkpoint_falls_back_to_the_one_before(finished: dreamfusion.Result, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(finished.folder, copy)
    newest = copy / "checkpoints/step_000020/tensors.safetensors"
    newest.write_bytes(newest.read_bytes()[:1000])
    result = generate(resume=copy, guidance_model=toy_prior("mushroom", views=8, size=16))
    for a, b in zip(result.scene.field.parameters(), finished.scene.field.parameters(), strict=True):
        assert torch.equal(a, b)
    for path in list_checkpoints(copy / "checkpoints").values():
        (path / "tensors.safetensors").write_bytes(b"broken")
    with pytest.raises(DreamFusionError, match="None of the 2 checkpoints"):
        open_run(copy)


def test_a_resumed_run_says_what_it_did_not_find(finished: dreamfusion.Result, tmp_path: Path):
    def told(folder: Path) -> list[str]:
        prior, notes = toy_prior("mushroom", views=8, size=16), []
        generate(resume=folder, guidance_model=prior, assets=False, on_note=notes.append)
        return notes

    copy = tmp_path / "run"
    shutil.copytree(finished.folder, copy)
    assert told(copy) == []
    (copy / "metrics.jsonl").unlink()
    next((copy / "previews").iterdir()).unlink()
    config, steps = load_config(copy / "config.yaml"), max(list_checkpoints(copy / "checkpoints"))
    shown = steps // config.preview_every
    assert told(copy) == [
        f"metrics.jsonl was not found: its rows begin with step {steps + 1}",
        f"1 of {shown} previews were not found: growth.mp4 leaves those steps out",
    ]
    shutil.rmtree(copy / "checkpoints")
    assert not_found(copy, config, 0) == ["no checkpoint was found: the run begins at its first step"]


def test_what_cannot_be_resumed_says_what_it_lacks(finished: dreamfusion.Result, tmp_path: Path):
    copy = tmp_path / "run"
    shutil.copytree(finished.folder, copy)
    state, newest = (
        results.open_state(copy, finished.config, torch.device("cpu")),
        latest_checkpoint(copy / "checkpoints"),
    )
    checkpoint = load_checkpoint(newest)
    del checkpoint.state["optimizer"]
    with pytest.raises(DreamFusionError, match="has no optimizer in it: delete it and resume from an earlier one"):
        state.restore(checkpoint)
    config = copy / "config.yaml"
    config.write_text(config.read_text() + "loudness: 11\n")
    with pytest.raises(DreamFusionError, match=r"config.yaml has a key .* loudness: .*upgrade dreamfusion"):
        generate(resume=copy)
    config.unlink()
    with pytest.raises(DreamFusionError, match=r"it has checkpoints, but lost the config.yaml"):
        generate(resume=copy)


def test_no_prompt_and_an_empty_prompt():
    with pytest.raises(DreamFusionError, match="Nothing to make"):
        generate(guidance_model=toy_prior("mushroom", views=8, size=16))
    with pytest.raises(DreamFusionError, match="empty"):
        generate("  ", guidance_model=toy_prior("mushroom", views=8, size=16))


def test_a_failing_optimisation_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    prior = toy_prior("mushroom", views=8, size=16)
    monkeypatch.setattr(prior, "predict_noise", lambda z, t, e: torch.full_like(z, float("nan")))
    with pytest.raises(DreamFusionError, match="no longer finite"):
        generate("a red mushroom", output=tmp_path / "run", guidance_model=prior, **SHORT)
    rows = [json.loads(row) for row in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["left_out"]) for row in rows] == [(step, 1.0) for step in range(1, 11)]


def test_a_scene_that_is_not_finite_goes_back_to_the_checkpoint_with_lower_rates(tmp_path: Path, caplog):
    spoilt: list[int] = []

    def spoil(step) -> None:
        scenes = [scene for scene in gc.get_objects() if isinstance(scene, NerfField)]
        if step.number == 7 and not spoilt:
            spoilt.append(step.number)
            with torch.no_grad():
                for scene in scenes:
                    scene.albedo_network[0].weight.fill_(float("nan"))

    prior = toy_prior("mushroom", views=8, size=16)
    result = generate("a red mushroom", output=tmp_path / "run", guidance_model=prior, on_step=spoil, **SHORT)
    assert all(torch.isfinite(p).all() for p in result.scene.parameters())
    rows = [json.loads(row) for row in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 21))
    assert "not finite at step 8: goes on from step 5 with 0.5 of the learning rates" in caplog.text


def test_a_film_that_fails_costs_neither_mesh_nor_page(
    finished: dreamfusion.Result, tmp_path: Path, monkeypatch, caplog
):
    def no_ffmpeg(*arguments, **options):
        raise DreamFusionError("No ffmpeg was found.")

    monkeypatch.setattr(results, "save_video", no_ffmpeg)
    copy = dataclasses.replace(finished, folder=tmp_path)
    results.write_assets(copy)
    assert copy.mesh.exists()
    assert copy.viewer.exists()
    assert not copy.turntable.exists()
    assert "turntable.mp4 could not be written (No ffmpeg was found.)" in caplog.text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_a_step_is_taken_after_it(number, finished: dreamfusion.Result, tmp_path: Path):
    prior = toy_prior("mushroom", views=8, size=16)
    encode, calls = prior.encode, []

    def interrupted(image):
        calls.append(1)
        if len(calls) == 7:
            signal.raise_signal(number)
            signal.raise_signal(signal.SIGINT)  # the impatient second one
        return encode(image)

    prior.encode = interrupted
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(Stopped) as caught:
            generate("a red mushroom", output=tmp_path / "run", guidance_model=prior, **SHORT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert caught.value.number == number
    assert list(list_checkpoints(tmp_path / "run/checkpoints")) == [5, 7]
    prior.encode = encode
    again = generate(resume=tmp_path / "run", guidance_model=prior)
    a, b = (load_checkpoint(latest_checkpoint(folder / "checkpoints")) for folder in (again.folder, finished.folder))
    assert all(torch.equal(a.tensors[name], tensor) for name, tensor in b.tensors.items())
    assert (again.folder / "metrics.jsonl").read_text() == (finished.folder / "metrics.jsonl").read_text()
    assert (again.folder / "mesh.glb").read_bytes() == (finished.folder / "mesh.glb").read_bytes()


def test_a_run_that_goes_on_has_one_owner(tmp_path: Path):
    def look(step) -> None:
        for attempt in (
            lambda: generate(resume=tmp_path / "run", guidance_model=prior),
            lambda: refine(tmp_path / "run", guidance_model=prior),
        ):
            with pytest.raises(DreamFusionError, match="Another process is at work"):
                attempt()

    prior = toy_prior("mushroom", views=8, size=16)
    generate("a red mushroom", output=tmp_path / "run", guidance_model=prior, on_step=look, **SHORT | {"steps": 1})


def test_half_a_row_of_the_log_is_dropped(finished: dreamfusion.Result, tmp_path: Path):
    shutil.copytree(finished.folder, tmp_path / "copy")
    with (tmp_path / "copy/metrics.jsonl").open("a") as file:
        file.write('{"step": 21, "opac')
    generate(resume=tmp_path / "copy", guidance_model=toy_prior("mushroom", views=8, size=16), assets=False)
    assert (tmp_path / "copy/metrics.jsonl").read_text() == (finished.folder / "metrics.jsonl").read_text()


def test_a_mesh_that_was_mended_by_hand_is_not_replaced(finished: dreamfusion.Result, tmp_path: Path):
    shutil.copytree(finished.folder, tmp_path / "copy")
    mended = tmp_path / "copy/mesh.glb"
    mended.write_bytes(mended.read_bytes() + b"mended")
    with pytest.raises(DreamFusionError, match=r"mesh\.glb was not written by this program, or was changed since"):
        generate(resume=tmp_path / "copy", guidance_model=toy_prior("mushroom", views=8, size=16))
    assert mended.read_bytes().endswith(b"mended")


def test_an_output_with_other_things_in_it_is_refused(tmp_path: Path):
    (tmp_path / "requests").mkdir()
    (tmp_path / "requests/mine.txt").write_text("mine")
    prior = toy_prior("mushroom", views=8, size=16)
    with pytest.raises(DreamFusionError, match="holds other things"):
        generate("a red mushroom", output=tmp_path, guidance_model=prior, **SHORT)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["requests", "requests/mine.txt"]


def test_validation_shows_depth_and_writes_a_video_if_asked(tmp_path: Path):
    scene = MeshScene(SceneConfig(tetrahedra=TetrahedraConfig(resolution=16)))
    pictures = PicturesConfig(val_views=3, val_resolution=33, val_depth=True, val_video=True, radius=2.7)
    results.save_validation(scene, pictures, 7, tmp_path)
    written = sorted(path.name for path in (tmp_path / "validation").iterdir())
    assert written == ["step_000007.mp4", "step_000007.png", "step_000007_depth.png"]
    near = np.asarray(Image.open(tmp_path / "validation/step_000007_depth.png").convert("RGB"))
    assert near.shape == (33, 99, 3)
    radius = np.linalg.norm(scene.mesh(0).vertices, axis=1).mean()
    # The middle of each view is a radius nearer than the centre; nothing is in the corners.
    assert near[16, 16::33, 0] / 255 == pytest.approx(np.full(3, (1 + radius) / 2), abs=0.03)
    assert near[0, 0].tolist() == [0, 0, 0]
    results.save_validation(scene, PicturesConfig(val_views=1, val_resolution=9), 8, tmp_path)
    assert [path.name for path in (tmp_path / "validation").glob("step_000008*")] == ["step_000008.png"]


def test_depth_of_a_volume_is_that_of_what_can_be_seen():
    view = RenderOutput(
        rgb=torch.zeros(1, 3, 1, 3),
        opacity=torch.tensor([1.0, 0.5, 0.0]).view(1, 1, 1, 3),
        depth=torch.tensor([2.0, 2.0, 0.0]).view(1, 1, 1, 3),
        normal=None,
        samples=0,
    )
    assert results._nearness(view, 2.5).flatten().tolist() == [0.75, 0.375, 0]


def test_two_runs_in_threads_both_succeed(in_tmp: Path, finished: dreamfusion.Result):
    with ThreadPoolExecutor(2) as pool:
        priors = [toy_prior("mushroom", views=8, size=16) for _ in range(2)]
        few = SHORT | {"steps": 2}
        started = [pool.submit(generate, "a toy", guidance_model=p, assets=False, **few) for p in priors]
        one, other = (future.result() for future in started)
    assert {one.folder, other.folder} == {Path("runs/a-toy"), Path("runs/a-toy-2")}
    assert (one.folder / "metrics.jsonl").read_text() == (other.folder / "metrics.jsonl").read_text()


def test_two_threads_may_load_a_prior_at_once():
    with ThreadPoolExecutor(2) as pool:
        one, other = (future.result() for future in [pool.submit(open_prior, EMBEDDED_PRIOR) for _ in range(2)])
    z, t = torch.zeros(1, 3, 32, 32), torch.tensor([500])
    answers = [prior.predict_noise(z, t, prior.embed(["a red mushroom"])) for prior in (one, other)]
    assert torch.equal(*answers)
