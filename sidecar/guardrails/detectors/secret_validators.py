"""Checks of candidates: a secret, only likely one, or none."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterator
from typing import Final

from sidecar.domain.finding import PLACEHOLDER
from sidecar.domain.guardrail_settings import SecretTier
from sidecar.guardrails.detectors.randomness import (
    NO_WORD,
    PLACEHOLDERS,
    class_changes,
    count_classes,
    is_code,
    is_random,
    is_wordy,
)
from sidecar.guardrails.matching.rule import KEY_BYTES, Expression, Span, compile_re2, occurs

Check = Callable[[bytes, int, int], tuple[SecretTier, Span] | None]
"""From the whole text and the candidate's span to the finding's tier and span, if it is one."""

STRICT: Final = SecretTier.STRICT
LIKELY: Final = SecretTier.LIKELY

_EXAMPLES: Final = re.compile(
    # No shorter words: one of four letters turns up in a thousandth of 200 random characters.
    rb"(?i)example|sample|placeholder|changeme|redacted|dummy(?:key|token)|xxxxxx"
)
_LONG_NUMBER: Final = re.compile(rb"_[0-9]{7,}\]")
"""The end of a placeholder that is none of ours: so long a number could be a secret itself."""

_LEAST_TAIL: Final = 16
_MIN_DISTINCT: Final = 7
"""Fewer different characters are a row of zeros or x, whatever the prefix."""


def _tier(candidate: bytes) -> SecretTier:
    is_example = len(set(candidate[-24:])) < _MIN_DISTINCT or _EXAMPLES.search(candidate)
    return LIKELY if is_example else STRICT


_RUN_BYTES: Final = 48
_RUN: Final = re.compile(rb"[A-Za-z0-9+/_-]{47}[+/_-]")
_ALL_CASES: Final = (re.compile(rb"[a-z]"), re.compile(rb"[A-Z]"), re.compile(rb"[0-9]"))


def _is_within_base64(content: bytes, start: int) -> bool:
    """Return whether a token begins at a sign amid base64, in which any short prefix occurs.

    Agents send megabytes of it again: reasoning that its provider has encrypted.
    """
    before = content[max(start - _RUN_BYTES, 0) : start]
    return (
        _RUN.fullmatch(before) is not None
        and all(one.search(before) for one in _ALL_CASES)
        and class_changes(before) * 3 >= _RUN_BYTES  # words joined by signs change less
    )


def shaped_token(content: bytes, start: int, end: int) -> tuple[SecretTier, Span] | None:
    """Take a token by its form alone; one of documentation is only likely."""
    if _is_within_base64(content, start):
        return None
    return _tier(content[start:end]), (start, end)


def random_token(content: bytes, start: int, end: int) -> tuple[SecretTier, Span] | None:
    """Take a token whose form alone is not proof enough: it must be random, too.

    The part behind its last sign, if long enough, has an alphabet of its own.
    """
    if _is_within_base64(content, start):
        return None
    candidate = content[start:end]
    tail = re.split(rb"[_.-]", candidate)[-1]
    if is_random(candidate) or (len(tail) >= _LEAST_TAIL and is_random(tail)):
        return _tier(candidate), (start, end)
    return (LIKELY, (start, end)) if b"EXAMPLE" in candidate else None


_PUBLIC_PREFIX: Final = b"pk_live_"
"""Publishable keys of Stripe and Clerk, which are part of each page."""
_PREFIX: Final = re.compile(rb"00|[a-z0-9]+[_-][a-z]+[_-]")


def mixed_token(content: bytes, start: int, end: int) -> tuple[SecretTier, Span] | None:
    """Take a token with letters of both cases among digits behind its prefix, as no name has."""
    candidate = content[start:end]
    if candidate.startswith(_PUBLIC_PREFIX) or _is_within_base64(content, start):
        return None
    body = _PREFIX.sub(b"", candidate, count=1)
    if count_classes(body.translate(None, b"_-")) < _MANY_CLASSES or is_wordy(body):
        return None
    return (_tier(candidate), (start, end)) if is_random(body) else None


_QUOTES: Final = b"\"'`"
_NAME_BYTES: Final = 96
"""How far back the name of a value can begin: a keyword, its suffix, quotes and a sign."""
_MAX_VALUE_BYTES: Final = 160
# Both begin where a word or the gap before it does: a search from each of their characters would
# take longer than all else.
_NAME: Final = re.compile(
    rb"(?<![A-Za-z0-9_.-])([A-Za-z0-9_.-]*[A-Za-z0-9])[^A-Za-z0-9]+(?:is:? +)?\Z"
)
_VALUE_FIELD: Final = re.compile(rb"(?i)(?<![^A-Za-z0-9_.-])[^A-Za-z0-9_.-]+value[^A-Za-z0-9]+\Z")
"""Between a name and its value in two fields: `name: DB_PASSWORD`, `value: …`."""
_IN_ADDRESS: Final = re.compile(rb"://[^\s/@]*:(?:<[^<>\s]*>)?\Z")
"""Before the password of a URL, or behind the placeholder of one."""
_SECRET_ARN: Final = re.compile(rb":secretsmanager:[a-z0-9:-]*\Z")
"""The name of a secret of AWS Secrets Manager, which is none."""
_NO_SECRETS_NAME: Final = re.compile(
    # Tokenizers, page tokens of lists, passing, and descriptions of a secret.
    rb"(?i)tokeni[sz]|pass(?:e[ds]|ing|rate|age|ive|port|ion|through)"
    rb"|(?:page|next|pagination|continuation|cancellation)[_-]?token\Z"
    rb"|(?:secret|token|passw(?:or)?d|pwd|credential|key)s?[a-z_]{0,12}?[_.-]?"
    rb"(?:name|class|type|count|ids|path|file|arn|ref|policy|encoder|length|limit|version|url|uri"
    rb"|endpoint|link|field|label|hint|message|error|pattern|regex|format|prompt|page|view|form"
    rb"|reset|rules?|expires?|expiry|ttl|help|text|title|algorithm|sha1|sha256|md5|integrity"
    rb"|header|encryption|prefix|suffix|provider)s?\Z"
)
_PASSWORD_WORDS: Final = (
    b"pass", b"pwd", b"pw", b"psk", b"secret", b"credential", b"wort", b"wachtwoord", b"contrase",
    b"clave", b"senha", b"parola", b"haslo", b"heslo", b"mdp", b"sifre", b"losenord",
    b"adgangskode",
)  # fmt: skip
"""Name a value that people may have chosen, as all words of other scripts do."""
_OTHER_LETTERS: Final = re.compile(rb"[\xc3-\xe1\xe3-\xed]")
"""The first byte of a letter outside of ASCII; dashes, arrows and quotes begin with others."""
_PASSWORD_NAME_BYTES: Final = 48
_NO_SECRET: Final = re.compile(
    # A file, an address without its scheme, an algorithm, a variable of Windows, a count of
    # tokens, a secret that a build mounts, the fingerprint of a key, a name at AWS or 1Password.
    rb"(?i)\A(?:~|\.\.?)/|\A/(?:[a-z_.-]+/)+[a-z_.-]+\Z|\.(?:pem|key|crt|cer|pub|p12|jks|json|ya?ml"
    rb"|toml|txt|env|py|js)\Z"
    rb"|\A(?-i:[a-z-]+(?:\.[a-z-]+)+(?:/[a-z0-9_.-]+)+)/?\Z"
    rb"|\A(?:scram-|pbkdf2-|hmac-)?(?:sha-?(?:1|224|256|384|512)|aes-?(?:128|192|256)-[a-z]{3})"
    rb"(?:-plus)?\Z|\A%[A-Z_]+(?:\([^)]*\))?%\Z|\A[a-z]+(?:_[a-z]+)*=[0-9]+(?:[,/]|\Z)"
    rb"|\A(?:id=)?[a-z0-9_.-]+(?:,(?:src|source|target|dst|env|type|required)=[^,]*)+\Z"
    rb"|\ASHA256:[a-z0-9+/]{43}=?\Z|\A(?:arn:aws[a-z-]*:[a-z0-9-]+:|op://)"
)
_IDS: Final = frozenset({b"id", b"ids", b"uuid", b"guid"})
"""Name a UUID that stands some words behind one for a secret: `password. Trace ID: …`."""
_UUID: Final = re.compile(rb"(?i)[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TOKEN: Final = re.compile(rb"(?:base64:)?[A-Za-z0-9+/=_.~!@#%^&*-]{16,160}")
_PLAIN_VALUE: Final = re.compile(rb"[^\x00-\x20\"'`<>\\]+")
_NEXT_FIELD: Final = re.compile(rb"[;&][ ]?[A-Za-z_][A-Za-z0-9_ ]*=")
_CODE: Final = re.compile(
    # An arrow, a path, an expression, a template, an interpolated value or a placeholder.
    rb"[A-Za-z_$][A-Za-z0-9_$.]*(?:->|::)|\$[({]|\$[A-Za-z_][A-Za-z0-9_:.]*\Z|%s|[<{(\[/]"
    rb"|\.{1,2}/|\.[A-Za-z]+\.|https?:|function\b|lambda\b|&[A-Za-z]+[;.({]|\\|@[A-Za-z]+[/.]"
    rb"|(?i:your)[_-]"
)
_CALL: Final = re.compile(rb"[A-Za-z_$][A-Za-z0-9_$]*(?=\(|\[[\"'A-Za-z_\[]|\.[A-Za-z_]|\Z)")
_INTERPOLATED: Final = re.compile(
    rb"[$#]\{[A-Za-z_]\w*[}:.]|\{\{|%\([a-z_]+\)|\{[a-z_.]*\}|\(\?[:=!<P]|\[[a-zA-Z0-9]-[a-zA-Z0-9]"
    rb"|<[a-zA-Z_ -]+>"
)
_DEFAULTS: Final = re.compile(
    rb"(?i)passw|secret|test|example|sample|change|admin|default|dummy|demo|letmein|qwerty|12345"
    rb"|welcome|foo|abc123|your|local|root|guest|placeholder|fake|mock|\Apass\d*\Z"
)
_SILENT: Final = frozenset({b"", b"password", b"passwd", b"pass", b"pwd", b"secret", b"token"})

_MIN_PASSWORD: Final = 8
_LONG_VALUE: Final = 32
"""Characters in quotes that count as a password behind any word for a secret."""
_MIN_MIXED_PASSWORD: Final = 10
_MIN_STRICT_PASSWORD: Final = 12
_MANY_CLASSES: Final = 3
_MIN_COLUMNS: Final = 2
_BEHIND_CODE: Final = tuple(bytes((one,)) for one in b"=(:/[{<\\\"'`")


def named_secret(content: bytes, start: int, end: int) -> tuple[SecretTier, Span] | None:
    """Take the value of a secret's name if it is random, and neither code nor a file's name.

    The candidate ends with the first `_MIN_PASSWORD` characters of the value.
    """
    start = end - _MIN_PASSWORD
    before = content[max(start - _NAME_BYTES, 0) : start]
    is_quoted = before[-1:] in _QUOTES and bool(before)
    end = _end_of_value(content, start, before[-1:] if is_quoted else b"")
    if _IN_ADDRESS.search(before):  # up to the host, which follows
        end = start + len(content[start:end].partition(b"@")[0])
    value = content[start:end]
    text = value.decode("utf-8", "ignore")
    is_word = (
        text.isalpha() and text in {text.lower(), text.upper()}
        if text.isascii()
        else text.rstrip("!?").replace("-", "").isalpha()
    )
    if is_word or len(value) < _MIN_PASSWORD:
        return None
    name = before[-_PASSWORD_NAME_BYTES:].lower()
    is_password = _OTHER_LETTERS.search(name) is not None or any(
        map(name.__contains__, _PASSWORD_WORDS)
    )
    tier: SecretTier | None = None
    if _UUID.fullmatch(value):
        tier = LIKELY
    elif _TOKEN.fullmatch(value) and is_random(value):
        # Code names things outside of quotes.
        tier = _tier(value) if is_quoted or not is_code(value, is_password=is_password) else None
    if tier is None and (is_password or (is_quoted and len(value) >= _LONG_VALUE)):
        tier = _tier_of_password(value, is_quoted=is_quoted)
    if tier is None or _INTERPOLATED.search(value) or PLACEHOLDERS.search(value):
        return None
    if value[:1] == b"[" and not (PLACEHOLDER.sub(b"", value) or _LONG_NUMBER.search(value)):
        return None  # ours, in a text that is sent again; of a value over two texts each has one
    named = _NAME.search(_VALUE_FIELD.sub(b"=", before))
    if (
        _SECRET_ARN.search(before)
        or (named and _NO_SECRETS_NAME.search(named.group(1)))
        or (named and named.group(1).lower() in _IDS and _UUID.fullmatch(value))
        or _NO_SECRET.search(value)
        or (before[-1:] == b"`" and is_code(value, is_password=True))
    ):
        return None
    return tier, (start, end)


_MORE_FIELDS: Final = re.compile(rb"[,;\t|]")


def row_secret(content: bytes, start: int, end: int) -> tuple[SecretTier, Span] | None:
    """Take the second of a row's two fields, the first of which is a secret's name."""
    found = named_secret(content, start, end)
    line = content[end - _MIN_PASSWORD : end + _MAX_VALUE_BYTES].partition(b"\n")[0].rstrip()
    if found is None or found[1][1] - found[1][0] < len(line) or _MORE_FIELDS.search(line):
        return None
    return found


_FIELD_SIGNS: Final = (b",", b";", b"\t", b"|")
_HEADER: Final = re.compile(rb"[A-Za-z0-9_ .#/\"'*`\r\x80-\xff-]{0,48}")
_AROUND_CELL: Final = b" \r\"'*`"
_MAX_HEADER_BYTES: Final = 400


def column_secrets(
    content: bytes, start: int, end: int, *, tier: SecretTier
) -> Iterator[Span | None]:
    """Yield the values of one tier below a name in the header of a table (CSV, Markdown).

    The candidate goes from the name to the end of the table's last row. None is a row without.
    """
    line = content.rfind(b"\n", max(start - _MAX_HEADER_BYTES, 0), start) + 1
    if content.index(b"\n", start) - line > _MAX_HEADER_BYTES:
        return  # before anything is split: a line may have ten megabytes of commas
    header, *rows = content[line:end].split(b"\n")
    sign = max(_FIELD_SIGNS, key=header.count)
    names = header.split(sign)
    column = content.count(sign, line, start)
    is_header = all(map(_HEADER.fullmatch, names))
    label = names[column].strip(_AROUND_CELL) + b": "
    columns = [name for name in names if name.strip(_AROUND_CELL)]
    if not is_header or len(columns) < _MIN_COLUMNS or _NO_SECRETS_NAME.search(label[:-2]):
        return
    at = line + len(header) + 1
    for row in rows:
        cells = row.split(sign)
        value = cells[column].strip(_AROUND_CELL) if len(cells) == len(names) else b""
        is_value = len(value) >= _MIN_PASSWORD and b" " not in value
        found = named_secret(label + value, 0, len(label) + _MIN_PASSWORD) if is_value else None
        if found is not None and found[0] is tier:
            before = at + len(sign.join(cells[:column])) + (column > 0)
            shift = before + cells[column].index(value) - len(label)
            yield found[1][0] + shift, found[1][1] + shift
        else:
            yield None
        at += len(row) + 1


_STRONG: Final = re.compile(rb"[A-Z!#$%^&*?@+~]")
_NO_BARE_PASSWORD: Final = re.compile(rb"[A-Za-z]+[0-9.]+|.*@[A-Za-z0-9.-]+\.[A-Za-z]+")
"""A name with its version, and an address."""


def bare_password(content: bytes, start: int, end: int) -> tuple[SecretTier, Span] | None:
    """Take a password that stands behind the word alone, if its characters are mixed as in none.

    Names and versions stand there as well.
    """
    value = content[start:end].rstrip(b".!?")
    is_mixed = (
        class_changes(value) * 3 >= len(value) >= _MIN_PASSWORD
        and value.upper() != value
        and value.translate(None, b"0123456789") != value
        and _STRONG.search(value) is not None
    )
    is_other = _NO_BARE_PASSWORD.fullmatch(value) or PLACEHOLDERS.search(value)
    if not is_mixed or is_other or content[end : end + 1] in _BEHIND_CODE:
        return None
    tier = None if _DEFAULTS.search(value) else _tier_of_password(value, is_quoted=False)
    return None if tier is None else (tier, (start, start + len(value)))


def _end_of_value(content: bytes, start: int, quote: bytes) -> int:
    """Return the end of a value: its quote's, or that of the word without the text's own signs."""
    limit = min(len(content), start + _MAX_VALUE_BYTES)
    # Not within a character: the rest of the text must stay UTF-8.
    while limit < len(content) and content[limit] & 0xC0 == 0x80:  # noqa: PLR2004 - in UTF-8
        limit -= 1
    if quote:
        end = content.find(quote, start, limit)
        if end >= 0 and b"\n" not in content[start:end]:
            return start + len(content[start:end].rstrip(b"\\"))
    found = _PLAIN_VALUE.match(content, start, limit)
    end = found.end() if found else start
    following = _NEXT_FIELD.search(content, start, min(end + 32, len(content)))
    end = min(end, following.start()) if following else end
    value = content[start:end].rstrip(b",;.:")
    while (
        value[-1:] in b")]}"
        and value
        and value.count(value[-1:]) > value.count({b")": b"(", b"]": b"[", b"}": b"{"}[value[-1:]])
    ):
        value = value[:-1].rstrip(b",;.:")
    return start + len(value)


def _tier_of_password(value: bytes, *, is_quoted: bool) -> SecretTier | None:
    """Return the tier of a password: of 12 characters and three classes, and no default one."""
    if not is_quoted:  # an expression: a call, an index, a template
        called = _CALL.match(value)
        is_plain = called and called[0].translate(None, b"0123456789") == called[0] != value
        if _CODE.match(value) or is_plain or (called and is_wordy(called[0])):
            return None
    elif len(value.split()) > 1:
        return None
    classes = count_classes(value)
    if _DEFAULTS.search(value):
        return LIKELY if classes >= _MANY_CLASSES else None
    if is_wordy(value):
        return LIKELY if classes >= _MANY_CLASSES and not value.isalpha() else None
    is_mixed = class_changes(value) * 3 >= len(value)
    if len(value) < _MIN_STRICT_PASSWORD:
        if classes > _MANY_CLASSES and len(value) >= _MIN_MIXED_PASSWORD:
            return STRICT
        return LIKELY if classes >= _MANY_CLASSES and is_mixed else None
    if classes >= _MANY_CLASSES or is_mixed:
        return STRICT
    return LIKELY if value.isalpha() and classes > 1 and NO_WORD.search(value) else None


def _tier_of_given(value: bytes, user: bytes = b"") -> SecretTier | None:
    """Return the tier of a value that its place makes a password."""
    lowered = value.lower()
    is_mask = lowered.strip(b"*x.\xe2\x80\xa6") in _SILENT
    if is_mask or _CODE.match(value) or _INTERPOLATED.search(value):
        return None
    is_word = value.isalpha() and (value.islower() or len(value) < _MIN_STRICT_PASSWORD)
    is_word = is_word or (is_wordy(value) and value.translate(None, b"0123456789") == value)
    is_default = is_word or value.isdigit() or lowered == user.lower() or _DEFAULTS.search(value)
    return LIKELY if is_default or len(value) < 6 else STRICT  # noqa: PLR2004 - as short as `1234`


def url_password(content: bytes, start: int, end: int) -> tuple[SecretTier, Span] | None:
    """Take the password of a URL unless it is a variable or a mask; a default one is likely."""
    value = content[start:end]
    if value[:1] == b"%" and not re.match(rb"%[0-9A-Fa-f]{2}", value):
        return None
    user = content[max(start - 65, 0) : start - 1].rpartition(b"/")[2]
    tier = _tier_of_given(value, user)
    return None if tier is None else (tier, (start, end))


def command_password(content: bytes, start: int, end: int) -> tuple[SecretTier, Span] | None:
    """Take the password that a command line gives; a default one is likely."""
    value = content[start:end].rstrip(b",;.:)")
    tier = _tier_of_given(value)
    return None if tier is None else (tier, (start, start + len(value)))


_COMMAND_BYTES: Final = 60
"""How far back an option's command is looked for; a stream keeps little more."""
_OPTION: Final = re.compile(
    # Of other commands these options are a port, a path, a project: `docker run -p 8080:80`.
    # `mysql -p name` is a database's name, and its password follows without a blank.
    rb"\b(?:(?:mysql|mariadb)[a-z-]*\b[^\n\x00|;]* -p"
    rb"|(?:sshpass|psexec(?:64)?(?:\.exe)?|twine|mongo[a-z]*|cqlsh|rabbitmqadmin|netexec|nxc"
    rb"|evil-winrm)\b[^\n\x00|;]* -p ?"
    rb"|(?:docker|podman|nerdctl|helm|az|oc|cf|skopeo|buildah|crane)\b[^\n\x00|;]*"
    rb"\b(?:login|auth|sql|ad)\b[^\n\x00|;]* -p ?"
    rb"|\blogin\b[^\n\x00|;]* (?:-u|--user(?:name)?)[ =][^\s-]+ -p "
    rb"|7z[az]?\b[^\n\x00|;]* -p|(?:zip|unzip|sqlcmd|bcp|mosquitto_[a-z]+)\b[^\n\x00|;]* -P ?"
    rb"|redis-cli\b[^\n\x00|;]* -a |ldap[a-z]+\b[^\n\x00|;]* -w "
    rb"|(?:plink|pscp|psftp)\b[^\n\x00|;]* -pw |xfreerdp\b[^\n\x00|;]* /p:"
    rb"|(?:curl|wget)\b[^\n\x00|;]* (?:-u|--user)[ =]?[\"']?[A-Za-z0-9_.@-]+:"
    rb"|smbclient\b[^\n\x00|;]* -U [\"']?[A-Za-z0-9_.@-]+%"
    rb"|openssl\b[^\n\x00|;]* -pass(?:in|out)? pass:)\Z"
)


