"""Control characters, which nobody sees and few texts have."""

from __future__ import annotations

from typing import Final

CONTROLS: Final = bytes((*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F))
"""All of ASCII's but for tab, line feed and carriage return."""

CONTROLS_BUT_NUL: Final = CONTROLS[1:]
"""Those that say something where NUL stands between texts."""
