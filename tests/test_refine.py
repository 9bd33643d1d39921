"""Refinement: a run or a mesh file becomes a mesh that is optimised, with everything that a run leaves."""

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

import dreamfusion
from dreamfusion import nemo
from dreamfusion.app.cli import main
from dreamfusion.assets import load as load_module
from dreamfusion.assets.formats import save_glb, save_mesh
from dreamfusion.assets.load import load_mesh
from dreamfusion.assets.mesh import Mesh, extract_mesh
from dreamfusion.config import Config, SceneConfig, merged, parse_config
from dreamfusion.config.schedule import constant
from dreamfusion.errors import DreamFusionError
from dreamfusion.evaluation.geometry import iou, score_geometry, toy_volume
from dreamfusion.evaluation.outlines import score_outlines
from dreamfusion.fields.nerf import NerfConfig, NerfField
from dreamfusion.fields.tetrahedra import TetrahedraConfig
from dreamfusion.io.checkpoints import Checkpoint, latest_checkpoint, list_checkpoints, load_checkpoint
from dreamfusion.method.cameras import fixed_cameras, sample_cameras
from dreamfusion.method.optimize import optimize
from dreamfusion.method.shading import Lights
from dreamfusion.method.state import State
from dreamfusion.nemo import read_stage
from dreamfusion.pictures.render import render_run
from dreamfusion.runs.generate import generate
from dreamfusion.runs.refine import _configuration, _nemo_configuration, refine
from dreamfusion.runs.results import export_run, open_run
from dreamfusion.scenes.mesh import MeshScene
from dreamfusion.scenes.scene import Finished, Views, finished_views
from dreamfusion.toybox.render import signed_distance
from dreamfusion.toybox.world import Toy
from support.worlds import BACKDROP, STILL, toy_config, toy_prior

CPU = torch.device("cpu")
DMTET = Path(nemo.__file__).parent / "stock" / "model" / "dreamfusion-dmtet.yaml"
GRID = TetrahedraConfig(resolution=16)


def ball(radius: float = 0.5) -> Mesh:
    body = trimesh.creation.icosphere(3, radius=radius)
    vertices = np.asarray(body.vertices, dtype=np.float32)
    return Mesh(vertices, np.asarray(body.faces, dtype=np.int64), vertices / radius, np.ones_like(vertices))


def ball_scene(resolution: int = 16) -> MeshScene:
    scene = MeshScene(SceneConfig(tetrahedra=TetrahedraConfig(resolution=resolution)))
    scene.start_from(ball())
    return scene


# Rendering


def test_clip_space_agrees_with_the_rays_of_the_pixels():
    cameras = sample_cameras(3, parse_config({"prompt": "a"}).cameras, torch.Generator().manual_seed(0))
    rays = cameras.rays(6, 6)
    points = rays.origins[:, 1, 4] + 2.3 * rays.directions[:, 1, 4]  # of row 1 and column 4
    for i in range(3):
        x, y, z, w = cameras[i : i + 1].clip(points[i : i + 1], near=0.1, far=5.0)[0, 0].tolist()
        assert ((x / w + 1) * 3, (y / w + 1) * 3) == pytest.approx((4.5, 1.5), abs=1e-4)
        assert 0 < z < w
    ahead = cameras.position[:1] + cameras.camera_to_world[:1, :, 2] * torch.tensor([[0.1], [5.0]])
    near, far = cameras[:1].clip(ahead, near=0.1, far=5.0)[0]
    assert near[2].item() == pytest.approx(0.0, abs=1e-5)
    assert (far[2] / far[3]).item() == pytest.approx(1.0, abs=1e-5)


