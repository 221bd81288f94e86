from __future__ import annotations

from dataclasses import replace

import pytest

from sidecar.apis.routes import guess_dialect, recognise
from sidecar.domain.http import Headers
from sidecar.domain.subject import Dialect, Operation, RequestForm, Route, UnknownRoute

OPENAI, AZURE = Dialect.OPENAI, Dialect.AZURE_OPENAI
ANTHROPIC, GEMINI, BEDROCK = Dialect.ANTHROPIC, Dialect.GEMINI, Dialect.BEDROCK
VERTEX_AI = Dialect.VERTEX_AI
ANTHROPIC_VERSION = Headers((("anthropic-version", b"2023-06-01"),))
GOOGLE_KEY = Headers((("x-goog-api-key", b"egk"),))


def _content(dialect: Dialect, operation: Operation, form: str, model: str | None = None) -> Route:
    return Route(dialect, operation, has_body=True, form=RequestForm(form), model=model)


def _google(route: Route) -> Route:
    return replace(route, has_google_names=True)


def _bare(dialect: Dialect, operation: Operation, form: str = "any_object") -> Route:
    return Route(dialect, operation, has_body=False, form=RequestForm(form))


GENERATE = Operation.GENERATE_CONTENT
VERTEX_PATH = "/v1beta1/projects/p/locations/eu"
STORED = _content(OPENAI, Operation.STORED_RESPONSE, "any_object")

OPENAI_PATHS = [
    ("POST", "chat/completions", Operation.CHAT, "messages"),
    ("POST", "completions", Operation.TEXT_COMPLETION, "prompt"),
    ("POST", "responses", Operation.CHAT, "responses"),
    ("POST", "responses/compact", Operation.CHAT, "responses"),
    ("POST", "responses/input_tokens", Operation.COUNT_TOKENS, "responses"),
    ("POST", "embeddings", Operation.EMBEDDINGS, "input"),
    ("POST", "decisions", Operation.CHAT, "input"),
    ("POST", "conversations", Operation.STORED_RESPONSE, "any_object"),
    ("POST", "moderations", Operation.MODERATION, "input"),
    ("POST", "images/generations", Operation.IMAGE_GENERATION, "prompt"),
    ("POST", "images/edits", Operation.IMAGE_GENERATION, "any_object"),
    ("POST", "images/variations", Operation.IMAGE_GENERATION, "any_object"),
    ("POST", "audio/speech", Operation.SPEECH, "input"),
    ("POST", "audio/transcriptions", Operation.TRANSCRIPTION, "any_object"),
    ("POST", "audio/translations", Operation.TRANSCRIPTION, "any_object"),
]


@pytest.mark.parametrize(("root", "dialect"), [("/v1", OPENAI), ("/openai/v1", AZURE)])
@pytest.mark.parametrize(("method", "path", "operation", "form"), OPENAI_PATHS)
def test_openais_paths_are_known_below_its_root_and_azures(
    *, root: str, dialect: Dialect, method: str, path: str, operation: Operation, form: str
) -> None:
    """The body says which model; a query string changes nothing."""
    route = _content(dialect, operation, form)
    assert recognise(method, f"{root}/{path}") == route
    assert recognise(method, f"{root}/{path}?api-version=preview") == route


