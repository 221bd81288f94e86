"""Names of the APIs' own fields and values: what a client cannot hide anything in."""

from __future__ import annotations

from typing import Final

from sidecar.domain.subject import UnscannedReason

TOP_FIELDS: Final = frozenset(
    """
    messages model prompt input system tools tool_choice functions function_call stream
    stream_options temperature top_p top_k n stop stop_sequences max_tokens
    max_completion_tokens presence_penalty frequency_penalty logit_bias logprobs top_logprobs
    user seed response_format parallel_tool_calls modalities audio prediction metadata store
    service_tier reasoning_effort reasoning verbosity suffix echo best_of encoding_format
    dimensions thinking container context_management mcp_servers output_config output_format
    prompt_cache_key prompt_cache_retention safety_identifier web_search_options cache_control
    instructions previous_response_id conversation include max_output_tokens max_tool_calls
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
"""The role of what a tool returned or a document says, whoever's message it is in."""

RESULT_SUFFIXES: Final = ("_result", "_output")
"""How types of parts and items that hold such text end, `function_call_output` for one."""

RESULT_FIELDS: Final = frozenset({"functionResponse", "toolResult"})
"""The fields that hold it where parts have no type: Gemini's and Bedrock's."""

PART_TYPES: Final = frozenset(
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
    """.split()  # noqa: SIM905 - a list would be one word a line
)
"""Types whose strings are text, or sealed by the provider that made them (`signature`)."""

FREE_FIELDS: Final = frozenset(
    """
    arguments parameters input_schema json_schema schema metadata logit_bias extra_content
    reasoning_details variables attributes
    """.split()  # noqa: SIM905 - a list would be one word a line
)
"""Fields with names of the client's choosing below them, all of which the model sees as text."""

MEDIA_FIELDS: Final = {
    "image_url": UnscannedReason.IMAGE,
    "input_audio": UnscannedReason.AUDIO,
    "audio": UnscannedReason.AUDIO,
    "file": UnscannedReason.FILE,
    "source": UnscannedReason.FILE,
    "file_id": UnscannedReason.FILE,
    "file_data": UnscannedReason.FILE,
    "file_url": UnscannedReason.FILE,
}
"""Fields of a part that hold something other than text, or point to it."""

POINTER_FIELDS: Final = frozenset({"data", "url", "file_data", "file_url", "file_id", "id"})
"""What such a field must hold to count: `audio` is also the name of an output setting."""

PAYLOAD_FIELDS: Final = frozenset({"data", "url", "file_data", "image_url"})
"""Where base64 is not text."""
