"""Tokens of further vendors, each by the prefix and length its vendor documents or shows.

Where a comment names none, the page that shows the form is the vendor's on API keys or access
tokens. Prefixes are there so that tokens can be found; a vendor without one is left to
GENERIC_SECRET and the word before it.
"""

from __future__ import annotations

from typing import Final

from sidecar.guardrails.rules.rule import Rank, Rule, rule
from sidecar.guardrails.rules.secret_validators import random_value

_UUID: Final = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"

CLOUD_RULES: Final = (
    # Alibaba Cloud AccessKey ID: LTAI and 12 to 20. Tencent Cloud SecretId: AKID and 32.
    rule("ALIBABA_KEY", r"\bLTAI[A-Za-z0-9]{12,20}\b", random_value),
    rule("TENCENT_KEY", r"\bAKID[A-Za-z0-9]{32}\b", random_value),
    # Azure DevOps personal access token since 2024: 76, AZDO, 4 of checksum.
    rule("AZURE_DEVOPS_TOKEN", r"\b[A-Za-z0-9]{76}AZDO[A-Za-z0-9]{4}\b"),
    # Cloudflare origin CA key: v1.0-, 24 hex, 146 hex.
    rule("CLOUDFLARE_KEY", r"\bv1\.0-[0-9a-f]{24}-[0-9a-f]{146}\b"),
    # Yandex Cloud API key: AQVN and 35 to 38.
    rule("YANDEX_KEY", r"\bAQVN[A-Za-z0-9_-]{35,38}\b"),
    rule("SCALEWAY_KEY", r"\bSCW[A-Z0-9]{17}\b", random_value),
    # Heroku since 2024: HRKU-AA and 58. Netlify: nfp_ and 36. Render: rnd_ and 32.
    rule("HEROKU_KEY", r"\bHRKU-AA[A-Za-z0-9_-]{58}"),
    rule("NETLIFY_TOKEN", r"\bnfp_[A-Za-z0-9]{36}\b"),
    rule("RENDER_KEY", r"\brnd_[A-Za-z0-9]{32}\b"),
    # Fly.io: a macaroon in base64 behind fo1_, fm1r_, fm2_.
    rule("FLY_TOKEN", r"\bf(?:o1|m1[ar]|m2)_[A-Za-z0-9+/_-]{40}[A-Za-z0-9+/=_-]*"),
    rule("SUPABASE_KEY", r"\b(?:sbp_[0-9a-f]{40}\b|sb_secret_[A-Za-z0-9_-]{31}[A-Za-z0-9_-]*)"),
    rule("MONGODB_ATLAS_SECRET", r"\bmdb_sa_sk_[A-Za-z0-9_-]{40}\b"),
    # Tailscale: auth, API, OAuth client, SCIM and webhook keys.
    rule(
        "TAILSCALE_KEY",
        r"\btskey-(?:auth|api|client|scim|webhook)-[A-Za-z0-9]{10}[A-Za-z0-9]*-[A-Za-z0-9]{20}"
        r"[A-Za-z0-9]*",
    ),
)

DEVELOPMENT_RULES: Final = (
    rule("BITBUCKET_APP_PASSWORD", r"\bATBB[A-Za-z0-9]{32}\b"),
    # RubyGems: rubygems_ and 48 hex. Cargo: cio and 32. NuGet: oy2 and 43. Clojars: 60.
    rule("RUBYGEMS_KEY", r"\brubygems_[0-9a-f]{48}\b"),
    rule("CRATES_IO_TOKEN", r"\bcio[A-Za-z0-9]{32}\b", random_value),
    rule("NUGET_KEY", r"\boy2[a-z0-9]{43}\b"),
    rule("CLOJARS_TOKEN", r"\bCLOJARS_[a-z0-9]{60}\b"),
    # JFrog Artifactory: AKCp and 69; reference tokens are base64 of «reftkn:».
    rule("ARTIFACTORY_TOKEN", r"\b(?:AKCp[A-Za-z0-9]{69}|cmVmdGtuOj[A-Za-z0-9]{54})\b"),
    # SonarQube since 9.5: sqp_ project, squ_ user, sqa_ global, 40 hex.
    rule("SONARQUBE_TOKEN", r"\bsq[apu]_[0-9a-f]{40}\b"),
    rule("SOURCEGRAPH_TOKEN", r"\bsgp_(?:(?:[0-9a-f]{16}|local)_)?[0-9a-f]{40}\b"),
    # CircleCI: CCIPAT_, CCIPRJ_, 22, 40 hex. Buildkite: bkua_ and 40 hex.
    rule("CIRCLECI_TOKEN", r"\bCCIP(?:AT|RJ)_[A-Za-z0-9]{22}_[0-9a-f]{40}\b"),
    rule("BUILDKITE_TOKEN", r"\bbkua_[0-9a-f]{40}\b"),
    # HCP Terraform: 14, .atlasv1., 60 or more.
    rule("TERRAFORM_TOKEN", r"\b[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_=-]{60}[A-Za-z0-9_=-]*"),
    rule("PULUMI_TOKEN", r"\bpul-[0-9a-f]{40}\b"),
    rule("PREFECT_KEY", r"\bpn[ub]_[A-Za-z0-9]{36}\b"),
    rule("INFRACOST_KEY", r"\bico-[A-Za-z0-9]{32}\b"),
    rule("OCTOPUS_KEY", r"\bAPI-[A-Z0-9]{26}\b", random_value),
    rule("LAUNCHDARKLY_KEY", rf"\b(?:api|sdk)-{_UUID}\b"),
    # Sentry: organization tokens carry JSON in base64, user tokens 64 hex.
    rule(
        "SENTRY_TOKEN",
        r"\b(?:sntryu_[0-9a-f]{64}\b|sntrys_eyJ[A-Za-z0-9+/=]{60}[A-Za-z0-9+/=_]*)",
    ),
    # Dynatrace: dt0 and kind, 24 public, 64 secret.
    rule("DYNATRACE_TOKEN", r"\bdt0[a-z][0-9]{2}\.[A-Z0-9]{24}\.[A-Z0-9]{64}\b"),
    # 1Password service account: ops_ and JSON in base64.
    rule("ONEPASSWORD_TOKEN", r"\bops_eyJ[A-Za-z0-9+/=_-]{200}[A-Za-z0-9+/=_-]*"),
    rule("README_KEY", r"\brdme_[a-z0-9]{70}\b"),
)