@pytest.mark.parametrize(
    ("method", "path", "route"),
    [
        ("GET", "/v1/models", _bare(OPENAI, Operation.LIST_MODELS)),
        ("GET", "/v1/models/gpt-4o", _bare(OPENAI, Operation.LIST_MODELS)),
        ("GET", "/v1/models/ft:gpt-4o-mini:acme::Ab12", _bare(OPENAI, Operation.LIST_MODELS)),
        ("GET", "/openai/v1/models", _bare(AZURE, Operation.LIST_MODELS)),
        ("GET", "/openai/v1/models/gpt-4o", _bare(AZURE, Operation.LIST_MODELS)),
        ("GET", "/v1beta/models", _bare(GEMINI, Operation.LIST_MODELS)),
        ("GET", "/v1beta/models/gemini-2.5-pro", _bare(GEMINI, Operation.LIST_MODELS)),
        ("GET", "/v1/responses/resp_1", _bare(OPENAI, STORED.operation, "responses")),
        ("DELETE", "/v1/responses/resp_1", _bare(OPENAI, STORED.operation, "responses")),
        ("POST", "/v1/responses/resp_1/cancel", _bare(OPENAI, Operation.STORED_RESPONSE)),
        ("GET", "/v1/responses/resp_1/input_items", _bare(OPENAI, Operation.STORED_RESPONSE)),
        ("GET", "/openai/v1/responses/resp_1", _bare(AZURE, STORED.operation, "responses")),
        ("GET", "/v1/chat/completions/c-1", _bare(OPENAI, Operation.STORED_RESPONSE)),
        ("GET", "/v1/chat/completions/c-1/messages", _bare(OPENAI, Operation.STORED_RESPONSE)),
        ("POST", "/v1/chat/completions/c-1", STORED),
        ("GET", "/v1/conversations/conv_1", _bare(OPENAI, Operation.STORED_RESPONSE)),
        ("POST", "/v1/conversations/conv_1", STORED),
        ("GET", "/v1/conversations/conv_1/items", _bare(OPENAI, Operation.STORED_RESPONSE)),
        ("POST", "/v1/conversations/conv_1/items?include=a", STORED),
        ("DELETE", "/v1/conversations/conv_1/items/msg_A", _bare(OPENAI, STORED.operation)),
        ("POST", "/v1beta/cachedContents", _content(GEMINI, GENERATE, "any_object")),
        ("POST", "/v1beta/interactions", _content(GEMINI, GENERATE, "interaction")),
        ("POST", "/v1/interactions", _content(GEMINI, GENERATE, "interaction")),
        ("DELETE", "/v1/cachedContents/c-1", _bare(GEMINI, STORED.operation)),
        ("POST", "/v1beta/decisions", _content(GEMINI, GENERATE, "interaction")),
        (
            "GET",
            "/v1beta/interactions/i-1?stream=true",
            _bare(GEMINI, STORED.operation, "interaction"),
        ),
        ("POST", "/v1beta/interactions/i-1/cancel", _bare(GEMINI, STORED.operation)),
        ("GET", "/v1beta/cachedContents/c-1", _bare(GEMINI, STORED.operation)),
        ("PATCH", "/v1beta/cachedContents/c-1?updateMask=ttl", replace(STORED, dialect=GEMINI)),
        ("POST", f"{VERTEX_PATH}/cachedContents", _content(VERTEX_AI, GENERATE, "any_object")),
        ("GET", f"{VERTEX_PATH}/cachedContents/7", _bare(VERTEX_AI, STORED.operation)),
        ("PATCH", f"{VERTEX_PATH}/cachedContents/7", replace(STORED, dialect=VERTEX_AI)),
        ("POST", "/v1/messages", _content(ANTHROPIC, Operation.CHAT, "messages")),
        (
            "POST",
            "/v1/messages/count_tokens",
            _content(ANTHROPIC, Operation.COUNT_TOKENS, "messages"),
        ),
        ("POST", "/v1/messages?beta=true", _content(ANTHROPIC, Operation.CHAT, "messages")),
        ("POST", "/anthropic/v1/messages", _content(ANTHROPIC, Operation.CHAT, "messages")),
        (
            "POST",
            "/anthropic/v1/messages/count_tokens",
            _content(ANTHROPIC, Operation.COUNT_TOKENS, "messages"),
        ),
        (
            "POST",
            "/v1beta/openai/chat/completions",
            _google(_content(OPENAI, Operation.CHAT, "messages")),
        ),
        (
            "POST",
            "/v1beta/openai/embeddings",
            _google(_content(OPENAI, Operation.EMBEDDINGS, "input")),
        ),
    ],
)
def test_known_paths_are_recognised(method: str, path: str, route: Route) -> None:
    """Every operation of the supported APIs has its route."""
    assert recognise(method, path) == route


