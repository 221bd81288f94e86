from __future__ import annotations

from pathlib import Path

import pytest

from quality.links import anchors, dead_links

PAGE = """# Title: `egret up` & more

## Twice

## Twice

```
# no heading
```
"""


def test_anchors_are_those_that_github_makes(tmp_path: Path) -> None:
    """A second heading of the same words is numbered; a comment in a block is none."""
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert anchors(page) == {"title-egret-up--more", "twice", "twice-1"}


@pytest.mark.parametrize(
    ("link", "is_dead"),
    [
        ("other.md", False),
        ("other.md#twice-1", False),
        ("#here", False),
        ("https://example.com/nowhere", False),
        ("mailto:a@example.com", False),
        ("none.md", True),
        ("other.md#thrice", True),
        ("#nowhere", True),
    ],
)
def test_a_link_to_a_missing_file_or_heading_is_dead(
    link: str, *, is_dead: bool, tmp_path: Path
) -> None:
    """Other sites are not visited."""
    (tmp_path / "other.md").write_text(PAGE)
    page = tmp_path / "page.md"
    page.write_text(f"# Here\n\nSee [there]({link}).\n")
    assert bool(dead_links(page)) is is_dead
