"""Keys of earlier versions, read as today's: what changes over a run was said in many ways before schedules.

A group of keys is read in the old way if one of those is in it that only earlier versions had.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from dreamfusion.errors import DreamFusionError

Values = dict[str, Any]


def translated(values: Values, steps: int | None = None) -> Values:
    """Return nested values with today's keys in place of those of earlier versions.

    ``steps`` is the length of the run if the values do not say it: an earlier warm-up counted steps.
    """
    result = _copied(values)
    length = result.get("steps", steps)
    for section, only_old, names, convert in _GROUPS:
        table: Any = result
        for name in filter(None, section.split(".")):
            table = table.get(name) if isinstance(table, dict) else None
        if not isinstance(table, dict) or not only_old & table.keys():
            continue
        old = {name: table.pop(name) for name in only_old | names if name in table}
        try:
            table.update(convert(old, table, length))
        except TypeError:
            wrong = ", ".join(f"{section}.{name}".lstrip(".") for name in old)
            raise DreamFusionError(
                f"Keys of an earlier version must be numbers as they were then: {wrong}; docs/configuration.md has "
                "today's."
            ) from None
    return result


def _copied(values: Values) -> Values:
    return {key: _copied(value) if isinstance(value, dict) else value for key, value in values.items()}


def _given(**parts: Any) -> Values:
    """Return the parts of a schedule that are not None; ``from_`` is its from."""
    return {name.rstrip("_"): value for name, value in parts.items() if value is not None}


def _step(before: Any, after: Any, share: Any) -> Values:
    """Return the parts of a schedule that jumps at a share of the run."""
    return _given(start=before, end=after, from_=share, curve="step")


def _times(old: Values, _: Values, __: int | None) -> Values:
    anneal, share = old.get("anneal"), old.get("anneal_from")
    t_min, t_max = old.get("t_min"), old.get("t_max")
    begin = old["t_min_start"] if old.get("t_min_start") is not None else t_min if "t_min_start" in old else None
    if anneal == "none":
        if t_min is None or t_max is None:
            raise DreamFusionError("guidance.anneal is of an earlier version: give t_min and t_max beside it.")
        return {"t_min": t_min if begin is None else begin, "t_max": t_max}
    curve = "sqrt" if anneal == "hifa" else anneal
    low = _given(start=begin, end=t_min, from_=share, curve=curve)
    high = _given(start=t_max, end=old.get("t_max_end"), from_=share, curve=curve)
    return {"t_min": high if anneal == "hifa" else low, "t_max": high}


def _resolution(old: Values, _: Values, __: int | None) -> Values:
    return {"resolution": _step(old.get("resolution"), old.get("resolution_end"), old.get("resolution_from", 0.6))}


def _collapse(old: Values, _: Values, __: int | None) -> Values:
    share = old["collapse_from"]
    return {"collapse_check": _step(0, 1, share) if share > 0 else 1}


def _latent(old: Values, _: Values, __: int | None) -> Values:
    share = old["latent_until"]
    return {"latent": _step(1, 0, share) if share > 0 else 0}


def _albedo(old: Values, _: Values, __: int | None) -> Values:
    share, probability = old["albedo_until"], old.get("albedo_probability")
    if share == 0 and probability is not None:
        return {"albedo_probability": probability}
    return {"albedo_probability": _step(1, probability, share)}


def _entropy(old: Values, _: Values, __: int | None) -> Values:
    share, weight = old["entropy_ramp"], old.get("entropy")
    if share == 0:
        return {} if weight is None else {"entropy": weight}
    return {"entropy": _given(start=0, end=weight, from_=0, until=share, curve="linear")}


def _orientation(old: Values, _: Values, __: int | None) -> Values:
    share, weight = old.get("orientation_ramp", 0.5), old.get("orientation", 1e-2)
    if share == 0:
        return {"orientation": weight}
    start = weight * old.get("orientation_start", 0.01)
    return {"orientation": _given(start=start, end=weight, from_=0, until=share, curve="ramp")}


def _clip(old: Values, _: Values, __: int | None) -> Values:
    clip, end = old.get("clip"), old["clip_end"]
    if clip is None and end is not None:
        raise DreamFusionError("loss.clip_end is of an earlier version: give loss.clip beside it.")
    return {"clip": clip if end is None else _given(start=clip, end=end, from_=0, until=1, curve="linear")}


def _rates(old: Values, _: Values, steps: int | None) -> Values:
    result: Values = {}
    if "warmup_steps" in old or "warmup_start" in old:
        if "warmup_steps" not in old or steps is None:
            raise DreamFusionError(
                "optim.warmup_steps is of an earlier version: give steps beside it, or today's optim.warmup."
            )
        share = min(1.0, old["warmup_steps"] / steps)
        result["warmup"] = _given(start=old.get("warmup_start") or 0, end=1, from_=0, until=share) if share else 1
        result["decay"] = {"from": share}
    if "final_lr" in old:
        result["decay"] = _given(start=1, end=old["final_lr"], curve="cosine") | result.get("decay", {})
    return result


def _variance(old: Values, _: Values, __: int | None) -> Values:
    start, end, share = old.get("variance"), old.get("variance_end"), old.get("variance_until")
    return {"variance": _given(start=start, end=end, until=share)}


def _levels(old: Values, grid: Values, _: int | None) -> Values:
    levels, share = grid.get("levels", 6), old.get("max_level", 1.0)
    used, first = math.ceil(share * levels), old.get("start_level")
    if first is None or first >= used:
        return {"levels_used": None if used == levels else used}
    begin, interval = old.get("progressive_from", 0.2), old.get("progressive_interval", 0.05)
    return {
        "levels_used": {"start": first, "end": used}
        | _given(from_=begin, until=begin + interval * (used - first - 1), curve="stairs")
    }


Convert = Callable[[Values, Values, int | None], Values]
_GROUPS: list[tuple[str, set[str], set[str], Convert]] = [
    ("", {"resolution_end", "resolution_from"}, {"resolution"}, _resolution),
    ("", {"collapse_from"}, set(), _collapse),
    ("guidance", {"t_min_start", "t_max_end", "anneal", "anneal_from"}, {"t_min", "t_max"}, _times),
    ("shading", {"latent_until"}, set(), _latent),
    ("shading", {"albedo_until"}, {"albedo_probability"}, _albedo),
    ("loss", {"entropy_ramp"}, {"entropy"}, _entropy),
    ("loss", {"orientation_ramp", "orientation_start"}, {"orientation"}, _orientation),
    ("loss", {"clip_end"}, {"clip"}, _clip),
    ("optim", {"warmup_steps", "warmup_start", "final_lr"}, set(), _rates),
    ("scene.mip", {"variance_end", "variance_until"}, {"variance"}, _variance),
    ("scene.nerf.grid", {"max_level", "start_level", "progressive_from", "progressive_interval"}, set(), _levels),
]
"""For each group: its section, the keys that only earlier versions had, those that still are, and what it says today.

``convert`` is given the old values of the group, the other values of the section, and the number of steps.
"""
