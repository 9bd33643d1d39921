"""Where a run begins from something that its configuration does not tell: a shape to refine, a network's object."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from dreamfusion.config import Config, save_config
from dreamfusion.errors import DreamFusionError
from dreamfusion.io.checkpoints import save_checkpoint
from dreamfusion.io.files import TEMPORARY_PREFIX
from dreamfusion.method.state import State


def save_beginning(config: Config, state: State, folder: Path) -> None:
    """Write the checkpoint of step 0, and then the configuration, into a new folder of a run.

    A folder with a config.yaml can be resumed. Without this checkpoint it would go on from another scene, so the
    checkpoint comes first, under a temporary name until it is whole. Raises DreamFusionError if the disk is full; the
    folder is then as good as empty, and the run can begin there again.
    """
    hidden, checkpoints = folder / f"{TEMPORARY_PREFIX}beginning", folder / "checkpoints"
    save_checkpoint(hidden, state.step, *state.to_checkpoint())
    os.replace(hidden, checkpoints)
    try:
        save_config(config, folder / "config.yaml")
    except DreamFusionError:
        shutil.rmtree(checkpoints)
        raise
