"""One run from words to files: `generate`. What it leaves is described in `dreamfusion.runs.results`."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import torch

from dreamfusion.config import Config, build_config, load_config, merged, parse_config, save_config
from dreamfusion.config.presets import TUNED, Preset
from dreamfusion.device import pick_device
from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.additions import lora_and_weight
from dreamfusion.guidance.base import Guidance
from dreamfusion.guidance.control import Control
from dreamfusion.guidance.families import open_prior
from dreamfusion.guidance.ip_adapter import Adapter
from dreamfusion.guidance.names import model_named
from dreamfusion.guidance.picture import Picture
from dreamfusion.guidance.reading.prepare import set_precision
from dreamfusion.guidance.reading.problems import is_out_of_memory
from dreamfusion.guidance.word_weights import check_marks
from dreamfusion.io.checkpoints import (
    Checkpoint,
    NotFiniteError,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    same_threads,
    save_checkpoint,
)
from dreamfusion.io.claims import InUseError, NotEmptyError, claim
from dreamfusion.io.files import explain, read_rows, refuse_foreign_files, slugify, write_text
from dreamfusion.method.critic import check_adaptable
from dreamfusion.method.distillation import Loss, check_decodes
from dreamfusion.method.normals import check_latent_phase
from dreamfusion.method.optimize import Step, optimize
from dreamfusion.method.prompts import validate_prompt
from dreamfusion.method.ranks import ALONE, LostError, Ranks, check_shared
from dreamfusion.method.state import State
from dreamfusion.nemo import read_stage
from dreamfusion.runs.control import Requests
from dreamfusion.runs.fitting import fit_device, fit_memory, fit_prior, fit_views
from dreamfusion.runs.missing import tell_missing
from dreamfusion.runs.results import Result, at_true_size, open_state, save_preview, save_validation, write_assets
from dreamfusion.runs.sharing import send_state
from dreamfusion.runs.watching import Watch, require_log, watching
from dreamfusion.stopping import Stop, stop_at_once, stop_between_steps, stopped

RUNS = Path("runs")
LEAST_RATE = 1 / 16
"""The smallest factor on the learning rates with which a run whose scene was not finite is tried again."""

_logger = logging.getLogger(__name__)
_RESUMABLE_CHANGES = {"steps", "device"}


@stop_at_once()
def generate(
    prompt: str | None = None,
    *,
    preset: Preset = "default",
    nemo_config: Path | str | None = None,
    nemo_overrides: Sequence[str] = (),
    config_file: Path | str | None = None,
    output: Path | str | None = None,
    resume: Path | str | None = None,
    guidance_model: Guidance | None = None,
    loss_function: Loss | None = None,
    assets: bool = True,
    on_start: Callable[[Path, Config, int], None] | None = None,
    on_step: Callable[[Step], None] | None = None,
    on_note: Callable[[str], None] | None = None,
    ranks: Ranks = ALONE,
    **changes: Any,
) -> Result:
    """Make a 3D object from words and return where its files are.

    ``preset`` or ``nemo_config`` (an experiment or model of NVIDIA's NeMo, see `dreamfusion.nemo`; ``nemo_overrides``
    are KEY=VALUE as behind its command), then the YAML of ``config_file``, then ``changes`` (keys of
    `dreamfusion.config.Config`, such as ``steps=300`` or ``guidance={"guidance_scale": 10}``) decide the configuration.
    ``resume`` continues a stopped run in its folder, bit-equal on the same machine. ``guidance_model`` is a prior that
    is already loaded; otherwise the configured one is. ``loss_function`` takes the place of the configured loss.
    Without ``assets``, contact sheet, turntable and mesh are left out. ``on_start(folder, config, first_step)`` and
    ``on_step(step)`` are called to show progress, ``on_note(line)`` with what is done differently from NeMo's
    configuration, and with advice on presets. ``ranks`` are the processes that share the views; this is the first of
    them, and the others `dreamfusion.runs.ranks.follow`.
    Raises DreamFusionError, with one line that says what to do, for anything the user can put right, and `Stopped` if a
    signal ends the run.
    """
    if resume is not None:
        asked = {"--nemo-config": nemo_config, "--config": config_file, "--output": output}
        asked["--preset"] = None if preset == "default" else preset
        left_out = [option for option, value in asked.items() if value is not None]
        if left_out:
            raise DreamFusionError(f"A resumed run keeps its configuration and its folder: leave out {left_out[0]}.")
        with earlier_folder(Path(resume)) as folder:
            config = _config_of(folder, prompt, changes)
            device = pick_device(config.device)
            state = open_state(folder, config, device)
            if config.steps < state.step:
                raise DreamFusionError(f"{folder} is {state.step} steps old already: --steps must be at least that.")
            tell_missing(folder, config, state.step, on_note or _logger.warning)
            guidance = guidance_model or load_guidance(config, device)
            _truncate_metrics(folder / "metrics.jsonl", state.step)
            with same_threads(latest_checkpoint(folder / "checkpoints")):
                return carry_out(
                    config,
                    guidance,
                    state,
                    folder,
                    own_prior=guidance_model is None,
                    loss_function=loss_function,
                    assets=assets,
                    on_start=on_start,
                    on_step=on_step,
                    ranks=ranks,
                )
    given = _given_words(prompt, changes, named=config_file is None and nemo_config is None)
    tell = on_note or (lambda line: None)
    nemo = None if nemo_config is None else read_stage(Path(nemo_config), nemo_overrides, preset, tell, mesh=False)
    config = build_config(preset, given | changes, config_file, base=nemo)
    device = pick_device(config.device)
    of_nemo = nemo is not None or preset == "nemo"
    if of_nemo or preset not in TUNED:
        config = fit_device(config, device, tell)
    if guidance_model is None:
        config = fit_memory(config, device, tell)
    guidance = guidance_model or load_guidance(config, device)
    if of_nemo:
        config = fit_prior(config, guidance, tell)
    elif config.guidance.kind != "toybox" and preset in TUNED:
        _advise(config, guidance, preset, tell)
    config = rooted(fit_views(config, guidance, tell))
    check_suits(guidance, config)
    config = as_read(config, guidance, tell)
    state = State.fresh(config, device)
    with new_folder(RUNS / slugify(config.prompt), output) as folder:
        return carry_out(
            config,
            guidance,
            state,
            folder,
            own_prior=guidance_model is None,
            loss_function=loss_function,
            assets=assets,
            on_start=on_start,
            on_step=on_step,
            ranks=ranks,
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
    ranks: Ranks = ALONE,
) -> Result:
    """Optimise ``state`` to the end in a folder of its own, and write what a run leaves; see `generate`.

    With ``own_prior`` nobody else uses ``guidance``, and its text encoders leave memory when the prompt is read. A
    prior that the caller brought along may be asked about other prompts later, so it stays whole.
    Raises `Stopped` if a signal or a request ends it, after a checkpoint.
    """
    check_shared(ranks, config.sets, config.loss.kind)
    result = Result(folder, config, state.scene)
    refuse_foreign_files(folder / "preview.png", *result.files)
    save_config(config, folder / "config.yaml")
    beginning = None if list_checkpoints(folder / "checkpoints") else _snapshot(state)
    if on_start is not None:
        on_start(folder, config, state.step)

    def go_back() -> None:
        _go_back(state, folder, beginning)
        send_state(ranks, state)

    ranks.from_first(config.model_dump(mode="json"))
    send_state(ranks, state)
    with Requests(folder) as requests, stop_between_steps() as stop, watching(config, folder, state.step) as watch:
        while True:
            steps = optimize(
                config,
                guidance,
                state,
                loss_function=loss_function,
                release_text_encoders=own_prior,
                go_back=go_back,
                ranks=ranks,
            )
            prompt = _save_on_the_way(config, steps, state, folder, beginning, requests, stop, on_step, ranks, watch)
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
        with stop_at_once(f"all steps are done; write the results with --resume {folder}"):
            write_assets(result)
    return result


def load_guidance(config: Config, device: torch.device) -> Guidance:
    """Load the configured prior; DreamFusionError if it cannot be loaded or does not know the prompt's words."""
    g = config.guidance
    guidance = open_prior(
        model_named(g.kind, g.model),
        device=device,
        dtype=set_precision(g.precision, device),
        image_size=g.image_size,
        execution=g.execution,
        prompt_weighting=g.prompt_weighting,
        loras=g.loras,
        embeddings=g.embeddings,
        picture=_picture_of(config),
        adapter=Adapter(Path(g.ip_adapter), g.ip_adapter_scale) if g.ip_adapter else None,
        control=Control(g.controlnet, g.controlnet_shows, g.controlnet_scale) if g.controlnet else None,
    )
    if guidance.takes_picture and config.guidance.image is None:
        raise DreamFusionError("This prior is shown a picture of the object: give --image FILE.")
    _check_words(guidance, config)
    return guidance


