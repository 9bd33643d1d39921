"""The site's pages that lie elsewhere in the repository, and links that hold in both places (a hook of mkdocs)."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "model-card.md": "src/dreamfusion/toybox/prior/README.md",
}
"""Which file of the repository each of these pages is."""
ADDRESSES = {file: page for page, file in PAGES.items()}
ORDER = {
    "Use": [
        "studio.md",
        "presets.md",
        "configuration.md",
        "refine.md",
        "pictures.md",
        "assets.md",
        "evaluation.md",
        "scale.md",
        "nemo.md",
    ],
    "Understand": ["architecture.md", "conventions.md", "guidance.md", "toybox.md", "model-card.md"],
    "Trust": ["tested.md", "reliability.md"],
    "Build on it": ["reference.md", "extending.md", "contributing.md", "changelog.md"],
}
"""The pages in the order in which they are offered; one that is not named here comes last."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Order the pages."""
    there = {path.name for path in (ROOT / "docs").glob("*.md")} | set(PAGES)
    rest = sorted(there - {"index.md"} - {page for pages in ORDER.values() for page in pages})
    groups = {**ORDER, "More": rest}
    chosen = {name: [page for page in pages if page in there] for name, pages in groups.items()}
    config.nav = ["index.md", *({name: pages} for name, pages in chosen.items() if pages)]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that do not lie in docs/."""
    for page, file in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / file).read_text(encoding="utf-8")))
    folder = ROOT / "src/dreamfusion/toybox/prior"
    for picture in folder.glob("*.png"):
        files.append(File.generated(config, f"model-card/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turn links to files of the repository into links to the site's pages."""
    here = PAGES.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def link(match: re.Match[str]) -> str:
        image, text, target = match.groups()
        path, _, anchor = target.partition("#")
        if not path or "://" in path:
            return match[0]
        file = posixpath.normpath(posixpath.join(posixpath.dirname(here), path))
        if file.startswith("src/") and file.endswith(".png"):
            site = f"model-card/{posixpath.basename(file)}"
        elif file in ADDRESSES or file.startswith("docs/"):
            site = ADDRESSES.get(file, file.removeprefix("docs/"))
        else:
            return text  # a file or folder of the repository that is no page
        return f"{image}[{text}]({site}{'#' if anchor else ''}{anchor})"

    return re.sub(r"(!?)\[([^\[\]]*)\]\(([^()\s]+)\)", link, markdown)
