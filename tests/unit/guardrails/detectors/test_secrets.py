from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sidecar.domain.guardrail_settings import SecretTier
from sidecar.guardrails.detectors.secret_validators import column_secrets, named_secret
from sidecar.guardrails.detectors.secrets import SECRET_TYPES
from tests.support.cpu_time import least_seconds
from tests.support.guardrails import effective, parts_of, policy
from tests.support.secrets import SECRETS

POLICY = effective(policy("  - {name: secrets, type: secrets}"))
TIERS = effective(
    policy("  - {name: strict, type: secrets, tiers: [strict]}\n"
           "  - {name: likely, type: secrets, tiers: [likely]}")
)  # fmt: skip

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
    "private_key_without_a_key": "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----",
    "private_key_of_code": 'key.indexOf("-----BEGIN PRIVATE KEY-----") !== pkcs8PrivateKeyHeader2',
    "private_key_of_prose": "Look for -----BEGIN RSA PRIVATE KEY----- in the first line of a file",
    "password_field": 'password = request.POST["password"], password: str = Field(min_length=12)',
    "password_rules": "'password' => ['required', 'confirmed', 'min:12'],",
    "password_url": 'password_reset_url: "/Account/Reset-Password?id=1&next=2"',
    "environment_variable": "DB_PASSWORD=$DB_PASSWORD PGPASSWORD=${PGPASSWORD:-x} mysql -p$PW",
    "credentials_class": "server_credentials: grpc.ServerCredentials | None = None",
    "passing": "by passing `strict=True12345` and passed: all_tests_v2[0]",
    "passed_to": "values that are passed to `Array.sort()` and pw := &PipeWriter{r: PipeReader}",
    "option": "the --username and --password <value> options",
    "path_of_a_key": "<privateKey>/path/to/private/key</privateKey>",
    "name_of_another_value": "- name: DB_PASSWORD_FILE\n  value: /run/secrets/Db-Pass-2024",
    "name_of_a_page": '{"name": "nextPageToken", "value": "CAoQAA3xYz12Pq99Xk"}',
    "value_of_a_variable": "- name: DB_PASSWORD\n  valueFrom:\n    secretKeyRef: db-secret-2024a",
    "mapping_of_secrets": "secrets:\n  - db-credentials-v2\ntoken:\n  type: string\n",
    "public_key_of_a_secret": "secret: |\n  -----BEGIN CERTIFICATE-----",
    "name_of_a_secret": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:db-AbC123",
    "publishable_key": "pk_live_" + "51H8a2bC9dK3eF7gH1jL5mN",
    "heading": "| user | password | created_at |\n|---|---|---|",
    "authorization_of_a_variable": 'headers["Authorization"] = f"Bearer {settings.api_token_2}"',
    "algorithm_of_a_password": "password PBKDF2WithHmacSHA256 or password v1.2.3-beta4, OAuth2.0",
    "address_of_a_password": "a password support2@ex1.example or password getPassword2V3b()",
    "time_of_a_password": "changed password 2024-01-15T10:30:00Z",
    "dash_behind_a_word": "the token \u2014 well-known \u2014, a secret \u2013 user-defined",
    "key_of_a_name": "The search key is database_v2_model, the API key: your-api-key",
    "columns_of_prose": "the user, password\nplease, useConfig2v3 then",
    "columns_of_code": "f(user, password):\n  a2b, Xk9mQ2vL7zRt\n  password,\n  sha256Hash12,\n",
    "columns_of_words": "user,password\nbob,correcthorse\n,\nbob,Xk9mQ2vL7zRt,x\n",
    "digest_of_a_secret": "secret_sha256: 5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c",
    "header_of_a_secret": 'credential_header="x-goog-api-key"',
    "address_of_keys": "Public signing keys are provided at `registry-host.tld/-/npm/v1/keys` in",
    "algorithms": 'password_encryption = scram-sha-256  # "password", "scram-sha-256", or md5',
    "variable_of_a_proxy": '{"key":"x-tokens","value":"%DYNAMIC_METADATA(egret:x-tokens)%"}',
    "variable_of_a_chart": "{{- $credentials := .Values.envoy.credentials -}}",
    "name_in_backticks": "the pass (`LocalScan.start`), the Secrets of `installation.keySecrets`",
    "password_left_out": "postgresql://egret:\u2026@db.example.org/egret",
    "id_of_a_trace": (
        "invalid username or password. Trace ID: 7d1c2b3a-4e5f-6789-abcd-ef0123456789"
    ),
    "row_of_names": "a,b\npassword,created_at\ntoken,countOfV2,1\nf(\npassword,\notherArg12)",
    "port_of_a_container": "docker run -p 8080:80 nginx\nredis-cli -p 16379\nmysql -P 3306 -u a",
    "project_of_containers": "docker compose -p staging up; docker cp -a web:/app2 x",
    "folder_of_a_download": "wget -P downloads1 https://x.example/a; curl -w @format.txt -o x",
    "options_of_openssl": "openssl rsa -in a.pem -pubout -passin env:PW; unzip -p a.zip",
    "parameters_of_a_template": "oc process -f t.yaml -p MEMORY=512Mi; az webapp up -p myplan7",
    "prompt_for_a_password": "mongosh -u ann -p --authenticationDatabase admin",
    "placeholder_of_an_address": (
        "mongodb+srv://<user>:<password>@cluster0.ab1cd.mongodb.net/?retryWrites=true and"
        " redis://default:YOUR_PASSWORD@cache:6379"
    ),
    "counts_of_tokens": "Token usage: prompt_tokens=1234567, Total tokens: in=1834201/out=922013",
    "fingerprint_of_a_key": '"signingKey": "SHA256:uNiVztksCsDhcc0u9e8BrrJXVGDPTyzpB5Jk8o8GGlE"',
    "secret_elsewhere": (
        'secret_id = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:db-AbC123"\n'
        "password: op://Private/github-bot/credential"
    ),
    "words_beyond_ascii": (
        "Passwort: Geändert! Kennwort: Übergabe-Protokoll, contraseña: Actualización,"
        " mot de passe : Réinitialisation, Пароль: Восстановление"
    ),
    "options_that_name_no_secret": (
        "npm install --token-file x1234567890abc; app --token=$TOKEN --token $GITHUB_TOKEN_2"
        " --token <your token> --token your-token-here1 --api-key $(cat /run/secrets/key2)"
        " --max-tokens 12345678 --tokenizer GPT2TokenizerFast --token {{ secrets.GH_TOKEN_V2 }}"
        " --access-token-file=/tmp/x --secret my-secret-v2-prod --secret-id prod/MyApp-db2"
        " --private-key ~/.ssh/id_ed25519 --pass-through args1234 --bypass 10.0.0.0/8x"
        " --sort-key created_at2; docker build --secret id=aws1234,src=/root/.aws/credentials ."
    ),
    "names_of_one_letter": f'{{"d": "{"k3Jd9sLq2Wn8" * 4}"}} {{"kty":"EC","x":"a"}}',
    "short_prefix": "sk-learn, hf_transfer, npm_config_cache, AKIA is a prefix",
}


