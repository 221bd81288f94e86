"""Recognises the provider API and the operation of a request by method, path and headers."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from sidecar.domain.http import HeaderName, Headers
from sidecar.domain.subject import Dialect, Operation, RequestForm, Route, UnknownRoute

_NO_HEADERS: Final = Headers()


def _openai(dialect: Dialect) -> dict[tuple[str, str], Route]:
    """Return the routes below the root of OpenAI's API, by method and path."""

    def post(operation: Operation, form: RequestForm = RequestForm.ANY_OBJECT) -> Route:
        return Route(dialect, operation, has_body=True, form=form)

    return {
        ("POST", "chat/completions"): post(Operation.CHAT, RequestForm.MESSAGES),
        ("POST", "completions"): post(Operation.TEXT_COMPLETION, RequestForm.PROMPT),
        ("POST", "responses"): post(Operation.CHAT, RequestForm.RESPONSES),
        ("POST", "responses/input_tokens"): post(Operation.COUNT_TOKENS, RequestForm.RESPONSES),
        ("POST", "responses/compact"): post(Operation.CHAT, RequestForm.RESPONSES),
        ("POST", "embeddings"): post(Operation.EMBEDDINGS, RequestForm.INPUT),
        ("POST", "decisions"): post(Operation.CHAT, RequestForm.INPUT),
        ("POST", "moderations"): post(Operation.MODERATION, RequestForm.INPUT),
        ("POST", "images/generations"): post(Operation.IMAGE_GENERATION, RequestForm.PROMPT),
        ("POST", "images/edits"): post(Operation.IMAGE_GENERATION),
        ("POST", "images/variations"): post(Operation.IMAGE_GENERATION),
        ("POST", "audio/speech"): post(Operation.SPEECH, RequestForm.INPUT),
        ("POST", "audio/transcriptions"): post(Operation.TRANSCRIPTION),
        ("POST", "audio/translations"): post(Operation.TRANSCRIPTION),
        ("POST", "conversations"): post(Operation.STORED_RESPONSE),
        ("GET", "models"): Route(dialect, Operation.LIST_MODELS, has_body=False),
    }


_OPENAI: Final = _openai(Dialect.OPENAI)
_AZURE: Final = _openai(Dialect.AZURE_OPENAI)

_COUNT_OF_ANTHROPIC: Final = Route(
    Dialect.ANTHROPIC, Operation.COUNT_TOKENS, has_body=True, form=RequestForm.MESSAGES
)
_ANTHROPIC: Final = {
    "messages": replace(_COUNT_OF_ANTHROPIC, operation=Operation.CHAT),
    "messages/count_tokens": _COUNT_OF_ANTHROPIC,
}

_EXACT: Final = {
    **{(method, f"/v1/{path}"): route for (method, path), route in _OPENAI.items()},
    **{
        (method, f"{below}/openai/v1/{path}"): route
        for (method, path), route in _AZURE.items()
        for below in ("", "/azure")
    },
    # Of Anthropic itself, and of Azure AI Foundry.
    **{("POST", f"/v1/{path}"): route for path, route in _ANTHROPIC.items()},
    **{("POST", f"/anthropic/v1/{path}"): route for path, route in _ANTHROPIC.items()},
    **{
        ("POST", f"{below}/{path}"): Route(
            Dialect.GEMINI, Operation.GENERATE_CONTENT, has_body=True, form=form
        )
        for path, form in (
            ("v1/cachedContents", RequestForm.ANY_OBJECT),  # a model reads it with a later request
            ("v1beta/cachedContents", RequestForm.ANY_OBJECT),
            ("v1/interactions", RequestForm.INTERACTION),
            ("v1beta/interactions", RequestForm.INTERACTION),
            ("v1beta/decisions", RequestForm.INTERACTION),  # below `/v1` they are OpenAI's
        )
        for below in ("", "/gemini")
    },
    # Gemini for clients of OpenAI.
    **{
        ("POST", f"{below}/v1beta/openai/{path}"): replace(
            _OPENAI["POST", path], has_google_names=True
        )
        for path in ("chat/completions", "embeddings")
        for below in ("", "/gemini")
    },
    **{
        ("GET", f"{below}/v1beta/models"): Route(
            Dialect.GEMINI, Operation.LIST_MODELS, has_body=False
        )
        for below in ("", "/gemini")
    },
}
"""LiteLLM has `/gemini`, `/azure` and `/bedrock` before an API's own path; Envoy removes them."""

