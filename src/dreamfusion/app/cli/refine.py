"""``dreamfusion refine``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tyro.conf import Positional

from dreamfusion.app.cli.output import as_text, console, given, nemo_arguments, print_assets, prior_settings
from dreamfusion.config import GuidanceKind
from dreamfusion.config.presets import RefinePreset
from dreamfusion.errors import DreamFusionError


def refine(
    run: Positional[Path | None] = None,
    *,
    mesh: Path | None = None,
    prompt: str | None = None,
    preset: RefinePreset = "default",
    steps: int | None = None,
    resolution: int | None = None,
    seed: int | None = None,
    output: Path | None = None,
    resume: Path | None = None,
    device: str | None = None,
    guidance: GuidanceKind | None = None,
    model: str | None = None,
    image: Path | None = None,
    ip_adapter: Path | None = None,
    controlnet: str | None = None,
    lora: tuple[str, ...] | None = None,
    embedding: tuple[str, ...] | None = None,
    config: Path | None = None,
    nemo_config: tuple[str, ...] | None = None,
    quiet: bool = False,
    json: bool = False,
) -> None:
    """Turn a finished run into a mesh and optimise that, at a higher resolution.

    For example:
        dreamfusion refine runs/a-red-mushroom
        dreamfusion refine --mesh chair.glb --prompt "a red chair"

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
        image: picture of the object, for a model that is shown one (Zero-1-to-3) or an IP-Adapter
        ip_adapter: file of an IP-Adapter, which shows the picture to Stable Diffusion 1, 2 or XL
        controlnet: folder or hub name of a ControlNet, which is shown the mesh's normals (docs/guidance.md)
        lora: LoRA files to add to the model, FILE or FILE:WEIGHT (the run's if not given)
        embedding: files of textual inversions (the run's if not given)
        config: YAML file with any of the settings of a run's config.yaml; other options override it
        nemo_config: NVIDIA NeMo's DreamFusion-DMTet, in place of a preset: FILE KEY=VALUE ..., as for generate
        quiet: say nothing on the way, and name the files that were written
        json: tell the progress, notes and files in lines of JSON on standard output, for other programs

    """
    asked = locals()
    from dreamfusion.app.run_progress import RunProgress

    file, overrides, prompt = nemo_arguments(nemo_config, prompt)
    prior = prior_settings(
        guidance,
        model,
        image=as_text(image),
        ip_adapter=as_text(ip_adapter),
        controlnet=controlnet,
        loras=lora,
        embeddings=embedding,
    )
    changes = given(prompt=prompt, steps=steps, resolution=resolution, seed=seed, device=device, guidance=prior)
    if resume is not None and (run is not None or mesh is not None):
        raise DreamFusionError("A resumed refinement keeps what it began with: leave out RUN and --mesh.")
    with RunProgress(console, quiet=quiet, as_json=json) as progress:
        from dreamfusion.runs.generate import generate as resumed
        from dreamfusion.runs.ranks import follow, joined, to_go_on_with
        from dreamfusion.runs.refine import refine as start

        with joined(asked) as ranks:
            if ranks.index:
                return follow(ranks, device)
            started = to_go_on_with(output) if resume is None else None
            shown: dict[str, Any] = {
                "on_note": progress.note,
                "on_start": progress.start,
                "on_step": progress.step,
                "ranks": ranks,
            }
            if started is not None:
                result = resumed(resume=started, **given(steps=steps, device=device), **shown)
            elif resume is not None:
                result = resumed(
                    resume=resume,
                    preset=preset,  # type: ignore[arg-type]  # refused, as are the next three
                    output=output,
                    nemo_config=file,
                    config_file=config,
                    **shown,
                    **changes,
                )
            else:
                result = start(
                    run,
                    mesh=mesh,
                    preset=preset,
                    output=output,
                    nemo_config=file,
                    nemo_overrides=overrides,
                    config_file=config,
                    **shown,
                    **changes,
                )
    print_assets(result, as_json=json)
    return None
