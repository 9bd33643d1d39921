"""What stands around the model in NeMo's experiment file, key by key: trainer, experiment manager, seed and mode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dreamfusion.errors import DreamFusionError
from dreamfusion.nemo.key import Key, to, unused

MODES = {
    "validate": "dreamfusion render RUN --azimuth 0 72 144 216 288 draws its pictures (generate draws them on the way)",
    "test": "dreamfusion render RUN --turntable 100 draws its film (generate ends with one if export_video is true)",
    "export-mesh": "dreamfusion export RUN writes its mesh (generate ends with one)",
}
"""What does here what NeMo's modes other than fit do, with a finished run in place of a checkpoint."""


def _mode(value: Any) -> Any:
    if value in MODES:
        raise DreamFusionError(f"mode = {value} is a command of its own here: {MODES[value]}.")
    if value != "fit":
        raise DreamFusionError(f"mode cannot be {value}: NeMo has fit, {', '.join(MODES)}.")
    return ()


def device_count(devices: Any) -> int:
    """Return how many devices Lightning's ``devices`` asks for; "auto" and -1, all that there are, count as one."""
    match devices:
        case list():
            return max(1, len(devices))
        case int() | str():
            text = str(devices)
            return len(text.strip(",").split(",")) if "," in text else max(1, int(text) if text.isdigit() else 1)
        case _:
            return 1


def views_of(batch: int, part: Mapping[str, Any]) -> int:
    """Return the views of a step: those of one batch on each device, times the batches that are gathered for a step."""
    count = batch * device_count(part["trainer.devices"]) * int(part["trainer.num_nodes"])
    return count * int(part["trainer.accumulate_grad_batches"])


_LIGHTNING = unused("how Lightning goes about it changes nothing in the result")
_LOGS = unused("every run has metrics.jsonl", told=True)
_NAMES = unused("--output names the folder")

EXPERIMENT: dict[str, Key] = {
    "name": _NAMES,
    "seed": to("seed"),
    "mode": Key((), lambda value, part: _mode(value), remark="fit; the others are commands, see above"),
    "mesh_resolution": to("pictures.mesh_resolution"),
    "mesh_fname": unused("mesh.glb in the run's folder; `dreamfusion export RUN` writes other formats"),
    "resume_from_checkpoint": unused("the model's key of this name is the one that is read"),
    "enable_benchmark": unused("`python -m benchmarks` measures"),
    "loop_over_dataset": unused("cameras are drawn as they are needed"),
    "trainer.devices": unused("one device: views are multiplied by the number instead, which is the same step"),
    "trainer.num_nodes": unused("as trainer.devices"),
    "trainer.accumulate_grad_batches": unused("views are multiplied by it"),
    "trainer.precision": unused("what refers to it counts: guidance.precision"),
    "trainer.max_steps": unused("what refers to it counts: iters"),
    "trainer.val_check_interval": to(
        "pictures.val_every",
        by=lambda v: v if isinstance(v, int) and v > 0 else None,
        remark="in steps; a share of an epoch has no meaning here: no pictures",
    ),
    "trainer.gradient_clip_val": unused("optim.max_grad_norm clips", told=True),
    "exp_manager.checkpoint_callback_params.every_n_train_steps": to(
        "checkpoint_every", by=lambda v: v or 1000, remark="0 is 1000"
    ),
    "exp_manager.create_tensorboard_logger": _LOGS,
    "exp_manager.create_wandb_logger": _LOGS,
    "exp_manager.name": _NAMES,
    "exp_manager.exp_dir": _NAMES,
    "exp_manager.explicit_log_dir": _NAMES,
    "exp_manager.create_checkpoint_callback": unused("every run has checkpoints"),
    "exp_manager.resume_if_exists": unused("`dreamfusion generate --resume RUN` continues one", told=True),
    **{
        f"trainer.{name}": _LIGHTNING
        for name in (
            "accelerator",
            "benchmark",
            "deterministic",
            "enable_checkpointing",
            "enable_model_summary",
            "enable_progress_bar",
            "log_every_n_steps",
            "logger",
            "max_epochs",
            "limit_val_batches",
            "limit_test_batches",
            "num_sanity_val_steps",
            "strategy",
            "use_distributed_sampler",
        )
    },
}
"""The keys around the model. Those left out are as in the stock config.yaml."""

LOOSE = ("exp_manager.", "benchmark_callback.", "hydra.")
"""Tables whose other keys say how runs are logged and started, which is the same here whatever they say."""