@pytest.mark.parametrize(
    ("below", "method", "path"),
    [
        ("/gemini", "POST", "/v1beta/models/gemini-2.5-pro:streamGenerateContent"),
        ("/gemini", "POST", "/v1/models/gemini-2.5-pro:generateContent"),
        ("/gemini", "POST", "/v1beta/openai/chat/completions"),
        ("/gemini", "POST", "/v1beta/cachedContents"),
        ("/gemini", "DELETE", "/v1beta/cachedContents/c-1"),
        ("/azure", "POST", "/openai/v1/conversations/conv_1/items"),
        ("/gemini", "GET", "/v1beta/models"),
        ("/gemini", "GET", "/v1beta/models/gemini-2.5-pro"),
        ("/azure", "POST", "/openai/deployments/a/chat/completions"),
        ("/azure", "POST", "/openai/v1/responses"),
        ("/azure", "DELETE", "/openai/v1/responses/resp_1"),
        ("/azure", "GET", "/openai/v1/models/gpt-4o"),
        ("/bedrock", "POST", "/model/eu.anthropic.claude-v2%3A1/converse-stream"),
    ],
)
def test_litellms_prefix_of_an_api_leads_to_the_same_route(
    below: str, method: str, path: str
) -> None:
    """Of its own API alone; another one, or the prefix twice, is an unknown path."""
    route = recognise(method, path)
    assert isinstance(route, Route)
    assert recognise(method, f"{below}{path}") == route
    for wrong in (f"{below}{below}", f"{below}/.", "/openai", "/litellm", f"/{below}"):
        assert isinstance(recognise(method, f"{wrong}{path}"), UnknownRoute)


@pytest.mark.parametrize(
    ("path", "operation", "form"),
    [
        ("chat/completions", Operation.CHAT, "messages"),
        ("completions", Operation.TEXT_COMPLETION, "prompt"),
        ("embeddings", Operation.EMBEDDINGS, "input"),
        ("images/generations", Operation.IMAGE_GENERATION, "prompt"),
        ("audio/transcriptions", Operation.TRANSCRIPTION, "any_object"),
    ],
)
def test_azures_deployment_is_the_model(path: str, operation: Operation, form: str) -> None:
    """The path decides which model runs, so the path is where it is read."""
    deployed = f"/openai/deployments/our.gpt-4o_1/{path}?api-version=2024-10-21"
    assert recognise("POST", deployed) == _content(AZURE, operation, form, "our.gpt-4o_1")


@pytest.mark.parametrize(
    ("method", "operation", "form"),
    [
        ("generateContent", Operation.GENERATE_CONTENT, "contents"),
        ("streamGenerateContent", Operation.GENERATE_CONTENT, "contents"),
        ("countTokens", Operation.COUNT_TOKENS, "any_object"),
        ("embedContent", Operation.EMBEDDINGS, "content"),
        ("batchEmbedContents", Operation.EMBEDDINGS, "requests"),
    ],
)
@pytest.mark.parametrize("version", ["v1", "v1beta"])
def test_geminis_model_and_stream_are_in_the_path(
    version: str, method: str, operation: Operation, form: str
) -> None:
    """Of both versions of the API."""
    route = recognise("POST", f"/{version}/models/gemini-2.5-pro:{method}?alt=sse")
    assert route == Route(
        GEMINI,
        operation,
        has_body=True,
        form=RequestForm(form),
        model="gemini-2.5-pro",
        is_streamed=method.startswith("stream"),
    )