def found(*texts: str) -> list[tuple[str, str]]:
    parts = parts_of(texts)
    (outcome,) = POLICY.local.scan(parts)
    assert outcome.failure is None
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
    if type_ in {"DATABASE_URL", "BASIC_AUTH_URL", "DEFAULT_PASSWORD"}:
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
    ("before", "value", "after"),
    [
        pytest.param(before, value, after, id=before.strip() or value)
        for before, value, after in (
            ("DB_PASSWORD=", "Xk9mQ2vL7zRt", "\n"),
            ("PGPASSWORD='", "Xk9#mQ2$vL7z", "' psql"),
            ("password: ", "aB3$xY9(kL2{", "\n"),
            ('"password": "', "q#Lm-WxTz!Pd", '"}'),
            ("<password>", "kT4vRw9zQm2b", "</password>"),
            ("Server=db;User Id=sa;Password=", "Xk9#mQ2vL7z", ";Encrypt=yes"),
            ("jdbc:mysql://db/x?user=a&password=", "Xk9mQ2vL7zRt", "&useSSL=true"),
            ("mysql -u root -p", "Xk9#mQ2vL7z", " orders"),
            ("mysqldump -h db -p'", "Xk9#mQ2vL7z", "' orders"),
            ("sshpass -p '", "Xk9#mQ2", "' ssh db"),
            ("gh auth login --token ", "Xk9mQ2vL7zRt4Wb8", "\n"),
            ('{"command":"app deploy --api-key ', "Xk9mQ2vL7zRt4Wb8", ' --region eu"}'),
            ("app --auth-token=", "Xk9mQ2vL7zRt4Wb8", " run"),
            ("az login --client-secret '", "Xk9mQ2vL7zRt4Wb8", "'"),
            ("aws x --secret-access-key ", "Xk9mQ2vL7zRt4Wb8abcd", "\n"),
            ("app run \\\n  --secret ", "Xk9mQ2vL7zRt4Wb8", "\n"),
            ("rclone config create x --webdav-pass ", "Xk9#mQ2vL7z", "\n"),
            ("app login -u bob -p ", "Xk9#mQ2vL7z", "\n"),
            ("mosquitto_pub -u bob -P ", "Xk9#mQ2vL7z", " -t a"),
            ("redis-cli -h db -a ", "Xk9mQ2vL7z", "\n"),
            ("curl -u bob:", "Xk9mQ2vL7z", " https://h/"),
            ("docker login -u bob -p ", "Xk9mQ2vL7z", "\n"),
            ("mongosh -u bob -p ", "Xk9mQ2vL7z", " --quiet"),
            ("sqlcmd -S db -U sa -P '", "Xk9#mQ2vL7z", "' -Q x"),
            ("7z a -p", "Xk9mQ2vL7z", " a.7z x"),
            ("openssl rsa -in a -passout pass:", "Xk9mQ2vL7z", " -out b"),
            ("keytool -genkey -storepass ", "Xk9mQ2vL7z", " -alias a"),
            ("RUN echo 'root:", "Xk9mQ2vL7z", "' | chpasswd"),
            ("CREATE USER bob IDENTIFIED BY '", "Xk9#mQ2vL7z", "';"),
            ("CREATE LOGIN bob WITH PASSWORD=N'", "Xk9#mQ2vL7z", "';"),
            ("machine h login bob password ", "Xk9mQ2vL7z", "\n"),
            ("echo '", "Xk9#mQ2$vL7z", "' | sudo -S reboot"),
            ("ldapsearch -D cn=admin -w ", "Xk9mQ2vL7zRt", " -b dc=x"),
            ("smbclient //h/s -U bob%", "Xk9mQ2vL7zRt", "\n"),
            ("echo ", "Xk9mQ2vL7zRt", " | docker login -u bob --password-stdin"),
            ("auth=('bob', '", "2#dCNLbs=kY5z", "')"),
            ("define('DB_PASSWORD', '", "Xk9#mQ2$vL7z", "');"),
            ("WiFi password (guest): ", "Xk9#mQ2$vL7z", ""),
            ("the password is ", "Xk9#mQ2$vL7z", "."),
            ("Das Passwort lautet: ", "Xk9#mQ2$vL7z", ""),
            ("le mot de passe est ", "Xk9#mQ2$vL7z", ""),
            ("la contraseña es ", "Xk9#mQ2$vL7z", ""),
            ("a senha é ", "Xk9#mQ2$vL7z", ""),
            ("la parola d'ordine è ", "Xk9#mQ2$vL7z", ""),
            ("wachtwoord: ", "Xk9#mQ2$vL7z", ""),
            ("hasło to: ", "Xk9#mQ2$vL7z", ""),
            ("Пароль: ", "Xk9#mQ2$vL7z", ""),
            ("密码\uff1a", "Xk9#mQ2$vL7z", ""),
            ("パスワードは", "Xk9#mQ2$vL7z", ""),
            ("비밀번호: ", "Xk9#mQ2$vL7z", ""),
            ("Şifre: ", "Xk9#mQ2$vL7z", ""),
            ("كلمة المرور: ", "Xk9#mQ2$vL7z", ""),
            ("पासवर्ड: ", "Xk9#mQ2$vL7z", ""),
            ("- name: DB_PASSWORD\n          value: ", "Xk9mQ2vL7zRt", "\n"),
            ('{"name": "DB_PASSWORD", "value": "', "Xk9mQ2vL7zRt", '"}'),
            ('{"name":"X-Api-Key","value":"', "Xk9mQ2vL7zRt4Wb8", '"}'),
            ('<add key="SmtpPassword" value="', "Xk9mQ2vL7zRt", '" />'),
            ('<input type="password" name="password" value="', "Xk9#mQ2vL7z", '">'),
            ("<td>Password</td><td>", "Xk9#mQ2$vL7z", "</td>"),
            ("| Password | ", "Xk9#mQ2$vL7z", " |"),
            ("**Password:** ", "Xk9#mQ2$vL7z", ""),
            ("**Password**: `", "Xk9#mQ2$vL7z", "`"),
            ("Password:\n", "Xk9#mQ2$vL7z", "\n"),
            ("api_key: >-\n  ", "Xk9mQ2vL7zRt4Wb8", "\n"),
            ("password\t", "Xk9mQ2vL7zRt", "\n"),
            ("Password - ", "Xk9#mQ2$vL7z", ""),
            ("Password \u2014 ", "Xk9#mQ2$vL7z", ""),
            ("**API key** \u2013 ", "Xk9mQ2vL7zRt4Wb8", ""),
            ("My API Key is ", "Xk9mQ2vL7zRt4Wb8", ""),
            ("| Access key | ", "Xk9mQ2vL7zRt4Wb8", " |"),
            ("API-Schlüssel: ", "Xk9mQ2vL7zRt4Wb8", ""),
            ("clé d'API : ", "Xk9mQ2vL7zRt4Wb8", ""),
            ("chave de API: ", "Xk9mQ2vL7zRt4Wb8", ""),
            ("API密钥\uff1a", "Xk9mQ2vL7zRt4Wb8", ""),
            ("APIキーは", "Xk9mQ2vL7zRt4Wb8", ""),
            ("password → ", "Xk9#mQ2$vL7z", ""),
            (r"\\\"api_key\\\":\\\"", "Xk9mQ2vL7zRt4Wb8", r"\\\""),
            ('let api_key: &str = "', "Xk9mQ2vL7zRt4Wb8", '";'),
            ('var password = @"', "Xk9#mQ2$vL7z", '";'),
            ('network={psk="', "Xk9mQ2vL7zRt", '"}'),
            ("with password ", "Xk9#mQ2$vL7z", ""),
            ("mein Passwort ", "Xk9mQ2vL7zRt", "! ok"),
            ("user,password\nbob,", "Xk9#mQ2$vL7z", ""),
            ('id;db_password;on\r\n1;"', "Xk9mQ2vL7zRt", '";2\r\n'),
            ("\n| user | Password |\n|---|---|\n| bob | ", "Xk9#mQ2$vL7z", " |\n"),
            ("password\tuser\nX\tann\n", "Xk9mQ2vL7zRt", "\tbob\n\nend"),
        )
    ],
)
def test_a_password_is_found_by_the_words_around_it(before: str, value: str, after: str) -> None:
    """In files, commands, connection strings, and sentences of many languages."""
    assert found(f"{before}{value}{after}") == [("GENERIC_SECRET", value)]