def option_password(content: bytes, start: int, end: int) -> tuple[SecretTier, Span] | None:
    """Take the password that an option gives to a command which is known for it."""
    before = content[max(start - _COMMAND_BYTES, 0) : start].rstrip(b"\"'")
    # An option may follow in place of a password that the command then prompts for.
    if content[start : start + 1] == b"-" or _OPTION.search(before) is None:
        return None
    return command_password(content, start, end)


_PUTTY_MAC: Final = re.compile(rb"Private-(?:MAC|Hash): [0-9a-f]{40,64}")
_PEM_FOOTER: Final = re.compile(rb"-----END[A-Z0-9 ]{1,40}-----")
_PEM_BODY: Final = re.compile(rb"[A-Za-z0-9+/=\r\n\t \\:,\"'-]*")
_PEM_BREAKS: Final = re.compile(rb"(?:\\[nr]|[\r\n\"'\\ \t>#*|])+")
"""Between lines of a key: also the escapes, quotes and signs of a program's text."""
_KEY_LINE: Final = re.compile(rb"[A-Za-z0-9+/]{12,}={0,2}|[A-Za-z0-9+/]{2,}={1,2}")
_LEAST_KEY: Final = 24
_MAX_KEY_HEADERS: Final = 40
"""Words of the headers before the key's lines, such as `DEK-Info`."""