# A segment that no server normalises: no escape, no `;`, no dot at its start.
_NAME: Final = r"[A-Za-z0-9_-][A-Za-z0-9._-]*"

_ONE_MODEL: Final = re.compile(
    r"/(v1|(gemini/)?v1beta|(azure/)?openai/v1)/models/[A-Za-z0-9_:-][A-Za-z0-9._:-]*"
)

_STORED: Final = re.compile(
    r"/(?:(v1|(?:azure/)?openai/v1)/(responses|chat/completions|conversations)"
    r"|(?:gemini/)?v1(?:beta)?/(cachedContents|interactions))/[A-Za-z0-9_-]+(/[a-z_]+)?"
    r"(?:(?<=/items)(/)[A-Za-z0-9_-]+)?"
)
"""Content that was stored before: its text was judged when it came, and ids cannot be guessed.
No route lists the content of others."""

_STORED_METHODS: Final[dict[str, dict[str, bool]]] = {
    "responses": {"GET": False, "DELETE": False},
    "responses/cancel": {"POST": False},
    "responses/input_items": {"GET": False},
    "chat/completions": {"GET": False, "DELETE": False, "POST": True},
    "chat/completions/messages": {"GET": False},
    "conversations": {"GET": False, "DELETE": False, "POST": True},
    "conversations/items": {"GET": False, "POST": True},
    "conversations/items/": {"GET": False, "DELETE": False},
    "cachedContents": {"GET": False, "DELETE": False, "PATCH": True},
    "interactions": {"GET": False, "DELETE": False},
    "interactions/cancel": {"POST": False},
}
"""By the path without ids: the methods, and whether each brings text."""

_STORED_FORMS: Final = {
    "responses": RequestForm.RESPONSES,
    "interactions": RequestForm.INTERACTION,
}
"""Of answers that come in typed events again, with `stream` in the query."""

_VERTEX_CACHES: Final = {
    ("POST", False): Route(Dialect.VERTEX_AI, Operation.GENERATE_CONTENT, has_body=True),
    **{
        (method, True): Route(Dialect.VERTEX_AI, Operation.STORED_RESPONSE, has_body=has_body)
        for method, has_body in _STORED_METHODS["cachedContents"].items()
    },
}
"""By the method, and whether the path names one cache."""

_DEPLOYMENT: Final = re.compile(rf"(?:/azure)?/openai/deployments/({_NAME})/(.+)")
_NOT_OF_A_DEPLOYMENT: Final = frozenset({"responses", "conversations", "decisions", "models"})

_GEMINI: Final = re.compile(rf"(?:/gemini)?/(?:v1|v1beta)/models/({_NAME}):([A-Za-z]+)")

_GEMINI_METHODS: Final = {
    "generateContent": (Operation.GENERATE_CONTENT, RequestForm.CONTENTS),
    "streamGenerateContent": (Operation.GENERATE_CONTENT, RequestForm.CONTENTS),
    "countTokens": (Operation.COUNT_TOKENS, RequestForm.ANY_OBJECT),
    "embedContent": (Operation.EMBEDDINGS, RequestForm.CONTENT),
    "batchEmbedContents": (Operation.EMBEDDINGS, RequestForm.REQUESTS),
}