@pytest.mark.parametrize(
    ("method", "operation"),
    [
        ("generateContent", Operation.GENERATE_CONTENT),
        ("streamGenerateContent", Operation.GENERATE_CONTENT),
        ("countTokens", Operation.COUNT_TOKENS),
    ],
)
@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_vertex_ai_is_gemini_s_api_below_a_project_and_a_location(
    version: str, method: str, operation: Operation
) -> None:
    """The provider has a name of its own."""
    path = f"/{version}/projects/p-1/locations/eu/publishers/google/models/gemini-2.5-pro:{method}"
    read = recognise("POST", f"/v1/models/gemini-2.5-pro:{method}")
    assert isinstance(read, Route)
    assert recognise("POST", path) == replace(read, dialect=VERTEX_AI)
    assert read.operation is operation


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
@pytest.mark.parametrize("method", ["rawPredict", "streamRawPredict"])
def test_claude_on_vertex_ai_is_anthropic_s_api_with_the_model_in_the_path(
    version: str, method: str
) -> None:
    """Its versions stand behind an `@`."""
    place = f"/{version}/projects/p-1/locations/global"
    path = f"{place}/publishers/anthropic/models/claude-sonnet-4-5@20250929:{method}"
    route = _content(ANTHROPIC, Operation.CHAT, "messages", "claude-sonnet-4-5@20250929")
    assert recognise("POST", path) == replace(route, is_streamed=method == "streamRawPredict")
    counter = f"{place}/publishers/anthropic/models/count-tokens:rawPredict"
    assert recognise("POST", counter) == _content(ANTHROPIC, Operation.COUNT_TOKENS, "messages")
    chat = f"{place}/endpoints/openapi/chat/completions"
    assert recognise("POST", chat) == _google(_content(OPENAI, Operation.CHAT, "messages"))