def _given_words(prompt: str | None, changes: dict[str, Any], *, named: bool) -> dict[str, str]:
    """Return the prompt to change, or if it is to be ``named``, the words of the file's name for a picture alone."""
    image = (changes.get("guidance") or {}).get("image")
    if prompt is None and named and image is not None and "prompt" not in changes:
        prompt = re.sub(r"[\W_]+", " ", Path(image).stem)
    return {} if prompt is None else {"prompt": validate_prompt(prompt)}


def _picture_of(config: Config) -> Picture | None:
    g = config.guidance
    if g.image is None:
        return None
    return Picture(Path(g.image), g.image_elevation_deg, g.image_distance, g.image_fourth)


def _advise(config: Config, guidance: Guidance, preset: Preset, tell: Callable[[str], None]) -> None:
    """Tell of the presets for large models where one that was tuned to the embedded prior is left as it is."""
    tuned = build_config(preset, {"prompt": config.prompt}).guidance.guidance_scale
    if guidance.needs_cameras and guidance.together == 1:  # the picture's, whose usual scale is that of these presets
        return
    # A prior on pixels that knows cameras was trained as the embedded one is.
    if config.guidance.guidance_scale == tuned and not (guidance.knows_cameras and guidance.latent_shape is None):
        better = "threestudio-if" if guidance.latent_shape is None else "threestudio-sd"
        if guidance.together > 1:
            better = "mvdream"
        tell(f"the preset {preset} is tuned to the embedded prior; --preset {better} has settings for such a model")


