"""Pictures and video for people: `pictures`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from dreamfusion.config.renderers import Shading
from dreamfusion.config.section import Count, Positive, Section, Side
from dreamfusion.standard import ORBIT_ELEVATION_DEG, ORBIT_FOCAL, ORBIT_RADIUS


class PicturesConfig(Section):
    """Pictures and video for people; the prior never sees them."""

    radius: Positive = ORBIT_RADIUS
    """distance of the camera that goes around the object, in world units"""
    elevation_deg: Annotated[float, Field(ge=-90, le=90)] = ORBIT_ELEVATION_DEG
    """how far above the horizon it is, in degrees"""
    focal: Positive = ORBIT_FOCAL
    """its focal length in image widths"""
    shading: Shading = "lambertian"
    """albedo, lambertian or textureless, for these two"""
    val_every: Count | None = None
    """steps between validation pictures, kept as validation/step_<step>.png (null: none)"""
    val_views: Count = 4
    """views in a validation picture, side by side"""
    val_resolution: Side | None = None
    """side of each of them in pixels (null: 144)"""
    val_radius: Positive | None = None
    """distance of their camera (null: radius)"""
    val_elevation_deg: Annotated[float, Field(ge=-90, le=90)] | None = None
    """its elevation (null: elevation_deg)"""
    val_focal: Positive | None = None
    """its focal length (null: focal)"""
    val_depth: bool = False
    """whether to write step_<step>_depth.png beside it: near is white, far and nothing black"""
    val_video: bool = False
    """whether to write the views as a video, too, step_<step>.mp4: give enough val_views for one"""
    mesh_needed: bool = True
    """whether a scene without a surface, such as fog, ends the run with an error; else what there is is written"""
    mesh_resolution: Annotated[int, Field(ge=16, le=512)] | None = None
    """samples per side of the grid in which the surface of a volume is found for mesh.glb (null: 128)"""
    video: bool = True
    """whether to write turntable.mp4 and growth.mp4"""
    video_frames: Annotated[int, Field(ge=2, le=2000)] | None = None
    """frames of the video, once around (null: 30)"""
    video_resolution: Side | None = None
    """side of the video in pixels (null: 512)"""
    sheet_resolution: Side | None = None
    """side of the pictures in contact_sheet.png (null: 256)"""
    thumbnail_resolution: Side | None = None
    """side of thumbnail.png (null: 512)"""
    video_fps: Count = 15
    """frames per second of the video"""
