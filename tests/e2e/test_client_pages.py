"""docs/clients.md: each snippet against the stack, with the providers' own client libraries."""

from __future__ import annotations

import asyncio
import builtins
import json
import os
import re
import tomllib
from typing import Any, Final

import anthropic
import boto3
import httpx2
import openai
import pytest

from sidecar.apis.error_body import bedrock_type, gemini_status
from sidecar.apis.routes import recognise
from sidecar.domain.errors import ErrorKind
from sidecar.domain.subject import Route
from tests.support.documented_commands import DOCS, ROOT
from tests.support.stack import Stack

pytestmark = [pytest.mark.stack]
on_stack = pytest.mark.asyncio(loop_scope="session")

PAGE: Final = (DOCS / "clients.md").read_text(encoding="utf-8")
SECTIONS: Final = {
    title: text for title, _, text in (one.partition("\n") for one in PAGE.split("\n## ")[1:])
}
_FENCE: Final = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MORE_PACKAGES: Final = ROOT / "build" / "clients" / "venv" / "bin" / "python"
"""The libraries that `make clients` installs."""

WORDS: Final = "The mock model was given 27 characters."
CALL: Final = re.compile(r"""\{["']city["']: ?["']mock["']\}""")
HERE: Final = {"OpenAI": 2, "Anthropic": 2, "Google": 2, "Azure": 3, "Bedrock": 5}
BESIDE: Final = {"LangChain": 2, "LlamaIndex": 2, "LiteLLM": 3}
"""How often the snippets of a section print the words of the mock; whole and streamed."""
SNIPPETS_SECONDS: Final = 60


def blocks(text: str, language: str) -> list[str]:
    """Return the blocks of *language* in a part of the page."""
    return [block for one, block in _FENCE.findall(text) if one == language]


PRELUDE: Final = blocks(PAGE, "python")[0]


def _environment(stack: Stack) -> dict[str, str]:
    return {
        "EGRET_URL": stack.facts.url,
        "EGRET_HTTPS_URL": stack.facts.https_url,
        "EGRET_KEY": stack.keys["block"],
        "AWS_CA_BUNDLE": str(stack.facts.ca_file),
        "AWS_BEARER_TOKEN_BEDROCK": "",  # a snippet sets it
    }


def _assert_answered(printed: str, times: int) -> None:
    assert printed.count(WORDS) == times
    assert CALL.search(printed), printed


def test_the_page_exports_each_variable_that_its_snippets_read() -> None:
    """Before the first snippet."""
    exported = set(re.findall(r"\b([A-Z_]+)=", blocks(PAGE, "sh")[0]))
    read = set(re.findall(r"os\.environ\[\"(EGRET_\w+)\"\]|\$(EGRET_\w+)", PAGE))
    assert {name for pair in read for name in pair if name} == exported


def test_every_section_with_python_is_run() -> None:
    """A snippet that is added is run as well."""
    with_python = {title for title, text in SECTIONS.items() if blocks(text, "python")}
    assert with_python == {*HERE, *BESIDE}


