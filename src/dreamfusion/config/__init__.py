"""Every number of a run: typed, explained, and saved beside its results as config.yaml.

Each section is a file. The defaults of the classes are the preset ``default``; the other presets
(`presets`) list only what they change. Importing this loads neither PyTorch nor Warp.
"""

from dreamfusion.config.build import build_config, changed_config
from dreamfusion.config.execution import Attention, Execution, Precision
from dreamfusion.config.fields import (
    BackgroundConfig,
    FieldConfig,
    HashGridConfig,
    MipConfig,
    NerfConfig,
    NormalMethod,
    TetrahedraConfig,
)
from dreamfusion.config.files import load_config, read_yaml, save_config
from dreamfusion.config.guidance import GuidanceConfig, GuidanceKind, ShapeShown, ViewMode, ViewTexts, Weighting
from dreamfusion.config.loss import LossConfig, LossKind
from dreamfusion.config.optim import DecayForm, OptimConfig, OptimizerName
from dreamfusion.config.parse import parse_config
from dreamfusion.config.pictures import PicturesConfig
from dreamfusion.config.renderers import Backdrops, Material, PictureShading, ProposalConfig, Rasterizer, Shading
from dreamfusion.config.run import Config
from dreamfusion.config.scene import SceneConfig
from dreamfusion.config.schedule import Schedule
from dreamfusion.config.section import Section
from dreamfusion.config.shading import ShadingConfig
from dreamfusion.config.tables import leaves, merged
from dreamfusion.config.views import CameraRange, LightRange
from dreamfusion.config.wrong import WrongValueError

__all__ = [
    "Attention",
    "Backdrops",
    "BackgroundConfig",
    "CameraRange",
    "Config",
    "DecayForm",
    "Execution",
    "FieldConfig",
    "GuidanceConfig",
    "GuidanceKind",
    "HashGridConfig",
    "LightRange",
    "LossConfig",
    "LossKind",
    "Material",
    "MipConfig",
    "NerfConfig",
    "NormalMethod",
    "OptimConfig",
    "OptimizerName",
    "PictureShading",
    "PicturesConfig",
    "Precision",
    "ProposalConfig",
    "Rasterizer",
    "SceneConfig",
    "Schedule",
    "Section",
    "Shading",
    "ShadingConfig",
    "ShapeShown",
    "TetrahedraConfig",
    "ViewMode",
    "ViewTexts",
    "Weighting",
    "WrongValueError",
    "build_config",
    "changed_config",
    "leaves",
    "load_config",
    "merged",
    "parse_config",
    "read_yaml",
    "save_config",
]
