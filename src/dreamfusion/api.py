"""The front door: what `import dreamfusion` offers as functions.

Each function takes the options of the command of the same name, as plain keyword arguments, and returns what that
command writes. Nothing is printed unless ``progress`` is true; notes go to the logger "dreamfusion" instead.

Everything heavy is imported inside the functions: torch, diffusers and Warp take seconds, and importing this takes
none of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dreamfusion.io.quiet import quiet_libraries
from dreamfusion.standard import MESH_FACES, ORBIT_ELEVATION_DEG, ORBIT_FOCAL, ORBIT_RADIUS, TEXTURE_SIZE

if TYPE_CHECKING:
    from dreamfusion.config import Config, PictureShading
    from dreamfusion.config.presets import Preset, RefinePreset
    from dreamfusion.evaluation.evaluate import Evaluation
    from dreamfusion.guidance.base import Guidance
    from dreamfusion.method.distillation import Loss
    from dreamfusion.method.optimize import Step
    from dreamfusion.pictures.compose import Placement
    from dreamfusion.runs.results import Result
    from dreamfusion.scale.sweep import Status, Sweep

    PathOrText = str | PathLike[str]
    Settings = PathOrText | Mapping[str, Any] | Config
    PriorName = Literal["toybox", "sd", "diffusers"]

_log = logging.getLogger("dreamfusion")


def generate(
    prompt: str | None = None,
    *,
    preset: Preset = "default",
    steps: int | None = None,
    seed: int | None = None,
    output: PathOrText | None = None,
    resume: PathOrText | None = None,
    device: str | None = None,
    guidance: PriorName | Guidance | None = None,
    model: PathOrText | None = None,
    image: PathOrText | None = None,
    ip_adapter: PathOrText | None = None,
    lora: Sequence[str] | None = None,
    embedding: Sequence[str] | None = None,
    guidance_scale: float | None = None,
    negative_prompt: str | None = None,
    perp_neg: bool | None = None,
    loss: Literal["sds", "vsd", "ism"] | Loss | None = None,
    config: Settings | None = None,
    nemo_config: PathOrText | None = None,
    nemo_overrides: Sequence[str] = (),
    instant: PathOrText | None = None,
    assets: bool = True,
    progress: bool = False,
    on_step: Callable[[Step], None] | None = None,
) -> Result:
    """Make a 3D object from words and return where its files are.

    Args:
        prompt: what to make, for example "a red mushroom".
        preset: "quick", "default" or "high", or another system's settings (docs/presets.md).
        steps: optimisation steps.
        seed: another seed gives another object; the same gives the same.
        output: folder for the results, runs/<prompt> by default.
        resume: folder of a stopped run to continue where it was, bit-equal on the same machine.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        guidance: "toybox" (the embedded prior), "sd", "diffusers", or a prior of your own.
        model: a diffusers pipeline as a folder, a file or a hub name.
        image: picture of the object, for a model that is shown one (Zero-1-to-3) or an IP-Adapter.
        ip_adapter: file of an IP-Adapter, which shows the picture to Stable Diffusion 1, 2 or XL.
        lora: LoRA files to add to the model, each "FILE" or "FILE:WEIGHT".
        embedding: files of textual inversions, each one more word for the prompt.
        guidance_scale: the s of eps_uncond + s (eps_text - eps_uncond).
        negative_prompt: what the result must not look like.
        perp_neg: push away from the views that a camera does not show.
        loss: "sds", "vsd" or "ism", or a function of your own with the arguments of `dreamfusion.sds`.
        config: any other settings: a YAML file, a mapping with the keys of a run's config.yaml, or a `Config`. The
            arguments above come after them.
        nemo_config: an experiment or model of NVIDIA's NeMo, in place of a preset (docs/nemo.md).
        nemo_overrides: KEY=VALUE for it, as behind NeMo's own command.
        instant: folder of a network of `dreamfusion amortize train`, which makes the object at once; ``resume`` then
            goes on with it.
        assets: whether to write contact sheet, turntable and mesh at the end.
        progress: show a progress bar and notes on standard error.
        on_step: is called with every finished step, its metrics and its pictures.

    Raises:
        DreamFusionError: for anything the user can put right, with one line that says what to do. It names options as
            the command line writes them.

    """
    quiet_libraries()
    from dreamfusion.runs.generate import generate as run

    seen = {"image": _text(image), "ip_adapter": _text(ip_adapter)}
    own_prior, prior = _prior(guidance, model, **seen, loras=lora, embeddings=embedding)
    prior |= _given(guidance_scale=guidance_scale, negative_prompt=negative_prompt, perp_neg=perp_neg)
    kind = loss if isinstance(loss, str) else None
    file, changes = _settings(config, steps=steps, seed=seed, device=device, guidance=prior, loss=_given(kind=kind))
    of_settings = changes.pop("prompt", None)
    words = of_settings if prompt is None else prompt
    with _shown(progress, on_step) as shown:
        if instant is not None:
            from dreamfusion.amortized.instant import at_once

            own_loss = loss if kind is None else None
            other = {"resume": resume, "config": file, "nemo-config": nemo_config, "loss": own_loss}
            changes |= {"guidance_model": own_prior, "assets": assets}
            return at_once(words, Path(instant), preset, _path(output), changes, other, shown.on_note)
        return run(
            words,
            preset=preset,
            nemo_config=_path(nemo_config),
            nemo_overrides=nemo_overrides,
            config_file=file,
            output=_path(output),
            resume=_path(resume),
            guidance_model=own_prior,
            loss_function=None if isinstance(loss, str) else loss,
            assets=assets,
            on_start=shown.on_start,
            on_step=shown.on_step,
            on_note=shown.on_note,
            **changes,
        )


def refine(
    run: PathOrText | None = None,
    *,
    mesh: PathOrText | None = None,
    prompt: str | None = None,
    preset: RefinePreset = "default",
    steps: int | None = None,
    resolution: int | None = None,
    seed: int | None = None,
    output: PathOrText | None = None,
    device: str | None = None,
    guidance: PriorName | Guidance | None = None,
    model: PathOrText | None = None,
    image: PathOrText | None = None,
    ip_adapter: PathOrText | None = None,
    controlnet: PathOrText | None = None,
    lora: Sequence[str] | None = None,
    embedding: Sequence[str] | None = None,
    config: Settings | None = None,
    nemo_config: PathOrText | None = None,
    nemo_overrides: Sequence[str] = (),
    assets: bool = True,
    progress: bool = False,
    on_step: Callable[[Step], None] | None = None,
) -> Result:
    """Turn a finished run into a mesh, optimise that, and return where its files are.

    `generate` continues a stopped refinement, by its ``resume``.

    Args:
        run: a `Result` or the folder of a finished run, which stays as it is.
        mesh: start from this closed mesh (GLB, OBJ, PLY, STL) in place of the run's shape.
        prompt: what to make, if not what the run made; needed without a run.
        preset: "quick", "default", "high" or "nemo-dmtet" (docs/presets.md).
        steps: optimisation steps.
        resolution: side of the rendered views in pixels; by default 512 on a GPU and fewer on a CPU.
        seed: another seed gives another result; by default the run's.
        output: folder for the results, <run>-refined by default.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        guidance: as for `generate`; by default the run's.
        model: as for `generate`.
        image: as for `generate`; by default the run's.
        ip_adapter: as for `generate`; by default the run's.
        controlnet: folder or hub name of a ControlNet, which is shown the mesh's normals.
        lora: as for `generate`; by default the run's.
        embedding: as for `generate`; by default the run's.
        config: any other settings, as for `generate`.
        nemo_config: a configuration of NVIDIA's NeMo for its second stage (docs/nemo.md).
        nemo_overrides: KEY=VALUE for it, as behind NeMo's own command.
        assets: whether to write contact sheet, turntable and mesh at the end.
        progress: show a progress bar and notes on standard error.
        on_step: is called with every finished step.

    Raises:
        DreamFusionError: for anything the user can put right.

    """
    quiet_libraries()
    from dreamfusion.runs.refine import refine as start

    seen = {"image": _text(image), "ip_adapter": _text(ip_adapter), "controlnet": _text(controlnet)}
    own_prior, prior = _prior(guidance, model, **seen, loras=lora, embeddings=embedding)
    file, changes = _settings(
        config, prompt=prompt, steps=steps, resolution=resolution, seed=seed, device=device, guidance=prior
    )
    with _shown(progress, on_step) as shown:
        return start(
            _path(run),
            mesh=_path(mesh),
            preset=preset,
            nemo_config=_path(nemo_config),
            nemo_overrides=nemo_overrides,
            config_file=file,
            output=_path(output),
            guidance_model=own_prior,
            assets=assets,
            on_start=shown.on_start,
            on_step=shown.on_step,
            on_note=shown.on_note,
            **changes,
        )


def render(
    run: PathOrText,
    *,
    output: PathOrText | None = None,
    shading: PictureShading = "lambertian",
    azimuth: float | Sequence[float] = 30.0,
    elevation: float | Sequence[float] = ORBIT_ELEVATION_DEG,
    radius: float = ORBIT_RADIUS,
    focal: float = ORBIT_FOCAL,
    size: int | Sequence[int] = 512,
    light_azimuth: float | None = None,
    light_elevation: float = 45.0,
    light_intensity: float = 1.0,
    light_color: str = "white",
    ambient: float | None = None,
    environment: PathOrText | None = None,
    background: str = "#cccfd6",
    turntable: int | None = None,
    cameras: PathOrText | None = None,
    fps: float = 15.0,
    device: str = "auto",
) -> Path:
    """Render a finished run from any camera, under any light, and return the path of the picture, film or folder.

    Args:
        run: a `Result` or the folder of a run.
        output: .png, .mp4, .webm, .gif, or a folder of pictures; by default RUN/render.png or RUN/render.mp4.
        shading: "albedo", "lambertian", "textureless" or "normal".
        azimuth: degrees around the object, 0 is the front; several give a strip of pictures.
        elevation: degrees above the horizon; one, or as many as azimuths.
        radius: distance of the camera in world units.
        focal: focal length in image widths.
        size: side of the picture in pixels, or width and height.
        light_azimuth: degrees around the object that the light stands at; None lets it go with the camera.
        light_elevation: degrees above the horizon that the light stands at.
        light_intensity: factor on all light.
        light_color: a name such as "orange", or "#rrggbb".
        ambient: share of the light that comes from everywhere; 0.3 by default, 0 with an environment.
        environment: "studio", "sunset", "overcast", or an equirectangular picture of the light all around.
        background: a colour, a picture, "environment" or "transparent".
        turntable: number of frames of a film once around.
        cameras: JSON list of the cameras of a film (docs/pictures.md).
        fps: frames per second of a film.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".

    Raises:
        DreamFusionError: for values out of range and files that cannot be read.

    """
    quiet_libraries()
    from dreamfusion.pictures.render import Light, render_run

    around = _path(environment)
    return render_run(
        Path(run),
        output=_path(output),
        shading=shading,
        azimuths_deg=_several(azimuth),
        elevations_deg=_several(elevation),
        radius=radius,
        focal=focal,
        size=_several(size),
        light=Light(light_azimuth, light_elevation, light_intensity, light_color, ambient, around),
        background=background,
        turntable_frames=turntable,
        cameras_file=_path(cameras),
        fps=fps,
        device=device,
    )


def export(
    run: PathOrText,
    *,
    format: str | Sequence[str] = (),
    output: PathOrText | None = None,
    resolution: int | None = None,
    faces: int = MESH_FACES,
    texture_size: int = TEXTURE_SIZE,
    size_mm: float | None = None,
    height: float | None = None,
    pivot: Literal["base", "center"] | None = None,
    lod: int = 0,
    normal_map: bool = False,
    compress: bool = False,
    license: str = "",
    device: str = "auto",
) -> list[Path]:
    """Write the mesh of a finished run for other programs and return every file written.

    Args:
        run: a `Result` or the folder of a run.
        format: one or more of "glb", "obj", "ply", "stl" and "usdz"; by default what ``output`` ends in, or "glb".
        output: file to write, RUN/mesh.FORMAT by default.
        resolution: samples per side of the grid in which the surface is found; 128 by default.
        faces: the mesh has at most about this many triangles.
        texture_size: side of the texture in texels.
        size_mm: longest side of the object in millimetres.
        height: height of the object in metres, in place of ``size_mm``.
        pivot: put the origin at the middle of the "base", or at the "center"; by default it stays where it is.
        lod: also write this many levels of detail, each with a quarter of the faces.
        normal_map: bake what the faces leave out into a normal map (GLB).
        compress: make the GLB small, with Draco and WebP; needs dreamfusion[compress].
        license: licence or copyright line to write into the file (GLB, USDZ).
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".

    Raises:
        DreamFusionError: for values out of range, an empty scene, or a file that cannot be written.

    """
    quiet_libraries()
    from dreamfusion.runs.results import export_run

    return export_run(
        Path(run),
        formats=_several(format),
        output=_path(output),
        resolution=resolution,
        max_faces=faces,
        texture_size=texture_size,
        size_mm=size_mm,
        height_m=height,
        pivot=pivot,
        lod=lod,
        normal_map=normal_map,
        compress=compress,
        licence=license,
        device=device,
        on_note=_log.info,
    )


def compare(first: PathOrText, second: PathOrText, *, output: PathOrText | None = None) -> Path:
    """Put two results side by side into one page, to turn together, and return its path.

    Args:
        first: a `Result`, the folder of a run, or a .glb file.
        second: another.
        output: page to write; by default compare.html in the folder of the second.

    Raises:
        DreamFusionError: for objects that cannot be read, or a page that cannot be written.

    """
    from dreamfusion.pictures.compare import compare as page

    return page(Path(first), Path(second), _path(output))


def compose(
    objects: Sequence[PathOrText | Placement],
    *,
    output: PathOrText = "runs/scene",
    azimuth: float | Sequence[float] = 25.0,
    elevation: float = 18.0,
    size: Sequence[int] = (960, 540),
    light_azimuth: float | None = None,
    light_elevation: float = 45.0,
    softness: float = 2.5,
    sky: float = 0.4,
    environment: PathOrText | None = None,
    ground: Sequence[float] = (0.86, 0.86, 0.87),
    samples: int = 48,
    device: str = "auto",
) -> Path:
    """Place several results on a ground and return the path of a picture with shadows.

    A GLB scene and a viewer page are written beside the picture.

    Args:
        objects: each a `Result`, a folder or .glb file as "RUN", "RUN:x,y", "RUN:x,y,scale" or
            "RUN:x,y,scale,azimuth", or a `Placement`.
        output: folder for scene.png, scene.glb and viewer.html.
        azimuth: degrees around the scene, 0 is the front; several give a strip of pictures.
        elevation: degrees above the horizon.
        size: width and height of the picture in pixels.
        light_azimuth: degrees around the scene that the sun stands at; None is 75, or no sun with an environment.
        light_elevation: degrees above the horizon that the sun stands at.
        softness: degrees of half the width of the sun.
        sky: share of the light that comes evenly from everywhere.
        environment: an equirectangular picture of the light all around.
        ground: colour of the ground, three numbers from 0 to 1.
        samples: paths of light per pixel.
        device: "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        DreamFusionError: for objects that cannot be read and values out of range.

    """
    quiet_libraries()
    from dreamfusion.pictures.compose import Placement, SunAndSky, parse_placement
    from dreamfusion.pictures.compose import compose as picture

    placements = [
        one if isinstance(one, Placement) else parse_placement(one) if isinstance(one, str) else Placement(Path(one))
        for one in objects
    ]
    return picture(
        placements,
        Path(output),
        azimuths_deg=_several(azimuth),
        elevation_deg=elevation,
        size=size,
        light=SunAndSky(light_azimuth, light_elevation, softness, sky, _path(environment)),
        ground_color=ground,
        samples=samples,
        device=device,
    )


def evaluate(
    prompts: PathOrText | Sequence[str] | None = None,
    *,
    seeds: int = 1,
    preset: Preset = "default",
    output: PathOrText = "runs/evaluation",
    steps: int | None = None,
    config: Settings | None = None,
    judge: str | None = None,
    jobs: int | None = None,
    progress: bool = False,
) -> Evaluation:
    """Score many runs by their pictures and their shapes, and return all records.

    Tables and pictures are written to the folder; called again, an evaluation goes on where it was.

    Args:
        prompts: several prompts, or a file with one per line; by default forty that nobody picked.
        seeds: runs per prompt, with seeds 0 to seeds - 1.
        preset: as for `generate`.
        output: folder for all runs, evaluation.json, report.md, report.html and overview.png.
        steps: optimisation steps of every run, in place of the preset's.
        config: any other settings of every run, as for `generate`.
        judge: folder or hub name of a CLIP model, in place of the toybox judge.
        jobs: runs side by side; by default one per two CPU cores, or one on a GPU.
        progress: show a progress bar on standard error.

    Raises:
        DreamFusionError: for wrong settings. A run that fails is recorded instead.

    """
    quiet_libraries()
    from dreamfusion.config import merged, read_yaml
    from dreamfusion.evaluation.evaluate import evaluate as run
    from dreamfusion.evaluation.judge import open_judge
    from dreamfusion.evaluation.report import write_reports

    file, changes = _settings(config, steps=steps)
    with _bar(progress) as on_progress:
        evaluation = run(
            Path(output),
            _prompt_list(prompts),
            seeds=seeds,
            preset=preset,
            changes=changes if file is None else merged(read_yaml(file), changes),
            judge=open_judge(judge),
            jobs=jobs,
            on_progress=on_progress,
        )
    write_reports(evaluation, Path(output))
    return evaluation


def sweep(
    prompts: PathOrText | Sequence[str],
    *,
    seeds: int = 4,
    preset: Preset = "default",
    output: PathOrText = "runs/sweep",
    steps: int | None = None,
    config: Settings | None = None,
    vary: Mapping[str, Sequence[Any]] | Sequence[str] = (),
    judge: str | None = None,
    keep: int | None = None,
    cpus: float = 1.0,
    gpus: float | None = None,
    retries: int = 2,
    address: str | None = None,
    slurm: bool = False,
    partition: str | None = None,
    minutes: int | None = None,
    progress: bool = False,
) -> Sweep:
    """Run many prompts with many seeds and settings on Ray or Slurm, and return all runs, best first.

    sweep.json and gallery.html are written to the folder; called again, a sweep goes on where it was. Needs
    dreamfusion[scale].

    Args:
        prompts: several prompts, or a file with one per line.
        seeds: runs per prompt and setting, with seeds 0 to seeds - 1.
        preset: as for `generate`.
        output: folder for all runs, which all machines share.
        steps: optimisation steps of every run, in place of the preset's.
        config: any other settings of every run, as for `generate`.
        vary: values to try by dotted configuration key, in all combinations: {"guidance.guidance_scale": [4, 8]}, or
            as the command line has them.
        judge: folder of a trained judge, or folder or hub name of a CLIP model, in place of the toybox judge.
        keep: delete the runs of all but so many of each prompt in the end; scores and previews stay.
        cpus: CPU cores of each run.
        gpus: GPUs of each run, which may be a fraction on Ray; by default one where there are any.
        retries: how often a run whose process died is started again, from its last checkpoint.
        address: host:port of a Ray cluster, or "auto" for the one that this machine belongs to; by default a local one.
        slurm: run on Slurm in place of Ray.
        partition: Slurm's partition.
        minutes: Slurm's time limit for each job, 60 by default.
        progress: show a progress bar and notes on standard error.

    Raises:
        DreamFusionError: for wrong settings, or an engine that is not there. A run that fails is recorded instead.

    """
    quiet_libraries()
    from dreamfusion.config import merged, read_yaml
    from dreamfusion.scale.engines import chosen_engine
    from dreamfusion.scale.plan import Plan, parse_vary, prompts_of
    from dreamfusion.scale.sweep import sweep as run

    options = _given(gpus=gpus, address=address, partition=partition, minutes=minutes)
    engine = chosen_engine(Path(output), cpus=cpus, retries=retries, slurm=slurm, **options)
    words, notes = prompts_of(Path(prompts)) if isinstance(prompts, (str, PathLike)) else (list(prompts), [])
    for note in notes:
        _log.info("%s: %s", prompts, note)
    file, changes = _settings(config, steps=steps)
    changes = changes if file is None else merged(read_yaml(file), changes)
    tried = vary if isinstance(vary, Mapping) else parse_vary(_several(vary))
    with _swept(progress) as on_progress:
        plan = Plan(words, seeds, preset, changes, tried)
        return run(Path(output), plan, engine, judge=judge, keep=keep, on_progress=on_progress, on_note=_log.info)


def open_run(run: PathOrText, device: str = "auto") -> Result:
    """Return an earlier run with its newest scene.

    Args:
        run: folder of the run.
        device: where the scene is put: "auto", "cpu", "cuda", "cuda:N" or "mps".

    Raises:
        DreamFusionError: if the folder holds no run.

    """
    quiet_libraries()
    from dreamfusion.runs.results import open_run as opened

    return opened(Path(run), device)


# --- from plain arguments to what the modules below take --------------------------------------------------------------


def _given(**options: Any) -> dict[str, Any]:
    """Return the options that were given."""
    return {key: value for key, value in options.items() if value is not None and value != {}}


def _path(path: PathOrText | None) -> Path | None:
    return None if path is None else Path(path)


def _text(path: PathOrText | None) -> str | None:
    return None if path is None else str(path)


def _several(value: Any) -> Any:
    """Return a single number or word as a sequence of one."""
    return (value,) if isinstance(value, (int, float, str)) else value


def _prior(
    guidance: PriorName | Guidance | None, model: PathOrText | None, **added: str | Sequence[str] | None
) -> tuple[Guidance | None, dict[str, Any]]:
    """Return a prior that is loaded already, if one was given, and the settings of the one to load."""
    if guidance is not None and not isinstance(guidance, str):
        return guidance, {}
    name = _text(model)
    return None, _given(kind=guidance or ("diffusers" if name else None), model=name, **added)


def _settings(config: Settings | None, **asked: Any) -> tuple[Path | None, dict[str, Any]]:
    """Return the YAML file of the settings, if they are one, and all others with what was ``asked`` merged in."""
    given = _given(**asked)
    if config is None or isinstance(config, (str, PathLike)):
        return _path(config), given
    from dreamfusion.config import Config, merged

    values = config.model_dump(mode="json") if isinstance(config, Config) else dict(config)
    return None, merged(values, given)


def _prompt_list(prompts: PathOrText | Sequence[str] | None) -> Any:
    from dreamfusion.evaluation.prompts import PromptList, default_prompts, read_prompts
    from dreamfusion.toybox.captions import parse_toy
    from dreamfusion.toybox.words import understood

    if prompts is None:
        return default_prompts()
    if isinstance(prompts, (str, PathLike)):
        chosen = read_prompts(Path(prompts))
        for note in chosen.notes:
            _log.info("%s: %s", prompts, note)
        return chosen
    return PromptList({words: parse_toy(words) for words in (understood(prompt).prompt for prompt in prompts)})


@dataclass
class _Shown:
    """What a run is told to call, while it is or is not shown."""

    on_start: Callable[[Path, Config, int], None] | None
    on_step: Callable[[Step], None] | None
    on_note: Callable[[str], None]


@contextmanager
def _shown(progress: bool, on_step: Callable[[Step], None] | None) -> Iterator[_Shown]:
    """Show a run on standard error while the block lasts, or leave its notes to the log."""
    if not progress:
        yield _Shown(None, on_step, _log.info)
        return
    from rich.console import Console

    from dreamfusion.app.run_progress import RunProgress

    console = Console(stderr=True)

    def step(done: Step) -> None:
        bar.step(done)
        if on_step is not None:
            on_step(done)

    def note(line: str) -> None:
        console.print(f"note: {line}", highlight=False, soft_wrap=True)

    with RunProgress(console) as bar:
        yield _Shown(bar.start, step, note)


@contextmanager
def _swept(progress: bool) -> Iterator[Callable[[Status], None] | None]:
    """Show how far a sweep is, while the block lasts."""
    if not progress:
        yield None
        return
    from rich.console import Console

    from dreamfusion.app.progress import SweepProgress

    with SweepProgress(Console(stderr=True)) as bar:
        yield bar.update


@contextmanager
def _bar(progress: bool) -> Iterator[Callable[[int, int, str], None] | None]:
    """Show how many runs of an evaluation are done, while the block lasts."""
    if not progress:
        yield None
        return
    from rich.console import Console

    from dreamfusion.app.progress import EvaluationProgress

    with EvaluationProgress(Console(stderr=True)) as bar:
        yield bar.update
