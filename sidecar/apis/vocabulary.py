"""Names of fields in the providers' request bodies, by meaning."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from sidecar.domain.subject import Dialect, UnscannedReason
from sidecar.jsontext.strict import JsonValue

TOP_FIELDS: Final = frozenset(
    """
    messages model prompt input system tools tool_choice functions function_call stream
    stream_options temperature top_p top_k n stop stop_sequences max_tokens
    max_completion_tokens presence_penalty frequency_penalty logit_bias logprobs top_logprobs
    user seed response_format parallel_tool_calls modalities audio prediction metadata store
    service_tier reasoning_effort reasoning verbosity suffix echo best_of encoding_format
    dimensions thinking container context_management mcp_servers output_config output_format
    prompt_cache_key prompt_cache_retention safety_identifier web_search_options cache_control
    instructions previous_response_id conversation items include max_output_tokens max_tool_calls
    background truncation text models voice speed size quality output_compression partial_images
    style moderation
    """.split()  # noqa: SIM905 - a list would be one word a line
)

FIELD_NAMES: Final = TOP_FIELDS | frozenset(
    """
    role content name type text tool_calls tool_call_id tool_use_id id function arguments
    description parameters properties required items enum additionalProperties anyOf oneOf allOf
    $schema $ref $defs title default format minimum maximum minLength maxLength minItems maxItems
    pattern const strict input_schema json_schema schema image_url url detail input_audio data
    file file_data file_id filename refusal source media_type citations context signature
    is_error ttl include_usage budget_tokens disable_parallel_tool_use user_id custom
    encrypted_content encrypted_index reasoning_content reasoning_details extra_content summary
    index cited_text document_index document_title start_char_index end_char_index effort
    display_name max_uses allowed_domains blocked_domains user_location caller mode
    call_id output status annotations logprobs file_url image_id query queries action actions
    code container_id outputs logs results score attributes server_label server_url
    allowed_tools require_approval approval_request_id approve version variables
    encrypted_stdout fingerprint fallback_credit_token stdout stderr lines operation diff path
    command commands env working_directory input_examples output_schema authorization
    """.split()  # noqa: SIM905 - a list would be one word a line
)
"""Keys that are no text of a client's own. Any other key is scanned like a value."""

WORDS: Final = frozenset(
    """
    system developer user assistant tool function text object string number integer boolean array
    null tool_use tool_result thinking image image_url input_audio file document ephemeral auto
    any none required json_object json_schema enabled disabled base64 url content refusal custom
    message input_text output_text input_image input_file function_call function_call_output
    reasoning summary_text model
    """.split()  # noqa: SIM905 - a list would be one word a line
)
"""Values of `role` and `type` that are no text: scanning them would only find our own words."""

ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool", "function", "model"})

OTHER_ROLE: Final = "unknown"
"""Stands for a role or field name that is the client's own text, and may not be shown."""

RESULT_ROLE: Final = "tool"
"""The role of tool results and documents, in any message."""

RESULT_SUFFIXES: Final = ("_result", "_output")
"""How types of parts and items that hold such text end, `function_call_output` for one."""

RESULT_FIELDS: Final = frozenset(
    """
    functionResponse function_response codeExecutionResult code_execution_result toolResponse
    tool_response toolResult document searchResult output outputs results
    """.split()  # noqa: SIM905 - a list would be one word a line
)
"""The fields that hold it: Gemini's and Bedrock's, whose parts have no type, and those of calls
that OpenAI runs itself, such as `mcp_call`."""

CITATION_TYPES: Final = frozenset(
    """
    char_location page_location content_block_location web_search_result_location
    search_result_location url_citation file_citation container_file_citation file_path
    code_execution_output bash_code_execution_output
    """.split()  # noqa: SIM905 - a list would be one word a line
)
"""Types of the sources that a text of the model's names, and of the files that its code wrote;
their `file_id` brings no file along."""

SEARCH_CALL: Final = "file_search_call"
FOUND_FIELDS: Final = frozenset({"attributes", "file_id", "filename", "score", "text"})
"""Those of a result of such a call of OpenAI's, which has the text that was found in the file."""

