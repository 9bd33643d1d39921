"""A loss of your own: classifier score distillation (arXiv 2310.19415), in two lines. python examples/own_loss.py

A loss is a function of the asked prior, of renderings z [B, ...], timesteps t [B] and noise of z's shape. It returns
the difference of two predictions of the noise in z_t, of z's shape; the loop weighs it by w(t), clips it and carries it
through the renderer (paper equation 3). Score distillation compares with the true noise, `dreamfusion.sds`; this one
asks only which way the prompt pulls.
"""

from typing import Any

from torch import Tensor

import dreamfusion


def classifier_score(asked: dreamfusion.Asked, z: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Return the guided prediction less the one without the prompt."""
    z_t = asked.add_noise(z, noise, t)
    return asked.guided(z_t, t) - asked.plain(z_t, t)


def main(output: str = "runs/own-loss", **options: Any) -> dreamfusion.Result:
    """Make an object with it, and say where its pictures are."""
    result = dreamfusion.generate(
        "a red mushroom", loss=classifier_score, output=output, preset="quick", progress=True, **options
    )
    print(result.contact_sheet)
    return result


if __name__ == "__main__":
    main()
