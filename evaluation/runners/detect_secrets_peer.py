"""Runs in the environment of detect-secrets: its default plugins and filters over a file.

`scan_line`, meant for a string at a time, takes any unquoted word for a secret.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from detect_secrets.core.scan import scan_file
from detect_secrets.settings import default_settings


def main() -> None:
    """Read texts as JSON lines, write findings and the time they took, files included."""
    texts: list[str] = [json.loads(line) for line in sys.stdin]
    answers: list[list[Any]] = []
    with default_settings(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.txt"
        path.write_text("warm up", encoding="utf-8")
        list(scan_file(str(path)))
        started_at = time.perf_counter()
        for text in texts:
            path.write_text(text, encoding="utf-8")
            answers.append([found.type for found in scan_file(str(path))])
        seconds = time.perf_counter() - started_at
    json.dump({"answers": answers, "seconds": seconds}, sys.stdout)


main()