@pytest.mark.parametrize(
    ("written", "model"),
    [
        ("anthropic.claude-v2%3A1", "anthropic.claude-v2:1"),
        ("anthropic.claude-v2%3a1", "anthropic.claude-v2:1"),
        ("anthropic.claude-v2:1", "anthropic.claude-v2:1"),
        (
            "arn%3Aaws%3Abedrock%3Aeu-west-1%3A123456789012%3Ainference-profile%2Feu.claude-v2%3A1",
            "eu.claude-v2:1",
        ),
        (
            "arn:aws-us-gov:bedrock:us-gov-west-1::foundation-model%2Fanthropic.claude-v2:1",
            "anthropic.claude-v2:1",
        ),
        (
            "arn:aws:bedrock:eu-west-1:123456789012:application-inference-profile%2Fab12",
            "arn:aws:bedrock:eu-west-1:123456789012:application-inference-profile/ab12",
        ),
    ],
)
@pytest.mark.parametrize(
    ("method", "operation", "form"),
    [
        ("converse", Operation.CHAT, "converse"),
        ("converse-stream", Operation.CHAT, "converse"),
        ("invoke", Operation.INVOKE_MODEL, "any_object"),
        ("invoke-with-response-stream", Operation.INVOKE_MODEL, "any_object"),
        ("count-tokens", Operation.COUNT_TOKENS, "any_object"),
    ],
)
def test_bedrocks_model_is_judged_as_it_reads(
    written: str, model: str, method: str, operation: Operation, *, form: str
) -> None:
    """Clients escape its colons, and the slashes of an ARN; globs are written without.

    An ARN that has the model's id within is another way to write the id.
    """
    assert recognise("POST", f"/model/{written}/{method}") == Route(
        BEDROCK,
        operation,
        has_body=True,
        form=RequestForm(form),
        model=model,
        is_streamed="stream" in method,
    )


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/chat/completions"),  # lists what everybody stored
        ("GET", "/v1/responses"),
        ("POST", "/v1/responses/resp_1"),
        ("DELETE", "/v1/responses/resp_1/input_items"),
        ("GET", "/v1/responses/../x"),
        ("GET", "/v1/responses/a/b"),
        ("GET", "/v1/conversations"),
        ("POST", "/v1/conversations/conv_1/items/msg_A"),
        ("GET", "/v1/conversations/conv_1/items/.."),
        ("GET", "/v1/conversations/items/msg_A"),
        ("GET", "/v1/chat/completions/c-1/items/msg_A"),
        ("POST", "/v1/files"),
        ("POST", "/v1/batches"),
        ("post", "/v1/chat/completions"),
        ("POST", "/v1/models"),
        ("POST", "/v1/chat/completions/"),
        ("POST", "/v1//chat/completions"),
        ("POST", "//v1/chat/completions"),
        ("POST", "/v1/chat/completions;x=1"),
        ("POST", "/v1/chat%2Fcompletions"),
        ("POST", "/v1/./chat/completions"),
        ("POST", "/V1/chat/completions"),
        ("POST", "/v1/chat/completions#part"),
        ("POST", "/v1/chat/completions\n"),
        ("POST", "http://example.com/v1/chat/completions"),
        ("POST", ""),
        ("GET", "/v1/models/"),
        ("GET", "/v1/models/.."),
        ("GET", "/v1/models/a/b"),
        ("GET", "/v1/models/a;b"),
        ("GET", "/v1/models/a%2e"),
        ("GET", "/v1/models/é"),
        ("GET", "/v1/models/a\n"),
        ("POST", "/v1/models/../x:generateContent"),
        ("POST", "/v1/models/a%3AgenerateContent"),
    ],
)
def test_any_other_path_is_unknown(method: str, path: str) -> None:
    """What a server behind us could normalise to a known path is not taken for one."""
    assert recognise(method, path) == UnknownRoute(OPENAI)


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/v1/messages/", ANTHROPIC),
        ("/v1/messages/batches", ANTHROPIC),
        ("/v1/projects/p/locations/eu/publishers/google/models/a:predict", VERTEX_AI),
        ("/v1/projects/p/locations/eu/publishers/anthropic/models/a:predict", ANTHROPIC),
        ("/v1/projects/p/locations/eu/publishers/anthropic/models/a@:rawPredict", ANTHROPIC),
        ("/v1/projects/p/locations/eu/publishers/anthropic/models/a%40b:rawPredict", ANTHROPIC),
        ("/v1/projects/../locations/eu/publishers/anthropic/models/a:rawPredict", ANTHROPIC),
        (
            "/v1/projects/p/locations/eu/publishers/anthropic/models/count-tokens:streamRawPredict/",
            ANTHROPIC,
        ),
        ("/v1/projects/p/locations/eu/publishers/mistralai/models/a:rawPredict", VERTEX_AI),
        ("/v1/projects/p/locations/eu/publishers/google/models/a:rawPredict", VERTEX_AI),
        ("/v1/projects/p/locations/eu/endpoints/openapi/embeddings", OPENAI),
        ("/v1/projects/p/locations/eu/endpoints/4711/chat/completions", VERTEX_AI),
        ("/anthropic/v1/messages/batches", ANTHROPIC),
        ("/anthropic/v2/messages", ANTHROPIC),
        ("/anthropics", OPENAI),
        ("/v1/projects/../locations/eu/publishers/google/models/a:countTokens", VERTEX_AI),
        ("/v1/projects/p/locations/eu/publishers/google/models/a/b:countTokens", VERTEX_AI),
        ("/v1beta1/publishers/google/models/a:generateContent", OPENAI),
        ("/v1beta/models/a:predict", GEMINI),
        ("/v1beta/models/a/b:generateContent", GEMINI),
        ("/v1beta/models/..:generateContent", GEMINI),
        ("/v1beta/models/a%2e:generateContent", GEMINI),
        ("/v1beta/tunedModels/a:generateContent", GEMINI),
        ("/v1beta/cachedContents/c-1", GEMINI),
        ("/v1/projects/p/locations/eu/cachedContents/a/b", VERTEX_AI),
        ("/v1/projects/p/locations/../cachedContents", VERTEX_AI),
        ("/v1beta/openai/files", OPENAI),
        ("/v1beta/openai", GEMINI),
        ("/v1/models/a:generateContent:x", OPENAI),
        ("/openai/deployments/../chat/completions", AZURE),
        ("/openai/deployments/a/b/chat/completions", AZURE),
        ("/openai/deployments/a%2Fb/chat/completions", AZURE),
        ("/openai/deployments/a/responses", AZURE),
        ("/openai/deployments/a/conversations", AZURE),
        ("/openai/deployments/a/extensions/chat/completions", AZURE),
        ("/openai/files", AZURE),
        ("/gemini/v1beta/files", GEMINI),
        ("/azure/openai/files", AZURE),
        ("/bedrock/model/a/start-async-invoke", BEDROCK),
        ("/model/a/converse/", BEDROCK),
        ("/model/a/b/converse", BEDROCK),
        ("/model/a%2F..%2Fb/converse", BEDROCK),
        ("/model/a%2F%2Fb/converse", BEDROCK),
        ("/model/%2Fa/converse", BEDROCK),
        ("/model/../converse", BEDROCK),
        ("/model/a%252Fb/converse", BEDROCK),
        ("/model/a%00/converse", BEDROCK),
        ("/model/a/start-async-invoke", BEDROCK),
    ],
)
def test_odd_paths_are_unknown_in_their_own_apis_words(path: str, dialect: Dialect) -> None:
    """No model can be named past the list of allowed ones; the client can read the refusal."""
    assert recognise("POST", path) == UnknownRoute(dialect)


