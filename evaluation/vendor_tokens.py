"""Made-up credentials in the forms vendors document, and texts people paste them in.

Written from the vendors' descriptions of length and alphabet and drawn at random, not derived
from any detector's expressions. Passwords are drawn as their managers draw them, from letters,
digits and signs.
"""

from __future__ import annotations

import base64
import random
import string
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

_ALNUM: Final = string.ascii_letters + string.digits
_LOWER: Final = string.ascii_lowercase + string.digits
_UPPER: Final = string.ascii_uppercase + string.digits
_HEX: Final = "0123456789abcdef"
_URL: Final = _ALNUM + "_-"
_ALPHABETS: Final = {
    "a": _ALNUM,
    "l": _LOWER,
    "u": _UPPER,
    "h": _HEX,
    "w": _URL,
    "d": string.digits,
    "c": string.ascii_letters,
    "b": _ALNUM + "+/",
    "p": _ALNUM + "!@#$%^&*()-_=+[]{}:,.?;",
    "q": _ALNUM + "!@#$%^*-_=+?",
}

FORMS: Final = {
    "aws access key": "AKIA{u16}",
    "github personal": "ghp_{a36}",
    "github fine-grained": "github_pat_{a22}_{a59}",
    "gitlab personal": "glpat-{w20}",
    "slack bot": "xoxb-{d12}-{d12}-{a24}",
    "slack webhook": "https://hooks.slack.com/services/T{u10}/B{u10}/{a24}",
    "stripe live": "sk_live_{a24}",
    "stripe restricted": "rk_live_{a24}",
    "openai project": "sk-proj-{w74}T3BlbkFJ{w74}",
    "openai classic": "sk-{a20}T3BlbkFJ{a20}",
    "anthropic": "sk-ant-api03-{w93}AA",
    "google api": "AIza{w35}",
    "google oauth secret": "GOCSPX-{w28}",
    "azure storage": "DefaultEndpointsProtocol=https;AccountName=store{l6};AccountKey={b86}==",
    "azure client secret": "{a3}8Q~{w34}",
    "sendgrid": "SG.{w22}.{w43}",
    "twilio key": "SK{h32}",
    "npm": "npm_{a36}",
    "pypi": "pypi-AgEIcHlwaS5vcmc{w120}",
    "hugging face": "hf_{c34}",
    "digitalocean": "dop_v1_{h64}",
    "databricks": "dapi{h32}",
    "telegram bot": "{d10}:AA{w33}",
    "discord webhook": "https://discord.com/api/webhooks/{d18}/{w68}",
    "shopify": "shpat_{h32}",
    "square": "sq0csp-{w43}",
    "mailchimp": "{h32}-us12",
    "mailgun": "key-{h32}",
    "vault": "hvs.{w95}",
    "grafana service account": "glsa_{a32}_{h8}",
    "atlassian": "ATATT3xFfGF0{w170}={u8}",
    "linear": "lin_api_{a40}",
    "notion": "ntn_{d11}{a35}",
    "new relic user": "NRAK-{u27}",
    "docker hub": "dckr_pat_{w27}",
    "planetscale": "pscale_tkn_{w43}",
    "postman": "PMAK-{h24}-{h34}",
    "doppler": "dp.pt.{a43}",
    "groq": "gsk_{a52}",
    "replicate": "r8_{a37}",
    "age": "AGE-SECRET-KEY-1{u58}",
    "airtable": "pat{a14}.{h64}",
    "alibaba cloud": "LTAI{a20}",
    "brevo": "xkeysib-{h64}-{a16}",
    "dropbox short-lived": "sl.{w140}",
    "duffel": "duffel_live_{w43}",
    "dynatrace": "dt0c01.{u24}.{u64}",
    "easypost": "EZAK{a54}",
    "facebook page": "EAA{a180}",
    "figma": "figd_{w40}",
    "flutterwave": "FLWSECK-{h32}-X",
    "frame.io": "fio-u-{w64}",
    "heroku": "HRKU-AA{w58}",
    "lob": "live_{h35}",
    "mapbox secret": "sk.eyJ1{a80}.{w22}",
    "netlify": "nfp_{a36}",
    "plaid access": "access-production-{uuid}",
    "posthog personal": "phx_{a43}",
    "prefect": "pnu_{a36}",
    "pulumi": "pul-{h40}",
    "rubygems": "rubygems_{h48}",
    "sentry organization": "sntrys_{b120}_{b43}",
    "shippo": "shippo_live_{h40}",
    "sourcegraph": "sgp_{h16}_{h40}",
    "supabase": "sbp_{h40}",
    "terraform cloud": "{a14}.atlasv1.{w67}",
    "typeform": "tfp_{w44}_{w14}",
    "yandex cloud": "AQVN{w36}",
    "basic authentication": "https://deploy:{a14}@git.example.com/team/app.git",
    "postgresql": "postgresql://app:{a16}@db.internal:5432/orders",
    "mongodb": "mongodb+srv://admin:{a18}@cluster0.mongodb.net/prod",
    "redis": "redis://:{a20}@cache.internal:6379/0",
    "aws temporary key": "ASIA{u16}",
    "bedrock long-term": "ABSK{b108}==",
    "azure openai": "{a52}JQQJ99{u10}XJ3w3AAABACOG{a4}",
    "azure devops": "{a76}AZDO{a4}",
    "vercel personal": "vcp_{a56}",
    "vercel gateway": "vck_{a56}",
    "neon api key": "napi_{l64}",
    "neon role": "postgresql://neondb_owner:npg_{a12}@ep-cool-sun-123456.eu-central-1.aws.neon.tech/db",
    "render": "rnd_{a28}",
    "together": "tgp_v1_{w43}",
    "fireworks": "fw_{a24}",
    "posthog personal key": "phx_{a47}",
    "mercado pago": "APP_USR-{d16}-{d6}-{h32}-{d9}",
    "e2b": "e2b_{h40}",
    "browserbase": "bb_live_{w27}",
    "firecrawl": "fc-{h32}",
    "okta": "00{w40}",
    "linear oauth": "lin_oauth_{h64}",
    "tailscale auth": "tskey-auth-k{a9}CNTRL-{a32}",
    "tailscale api": "tskey-api-k{a9}CNTRL-{a33}",
    "cerebras": "csk-{l48}",
    "openrouter": "sk-or-v1-{h64}",
    "deepseek": "sk-{h32}",
    "xai": "xai-{a80}",
    "perplexity": "pplx-{a48}",
    "nvidia": "nvapi-{w64}",
    "tavily": "tvly-dev-{a32}",
    "elevenlabs": "sk_{h48}",
    "langsmith": "lsv2_pt_{h32}_{h10}",
    "langfuse": "sk-lf-{uuid}",
    "pinecone": "pcsk_{a5}_{a63}",
    "voyage": "pa-{w43}",
    "jina": "jina_{a60}",
    "llamacloud": "llx-{a48}",
    "github app": "ghs_{a36}",
    "gitlab runner": "glrt-{w20}",
    "bitbucket": "ATBB{a32}",
    "trello": "ATTA{h64}",
    "circleci": "CCIPAT_{a22}_{h40}",
    "buildkite": "bkua_{h40}",
    "sonarqube": "squ_{h40}",
    "sentry user": "sntryu_{h64}",
    "honeycomb": "hcaik_01{l56}",
    "crates.io": "cio{a32}",
    "nuget": "oy2{l43}",
    "clojars": "CLOJARS_{l60}",
    "artifactory": "AKCp{a69}",
    "octopus": "API-{u26}",
    "hubspot": "pat-na1-{uuid}",
    "asana": "1/{d16}:{h32}",
    "resend": "re_{a8}_{a24}",
    "contentful": "CFPAT-{w43}",
    "razorpay": "rzp_live_{a14}",
    "clickup": "pk_{d8}_{u32}",
    "tencent cloud": "AKID{a32}",
    "scaleway": "SCW{u17}",
    "fly.io": "fo1_{w43}",
    "supabase secret": "sb_secret_{w31}",
    "1password": "ops_eyJ{w240}",
    "json web token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ{a40}.{w43}",
}  # fmt: skip
"""Put into every place; `{h32}` is 32 characters of the alphabet h."""

