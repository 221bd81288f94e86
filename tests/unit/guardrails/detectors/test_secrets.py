from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.guardrails.detectors.secrets import SECRET_TYPES
from tests.support.guardrails import effective, parts_of, policy
from tests.support.secrets import SECRETS

POLICY = effective(policy("  - {name: secrets, type: secrets}"))

BENIGN = {
    "placeholder": "export OPENAI_API_KEY=your-api-key-goes-here-1234567890",
    "variable": "postgres://app:${DB_PASSWORD}@db/app and https://bob:<password>@host",
    "masked": "postgres://app:****@db/app",
    "digest": "commit 3f2a9c0d4b5e6f708192a3b4c5d6e7f8091a2b3c",
    "uuid": "id 0b5c8f1e-3d2a-4b6c-9e7f-1a2b3c4d5e6f",
    "prose": "The secret of a good token economy is that the password is never written down.",
    "code": "const token = await getAuthenticationToken(request.headers);",
    "public_key": "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQ\n-----END PUBLIC KEY-----",
    "url_without_password": "https://example.com:8443/a@b and ssh://git@example.com/x",
    "jwt_like": "eyJub3QtanNvbiI.eyJub3QtanNvbiI.x",
    "tokenizer": "tokenizer = GPT2Tokenizer.from_pretrained('gpt2')",
    "tokenizer_class": '"tokenizer_class": "GPT2TokenizerFast"',
    "environment": "apiKey: process.env.OPENAI_API_KEY_V2",
    "bundled_environment": "apiKey: import.meta.env.VITE_API_KEY_1",
    "secret_name": "  secretName: my-app-tls-cert-2024",
    "method": "token = self.client.v2.get_access_token()",
    "attribute": "password = config.database_v2.password_hash",
    "identifier": "token = sum_of_tokens_v2_model",
    "class": "token: PreTrainedTokenizerFast2",
    "file": "private_key: ./certs/server-2048.pem",
    "page": '"nextPageToken": "CAoQAA3xYz12Pq99"',
    "short_prefix": "sk-learn, hf_transfer, npm_config_cache, AKIA is a prefix",
}


def found(*texts: str) -> list[tuple[str, str]]:
    parts = parts_of(texts)
    (outcome,) = POLICY.local.scan(parts)
    assert outcome.error_type is None
    return [
        (one.type, parts[one.part].content[one.start : one.end].decode())
        for one in outcome.findings
    ]


@pytest.mark.parametrize(
    ("type_", "before", "secret"), SECRETS, ids=[f"{one[0]}-{i}" for i, one in enumerate(SECRETS)]
)
@pytest.mark.parametrize("after", ["", "\n", '",', "@host/db"])
def test_a_credential_is_found_whole_and_nothing_beside_it(
    type_: str, before: str, secret: str, after: str
) -> None:
    """Whatever follows, the finding is the credential alone, under its vendor's name."""
    if type_ in {"DATABASE_URL", "BASIC_AUTH_URL"}:
        after = f"@{after}"
    elif after.startswith("@"):
        after = " "
    assert found(f"see {before}{secret}{after}") == [(type_, secret)]


def test_every_type_has_an_example() -> None:
    """A rule nobody ever saw match is not a rule."""
    assert {type_ for type_, _, _ in SECRETS} == set(SECRET_TYPES)


@pytest.mark.parametrize("case", BENIGN)
def test_what_only_looks_like_a_credential_passes(case: str) -> None:
    """Placeholders, digests and prose are not worth a refused request."""
    assert found(BENIGN[case]) == []


@pytest.mark.parametrize(
    "text",
    [
        "password: Passw0rd_policy_{}",
        'password = "Quiet_Village_Hums_{}"',
        'token = "summer.garden.house{}"',
        "secret_id = k7d0x2m9q4z8{}p1w5b6",
        "token: dGhpcyBpcyBhIHJh_bmRvbSB2{}YWx1ZQ",
        "api_key = kq.Zt8vB_2mLxR4nWc{}",
    ],
)
def test_a_secret_that_resembles_a_name_is_found(text: str) -> None:
    """Words may be a password; a literal is no code; and random letters make no words."""
    value = text.format("7").split(maxsplit=1 if ": " in text else 2)[-1].strip('"')
    assert found(text.format("7")) == [("GENERIC_SECRET", value)]


def test_a_private_key_cut_off_is_found_to_its_last_character() -> None:
    """Half a key is still most of a key."""
    key = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBg\nkqhkiG9w0BAQEF"
    assert found(f"key: {key} (cut)") == [("PRIVATE_KEY", f"{key} ")]


def test_only_the_chosen_types_are_looked_for() -> None:
    """`types` narrows the guardrail."""
    narrowed = effective(policy("  - {name: s, type: secrets, types: [GITHUB_TOKEN]}"))
    tokens = {type_: secret for type_, _, secret in SECRETS}
    text = f"{tokens['GITHUB_TOKEN']} {tokens['NPM_TOKEN']}"
    (outcome,) = narrowed.local.scan(parts_of([text]))
    assert outcome.error_type is None
    assert [one.type for one in outcome.findings] == ["GITHUB_TOKEN"]


def test_the_documentation_lists_every_type() -> None:
    """Whoever narrows `types` finds the names to choose from."""
    page = (Path(__file__).parents[4] / "docs" / "guardrails.md").read_text(encoding="utf-8")
    assert f"narrows it: {', '.join(SECRET_TYPES)}." in page
