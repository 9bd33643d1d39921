"""``python -m benchmarks [PART ...] [--quick] [--json FILE]``: speed and memory; each ratio is taken within one run.

``python -m benchmarks compare BEFORE.json AFTER.json`` shows what changed.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import Row, record
from dreamfusion.errors import DreamFusionError

PARTS = {
    "imports": "imports.rows",
    "hashgrid": "hashgrid.rows",
    "iteration": "iteration.rows",
    "architectures": "iteration.architectures",
    "assets": "assets.rows",
    "mesh": "mesh.rows",
    "runs": "iteration.whole_runs",
    "guidance": "guidance.rows",
    "scale": "scale.rows",
}


def measured(part: str, quick: bool) -> Iterator[Row]:
    """Yield the rows of a part; one that cannot run here, for want of a library, ends with a note."""
    module, _, function = PARTS[part].partition(".")
    try:
        yield from getattr(importlib.import_module(f"benchmarks.{module}"), function)(quick)
    except (ImportError, DreamFusionError) as error:
        print(f"{part}: left out from here on. {error}", file=sys.stderr)


def main() -> None:
    if sys.argv[1:2] == ["compare"] and len(sys.argv) == 4:
        Console().print(record.compare(Path(sys.argv[2]), Path(sys.argv[3])))
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all if none is given")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions and no whole default run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to this file")
    options = parser.parse_args()
    unknown = sorted(set(options.parts) - set(PARTS))
    if unknown:
        parser.error(f"there is no part {', '.join(unknown)}: choose from {', '.join(PARTS)}")
    table = Table("name", "value", "unit", "baseline", "ratio", title=f"{torch.get_num_threads()} CPU threads")
    rows = []
    for part in options.parts or PARTS:
        for row in measured(part, options.quick):
            rows.append(row)
            numbers = ["" if value is None else f"{value:.3g}" for value in (row.value, row.baseline, row.ratio)]
            table.add_row(row.name, numbers[0], row.unit, numbers[1], numbers[2])
    Console().print(table)
    if options.json:
        record.save(options.json, rows)


if __name__ == "__main__":
    main()