def test_every_value_below_a_name_is_found() -> None:
    """Also those that are only likely, and none in another column."""
    text = "password,hint\nhunter2-long,Zk4#pR8$wM2q\nXk9#mQ2$vL7z,a\n"
    assert found(text) == [("LIKELY_SECRET", "hunter2-long"), ("GENERIC_SECRET", "Xk9#mQ2$vL7z")]


def test_a_value_beside_its_name_in_a_row_is_found() -> None:
    """Of a list of settings in CSV, which has no column of secrets."""
    text = "name,value\nuser,bob\ndb_password,Xk9#mQ2$vL7z\r\napi_key;aB3xK9mQ2vR7pL5nW8sT"
    assert [value for _, value in found(text)] == ["Xk9#mQ2$vL7z", "aB3xK9mQ2vR7pL5nW8sT"]


def test_a_line_that_is_too_long_for_a_header_costs_nothing() -> None:
    """Ten megabytes of commas were divided in one go, which held all other requests."""

    def judge(commas: int) -> Callable[[], object]:
        content = b"user" + b"," * commas + b"password\nbob,Xk9mQ2vL7zRt\n"
        span = content.index(b"password"), len(content)
        return lambda: [*column_secrets(content, *span, tier=SecretTier.STRICT)]

    assert judge(1)() == [(18, 30), None]
    assert judge(500_000)() == []
    assert least_seconds(judge(500_000)) < 20 * least_seconds(judge(500), tries=9)


