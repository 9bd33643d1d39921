"""Meshes through nvdiffrast: our side of it, on a stand-in that has that library's conventions."""

import importlib.util
import sys
import types
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamfusion.config import SceneConfig
from dreamfusion.errors import DreamFusionError
from dreamfusion.fields.background import StaticBackground
from dreamfusion.fields.tetrahedra import Surface, TetrahedraConfig, marching_tetrahedra, tetrahedral_grid
from dreamfusion.kernels import antialias as ours_antialias
from dreamfusion.kernels import rasterize as ours
from dreamfusion.method.cameras import fixed_cameras
from dreamfusion.method.shading import Lights
from dreamfusion.renderers import nvdiffrast
from dreamfusion.renderers.mesh import render_surface
from dreamfusion.scenes.mesh import MeshScene
from dreamfusion.scenes.scene import Views

LIBRARY = importlib.util.find_spec("nvdiffrast") is not None and torch.cuda.is_available()


class Library:
    """nvdiffrast.torch: OpenGL's clip space, pictures from the lowest row up, and faces numbered from 1."""

    def RasterizeCudaContext(self, device: Any = None) -> str:  # noqa: N802
        return "context"

    def rasterize(self, context: Any, pos: Tensor, tri: Tensor, resolution: tuple, grad_db: bool = True) -> Any:
        assert context == "context"
        assert (pos.dtype, tri.dtype) == (torch.float32, torch.int32)
        assert pos.is_contiguous()
        assert tri.is_contiguous()
        height, width = resolution
        # From OpenGL's z, -w to w, and y, up, to Vulkan's; Vulkan's first row is the highest.
        x, y, z, w = pos.unbind(-1)
        drawn = ours.rasterize(torch.stack([x, -y, (z + w) / 2, w], dim=-1), tri, height, width)
        depth = torch.where(drawn.face >= 0, 2 * drawn.depth - 1, 0)
        number = (drawn.face + 1).float()
        rast = torch.cat([drawn.barycentric[..., :2], depth[..., None], number[..., None]], dim=-1)
        return rast.flip(1), torch.zeros_like(rast)

    def interpolate(self, attr: Tensor, rast: Tensor, tri: Tensor) -> Any:
        assert attr.is_contiguous()
        u, v, _, number = rast.unbind(-1)
        weights = torch.stack([u, v, 1 - u - v], dim=-1)
        corners = tri[(number.long() - 1).clamp(min=0)].long()
        values = attr.expand(len(rast), -1, -1)[torch.arange(len(rast))[:, None, None, None], corners]
        return (values * weights[..., None]).sum(-2) * (number > 0)[..., None], None

    def antialias(self, color: Tensor, rast: Tensor, pos: Tensor, tri: Tensor) -> Tensor:
        assert color.is_contiguous()
        assert rast.is_contiguous()
        u, v, depth, number = rast.flip(1).unbind(-1)
        drawn = ours.Fragments(number.int() - 1, (depth + 1) / 2, torch.stack([u, v, 1 - u - v], dim=-1))
        flipped = pos * pos.new_tensor([1, -1, 1, 1])
        return ours_antialias.antialias(color.flip(1).contiguous(), flipped, tri, drawn).flip(1)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tell the package that the library is there, and a GPU."""
    library, package = Library(), types.ModuleType("nvdiffrast")
    package.torch = library
    monkeypatch.setitem(sys.modules, "nvdiffrast", package)
    monkeypatch.setitem(sys.modules, "nvdiffrast.torch", library)
    monkeypatch.setattr(nvdiffrast.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(nvdiffrast, "_context", lambda device: library.RasterizeCudaContext(device))


def rendered(rasterizer: str, device: str = "cpu") -> list[Tensor]:
    """Return a picture of two bumps before each other, from a lopsided camera, and the gradient of their vertices."""
    grid, tetrahedra = tetrahedral_grid(12)
    distance = torch.minimum((grid - 0.3).norm(dim=1) - 0.4, (grid + 0.3).norm(dim=1) - 0.3)
    surface = marching_tetrahedra(grid, distance, tetrahedra)
    vertices = surface.vertices.to(device).requires_grad_()
    out = render_surface(
        Surface(vertices, surface.faces.to(device)),
        lambda x: 0.5 + 0.4 * x.detach(),
        StaticBackground((1.0, 1.0, 1.0)),
        fixed_cameras(torch.tensor([30.0, 200.0]), 25.0).to(device),
        Lights(torch.full((2, 3), 2.0), torch.ones(2), torch.full((2,), 0.3)).to(device),
        ["lambertian", "albedo"],
        (40, 32),
        backdrop=torch.zeros(2, 3, device=device),
        rasterizer=rasterizer,
    )
    (gradient,) = torch.autograd.grad((out.rgb * torch.linspace(0, 1, 40, device=device)).sum(), vertices)
    return [out.rgb, out.opacity, out.depth, out.normal, gradient]


def test_pictures_and_gradients_through_the_library_are_the_same(installed):
    # Antialiasing differs in the library itself; the stand-in's is ours, to test what it is given.
    for found, expected in zip(rendered("nvdiffrast"), rendered("warp"), strict=True):
        scale = expected.abs().max().item()
        assert scale > 0
        # Upside down, centres on an edge may go to its other side.
        assert ((found - expected).abs() > 1e-3 * scale).float().mean() < 2e-3


def test_a_library_or_gpu_that_is_absent_is_named(installed, monkeypatch):
    nvdiffrast.require_nvdiffrast()
    monkeypatch.setattr(nvdiffrast.torch.cuda, "is_available", lambda: False)
    with pytest.raises(DreamFusionError, match="NVIDIA GPU") as error:
        rendered("nvdiffrast")
    assert "\n" not in str(error.value)
    for name in ("nvdiffrast", "nvdiffrast.torch"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DreamFusionError, match="pip install") as error:
        rendered("nvdiffrast")
    assert "\n" not in str(error.value)


def test_the_configuration_chooses(installed, monkeypatch):
    scene = MeshScene(SceneConfig(tetrahedra=TetrahedraConfig(resolution=8), rasterizer="nvdiffrast"))
    asked = []
    monkeypatch.setattr(nvdiffrast, "rasterize", lambda *a: (asked.append(a), ours.rasterize(*a))[1])
    lights = Lights(torch.full((1, 3), 2.0), torch.ones(1), torch.ones(1))
    scene.render(Views(fixed_cameras(0.0, 0.0), lights, ["albedo"], 16, torch.zeros(1, 3)), torch.Generator())
    scene.layers(fixed_cameras(0.0, 0.0), ["albedo"], (16, 16))
    assert len(asked) == 2
    monkeypatch.setattr(nvdiffrast.torch.cuda, "is_available", lambda: False)
    with pytest.raises(DreamFusionError, match="NVIDIA GPU"):
        MeshScene(SceneConfig(tetrahedra=TetrahedraConfig(resolution=8), rasterizer="nvdiffrast"))


def test_tensors_of_the_cpu_are_refused():
    with pytest.raises(DreamFusionError, match="--device cuda"):
        nvdiffrast._context(torch.device("cpu"))


@pytest.mark.skipif(not LIBRARY, reason="needs nvdiffrast and a GPU")
def test_the_library_itself():
    for found, expected in zip(rendered("nvdiffrast", "cuda")[:4], rendered("warp", "cuda")[:4], strict=True):
        assert ((found - expected).abs() > 0.05 * expected.abs().max()).float().mean() < 0.05
