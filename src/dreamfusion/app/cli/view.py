"""``dreamfusion view``."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional


def view(run: Positional[Path], *, host: str = "127.0.0.1", port: int = 8080) -> None:
    """Look at a run in the browser while it goes on: newest mesh, light, new prompt, stop.

    Open the address that it prints: the secret in it lets you in, and nobody else.

    For example:
        dreamfusion view runs/a-red-mushroom

    Args:
        run: folder of the run, finished or not
        host: address to serve on; with 0.0.0.0 other machines reach it, and whoever has the address can stop the run
        port: port to serve on

    """
    from dreamfusion.app.view import view as run_view

    run_view(run, host=host, port=port)