NAMED_FORMS: Final = {
    "cloudflare token": "CLOUDFLARE_API_TOKEN={w40}",
    "datadog": "DD_API_KEY={h32}",
    "aws secret key": "aws_secret_access_key = {b40}",
    "password in a file": 'password: "{a10}#{a8}!"',
    "client secret": "client_secret={w40}",
    "azure openai, older": "AZURE_OPENAI_API_KEY={h32}",
    "mandrill": "MANDRILL_API_KEY=md-{w22}",
    "hex behind a name": "X_API_KEY={h32}",
    "algolia": 'ALGOLIA_ADMIN_API_KEY: "{h32}"',
    "cohere": 'cohere_api_key = "{a40}"',
    "mistral": "MISTRAL_API_KEY={a32}",
    "django": "SECRET_KEY = '{p50}'",
    "session secret": "session_secret: {h64}",
    "registry": '"auth": "{b40}"',
    "bearer": "Authorization: Bearer {a40}",
    "password in quotes": 'password = "{p12}"',
    "password in yaml": "  password: '{p16}'",
    "password in json": '"db_password": "{q14}"',
    "environment": "DB_PASSWORD={q12}",
    "postgres environment": "PGPASSWORD={q14} psql -h db -U app",
    "mysql": "mysql -h db -u app -p{a14} orders",
    "sshpass": "sshpass -p '{q12}' ssh deploy@10.0.0.4",
    "ado.net": "Server=db;Database=x;User Id=app;Password={q14};Encrypt=True",
    "libpq": "host=db user=app password={a14} dbname=orders",
    "jdbc": "jdbc:mysql://db:3306/x?user=app&password={a16}&useSSL=true",
    "sql": "CREATE USER app IDENTIFIED BY '{q14}';",
    "curl": "curl -u deploy:{a16} https://api.example.com/items",
    "xml": "<password>{a14}</password>",
    "english": "the password is {q12}",
    "german": "Das Passwort lautet {q12}",
    "french": "le mot de passe est {q12}",
    "spanish": "la contraseña es {q12}",
    "portuguese": "a senha é {q12}",
    "italian": "password: {q12}, grazie",
    "dutch": "wachtwoord: {q12}",
    "polish": "hasło: {q12}",
    "russian": "пароль: {q12}",
    "chinese": "密码是{q12}",
    "japanese": "パスワード\uff1a{q12}",
    "korean": "비밀번호: {q12}",
    "turkish": "şifre: {q12}",
    "arabic": "كلمة المرور: {q12}",
}  # fmt: skip
"""Known by their surroundings alone, and put as they are."""

