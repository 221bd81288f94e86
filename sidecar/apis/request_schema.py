"""Checks that Egret and the provider read a request body alike; finds models and output bounds.

A body that its headers declare as something other than JSON in UTF-8 is not read at all.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from operator import methodcaller
from types import NoneType
from typing import Final, assert_never

from sidecar.apis.fragments import VALUE_FIELDS, Reading
from sidecar.apis.vocabulary import VOCABULARIES
from sidecar.domain.http import NO_ENCODING, HeaderName, Headers, is_other_charset
from sidecar.domain.subject import (
    GOOGLE,
    Dialect,
    Operation,
    RequestForm,
    Route,
    UnscannedReason,
)
from sidecar.domain.usage import SERVICE_TIERS
from sidecar.jsontext.strict import JsonValue, parse

Fields = dict[str, JsonValue]


_SETTINGS: Final = ("moderation", "svg")
"""Objects with a model of their own: OpenAI's moderation of a chat, and its author of pictures."""

_NAMING: Final = frozenset(
    {"models", "fallbacks", "tools", "input", "items", "data_sources", *_SETTINGS}
)
"""Where OpenAI's APIs, and gateways that speak as they do, name further models."""

_DECIDING: Final = _NAMING | {"model", "stream"}
"""Fields that are acted on, not only scanned."""

_DISTINCT: Final = _DECIDING | {
    name
    for words in VOCABULARIES.values()
    for name in words.top_fields
    if name.casefold() not in _DECIDING
}
"""Known names that differ from these in more than case."""


def shape_problem(form: RequestForm, fields: Fields) -> str | None:  # noqa: C901, PLR0911, PLR0912 - forms
    """Return the fault of a body, in words that repeat none of it."""
    if not fields.keys() <= _DISTINCT:
        for name in fields:
            # A provider that takes names in any case would run a model that we did not judge.
            if name not in _DECIDING and name.casefold() in _DECIDING:
                return f"A field differs from `{name.casefold()}` only in case."
    if not isinstance(fields.get("model", ""), str):
        return "The field `model` is not a string."
    stream = fields.get("stream")
    if stream is not None and not isinstance(stream, bool):
        return "The field `stream` is not a boolean."
    if form is RequestForm.MESSAGES:
        return _messages_problem(fields.get("messages"))
    match form:
        case RequestForm.ANY_OBJECT:
            return None
        case RequestForm.CONVERSE:
            # A prompt that is stored at the provider may stand in the place of messages.
            return _messages_problem(fields.get("messages", []))
        case RequestForm.RESPONSES:
            return _text_problem("input", fields.get("input", ""))
        case RequestForm.PROMPT:
            return _text_problem("prompt", fields.get("prompt"))
        case RequestForm.INPUT:
            return _text_problem("input", fields.get("input"))
        case RequestForm.CONTENTS:
            return _parts_problem("contents", fields.get("contents"))
        case RequestForm.CONTENT:
            return _parts_problem("content", fields.get("content"))
        case RequestForm.REQUESTS:
            return _parts_problem("requests", fields.get("requests"))
        case RequestForm.INTERACTION:
            given = fields.get("input", "")
            return None if isinstance(given, str) else _parts_problem("input", given)
        case _:
            assert_never(form)


def _messages_problem(messages: JsonValue) -> str | None:
    if not isinstance(messages, list):
        return "The field `messages` is missing or not an array."
    if not _OBJECT.issuperset(map(type, messages)):
        return "The field `messages` holds something that is not an object."
    if not _STRING.issuperset(map(type, map(_role_of, messages))):
        return "The field `role` of a message is not a string."
    if not _CONTENT.issuperset(map(type, map(_content_of, messages))):
        return "The field `content` of a message is neither a string nor an array."
    return None


_role_of: Final = methodcaller("get", "role", "")
_content_of: Final = methodcaller("get", "content")
_OBJECT: Final = frozenset({dict})
_STRING: Final = frozenset({str})
_CONTENT: Final = frozenset({str, list, NoneType})