_VERTEX: Final = re.compile(
    rf"/(?:v1|v1beta1)/projects/{_NAME}/locations/{_NAME}"
    rf"/(?:publishers/(google|anthropic)/models/({_NAME}(?:@{_NAME})?):([A-Za-z]+)"
    r"|endpoints/openapi/chat/completions|(cachedContents)(/[A-Za-z0-9_-]+)?)"
)
_VERTEX_METHODS: Final = {
    "google": {
        name: _GEMINI_METHODS[name]
        for name in ("generateContent", "streamGenerateContent", "countTokens")
    },
    "anthropic": {
        "rawPredict": (Operation.CHAT, RequestForm.MESSAGES),
        "streamRawPredict": (Operation.CHAT, RequestForm.MESSAGES),
    },
}
_VERTEX_DIALECTS: Final = {"google": Dialect.VERTEX_AI, "anthropic": Dialect.ANTHROPIC}
_COUNTER: Final = ("anthropic", "count-tokens", "rawPredict")
"""Counts the tokens of a request to the model that its body names."""

_BEDROCK: Final = re.compile(r"(?:/bedrock)?/model/((?:[A-Za-z0-9._:-]|%3[Aa]|%2[Ff])+)/([a-z-]+)")

_BEDROCK_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*(?:/[A-Za-z0-9][A-Za-z0-9._:-]*)*")
"""An id or an ARN; no segment of it can climb, should a server behind us decode its slashes."""

_BEDROCK_ARN: Final = re.compile(
    r"arn:[a-z0-9-]+:bedrock:[a-z0-9-]*:[0-9]*:(?:foundation-model|inference-profile)/([^/]+)"
)
"""Of a model or profile of AWS's own, with its id at the end; others have ids of no meaning."""

_BEDROCK_METHODS: Final = {
    "converse": (Operation.CHAT, RequestForm.CONVERSE),
    "converse-stream": (Operation.CHAT, RequestForm.CONVERSE),
    "invoke": (Operation.INVOKE_MODEL, RequestForm.ANY_OBJECT),
    "invoke-with-response-stream": (Operation.INVOKE_MODEL, RequestForm.ANY_OBJECT),
    "count-tokens": (Operation.COUNT_TOKENS, RequestForm.ANY_OBJECT),
}

_STREAMS: Final = frozenset(
    {"streamGenerateContent", "streamRawPredict", "converse-stream", "invoke-with-response-stream"}
)


def recognise(method: str, path: str, headers: Headers = _NO_HEADERS) -> Route | UnknownRoute:
    """Return the route of an exact path; the query string does not matter.

    Nothing is normalised: a path that a server behind us might read in another way (escapes,
    double or trailing slashes, `;` parameters, dot segments) is unknown, hence unscanned.
    *headers* decide which provider's models `/v1/models` lists.
    """
    bare = path.partition("?")[0]
    route = _EXACT.get((method, bare)) or _by_pattern(method, bare)
    if route is None:
        return UnknownRoute(guess_dialect(path, headers))
    if route.operation is Operation.LIST_MODELS:
        return replace(route, dialect=guess_dialect(path, headers))
    return route