def rooted(config: Config) -> Config:
    """Return the configuration with all files of the prior by their whole paths: it may be resumed from elsewhere."""

    def whole(file: str) -> str:
        return str(Path(file).absolute()) if Path(file).exists() else file

    guidance = config.guidance
    changes: dict[str, Any] = {}
    for name in ("model", "image", "ip_adapter", "controlnet"):
        if (file := getattr(guidance, name)) is not None:
            changes[name] = whole(file)
    loras = [lora_and_weight(text) for text in guidance.loras]
    files = {
        "loras": tuple(f"{whole(str(file))}:{weight:g}" for file, weight in loras),
        "embeddings": tuple(map(whole, guidance.embeddings)),
    }
    return config.model_copy(update={"guidance": guidance.model_copy(update={**changes, **files})})


def check_suits(guidance: Guidance, config: Config) -> None:
    """Raise DreamFusionError, before there is a folder, if the prior cannot do what the configuration asks of it."""
    check_latent_phase(config, guidance)
    require_log(config.log)
    if config.loss.kind == "vsd":
        check_adaptable(guidance)
    if config.loss.image > 0:
        check_decodes(config, guidance)


def as_read(config: Config, guidance: Guidance, tell: Callable[[str], None]) -> Config:
    """Return the configuration with the size that the prior reads in the prompt, unless one is set.

    ``tell(line)`` is told of every word that the prior reads as another.
    """
    for prompt in [*config.prompts.values(), config.guidance.negative_prompt]:
        reading = guidance.understood(prompt)
        if reading.notes:
            tell(f'"{prompt}" is read as "{reading.prompt}" ({", ".join(reading.notes)})')
    if config.scene.scale is not None:
        return config
    return with_scale(config, guidance.true_scale(config.prompt_at(config.steps)))