BUSINESS_RULES: Final = (
    rule("AIRTABLE_TOKEN", r"\bpat[A-Za-z0-9]{14}\.[0-9a-f]{64}\b"),
    # Asana: version, ids, 32 hex.
    rule("ASANA_TOKEN", r"\b[12]/[0-9]{16}(?:/[0-9]{16})?:[0-9a-f]{32}\b"),
    rule("BREVO_KEY", r"\bxkeysib-[0-9a-f]{64}-[A-Za-z0-9]{16}\b"),
    rule("CONTENTFUL_TOKEN", r"\bCFPAT-[A-Za-z0-9_-]{43}"),
    rule("DROPBOX_TOKEN", r"\bsl\.(?:u\.)?[A-Za-z0-9_-]{130}[A-Za-z0-9_-]*"),
    # EasyPost: EZAK production, EZTK test, 54. Shippo: live or test, 40 hex.
    rule("EASYPOST_KEY", r"\bEZ[AT]K[A-Za-z0-9]{54}\b"),
    rule("SHIPPO_TOKEN", r"\bshippo_(?:live|test)_[0-9a-f]{40}\b"),
    rule("FACEBOOK_TOKEN", r"\bEAA[A-Za-z0-9]{90}[A-Za-z0-9]*\b", random_value),
    rule("FIGMA_TOKEN", r"\bfigd_[A-Za-z0-9_-]{40}[A-Za-z0-9_-]*"),
    rule("FRAME_IO_TOKEN", r"\bfio-u-[A-Za-z0-9_=-]{64}"),
    # HubSpot private app: pat-, region, UUID.
    rule("HUBSPOT_TOKEN", rf"\bpat-(?:na|eu|ap)[0-9]-{_UUID}\b"),
    # Intercom: base64 of «tok:».
    rule("INTERCOM_TOKEN", r"\bdG9rO[A-Za-z0-9+/]{54}="),
    # Mapbox secret token: sk. and a JSON Web Token without its header.
    rule("MAPBOX_TOKEN", r"\bsk\.eyJ[A-Za-z0-9_-]{60}[A-Za-z0-9_-]*\.[A-Za-z0-9_-]{22}"),
    rule("RESEND_KEY", r"\bre_[A-Za-z0-9]{8}_[A-Za-z0-9]{24}\b"),
    rule("TYPEFORM_TOKEN", r"\btfp_[A-Za-z0-9_-]{44}[A-Za-z0-9_-]*"),
    # Plaid: access-, environment, UUID. Braintree: access_token$production$, 16, 32 hex.
    rule("PLAID_TOKEN", rf"\baccess-(?:sandbox|development|production)-{_UUID}\b"),
    rule(
        "BRAINTREE_TOKEN", r"\baccess_token\$(?:production|sandbox)\$[0-9a-z]{16}\$[0-9a-f]{32}\b"
    ),
    rule("FLUTTERWAVE_KEY", r"\bFLWSECK(?:_TEST)?-[0-9a-h]{12,32}-?X?\b", random_value),
    # Microsoft Teams incoming webhook: the path is the credential.
    rule(
        "TEAMS_WEBHOOK",
        rf"webhook\.office\.com/webhookb2/{_UUID}@{_UUID}/IncomingWebhook/[0-9a-f]{{32}}/{_UUID}",
    ),
)

MODEL_RULES: Final = (
    # Vendors of models and of tools around them: Fireworks, Cerebras, NVIDIA, Tavily, ElevenLabs,
    # Langfuse, LangSmith, Pinecone.
    rule(
        "LLM_API_KEY",
        r"\b(?:fw_[A-Za-z0-9]{24}\b|csk-[a-z0-9]{48}\b|nvapi-[A-Za-z0-9_-]{60}[A-Za-z0-9_-]*"
        r"|tvly-[A-Za-z0-9-]{32}[A-Za-z0-9-]*|sk_[0-9a-f]{48}\b)",
        random_value,
        rank=Rank.SHARED_PREFIX,
    ),
    rule("LANGFUSE_KEY", rf"\bsk-lf-{_UUID}\b"),
    rule("LANGSMITH_KEY", r"\blsv2_(?:pt|sk)_[0-9a-f]{32}_[0-9a-f]{10}\b"),
    rule("PINECONE_KEY", r"\bpcsk_[A-Za-z0-9]{5,6}_[A-Za-z0-9]{60}[A-Za-z0-9]*"),
)

VENDOR_RULES: Final[tuple[Rule, ...]] = (
    *CLOUD_RULES,
    *DEVELOPMENT_RULES,
    *BUSINESS_RULES,
    *MODEL_RULES,
)