def _text_problem(name: str, text: JsonValue) -> str | None:
    if isinstance(text, (str, list)):
        return None
    return f"The field `{name}` is missing or neither a string nor an array."


def _parts_problem(name: str, value: JsonValue) -> str | None:
    """Judge a field that Google takes as one object or as many."""
    if isinstance(value, (dict, list)):
        return None
    return f"The field `{name}` is missing or neither an object nor an array."


_TOKEN_FIELDS: Final = frozenset({"prompt", "input"})
"""Where tokens may stand in place of text."""


def holds_tokens(fields: Fields) -> bool:
    """Return whether numbers stand in place of text: tokens, which only the model can read."""
    if _TOKEN_FIELDS.isdisjoint(map(str.casefold, fields)):
        return False
    return any(_has_tokens(fields[name]) for name in fields if name.casefold() in _TOKEN_FIELDS)


def _has_tokens(text: JsonValue) -> bool:
    return isinstance(text, list) and any(
        isinstance(item, (int, float)) or (isinstance(item, list) and _has_tokens(item))
        for item in text
    )


MAX_OTHER_MODELS: Final = 32
"""Each is compared with every allowed one and looked up in the price table; no API has use for
so many."""

_NESTING_FIELDS: Final = ("requests", "generateContentRequest", "generate_content_request")
"""Gemini repeats the model within these."""

_ROUTING_FIELDS: Final = (
    (
        ("generationConfig", "generation_config"),
        ("routingConfig", "routing_config"),
        ("manualMode", "manual_mode"),
    ),
    (
        ("tools",),
        ("retrieval",),
        ("vertexRagStore", "vertex_rag_store"),
        ("ragRetrievalConfig", "rag_retrieval_config"),
        ("ranking",),
        ("llmRanker", "llm_ranker"),
    ),
)
"""Where Vertex AI takes the name of another model: to answer, and to rank what was retrieved."""

_GEMINI_PREFIX: Final = re.compile(
    r"((projects/[^/]+/locations/[^/]+/)?publishers/google/)?models/|google/"
)
"""Of a model's name in a body, at Vertex AI with the project, or for clients of OpenAI with the
publisher. A tuned model (`tunedModels/`) is another than the model of the same name."""


def named_models(route: Route, fields: dict[str, JsonValue]) -> tuple[str | None, tuple[str, ...]]:
    """Return the model a request is for, and any further ones, each by its `name_on` the route.

    The model itself is among these if `further_models` names it too: an alias replaces it in its
    own field alone.
    """
    model = fields.get("model")
    named: list[str] = []
    more: Iterable[str] = ()
    if route.dialect in GOOGLE:
        named += _nested(fields)
        if route.form is RequestForm.INTERACTION:
            named += _strings(fields.get("agent"))
            model = fields.get("agent") if model is None else model
    elif route.dialect is Dialect.OPENAI and isinstance(model, str) and _NAMING.isdisjoint(fields):
        return name_on(route, model), ()  # mostly
    else:
        named += _strings(model)
        more = further_models(fields)
    own = route.model
    if own is None and isinstance(model, str):
        own = name_on(route, model)
    others = [name for name in map(partial(name_on, route), named) if name != own]
    return own, tuple(dict.fromkeys([*others, *map(partial(name_on, route), more)]))


def name_on(route: Route, model: str) -> str:
    """Return the one name of *model* on *route*: at Google, without the place before it.

    A client that could choose its spelling would choose the limits, prices and guardrails that
    hold for it.
    """
    is_google = route.has_google_names or route.dialect in GOOGLE
    found = _GEMINI_PREFIX.match(model) if is_google else None
    return model if found is None else model[found.end() :]


def _nested(fields: dict[str, JsonValue]) -> Iterator[str]:
    yield from _strings(fields.get("model"))
    for name in _NESTING_FIELDS:
        for item in _objects(fields.get(name)):
            yield from _strings(item.get("model"))
    for path in _ROUTING_FIELDS:
        found = [fields]
        for names in path:
            found = [inner for one in found for name in names for inner in _objects(one.get(name))]
        for one in found:
            yield from _strings(one.get("modelName"))
            yield from _strings(one.get("model_name"))


