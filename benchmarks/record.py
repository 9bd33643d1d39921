"""Measurements as a file: rows, machine, version and commit of the package; and what changed between two files."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from benchmarks import Row
from dreamfusion import __version__


def machine() -> dict[str, Any]:
    """Return what speed depends on: processor, cores, threads, vector unit, GPU, versions."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in _lines(info) if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


def _commit() -> str | None:
    """Return the commit that is checked out, with a "+" if files differ from it; None outside a repository."""
    root = Path(__file__).parent

    def ask(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    try:
        return ask("rev-parse", "HEAD") + ("+" if ask("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def save(file: Path, rows: Iterable[Row]) -> None:
    """Write rows with where, and of what, they were measured."""
    about = {"version": __version__, "commit": _commit(), "machine": machine()}
    file.write_text(json.dumps(about | {"rows": [asdict(row) for row in rows]}, indent=1) + "\n", encoding="utf-8")


def compare(before: Path, after: Path) -> Table:
    """Return a table of the rows that two files have in common: both values, and before over after.

    Raises SystemExit if a file is not one of `save`'s. Values of two machines, or of a machine that had other work,
    say little; the ratios of one run do, so a row's own ratio stands there too.
    """
    first, second = (_load(file) for file in (before, after))
    title = f"{_name(first)} → {_name(second)}"
    if first["machine"] != second["machine"]:
        title += "\non two machines: only the ratios within a run can be compared"
    table = Table("name", "unit", "before", "after", "before / after", "own ratio before", "after", title=title)
    new = {row["name"]: row for row in second["rows"]}
    for old in first["rows"]:
        if (row := new.get(old["name"])) is not None:
            values = old["value"], row["value"], old["value"] / row["value"] if row["value"] else None
            table.add_row(row["name"], row["unit"], *map(_number, (*values, old["ratio"], row["ratio"])))
    return table


def _load(file: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        record["rows"], record["machine"]
    except (OSError, ValueError, TypeError, KeyError):
        raise SystemExit(f"error: {file} is not a file that --json writes.") from None
    return record


def _name(record: dict[str, Any]) -> str:
    return f"{record['version']} ({(record['commit'] or '')[:9]})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
