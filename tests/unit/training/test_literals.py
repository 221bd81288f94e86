from __future__ import annotations

from pathlib import Path

from training.literals import class_constants, constants


def test_constants_are_read_without_running_the_file(tmp_path: Path) -> None:
    """A file that would fail is still read; what only running would tell is left out."""
    path = tmp_path / "module.py"
    path.write_text(
        "MARK = '<m>'\nimport no_such_module\nOTHER = no_such_module.value\n"
        "class Probe:\n    texts = [f'say {MARK}', 'a' + 'b', ('c',)]\n    table = {'k': 1}\n"
        "    def __init__(self):\n        super().__init__('called {goal}', self)\n"
    )
    assert constants(path)["MARK"] == "<m>"
    assert "OTHER" not in constants(path)
    probe = class_constants(path, {})["Probe"]
    assert probe["texts"] == ["say <m>", "ab", ["c"]]
    assert probe["table"] == {"k": 1}
    assert "called {goal}" in probe["arguments"]
