"""Other detectors, asked the same texts in the same run, each in an environment of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from training.samples import ROOT

FOLDER: Final = ROOT / "build" / "eval" / "peers"
RUNNERS: Final = Path(__file__).with_name("runners")
PINNED: Final = Path(__file__).with_name("peers.txt")
SECONDS: Final = 1200.0
"""For one peer over all texts."""

INSTALL_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True)
class Answered:
    """What a peer said of each text, and how long it took for all of them."""

    answers: Sequence[Any]
    seconds: float


@dataclass(frozen=True, slots=True)
class NotRun:
    """Why a peer has no figures."""

    why: str


def ask(peer: str, texts: Sequence[str]) -> Answered | NotRun:
    """Install *peer* unless it is there, and let it judge *texts*."""
    try:
        command = _node(peer) if "@" in _requirement(peer) else _python(peer)
        lines = "\n".join(map(json.dumps, texts))
        done = subprocess.run(  # noqa: S603 - a runner of ours
            command, input=lines, capture_output=True, text=True, check=True, timeout=SECONDS
        )
    except FileNotFoundError as error:
        return NotRun(f"not installed: {error.strerror}")
    except subprocess.TimeoutExpired as error:
        return NotRun(f"not done within {error.timeout:.0f} s")
    except subprocess.CalledProcessError as error:
        last = (error.stderr or "").strip().rpartition("\n")[2]
        return NotRun(f"not installed or not running: {last[:80]}")
    answer = json.loads(done.stdout)
    return Answered(answer["answers"], answer["seconds"])


def _requirement(peer: str) -> str:
    lines = PINNED.read_text(encoding="utf-8").splitlines()
    names = {line.replace("==", "@").partition("@")[0]: line for line in lines}
    return names[peer]


def _python(peer: str) -> list[str]:
    folder = FOLDER / peer
    python = folder / "bin" / "python"
    ready = folder / "installed"
    if not ready.exists():
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _install([*pip, _requirement(peer)])
        ready.touch()
    return [str(python), str(RUNNERS / f"{peer.replace('-', '_')}_peer.py")]


def _node(peer: str) -> list[str]:
    folder = FOLDER / peer
    node, npm = (shutil.which(name) or name for name in ("node", "npm"))
    if not (folder / "node_modules").exists():
        folder.mkdir(parents=True, exist_ok=True)
        options = ["--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
        _install([npm, "install", "--prefix", str(folder), *options, _requirement(peer)])
    runner = folder / f"{peer}_peer.mjs"  # modules are looked for beside the one that asks
    shutil.copy(RUNNERS / runner.name, runner)
    return [node, str(runner)]


def _install(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS)  # noqa: S603 - pinned names
