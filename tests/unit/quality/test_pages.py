from __future__ import annotations

from pathlib import Path

from quality.links import DOCS, ROOT
from quality.pages import SOURCE, dead_targets, page_text, staged

OWN = SOURCE / "page.md"


def of(tmp_path: Path, text: str) -> str:
    page = tmp_path / "page.md"
    page.write_text(text)
    other = (tmp_path / "folder" / "other.md").resolve()
    return page_text(page, {page: OWN, other: SOURCE / "folder" / "other.md"})


def test_headings_get_the_anchors_of_github(tmp_path: Path) -> None:
    """The second of the same words a number; lines of a block stay as they are."""
    text = of(tmp_path, "# A & b\n\n```\n# A\n```\n\n# A & b\n")
    assert text == "# A & b {#a--b}\n\n```\n# A\n```\n\n# A & b {#a--b-1}\n"


def test_links_to_files_that_are_no_pages_become_text(tmp_path: Path) -> None:
    """Links to pages, with their anchors, and to other sites stay."""
    text = of(tmp_path, "[a](folder/other.md#x) [b](Makefile) [c](https://c.example) [d](#here)")
    assert text == "[a](folder/other.md#x) b [c](https://c.example) [d](#here)"


def test_a_dead_link_of_the_site_is_found(tmp_path: Path) -> None:
    """Files, folders with an index, and anchors; the page of errors has absolute links."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "index.html").write_text('<h1 id="top">x</h1>')
    (tmp_path / "404.html").write_text('<a href="/none/">x</a>')
    links = ("folder/", "folder/#top", "folder/#none", "none/", "https://a.example", "#own")
    (tmp_path / "index.html").write_text("".join(f'<a href="{link}">x</a>' for link in links))
    assert set(dead_targets(tmp_path)) == {
        "index.html: folder/#none",
        "index.html: none/",
        "index.html: #own",
    }


def test_the_index_of_the_site_is_that_of_the_pages() -> None:
    """Links to it lead there too."""
    places = staged()
    assert places[DOCS / "README.md"] == SOURCE / "index.md"
    assert places[ROOT / "SECURITY.md"] == SOURCE / "project" / "security.md"