PART_TYPES: Final = CITATION_TYPES | frozenset(
    """
    text input_text output_text refusal thinking redacted_thinking reasoning reasoning_text
    summary_text tool_use server_tool_use mcp_tool_use tool_result mcp_tool_result search_result
    web_search_tool_result web_search_result web_fetch_tool_result web_fetch_result
    code_execution_tool_result bash_code_execution_tool_result tool_reference
    text_editor_code_execution_tool_result function custom json_object json_schema
    message function_call function_call_output custom_tool_call custom_tool_call_output
    item_reference web_search_call file_search_call code_interpreter_call local_shell_call
    local_shell_call_output shell_call shell_call_output apply_patch_call apply_patch_call_output
    mcp_call mcp_list_tools mcp_approval_request mcp_approval_response compaction
    web_search web_search_preview file_search code_interpreter image_generation mcp namespace
    encrypted_code_execution_result code_execution_result bash_code_execution_result
    text_editor_code_execution_view_result text_editor_code_execution_str_replace_result
    advisor_tool_result advisor_result advisor_redacted_result tool_search_tool_result
    tool_search_tool_search_result program program_output tool_search_call tool_search_output
    logs exec create_file update_file delete_file content
    """.split()  # noqa: SIM905 - a list would be one word a line
)
"""Types whose strings are text, or sealed by the provider that made them (`signature`)."""

FREE_FIELDS: Final = frozenset(
    """
    arguments parameters input_schema json_schema schema metadata logit_bias extra_content
    reasoning_details variables attributes env input_examples output_schema
    fallback_credit_token
    """.split()  # noqa: SIM905 - a list would be one word a line
)
"""Fields with names of the client's choosing below them, all of which the model sees as text."""

MEDIA_FIELDS: Final = {
    "image_url": UnscannedReason.IMAGE,
    "input_audio": UnscannedReason.AUDIO,
    "audio": UnscannedReason.AUDIO,
    "audio_url": UnscannedReason.AUDIO,  # this and the next two of servers that speak as OpenAI
    "video_url": UnscannedReason.FILE,
    "document_url": UnscannedReason.FILE,
    "file": UnscannedReason.FILE,
    "source": UnscannedReason.FILE,
    "file_id": UnscannedReason.FILE,
    "file_ids": UnscannedReason.FILE,  # of the container of a tool
    "image": UnscannedReason.IMAGE,
    "video": UnscannedReason.FILE,
    "file_data": UnscannedReason.FILE,
    "file_url": UnscannedReason.FILE,
}
"""Fields of a part that hold something other than text, or point to it."""

POINTER_FIELDS: Final = frozenset({"data", "url", "file_data", "file_url", "file_id", "id"})
"""Members that such a field must hold to count: `audio` also names an output setting."""

PAYLOAD_FIELDS: Final = frozenset(
    {"data", "url", "file_data", "image_url", "audio_url", "video_url", "document_url"}
)
"""Where base64 is not text."""

_PAYLOAD: Final = re.compile(
    r"(?:data:[\w.+/;=-]*;base64,)?[A-Za-z0-9+/\r\n]++={0,2}[\r\n]*+", re.ASCII
)
_STRANGE_PAYLOAD: Final = re.compile(r"(?:data:[^,]*,)?[\w+/=\r\n-]++", re.ASCII)
"""As lenient as decoders are: either alphabet, padding anywhere."""
_MIN_PAYLOAD: Final = 64
"""No image or sound is shorter, but an access key, which looks the same, is."""
_MIN_STRANGE_PAYLOAD: Final = 256
"""Longer than digests and tokens of one word, which unknown fields may well hold."""

_LETTERS: Final = (string.ascii_letters + string.digits).encode()
_FOREIGN: Final = bytes(set(range(256)) - set(_LETTERS))
_RUNS: Final = bytes(ord("a" if byte in _LETTERS + b"+/" else " ") for byte in range(256))
_LONG_RUN: Final = b"a" * _MIN_STRANGE_PAYLOAD
_COMMON: Final = b"ETAOINSRetaoinsr"
"""Two thirds of a text in most languages of Latin script, a quarter of what base64 has."""
_LEAST_OTHERS: Final = 0.6
_PIECE: Final = 1_024
_MOST_PIECES: Final = 256
"""Of a longer text, evenly over it: some 10 ms at the most."""
_MOST_COINCIDENCE: Final = 0.021
"""How often two letters of a piece are the same: of base64 of what is compressed one time in 62,
at most 0.0194 in pieces of 256 letters (2,000 samples); of 16,771 files of code and text no piece
without base64 had less than 0.0237."""