def further_models(fields: dict[str, JsonValue]) -> Iterator[str]:
    """Yield the models that a request names beside its own."""
    # Some gateways take a list of models to fall back to, Anthropic one of models and settings.
    # Its «default» lets the provider choose, and no policy has allowed that model.
    for name in ("models", "fallbacks"):
        yield from _strings(fields.get(name))
        yield from _models_of(fields.get(name))
    for name in _SETTINGS:
        yield from _models_of(fields.get(name))
    # Both APIs take more tools in the midst of a conversation: `additional_tools` and
    # `tool_search_output` in the input, `tool_addition` in a message.
    lists = [fields.get("tools")]
    for name in ("input", "items"):
        items = list(_objects(fields.get(name)))
        lists += [item.get(tools) for tools in _spellings(items, "tools") for item in items]
    lists += [
        tool.get("definition")
        for message in _objects(fields.get("messages"))
        for block in _objects(message.get("content"))
        for tool in _objects(block.get("tool"))
    ]
    for tools in lists:
        for tool in _objects(tools):
            yield from _models_of(tool)
            yield from _models_of(tool.get("svg"))
    found = list(_objects(fields.get("data_sources")))  # of Azure, on one's own data
    for name in ("parameters", "embedding_dependency"):
        found = [
            inner
            for one in found
            for key in _spellings([one], name)
            for inner in _objects(one[key])
        ]
    for one in found:
        for key in _spellings([one], "deployment_name"):
            yield from _strings(one[key])
    # Bedrock hands these on to the model as its own API has them.
    inner = fields.get("additionalModelRequestFields")
    if isinstance(inner, dict):
        yield from _models_of(inner)
        yield from further_models(inner)


_CONTAINERS: Final = frozenset({dict, list})


def names_models(fields: dict[str, JsonValue], list_field: str | None) -> bool:
    """Return whether the fragments of a body, of *list_field* or a value, name a further model."""
    named = {name: fields[name] for name in VALUE_FIELDS.intersection(fields)}
    messages = fields.get(list_field or "")
    if isinstance(messages, list) and (  # at the speed of C: most of them are one text
        not _OBJECT.issuperset(map(type, messages))
        or _spellings(messages, "tools")  # type: ignore[arg-type]  # all are objects, by the line above
        or not _CONTAINERS.isdisjoint(map(type, map(_content_of, messages)))
    ):
        named[list_field or ""] = [
            one
            for one in messages
            if isinstance(one, dict)
            and (_spellings([one], "tools") or isinstance(one.get("content"), (list, dict)))
        ]
    # Of any dialect: a fragment that may name a model is not kept, and costs time alone.
    return bool(named) and next(chain(further_models(named), _nested(named)), None) is not None


def _spellings(objects: Iterable[Fields], name: str) -> list[str]:
    """Return the keys of *objects* that are *name* to a provider that takes names in any case."""
    return [key for key in set(chain.from_iterable(objects)) if key.casefold() == name]


def _models_of(value: JsonValue) -> Iterator[str]:
    for item in _objects(value):
        for name, inner in item.items():
            # A provider that takes names in any case would run it.
            if name == "model" or name.casefold() == "model":
                yield from _strings(inner)


def _objects(value: JsonValue) -> Iterator[dict[str, JsonValue]]:
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, dict):
            yield item


def _strings(value: JsonValue) -> Iterator[str]:
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, str):
            yield item


