"""A field of your own: a plain grid of voxels in place of the hash grid. python examples/own_field.py

A field says how a point is encoded and brings two small networks that read density and albedo from that; the blob it
starts from, its normals and the unit sphere are `Field`'s. Any renderer takes it.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample

import dreamfusion
from dreamfusion.device import pick_device
from dreamfusion.fields.field import Field
from dreamfusion.io.files import prepare_output_dir
from dreamfusion.method.optimize import optimize
from dreamfusion.method.state import State
from dreamfusion.runs.generate import load_guidance
from dreamfusion.runs.results import write_assets
from dreamfusion.scenes.volume import VolumeScene


class VoxelField(Field):
    """Features at the corners of side^3 cells, interpolated linearly."""

    def __init__(self, config: Any, side: int = 32, channels: int = 8) -> None:
        super().__init__(config)
        self.grid = nn.Parameter(torch.zeros(1, channels, side, side, side))
        self.density_network = nn.Linear(channels, 1)
        self.albedo_network = nn.Sequential(nn.Linear(channels, 16), nn.SiLU(), nn.Linear(16, 3))

    def encode(self, x: Tensor) -> Tensor:
        """Return the features [N, C] at points [N, 3] in [-1, 1]^3."""
        found = grid_sample(self.grid, x.view(1, -1, 1, 1, 3), padding_mode="border", align_corners=True)
        return found.flatten(1)[0].view(self.grid.shape[1], -1).T

    def parameter_groups(self, grid_lr: float, network_lr: float) -> list[dict[str, Any]]:
        """Return the grid, which learns as fast as a hash grid, and the networks."""
        networks = [*self.density_network.parameters(), *self.albedo_network.parameters()]
        return [{"params": [self.grid], "lr": grid_lr}, {"params": networks, "lr": network_lr}]


def main(
    output: str = "runs/own-field", prior: dreamfusion.Guidance | None = None, **settings: Any
) -> dreamfusion.Result:
    """Optimise such a field by hand, as `generate` does with the configured one, and write its pictures."""
    config = dreamfusion.Config(prompt="a red mushroom", **settings)
    device = pick_device(config.device)
    torch.manual_seed(config.seed)
    scene = VolumeScene(config.scene, config.seed)
    scene.field = VoxelField(config.scene.nerf)
    state = State.fresh(config, device, scene)
    for step in optimize(config, prior or load_guidance(config, device), state):
        if step.number % 10 == 0:
            print(f"step {step.number} of {config.steps}: opacity {step.metrics['opacity']:.2f}")
    result = dreamfusion.Result(prepare_output_dir(output), config, state.scene)
    write_assets(result)
    print(result.contact_sheet)
    return result


if __name__ == "__main__":
    main()
