"""``dreamfusion amortize train``."""

from __future__ import annotations

from pathlib import Path

from dreamfusion.app.cli.output import console, given


def amortize_train(
    *,
    output: Path = Path("runs/amortized"),
    steps: int = 20_000,
    kinds: tuple[str, ...] | None = None,
    extra: int = 400,
    basis: int = 32,
    levels: int = 4,
    width: int = 256,
    guidance_scale: float = 3.0,
    seed: int = 0,
    device: str | None = None,
) -> None:
    """Train a network that makes an object at once; run it again to continue exactly.

    For example:
        dreamfusion amortize train --kinds mushroom car --extra 0 --steps 3000

    Args:
        output: folder for checkpoints, log, previews and the finished network
        steps: training steps, each about one prompt
        kinds: kinds of toys to learn, in every colour but the held-out one; all of them if not given
        extra: toys with patterns, sizes and colours of parts that are learned as well, drawn by chance
        basis: tables that the scenes are mixtures of
        levels: levels of the hash grid that these fill, the coarsest first
        width: width of the hidden layers
        guidance_scale: how strongly the words count
        seed: decides weights, prompts and noise
        device: auto, cpu, cuda, cuda:N or mps

    """
    from dreamfusion.amortized.curriculum import Vocabulary
    from dreamfusion.amortized.network import NetworkSize
    from dreamfusion.amortized.training import AmortizeSettings, train_amortized
    from dreamfusion.app.progress import RunProgress

    vocabulary = Vocabulary(extra=extra, seed=seed, **given(kinds=kinds))
    settings = AmortizeSettings(steps, vocabulary, NetworkSize(basis, levels, width), guidance_scale, seed)
    with RunProgress(console) as progress:
        path = train_amortized(
            output, settings, changes=given(device=device), on_start=progress.start, on_step=progress.step
        )
    print(path)
