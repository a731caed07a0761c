"""Builds the manual as a site, offline: `make site`. Each page of Markdown becomes one of HTML."""

from __future__ import annotations

import re
import shutil
import sys
from html import escape
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[1]
STYLE = ROOT / "docs" / "site.css"
# File, and what it is called in the navigation.
PAGES = {
    "README.md": "Start",
    "docs/install.md": "Install",
    "docs/migration.md": "Migration",
    "docs/operations.md": "Operations",
    "monitoring/README.md": "Monitoring",
    "docs/scale.md": "Scale",
    "docs/security.md": "Security",
    "docs/architecture.md": "Architecture",
    "docs/configuration.md": "Configuration",
    "docs/commands.md": "Commands",
    "docs/api.md": "HTTP",
    "docs/metrics.md": "Metrics",
    "fly/README.md": "Fly.io",
    "CONTRIBUTING.md": "Contributing",
    "CHANGELOG.md": "Changelog",
}


def build(output: Path) -> None:
    """Write the site; what its pages link to beside each other is copied along."""
    shutil.rmtree(output, ignore_errors=True)
    for name in PAGES:
        text, linked = render(name)
        target = output / address(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        for path in linked:
            (output / path).parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (ROOT / path).is_dir() else shutil.copyfile
            copy(ROOT / path, output / path)
    shutil.copyfile(STYLE, output / "site.css")


def address(name: str) -> str:
    """Where a page lies in the site."""
    return re.sub(r"README\.md$", "index.html", name).removesuffix(".md") + (
        "" if name.endswith("README.md") else ".html"
    )


def render(name: str) -> tuple[str, set[str]]:
    """A page as HTML, and the files of the repository that it links to."""
    parser = MarkdownIt("commonmark").enable(["table"])
    tokens = parser.parse((ROOT / name).read_text())
    up = "../" * name.count("/")
    linked: set[str] = set()
    title = ""
    for number, token in enumerate(tokens):
        if token.type == "heading_open":
            words = _words(tokens[number + 1])
            token.attrSet("id", slug(words))
            title = title or words
        for part in token.children or ():
            for attribute in ("href", "src"):
                link = part.attrGet(attribute)
                if isinstance(link, str) and not re.match(r"\w+:|#", link):
                    path = (ROOT / name).parent.joinpath(link.partition("#")[0]).resolve().relative_to(ROOT)
                    fragment = link.partition("#")[2]
                    part.attrSet(attribute, _link(str(path), fragment, up, linked))
    links = "".join(
        f'<a href="{up}{address(page)}"{" aria-current=page" if page == name else ""}>{escape(words)}</a>'
        for page, words in PAGES.items()
    )
    body = parser.renderer.render(tokens, parser.options, {})
    html = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
        f'<link rel="stylesheet" href="{up}site.css"></head><body><nav aria-label="Pages">{links}</nav>'
        f"<main>{body}</main></body></html>\n"
    )
    return html, linked


def _link(path: str, fragment: str, up: str, linked: set[str]) -> str:
    if path in PAGES:
        return f"{up}{address(path)}{f'#{fragment}' if fragment else ''}"
    linked.add(path)
    return f"{up}{path}"


def _words(token: Token) -> str:
    return "".join(part.content for part in token.children or ())


def slug(heading: str) -> str:
    """A heading's anchor, as it is made where the repository is browsed."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


if __name__ == "__main__":
    build(Path(sys.argv[1]))
