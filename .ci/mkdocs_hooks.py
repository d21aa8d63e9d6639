"""What the site (mkdocs.yml) has from outside of docs/: the README as its first page, changelog, pictures, licences.

Pages link to those as they lie in the repository, which is also what works on a forge; here such links are led to where
the files are in the site. A link to anything else stays as it is, and the strict build fails.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}
"""Their names in the repository and in the site. Other files have the same name in both."""
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")


def outside() -> list[str]:
    """Files that pages link to as they are."""
    pictures = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "screenshots").glob("*.svg"))
    return [*pictures, "LICENSE-MIT", "LICENSE-APACHE"]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds them."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text()))
    for name in outside():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leads the links of a page there."""
    names = {page: name for name, page in PAGES.items()}
    folder = posixpath.dirname(names.get(page.file.src_uri, f"docs/{page.file.src_uri}"))
    known = set(outside())

    def lead(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[1]))
        if target in PAGES:
            return PAGES[target]
        if target in known:
            return target
        return target.removeprefix("docs/")

    return LINK.sub(lead, markdown)
