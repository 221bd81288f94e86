from __future__ import annotations

from loadtest.streams.estimates import FORMS, TEXTS, estimates


def test_every_text_is_estimated_in_every_form() -> None:
    """From the bytes of events that hold a token each."""
    found = list(estimates())
    assert {(one.text, one.form) for one in found} == {
        (text, form.name) for text in TEXTS for form in FORMS
    }
    plain = {one.text: one for one in found if one.form == "chat"}
    padded = {one.text: one for one in found if one.form == "chat, with tier and padding"}
    for text, one in plain.items():
        assert one.output == padded[text].output > 0
        assert one.errors[0] < padded[text].errors[0]
        assert one.errors[1] == padded[text].errors[1]