@pytest.mark.parametrize(
    ("path", "headers", "dialect"),
    [
        ("/v1/messages", Headers(), ANTHROPIC),
        ("/v1/messages?beta=true", Headers(), ANTHROPIC),
        ("/v1/messages;x", Headers(), ANTHROPIC),
        ("/v1/messages_of_others", Headers(), OPENAI),
        ("/v1beta/models", Headers(), GEMINI),
        ("/v1beta2/models", Headers(), OPENAI),
        ("/v1/models/gemini:generateContent?alt=sse", Headers(), GEMINI),
        ("/openai/v1/responses", Headers(), AZURE),
        ("/openair", Headers(), OPENAI),
        ("/model/a/converse", Headers(), BEDROCK),
        ("/guardrail/g/version/1/apply", Headers(), BEDROCK),
        ("/guardrail-checks/invoke", Headers(), BEDROCK),
        ("/bedrock/async-invoke", Headers(), BEDROCK),
        ("/models", Headers(), OPENAI),
        ("/guardrails", Headers(), OPENAI),
        ("/v1/models", ANTHROPIC_VERSION, ANTHROPIC),
        ("/v1/models", GOOGLE_KEY, GEMINI),
        ("/v1/files", GOOGLE_KEY, GEMINI),
        ("/v1/interactions", Headers(), GEMINI),
        ("/v1/interactions2", Headers(), OPENAI),
        ("/upload/v1/files", GOOGLE_KEY, GEMINI),
        ("/v1/chat/completions", GOOGLE_KEY, OPENAI),
        ("/v1/chat/completions?a=b", GOOGLE_KEY, OPENAI),
        ("/v1/models", Headers(), OPENAI),
        ("/", Headers(), OPENAI),
    ],
)
def test_the_dialect_is_guessed_by_path_and_header(
    path: str, headers: Headers, dialect: Dialect
) -> None:
    """Refusals before a route is known are worded for the likeliest client."""
    assert guess_dialect(path, headers) is dialect


@pytest.mark.parametrize(
    ("headers", "dialect"),
    [(Headers(), OPENAI), (ANTHROPIC_VERSION, ANTHROPIC), (GOOGLE_KEY, GEMINI)],
)
def test_models_are_listed_by_whose_headers_came(headers: Headers, dialect: Dialect) -> None:
    """Three APIs share the path; spans name the right provider."""
    for path in ("/v1/models", "/v1/models/a"):
        assert recognise("GET", path, headers) == _bare(dialect, Operation.LIST_MODELS)


def test_a_header_does_not_change_whose_a_body_is() -> None:
    """A client cannot choose the words that its request is read by."""
    for headers in (ANTHROPIC_VERSION, GOOGLE_KEY):
        route = recognise("POST", "/v1/chat/completions", headers)
        assert route == _content(OPENAI, Operation.CHAT, "messages")
