"""Which kind of scene the configuration asks for: the one place that knows all kinds."""

from __future__ import annotations

from dreamfusion.config import SceneConfig
from dreamfusion.scenes.mesh import MeshScene
from dreamfusion.scenes.scene import Scene
from dreamfusion.scenes.volume import VolumeScene


def build_scene(config: SceneConfig, seed: int = 0) -> Scene:
    """Return a fresh scene of the configured kind; its random weights follow from ``seed``."""
    match config.kind:
        case "volume":
            return VolumeScene(config, seed)
        case "mesh":
            return MeshScene(config, seed)
