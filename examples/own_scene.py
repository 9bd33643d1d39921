"""A scene kind of your own: soft coloured points that a run moves, prunes and doubles. python examples/own_scene.py

It answers what the loop asks of a `dreamfusion.scenes.scene.Scene`; finished pictures and meshes ask for `layers`,
`field` and `mesh` besides. The prior is an exact one that knows a single picture: a red disc, from all sides.
"""

import torch
from torch import nn

from dreamfusion.config import parse_config
from dreamfusion.guidance.analytic import AnalyticGuidance
from dreamfusion.method.optimize import optimize
from dreamfusion.method.state import State
from dreamfusion.renderers.output import RenderOutput
from dreamfusion.scenes.regularizers import picture_terms
from dreamfusion.scenes.resized import Resized


class PointScene(nn.Module):
    def __init__(self, config, count=60, width=0.12):
        super().__init__()
        self.config, self.width = config, width
        start = torch.randn(count, 7, generator=torch.Generator().manual_seed(0))  # place, colour, strength
        self.points = nn.Parameter(start * torch.tensor([0.3] * 3 + [0.1] * 4))
        self.register_buffer("pull", torch.zeros(count))  # gathered for `adapt`, so a checkpoint holds it

    device = property(lambda self: self.points.device)
    prepare = refresh = lambda self, *_: None

    def parameter_groups(self, optim):
        return [{"params": [self.points], "lr": optim.grid_lr}]

    def render(self, views, generator):
        x, y, _, depth = views.cameras.clip(self.points[:, :3]).unbind(-1)  # [B, N]
        pixels = (torch.arange(views.size) + 0.5) / views.size * 2 - 1
        u, v = (pixels - (place / depth)[..., None] for place in (x, y))
        away = u.square()[:, :, None] + v.square()[..., None]  # [B, N, H, W]
        spread = (2 * self.width * views.cameras.focal[:, None] / depth).square()[..., None, None]
        alpha = torch.sigmoid(self.points[:, 6, None, None]) * torch.exp(-away / (2 * spread))
        total = alpha.sum(1, keepdim=True)
        color = torch.einsum("bnhw,nc->bchw", alpha / (total + 1e-6), torch.sigmoid(self.points[:, 3:6]))
        opacity = 1 - torch.exp(-2 * total)
        behind = torch.tensor(self.config.background_color).view(3, 1, 1)
        rgb = opacity * color + (1 - opacity) * behind
        return RenderOutput(rgb, opacity, torch.zeros_like(opacity), None, len(self.points))

    def regularize(self, out, views, loss, progress, generator):
        return picture_terms(out, loss, progress)

    def adapt(self, step, progress, generator):
        self.pull += self.points.grad[:, :3].norm(dim=1)
        if step % 4:
            return []
        kept, doubled = (self.points[:, 6] > -0.1).nonzero()[:, 0], self.pull.topk(5).indices
        added = self.points[doubled] + 0.05 * torch.randn(5, 7, generator=generator)
        return self.replace(torch.cat([self.points[kept], added]).detach(), torch.cat([kept, torch.full((5,), -1)]))

    def shape_like(self, saved):
        return self.replace(torch.zeros_like(saved["points"]), torch.full((len(saved["points"]),), -1))

    def replace(self, points, rows):
        before, self.points, self.pull = self.points, nn.Parameter(points), points.new_zeros(len(points))
        return [Resized(before, self.points, rows)]


def main(steps=60):
    grey = {"background": "static", "background_color": (0.8, 0.8, 0.8)}
    config = parse_config({"prompt": "a ball", "steps": steps, "scene": grey, "guidance": {"guidance_scale": 1}})
    axis = torch.linspace(-1, 1, 32)
    disc = axis.square() + axis[:, None].square() < 0.3
    images = torch.where(disc, torch.tensor([0.9, 0.1, 0.1]).view(1, 3, 1, 1), 0.8)
    state = State.fresh(config, torch.device("cpu"), PointScene(config.scene))
    for step in optimize(config, AnalyticGuidance(images, torch.ones(1, 4)), state):
        print(step.number, f"{len(state.scene.points)} points, opacity {step.metrics['opacity']:.2f}")


if __name__ == "__main__":
    main()