def _by_pattern(method: str, path: str) -> Route | None:
    if method == "POST" and (found := _GEMINI.fullmatch(path)):
        return _of_model(Dialect.GEMINI, found[1], _GEMINI_METHODS, found[2])
    if found := _VERTEX.fullmatch(path):
        return _of_vertex_ai(method, found)
    if method == "POST" and (found := _BEDROCK.fullmatch(path)):
        model = re.sub("%2[Ff]", "/", re.sub("%3[Aa]", ":", found[1]))
        if _BEDROCK_MODEL.fullmatch(model):
            return _of_model(Dialect.BEDROCK, bedrock_id(model), _BEDROCK_METHODS, found[2])
    if method == "POST" and (found := _DEPLOYMENT.fullmatch(path)):
        # Azure's older paths: the deployment is the model, regardless of the body.
        deployed = _AZURE.get(("POST", found[2]))
        if deployed is None or found[2].partition("/")[0] in _NOT_OF_A_DEPLOYMENT:
            return None
        return replace(deployed, model=found[1])
    if method == "GET" and _ONE_MODEL.fullmatch(path):
        return _OPENAI["GET", "models"]
    if stored := _STORED.fullmatch(path):
        root, *names = stored.groups()
        methods = _STORED_METHODS.get("".join(filter(None, names)), {})
        dialect = Dialect.AZURE_OPENAI if root else Dialect.GEMINI
        if method in methods:
            return Route(
                Dialect.OPENAI if root == "v1" else dialect,
                Operation.STORED_RESPONSE,
                has_body=methods[method],
                form=_STORED_FORMS.get("".join(filter(None, names)), RequestForm.ANY_OBJECT),
            )
    return None


def _of_vertex_ai(method: str, path: re.Match[str]) -> Route | None:
    publisher, model, call, caches, cache = path.groups()
    if caches is not None:
        return _VERTEX_CACHES.get((method, cache is not None))
    if method != "POST":
        return None
    if publisher is None:
        return replace(_OPENAI["POST", "chat/completions"], has_google_names=True)
    if (publisher, model, call) == _COUNTER:
        return _COUNT_OF_ANTHROPIC
    return _of_model(_VERTEX_DIALECTS[publisher], model, _VERTEX_METHODS[publisher], call)


def bedrock_id(model: str) -> str:
    """Return the id of a model, which Bedrock also takes in the form of an ARN.

    Else a client could choose between two names, and so whether a limit, a price or a guardrail
    for the model holds.
    """
    found = _BEDROCK_ARN.fullmatch(model)
    return model if found is None else found[1]


def _of_model(
    dialect: Dialect,
    model: str,
    methods: dict[str, tuple[Operation, RequestForm]],
    method: str,
) -> Route | None:
    if method not in methods:
        return None
    operation, form = methods[method]
    streams = method in _STREAMS
    return Route(dialect, operation, has_body=True, form=form, model=model, is_streamed=streams)


_PREFIX: Final = re.compile(
    r"(/v1/messages(?![\w-])|/anthropic(?![\w-])"
    r"|/v1(?:beta1)?/projects/[^/]+/locations/[^/]+/publishers/anthropic/)"
    r"|((?:/gemini)?(?:/v1beta(?![\w-])(?!/openai/)|/v1/models/[^/:]+:[A-Za-z]+(?:\?|$)"
    r"|/v1/(?:cachedContents|interactions)(?![\w-])))"
    r"|((?:/azure)?/openai(?![\w-]))"
    r"|((?:/bedrock)?/(?:model|guardrail|guardrail-checks|async-invoke)(?![\w-]))"
    r"|(/v1(?:beta1)?/projects/(?![^?]*/endpoints/openapi/))",
    re.ASCII,
)
_OF_PREFIX: Final = (
    Dialect.ANTHROPIC,
    Dialect.GEMINI,
    Dialect.AZURE_OPENAI,
    Dialect.BEDROCK,
    Dialect.VERTEX_AI,
)


def guess_dialect(path: str, headers: Headers) -> Dialect:
    """Return the dialect that a refusal should use.

    Below `/v1` are paths of several; only Anthropic's clients send `anthropic-version`, only
    Google's send their key in `x-goog-api-key`.
    """
    found = _PREFIX.match(path)
    if found is not None and found.lastindex is not None:
        return _OF_PREFIX[found.lastindex - 1]
    if HeaderName.ANTHROPIC_VERSION in headers.by_name:
        return Dialect.ANTHROPIC
    is_google = HeaderName.X_GOOG_API_KEY in headers.by_name
    if is_google and ("POST", path.partition("?")[0]) not in _EXACT:
        return Dialect.GEMINI
    return Dialect.OPENAI
