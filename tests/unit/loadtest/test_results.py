from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtest import results
from loadtest.load import LoadError
from loadtest.results import (
    Circumstances,
    Grid,
    MarkersMissingError,
    Report,
    prints_failure,
    publish,
    write_json,
    write_section,
)

PAGE = "# Title\n<!-- bench: begin -->\nold\n<!-- bench: end -->\nafter\n"


def test_a_section_replaces_what_stood_between_its_markers(tmp_path: Path) -> None:
    """All else stays, and a second run replaces the first."""
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    write_section("bench", "first", page=page)
    write_section("bench", "second", page=page)
    assert page.read_text() == PAGE.replace("old", "second")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("# Title\n", id="none"),
        pytest.param("<!-- bench: begin -->\n", id="no end"),
        pytest.param("<!-- bench: end -->\n<!-- bench: begin -->\n", id="wrong way round"),
    ],
)
def test_a_page_without_markers_is_left_alone(tmp_path: Path, text: str) -> None:
    """A run whose figures found no place says so."""
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(MarkersMissingError, match="bench"):
        write_section("bench", "figures", page=page)
    assert page.read_text() == text


def test_a_grid_is_a_markdown_table_with_figures_to_the_right() -> None:
    """Labels stand left."""
    grid = Grid("Title", ("load", "target", "RPS"), [["c1", "envoy", "9"]], labels=2)
    assert grid.as_markdown() == (
        "| load | target | RPS |\n| --- | --- | ---: |\n| c1 | envoy | 9 |"
    )


def test_a_result_that_is_published_can_be_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of the same name, beside the pages."""
    monkeypatch.setattr(results, "DIRECTORY", tmp_path / "build")
    monkeypatch.setattr(results, "PUBLISHED", tmp_path / "figures")
    write_json("bench", {"rps": 7.0}, Circumstances("c", "abc", "m", "now"))
    assert publish("bench").parent == tmp_path / "figures"
    assert json.loads((tmp_path / "figures" / "bench.json").read_text()) == {
        "rps": 7.0, "command": "c", "commit": "abc", "machine": "m", "started": "now"
    }  # fmt: skip


@pytest.mark.parametrize("for_page", [True, False])
def test_a_report_writes_its_figures_and_the_page_only_if_it_is_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, for_page: bool
) -> None:
    """Tables, and a remark below them."""
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    monkeypatch.setattr(results, "DIRECTORY", tmp_path)
    monkeypatch.setattr(results, "PAGE", page)
    report = Report("bench", "bench", for_page=for_page)
    grid = Grid("Title", ("load", "RPS"), [["c1", "9"]])
    report.write({"rps": 9.0}, grid, remark="All is well.")

    assert json.loads((tmp_path / "bench.json").read_text())["rps"] == 9.0
    section = f"{report.run.as_sentence()}\n\n{grid.as_markdown()}\n\nAll is well."
    assert page.read_text() == (PAGE.replace("old", section) if for_page else PAGE)


def test_failed_requests_and_failed_loads_are_printed_and_make_the_exit_code_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A load that failed has no figures."""

    @prints_failure
    def main() -> int:
        raise LoadError("no [k6] here")

    report = Report("bench")
    assert (report.exit_code(0), report.exit_code(2.0, of="streams"), main()) == (0, 1, 1)
    assert capsys.readouterr().out.splitlines() == ["✗ 2 streams failed.", "✗ no [k6] here"]