_FIELDS: Final = frozenset(
    {
        "max_tokens",  # OpenAI chat until 2024, completions; Anthropic
        "max_completion_tokens",  # OpenAI chat
        "max_output_tokens",  # OpenAI responses
        "maxOutputTokens",  # Gemini
        "maxTokens",  # Bedrock converse
        # Bedrock invoke: Llama, Titan, Nova, Claude's older API
        *("max_gen_len", "maxTokenCount", "max_new_tokens", "max_tokens_to_sample"),
    }
)
_HOLDERS: Final = frozenset(
    {
        *("generationConfig", "generation_config"),  # Gemini
        *("inferenceConfig", "additionalModelRequestFields"),  # Bedrock converse
        "textGenerationConfig",  # Titan
        "fallbacks",  # Anthropic: each may have a bound of its own
    }
)
_CHOICES: Final = frozenset({"n", "best_of", "candidateCount", "candidate_count"})
_BOUNDS: Final = _FIELDS | _CHOICES
MOST_OUTPUT_TOKENS: Final = 10_000_000
"""No model writes as much; more is a mistake, or meant to overflow something."""


def output_bound(fields: dict[str, JsonValue]) -> tuple[int | None, int, int]:
    """Return the most tokens of all choices together, how many choices there are, and the least.

    The bound is None without such a field. The least are tokens to reserve also without a bound.

    Of several fields the largest counts: it is unknown which one the provider uses.
    """
    holders = [fields]
    for name in _HOLDERS.intersection(fields):
        holders += _objects(fields[name])
    bound: int | None = None
    choices, least = 1, 0
    for holder in holders:
        for name in _BOUNDS.intersection(holder):
            value = holder[name]
            if is_text := isinstance(value, str):
                try:  # as a lenient provider reads it
                    value = int(max(0.0, min(float(value), MOST_OUTPUT_TOKENS))) or None
                except ValueError:  # no number, or NaN
                    continue
            if not isinstance(value, (int, float)) or isinstance(value, bool) or value < 0:
                continue
            number = int(min(value, MOST_OUTPUT_TOKENS))
            if name in _CHOICES:
                choices = max(choices, number)
            elif is_text and holder is fields:
                # Of two servers for OpenAI's API one reads the number, such as vLLM, and the other
                # may ignore the field. So it only makes larger what is reserved and compared with
                # a limit. A text without a number bounds nothing at either of them.
                least = max(least, number)
            else:  # the JSON form of protocol buffers has numbers in texts as well
                bound = number if bound is None else max(bound, number)
    prompts = fields.get("prompt")
    if isinstance(prompts, list):  # of completions: texts, or lists of tokens, are a prompt each
        choices *= max(1, sum([isinstance(one, (str, list)) for one in prompts]))
    most = None if bound is None else min(bound * choices, MOST_OUTPUT_TOKENS)
    if least:  # without a call for most requests
        least = min(least * choices, MOST_OUTPUT_TOKENS)
        most = None if most is None else max(most, least)
    return most, choices, least


TIER_FIELDS: Final = frozenset({"service_tier", "serviceTier", "speed"})


def service_tier(fields: Mapping[str, JsonValue]) -> str | None:
    """Return the service tier that a request names, None without prices of its own."""
    named = [fields.get(name) for name in TIER_FIELDS]
    # Bedrock has it in an object, Google's API as the name of an enum, too.
    words = [one.get("type") if isinstance(one, dict) else one for one in named]
    lower = [word.lower().removeprefix("service_tier_") for word in words if isinstance(word, str)]
    if "fast" in lower:  # OpenAI's other name of it, and Anthropic's `speed`
        lower.append("priority")
    return next((tier for tier in SERVICE_TIERS if tier in lower), None)


_OF_VERTEX_AI: Final = "x-vertex-ai-llm-shared-request-type"
_OF_INVOKE: Final = "x-amzn-bedrock-service-tier"
TIER_NAMES: Final = TIER_FIELDS | {_OF_VERTEX_AI, _OF_INVOKE}
"""Fields, and headers of Vertex AI and of Bedrock's `invoke`, whose bodies have no such field."""
_CHEAPER: Final = "flex"
"""Left out in a header: where the provider ignores that, it bills the price without a tier."""