def private_key(content: bytes, start: int, end: int) -> tuple[SecretTier, Span] | None:
    """Take a PEM header with key material, to the end of its block or of the rest of a cut one.

    Looks no further than the next line of dashes, so that headers without end cost no more
    than their own length.
    """
    limit = min(len(content), end + KEY_BYTES)
    dashes = content.find(b"-----", end, limit)
    footer = _PEM_FOOTER.match(content, dashes, limit) if dashes >= 0 else None
    stop = dashes if dashes >= 0 else limit
    key = b""
    for line in _PEM_BREAKS.split(content[end:stop], _MAX_KEY_HEADERS):
        if len(key) >= 2 * _LEAST_KEY:
            break
        if _KEY_LINE.fullmatch(line):
            key += line
        elif line not in {b"", b"+", b"."}:  # signs that join the texts of a program
            if len(key) >= _LEAST_KEY:
                break
            key = b""
    # So short a stretch of letters alone is a name; of twice the length, part of a key.
    if len(key) < _LEAST_KEY or count_classes(key) < _MANY_CLASSES - (len(key) >= 2 * _LEAST_KEY):
        return None
    body = footer or _PEM_BODY.match(content, end, stop)
    return STRICT, (start, body.end() if body else end)


def putty_key(content: bytes, start: int, end: int) -> tuple[SecretTier, Span] | None:
    """Take the first line of a PuTTY key to its last, or to the rest of a cut one.

    Looks no further than the next one's first line, as `private_key` does.
    """
    limit = min(len(content), end + KEY_BYTES)
    following = content.find(b"PuTTY-User-Key-File", end, limit)
    limit = following if following >= 0 else limit
    lines = content.find(b"Private-Lines", end, limit)
    if lines < 0:
        return None
    last = _PUTTY_MAC.search(content, lines, limit) or _PEM_BODY.match(content, lines, limit)
    return STRICT, (start, last.end() if last else limit)


