"""The command line: ``dreamfusion generate "a red mushroom"`` and its companions."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro
from rich.console import Console
from tyro.conf import Positional

from dreamfusion import __version__
from dreamfusion.errors import DreamFusionError
from dreamfusion.standard import MESH_FACES, ORBIT_ELEVATION_DEG, ORBIT_FOCAL, ORBIT_RADIUS, TEXTURE_SIZE

if TYPE_CHECKING:
    from dreamfusion.evaluation.prompts import PromptList
    from dreamfusion.runs.results import Result

# torch, diffusers and warp take seconds to import: each command imports what it needs, so that --help is at once.

console = Console(stderr=True)

Shading = Literal["albedo", "lambertian", "textureless"]
PresetName = Literal["quick", "default", "high", "paper", "nemo", "threestudio-sd", "threestudio-if"]


def generate(
    prompt: Positional[str | None] = None,
    *,
    preset: PresetName = "default",
    steps: int | None = None,
    seed: int | None = None,
    output: Path | None = None,
    resume: Path | None = None,
    device: str | None = None,
    guidance: Literal["toybox", "sd", "diffusers"] | None = None,
    model: str | None = None,
    guidance_scale: float | None = None,
    negative_prompt: str | None = None,
    perp_neg: bool = False,
    loss: Literal["sds", "vsd", "ism"] | None = None,
    config: Path | None = None,
    nemo_config: Path | None = None,
) -> None:
    """Make a 3D object from words.

    Args:
        prompt: what to make, for example "a red mushroom"
        preset: quick (a draft), default, high (slower, finer), or another system's settings, which want a large model
        steps: optimisation steps; more is finer and slower
        seed: another seed gives another object; the same gives the same
        output: folder for the results (runs/<prompt> if not given)
        resume: folder of a stopped run to continue exactly where it was
        device: auto, cpu, cuda, cuda:N or mps
        guidance: toybox (the embedded prior), sd (Stable Diffusion 2.1 if no --model) or diffusers (needs --model)
        model: diffusers pipeline as a folder, a .safetensors or .ckpt file, or a hub name; its family is read from it
        guidance_scale: how strongly the words count, eps_uncond + SCALE * (eps_text - eps_uncond)
        negative_prompt: what the result must not look like
        perp_neg: push away from the views that a camera does not show, against several faces; twice the prior's time
        loss: sds (score distillation), vsd (variational; trains a critic alongside) or ism (interval score matching)
        config: YAML file with any of the settings of a run's config.yaml; other options override it
        nemo_config: model configuration of NVIDIA's NeMo DreamFusion, in place of a preset; docs/nemo.md has its keys

    """
    from dreamfusion.app.progress import RunProgress
    from dreamfusion.runs.generate import generate as run

    prior = _prior(
        guidance,
        model,
        guidance_scale=guidance_scale,
        negative_prompt=negative_prompt,
        perp_neg=perp_neg or None,
    )
    changes = _given(steps=steps, seed=seed, device=device, guidance=prior, loss=_given(kind=loss) or None)
    with RunProgress(console) as progress:
        result = run(
            prompt,
            preset=preset,
            output=output,
            resume=resume,
            nemo_config=nemo_config,
            config_file=config,
            on_note=_note,
            on_start=progress.start,
            on_step=progress.step,
            **changes,
        )
    _print_assets(result)


def _given(**options: Any) -> dict[str, Any]:
    """Return the options that were given."""
    return {key: value for key, value in options.items() if value is not None}


def _prior(guidance: str | None, model: str | None, **options: Any) -> dict[str, Any] | None:
    """Return what is asked of the prior, None if nothing is; a model alone is one of diffusers."""
    return _given(kind=guidance or ("diffusers" if model else None), model=model, **options) or None


def _note(line: str) -> None:
    console.print(f"note: {line}", highlight=False, soft_wrap=True)


def _print_assets(result: Result) -> None:
    written = [path for path in (result.contact_sheet, result.turntable, result.mesh, result.viewer) if path.exists()]
    print(*written, sep="\n")


def refine(
    run: Positional[Path | None] = None,
    *,
    mesh: Path | None = None,
    prompt: str | None = None,
    preset: Literal["quick", "default", "high", "nemo-dmtet"] = "default",
    steps: int | None = None,
    resolution: int | None = None,
    seed: int | None = None,
    output: Path | None = None,
    resume: Path | None = None,
    device: str | None = None,
    guidance: Literal["toybox", "sd", "diffusers"] | None = None,
    model: str | None = None,
    config: Path | None = None,
    nemo_config: Path | None = None,
) -> None:
    """Turn a finished run into a mesh and optimise that, at a higher resolution.

    Args:
        run: folder of a finished run, which stays as it is
        mesh: start from this closed mesh in place of the run's shape (GLB, OBJ, PLY, STL)
        prompt: what to make, if not what the run made; needed without a run
        preset: quick (a draft), default, high (slower, finer), or nemo-dmtet (docs/presets.md)
        steps: optimisation steps
        resolution: side of the rendered views in pixels (512 on a GPU if not given, fewer on a CPU)
        seed: another seed gives another result; the same gives the same (the run's if not given)
        output: folder for the results (RUN-refined if not given)
        resume: folder of a stopped refinement to continue exactly where it was
        device: auto, cpu, cuda, cuda:N or mps
        guidance: toybox (the embedded prior), sd or diffusers, as for generate (the run's if not given)
        model: folder, file or hub name of a diffusers model, as for generate
        config: YAML file with any of the settings of a run's config.yaml; other options override it
        nemo_config: configuration of NVIDIA's NeMo DreamFusion-DMTet, in place of a preset; docs/nemo.md has its keys

    """
    from dreamfusion.app.progress import RunProgress
    from dreamfusion.runs.generate import generate as resumed
    from dreamfusion.runs.refine import refine as start

    prior = _prior(guidance, model)
    changes = _given(prompt=prompt, steps=steps, resolution=resolution, seed=seed, device=device, guidance=prior)
    with RunProgress(console) as progress:
        if resume is not None:
            if run is not None or mesh is not None:
                raise DreamFusionError("A resumed refinement keeps what it began with: leave out RUN and --mesh.")
            result = resumed(
                resume=resume,
                preset=preset,  # type: ignore[arg-type]  # refused, as are the next three
                output=output,
                nemo_config=nemo_config,
                config_file=config,
                on_start=progress.start,
                on_step=progress.step,
                **changes,
            )
        else:
            result = start(
                run,
                mesh=mesh,
                preset=preset,
                output=output,
                nemo_config=nemo_config,
                config_file=config,
                on_note=_note,
                on_start=progress.start,
                on_step=progress.step,
                **changes,
            )
    _print_assets(result)


def render(
    run: Positional[Path],
    *,
    output: Path | None = None,
    shading: Literal["albedo", "lambertian", "textureless", "normal"] = "lambertian",
    azimuth: tuple[float, ...] = (30.0,),
    elevation: tuple[float, ...] = (ORBIT_ELEVATION_DEG,),
    radius: float = ORBIT_RADIUS,
    focal: float = ORBIT_FOCAL,
    size: tuple[int, ...] = (512,),
    light_azimuth: float | None = None,
    light_elevation: float = 45.0,
    light_intensity: float = 1.0,
    light_color: str = "white",
    ambient: float | None = None,
    environment: Path | None = None,
    background: str = "#cccfd6",
    turntable: int | None = None,
    cameras: Path | None = None,
    fps: float = 15.0,
    device: str = "auto",
) -> None:
    """Render a finished run from any camera, under any light.

    Args:
        run: folder of the run
        output: .png, .mp4, .webm, .gif or a folder of pictures (RUN/render.png, .mp4 or, transparent, a folder if none)
        shading: albedo (no light), lambertian (lit), textureless (lit, white) or normal (directions as colours)
        azimuth: degrees around the object, 0 is the front; several give a strip of pictures
        elevation: degrees above the horizon; one, or as many as azimuths
        radius: distance of the camera in world units; the object lies inside the unit sphere
        focal: focal length in image widths
        size: side of the picture in pixels, or width and height
        light_azimuth: degrees around the object the light stands at; by default it goes with the camera
        light_elevation: degrees above the horizon the light stands at
        light_intensity: factor on all light
        light_color: name such as "orange", or "#rrggbb"
        ambient: share of the light that comes from everywhere (0.3, or 0 with an environment, if not given)
        environment: studio, sunset, overcast, or a picture of the light all around: equirectangular, .hdr, .exr, .png
        background: colour name or "#rrggbb", a picture, "environment" or "transparent"
        turntable: make a video of this many frames, once around, in place of pictures
        cameras: JSON list of cameras for the frames of a video, see docs/pictures.md
        fps: frames per second of a video
        device: auto, cpu, cuda, cuda:N or mps

    """
    from dreamfusion.pictures.render import Light, render_run

    path = render_run(
        run,
        output=output,
        shading=shading,
        azimuths_deg=azimuth,
        elevations_deg=elevation,
        radius=radius,
        focal=focal,
        size=size,
        light=Light(light_azimuth, light_elevation, light_intensity, light_color, ambient, environment),
        background=background,
        turntable_frames=turntable,
        cameras_file=cameras,
        fps=fps,
        device=device,
    )
    print(path)


def export(
    run: Positional[Path],
    *,
    format: tuple[str, ...] = (),
    output: Path | None = None,
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
) -> None:
    """Write the mesh of a finished run for other programs: GLB, OBJ, PLY, STL or USDZ.

    Args:
        run: folder of the run
        format: one or more of glb, obj, ply, stl and usdz (what the suffix of --output says if not given, or glb)
        output: file to write (RUN/mesh.FORMAT if not given); with several formats its suffix is theirs
        resolution: samples per side of the grid in which the surface is found (128 if not given; not of refined runs)
        faces: the mesh has at most about this many triangles
        texture_size: side of the texture in texels (glb, obj, usdz)
        size_mm: longest side of the object in millimetres (stl: 100 if not given; others: 1 unit of the scene is 1 m)
        height: height of the object in metres, in place of --size-mm
        pivot: put the origin at the middle of the base or of the box (where the scene has it if not given)
        lod: also write this many levels of detail, mesh_lod1 and so on, each with a quarter of the faces
        normal_map: bake what the faces leave out into a normal map (glb)
        compress: make the GLB small: Draco and WebP, in RUN/mesh_compressed.glb; needs dreamfusion[compress]
        license: licence or copyright line to write into the file (glb, usdz)
        device: auto, cpu, cuda, cuda:N or mps

    """
    from dreamfusion.runs.results import export_run

    paths = export_run(
        run,
        formats=format,
        output=output,
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
        on_note=_note,
    )
    print(*paths, sep="\n")


def compare(first: Positional[Path], second: Positional[Path], *, output: Path | None = None) -> None:
    """Put two results side by side into one page, to turn together: before and after refine, or two seeds.

    Args:
        first: folder of a run, or a .glb file
        second: folder of another, or a .glb file
        output: page to write (compare.html in the folder of the second if not given)

    """
    from dreamfusion.pictures.compare import compare as run

    print(run(first, second, output))


def compose(
    objects: Positional[tuple[str, ...]],
    *,
    output: Path = Path("runs/scene"),
    azimuth: tuple[float, ...] = (25.0,),
    elevation: float = 18.0,
    size: tuple[int, int] = (960, 540),
    light_azimuth: float | None = None,
    light_elevation: float = 45.0,
    softness: float = 2.5,
    sky: float = 0.4,
    environment: Path | None = None,
    ground: tuple[float, float, float] = (0.86, 0.86, 0.87),
    samples: int = 48,
    device: str = "auto",
) -> None:
    """Place several results on a ground and write a picture with shadows, a GLB scene and a viewer page.

    Args:
        objects: runs (or .glb files) as RUN, RUN:x,y, RUN:x,y,scale or RUN:x,y,scale,azimuth; x is towards the camera
        output: folder for scene.png, scene.glb and viewer.html
        azimuth: degrees around the scene, 0 is the front; several give a strip of pictures
        elevation: degrees above the horizon
        size: width and height of the picture in pixels
        light_azimuth: degrees around the scene the sun stands at (75, or no sun with an environment, if not given)
        light_elevation: degrees above the horizon the sun stands at
        softness: degrees of half the width of the sun; larger makes softer shadows
        sky: share of the light that comes evenly from everywhere
        environment: light all around in its place: studio, sunset, overcast, or an equirectangular .hdr, .exr or .png
        ground: colour of the ground, three numbers from 0 to 1
        samples: paths of light per pixel; more are slower and less grainy
        device: auto, cpu, cuda or cuda:N

    """
    from dreamfusion.pictures.compose import SunAndSky, parse_placement
    from dreamfusion.pictures.compose import compose as run

    picture = run(
        [parse_placement(text) for text in objects],
        output,
        azimuths_deg=azimuth,
        elevation_deg=elevation,
        size=size,
        light=SunAndSky(light_azimuth, light_elevation, softness, sky, environment),
        ground_color=ground,
        samples=samples,
        device=device,
    )
    print(f"{picture}\n{output / 'scene.glb'}\n{output / 'viewer.html'}")


def view(run: Positional[Path], *, host: str = "127.0.0.1", port: int = 8080) -> None:
    """Look at a run in the browser while it goes on: newest mesh, light, new prompt, stop.

    Args:
        run: folder of the run, finished or not
        host: address to serve on; 0.0.0.0 lets other machines in, who can then stop the run too
        port: port to serve on

    """
    from dreamfusion.app.view import view as run_view

    run_view(run, host=host, port=port)


def prior_train(
    *,
    output: Path = Path("runs/prior"),
    steps: int = 8000,
    batch_size: int = 48,
    image_size: int = 32,
    lr: float = 1e-3,
    muon_lr: float = 2e-2,
    decay_steps: int = 2000,
    precision: Literal["fp32", "bf16"] = "fp32",
    seed: int = 0,
    device: str = "auto",
    start_from: Path | None = None,
    save_every: int = 250,
    sample_every: int = 1000,
) -> None:
    """Train the small prior on the toybox; run it again to continue exactly, with more --steps to go further.

    Args:
        output: folder for checkpoints, log, sample grids and the finished prior
        steps: training steps in all
        batch_size: images per step
        image_size: side of the images in pixels; a prior can be trained further at twice its size with --start-from
        lr: learning rate of embeddings, norms, biases, first and last layer (AdamW)
        muon_lr: learning rate of all other weights (Muon)
        decay_steps: steps at the end over which the learning rates fall to zero
        precision: bf16 computes in it where that is safe (autocast): faster on GPUs and on CPUs that have it
        seed: decides weights, data and noise
        device: auto, cpu, cuda, cuda:N or mps
        start_from: folder of a finished prior to begin with, in place of random weights
        save_every: steps between checkpoints
        sample_every: steps between sample grids and refreshes of the finished prior

    """
    from dreamfusion.app.progress import TrainProgress
    from dreamfusion.device import pick_device
    from dreamfusion.toybox.train import TrainSettings, train

    settings = TrainSettings(
        steps=steps,
        batch_size=batch_size,
        image_size=image_size,
        lr=lr,
        muon_lr=muon_lr,
        decay_steps=decay_steps,
        precision=precision,
        seed=seed,
    )
    with TrainProgress(console, steps) as progress:
        train(
            output,
            settings,
            device=str(pick_device(device)),
            start_from=start_from,
            save_every=save_every,
            sample_every=sample_every,
            on_progress=progress.update,
        )
    print(output / "prior")


def prior_sample(
    prompts: Positional[tuple[str, ...]],
    *,
    output: Path = Path("samples.png"),
    model: str | None = None,
    steps: int = 50,
    guidance_scale: float = 3.0,
    negative_prompt: str = "",
    views: bool = True,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Draw pictures from a prior: what it believes the words look like.

    Args:
        prompts: one or more prompts, a row of pictures each
        output: picture to write
        model: folder or hub name of a pixel-space diffusers pipeline; the embedded prior if not given
        steps: denoising steps
        guidance_scale: how strongly the words count
        negative_prompt: what the pictures must not show
        views: draw the front, side, back and overhead view; otherwise four samples of the bare prompt
        seed: decides the noise
        device: auto, cpu, cuda, cuda:N or mps

    """
    from dreamfusion.assets.images import save_png
    from dreamfusion.device import pick_device
    from dreamfusion.guidance.names import model_named
    from dreamfusion.guidance.pixel import PixelGuidance
    from dreamfusion.toybox.samples import sample_grid

    guidance = PixelGuidance(model_named(model or "toybox"), device=pick_device(device))
    grid = sample_grid(
        guidance,
        prompts,
        steps=steps,
        guidance_scale=guidance_scale,
        negative_prompt=negative_prompt,
        views=views,
        seed=seed,
    )
    save_png(grid, output)
    print(output)


def prior_evaluate(
    *,
    model: str | None = None,
    output: Path = Path("runs/prior-evaluation"),
    quick: bool = False,
    card: bool = False,
    judge: Path | None = None,
    device: str = "auto",
) -> None:
    """Score a prior of the toybox: its loss, what its samples show, how true and how different they are.

    Args:
        model: folder of the prior; the embedded prior if not given
        output: folder for scores.json and scores.md
        quick: a glance, at a twentieth of the cost
        card: write the scores beside the prior and their tables into its README.md, too
        judge: folder of a judge that judge train has made, in place of the one that ships with the package
        device: auto, cpu, cuda, cuda:N or mps

    """
    from dreamfusion.app.progress import EvaluationProgress
    from dreamfusion.device import pick_device
    from dreamfusion.evaluation.judge import TOYBOX_JUDGE, ToyboxJudge
    from dreamfusion.evaluation.prior import QUICK, PriorTrial, evaluate_prior, write_scores
    from dreamfusion.guidance.pixel import PixelGuidance
    from dreamfusion.toybox import EMBEDDED_PRIOR
    from dreamfusion.toybox.scores import score_tables

    folder, chosen = Path(model or EMBEDDED_PRIOR), pick_device(device)
    guidance, reader = PixelGuidance(folder, device=chosen), ToyboxJudge(judge or TOYBOX_JUDGE, chosen)
    trial = QUICK if quick else PriorTrial()
    with EvaluationProgress(console, "parts") as progress:
        scores = evaluate_prior(guidance, reader, trial, name=folder.name, on_progress=progress.update)
    write_scores(scores, output, folder if card else None)
    print(score_tables(scores))
    print(output / "scores.json")


def guidance_compile(
    model: Positional[str],
    *,
    output: Path,
    precision: Literal["fp32", "fp16"] = "fp32",
    image_size: int | None = None,
    device: str = "auto",
) -> None:
    """Compile a prior for ONNX Runtime, with TensorRT where it is; generate --model OUTPUT then runs it.

    Args:
        model: diffusers pipeline as a folder, a .safetensors or .ckpt file, or a hub name
        output: folder for the compiled model; it needs the original no more
        precision: number format of the compiled weights; fp16 is for GPUs
        image_size: side of the pictures that the graph is tried with (the model's own if not given); others run as well
        device: where the model is traced and tried: auto, cpu, cuda or cuda:N

    """
    from dreamfusion.device import pick_device
    from dreamfusion.guidance.compiled.compiling import compile_prior
    from dreamfusion.guidance.names import model_named
    from dreamfusion.guidance.reading.prepare import set_precision

    chosen = pick_device(device)
    with console.status(f"Compiling {model}, which takes minutes"):
        folder = compile_prior(
            model_named(model), output, image_size=image_size, dtype=set_precision(precision, chosen), device=chosen
        )
    print(folder)


def toybox_render(
    names: Positional[tuple[str, ...]] = (),
    *,
    output: Path = Path("toybox.png"),
    size: int = 96,
    shading: Shading = "lambertian",
) -> None:
    """Show toys of the procedural world that the embedded prior is trained on.

    Args:
        names: toys such as "red mushroom" or "car"; all kinds if none is given
        output: picture to write
        size: side of each view in pixels
        shading: albedo, lambertian or textureless

    """
    from dreamfusion.assets.images import save_png
    from dreamfusion.toybox.samples import toybox_sheet

    save_png(toybox_sheet(names, size=size, shading=shading), output)
    print(output)


def evaluate(
    *,
    prompts: str | None = None,
    seeds: int = 1,
    preset: PresetName = "default",
    output: Path = Path("runs/evaluation"),
    steps: int | None = None,
    config: Path | None = None,
    judge: str | None = None,
    jobs: int | None = None,
) -> None:
    """Score many runs: R-Precision, geometry against the truth, two-faced objects, failures.

    Args:
        prompts: file with one prompt per line, or how many to draw that nobody picked (80 if not given)
        seeds: runs per prompt, with seeds 0 to SEEDS - 1
        preset: quick, default, high, or another system's settings
        output: folder for all runs, evaluation.json, report.md, report.html and overview.png; call again to go on
        steps: optimisation steps of every run, in place of the preset's
        config: YAML file with any of the settings of a run's config.yaml, for every run
        judge: folder of a trained judge, or folder or hub name of a CLIP model, in place of the toybox judge
        jobs: runs side by side (one per CPU core, or one on a GPU, if not given)

    """
    from dreamfusion.app.progress import EvaluationProgress
    from dreamfusion.config import merged, read_yaml
    from dreamfusion.evaluation.evaluate import evaluate as run
    from dreamfusion.evaluation.judge import open_judge
    from dreamfusion.evaluation.report import markdown, write_reports

    chosen = _prompt_list(prompts)
    with EvaluationProgress(console) as progress:
        changes = merged(read_yaml(config) if config else {}, _given(steps=steps))
        evaluation = run(
            output,
            chosen,
            seeds=seeds,
            preset=preset,
            changes=changes,
            judge=open_judge(judge),
            jobs=jobs,
            on_progress=progress.update,
        )
    write_reports(evaluation, output)
    print(markdown(evaluation))
    print(output / "report.html")


def ablate(
    study: Positional[Literal["parts", "guidance"]] = "parts",
    *,
    prompts: str | None = None,
    seeds: int = 1,
    preset: PresetName = "default",
    output: Path = Path("runs/ablation"),
    steps: int | None = None,
    judge: str | None = None,
    jobs: int | None = None,
) -> None:
    """Measure what each part of the method contributes, or what the guidance scale does.

    Args:
        study: parts (views, view prompts, lighting, textureless; paper Figure 6) or guidance (scale x seed; Figure 9)
        prompts: file with one prompt per line, or how many to draw that nobody picked (80 if not given)
        seeds: runs per prompt and variant
        preset: quick, default, high, or another system's settings
        output: folder for all runs, ablation.json, ablation.md and ablation.svg; call again to go on
        steps: optimisation steps of every run, in place of the preset's
        judge: folder of a trained judge, or folder or hub name of a CLIP model, in place of the toybox judge
        jobs: runs side by side (one per CPU core, or one on a GPU, if not given)

    """
    from dreamfusion.app.progress import EvaluationProgress
    from dreamfusion.evaluation.ablation import ablate as run
    from dreamfusion.evaluation.judge import open_judge

    chosen = _prompt_list(prompts)
    with EvaluationProgress(console) as progress:
        run(
            output,
            chosen,
            study,
            seeds=seeds,
            preset=preset,
            changes={"steps": steps} if steps else {},
            judge=open_judge(judge),
            jobs=jobs,
            on_progress=progress.update,
        )
    print((output / "ablation.md").read_text(encoding="utf-8"))


def _prompt_list(asked: str | None) -> PromptList:
    """Return the prompts of a file, saying what was left out, or drawn ones."""
    from dreamfusion.evaluation.prompts import chosen_prompts

    chosen = chosen_prompts(asked)
    for note in chosen.notes:
        console.print(f"{asked}: {note}; left out", highlight=False)
    return chosen


def judge_train(
    *,
    output: Path = Path("runs/judge"),
    steps: int = 2600,
    batch_size: int = 96,
    lr: float = 2e-3,
    muon_lr: float = 2e-2,
    seed: int = 77_000,
    start_from: Path | None = None,
) -> None:
    """Train the toybox judge, which reads off pictures what they show.

    Args:
        output: folder for the judge
        steps: training steps
        batch_size: pictures per step
        lr: highest learning rate of norms, first and last layers (AdamW)
        muon_lr: highest learning rate of all other weights (Muon)
        seed: decides weights, data and noise; the prior's seed should be another
        start_from: folder of a finished judge to begin with, in place of random weights

    """
    from dreamfusion.app.progress import JudgeProgress
    from dreamfusion.evaluation.training import JudgeSettings, train_judge

    settings = JudgeSettings(steps=steps, batch_size=batch_size, lr=lr, muon_lr=muon_lr, seed=seed)
    with JudgeProgress(console, steps) as progress:
        print(train_judge(output, settings, start_from=start_from, on_progress=progress.update))


def judge_evaluate(
    *, judge: Path | None = None, count: int = 1000, seed: int = 555_000, sheet: Path = Path("judge-mistakes.png")
) -> None:
    """Examine the toybox judge on true pictures: how often it reads each attribute right where it can be seen.

    Args:
        judge: folder of a judge that judge train has made; the one that ships with the package if not given
        count: pictures, half of them finished ones, half as a prior is trained on
        seed: decides the pictures; the judge's own seed is another
        sheet: picture to write of what it read wrong

    """
    from dreamfusion.assets.images import save_png
    from dreamfusion.evaluation.exam import examine, table
    from dreamfusion.evaluation.judge import TOYBOX_JUDGE, ToyboxJudge

    marks = examine(ToyboxJudge(judge or TOYBOX_JUDGE), count, seed)
    save_png(marks.sheet, sheet)
    print(table(marks))
    print(sheet)


def doctor(
    *,
    guidance: str | None = None,
    model: str | None = None,
    output: Path = Path("runs"),
    precision: Literal["fp32", "tf32", "fp16", "bf16"] = "fp32",
) -> None:
    """Say what this machine has, which device and kernels are used, and what to do about what is missing.

    Args:
        guidance: also check what generate means by this: toybox, sd, or a model as below
        model: also check this diffusers pipeline, a folder, a .safetensors or .ckpt file, or a hub name
        output: folder that runs will be written to
        precision: number format of the model's weights (guidance.precision) for which the need of memory is told

    """
    from dreamfusion.app.doctor import print_report
    from dreamfusion.guidance.names import model_named

    chosen = model or (model_named(guidance) if guidance else None)
    if not print_report(chosen, output, precision=precision):
        raise SystemExit(1)


def build_app() -> tyro.extras.SubcommandApp:
    """Return the command line with all its commands."""
    prior = tyro.extras.SubcommandApp()
    prior.command(name="train")(prior_train)
    prior.command(name="sample")(prior_sample)
    prior.command(name="evaluate")(prior_evaluate)
    guidance = tyro.extras.SubcommandApp()
    guidance.command(name="compile")(guidance_compile)
    toybox = tyro.extras.SubcommandApp()
    toybox.command(name="render")(toybox_render)
    app = tyro.extras.SubcommandApp()
    app.command(generate)
    app.command(refine)
    app.command(render)
    app.command(export)
    app.command(compare)
    app.command(compose)
    app.command(view)
    app.command(prior, name="prior", help="Train the small prior, score it, or draw what it believes words are.")
    app.command(guidance, name="guidance", help="Compile a prior, so that it runs faster.")
    app.command(toybox, name="toybox", help="Show the world that the embedded prior is trained on.")
    judge = tyro.extras.SubcommandApp()
    judge.command(name="train")(judge_train)
    judge.command(name="evaluate")(judge_evaluate)
    app.command(evaluate)
    app.command(ablate)
    app.command(judge, name="judge", help="Train or examine the judge of evaluations.")
    app.command(doctor)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; problems that the user can put right end with one line and exit code 1."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments == ["--version"]:
        print(f"dreamfusion {__version__}")
        return
    _quiet_libraries()
    try:
        build_app().cli(prog="dreamfusion", description=__doc__, args=arguments)
    except DreamFusionError as error:
        console.print(f"[bold red]error:[/] {error}", highlight=False, soft_wrap=True)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        console.print("Stopped. Continue with --resume and the folder of the run.", highlight=False)
        raise SystemExit(130) from None


def _quiet_libraries() -> None:
    """Keep the libraries' notices off the screen; a user cannot act on them."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", module=r"(diffusers|transformers|huggingface_hub|torch)\b")
    logging.getLogger("dreamfusion").setLevel(logging.WARNING)


if __name__ == "__main__":
    main(sys.argv[1:])