def with_scale(config: Config, scale: float | None) -> Config:
    """Return the configuration with the size of the finished object; None leaves it to the prior."""
    return config.model_copy(update={"scene": config.scene.model_copy(update={"scale": scale})})


def _check_words(guidance: Guidance, config: Config) -> None:
    """Raise DreamFusionError if the prior does not know a word of any prompt, or would read other marks as words."""
    for prompt in [*config.prompts.values(), config.guidance.negative_prompt]:
        check_marks(prompt, weighed=config.guidance.prompt_weighting)
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
        last, now = (guidance.true_scale(one.prompt_at(config.steps)) for one in (config, changed))
        if config.scene.scale == last:  # and nobody has set another
            changed = with_scale(changed, now)
    except DreamFusionError as error:
        requests.answer(f"The prompt stays as it was. {error}")
        return config, guidance_model or load_guidance(config, device)
    requests.answer(f"From step {step} on the prompt is: {guidance.understood(later[step]).prompt}")
    return changed, guidance


def _save_on_the_way(
    config: Config,
    steps: Iterator[Step],
    state: State,
    folder: Path,
    beginning: Checkpoint | None,
    requests: Requests,
    stop: Stop,
    on_step: Callable[[Step], None] | None,
    ranks: Ranks,
    watch: Watch,
) -> str | None:
    """Optimise to the end, writing metrics, previews and checkpoints; a stop leaves a checkpoint, of a whole step.

    Return a new prompt as soon as one is asked for, after a checkpoint, or None at the end. Raises `Stopped`, and
    DreamFusionError if the disk or the memory is full.
    """
    saved, went_back = state.step, False

    def save() -> None:
        nonlocal saved, went_back
        tensors, values = state.to_checkpoint()
        try:
            save_checkpoint(folder / "checkpoints", state.step, tensors, values)
        except NotFiniteError:
            _go_back(state, folder, beginning)
            went_back = True
        saved = state.step

    try:
        for step in steps:
            _append(folder / "metrics.jsonl", step.metrics)
            watch(step, state)
            if step.number % config.checkpoint_every == 0 or step.number == config.steps:
                save()
            if step.number % config.preview_every == 0:
                save_preview(at_true_size(state.scene, config), step.number, folder)
            every = config.pictures.val_every
            if every is not None and step.number % every == 0:
                save_validation(at_true_size(state.scene, config), config.pictures, step.number, folder)
            _show(step, on_step, stop)
            asked = requests.take()
            if "stop" in asked:
                stop.ask()
            if (asked or stop.number) and state.step > saved:
                save()
            number, _ = ranks.largest(stop.number or 0, int(went_back))
            if number:
                if state.step > saved:  # another process was told to end
                    save()
                raise stopped(number, f"continue with --resume {folder}")
            if went_back:
                send_state(ranks, state)
                went_back = False
            if "prompt" in asked and step.number < config.steps:
                if ranks.count == 1:
                    return asked["prompt"]
                requests.answer("The prompt stays as it was: a run of several processes keeps it.")
        return None
    except LostError as error:
        newest = max(list_checkpoints(folder / "checkpoints"), default=0)
        raise LostError(f"{error}: start again with --resume {folder}, which goes on from step {newest}.") from None
    except OSError as error:
        raise explain(error, folder) from None
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        # The step may be half done, so nothing is saved of it; the last checkpoint stays what it was.
        raise DreamFusionError(
            f"Not enough memory at step {state.step + 1}, even for one view at a time: lower resolution, or for a "
            "prior with a VAE guidance.image_size, or set guidance.execution.checkpoint_vae, tiny_vae or offload."
        ) from None