def test_a_large_table_is_searched_to_its_end_in_turns() -> None:
    """It counts by its rows: none of a harmless one counts as found, and each turn is short."""
    rows = "ann,[EMAIL_1],12\n" * 20_000
    assert found(f"name,token,count\n{rows}", f"name,password,n\n{rows[:-1]}") == []
    assert found(f"name,password,n\n{rows[:200_005]}bob,Xk9#mQ2$vL7z,1") == [
        ("GENERIC_SECRET", "Xk9#mQ2$vL7z")
    ]
    turns = POLICY.local.start(parts_of([f"name,password,n\n{rows[:200_005]}"]))
    assert not isinstance(turns, tuple)
    assert sum(1 for _ in turns) > 2 * 200_005 / len("ann,[EMAIL_1],12\n") / 64


@pytest.mark.parametrize(
    "before",
    [
        r"{\"Authorization\":\"Bearer ",
        '{"authorization":["Bearer ',
        '{"name": "Authorization", "value": "Bearer ',
        '"Authorization" => "Bearer ',
        'setRequestHeader("Authorization", "Bearer ',
        '{"Authorization": f"Token ',
        "{Authorization: `Bearer ",
    ],
)
def test_a_header_is_found_however_a_program_writes_it(before: str) -> None:
    """In recorded traffic, in logs and in code."""
    token = "Xk9mQ2vL7zRt4Wb8nP3c"
    assert found(f'{before}{token}"') == [("AUTHORIZATION_HEADER", token)]


