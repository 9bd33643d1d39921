"""How long a user waits before anything happens: `import dreamfusion` and `dreamfusion --help`, each a new process."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks import Row

_LIMITS = {"import dreamfusion": 0.2, "dreamfusion --help": 0.3}
_COMMANDS = {
    "import dreamfusion": [sys.executable, "-c", "import dreamfusion"],
    "dreamfusion --help": [sys.executable, "-m", "dreamfusion", "--help"],
}


def rows(quick: bool = False) -> Iterator[Row]:
    """Yield the median seconds of each, less what Python itself takes to start; the baseline is the aim."""
    count = 5 if quick else 15
    empty = _median([sys.executable, "-c", "pass"], count)
    for name, command in _COMMANDS.items():
        value = _median(command, count) - empty
        yield Row(name, value, "s", _LIMITS[name], _LIMITS[name] / value)


def _median(command: list[str], count: int) -> float:
    """Return the median seconds of a command; the first call, which may compile and fill caches, does not count."""
    times = []
    for _ in range(count + 1):
        begun = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - begun)
    return statistics.median(times[1:])
