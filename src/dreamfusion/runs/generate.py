"""One run from words to files: `generate`. What it leaves is described in `dreamfusion.runs.results`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from dreamfusion.config import Config, build_config, load_config, merged, parse_config, save_config
from dreamfusion.config.presets import Preset
from dreamfusion.device import pick_device
from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.base import Guidance
from dreamfusion.guidance.families import open_prior
from dreamfusion.guidance.names import model_named
from dreamfusion.guidance.reading.prepare import set_precision
from dreamfusion.guidance.reading.problems import is_out_of_memory
from dreamfusion.io.checkpoints import save_checkpoint
from dreamfusion.io.files import explain, prepare_output_dir, slugify, write_text
from dreamfusion.method.critic import check_adaptable
from dreamfusion.method.distillation import Loss
from dreamfusion.method.normals import check_latent_phase
from dreamfusion.method.optimize import Step, optimize
from dreamfusion.method.prompts import validate_prompt
from dreamfusion.method.state import State
from dreamfusion.nemo import read_stage
from dreamfusion.runs.control import Requests
from dreamfusion.runs.fitting import fit_device, fit_prior
from dreamfusion.runs.results import Result, open_state, save_preview, save_validation, write_assets

RUNS = Path("runs")
_RESUMABLE_CHANGES = {"steps", "device"}


def generate(
    prompt: str | None = None,
    *,
    preset: Preset = "default",
    nemo_config: Path | str | None = None,
    config_file: Path | str | None = None,
    output: Path | str | None = None,
    resume: Path | str | None = None,
    guidance_model: Guidance | None = None,
    loss_function: Loss | None = None,
    assets: bool = True,
    on_start: Callable[[Path, Config, int], None] | None = None,
    on_step: Callable[[Step], None] | None = None,
    on_note: Callable[[str], None] | None = None,
    **changes: Any,
) -> Result:
    """Make a 3D object from words and return where its files are.

    ``preset`` or ``nemo_config`` (a model configuration of NVIDIA's NeMo, see `dreamfusion.nemo`), then the YAML of
    ``config_file``, then ``changes`` (keys of `dreamfusion.config.Config`, such as ``steps=300`` or
    ``guidance={"guidance_scale": 10}``) decide the configuration. ``resume`` continues a stopped
    run in its folder, bit-equal on the same machine. ``guidance_model`` is a prior that is already loaded; otherwise
    the configured one is. ``loss_function`` takes the place of the configured loss. Without ``assets``, contact sheet,
    turntable and mesh are left out.
    ``on_start(folder, config, first_step)`` and ``on_step(step)`` are called to show progress, ``on_note(line)`` with
    what is done differently from NeMo's configuration, and with advice on presets.
    Raises DreamFusionError, with one line that says what to do, for anything the user can put right.
    """
    if resume is not None:
        folder = Path(resume)
        asked = {"--nemo-config": nemo_config, "--config": config_file, "--output": output}
        asked["--preset"] = None if preset == "default" else preset
        left_out = [option for option, value in asked.items() if value is not None]
        if left_out:
            raise DreamFusionError(f"A resumed run keeps its configuration and its folder: leave out {left_out[0]}.")
        config = _config_of(folder, prompt, changes)
        device = pick_device(config.device)
        state = open_state(folder, config, device)
        if config.steps < state.step:
            raise DreamFusionError(f"{folder} is {state.step} steps old already: --steps must be at least that.")
        guidance = guidance_model or load_guidance(config, device)
        _truncate_metrics(folder / "metrics.jsonl", state.step)
    else:
        given = {} if prompt is None else {"prompt": validate_prompt(prompt)}
        tell = on_note or (lambda line: None)
        nemo = None if nemo_config is None else read_stage(Path(nemo_config), preset, tell, mesh=False)
        config = build_config(preset, given | changes, config_file, base=nemo)
        device = pick_device(config.device)
        of_nemo = nemo is not None or preset == "nemo"
        if of_nemo:
            config = fit_device(config, device, tell)
        guidance = guidance_model or load_guidance(config, device)
        if of_nemo:
            config = fit_prior(config, guidance, tell)
        elif config.guidance.kind != "toybox" and preset in ("quick", "default", "high"):
            _advise(config, guidance, preset, tell)
        check_suits(guidance, config)
        state = State.fresh(config, device)
        folder = new_folder(RUNS / slugify(config.prompt), output)
    own = guidance_model is None
    return carry_out(
        config,
        guidance,
        state,
        folder,
        own_prior=own,
        loss_function=loss_function,
        assets=assets,
        on_start=on_start,
        on_step=on_step,
    )


def carry_out(
    config: Config,
    guidance: Guidance,
    state: State,
    folder: Path,
    *,
    own_prior: bool,
    loss_function: Loss | None = None,
    assets: bool = True,
    on_start: Callable[[Path, Config, int], None] | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Result:
    """Optimise ``state`` to the end in a folder of its own, and write what a run leaves; see `generate`.

    With ``own_prior`` nobody else uses ``guidance``, and its text encoders leave memory when the prompt is read. A
    prior that the caller brought along may be asked about other prompts later, so it stays whole.
    """
    save_config(config, folder / "config.yaml")
    if on_start is not None:
        on_start(folder, config, state.step)
    with Requests(folder) as requests:
        while True:
            steps = optimize(config, guidance, state, loss_function=loss_function, release_text_encoders=own_prior)
            prompt = _save_on_the_way(config, steps, state, folder, requests, on_step)
            if prompt is None:
                break
            kept = None if own_prior else guidance
            if own_prior:
                del steps, guidance  # its text encoders are gone; two priors may not fit into memory
                state.park_critic()
            config, guidance = _change_prompt(config, prompt, state.step, kept, requests, state.scene.device)
            save_config(config, folder / "config.yaml")
    result = Result(folder, config, state.scene)
    if assets:
        write_assets(result)
    return result


def load_guidance(config: Config, device: torch.device) -> Guidance:
    """Load the configured prior; DreamFusionError if it cannot be loaded or does not know the prompt's words."""
    guidance = open_prior(
        model_named(config.guidance.kind, config.guidance.model),
        device=device,
        dtype=set_precision(config.guidance.precision, device),
        image_size=config.guidance.image_size,
        execution=config.guidance.execution,
        prompt_weighting=config.guidance.prompt_weighting,
    )
    _check_words(guidance, config)
    return guidance


def _advise(config: Config, guidance: Guidance, preset: Preset, tell: Callable[[str], None]) -> None:
    """Tell of the presets for large models where one that was tuned to the embedded prior is left as it is."""
    tuned = build_config(preset, {"prompt": config.prompt}).guidance.guidance_scale
    # A prior that knows cameras was trained as the embedded one is.
    if config.guidance.guidance_scale == tuned and not guidance.knows_cameras:
        better = "threestudio-if" if guidance.latent_shape is None else "threestudio-sd"
        tell(f"the preset {preset} is tuned to the embedded prior; --preset {better} has settings for such a model")


def check_suits(guidance: Guidance, config: Config) -> None:
    """Raise DreamFusionError, before there is a folder, if the prior cannot do what the configuration asks of it."""
    check_latent_phase(config, guidance)
    if config.loss.kind == "vsd":
        check_adaptable(guidance)


def _check_words(guidance: Guidance, config: Config) -> None:
    """Raise DreamFusionError if the prior does not know a word of any prompt."""
    for prompt in [*config.prompts.values(), config.guidance.negative_prompt]:
        guidance.check_vocabulary(prompt)


def _change_prompt(
    config: Config,
    prompt: str,
    step: int,
    guidance_model: Guidance | None,
    requests: Requests,
    device: torch.device,
) -> tuple[Config, Guidance]:
    """Return the configuration with a prompt that holds from ``step`` on, and the prior; as they were if it refuses."""
    try:
        later = config.later_prompts | {step: validate_prompt(prompt)}
        changed = config.model_copy(update={"later_prompts": later})
        guidance = guidance_model or load_guidance(changed, device)
        _check_words(guidance, changed)
    except DreamFusionError as error:
        requests.answer(f"The prompt stays as it was. {error}")
        return config, guidance_model or load_guidance(config, device)
    requests.answer(f"From step {step} on the prompt is: {later[step]}")
    return changed, guidance


def _save_on_the_way(
    config: Config,
    steps: Iterator[Step],
    state: State,
    folder: Path,
    requests: Requests,
    on_step: Callable[[Step], None] | None,
) -> str | None:
    """Optimise to the end, writing metrics, previews and checkpoints; a stop by the user leaves a checkpoint.

    Return a new prompt as soon as one is asked for, after a checkpoint, or None at the end. Raises DreamFusionError if
    the disk or the memory is full.
    """
    saved = state.step

    def save() -> None:
        nonlocal saved
        tensors, values = state.to_checkpoint()
        save_checkpoint(folder / "checkpoints", state.step, tensors, values)
        saved = state.step

    try:
        with (folder / "metrics.jsonl").open("a", encoding="utf-8") as metrics:
            for step in steps:
                metrics.write(json.dumps(step.metrics) + "\n")
                metrics.flush()  # whoever watches reads them, and rows may run ahead of a checkpoint, never lag behind
                if step.number % config.checkpoint_every == 0 or step.number == config.steps:
                    save()
                if step.number % config.preview_every == 0:
                    save_preview(state.scene, step.number, folder)
                every = config.pictures.val_every
                if every is not None and step.number % every == 0:
                    save_validation(state.scene, config.pictures, step.number, folder)
                if on_step is not None:
                    on_step(step)
                asked = requests.take()
                if "stop" in asked:
                    raise KeyboardInterrupt
                if asked and state.step > saved:
                    save()
                if "prompt" in asked and step.number < config.steps:
                    return asked["prompt"]
        return None
    except KeyboardInterrupt:
        if state.step > saved:
            save()
        raise
    except OSError as error:
        raise explain(error, folder) from None
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        # The step may be half done, so nothing is saved of it; the last checkpoint stays what it was.
        raise DreamFusionError(
            f"Not enough memory at step {state.step + 1}: lower views or resolution, or for a prior with a VAE "
            "guidance.image_size, or set guidance.execution.checkpoint_vae, tiny_vae or offload."
        ) from None


def _config_of(folder: Path, prompt: str | None, changes: dict[str, Any]) -> Config:
    """Return the configuration of a run to resume; only what leaves its course alone may be changed."""
    if not (folder / "config.yaml").is_file():
        raise DreamFusionError(f"{folder} holds no run to resume: it has no config.yaml.")
    config = load_config(folder / "config.yaml")
    fixed = sorted(set(changes) - _RESUMABLE_CHANGES) + ["prompt"] * (prompt not in (None, config.prompt))
    if fixed:
        raise DreamFusionError(f"A resumed run keeps its {', '.join(fixed)}: start a new run to change that.")
    return parse_config(merged(config.model_dump(mode="json"), changes))


def _truncate_metrics(path: Path, last_step: int) -> None:
    """Drop the rows that a killed run wrote after its last checkpoint: they are about to be written again."""
    if path.exists():
        rows = path.read_text(encoding="utf-8").splitlines()[:last_step]  # step n is row n
        write_text(path, "".join(row + "\n" for row in rows))


def new_folder(default: Path, output: Path | str | None) -> Path:
    """Return an empty, writable folder: ``output``, or ``default``, or that with -2 behind it if it holds a run."""
    if output is not None:
        folder = prepare_output_dir(output)
        if (folder / "config.yaml").exists():
            raise DreamFusionError(
                f"{folder} already holds a run: continue it with --resume {folder}, or choose another --output."
            )
        return folder
    folder, number = default, 1
    while (folder / "config.yaml").exists():
        number += 1
        folder = default.with_name(f"{default.name}-{number}")
    return prepare_output_dir(folder)
