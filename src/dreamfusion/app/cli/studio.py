"""``dreamfusion studio``."""

from __future__ import annotations

from pathlib import Path


def studio(
    *,
    runs: Path = Path("runs"),
    model: tuple[str, ...] = (),
    port: int = 8090,
    share_on: str | None = None,
    browser: bool = True,
) -> None:
    """Open a page to make objects on: prompts, a queue, live previews, and all runs to turn, refine and download.

    Open the address that it prints: the secret in it lets you in, and nobody else.

    For example:
        dreamfusion studio
        dreamfusion studio --share-on 0.0.0.0 --model stable-diffusion-v1-5/stable-diffusion-v1-5

    Args:
        runs: folder that holds the runs, and gets new ones
        model: models to choose from beside the embedded prior, each as for generate --model, or sd
        port: port to serve on
        share_on: address to serve on for several users, such as 0.0.0.0; the page is for this machine alone otherwise
        browser: open the page in the browser of this machine

    """
    from dreamfusion.studio.serve import serve

    serve(runs, host=share_on or "127.0.0.1", port=port, models=model, browser=browser and share_on is None)
