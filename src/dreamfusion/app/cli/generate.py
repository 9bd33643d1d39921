"""``dreamfusion generate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tyro.conf import Positional

from dreamfusion.app.cli.output import as_text, console, given, nemo_arguments, note, print_assets, prior_settings
from dreamfusion.config import GuidanceKind, LossKind
from dreamfusion.config.presets import Preset


def generate(
    prompt: Positional[str | None] = None,
    *,
    preset: Preset = "default",
    steps: int | None = None,
    seed: int | None = None,
    output: Path | None = None,
    resume: Path | None = None,
    device: str | None = None,
    guidance: GuidanceKind | None = None,
    model: str | None = None,
    image: Path | None = None,
    ip_adapter: Path | None = None,
    lora: tuple[str, ...] | None = None,
    embedding: tuple[str, ...] | None = None,
    guidance_scale: float | None = None,
    negative_prompt: str | None = None,
    perp_neg: bool = False,
    loss: LossKind | None = None,
    config: Path | None = None,
    nemo_config: tuple[str, ...] | None = None,
    instant: Path | None = None,
    quiet: bool = False,
    json: bool = False,
) -> None:
    """Make a 3D object from words.

    For example:
        dreamfusion generate "a red mushroom"
        dreamfusion generate "a blue car" --preset quick --seed 3

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
        image: picture of the object, for a model that is shown one (Zero-1-to-3) or an IP-Adapter
        ip_adapter: file of an IP-Adapter, which shows the picture to Stable Diffusion 1, 2 or XL
        lora: LoRA files to add to the model, FILE or FILE:WEIGHT, several if need be
        embedding: files of textual inversions, each one more word for the prompt
        guidance_scale: how strongly the words count, eps_uncond + SCALE * (eps_text - eps_uncond)
        negative_prompt: what the result must not look like
        perp_neg: push away from the views that a camera does not show, against several faces; twice the prior's time
        loss: sds (score distillation), vsd (variational; trains a critic alongside) or ism (interval score matching)
        config: YAML file with any of the settings of a run's config.yaml; other options override it
        nemo_config: NVIDIA NeMo's DreamFusion, in place of a preset: FILE KEY=VALUE ... (docs/nemo.md)
        instant: folder of a network of amortize train, which makes the object at once; --resume then goes on with it
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
        loras=lora,
        embeddings=embedding,
        guidance_scale=guidance_scale,
        negative_prompt=negative_prompt,
        perp_neg=perp_neg or None,
    )
    changes = given(steps=steps, seed=seed, device=device, guidance=prior, loss=given(kind=loss) or None)
    if instant is not None:
        from dreamfusion.amortized.instant import at_once

        other = {"resume": resume, "config": config, "nemo-config": file}
        print_assets(at_once(prompt, instant, preset, output, changes, other, note))
        return None
    with RunProgress(console, quiet=quiet, as_json=json) as progress:
        from dreamfusion.runs.generate import generate as run
        from dreamfusion.runs.ranks import follow, joined, to_go_on_with

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
                result = run(prompt, resume=started, **given(steps=steps, device=device), **shown)
            else:
                result = run(
                    prompt,
                    preset=preset,
                    output=output,
                    resume=resume,
                    nemo_config=file,
                    nemo_overrides=overrides,
                    config_file=config,
                    **shown,
                    **changes,
                )
    print_assets(result, as_json=json)
    return None