def test_a_ball_looks_as_it_must():
    scene, cameras, size = ball_scene(24), fixed_cameras(0.0, 0.0), 65
    light = Lights(torch.tensor([[9.0, 0.0, 0.0]]), torch.tensor([0.7]), torch.tensor([0.3]))
    out = scene.render(Views(cameras, light, ["textureless"], size, torch.zeros(1, 3)), torch.Generator())
    # A ball of radius 1/2 from 2.7 away is seen within asin(0.5 / 2.7) of the middle.
    radius = 1.35 * math.tan(math.asin(0.5 / 2.7)) * size
    assert out.opacity.sum().item() == pytest.approx(math.pi * radius**2, rel=0.02)
    middle = size // 2
    assert out.depth[0, 0, middle, middle].item() == pytest.approx(2.2, abs=0.01)
    assert out.normal[0, :, middle, middle].tolist() == pytest.approx([1, 0, 0], abs=0.2)
    assert out.rgb[0, :, middle, middle].tolist() == pytest.approx([1, 1, 1], abs=0.02)
    assert out.rgb[0, :, 0, 0].tolist() == [0, 0, 0]
    # Light from the left, +y being on the right of a camera in front: the left half is the brighter one.
    light = Lights(torch.tensor([[0.0, -9.0, 0.0]]), torch.tensor([0.7]), torch.tensor([0.3]))
    shown = finished_views(scene, cameras, ["textureless"], 32, lights=light, backdrop=(0, 0, 0))["textureless"]
    assert shown.shape == (1, 3, 32, 32)
    assert shown[..., :16].sum() > 1.5 * shown[..., 16:].sum()


def test_the_outline_pulls_the_surface():
    """More light in the picture asks for a larger ball: every distance at its outline should fall."""
    scene = ball_scene()
    scene.colors.requires_grad_(False)
    cameras = fixed_cameras(torch.tensor([0.0, 90.0]), 10.0)
    lights = Lights(torch.zeros(2, 3), torch.zeros(2), torch.ones(2))
    out = scene.render(Views(cameras, lights, ["textureless"] * 2, 48, torch.zeros(2, 3)), torch.Generator())
    (grad,) = torch.autograd.grad(out.opacity.mean(), scene.tetrahedra.distance)
    assert grad.sum() < 0
    assert (grad > 0).sum() < 0.1 * (grad < 0).sum()
    moved = grad.sum().item() * 0.02  # by the gradient, if every distance grew by 0.02: a ball 0.02 smaller
    smaller = 0.5 - 0.02
    areas = [math.pi * (1.35 * math.tan(math.asin(r / 2.7))) ** 2 for r in (0.5, smaller)]
    assert moved == pytest.approx(areas[1] - areas[0], rel=0.25)


