"""Write every dashboard to deploy/grafana: `python -m dashboards`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from dashboards.boards import BOARDS
from dashboards.grafana import as_json

PLACE: Final = Path(__file__).parents[1] / "deploy" / "grafana"


def main() -> None:
    """Write them."""
    PLACE.mkdir(parents=True, exist_ok=True)
    for board in BOARDS:
        (PLACE / f"{board.name}.json").write_text(as_json(board), encoding="utf-8")


if __name__ == "__main__":
    main()