PLACES: Final = (
    "{token}",
    "export TOKEN_VALUE={token}\nnpm run deploy",
    "Why do I get a 401 with this? I use {token} as the documentation says.",
    '{{"service": "billing", "credential": "{token}", "retries": 3}}',
    "# config.yaml\nservice:\n  url: https://api.example.com\n  value: {token}\n",
    "curl -s https://api.example.com/v1/items -H 'X-Auth: {token}'",
    'const client = new Client({{ value: "{token}" }}); // works on my machine',
    "2026-03-04T10:11:12Z ERROR login failed for '{token}' from 10.2.3.4",
)

A_VENDOR: Final = 16
"""Texts of each vendor: twice each place."""


@dataclass(frozen=True, slots=True)
class SecretText:
    """A text with one credential in it."""

    vendor: str
    text: str


def secret_texts(seed: int = 20261125) -> Iterator[SecretText]:
    """Return the same texts for the same seed."""
    draw = random.Random(seed)  # noqa: S311 - made-up credentials, and the same each time
    for vendor, form in (FORMS | NAMED_FORMS).items():
        for number in range(A_VENDOR):
            place = "{token}" if vendor in NAMED_FORMS else PLACES[number % len(PLACES)]
            yield SecretText(vendor, place.format(token=_drawn(form, draw)))
    for kind, key in _private_keys(draw):
        for number in range(A_VENDOR):
            yield SecretText(kind, PLACES[(1, 2, 4)[number % 3]].format(token=key()))


def _drawn(form: str, draw: random.Random) -> str:
    token = ""
    while form:
        before, opened, rest = form.partition("{")
        token += before
        if not opened:
            break
        spec, _, form = rest.partition("}")
        if spec == "uuid":
            token += str(uuid.UUID(int=draw.getrandbits(128), version=4))
        else:
            token += "".join(draw.choices(_ALPHABETS[spec[0]], k=int(spec[1:])))
    return token


def _private_keys(draw: random.Random) -> Iterator[tuple[str, Callable[[], str]]]:
    def pem(label: str, size: int) -> Callable[[], str]:
        def key() -> str:
            body = base64.b64encode(draw.randbytes(size)).decode()
            lines = "\n".join(body[at : at + 64] for at in range(0, len(body), 64))
            return f"-----BEGIN {label}PRIVATE KEY-----\n{lines}\n-----END {label}PRIVATE KEY-----"

        return key

    yield "rsa private key", pem("RSA ", 1190)
    yield "pkcs8 private key", pem("", 1217)
    yield "openssh private key", pem("OPENSSH ", 411)
    yield "ec private key", pem("EC ", 121)