_JWK_MAX_BYTES: Final = 4_096
_KEY_TYPE: Final = compile_re2(
    Expression(r"kty\\*\"[ \t\r\n]*:[ \t\r\n]*\\*\"(?:RSA|EC|OKP|AKP|oct)\\*\"")
)


def json_web_key(content: bytes, start: int, end: int) -> tuple[SecretTier, Span] | None:
    """Take a private member of a JSON Web Key if the key's type stands in the same object."""
    begin = max(start - _JWK_MAX_BYTES, 0)
    begin = max(begin, content.rfind(b"{", begin, start))
    stop = min(end + _JWK_MAX_BYTES, len(content))
    closing = content.find(b"}", end, stop)
    stop = stop if closing < 0 else closing
    if not is_random(content[start:end]) or not occurs(_KEY_TYPE, content, begin, stop):
        return None
    return _tier(content[start:end]), (start, end)


_SAMPLE_CLAIMS: Final = ("1234567890", "John Doe")
"""Of the token that jwt.io shows, and of the many texts that copy it."""


def json_web_token(content: bytes, start: int, end: int) -> tuple[SecretTier, Span] | None:
    """Take a token whose first segment is a JOSE header (RFC 7515 section 4)."""
    decoded: list[object] = []
    for segment in content[start:end].split(b".")[:2]:
        try:
            decoded.append(
                json.loads(base64.urlsafe_b64decode(segment + b"=" * (-len(segment) % 4)))
            )
        except (binascii.Error, ValueError, RecursionError):
            decoded.append(None)
    header, claims = decoded
    if not isinstance(header, dict) or "alg" not in header:
        return None
    is_sample = isinstance(claims, dict) and any(one in _SAMPLE_CLAIMS for one in claims.values())
    return LIKELY if is_sample else STRICT, (start, end)
