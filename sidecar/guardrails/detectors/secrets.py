"""Rules for secrets: vendor tokens, private keys, assignments of high entropy."""

from __future__ import annotations

from typing import Final

from sidecar.guardrails.detectors.secret_validators import (
    json_web_token,
    named_secret,
    password,
    random_value,
    whole_private_key,
    whole_putty_key,
)
from sidecar.guardrails.matching.rule import Expression, Rank, Rule, rule

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
        "SENTRY_TOKEN", r"\b(?:sntryu_[0-9a-f]{64}\b|sntrys_eyJ[A-Za-z0-9+/=]{60}[A-Za-z0-9+/=_]*)"
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


_PRIVATE_KEY_HEAD: Final = r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----"

SECRET_RULES: Final[tuple[Rule, ...]] = (
    *VENDOR_RULES,
    # AWS access key id: AKIA (long term) or ASIA (temporary) and 16 upper-case alphanumerics.
    rule("AWS_ACCESS_KEY", r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    # AWS secret access key: 40 of base64; only the words before distinguish it from a digest.
    # Parts are scanned joined by NUL, so that "not base64, or the end" holds at the end of each.
    rule(
        "AWS_SECRET_KEY",
        r"(?i)(?:aws|amazon)?_?(?:secret|sk)_?-? ?(?:access)?_?-? ?key[\"' ]{0,3}(?::|=|"
        r"is)"
        r"[\"' ]{0,3}([a-z0-9/+]{40})(?:[^a-z0-9/+]|$)",
        random_value,
    ),
    # GitHub: ghp_ personal, gho_ OAuth, ghu_/ghs_ app, ghr_ refresh, then 36 (or longer JWTs).
    rule("GITHUB_TOKEN", r"\bgh[pousr]_[A-Za-z0-9_]{36}[A-Za-z0-9_]*"),
    # GitHub fine-grained: github_pat_, 22, underscore, 59.
    rule("GITHUB_TOKEN", r"\bgithub_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}"),
    # GitLab: glpat- personal, gldt- deploy, glrt- runner and more, 20 or longer.
    rule(
        "GITLAB_TOKEN",
        r"\bgl(?:pat|dt|rt|cbt|ptt|ft|imt|agent|oas|soat)-[A-Za-z0-9_.-]{20}"
        r"[A-Za-z0-9_.-]*",
    ),
    # Slack: xoxb- bot, xoxp- user, xoxa-, xoxr-, xoxs-, xoxe- refresh; xapp- app level.
    rule(
        "SLACK_TOKEN",
        r"\b(?:xox[abeoprs]|xoxe\.xox[bp]|xapp)-[A-Za-z0-9]{1,12}-[A-Za-z0-9-]{10}"
        r"[A-Za-z0-9-]*",
    ),
    # Slack incoming webhook: the path is the credential.
    rule(
        "SLACK_WEBHOOK",
        r"hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9/_-]{20}"
        r"[A-Za-z0-9/_-]*",
    ),
    # Stripe: sk_ secret, rk_ restricted, whsec_ webhook signing secret.
    rule(
        "STRIPE_KEY",
        r"\b(?:(?:sk|rk)_(?:live|test|prod)_[A-Za-z0-9]{16}[A-Za-z0-9]*|whsec_"
        r"[A-Za-z0-9+/]{32}[A-Za-z0-9+/=]*)",
    ),
    # OpenAI: sk-, sk-proj-, sk-svcacct-, sk-admin-; the infix T3BlbkFJ is base64 of «OpenAI».
    rule(
        "OPENAI_KEY",
        r"\bsk-(?:proj-|svcacct-|admin-)?[A-Za-z0-9_-]{20}[A-Za-z0-9_-]*T3BlbkFJ"
        r"[A-Za-z0-9_-]{20}[A-Za-z0-9_-]*",
    ),
    rule("OPENAI_KEY", r"\bsk-(?:proj|svcacct|admin)-[A-Za-z0-9_-]{40}[A-Za-z0-9_-]*"),
    # The same prefix is used by OpenAI-compatible vendors (DeepSeek, OpenRouter sk-or-v1-).
    rule(
        "LLM_API_KEY",
        r"\bsk-(?:or-v1-)?[A-Za-z0-9]{32}[A-Za-z0-9]*\b",
        random_value,
        rank=Rank.SHARED_PREFIX,
    ),
    # Anthropic: sk-ant-api03-, sk-ant-admin01-, sk-ant-oat01-.
    rule("ANTHROPIC_KEY", r"\bsk-ant-[a-z]{3,8}[0-9]{2}-[A-Za-z0-9_-]{32}[A-Za-z0-9_-]*"),
    # Google API key: AIza and 35.
    rule("GOOGLE_API_KEY", r"\bAIza[A-Za-z0-9_-]{35}"),
    # Google OAuth client secret: GOCSPX- and 28; access tokens: ya29.
    rule("GOOGLE_OAUTH", r"\b(?:GOCSPX-[A-Za-z0-9_-]{28}|ya29\.[A-Za-z0-9_-]{30}[A-Za-z0-9_-]*)"),
    # Google Cloud service-account file: 40 hex; its PEM key is found by PRIVATE_KEY.
    rule(
        "GCP_SERVICE_ACCOUNT", r"private_key_id\\?[\"'][ \t]{0,4}:[ \t]{0,4}\\?[\"']([0-9a-f]{40})"
    ),
    # Azure storage: AccountKey= and 64 bytes in base64.
    rule(
        "AZURE_STORAGE_KEY",
        r"(?i)\b(?:AccountKey|SharedAccessKey)=([A-Za-z0-9+/]{43}[A-Za-z0-9+/]*={0,2})",
    ),
    # Azure AD (Entra) client secret: three, a digit, Q~, 31 to 34.
    rule("AZURE_CLIENT_SECRET", r"\b[A-Za-z0-9_.~-]{3}[0-9]Q~[A-Za-z0-9_.~-]{31,34}"),
    # Azure shared access signature: sig= and a URL-encoded HMAC-SHA256.
    rule("AZURE_SAS", r"[?&]sig=([A-Za-z0-9/+]{20}[A-Za-z0-9%/+]*(?:=|%3[dD])?)"),
    # SendGrid: SG., 22, dot, 43.
    rule("SENDGRID_KEY", r"\bSG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}"),
    # Twilio: SK (API key) or AC (account) and 32 hex; only the key is a credential.
    rule("TWILIO_KEY", r"\bSK[0-9a-f]{32}\b"),
    # npm granular or automation token: npm_ and 36.
    rule("NPM_TOKEN", r"\bnpm_[A-Za-z0-9]{36}\b"),
    # PyPI: pypi- and a macaroon, whose first field is always the host in base64.
    rule("PYPI_TOKEN", r"\bpypi-AgE[A-Za-z0-9_-]{50}[A-Za-z0-9_-]*"),
    # Hugging Face: hf_ user, api_org_ organization, 34.
    rule("HUGGINGFACE_TOKEN", r"\b(?:hf|api_org)_[A-Za-z]{34}\b"),
    # DigitalOcean: dop_v1_ personal, doo_v1_ OAuth, dor_v1_ refresh, 64 hex.
    rule("DIGITALOCEAN_TOKEN", r"\bdo[opr]_v1_[0-9a-f]{64}\b"),
    # Databricks: dapi and 32 hex, sometimes a workspace suffix.
    rule("DATABRICKS_TOKEN", r"\bdapi[0-9a-f]{32}(?:-[0-9])?\b"),
    # JSON Web Token: three base64url segments, the first a JOSE header (RFC 7519).
    rule(
        "JWT",
        r"\beyJ[A-Za-z0-9_-]{8}[A-Za-z0-9_-]*\.eyJ[A-Za-z0-9_-]{8}[A-Za-z0-9_-]*\."
        r"[A-Za-z0-9_-]*",
        json_web_token,
    ),
    # PEM and PGP private keys (RFC 7468, RFC 4880).
    Rule(
        "PRIVATE_KEY",
        Expression(_PRIVATE_KEY_HEAD),
        whole_private_key,
        grows=_PRIVATE_KEY_HEAD + r"[A-Za-z0-9+/=\r\n\t \\:,-]*(?:-----END[A-Z0-9 ]{1,40}-----)?",
    ),
    # PuTTY's own format, from the line before the key's lines to the MAC.
    rule("PRIVATE_KEY", r"PuTTY-User-Key-File-[23]: [a-z0-9-]{1,40}", whole_putty_key),
    # A URL with a password (RFC 3986 section 3.2.1), database schemes named apart.
    rule(
        "DATABASE_URL",
        r"(?i)\b(?:postgres(?:ql)?|mysql|mariadb|mongodb|rediss?|amqps?|mssql|clickhouse"
        r"|oracle|"
        r"cockroachdb|snowflake|kafka|nats)(?:\+[a-z0-9_]+)?://[^\s:/@\"'<>\x00]*:("
        r"[^\s/@\"'<>\x00]+)@",
        password,
    ),
    rule(
        "BASIC_AUTH_URL",
        r"(?i)\b(?:https?|ftps?|ssh|git|smtps?|ldaps?|wss?)://[^\s:/@\"'<>\x00]*:("
        r"[^\s/@\"'<>\x00]+)@",
        password,
    ),
    # HTTP credentials in a pasted header (RFC 7617, RFC 6750).
    rule(
        "AUTHORIZATION_HEADER",
        r"(?i)\bauthorization[\"' ]{0,3}[:=][\"' ]{0,3}(?:basic|bearer) {1,4}("
        r"[a-z0-9+/_.~-]{16}[a-z0-9+/_.~-]*={0,2})",
        random_value,
        rank=Rank.GENERIC_SECRET,
    ),
    # Telegram bot: the bot's number, a colon, 35 beginning with AA.
    rule("TELEGRAM_BOT_TOKEN", r"\b[0-9]{8,10}:AA[A-Za-z0-9_-]{33}"),
    # Discord bot: user id in base64, timestamp, HMAC; webhooks carry the token in the path.
    rule(
        "DISCORD_TOKEN",
        r"\b[MNO][A-Za-z0-9_-]{23,27}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,38}",
        random_value,
    ),
    rule(
        "DISCORD_WEBHOOK",
        r"discord(?:app)?\.com/api/webhooks/[0-9]{17,20}/[A-Za-z0-9_-]{60}[A-Za-z0-9_-]*",
    ),
    # Shopify: shpat_ admin, shpca_ custom app, shppa_ private app, shpss_ shared secret, 32 hex.
    rule("SHOPIFY_TOKEN", r"\bshp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}\b"),
    # Square: EAAA and 60 (access), sq0csp- and 43 (secret), sq0atp- and 22 (personal).
    rule(
        "SQUARE_TOKEN",
        r"\b(?:EAAA[A-Za-z0-9_-]{60}|sq0csp-[A-Za-z0-9_-]{43}|sq0atp-[A-Za-z0-9_-]{22})",
    ),
    # Mailgun: key- and 32 hex. Mailchimp: 32 hex and the data centre.
    rule("MAILGUN_KEY", r"\bkey-[0-9a-f]{32}\b"),
    rule("MAILCHIMP_KEY", r"\b[0-9a-f]{32}-us[0-9]{1,2}\b"),
    # HashiCorp Vault: hvs. service, hvb. batch, hvr. recovery.
    rule("VAULT_TOKEN", r"\bhv[sbr]\.[A-Za-z0-9_-]{24}[A-Za-z0-9_-]*"),
    # Grafana: glsa_ service account, glc_ cloud.
    rule(
        "GRAFANA_TOKEN",
        r"\bgl(?:sa_[A-Za-z0-9]{32}_[0-9a-fA-F]{8}|c_[A-Za-z0-9+/]{32}[A-Za-z0-9+/=]*)",
    ),
    rule("ATLASSIAN_TOKEN", r"\bATATT3[A-Za-z0-9_=-]{100}[A-Za-z0-9_=-]*"),
    rule("LINEAR_KEY", r"\blin_api_[A-Za-z0-9]{40}\b"),
    rule("NOTION_TOKEN", r"\b(?:ntn_[0-9]{11}[A-Za-z0-9]{35}|secret_[A-Za-z0-9]{43})\b"),
    rule("NEW_RELIC_KEY", r"\bNRAK-[A-Z0-9]{27}\b"),
    # Docker Hub: dckr_pat_ personal, dckr_oat_ organization.
    rule("DOCKER_TOKEN", r"\bdckr_[po]at_[A-Za-z0-9_-]{27}[A-Za-z0-9_-]*"),
    rule("PLANETSCALE_TOKEN", r"\bpscale_(?:tkn|pw|oauth)_[A-Za-z0-9_.=-]{32}[A-Za-z0-9_.=-]*"),
    rule("POSTMAN_KEY", r"\bPMAK-[0-9a-f]{24}-[0-9a-f]{34}\b"),
    rule(
        "DOPPLER_TOKEN",
        r"\bdp\.(?:ct|pt|st|sa|scim|audit)\.(?:[a-z0-9_-]{2,35}\.)?[A-Za-z0-9]{40}"
        r"[A-Za-z0-9]*",
    ),
    rule(
        "LLM_API_KEY",
        r"\b(?:gsk_[A-Za-z0-9]{52}|xai-[A-Za-z0-9]{80}|r8_[A-Za-z0-9]{37}|"
        r"pplx-[A-Za-z0-9]{48})",
        rank=Rank.SHARED_PREFIX,
    ),
    # age (encryption) secret key: bech32, upper case.
    rule("AGE_SECRET_KEY", r"\bAGE-SECRET-KEY-1[0-9A-Z]{58}\b"),
    # Our own: egk_, 12 public, underscore, 43 secret and 6 of checksum, base62.
    rule("EGRET_KEY", r"\begk_[A-Za-z0-9]{12}_[A-Za-z0-9]{49}"),
    # Docker and npm configuration files: "auth": base64 of user:password.
    rule(
        "REGISTRY_AUTH",
        r"(?:\\?\"auth\\?\"[ \t]{0,4}:[ \t]{0,4}\\?\"|_auth(?:Token)? ?= ?\"?)"
        r"([A-Za-z0-9+/_-]{16}[A-Za-z0-9+/_-]*={0,2})",
        random_value,
    ),
    # Any value that a word calls a secret, random enough to be one.
    rule(
        "GENERIC_SECRET",
        r"(?i)(?:api|access|auth|client|private|signing|encryption|master|app)?[_. -]?"
        r"(?:secret|token|passw(?:or)?d|passwd|credential|api_?-?key|apikey|"
        r"access_?-?key|"
        r"auth_?-?key|signing_?-?key|encryption_?-?key|private_?-?key)[a-z_.-]{0,16}"
        r"\\?[\"'` ]{0,3}(?::=|=>|:|=| is )\\?[\"'` ]{0,3}"
        r"([a-z0-9+/=_.~!@#%^&*-]{16,160})",
        named_secret,
        rank=Rank.GENERIC_SECRET,
    ),
)
"""Every rule of the `secrets` guardrail; several rules may share a type."""

SECRET_TYPES: Final = tuple(sorted({known.type for known in SECRET_RULES}))
