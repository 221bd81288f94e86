from __future__ import annotations

from pathlib import Path

from quality.shape import read_docs, read_sources, shape_figures, word_figures

FIRST = '''"""Says what it does."""


def judge():
    return _once() + _twice() + _twice()


def _once():
    return 1


def _twice():
    return 2
'''


def test_modules_and_repetitions_are_counted(tmp_path: Path) -> None:
    """Generated code is left out; `__init__.py` is no module, but its lines count."""
    for name, text in {
        "a/judge.py": FIRST,
        "b/judge.py": "def other():\n    pass\n",
        "b/__init__.py": '"""A package."""\n',
        "_generated/judge.py": FIRST,
    }.items():
        file = tmp_path / "package" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    figures = shape_figures(read_sources(tmp_path / "package"))
    assert figures == {
        "modules": 2,
        "modules_under_60": 2,
        "same_base_name": 1,
        "median_module": 7.5,
        "largest_module": 13,
        "lines": 16,
        "functions": 4,
        "mean_function": 2.0,
        "private_used_once_share": 0.25,
    }


def test_words_are_counted_per_thousand_lines_of_code() -> None:
    """Whole words, in any case."""
    figures = word_figures("", "What is told to nobody.\nsomewhat\n", unit="lines")
    assert figures == {
        "what_per_1000": 500.0,
        "nobody_per_1000": 500.0,
        "told_per_1000": 500.0,
    }


def test_words_of_docs_are_counted_per_thousand_words_outside_of_code(tmp_path: Path) -> None:
    """A directory stands for the Markdown files below it."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text("Say what it does.\n```\nwhat what\n```\n")
    figures = word_figures("docs_", read_docs([tmp_path / "docs"]), unit="words")
    assert figures["docs_what_per_1000_words"] == 250.0