def is_payload(value: str) -> bool:
    """Return whether a string where a medium may stand is base64."""
    return len(value) >= _MIN_PAYLOAD and _PAYLOAD.fullmatch(value) is not None


def may_be_payload(value: str) -> bool:
    """Return whether a string in a place that is not known may be base64 of something.

    To a decoder that skips all else it may, whatever stands between, if it holds a long run of it,
    or a piece whose letters are as mixed.
    """
    if len(value) < _MIN_STRANGE_PAYLOAD:
        return False
    content = value.encode()
    if _STRANGE_PAYLOAD.fullmatch(value) or _LONG_RUN in content.translate(_RUNS):
        return True
    letters = content.translate(None, _FOREIGN)
    for start in range(0, len(letters), max(_PIECE, len(letters) // _MOST_PIECES)):
        piece = letters[start : start + _PIECE]
        size = len(piece)
        if size < _MIN_STRANGE_PAYLOAD:
            break
        if len(piece.translate(None, _COMMON)) >= _LEAST_OTHERS * size:  # of text: not often
            pairs = sum([count * (count - 1) for count in map(piece.count, _LETTERS)])
            if pairs <= _MOST_COINCIDENCE * size * size:
                return True
    return False


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The field names of an API, by their meaning for the walk over a body.

    `message_fields` are lists of messages, each with a role; `system_fields` hold text that the
    provider puts before them, or another text in parts; both count within a request as well as at
    its top. Below `free_fields` all names and values are the client's. In an object of
    `plain_names` alone, no field has a place or a role of its own. `message_lists` matches the
    name of a list of messages that are objects, up to the first one's brace.
    """

    top_fields: frozenset[str]
    field_names: frozenset[str]
    free_fields: frozenset[str]
    part_types: frozenset[str]
    media_fields: dict[str, UnscannedReason]
    pointer_fields: frozenset[str]
    payload_fields: frozenset[str]
    message_fields: frozenset[str]
    system_fields: frozenset[str]
    typed_roles: Mapping[str, str] = field(default_factory=dict[str, str])
    plain_fields: frozenset[str] = field(init=False)
    media_names: frozenset[str] = field(init=False)
    folded_media: dict[str, str] = field(init=False)
    folded_pointers: frozenset[str] = field(init=False)
    run_fields: frozenset[str] = field(init=False)
    plain_top: frozenset[str] = field(init=False)
    plain_names: frozenset[str] = field(init=False)
    message_lists: re.Pattern[bytes] = field(init=False)

    def __post_init__(self) -> None:
        plain = self.field_names - self.free_fields - RESULT_FIELDS
        object.__setattr__(self, "plain_fields", plain)
        folded_media = {name.casefold(): name for name in self.media_fields}
        object.__setattr__(self, "folded_media", folded_media)
        names = frozenset({*self.media_fields, *folded_media})
        object.__setattr__(self, "media_names", names)
        object.__setattr__(self, "plain_top", self.top_fields & plain)
        object.__setattr__(self, "plain_names", plain - names - {"type", "input"})
        object.__setattr__(self, "run_fields", self.message_fields | self.system_fields)
        folded = frozenset(name.casefold() for name in self.pointer_fields)
        object.__setattr__(self, "folded_pointers", folded)
        lists = rb'"(' + "|".join(sorted(self.message_fields)).encode() + rb')"'
        lists += rb"[ \t\r\n]*:[ \t\r\n]*\[[ \t\r\n]*\{"
        object.__setattr__(self, "message_lists", re.compile(lists))

    def speaker_of(self, message: dict[str, JsonValue]) -> tuple[str, bool]:
        """Return the role of a message that names none of ours, and whether it is a text alone.

        So is an item with a type of its own instead of a role, such as the call of a function.
        """
        said, kind = message.get("role"), message.get("type", "text")
        if isinstance(said, str):
            folded = said.casefold()
            return folded if folded in ROLES else OTHER_ROLE, False
        if said is None and isinstance(kind, str) and kind in self.typed_roles:
            return self.typed_roles[kind], False
        return OTHER_ROLE, said is None and kind != "text"


COMMON: Final = Vocabulary(
    top_fields=TOP_FIELDS,
    field_names=FIELD_NAMES,
    free_fields=FREE_FIELDS,
    part_types=PART_TYPES,
    media_fields=MEDIA_FIELDS,
    pointer_fields=POINTER_FIELDS,
    payload_fields=PAYLOAD_FIELDS,
    message_fields=frozenset({"messages", "input", "items"}),
    system_fields=frozenset({"system", "instructions", "prediction"}),
)
"""OpenAI, Azure OpenAI and Anthropic: a name that two of them share has one meaning."""


def _both_cases(names: str) -> frozenset[str]:
    """Return names as the JSON form of protocol buffers takes them: `topP` and `top_p`."""
    camel = names.split()
    return frozenset(camel) | {re.sub("([A-Z])", r"_\1", name).lower() for name in camel}


_GEMINI_TOP: Final = _both_cases(
    """
    contents content requests model systemInstruction tools toolConfig safetySettings
    generationConfig cachedContent generateContentRequest taskType title outputDimensionality
    serviceTier labels store
    input agent agentConfig stream background previousInteractionId responseFormat responseMimeType
    responseModalities environment continuationToken webhookConfig questions ttl expireTime
    """
)

_GEMINI_FREE: Final = _both_cases(
    """
    args arguments response parameters parametersJsonSchema responseSchema responseJsonSchema
    responseFormat labels
    """
)

_GEMINI_STEPS: Final = frozenset(
    """
    user_input model_output thought function_result code_execution_call url_context_call
    url_context_result google_search google_search_call google_search_result google_maps
    google_maps_call google_maps_result file_search_result mcp_server mcp_server_tool_call
    mcp_server_tool_result retrieval retrieval_call retrieval_result url_context code_execution
    place_citation
    """.split()  # noqa: SIM905 - a list would be one word a line
)
"""Types of an interaction's steps and tools, whose strings are text or sealed."""

GEMINI: Final = Vocabulary(
    top_fields=_GEMINI_TOP,
    field_names=_GEMINI_TOP
    | _GEMINI_FREE
    | _both_cases(
        """
        parts role text thought thoughtSignature inlineData fileData mimeType data displayName
        fileUri functionCall functionResponse id name executableCode language code
        codeExecutionResult toolCall toolResponse toolType outcome output
        videoMetadata startOffset endOffset fps
        functionDeclarations description behavior googleSearch googleSearchRetrieval codeExecution
        urlContext functionCallingConfig mode allowedFunctionNames category threshold method
        temperature topP topK candidateCount maxOutputTokens stopSequences responseMimeType
        presencePenalty frequencyPenalty seed responseLogprobs logprobs responseModalities
        speechConfig voiceConfig prebuiltVoiceConfig voiceName languageCode thinkingConfig
        includeThoughts thinkingBudget thinkingLevel mediaResolution imageConfig aspectRatio
        imageSize willContinue scheduling type properties items required enum nullable format
        anyOf propertyOrdering minimum maximum minItems maxItems minLength maxLength pattern
        signature summary uri annotations callId isError serverName url headers allowedTools steps
        input result queries urls resolution startIndex endIndex source visualization
        """
    ),
    free_fields=_GEMINI_FREE,
    part_types=PART_TYPES | _GEMINI_STEPS,
    # In an interaction a part itself has the bytes or the address, beside its type.
    media_fields=dict.fromkeys(_both_cases("inlineData fileData data uri"), UnscannedReason.FILE),
    pointer_fields=_both_cases("data fileUri"),
    payload_fields=frozenset({"data"}),
    message_fields=frozenset({"contents", "input"}),
    system_fields=_both_cases("systemInstruction content"),
    typed_roles={
        "model_output": "model",
        **dict.fromkeys(("user_input", "text", "image", "audio", "video", "document"), "user"),
    },
)

_BEDROCK_TOP: Final = TOP_FIELDS | frozenset(
    """
    messages system inferenceConfig toolConfig guardrailConfig additionalModelRequestFields
    additionalModelResponseFieldPaths promptVariables requestMetadata performanceConfig
    serviceTier outputConfig anthropic_version anthropic_beta
    """.split()  # noqa: SIM905 - a list would be one word a line
)

BEDROCK: Final = Vocabulary(
    top_fields=_BEDROCK_TOP,
    field_names=FIELD_NAMES
    | _BEDROCK_TOP
    | frozenset(
        """
        maxTokens topP topK stopSequences tools toolSpec inputSchema json toolChoice auto any tool
        toolUse toolUseId toolResult status document video audio format source bytes
        s3Location uri bucketOwner context enabled guardContent qualifiers cachePoint
        reasoningContent reasoningText redactedContent signature citationsContent searchResult
        sourceContent guardrailIdentifier
        guardrailVersion trace streamProcessingMode latency converse invokeModel body
        """.split()  # noqa: SIM905 - a list would be one word a line
    ),
    free_fields=FREE_FIELDS | {"inputSchema", "json", "requestMetadata"},
    part_types=PART_TYPES | {"default"},
    media_fields=MEDIA_FIELDS | {"s3Location": UnscannedReason.FILE},
    pointer_fields=POINTER_FIELDS | {"bytes", "s3Location", "uri"},
    payload_fields=PAYLOAD_FIELDS | {"bytes"},
    message_fields=frozenset({"messages"}),
    system_fields=frozenset({"system"}),
)
"""Converse, and the native bodies of models that InvokeModel passes on."""


VOCABULARIES: Final = {
    Dialect.OPENAI: COMMON,
    Dialect.AZURE_OPENAI: COMMON,
    Dialect.ANTHROPIC: COMMON,
    Dialect.GEMINI: GEMINI,
    Dialect.VERTEX_AI: GEMINI,
    Dialect.BEDROCK: BEDROCK,
}


_ADDRESS: Final = re.compile(r"\s*(?:https?|data|gs|s3|file):", re.IGNORECASE)
POINTERS: Final[Mapping[str, re.Pattern[str]]] = {
    **dict.fromkeys(
        ("image_url", "audio_url", "video_url", "document_url", "file_id", "file_ids", "file_data",
         "file_url", "data", "uri"),
        re.compile(""),
    ),
    **dict.fromkeys(("image", "video", "audio", "input_audio"), _ADDRESS),
}  # fmt: skip
"""Fields that hold or point to something other than text even as a bare string, of such a form."""

_REASONS: Final = (
    (re.compile(r"image/|(?:png|jpe?g|gif|webp)\Z", re.IGNORECASE), UnscannedReason.IMAGE),
    (re.compile(r"audio/|(?:mp3|wav|flac|ogg|opus|aac)\Z", re.IGNORECASE), UnscannedReason.AUDIO),
)


def media_of(node: dict[str, JsonValue], words: Vocabulary) -> dict[str, UnscannedReason]:
    """Return the fields of a part that hold media, as written, each with its kind.

    Each of several names that differ in case alone counts: of these, a provider may take any.
    """
    about: Mapping[str, JsonValue] = node
    if not node.keys() <= words.field_names:
        about = {key.casefold(): value for key, value in node.items()} | node
    found: dict[str, UnscannedReason] = {}
    if words.media_names.isdisjoint(about):
        return found
    for name, held in node.items():
        key = name if name in words.media_fields else words.folded_media.get(name.casefold())
        if key is None:
            continue
        pattern = POINTERS.get(key)
        is_media = any(
            (pattern is not None and pattern.match(item) is not None)
            if isinstance(item, str)
            else isinstance(item, dict)
            and not words.folded_pointers.isdisjoint(map(str.casefold, item))
            # A document of Anthropic's may be a text, in `data`. Bedrock's sources have no `type`,
            # so that one beside `bytes` says nothing about them.
            and not (
                key == "source"
                and item.get("type") == "text"
                and [one for one in map(str.casefold, item) if one in words.folded_pointers]
                == ["data"]
            )
            for item in (held if isinstance(held, list) else [held])
        )
        if is_media and not (key == "file_id" and str(about.get("type")) in CITATION_TYPES):
            found[name] = _media_reason(key, held, about, words)
    return found


def _media_reason(
    key: str, held: JsonValue, node: Mapping[str, JsonValue], words: Vocabulary
) -> UnscannedReason:
    """Return the kind of media, as far as the field or its neighbours name it."""
    if key == "source" and node.get("type") == "image":
        return UnscannedReason.IMAGE
    inside = held if isinstance(held, dict) else {}
    types = (one.get(name) for one in (inside, node) for name in ("mimeType", "mime_type"))
    for said in (node.get("format"), *types):
        if isinstance(said, str):
            for pattern, reason in _REASONS:
                if pattern.match(said):
                    return reason
    return words.media_fields[key]
