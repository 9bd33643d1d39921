"""The gallery of a sweep: one page without anything from elsewhere, best first, to look at, filter and open."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from dreamfusion.scale.choice import Entry
from dreamfusion.scale.trial import TURNING_FRAMES

_LINKS = (
    ("viewer.html", "turn it", False),
    ("mesh.glb", "GLB", True),
    ("turntable.mp4", "video", False),
    ("contact_sheet.png", "all sides", False),
    ("config.yaml", "settings", True),
)
"""Files of a run, what their links are called, and whether they are downloads."""

_STYLE = f"""
:root {{ color-scheme: light dark }}
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 78rem; padding: 0 1rem }}
header {{ display: flex; flex-wrap: wrap; gap: 1rem; align-items: baseline; margin-bottom: 1rem }}
h1 {{ font-size: 1.4rem; margin: 0 }}
input[type=search] {{ font: inherit; padding: .3rem .6rem; min-width: 14rem }}
ol {{ list-style: none; padding: 0; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)) }}
.card {{ border: 1px solid #8884; border-radius: .6rem; overflow: hidden; display: flex; flex-direction: column }}
.turning {{ aspect-ratio: 1; background-size: {TURNING_FRAMES * 100}% 100%; background-position: 0 0;
  animation: turn {TURNING_FRAMES / 8}s steps({TURNING_FRAMES}, jump-none) infinite }}
@keyframes turn {{ to {{ background-position: 100% 0 }} }}
@media (prefers-reduced-motion) {{ .turning {{ animation-play-state: paused }}
  .turning:hover {{ animation-play-state: running }} }}
.text {{ padding: .6rem .8rem; display: grid; gap: .25rem }}
.text b {{ font-weight: 600 }}
small, .alike {{ opacity: .75 }}
nav {{ display: flex; flex-wrap: wrap; gap: .6rem }}
table {{ border-collapse: collapse }} td {{ padding: .2rem .8rem .2rem 0; vertical-align: top }}
[hidden] {{ display: none !important }}
"""

_SCRIPT = """
const words = document.querySelector('input[type=search]'), once = document.querySelector('input[type=checkbox]');
function show() {
  const asked = words.value.toLowerCase();
  for (const card of document.querySelectorAll('.card'))
    card.hidden = !card.dataset.words.includes(asked) || (once.checked && 'alike' in card.dataset);
}
words.addEventListener('input', show); once.addEventListener('change', show);
"""


def gallery(entries: Sequence[Entry], output: Path, title: str = "Sweep") -> str:
    """Return the page of a sweep whose runs lie below ``output``, where the page must be written, too."""
    finished = [entry for entry in entries if entry.error is None]
    failed = [entry for entry in entries if entry.error is not None]
    cards = "\n".join(_card(number, entry, output) for number, entry in enumerate(finished, 1))
    rows = "".join(
        f"<tr><td>{html.escape(_title(entry))}</td><td>{html.escape(entry.error or '')}</td></tr>" for entry in failed
    )
    below = f"<h2>{len(failed)} failed</h2>\n<table>{rows}</table>\n" if failed else ""
    prompts = len({entry.prompt for entry in entries})
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{html.escape(title)}</title>
<style>{_STYLE}</style>
<header><h1>{html.escape(title)}</h1>
<span>{len(finished)} objects of {prompts} prompts, best first</span>
<input type="search" placeholder="filter by words" aria-label="filter by words">
<label><input type="checkbox"> without near-duplicates</label></header>
<ol>
{cards}
</ol>
{below}<script>{_SCRIPT}</script>
</html>
"""


def _title(entry: Entry) -> str:
    varied = "".join(f", {key} {value}" for key, value in entry.varied.items())
    return f"{entry.prompt}, seed {entry.seed}{varied}"


def _card(number: int, entry: Entry, output: Path) -> str:
    """Return one run: the turning object, what it is, its score, and links to its files."""
    picture = base64.b64encode((output / entry.folder / "turning.webp").read_bytes()).decode()
    folder = f"{quote(entry.folder)}/run"
    links = "".join(
        f'<a href="{folder}/{name}"{" download" if download else ""}>{text}</a>'
        for name, text, download in _LINKS
        if (output / entry.folder / "run" / name).exists()
    )
    figures = ["not scored" if entry.score is None else f"score {entry.score:.3f}"]
    figures += [f"{entry.seconds:.0f} s"] if entry.seconds is not None else []
    marks = [f"near-duplicate of {entry.like}"] * (entry.like is not None) + ["two-faced"] * bool(entry.two_faced)
    varied = "".join(f"<small>{html.escape(f'{key} {value}')}</small>" for key, value in entry.varied.items())
    said = "".join(f"<small>{html.escape(mark)}</small>" for mark in marks)
    gone = "" if links else "<small>deleted; it comes back from its prompt, seed and settings</small>"
    alike = " data-alike" if entry.like else ""
    words = html.escape(_title(entry).lower())
    return f"""<li class="card{" alike" if entry.like else ""}" data-words="{words}"{alike}>
<div class="turning" role="img" aria-label="{html.escape(entry.prompt)}"
 style="background-image: url(data:image/webp;base64,{picture})"></div>
<div class="text"><span>{number}. <b>{html.escape(entry.prompt)}</b></span>
<small>seed {entry.seed}, {", ".join(figures)}</small>{varied}{said}
<nav>{links}</nav>{gone}</div></li>"""
