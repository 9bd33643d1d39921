"""Configurations of NVIDIA's NeMo DreamFusion, run as they are: `keys` has every key's meaning here, `reader` the rest.

docs/nemo.md is the table for people.
"""

from dreamfusion.nemo.reader import NemoConfig, read_nemo, read_stage, stock_values

__all__ = ["NemoConfig", "read_nemo", "read_stage", "stock_values"]
