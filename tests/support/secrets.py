"""Made-up credentials of every kind, put together here so that no scanner takes them for real."""

from __future__ import annotations

import base64
import random
import string
from typing import Final

_BASE62: Final = string.ascii_letters + string.digits
_HEX: Final = "0123456789abcdef"
_UPPER: Final = string.ascii_uppercase + string.digits


def _some(count: int, alphabet: str = _BASE62) -> str:
    letters = random.Random(f"{count}{alphabet}")  # noqa: S311 - the same every time
    return "".join(letters.choices(alphabet, k=count))


def _segment(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


_LOWER: Final = string.ascii_lowercase + string.digits
_UUID: Final = "-".join(_some(count, _HEX) for count in (8, 4, 4, 4, 12))
_PUTTY: Final = "\n".join(
    ("PuTTY-User-Key-File-3: ssh-ed25519", "Encryption: none", "Comment: me", "Public-Lines: 1",
     _some(64), "Private-Lines: 1", _some(48), "Private-MAC: " + _some(64, _HEX))
)  # fmt: skip
_PEM: Final = "\n".join(
    ("-----BEGIN RSA PRIVATE KEY-----", _some(64), _some(64), "-----END RSA PRIVATE KEY-----")
)
_JWT: Final = ".".join((_segment('{"alg":"HS256"}'), _segment('{"sub":"alice"}'), _some(43)))

SECRETS: Final[tuple[tuple[str, str, str], ...]] = (
    ("AWS_ACCESS_KEY", "", "AKIA" + _some(16, _UPPER)),
    ("AWS_ACCESS_KEY", "", "ASIA" + _some(16, _UPPER)),
    ("AWS_SECRET_KEY", "aws_secret_access_key = ", _some(39) + "/"),
    ("GITHUB_TOKEN", "", "ghp_" + _some(36)),
    ("GITHUB_TOKEN", "", "ghs_" + _some(36)),
    ("GITHUB_TOKEN", "", "github_pat_" + _some(22) + "_" + _some(59)),
    ("GITLAB_TOKEN", "", "glpat-" + _some(20)),
    ("SLACK_TOKEN", "", "xoxb-" + _some(11, string.digits) + "-" + _some(24)),
    ("SLACK_WEBHOOK", "https://", "hooks.slack.com/services/T" + _some(8) + "/B" + _some(24)),
    ("STRIPE_KEY", "", "sk_live_" + _some(24)),
    ("STRIPE_KEY", "", "rk_live_" + _some(24)),
    ("OPENAI_KEY", "", "sk-" + _some(20) + "T3BlbkFJ" + _some(20)),
    ("OPENAI_KEY", "", "sk-proj-" + _some(60)),
    ("ANTHROPIC_KEY", "", "sk-ant-api03-" + _some(93)),
    ("GOOGLE_API_KEY", "", "AIza" + _some(35)),
    ("GOOGLE_OAUTH", "", "GOCSPX-" + _some(28)),
    ("GCP_SERVICE_ACCOUNT", '"private_key_id": "', _some(40, _HEX)),
    ("AZURE_STORAGE_KEY", "AccountName=a;AccountKey=", _some(86) + "=="),
    ("AZURE_CLIENT_SECRET", "", _some(3) + "8Q~" + _some(34)),
    ("AZURE_SAS", "https://h/c?sv=1&sig=", _some(40) + "%3D"),
    ("SENDGRID_KEY", "", "SG." + _some(22) + "." + _some(43)),
    ("TWILIO_KEY", "", "SK" + _some(32, _HEX)),
    ("NPM_TOKEN", "", "npm_" + _some(36)),
    ("PYPI_TOKEN", "", "pypi-AgE" + _some(80)),
    ("HUGGINGFACE_TOKEN", "", "hf_" + _some(34, string.ascii_letters)),
    ("DIGITALOCEAN_TOKEN", "", "dop_v1_" + _some(64, _HEX)),
    ("DATABRICKS_TOKEN", "", "dapi" + _some(32, _HEX)),
    ("JWT", "", _JWT),
    ("PRIVATE_KEY", "", _PEM),
    ("PRIVATE_KEY", "", _PEM.replace("\n", "\\n")),
    ("DATABASE_URL", "postgresql+asyncpg://app:", "s3cr%21t"),
    ("BASIC_AUTH_URL", "https://bob:", "hunter2"),
    ("AUTHORIZATION_HEADER", "Authorization: Basic ", _some(27) + "="),
    ("TELEGRAM_BOT_TOKEN", "", "123456789:AA" + _some(33)),
    ("DISCORD_TOKEN", "", "M" + _some(24) + "." + _some(6) + "." + _some(27)),
    ("DISCORD_WEBHOOK", "https://", "discord.com/api/webhooks/123456789012345678/" + _some(68)),
    ("SHOPIFY_TOKEN", "", "shpat_" + _some(32, _HEX)),
    ("SQUARE_TOKEN", "", "sq0csp-" + _some(43)),
    ("MAILGUN_KEY", "", "key-" + _some(32, _HEX)),
    ("MAILCHIMP_KEY", "", _some(32, _HEX) + "-us12"),
    ("VAULT_TOKEN", "", "hvs." + _some(24)),
    ("GRAFANA_TOKEN", "", "glsa_" + _some(32) + "_" + _some(8, _HEX)),
    ("ATLASSIAN_TOKEN", "", "ATATT3" + _some(180)),
    ("LINEAR_KEY", "", "lin_api_" + _some(40)),
    ("NOTION_TOKEN", "", "ntn_" + _some(11, string.digits) + _some(35)),
    ("NEW_RELIC_KEY", "", "NRAK-" + _some(27, _UPPER)),
    ("DOCKER_TOKEN", "", "dckr_pat_" + _some(27)),
    ("PLANETSCALE_TOKEN", "", "pscale_tkn_" + _some(43)),
    ("POSTMAN_KEY", "", "PMAK-" + _some(24, _HEX) + "-" + _some(34, _HEX)),
    ("DOPPLER_TOKEN", "", "dp.pt." + _some(43)),
    ("LLM_API_KEY", "", "gsk_" + _some(52)),
    ("LLM_API_KEY", "", "sk-" + _some(48)),
    ("AGE_SECRET_KEY", "", "AGE-SECRET-KEY-1" + _some(58, _UPPER)),
    ("EGRET_KEY", "", "egk_" + _some(12) + "_" + _some(49)),
    ("REGISTRY_AUTH", '{"auth": "', _some(30) + "=="),
    ("GENERIC_SECRET", "client_secret: ", _some(28)),
    ("GENERIC_SECRET", 'API_KEY="', _some(32)),
    ("PRIVATE_KEY", "", _PUTTY),
    ("ALIBABA_KEY", "", "LTAI5t" + _some(18)),
    ("TENCENT_KEY", "", "AKID" + _some(32)),
    ("AZURE_DEVOPS_TOKEN", "", _some(76) + "AZDO" + _some(4)),
    ("CLOUDFLARE_KEY", "", "v1.0-" + _some(24, _HEX) + "-" + _some(146, _HEX)),
    ("YANDEX_KEY", "", "AQVN" + _some(36)),
    ("SCALEWAY_KEY", "", "SCW" + _some(17, _UPPER)),
    ("HEROKU_KEY", "", "HRKU-AA" + _some(58)),
    ("NETLIFY_TOKEN", "", "nfp_" + _some(36)),
    ("RENDER_KEY", "", "rnd_" + _some(32)),
    ("FLY_TOKEN", "", "fo1_" + _some(43)),
    ("SUPABASE_KEY", "", "sbp_" + _some(40, _HEX)),
    ("SUPABASE_KEY", "", "sb_secret_" + _some(31)),
    ("MONGODB_ATLAS_SECRET", "", "mdb_sa_sk_" + _some(40)),
    ("TAILSCALE_KEY", "", "tskey-auth-" + _some(17) + "-" + _some(32)),
    ("BITBUCKET_APP_PASSWORD", "", "ATBB" + _some(32)),
    ("RUBYGEMS_KEY", "", "rubygems_" + _some(48, _HEX)),
    ("CRATES_IO_TOKEN", "", "cio" + _some(32)),
    ("NUGET_KEY", "", "oy2" + _some(43, _LOWER)),
    ("CLOJARS_TOKEN", "", "CLOJARS_" + _some(60, _LOWER)),
    ("ARTIFACTORY_TOKEN", "", "AKCp" + _some(69)),
    ("SONARQUBE_TOKEN", "", "squ_" + _some(40, _HEX)),
    ("SOURCEGRAPH_TOKEN", "", "sgp_" + _some(16, _HEX) + "_" + _some(40, _HEX)),
    ("CIRCLECI_TOKEN", "", "CCIPAT_" + _some(22) + "_" + _some(40, _HEX)),
    ("BUILDKITE_TOKEN", "", "bkua_" + _some(40, _HEX)),
    ("TERRAFORM_TOKEN", "", _some(14) + ".atlasv1." + _some(67)),
    ("PULUMI_TOKEN", "", "pul-" + _some(40, _HEX)),
    ("PREFECT_KEY", "", "pnu_" + _some(36)),
    ("INFRACOST_KEY", "", "ico-" + _some(32)),
    ("OCTOPUS_KEY", "", "API-" + _some(26, _UPPER)),
    ("LAUNCHDARKLY_KEY", "", "sdk-" + _UUID),
    ("SENTRY_TOKEN", "", "sntryu_" + _some(64, _HEX)),
    ("SENTRY_TOKEN", "", "sntrys_eyJ" + _some(80) + "_" + _some(43)),
    ("DYNATRACE_TOKEN", "", "dt0c01." + _some(24, _UPPER) + "." + _some(64, _UPPER)),
    ("ONEPASSWORD_TOKEN", "", "ops_eyJ" + _some(240)),
    ("README_KEY", "", "rdme_" + _some(70, _LOWER)),
    ("AIRTABLE_TOKEN", "", "pat" + _some(14) + "." + _some(64, _HEX)),
    ("ASANA_TOKEN", "", "1/" + _some(16, string.digits) + ":" + _some(32, _HEX)),
    ("BREVO_KEY", "", "xkeysib-" + _some(64, _HEX) + "-" + _some(16)),
    ("CONTENTFUL_TOKEN", "", "CFPAT-" + _some(43)),
    ("DROPBOX_TOKEN", "", "sl." + _some(140)),
    ("EASYPOST_KEY", "", "EZAK" + _some(54)),
    ("SHIPPO_TOKEN", "", "shippo_live_" + _some(40, _HEX)),
    ("FACEBOOK_TOKEN", "", "EAA" + _some(120)),
    ("FIGMA_TOKEN", "", "figd_" + _some(40)),
    ("FRAME_IO_TOKEN", "", "fio-u-" + _some(64)),
    ("HUBSPOT_TOKEN", "", "pat-na1-" + _UUID),
    ("INTERCOM_TOKEN", "", "dG9rO" + _some(54) + "="),
    ("MAPBOX_TOKEN", "", "sk.eyJ" + _some(80) + "." + _some(22)),
    ("RESEND_KEY", "", "re_" + _some(8) + "_" + _some(24)),
    ("TYPEFORM_TOKEN", "", "tfp_" + _some(44)),
    ("PLAID_TOKEN", "", "access-production-" + _UUID),
    (
        "BRAINTREE_TOKEN",
        "",
        "access_token$production$" + _some(16, _LOWER) + "$" + _some(32, _HEX),
    ),
    ("FLUTTERWAVE_KEY", "", "FLWSECK-" + _some(32, "0123456789abcdefgh") + "-X"),
    (
        "TEAMS_WEBHOOK",
        "https://acme.",
        f"webhook.office.com/webhookb2/{_UUID}@{_UUID}/IncomingWebhook/{_some(32, _HEX)}/{_UUID}",
    ),
    ("LLM_API_KEY", "", "fw_" + _some(24)),
    ("LLM_API_KEY", "", "csk-" + _some(48, _LOWER)),
    ("LLM_API_KEY", "", "nvapi-" + _some(64)),
    ("LLM_API_KEY", "", "tvly-" + _some(32)),
    ("LLM_API_KEY", "", "sk_" + _some(48, _HEX)),
    ("LANGFUSE_KEY", "", "sk-lf-" + _UUID),
    ("LANGSMITH_KEY", "", "lsv2_pt_" + _some(32, _HEX) + "_" + _some(10, _HEX)),
    ("PINECONE_KEY", "", "pcsk_" + _some(6) + "_" + _some(63)),
)
"""Finding type, the words before it that are not part of it, and the credential."""
