"""What a reader of the documentation relies on: links that lead somewhere, and a front page that is short."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

import idvl

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    return not target.exists() or (bool(anchor) and anchor not in anchors(target))


def test_every_link_within_the_documentation_leads_somewhere() -> None:
    links = [(page, link) for page in PAGES for link in LINK.findall(page.read_text()) if "://" not in link]
    assert len(links) > 40
    assert not [f"{page.relative_to(ROOT)}: {link}" for page, link in links if broken(page, link)]


def test_every_page_is_linked_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    assert not [page.name for page in PAGES[1:] if f"({page.relative_to(ROOT)})" not in readme]


def test_the_readme_has_150_lines_at_most() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_readme_counts_architectures_as_the_page_of_models_does() -> None:
    total = re.search(r"(?m)^\| \*\*all\*\* \|(.*)$", (ROOT / "docs" / "models.md").read_text())[1]
    sound, measured, _, trained, one_shot, evaluated, *_ = (cell.strip().split("/") for cell in total.split("|"))
    row = re.search(r"(?m)^\|.*of (\[.*\(docs/models\.md\).*)$", (ROOT / "README.md").read_text())[1]
    assert re.findall(r"\d+", row) == [sound[1], measured[0], trained[0], one_shot[0], *evaluated]


def test_the_demo_page_shows_the_commands_that_make_demo_runs() -> None:
    makefile = (ROOT / "Makefile").read_text()
    rules = re.search(r"(?m)^demo: .*\n((\t.*\n)+)", makefile)[1]
    commands = re.findall(r"\$\(BIN\)/(idvl .*)", rules)
    page = (ROOT / "docs" / "demo.md").read_text()
    shown = re.findall(r"(?m)^    (idvl .*)$", page)
    assert len(commands) == 6
    assert [command.removesuffix(" --overwrite") for command in commands] == shown[: len(commands)]


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == idvl.__version__
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
