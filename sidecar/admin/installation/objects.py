"""The objects of an installation as YAML documents, one object each, `kind` first."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final, Self, cast

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)
from typing_extensions import override
from yarl import URL

from sidecar.domain.alerting import AlertRule, Channel, Digest, Severity
from sidecar.domain.limits import Level, Limit, Priority
from sidecar.domain.validation import (
    fault_of_operations,
    is_time_zone,
)
from sidecar.limits.limit_syntax import Selectors, exact_words, read_limit, written
from sidecar.limits.serialization import MAX_AMOUNT, check_limits
from sidecar.policy.fields import (
    Document,
    Dollars,
    Glob,
    Moment,
    Operations,
    PolicyName,
    Sha256,
    Sources,
    Switch,
    Tags,
)
from sidecar.policy.parse import (
    FaultWords,
    PolicyDocument,
    PolicyDocumentError,
    PolicyFault,
    fault,
    model_faults,
    nearest,
    parse_document,
    parse_documents,
)
from sidecar.policy.yaml_positions import Path, YamlDocument, YamlError, read_yaml
from sidecar.usage.prices import AboveTokens

MAX_FILE_CHARACTERS: Final = 32_000_000
"""A file of a hundred thousand keys."""
_KIND_LINE: Final = re.compile(r"^kind:[ \t]+([\"']?)Policy\1[ \t]*(?:#.*)?\r?\n", re.MULTILINE)
_HOUR: Final = r"(?:[01]\d|2[0-3]):[0-5]\d"
_NAME: Final = r"[a-z0-9][a-z0-9._-]{0,62}"
_ANY_LEVEL: Final = Level.KEY


class Kind(enum.Enum):
    """The kinds of objects, each after those that it may refer to."""

    POLICY = "Policy"
    PRICE = "Price"
    ORGANIZATION = "Organization"
    TEAM = "Team"
    KEY = "Key"
    ALERT_ROUTE = "AlertRoute"


@dataclass(frozen=True, slots=True)
class Reference:
    """An object that another one names in a field."""

    kind: Kind
    name: str
    field: str


def _known_operations(names: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Return the operations of a limit in their order: its count has it in its name."""
    if fault := fault_of_operations(names or ()):
        raise ValueError(fault)
    return names


KeyId = Annotated[str, Field(pattern=r"^[0-9A-Za-z]{12}$")]
ModelGlob = Annotated[Glob, Field(pattern=r"^[^\x00-\x1f\x7f]+$")]
TeamPath = Annotated[str, Field(pattern=rf"^{_NAME}/{_NAME}$")]
SecretPlace = Annotated[
    str, Field(pattern=r"^(env:ALERT_[A-Z0-9_]{1,60}|file:[a-z0-9][a-z0-9._-]{0,62})$")
]
QuietHours = Annotated[str, Field(pattern=rf"^{_HOUR}-{_HOUR}$")]


NO_TIME_ZONE: Final = (
    "is no time zone, or one that each machine sets; write for example Europe/Berlin"
)


def _known_time_zone(text: str) -> str:
    # One of a machine may be that of a stored object, which the plan has beside it.
    if not is_time_zone(text, was_stored=True):
        raise ValueError(NO_TIME_ZONE)
    return text


class LimitDocument(Document):
    """One limit in the words of `egret limits set`, with its scope."""

    limit: str
    burst: Annotated[int, Field(strict=True, ge=1, le=MAX_AMOUNT)] | None = None
    models: Annotated[tuple[ModelGlob, ...] | None, Field(min_length=1)] = None
    operations: Annotated[
        tuple[str, ...] | None, Field(min_length=1), AfterValidator(_known_operations)
    ] = None
    time_zone: Annotated[str, Field(max_length=100), AfterValidator(_known_time_zone)] = "UTC"

    @override
    def model_post_init(self, _: Any) -> None:
        """Replace the words by those that every spelling of the amount has in common."""
        object.__setattr__(self, "limit", exact_words(self.to_limit()))

    @model_serializer(mode="wrap")
    def _briefly(self, fields: SerializerFunctionWrapHandler) -> Any:
        written = fields(self)
        return self.limit if written == {"limit": self.limit} else written

    def to_limit(self) -> Limit:
        """Return the domain's value, without an owner."""
        selectors = Selectors(
            models=self.models,
            operations=self.operations,
            time_zone=self.time_zone,
            burst=self.burst,
        )
        return read_limit(self.limit, level=_ANY_LEVEL, owner="", selectors=selectors)

    @classmethod
    def of(cls, limit: Limit) -> LimitDocument:
        """Return the document of a stored limit.

        One for an operation that does not exist is shown, so that it can be seen and corrected.
        """
        return cls.model_construct(**written(limit))


