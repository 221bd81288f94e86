"""The windows of one answer: which text is held back, and for how long."""

from __future__ import annotations

from functools import partial

import pytest

from sidecar.apis.response_text import AnswerEvent, AnswerText, Path
from sidecar.domain.cooperative import run_sync
from sidecar.guardrails.streaming.transcript import MAX_CHANNELS, TooManyTextsError, Transcript
from tests.support.cpu_time import least_seconds


def text(content: bytes, *channel: str | int, location: int = 0) -> AnswerText:
    return AnswerText(content, location, channel or None, channel[:1], is_json=False)


def event(*texts: AnswerText, ended: tuple[Path, ...] = ()) -> AnswerEvent:
    return AnswerEvent(texts, ended=ended)


def test_the_texts_of_one_channel_share_a_window() -> None:
    """Each token has its place in the text."""
    transcript = Transcript()
    (first,) = run_sync(transcript.take(event(text(b"Hel", 0, "content"))))
    (second,) = run_sync(transcript.take(event(text(b"lo", 0, "content", location=3))))
    assert first.window is second.window
    assert (second.start, second.end, second.location) == (3, 5, 3)
    assert second.window.buffer == b"Hello"


def test_an_event_extends_the_text_of_the_one_before_it() -> None:
    """With the place that `take` returns; all events of a pattern have one channel object."""
    transcript, taken = Transcript(), Transcript()
    one = text(b"Hel", 0, "content")
    more = AnswerText(b"lo", 3, one.channel, one.lane, is_json=False)
    for either in (transcript, taken):
        run_sync(either.take(event(one)))
    extended = transcript.extend(event(more))
    assert extended is not None
    places = [extended, run_sync(taken.take(event(more)))]
    assert [(place.start, place.end, place.location) for (place,) in places] == [(3, 5, 3)] * 2
    assert [one.buffer for one in transcript.due()] == [b"Hello"]


def test_a_text_that_is_held_whole_is_gathered_before_it_is_judged() -> None:
    """In time that grows with its length, not with the square: events do not copy what is held."""

    def held(events: int) -> bytes:
        transcript = Transcript()
        for number in range(events):
            run_sync(transcript.take(event(text(b"%01000d" % number, 0, "content"))))
        (window,) = transcript.due()
        assert window.end == len(window.buffer) == 1000 * events
        return window.buffer

    assert held(20) == b"".join(b"%01000d" % number for number in range(20))
    assert least_seconds(partial(held, 4_000)) < 24 * least_seconds(partial(held, 500))


@pytest.mark.parametrize(
    "between",
    [event(), event(ended=((0,),)), event(text(b"x")), event(text(b"x", 0, "reasoning"))],
    ids=["nothing", "an end", "a whole text", "another channel"],
)
def test_an_event_behind_another_kind_of_event_is_taken_as_any(between: AnswerEvent) -> None:
    """Something may have ended, or begun to speak."""
    transcript, one = Transcript(), text(b"a", 0, "content")
    run_sync(transcript.take(event(one)))
    assert transcript.extend(event(one, one)) is None
    assert transcript.extend(event(one, ended=((0,),))) is None
    assert transcript.extend(between) is None
    run_sync(transcript.take(between))
    assert transcript.extend(event(one)) is None


def test_a_text_is_held_back_until_another_of_its_lane_follows() -> None:
    """Reasoning leaves once content begins."""
    transcript = Transcript()
    run_sync(transcript.take(event(text(b"thought", 0, "reasoning"))))
    assert [one.leaves for one in transcript.due()] == [False]
    run_sync(transcript.take(event(text(b"said", 0, "content"))))
    assert {one.buffer: one.leaves for one in transcript.due()} == {
        b"thought": True,
        b"said": False,
    }


def test_a_text_without_a_channel_is_complete() -> None:
    """Nothing follows it."""
    transcript = Transcript()
    run_sync(transcript.take(event(text(b"whole"))))
    (due,) = transcript.due()
    assert due.is_final


def test_the_end_of_a_lane_releases_its_texts_alone() -> None:
    """Other choices of the answer continue."""
    transcript = Transcript()
    run_sync(transcript.take(event(text(b"a", 0, "content"), text(b"b", 1, "content"))))
    transcript.due()
    run_sync(transcript.take(event(ended=((0,),))))
    assert [(one.buffer, one.leaves) for one in transcript.due()] == [(b"a", True)]


def test_too_many_texts_at_once_are_refused() -> None:
    """Memory is bounded."""
    transcript = Transcript()
    for number in range(MAX_CHANNELS):
        run_sync(transcript.take(event(text(b"x", number, "content"))))
    with pytest.raises(TooManyTextsError):
        run_sync(transcript.take(event(text(b"x", MAX_CHANNELS, "content"))))
