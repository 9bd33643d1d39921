"""The constants that a method of distillation brings along, whatever the preset: `--loss vsd` takes those of VSD.

Each is the authors' own, as shares of their number of steps. What a file or an option says wins over them.
"""

from __future__ import annotations

from typing import Any

METHODS: dict[str, dict[str, Any]] = {
    # ProlificDreamer (arXiv 2305.16213): t_max falls to 0.5 at step 5,000 of 25,000.
    "vsd": {
        "guidance": {
            "guidance_scale": 7.5,
            "t_min": 0.02,
            "t_max": {"start": 0.98, "end": 0.5, "from": 0.2, "until": 0.2, "curve": "step"},
            "weighting": "sds",
        },
        "loss": {"vsd_rank": 4, "vsd_lr": 1e-4},
    },
    # LucidDreamer (arXiv 2311.11284): a warm-up over 1,500 of 5,000 steps, in which the interval shrinks, too.
    "ism": {
        "guidance": {
            "guidance_scale": 7.5,
            "t_min": 0.02,
            "t_max": {"start": 0.98, "end": 0.5, "from": 0.0, "until": 0.3, "curve": "linear"},
            "weighting": "ism",
        },
        "loss": {
            "ism_delta_t": {"start": 0.1, "end": 0.08, "from": 0.0, "until": 0.3, "curve": "linear"},
            "ism_delta_s": 0.2,
        },
    },
}
"""What each loss changes of a preset when it is asked for; the loss sds is what the presets are made for."""