def _checked(limits: tuple[LimitDocument, ...]) -> tuple[LimitDocument, ...]:
    check_limits(tuple(one.to_limit() for one in limits))
    return tuple(sorted(limits, key=lambda one: str(one.model_dump())))  # order has no meaning


Limits = Annotated[
    tuple[
        Annotated[
            LimitDocument,
            BeforeValidator(lambda value: {"limit": value} if isinstance(value, str) else value),
        ],
        ...,
    ],
    AfterValidator(_checked),
]


class OwnerDocument(Document):
    """Fields of every level. A field that is left out has its default, whatever is stored."""

    enabled: Switch = True
    policy: PolicyName | None = None
    allowed_models: tuple[ModelGlob, ...] | None = None
    limits: Limits = ()

    def references(self) -> Iterator[Reference]:
        """Yield the objects that this one names."""
        if self.policy is not None:
            yield Reference(Kind.POLICY, self.policy, "policy")


class OrganizationDocument(OwnerDocument):
    """An organization."""

    name: PolicyName

    @property
    def identity(self) -> str:
        """The name that no other object of the kind has."""
        return self.name


class TeamDocument(OwnerDocument):
    """A team; `name` is ORGANIZATION/TEAM."""

    name: TeamPath

    @property
    def identity(self) -> str:
        """The name that no other object of the kind has."""
        return self.name

    @override
    def references(self) -> Iterator[Reference]:
        yield Reference(Kind.ORGANIZATION, self.name.partition("/")[0], "name")
        yield from super().references()


class SecretReference(Document):
    """The place of a key: a Secret of Kubernetes, or a folder, and a name within it."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
    key: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,252}$")]

    @override
    def __str__(self) -> str:
        return f"{self.name}/{self.key}"


class KeyDocument(OwnerDocument):
    """A key by its public id and the digest of its secret, or by the place of the whole key.

    `id` and `secret_sha256` are empty until `key_secrets.find_keys` has read the place.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [{"required": ["id", "secret_sha256"]}, {"required": ["secret"]}]
        }
    )

    id: KeyId = ""
    secret_sha256: Sha256 = ""
    secret: SecretReference | None = None
    team: TeamPath
    name: PolicyName
    not_before: Moment | None = None
    expires_at: Moment | None = None
    revoked_at: Moment | None = None
    replaced_by: KeyId | None = None
    allowed_operations: Operations | None = None
    allowed_sources: Sources | None = None
    tags: Tags = ()
    priority: Priority = Priority.STANDARD

    @model_validator(mode="after")
    def _is_known_by_id_or_place(self) -> Self:
        known = self.model_fields_set & {"id", "secret_sha256", "secret"}
        if known not in ({"id", "secret_sha256"}, {"secret"}):
            raise ValueError("a key has `id` and `secret_sha256`, or `secret` in their place")
        return self

    @property
    def identity(self) -> str:
        """The name that no other object of the kind has."""
        return self.id if self.secret is None else str(self.secret)

    @override
    def references(self) -> Iterator[Reference]:
        yield Reference(Kind.TEAM, self.team, "team")
        if self.replaced_by is not None:
            yield Reference(Kind.KEY, self.replaced_by, "replaced_by")
        yield from super().references()