@on_stack
@pytest.mark.parametrize("title", HERE)
async def test_the_snippets_of_a_client_run(
    stack: Stack, title: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole, streamed, with a tool; a refusal is the exception that the page names."""
    for name, value in _environment(stack).items():
        monkeypatch.setenv(name, value)
    printed: list[str] = []

    def note(*words: object, end: str = "\n") -> None:
        printed.append(" ".join(map(str, words)) + end)

    for snippet in blocks(SECTIONS[title], "python"):
        code = compile(f"{PRELUDE}\n{snippet}", f"docs/clients.md: {title}", "exec")
        names: dict[str, Any] = {"__builtins__": {**vars(builtins), "print": note}}
        await asyncio.to_thread(exec, code, names)
    _assert_answered("".join(printed), HERE[title])
    if title == "OpenAI":
        assert re.search(r"^content_blocked input [0-9a-f-]{36}$", "".join(printed), re.MULTILINE)
    elif title != "Azure":
        assert "Found in: " in "".join(printed)
        assert "Request id: " in "".join(printed)


@on_stack
@pytest.mark.parametrize("title", BESIDE)
async def test_the_snippets_of_other_libraries_run(stack: Stack, title: str) -> None:
    """In an environment of their own, which `make clients` builds."""
    if not MORE_PACKAGES.exists():
        pytest.skip("its library is installed by `make clients`")
    environment = {"PATH": os.defpath, "HOME": os.devnull, **_environment(stack)}
    for snippet in blocks(SECTIONS[title], "python"):
        process = await asyncio.create_subprocess_exec(
            *(MORE_PACKAGES, "-c", f"{PRELUDE}\n{snippet}"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
        )
        printed, complaints = await asyncio.wait_for(process.communicate(), SNIPPETS_SECONDS)
        assert process.returncode == 0, complaints.decode()[-2_000:]
        _assert_answered(printed.decode(), BESIDE[title])


@on_stack
async def test_the_lines_of_curl_run(stack: Stack) -> None:
    """The last one has no message, so the mock calls the tool alone."""
    process = await asyncio.create_subprocess_exec(
        *("bash", "-ec", blocks(SECTIONS["curl"], "sh")[0]),
        stdout=asyncio.subprocess.PIPE,
        env={"PATH": os.defpath, **_environment(stack)},
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0
    text = printed.decode()
    assert WORDS in text
    assert text.count("content_block_delta") == 2 * 7  # as event and as its type
    assert json.dumps('{"city":"mock"}') in text


@on_stack
async def test_a_signed_request_is_answered_with_the_variable_to_set(stack: Stack) -> None:
    """boto3 raises its own exception, with the request id where it has one."""
    client = boto3.client(
        "bedrock-runtime",
        region_name="eu-central-1",
        endpoint_url=stack.facts.https_url,
        aws_access_key_id="AKIAEXAMPLE",
        aws_secret_access_key="example",
        verify=str(stack.facts.ca_file),
    )
    messages = [{"role": "user", "content": [{"text": "Hi"}]}]
    with pytest.raises(client.exceptions.ClientError) as refused:
        await asyncio.to_thread(client.converse, modelId="m", messages=messages)
    client.close()
    answer = refused.value.response
    assert answer["Error"]["Code"] == "UnrecognizedClientException"
    assert "set AWS_BEARER_TOKEN_BEDROCK to your Egret key" in answer["Error"]["Message"]
    assert answer["ResponseMetadata"]["RequestId"] in answer["Error"]["Message"]


@on_stack
async def test_a_base_url_without_its_root_raises_not_found_with_the_path_that_was_meant(
    stack: Stack,
) -> None:
    """The commonest mistake."""
    key = stack.keys["block"]
    with openai.OpenAI(base_url=stack.facts.url, api_key=key, max_retries=0) as client:
        with pytest.raises(openai.NotFoundError) as raised:
            await asyncio.to_thread(client.files.list)
        assert raised.value.code == "unknown_url"
        say: Any = client.chat.completions.create
        with pytest.raises(openai.NotFoundError, match=r"Did you mean /v1/chat/completions\?"):
            await asyncio.to_thread(say, model="gpt-4o", messages=[])


def test_configurations_of_coding_agents_can_be_read_and_lead_to_known_paths() -> None:
    """Claude Code adds `/v1/messages` to its URL, Codex `/responses`, without a WebSocket."""
    (claude,) = blocks(SECTIONS["Coding agents"], "json")
    environment = json.loads(claude)["env"]
    assert set(environment) == {"ANTHROPIC_BASE_URL", "ANTHROPIC_AUTH_TOKEN"}
    (codex,) = blocks(SECTIONS["Coding agents"], "toml")
    provider = tomllib.loads(codex)["model_providers"]["egret"]
    assert provider["supports_websockets"] is False
    for url in (
        f"{environment['ANTHROPIC_BASE_URL']}/v1/messages?beta=true",
        f"{provider['base_url']}/{provider['wire_api']}",
    ):
        path = url.removeprefix("http://127.0.0.1:8080")
        assert isinstance(recognise("POST", path), Route)


def test_the_base_urls_of_other_programs_lead_to_known_paths() -> None:
    """With the path that each program adds."""
    rows = re.findall(r"\| `\$EGRET_URL(\S*)` \| `(\S+)` \|", SECTIONS["Other programs"])
    assert len(rows) == SECTIONS["Other programs"].count("\n| ") - 2  # the heading and its rule
    for base, path in rows:
        assert isinstance(recognise("POST", base + path), Route)


def test_the_table_of_refusals_has_every_code_with_its_exceptions() -> None:
    """As the libraries themselves choose them by the status."""
    rows = {
        row[0].strip("`"): [cell.strip("`") for cell in row[1:]]
        for row in (
            [cell.strip() for cell in line.strip("| ").split(" | ")]
            for line in SECTIONS["Refusals"].splitlines()
            if line.startswith("| `")
        )
    }
    assert list(rows) == [kind.value for kind in ErrorKind]
    clients: list[Any] = [openai.OpenAI(api_key="a"), anthropic.Anthropic(api_key="a")]
    for kind in ErrorKind:
        request = httpx2.Request("POST", "http://gateway")
        answer = httpx2.Response(kind.spec.status, request=request)
        raised = [
            type(one._make_status_error("", body={}, response=answer)).__name__ for one in clients
        ]
        status, *classes, advice = rows[kind.value]
        assert status == str(kind.spec.status)
        assert classes == [*raised, gemini_status(kind), bedrock_type(kind)]
        assert advice