def _snapshot(state: State) -> Checkpoint:
    """Return a copy of the state, to which a run may go back until it has a checkpoint."""
    tensors, values = state.to_checkpoint()
    return Checkpoint(state.step, {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}, values)


def _go_back(state: State, folder: Path, beginning: Checkpoint | None) -> None:
    """Bring the last checkpoint back, or without one the beginning, and go on from there with half the learning rates.

    Raises DreamFusionError when that has been done often enough.
    """
    failed, rate = state.step + 1, state.rate / 2
    if rate < LEAST_RATE:
        raise DreamFusionError(
            f"The scene is not finite at step {failed}, even with {2 * rate:g} of the learning rates: start again with "
            "lower optim.grid_lr and optim.network_lr in a --config file."
        )
    newest = latest_checkpoint(folder / "checkpoints")
    earlier = beginning if newest is None else load_checkpoint(newest, state.scene.device)
    assert earlier is not None, "kept for as long as there is no checkpoint"
    state.restore(earlier)
    state.rate = rate
    _truncate_metrics(folder / "metrics.jsonl", state.step)
    _logger.warning(
        "The scene is not finite at step %d: goes on from step %d with %g of the learning rates.",
        failed,
        state.step,
        rate,
    )


def _append(metrics: Path, row: dict[str, float]) -> None:
    """Write a row for whoever watches; rows may run ahead of a checkpoint, never lag behind."""
    with metrics.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _show(step: Step, on_step: Callable[[Step], None] | None, stop: Stop) -> None:
    """Tell the caller of a step; its KeyboardInterrupt is a stop like any other."""
    if on_step is None:
        return
    try:
        on_step(step)
    except KeyboardInterrupt:
        stop.ask()


def _config_of(folder: Path, prompt: str | None, changes: dict[str, Any]) -> Config:
    """Return the configuration of a run to resume; only what leaves its course alone may be changed."""
    config = load_config(folder / "config.yaml")
    fixed = sorted(set(changes) - _RESUMABLE_CHANGES) + ["prompt"] * (prompt not in (None, config.prompt))
    if fixed:
        raise DreamFusionError(f"A resumed run keeps its {', '.join(fixed)}: start a new run to change that.")
    return parse_config(merged(config.model_dump(mode="json"), changes))


def _truncate_metrics(path: Path, last_step: int) -> None:
    """Drop what a killed run wrote after its last checkpoint, which is about to be written again, and half rows."""
    if path.exists():
        rows = [row for row in read_rows(path) if row["step"] <= last_step]
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


@contextmanager
def new_folder(default: Path, output: Path | str | None) -> Iterator[Path]:
    """Claim an empty folder: ``output``, or ``default``, or that with -2 behind it if it holds anything or is in use.

    No other process can have it while the block lasts.
    """
    with ExitStack() as stack:
        if output is not None:
            stack.enter_context(claim(output, new=True))
            yield Path(output)
            return
        for number in count(1):
            folder = default if number == 1 else default.with_name(f"{default.name}-{number}")
            try:
                stack.enter_context(claim(folder, new=True))
            except (NotEmptyError, InUseError):
                continue
            break
        yield folder


@contextmanager
def earlier_folder(folder: Path) -> Iterator[Path]:
    """Claim the folder of an earlier run while the block lasts; DreamFusionError if it holds none or it is going on."""
    if not (folder / "config.yaml").is_file():
        lost = bool(list_checkpoints(folder / "checkpoints"))
        advice = "it has checkpoints, but lost the config.yaml that goes with them: put that back" if lost else ""
        raise DreamFusionError(f"{folder} holds no run to resume: {advice or 'it has no config.yaml'}.")
    with claim(folder, evidence=("config.yaml",)):
        yield folder