class PriceDocument(Document):
    """A price of a model's tokens, in US dollars per million."""

    model: ModelGlob
    valid_from: Moment
    input: Dollars
    output: Dollars
    cached_input: Dollars | None = None
    cache_write: Dollars | None = None
    cache_write_hour: Dollars | None = None
    input_above: Dollars | None = None
    output_above: Dollars | None = None
    cached_input_above: Dollars | None = None
    cache_write_above: Dollars | None = None
    cache_write_hour_above: Dollars | None = None
    above_tokens: AboveTokens = None

    @property
    def identity(self) -> str:
        """The name that no other object of the kind has."""
        return f"{self.model} from {self.valid_from.isoformat().replace('+00:00', 'Z')}"

    def references(self) -> Iterator[Reference]:
        """Yield nothing: a price names no other object."""
        return iter(())


class AlertRouteDocument(Document):
    """A receiver of alerts. `secret` names the place of the secret, which no document holds."""

    name: PolicyName
    enabled: Switch = True
    channel: Channel
    url: Annotated[str, Field(max_length=2_000)] | None = None
    secret: SecretPlace
    organization: PolicyName | None = None
    severity: Severity = Severity.WARNING
    rules: tuple[AlertRule, ...] | None = None
    quiet_hours: QuietHours | None = None
    digest: Digest | None = None
    time_zone: Annotated[str, Field(max_length=100), AfterValidator(_known_time_zone)] = "UTC"

    @field_validator("url")
    @classmethod
    def _url_has_a_host_and_no_password(cls, text: str | None) -> str | None:
        if text is None:
            return None
        try:
            url = URL(text)
        except ValueError:
            url = URL()
        if url.scheme not in {"https", "http"} or not url.raw_host or url.fragment:
            raise ValueError("is no URL; write for example https://alerts.example.com/egret")
        if url.user is not None or url.password is not None:
            raise ValueError("has a user or a password, which would be shown; sign with `secret`")
        return text

    @model_validator(mode="after")
    def _url_is_that_of_a_webhook(self) -> Self:
        if (self.url is None) is (self.channel is Channel.WEBHOOK):
            raise ValueError(
                "a webhook has a `url`; any other channel has none: the address is in its secret"
            )
        return self

    @property
    def identity(self) -> str:
        """The name that no other object of the kind has."""
        return self.name

    def references(self) -> Iterator[Reference]:
        """Yield the organization, if it has one."""
        if self.organization is not None:
            yield Reference(Kind.ORGANIZATION, self.organization, "organization")


ObjectDocument = (
    OrganizationDocument | TeamDocument | KeyDocument | PriceDocument | AlertRouteDocument
)
DOCUMENTS: Final[Mapping[Kind, type[ObjectDocument]]] = {
    Kind.ORGANIZATION: OrganizationDocument,
    Kind.TEAM: TeamDocument,
    Kind.KEY: KeyDocument,
    Kind.PRICE: PriceDocument,
    Kind.ALERT_ROUTE: AlertRouteDocument,
}
"""Every kind but Policy, whose fields are those of `egret policy apply`."""


@dataclass(frozen=True, slots=True)
class FileFault:
    """One thing that is wrong in a file, or with the installation as a whole."""

    file: str
    fault: PolicyFault | str

    @override
    def __str__(self) -> str:
        return f"{self.file}: {self.fault}"