@pytest.mark.parametrize(
    "between",
    [",", '","', '", "', "', '", "\t", " | "],
    ids=["csv", "quoted", "java", "py", "tsv", "md"],
)
def test_a_secret_of_aws_is_found_beside_its_access_key(between: str) -> None:
    """As the console exports it, and as arguments of a call."""
    access, secret = "AKIA" + "Q3EGWX7B2LMNP5RT", "k3Jd9sLq2Wn8/" * 3 + "x"
    assert found(f"{access}{between}{secret}") == [
        ("AWS_ACCESS_KEY", access),
        ("AWS_SECRET_KEY", secret),
    ]
    assert found(f"{access}{between}{secret}/more") == [("AWS_ACCESS_KEY", access)]


def test_a_token_in_an_address_is_found_without_its_host() -> None:
    """A user that is called after a token names its password, too, and no more than that."""
    token = "ghp_" + "k3Jd9sLq2Wn8" * 3
    assert found(f"https://x-access-token:{token}@github.com/acme/app.git (fetch)") == [
        ("BASIC_AUTH_URL", token)
    ]


def test_a_token_in_colour_is_found() -> None:
    """Tools colour their output; the sequence ends with a letter, which would join the token."""
    token = "ghp_" + "k3Jd9sLq2Wn8" * 3
    for text in (f"\x1b[1m{token}\x1b[0m", f"\x1b[32mtoken\x1b[39m=\x1b[38;5;9m{token}\x1b[m é"):
        ((type_, value),) = found(text)
        assert (type_, value.partition("\x1b")[0]) == ("GITHUB_TOKEN", token)


LIKELY = {
    "default_in_a_url": ("DEFAULT_PASSWORD", "postgres://postgres:postgres@db/app"),
    "user_as_password": ("DEFAULT_PASSWORD", "amqp://rabbit7:rabbit7@queue/"),
    "word_in_a_command": ("DEFAULT_PASSWORD", "mysql -u root -ptiger orders"),
    "example_of_a_vendor": ("EXAMPLE_SECRET", "AKIA" + "IOSFODNN7EXAMPLE"),
    "row_of_one_letter": ("EXAMPLE_SECRET", "ghp_" + "x" * 36),
    "sample_token": (
        "EXAMPLE_SECRET",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIn0.c2ln",
    ),
    "key_of_a_test": ("TEST_KEY", "sk_test_" + "4eC39HqLyjWDarjtT1zdp7dc"),
    "uuid": ("LIKELY_SECRET", "api_key: 123e4567-e89b-12d3-a456-426614174000"),
    "well_known_password": ("LIKELY_SECRET", 'password: "Changeit-123"'),
    "short_password": ("LIKELY_SECRET", "password: x7#Kq2pL"),
}