def named_tier(route: Route, headers: Headers, fields: Mapping[str, JsonValue]) -> str | None:
    """Return the tier that a body names, or a dearer one that a header of its API names."""
    in_body, header = service_tier(fields), None
    if route.dialect is Dialect.VERTEX_AI or route.has_google_names:
        header = _OF_VERTEX_AI
    elif route.operation is Operation.INVOKE_MODEL:
        header = _OF_INVOKE
    values = () if header is None else headers.all(header)
    named = {value.decode("latin-1").strip().lower() for value in values} - {_CHEAPER}
    return next((tier for tier in SERVICE_TIERS if tier in {in_body, *named}), None)


TOOL_FIELDS: Final = frozenset({"tools", "web_search_options"})

_BILLED_TOOLS: Final = {
    **dict.fromkeys(
        (
            "web_search", "web_search_preview", "web_search_2", "web_search_preview_2",
            "google_search", "googleSearch", "google_search_retrieval", "googleSearchRetrieval",
            "enterprise_web_search", "enterpriseWebSearch",
        ),
        "web_search",
    ),
    "google_maps": "maps", "googleMaps": "maps", "file_search": "file_search",
    "code_interpreter": "code", "code_execution_2": "code", "image_generation": "image",
}  # fmt: skip
"""Tools that a provider bills by call, file or hour, by type or, of Google's, by member.

`_2` is the beginning of a date: Anthropic bills the hours of its code, Google none.
"""


def billed_tools(
    fields: Mapping[str, JsonValue], reading: Reading | None = None
) -> tuple[str, ...]:
    """Return the tools that the provider runs and bills beside tokens, each once.

    A *reading* has those of `tools`, of which the *fields* may have a stand-in.
    """
    found = {"web_search": None} if "web_search_options" in fields else {}
    if reading is not None:
        return tuple(found | dict.fromkeys(reading.billed_tools))
    tools = fields.get("tools")
    for tool in tools if isinstance(tools, list) else ():
        if isinstance(tool, dict):
            kind = tool.get("type")
            if kind is None:
                found |= {_BILLED_TOOLS[name]: None for name in tool.keys() & _BILLED_TOOLS.keys()}
            elif kind != "function" and isinstance(kind, str):
                name, dated, _ = kind.partition("_2")
                if (part := _BILLED_TOOLS.get(name + dated)) is not None:
                    found[part] = None
    return tuple(found)


def enclosed_document(node: Fields) -> Fields | None:
    """Return the request body that a `body` in base64 holds; None if that is not all there is."""
    body = node.get("body")
    if len(node) != 1 or not isinstance(body, str):
        return None
    try:
        document = parse(binascii.a2b_base64(body, strict_mode=True))
    except ValueError:  # not base64, or not ASCII
        return None
    return document if isinstance(document, dict) else None


_JSON: Final = (b"application/json",)


def declared_unreadable(headers: Headers) -> UnscannedReason | None:
    """Return why a body of these *headers* cannot be read, whatever it is; None if it can."""
    if HeaderName.CONTENT_ENCODING in headers.by_name:
        for encoding in headers.all(HeaderName.CONTENT_ENCODING):
            if encoding.strip().lower() not in NO_ENCODING:
                return UnscannedReason.ENCODED_BODY
    types = headers.all(HeaderName.CONTENT_TYPE)
    if not types or types == _JSON:
        return None
    if len(set(types)) > 1:
        return UnscannedReason.CHARSET
    # Read a media type (RFC 9110 section 8.3.1); an odd parameter counts as a charset.
    content_type = types[0].decode("latin-1")
    media_type, *parameters = (piece.strip().lower() for piece in content_type.split(";"))
    if media_type not in {"", "application/json"} and not (
        media_type.endswith("+json") and "," not in media_type
    ):
        return UnscannedReason.UNKNOWN_SHAPE
    for parameter in parameters:
        if is_other_charset(parameter):
            return UnscannedReason.CHARSET
        value = parameter.partition("=")[2]
        if '"' in value and "=" in value:
            return UnscannedReason.CHARSET  # a quoted value may hide another parameter
    return None