class InstallationError(Exception):
    """The files hold no valid installation; `faults` has all that were found."""

    def __init__(self, faults: Iterable[FileFault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(map(str, self.faults)))


@dataclass(frozen=True, slots=True)
class WantedObject:
    """One object of a file."""

    kind: Kind
    name: str
    content: ObjectDocument | PolicyDocument
    file: str
    document: YamlDocument = field(repr=False, compare=False)

    @property
    def place(self) -> str:
        """The file and line."""
        return f"{self.file}, line {self.document.values[()][0]}"

    def fault(self, step: str, problem: str, *, hint: str | None = None) -> FileFault:
        """Return a fault of the field *step*, or of the whole if the document lacks it."""
        path = (step,) if (step,) in self.document.values else ()
        return FileFault(self.file, fault(self.document, path, problem, hint=hint))


def parse_files(texts: Iterable[tuple[str, str]]) -> tuple[WantedObject, ...]:
    """Read the objects of files, given by name and text. Expressions are not compiled yet.

    Raises:
        InstallationError: with every fault of every file.
    """
    faults: list[FileFault] = []
    found: dict[tuple[Kind, str], WantedObject] = {}
    for file, text in texts:
        try:
            documents = read_yaml(text.removeprefix("\ufeff"), max_characters=MAX_FILE_CHARACTERS)
        except YamlError as error:
            faults.append(FileFault(file, PolicyFault(*error.mark, "", error.problem)))
            continue
        for document in documents:
            try:
                one = parse_object(file, document)
            except PolicyDocumentError as error:
                faults += (FileFault(file, each) for each in error.faults)
                continue
            first = found.setdefault((one.kind, one.name), one)
            if first is not one:
                problem = f"{one.kind.value} {one.name} is in {first.place}, already"
                faults.append(one.fault("kind", problem, hint="keep one of them"))
    if faults:
        raise InstallationError(faults)
    return tuple(found.values())


def parse_object(file: str, document: YamlDocument) -> WantedObject:
    """Read the object of one YAML document.

    Raises:
        PolicyDocumentError: with every fault of it.
    """
    if not isinstance(document.value, dict):
        raise PolicyDocumentError([fault(document, (), "an object is a mapping, with a kind")])
    value = cast("dict[str, object]", document.value)
    kinds = [kind.value for kind in Kind]
    given = value.get("kind")
    if "kind" not in value:
        hint = f"one of {', '.join(kinds)}"
        raise PolicyDocumentError([fault(document, (), "`kind` is required", hint=hint)])
    if given not in kinds:
        problem, hint = f"unknown kind `{str(given)[:80]}`", nearest(str(given)[:80], kinds)
        raise PolicyDocumentError([fault(document, ("kind",), problem, hint=hint)])
    kind = Kind(given)
    fields = {name: content for name, content in value.items() if name != "kind"}
    if kind is Kind.POLICY:
        policy = _policy(replace(document, value=fields))
        return WantedObject(kind, policy.policy.name, policy, file, document)
    try:
        content = DOCUMENTS[kind].model_validate(fields)
    except ValidationError as error:
        fields_of: dict[Path, tuple[str, ...]] = {
            (): ("kind", *DOCUMENTS[kind].model_fields),
            ("secret",): tuple(SecretReference.model_fields),
        }
        limit = tuple(LimitDocument.model_fields)
        words = FaultWords(lambda _, path: fields_of.get(path, limit), _form)
        raise PolicyDocumentError(model_faults(document, error, vocabulary=words)) from None
    return WantedObject(kind, content.identity, content, file, document)


def _policy(document: YamlDocument) -> PolicyDocument:
    """Return the policy with a text that has no kind, as policies are stored."""
    meant = parse_document(document, expressions="syntax")
    text = _KIND_LINE.sub("", document.text, count=1)
    try:
        stored = parse_documents(text, expressions="trust")
    except PolicyDocumentError:
        stored = ()
    if [one.policy for one in stored] != [meant.policy]:
        problem = "`kind: Policy` must be a line of its own"
        raise PolicyDocumentError([fault(document, ("kind",), problem)])
    return replace(meant, text=text)


def _form(path: Path) -> str:
    """Return the form of a name, or of a mapping, at *path*."""
    match path:
        case ("id" | "replaced_by",):
            return "a key's public id, 12 letters and digits"
        case ("quiet_hours",):
            return "a span of each day, such as 22:00-07:00"
        case ("secret", "name" | "key"):
            return "the name of a Secret in Kubernetes, and of a field in it"
        case ("secret",):
            return "env:ALERT_NAME of the environment, or file:name of the secrets' directory"
        case ("team",):
            return "ORGANIZATION/TEAM"
        case ("allowed_models" | "model", *_) | (*_, "models", int()):
            return "no control characters"
        case ("limits", *_):
            return "write requests/minute=60, or {limit: requests/minute=60, models: [gpt-*]}"
        case _:
            return (
                "lower case letters, digits, dots, dashes and underscores, at most 63; of a team"
                " ORGANIZATION/TEAM"
            )
