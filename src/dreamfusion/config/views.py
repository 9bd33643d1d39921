"""Where views are taken from, and the light in them: `cameras` and `lights`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from dreamfusion.config.section import Count, Fraction, NonNegative, Positive, Section, wrong

Elevation = Annotated[float, Field(ge=-90, le=90)]
FieldOfView = Annotated[float, Field(gt=0, lt=180)]


class CameraRange(Section):
    """What random cameras are drawn from; lengths are in world units.

    The paper's scene has half of our size, so its radius of 1 to 1.5 is 2 to 3 here. The default is a narrow part of
    it, in which an object of radius 0.8 fills the picture: the small prior is trained with these cameras, and every
    size that an object may have in the picture takes a share of what it can learn. Position and look-at point are
    jittered less than in the paper for the same reason.
    """

    radius_min: Positive = 2.4
    """least distance from the middle of the scene (paper: 3.2)"""
    radius_max: Positive = 2.6
    """greatest distance from the middle of the scene (paper: 3.2)"""
    elevation_min_deg: Elevation = -10.0
    """lowest camera, in degrees above the horizon (paper: 3.2)"""
    elevation_max_deg: Elevation = 90.0
    """highest camera, in degrees above the horizon (paper: 3.2)"""
    azimuth_min_deg: float = -180.0
    """least angle around the object, in degrees; 0 looks at the front (paper: 3.2)"""
    azimuth_max_deg: float = 180.0
    """greatest angle around the object, in degrees (paper: 3.2)"""
    focal_min: Positive = 1.35
    """least focal length in image widths (paper: 3.2)"""
    focal_max: Positive = 1.5
    """greatest focal length in image widths (paper: 3.2)"""
    uniform_angle_probability: Fraction = 0.5
    """share of the cameras whose elevation is uniform in angle; the others' is uniform in area (paper: A.2)"""
    area_elevation_min_deg: Elevation | None = None
    """lowest camera of those uniform in area (null: elevation_min_deg) (paper: A.2)"""
    position_noise: NonNegative = 0.05
    """half width of a uniform draw that moves the camera along each axis (paper: A.2)"""
    look_at_noise: NonNegative = 0.02
    """standard deviation of the point looked at, along each axis (paper: A.2)"""
    up_noise: NonNegative = 0.02
    """standard deviation of the up vector, along each axis (paper: A.2)"""
    set_size: Count = 1
    """cameras drawn as a set: spread evenly over the azimuths, and alike in all else, shading and diffusion time
    included; views is a multiple of it (MVDream: 4)"""
    radius_by_focal: bool = False
    """whether the distance is multiplied by twice the focal length, so that the object appears at one size (MVDream)"""
    fov_min_deg: FieldOfView | None = None
    """least field of view in degrees; with fov_max_deg it takes the focal length's place, uniform in angle"""
    fov_max_deg: FieldOfView | None = None
    """greatest field of view in degrees"""

    @model_validator(mode="after")
    def _check(self) -> CameraRange:
        low, high = self.fov_min_deg, self.fov_max_deg
        if (low is None) != (high is None):
            raise wrong("fov_min_deg", "give both fov_min_deg and fov_max_deg, or neither")
        if low is not None and high is not None and low > high:
            raise wrong("fov_min_deg", "give 0 < fov_min_deg <= fov_max_deg < 180")
        if self.radius_min > self.radius_max:
            raise wrong("radius_min", "give 0 < radius_min <= radius_max")
        if self.elevation_min_deg > self.elevation_max_deg:
            raise wrong("elevation_min_deg", "give -90 <= elevation_min_deg <= elevation_max_deg <= 90")
        lowest = self.area_elevation_min_deg
        if lowest is not None and not self.elevation_min_deg <= lowest <= self.elevation_max_deg:
            raise wrong("area_elevation_min_deg", "give it from elevation_min_deg to elevation_max_deg")
        if self.azimuth_min_deg > self.azimuth_max_deg:
            raise wrong("azimuth_min_deg", "give azimuth_min_deg <= azimuth_max_deg")
        if self.focal_min > self.focal_max:
            raise wrong("focal_min", "give 0 < focal_min <= focal_max")
        return self


class LightRange(Section):
    """What random lights are drawn from; lengths are in world units, twice the paper's, as the scene is.

    The paper's lights scatter twice as far around the camera (direction_noise 1) and leave 0.1 of ambient light. Many
    views are then nearly black, and tell a small prior nothing.
    """

    distance_min: Positive = 1.6
    """least distance of the light from the middle of the scene (paper: A.2)"""
    distance_max: Positive = 3.0
    """greatest distance of the light from the middle of the scene (paper: A.2)"""
    direction_noise: NonNegative = 0.5
    """standard deviation of the light's direction around the camera's, along each axis"""
    ambient: Fraction = 0.3
    """light from everywhere (paper: A.2)"""
    diffuse: NonNegative = 0.7
    """light from the point (paper: A.2)"""
    ambient_max: Fraction | None = None
    """each light draws its ambient part from ambient to this, and its diffuse part is the rest of 1 (null: no draw;
    NVIDIA's NeMo draws the first in the same way, but leaves the second at 1, so that its pictures clip)"""
    position_noise: NonNegative | None = None
    """the light's direction is that of a point drawn around the camera's position, with this standard deviation along
    each axis, in place of one around its direction (null) (paper: A.2)"""

    @model_validator(mode="after")
    def _check(self) -> LightRange:
        if self.distance_min > self.distance_max:
            raise wrong("distance_min", "give 0 < distance_min <= distance_max")
        if self.ambient_max is not None and self.ambient > self.ambient_max:
            raise wrong("ambient_max", "give ambient_max from ambient to 1")
        return self