@pytest.mark.parametrize("case", LIKELY)
def test_a_default_or_an_example_is_only_likely(case: str) -> None:
    """A guardrail of the tier `strict` passes it, one of `likely` finds it, and nothing else."""
    type_, text = LIKELY[case]
    (strict, likely), token = TIERS.local.scan(parts_of([text])), "ghp_" + "k3Jd9sLq2Wn8" * 3

    assert [one.type for one in likely.findings] == [type_]
    assert strict.findings == ()
    (strict, likely) = TIERS.local.scan(parts_of([token]))
    assert [one.type for one in strict.findings] == ["GITHUB_TOKEN"]
    assert likely.findings == ()


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


ENCRYPTED = (  # ends with a sign, as before each eightieth character or so of base64
    "gAAAAABpK2xQ7vJ4mWc9tR1yZ8bN3fLhS6dUoE0aXgPiVkHqTzYw5CjMrB2nG_"
)


@pytest.mark.parametrize(
    "token",
    ["r8_SNAGepQjqKXpImn2Zl2TUYaDRmEAw9yInvBQ1", "fw_7WLe5A1XlsmT0Q4fLqL1pMxM2Qwv9UtZTRv9147E"],
)
def test_a_token_amid_base64_is_none(token: str) -> None:
    """Encrypted reasoning has any short prefix by chance; a name before a token is no base64."""
    assert found(f"{ENCRYPTED[:-1]}-{token}_dP") == []
    assert found(f"{ENCRYPTED}{token}") == []
    for before in (" ", "key=", "/", "our-service-account-for-production-in-eu-west-1-key-2-"):
        assert [value for _, value in found(before + token)] == [token]


def test_a_private_key_cut_off_is_found_to_its_last_character() -> None:
    """Half a key is still most of a key."""
    key = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBg\nkqhkiG9w0BAQEF"
    assert found(f"key: {key} (cut)") == [("PRIVATE_KEY", f"{key} ")]


def test_a_long_key_of_putty_is_found_to_its_last_line() -> None:
    """One of 8,192 bits takes more than six kilobytes; a cut one ends with its lines."""
    lines = "\n".join(["Xk9mQ2vL7zRt4Wb8" * 4] * 90)
    key = f"PuTTY-User-Key-File-3: ssh-rsa\nComment: a\nPrivate-Lines: 90\n{lines}\n"
    mac = "Private-MAC: " + "0f" * 32
    assert found(f"{key}{mac}\nand more.") == [("PRIVATE_KEY", key + mac)]
    assert found(f"{key}(and more.)") == [("PRIVATE_KEY", key)]


def test_only_the_chosen_types_are_looked_for() -> None:
    """`types` narrows the guardrail."""
    narrowed = effective(policy("  - {name: s, type: secrets, types: [GITHUB_TOKEN]}"))
    tokens = {type_: secret for type_, _, secret in SECRETS}
    text = f"{tokens['GITHUB_TOKEN']} {tokens['NPM_TOKEN']}"
    (outcome,) = narrowed.local.scan(parts_of([text]))
    assert outcome.failure is None
    assert [one.type for one in outcome.findings] == ["GITHUB_TOKEN"]


def test_the_documentation_lists_every_type() -> None:
    """Whoever narrows `types` finds the names to choose from."""
    page = (Path(__file__).parents[4] / "docs" / "guardrails.md").read_text(encoding="utf-8")
    assert f"narrows it: {', '.join(SECRET_TYPES)}." in page


@pytest.mark.parametrize("before", [b"x" * 80, b" " * 80], ids=["word", "blanks"])
def test_a_long_word_before_a_name_takes_no_longer_than_short_ones(before: bytes) -> None:
    """A request with thousands of passwords in a row would hold its worker for longer."""

    def judge(before: bytes) -> Callable[[], object]:
        content = before + b" password=8f3kQ!zT09aL"
        end = content.index(b"=") + 9
        return lambda: [named_secret(content, 0, end) for _ in range(300)]

    assert least_seconds(judge(before)) < 2 * least_seconds(judge(b"x " * 40))
