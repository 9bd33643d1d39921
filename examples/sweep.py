"""A sweep of one setting, with a plot: the guidance scale. python examples/sweep.py

Runs the same prompt and seed at several scales, draws how opaque each scene is after each step, and renders a strip of
views of every result. A low scale leaves the object pale, a high one makes it loud.
"""

from pathlib import Path
from typing import Any

import dreamfusion
from dreamfusion.method.optimize import Step

COLORS = ("#3a6ea5", "#b02020", "#d08770", "#5a8a3a", "#88909a")
WIDTH, HEIGHT, EDGE = 560, 300, 40


def sweep(scales: list[float], folder: Path, **options: Any) -> dict[float, list[float]]:
    """Run every scale, render it, and return the opacity after each step."""
    curves: dict[float, list[float]] = {}
    for scale in scales:
        curve = curves[scale] = []

        def record(step: Step, curve: list[float] = curve) -> None:
            curve.append(step.metrics["opacity"])

        result = dreamfusion.generate(
            "a red mushroom",
            guidance_scale=scale,
            output=folder / f"scale-{scale:g}",
            preset="quick",
            assets=False,
            on_step=record,
            **options,
        )
        print(dreamfusion.render(result, azimuth=[0, 90, 180, 270], size=128))
    return curves


def plot(curves: dict[float, list[float]], highest: float) -> str:
    """Return an SVG with one line per scale: steps to the right, opacity from 0 to ``highest`` upwards."""
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">']
    lines.append('<rect width="100%" height="100%" fill="white"/>')
    for tick in (0.0, 0.5, 1.0):
        y = HEIGHT - EDGE - tick * (HEIGHT - 2 * EDGE)
        lines.append(f'<line x1="{EDGE}" x2="{WIDTH - EDGE}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        lines.append(f'<text x="4" y="{y + 4}" font-size="11">{tick * highest:.2f}</text>')
    for index, (scale, curve) in enumerate(curves.items()):
        across, up = (WIDTH - 2 * EDGE) / max(1, len(curve) - 1), (HEIGHT - 2 * EDGE) / highest
        points = " ".join(f"{EDGE + i * across:.1f},{HEIGHT - EDGE - o * up:.1f}" for i, o in enumerate(curve))
        color = COLORS[index % len(COLORS)]
        lines.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>')
        lines.append(f'<text x="{EDGE + 90 * index}" y="24" font-size="12" fill="{color}">scale {scale:g}</text>')
    lines.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 10}" font-size="12">step</text></svg>')
    return "\n".join(lines)


def main(folder: str | Path = "runs/sweep", scales: tuple[float, ...] = (2.0, 8.0, 30.0), **options: Any) -> Path:
    """Sweep, and write the plot."""
    curves = sweep(list(scales), Path(folder), **options)
    chart = Path(folder) / "opacity.svg"
    chart.write_text(plot(curves, highest=max(map(max, curves.values()))), encoding="utf-8")
    print(chart)
    return chart


if __name__ == "__main__":
    main()
