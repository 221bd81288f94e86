"""The decoders in the order in which they run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Final

from sidecar.guardrails.cooperative import Cooperative
from sidecar.guardrails.deobfuscation.decoder import Decoder
from sidecar.guardrails.deobfuscation.encodings import ENCODINGS, ESCAPES
from sidecar.guardrails.deobfuscation.look_alikes import LOOK_ALIKES
from sidecar.guardrails.deobfuscation.spelling import LEET, SPACING
from sidecar.guardrails.matching.text_views import ASCII_VIEWS, TextView, ViewKind

MAX_DEPTH: Final = 2
"""Text that is encoded twice is read; a model does not decode more unaided."""

FOR_ALL: Final = (ESCAPES, LOOK_ALIKES, ENCODINGS, SPACING)
FOR_WORDS: Final = (ESCAPES, LOOK_ALIKES, LEET, ENCODINGS, SPACING)

TRIGGERS: Final = tuple(one.trigger for one in FOR_WORDS if one.trigger is not None)

VIEWS_A_STEP: Final = 256
"""Views between two interruptions if there is little to decode in them."""


def sources(views: Sequence[TextView]) -> Sequence[TextView]:
    """Return the view of each part that may hide text: the plain one if there is one."""
    if all(view.kinds is ASCII_VIEWS for view in views):
        return tuple(views)
    best = {view.part: view for view in views if ViewKind.RAW in view.kinds}
    best |= {view.part: view for view in views if ViewKind.PLAIN in view.kinds}
    return tuple(best.values())


def read(views: Iterable[TextView], chosen: Collection[Decoder]) -> Cooperative[list[TextView]]:
    """Return the views that the decoders *chosen* make of *views*."""
    found: list[TextView] = []
    for count, view in enumerate(views, start=1):
        for decoder in chosen:
            if decoder.applies(view.content):
                found += yield from decoder.read(view)
                yield
        if not count % VIEWS_A_STEP:
            yield
    return found
