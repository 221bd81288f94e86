"""Appends the texts of a streamed answer's events to their windows."""

from __future__ import annotations

from typing import Final

import msgspec

from sidecar.apis.response_text import AnswerEvent, AnswerText, Path
from sidecar.domain.cooperative import SLICE_FINDINGS, Cooperative
from sidecar.guardrails.streaming.window import StreamWindow

MAX_CHANNELS: Final = 1_000
"""Texts that may be open at once; an answer has one a choice, block and tool call."""


class TooManyTextsError(Exception):
    """An answer has more than `MAX_CHANNELS` texts at once."""


class TokenText(msgspec.Struct, frozen=True, gc=False):
    """The place of a token of an event in its window's text."""

    window: StreamWindow
    start: int
    end: int
    location: int


class Transcript:
    """The windows of one answer.

    A text that is followed by another of its choice (reasoning by content, content by a tool call)
    is not held back any longer: it may continue, but hardly ever does. Its end is kept, so that a
    value that is cut in two there is still found.
    """

    def __init__(self) -> None:
        self._windows: dict[Path, StreamWindow] = {}
        self._lanes: dict[Path, set[Path]] = {}
        self._speaking: dict[Path, set[Path]] = {}
        self._changed: dict[StreamWindow, None] = {}
        self._opened = 0
        self._only: tuple[Path, StreamWindow] | None = None

    def extend(self, event: AnswerEvent) -> list[TokenText] | None:
        """Append an event's text to that of the event before; None if it is no more of that alone.

        Nearly all events are: they have one text, of the same pattern, and end nothing.
        """
        only, texts = self._only, event.texts
        if only is None or len(texts) != 1 or event.ended or event.ends_all:
            return None
        (text,) = texts
        channel, window = only
        if text.channel is not channel:
            return None
        window.leaves = False
        end = window.add(text.content)
        self._changed[window] = None
        return [TokenText(window, end - len(text.content), end, text.location)]

    def take(self, event: AnswerEvent) -> Cooperative[list[TokenText]]:  # noqa: C901 - texts, then lanes
        """Append an event's texts, and return the place of each; in slices.

        Raises:
            TooManyTextsError: it opens more than `MAX_CHANNELS`.
        """
        self._only = None
        speaking: dict[Path, set[Path]] = {}
        places: list[TokenText] = []
        for text in event.texts:
            channel = text.channel
            if channel is None:
                window = self._open(text)
            else:
                if channel not in self._windows:
                    if len(self._windows) >= MAX_CHANNELS:
                        self._belong(speaking)
                        raise TooManyTextsError
                    self._windows[channel] = self._open(text)
                window = self._windows[channel]
                lane = text.lane
                if lane in speaking:
                    speaking[lane].add(channel)
                else:
                    speaking[lane] = {channel}
                window.leaves = False
            end = window.add(text.content)
            self._changed[window] = None
            places.append(TokenText(window, end - len(text.content), end, text.location))
            if not len(places) % SLICE_FINDINGS:
                yield
        for lane, channels in speaking.items():
            before = self._speaking.get(lane)
            if before != channels:
                self._belong({lane: channels})
                for silent in (before or channels) - channels:
                    self._let_go(self._windows[silent])
                self._speaking[lane] = channels
        for lane in self._lanes if event.ends_all else event.ended:
            for channel in self._lanes.get(lane, ()):
                self._let_go(self._windows[channel])
        if len(places) == 1 and event.texts[0].channel is not None:
            self._only = event.texts[0].channel, places[0].window
        return places

    def _belong(self, speaking: dict[Path, set[Path]]) -> None:
        for lane, channels in speaking.items():
            self._lanes.setdefault(lane, set()).update(channels)

    def _open(self, text: AnswerText) -> StreamWindow:
        self._opened += 1
        return StreamWindow(self._opened, is_json=text.is_json, is_final=text.channel is None)

    def let_all_go(self) -> None:
        """Release every window: nothing follows."""
        for window in self._windows.values():
            self._let_go(window)

    def due(self) -> list[StreamWindow]:
        """Return the windows that have changed since the last call, each with all of its text."""
        due = list(self._changed)
        self._changed.clear()
        for window in due:
            if window.gathered:
                window.gather()
        return due

    def _let_go(self, window: StreamWindow) -> None:
        if not window.is_settled:
            self._changed[window] = None
            window.leaves = True