def test_the_field_of_a_mesh_is_its_surface():
    scene = ball_scene(24)
    mesh = extract_mesh(scene.field, 64)
    assert np.abs(np.linalg.norm(mesh.vertices, axis=1) - 0.5).max() < 0.016  # half the spacing of 64 samples
    mushroom = Toy("mushroom", "red")

    class Solid:
        def density(self, x: torch.Tensor) -> torch.Tensor:
            return 22.0 * torch.exp(-signed_distance(mushroom, x) / 0.008).clamp(max=50.0)

        def albedo(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ones_like(x)

    scene = MeshScene(SceneConfig(tetrahedra=TetrahedraConfig(resolution=40)))
    scene.start_from(extract_mesh(Solid(), 96))
    score = score_geometry(scene.field, mushroom)
    assert score.iou > 0.9
    assert score.iou_unaligned > 0.85
    assert score.normal_error_deg < 15
    seen = score_outlines(Finished(scene), mushroom)
    assert seen.silhouette_iou > 0.93
    assert seen.normal_error_deg < 10
    other = score_outlines(Finished(scene), Toy("car", "red"))
    assert other.silhouette_iou < 0.7
    assert other.normal_error_deg > 25


# Optimisation


def mesh_config(**changes):
    scene = {"tetrahedra": {"resolution": 16}, "background": "static", "background_color": BACKDROP}
    values = {"scene": scene, "resolution": 48, "optim": {"surface_lr": 5e-3}}
    return toy_config(**merged(values, changes))


def fresh(config) -> State:
    state = State.fresh(config, CPU)
    state.scene.start_from(ball(0.55))
    return state


def run_steps(count: int, state: State, config, guidance) -> list[dict[str, float]]:
    steps = optimize(config, guidance, state)
    return [next(steps).metrics for _ in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("bulge", [None, 12])
def test_distillation_through_the_rasteriser_recovers_a_known_object(bulge: int | None):
    optim = {"bulge_lr": 1e-2, "surface_lr": 1e-9} if bulge else {}  # with a bulge, it alone moves the surface
    config = mesh_config(steps=90, scene={"tetrahedra": {"bulge_resolution": bulge}}, optim=optim)
    guidance = toy_prior("mushroom")
    state = fresh(config)

    def overlap() -> float:
        axis = torch.linspace(-1, 1, 48)
        density = state.scene.field.density(torch.cartesian_prod(axis, axis, axis)).view(48, 48, 48)
        return iou((density > 22).numpy(), toy_volume(Toy("mushroom"), 48))

    before = overlap()
    for _ in optimize(config, guidance, state):
        pass
    assert overlap() > before + 0.15
    assert overlap() > 0.7
    assert trimesh.Trimesh(*surface_of(state), process=False).is_watertight


def surface_of(state: State) -> tuple[np.ndarray, np.ndarray]:
    mesh = state.scene.mesh(0)
    return mesh.vertices, mesh.faces


@pytest.mark.parametrize("name", ["normal_consistency", "laplacian"])
def test_every_smoothness_weight_smooths(name: str):
    guidance = toy_prior("mushroom", views=8, size=16)
    rough = []
    for weight in (0.0, 1000.0):
        loss = {"normal_consistency": 0.0, "laplacian": 0.0, name: weight}
        config = mesh_config(steps=8, views=1, resolution=16, loss=loss)
        state = fresh(config)
        with torch.no_grad():
            noise = torch.randn(state.scene.tetrahedra.distance.shape, generator=torch.Generator().manual_seed(0))
            state.scene.tetrahedra.distance.add_(0.02 * noise)
        run_steps(8, state, config, guidance)
        rough.append(getattr(state.scene.tetrahedra.surface(), name)().item())
    assert rough[1] < 0.8 * rough[0]


def test_a_restored_state_continues_bit_equal():
    guidance = toy_prior("mushroom", views=8, size=16)
    config = mesh_config(
        steps=6,
        views=2,
        resolution=16,
        shading={"albedo_probability": {"start": 1, "from": 0.2, "curve": "step"}},
        scene={"tetrahedra": {"resolution": 16}, "background": "learned"},
    )
    whole = fresh(config)
    run_steps(3, whole, config, guidance)
    tensors, values = whole.to_checkpoint()
    saved = Checkpoint(whole.step, {name: tensor.clone() for name, tensor in tensors.items()}, values)
    expected = run_steps(3, whole, config, guidance)
    resumed = State.fresh(config, CPU)
    resumed.restore(saved)
    assert run_steps(3, resumed, config, guidance) == expected
    for a, b in zip(whole.scene.parameters(), resumed.scene.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_checkpoint_of_another_kind_of_scene_is_refused():
    volume, mesh = toy_config(), mesh_config()
    for one, other in ((volume, mesh), (mesh, volume)):
        tensors, values = State.fresh(one, CPU).to_checkpoint()
        with pytest.raises(DreamFusionError, match="does not fit this configuration") as caught:
            State.fresh(other, CPU).restore(Checkpoint(0, tensors, values))
        assert "\n" not in str(caught.value)


# Whole runs

SHORT = {"steps": 8, "views": 2, "resolution": 32, "checkpoint_every": 3, "preview_every": 4}
SHORT |= {"scene": {"tetrahedra": {"resolution": 16}}}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> dreamfusion.Result:
    """A short run to refine."""
    torch.set_num_threads(1)
    return generate(
        "a red mushroom",
        output=tmp_path_factory.mktemp("runs") / "mushroom",
        guidance_model=toy_prior("mushroom", views=8, size=16),
        assets=False,
        device="cpu",
        steps=20,
        views=2,
        resolution=16,
        cameras=STILL,
        guidance={"guidance_scale": 1.0},
        scene={"background": "static", "background_color": BACKDROP},
    )


@pytest.fixture(scope="module")
def refined(source: dreamfusion.Result) -> dreamfusion.Result:
    """The same run, refined."""
    torch.set_num_threads(1)
    return refine(source.folder, guidance_model=toy_prior("mushroom", views=8, size=16), **SHORT)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_refinement_leaves_what_a_run_leaves_beside_it(source: dreamfusion.Result, refined: dreamfusion.Result):
    assert refined.folder == source.folder.with_name("mushroom-refined")
    names = {path.name for path in refined.folder.iterdir()}
    promised = {"turntable.mp4", "contact_sheet.png", "mesh.glb", "viewer.html", "config.yaml", "metrics.jsonl"}
    assert promised | {"preview.png", "checkpoints"} <= names
    mesh = trimesh.load(refined.mesh, force="mesh")
    mesh.merge_vertices(merge_tex=True, merge_norm=True)  # seams of the texture are no holes
    assert mesh.is_watertight
    assert mesh.volume > 0
    # What the run was told holds on; what refining asks for is changed.
    assert refined.config.prompt == "a red mushroom"
    assert refined.config.scene.background_color == BACKDROP
    assert refined.config.resolution == constant(32)
    assert refined.config.guidance.t_max.start < source.config.guidance.t_max.start
    again = refine(source.folder, guidance_model=toy_prior("mushroom", views=8, size=16), assets=False, **SHORT)
    assert again.folder.name == "mushroom-refined-2"
    assert (again.folder / "metrics.jsonl").read_text() == (refined.folder / "metrics.jsonl").read_text()


def test_a_refinement_goes_on_with_the_last_prompt_and_fits_the_prior(source: dreamfusion.Result, tmp_path: Path):
    config = source.config.model_copy(update={"later_prompts": {5: "a green mushroom"}})
    run = replace(source, config=config)
    embedded = _configuration(run, "default", None, {})
    assert (embedded.prompt, embedded.later_prompts) == ("a green mushroom", {})
    assert embedded.guidance.t_max == constant(0.9)
    assert embedded.scene.tetrahedra.bulge_resolution == 16
    other = _configuration(run, "default", None, {"prompt": "a corgi", "guidance": {"kind": "sd"}})
    assert (other.prompt, other.later_prompts) == ("a corgi", {})
    assert (other.guidance.t_min, other.guidance.t_max) == (constant(0.02), constant(0.5))
    assert other.guidance.weighting == config.guidance.weighting
    assert other.optim.surface_lr == config.optim.surface_lr
    assert other.scene.tetrahedra.bulge_resolution is None


def test_a_configuration_of_nemos_second_stage_refines_a_run(source: dreamfusion.Result, tmp_path: Path):
    notes: list[str] = []
    result = refine(
        source.folder,
        nemo_config=DMTET,
        output=tmp_path / "dmtet",
        guidance_model=toy_prior("mushroom", views=8, size=16),
        assets=False,
        on_note=notes.append,
        prompt="a red mushroom",
        steps=2,
        resolution=24,
        scene={"tetrahedra": {"resolution": 16}},
        device="cpu",
    )
    config = result.config
    assert (config.loss.normal_consistency, config.loss.laplacian, config.optim.surface_lr) == (0.5, 0.5, 5e-3 / 128)
    reach = np.linalg.norm(source.scene.mesh(128).vertices, axis=1).max()
    assert config.scene.tetrahedra.extent == pytest.approx(min(1, reach + 0.1)), "the grid is as large as the object"
    assert config.scene.background == "learned"
    assert config.scene.nerf == source.config.scene.nerf, "the colours go on in the networks of the run"
    assert any("networks of the run" in note for note in notes)
    assert any("fp32" in note for note in notes)
    assert len((result.folder / "metrics.jsonl").read_text().splitlines()) == 2
    with pytest.raises(DreamFusionError, match="give it to dreamfusion generate"):
        refine(source.folder, nemo_config=DMTET.with_name("dreamfusion.yaml"))
    with pytest.raises(DreamFusionError, match="not both"):
        refine(source.folder, nemo_config=DMTET, preset="quick")


def nemo_config(source: dreamfusion.Result | None, path: Path = DMTET, **asked: Any) -> Config:
    notes: list[str] = []
    read = read_stage(path, (), "default", notes.append, mesh=True)
    return _nemo_configuration(source, read, None, asked, notes.append)


def test_a_refinement_can_be_rendered_exported_and_refined_again(refined: dreamfusion.Result, tmp_path: Path):
    picture = render_run(refined.folder, output=tmp_path / "a.png", azimuths_deg=(0.0, 90.0), size=(32,))
    assert Image.open(picture).size == (64, 32)
    # Textureless pictures are grey where a normal map is not, though a mesh brings its normals along.
    grey = {"output": tmp_path / "grey.png", "shading": "textureless", "size": (32,), "background": "black"}
    pixels = np.asarray(Image.open(render_run(refined.folder, **grey)).convert("RGB")).astype(int)
    assert pixels.max() > 100
    assert (pixels.max(axis=-1) - pixels.min(axis=-1)).max() <= 1
    exported = trimesh.load(export_run(refined.folder, output=tmp_path / "a.glb")[0], force="mesh", process=False)
    assert len(exported.faces) == len(refined.scene.mesh(0).faces)
    notes: list[str] = []
    (again,) = export_run(refined.folder, output=tmp_path / "b.stl", resolution=16, on_note=notes.append)
    assert len(trimesh.load(again).faces) == len(exported.faces)
    assert ["--resolution" in note for note in notes] == [True], "what changes nothing is told"
    prior = toy_prior("mushroom", views=8, size=16)
    once = SHORT | {"steps": 1}
    again = refine(refined.folder, output=tmp_path / "b", guidance_model=prior, assets=False, **once)
    a, b = (result.scene.colors.albedo(torch.zeros(1, 3)) for result in (again, refined))
    torch.testing.assert_close(a, b, atol=0.05, rtol=0)


def test_a_stopped_refinement_is_resumed_bit_equal(refined: dreamfusion.Result, tmp_path: Path):
    assert list(list_checkpoints(refined.folder / "checkpoints")) == [6, 8]
    stopped = tmp_path / "stopped"
    shutil.copytree(refined.folder, stopped)
    shutil.rmtree(stopped / "checkpoints/step_000008")
    (stopped / "mesh.glb").unlink()
    generate(resume=stopped, guidance_model=toy_prior("mushroom", views=8, size=16))
    a, b = (load_checkpoint(latest_checkpoint(folder / "checkpoints")) for folder in (refined.folder, stopped))
    assert a.tensors.keys() == b.tensors.keys()
    assert all(torch.equal(tensor, b.tensors[name]) for name, tensor in a.tensors.items())
    for name in ("metrics.jsonl", "mesh.glb"):
        assert (refined.folder / name).read_bytes() == (stopped / name).read_bytes()


def test_a_refinement_begins_with_a_checkpoint(source: dreamfusion.Result, tmp_path: Path):
    def stop(step) -> None:
        raise RuntimeError("killed")

    prior = toy_prior("mushroom", views=8, size=16)
    with pytest.raises(RuntimeError, match="killed"):
        refine(source.folder, output=tmp_path / "run", guidance_model=prior, on_step=stop, **SHORT)
    assert list(list_checkpoints(tmp_path / "run/checkpoints")) == [0]
    field, begun = source.scene.field, open_run(tmp_path / "run").scene.colors
    assert torch.equal(field.table, begun.table)


def test_a_mesh_file_takes_the_place_of_the_shape(source: dreamfusion.Result, in_tmp: Path):
    save_glb(ball(0.6), in_tmp / "ball.glb")
    prior = toy_prior("mushroom", views=8, size=16)
    changes = SHORT | {"steps": 1, "device": "cpu"}
    one = refine(source.folder, mesh="ball.glb", output="one", guidance_model=prior, assets=False, **changes)
    two = refine(mesh="ball.glb", prompt="a red mushroom", guidance_model=prior, assets=False, **changes)
    assert str(two.folder) == "runs/a-red-mushroom-refined"
    for result in (one, two):
        radii = np.linalg.norm(result.scene.mesh(0).vertices, axis=1)
        assert np.abs(radii - 0.6).max() < 0.02


# What cannot be used


def write(path: Path, body: trimesh.Trimesh) -> Path:
    path.write_bytes(body.export(file_type=path.suffix[1:]))
    return path


@pytest.mark.parametrize("name", ["a.glb", "a.obj", "a.ply"])
def test_a_mesh_file_comes_back_as_it_was_written(name: str, tmp_path: Path):
    cone = trimesh.creation.cone(0.3, 0.6)  # its tip at z = 0.6
    cone.apply_transform(trimesh.transformations.rotation_matrix(math.pi / 3, [0, 1, 0]))  # to the front and a bit up
    vertices, faces = np.asarray(cone.vertices, dtype=np.float32), np.asarray(cone.faces, dtype=np.int64)
    normals = np.asarray(cone.vertex_normals, dtype=np.float32)
    mesh = Mesh(vertices, faces, normals, np.ones_like(vertices))
    if name == "a.obj":
        mesh = replace(mesh, uv=vertices[:, :2], texture=np.zeros((8, 8, 3), dtype=np.uint8))
    save_mesh(mesh, tmp_path / name)
    back = load_mesh(tmp_path / name)
    for axis in range(3):
        assert np.sort(back.vertices[:, axis]) == pytest.approx(np.sort(np.unique(vertices, axis=0)[:, axis]), abs=1e-5)


def test_meshes_are_made_to_fit(tmp_path: Path):
    box = trimesh.creation.box((0.5, 0.9, 0.3))  # longest along y, where a PLY has its front
    same = load_mesh(write(tmp_path / "a.ply", box))
    assert np.ptp(same.vertices, axis=0) == pytest.approx([0.9, 0.5, 0.3])
    large = box.copy()
    large.apply_scale(100)
    large.apply_translation([1000, 0, 0])
    fitted = load_mesh(write(tmp_path / "c.stl", large))
    assert np.linalg.norm(fitted.vertices, axis=1).max() == pytest.approx(0.8)
    box.invert()
    outwards = load_mesh(write(tmp_path / "d.ply", box))
    assert trimesh.Trimesh(outwards.vertices, outwards.faces).volume > 0


def test_bad_meshes_are_refused_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    body = trimesh.creation.icosphere(2, radius=0.5)
    opened = trimesh.Trimesh(body.vertices, body.faces[1:], process=False)
    flipped = body.copy()
    flipped.faces[:40] = flipped.faces[:40, ::-1]
    fin = np.vstack([body.vertices, [[0, 0, 2]]]), np.vstack([body.faces, [[0, 11, 162]]])
    third = trimesh.Trimesh(*fin, process=False)
    (tmp_path / "noise.glb").write_bytes(b"nonsense")
    bad = {"not closed": opened, "inside out": trimesh.Trimesh(flipped.vertices, flipped.faces, process=False)}
    cases = [(message, write(tmp_path / f"{i}.ply", mesh)) for i, (message, mesh) in enumerate(bad.items())]
    cases += [("not closed", write(tmp_path / "third.ply", third)), ("is no file", tmp_path / "missing.glb")]
    cases += [("is not a binary glTF", tmp_path / "noise.glb")]
    for message, path in cases:
        with pytest.raises(DreamFusionError, match=message) as caught:
            load_mesh(path)
        assert "\n" not in str(caught.value)
    monkeypatch.setattr(load_module, "MAX_FACES", 100)
    with pytest.raises(DreamFusionError, match="simplify it to at most 100"):
        load_mesh(write(tmp_path / "large.ply", body))


def test_what_cannot_be_refined_leaves_nothing_behind(source: dreamfusion.Result, tmp_path: Path):
    prior, before = toy_prior("mushroom", views=8, size=16), contents(source.folder)
    thin = trimesh.creation.box((0.9, 0.9, 0.001))
    thin.apply_translation([0, 0, 0.013])  # between two layers of the grid
    out = tmp_path / "out"
    cases = [
        ({}, "Nothing to refine"),
        ({"run": tmp_path}, "no run with a checkpoint"),
        ({"run": source.folder, "mesh": write(tmp_path / "thin.ply", thin)}, "empty on this grid"),
        ({"run": source.folder, "mesh": tmp_path / "none.glb"}, "is no file"),
        ({"run": source.folder, "scene": {"kind": "volume"}}, "leave them out"),
        ({"run": source.folder, "scene": {"tetrahedra": {"resolution": 2}}}, "resolution: .*equal to 4"),
        ({"run": source.folder, "scene": {"nerf": {"hidden_width": 8}}}, "leave scene.nerf"),
        ({"run": source.folder, "preset": "best"}, "Unknown preset"),
        ({"run": source.folder, "prompt": " "}, "empty"),
    ]
    for arguments, message in cases:
        with pytest.raises(DreamFusionError, match=message):
            refine(output=out, guidance_model=prior, **arguments)
    assert not out.exists()
    assert contents(source.folder) == before
    empty = NerfField(NerfConfig(blob_density=0.0))
    with pytest.raises(DreamFusionError, match="empty"):
        extract_mesh(empty, 32)


def test_the_command_says_what_is_wrong_in_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    for arguments in (["refine"], ["refine", str(tmp_path)], ["refine", "--mesh", str(tmp_path / "a.glb")]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 1
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
        assert len(lines) == 1


def test_the_preset_is_nemos_stock_file_of_the_second_stage():
    read = nemo_config(None)
    ours = _configuration(None, "nemo-dmtet", None, {"prompt": "a hamburger"})
    # What a mesh is not rendered with may differ: the file names another renderer.
    marching = ("dt_gamma", "max_steps", "step_length", "background_color")
    marching += ("occupancy_density", "occupancy_resolution", "occupancy_interval")
    same = {name: getattr(ours.scene, name) for name in marching}
    assert read.model_copy(update={"scene": read.scene.model_copy(update=same)}) == ours


def test_nemos_preset_keeps_prompt_device_and_networks_of_a_run_and_nothing_else(source: dreamfusion.Result):
    other = {
        "guidance": {"t_min": {"start": 0.8}, "negative_prompt": "a car", "perp_neg": True},
        "loss": {"clip": 1.0, "kind": "ism"},
        "scene": {"surface_smoothing": 0.05, "material": {"specular": 0.2}},
        "optim": {"betas": [0.9, 0.99]},
    }
    kept = {"prompt": "a red mushroom", "device": "cpu"}
    networks = {"nerf": source.config.scene.nerf.model_dump()}
    run = replace(source, config=parse_config(merged(kept | {"scene": networks}, other)))
    fresh = _configuration(None, "nemo-dmtet", None, kept | {"scene": networks})
    assert _configuration(run, "nemo-dmtet", None, {}) == fresh
    assert (fresh.guidance.t_min, fresh.loss.clip, fresh.scene.surface_smoothing) == (constant(0.02), None, 0)
    assert _configuration(run, "quick", None, {}).loss.clip == constant(1), (
        "our own presets keep what they do not change"
    )


def test_one_resolution_is_that_of_the_whole_refinement(source: dreamfusion.Result, tmp_path: Path):
    for asked, expected in (({}, 512), ({"resolution": 128}, 128)):
        config = nemo_config(source, **asked)
        assert config.resolution == constant(expected)
    both = {"resolution": {"start": 64, "end": 128}}
    assert nemo_config(source, **both).resolution.end == 128


def test_the_prompt_is_that_of_the_run_and_not_of_nemos_file(source: dreamfusion.Result, tmp_path: Path):
    (tmp_path / "mine.yaml").write_text(DMTET.read_text().replace("prompt: 'a hamburger'", "", 1))
    for path in (DMTET, tmp_path / "mine.yaml"):
        assert nemo_config(source, path).prompt == source.config.prompt
    assert nemo_config(source, prompt="a blue car").prompt == "a blue car"


def test_a_weight_that_a_mesh_does_not_have_is_refused(source: dreamfusion.Result):
    with pytest.raises(DreamFusionError, match=r"loss\.orientation is for volumes"):
        _configuration(source, "default", None, {"loss": {"orientation": 0.5}})
    with pytest.raises(DreamFusionError, match=r"loss\.orientation is for volumes"):
        nemo_config(source, loss={"orientation": 0.5})
