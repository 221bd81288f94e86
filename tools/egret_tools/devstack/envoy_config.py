"""Envoy's configuration as text: one template for the embedded stack and for production."""

from __future__ import annotations

import enum
import ipaddress
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import jinja2
from pydantic import AfterValidator, Field

from sidecar.domain.http import HeaderName
from sidecar.domain.usage import LOG_FORMAT
from sidecar.settings.serving import MAX_SOCKET_PATH_BYTES

METADATA_NAMESPACE: Final = "egret"


class Hits(enum.Enum):
    """The units that a request takes from a limit of Envoy."""

    REQUESTS = "requests"
    ESTIMATED_TOKENS = "estimated_tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class DescriptorLimit:
    """A limit that each Envoy keeps by itself, by Egret's metadata of a request.

    `by` are names in Egret's dynamic metadata; each combination of their values has `amount` in
    `seconds`. A request that lacks one of them is not counted.
    """

    by: tuple[str, ...]
    amount: int
    seconds: int
    hits: Hits = Hits.REQUESTS

    @property
    def as_rate_limit(self) -> dict[str, object]:
        """Where its descriptor is from, as Envoy writes it."""
        actions = [
            {
                "metadata": {
                    "descriptor_key": name,
                    "metadata_key": {"key": METADATA_NAMESPACE, "path": [{"key": name}]},
                    "source": "DYNAMIC",
                }
            }
            for name in self.by
        ]
        if self.hits is Hits.REQUESTS:
            return {"actions": actions}
        source = f"%DYNAMIC_METADATA({METADATA_NAMESPACE}:{self.hits.value})%"
        return {"actions": actions, "hits_addend": {"format": source}}

    @property
    def as_descriptor(self) -> dict[str, object]:
        """How much it lets through for each descriptor, as Envoy writes it."""
        return {
            "entries": [{"key": name} for name in self.by],
            "token_bucket": {
                "max_tokens": self.amount,
                "tokens_per_fill": self.amount,
                "fill_interval": f"{self.seconds}s",
            },
        }


_PATHS: Final = {
    "ANTHROPIC_MESSAGES": "/v1/messages(/count_tokens)?",
    "OPENAI_RESPONSES": "/v1/(responses(/input_tokens|/compact)?|images/[a-z]+|decisions)",
    "OPENAI_CHAT_COMPLETIONS": "/v1/((chat/)?completions|embeddings|moderations|audio/[a-z]+)",
}
"""Where a body names the model and several providers listen, by what Envoy's AI filter calls the
API. Every other path leads to the one provider that knows it."""


def _paths(*, has_prefixes: bool) -> Iterator[tuple[str, str]]:
    """Yield these paths, *has_prefixes* those below the prefixes of LiteLLM too."""
    for protocol, path in _PATHS.items():
        prefix = "/anthropic" if protocol == "ANTHROPIC_MESSAGES" else "/openai"
        yield protocol, f"({prefix})?{path}" if has_prefixes else path


_GLOB: Final = re.compile(r"[A-Za-z0-9@*?][A-Za-z0-9._:/@+~*?-]*")
"""Models that Egret can name in the header, and the two wildcards of a key's list of models."""

_UNKNOWN: Final = "There is no such model here, or the request does not say which one it is for."


class UnknownModels(enum.Enum):
    """The route of a request whose model no route names, or that names none.

    REFUSE: 404 in the words of its API, from Envoy; no provider receives it.
    BY_PATH: it goes where its path leads, as if nothing were routed by models.
    """

    REFUSE = "refuse"
    BY_PATH = "by_path"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRoute:
    """Models, by globs as a key's list has them, and the provider (its name) that gets them."""

    models: tuple[str, ...]
    provider: str

    @property
    def problem(self) -> str | None:
        """Its fault, None if it has none."""
        if not self.models:
            return f"a route to {self.provider} names no model"
        for glob in self.models:
            if not _GLOB.fullmatch(glob):
                return f"Egret names no model in the header that {glob!r} could match"
        return None

    def matches(self, *, has_prefixes: bool = False) -> list[tuple[str, dict[str, object]]]:
        """Return the protocol and the match of each of its routes, as Envoy writes them."""
        return [
            (protocol, _match(path, {"string_match": _as_matcher(glob)}))
            for glob in self.models
            for protocol, path in _paths(has_prefixes=has_prefixes)
        ]


def unknown_model_routes(*, has_prefixes: bool = False) -> Iterator[dict[str, object]]:
    """Yield Envoy's answer to a request that no route by model takes."""
    for protocol, path in _paths(has_prefixes=has_prefixes):
        is_anthropics = protocol == "ANTHROPIC_MESSAGES"
        yield {
            "name": "unknown_model",
            "match": _match(path),
            "direct_response": {
                "status": 404,
                "body": {"inline_string": _ANTHROPIC if is_anthropics else _OPENAI},
            },
            "response_headers_to_add": [
                _overwritten("content-type", "application/json"),
                _overwritten("x-egret-request-id", "%DYNAMIC_METADATA(egret:request_id)%"),
            ],
        }


_OPENAI: Final = json.dumps(
    {
        "error": {
            "message": _UNKNOWN,
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
    }
)
_ANTHROPIC: Final = json.dumps(
    {"type": "error", "error": {"type": "not_found_error", "message": _UNKNOWN}}
)


def _match(path: str, model: dict[str, object] | None = None) -> dict[str, object]:
    match: dict[str, object] = {"safe_regex": {"regex": path}}
    return (
        match
        if model is None
        else {**match, "headers": [{"name": HeaderName.EGRET_MODEL, **model}]}
    )


def _overwritten(name: str, value: str) -> dict[str, object]:
    header = {"key": name, "value": value}
    return {"append_action": "OVERWRITE_IF_EXISTS_OR_ADD", "header": header}


def _as_matcher(glob: str) -> dict[str, object]:
    """Return a glob as Envoy's string matcher: cheap where it can be, and always of the whole."""
    plain = glob.rstrip("*")
    if "*" in plain or "?" in plain or not plain:
        return {"safe_regex": {"regex": "".join(_as_regex(one) for one in glob)}}
    return {"exact": glob} if plain == glob else {"prefix": plain}


def _as_regex(character: str) -> str:
    match character:
        case "*":
            return ".*"
        case "?":
            return "."
        case "." | "+":
            return f"\\{character}"
        case _:
            return character


TEMPLATE: Final = Path(__file__).with_name("egret.yaml.j2")
HTTPS_PORT: Final = 443
EGRET_PORT: Final = 50051
Port = Annotated[int, Field(ge=1, le=65535)]
PortOrFree = Annotated[int, Field(ge=0, le=65535)]
SYSTEM_CA_FILE: Final = "/etc/ssl/certs/ca-certificates.crt"


_NAME: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?")


def _checked_host(host: str) -> str:
    if not _NAME.fullmatch(host.removesuffix(".")):
        try:
            ipaddress.ip_address(host)
        except ValueError:  # Envoy would take it, and find no such name with the first request
            raise ValueError("must be the host alone, without https:// and port") from None
    return host


def _checked_name(host: str) -> str:
    if _checked_host(host).endswith("."):
        raise ValueError("must have no dot at its end: certificates and clients write none")
    return host


Host = Annotated[str, AfterValidator(_checked_name)]
"""A name in certificates and headers, or an address; checked where parameters are read."""
ResolvedHost = Annotated[str, AfterValidator(_checked_host)]
"""As `Host`, or an absolute name with a dot at its end: it is only resolved."""
ResolvedHostOrDefault = Annotated[str, AfterValidator(lambda host: host and _checked_host(host))]


class EnvoyConfigError(ValueError):
    """The parameters cannot become a configuration; says which and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsSigning:
    """Requests are signed with AWS's version 4, body included, instead of carrying a key.

    `credentials_file` is in the format of AWS's own tools, and read again when another is renamed
    over it; empty leaves it to Envoy to find credentials: environment, web identity, container,
    instance.
    """

    region: str
    service: str = "bedrock"
    credentials_file: str = ""

    @property
    def credentials_directory(self) -> str:
        """Where Envoy watches for another file."""
        return str(Path(self.credentials_file).parent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """One LLM provider. `host` is the name its certificate must carry and the Host it is sent.

    `address` is what is resolved or dialled, `host` unless told. `credential_header` is the
    header Envoy writes from the SDS file; None sends no credential, or a signature with `signing`.
    With `is_many` each address of the name is a server of its own, as behind a headless service.
    """

    host: Host
    port: Port = HTTPS_PORT
    address: ResolvedHostOrDefault = ""
    ca_file: str = SYSTEM_CA_FILE
    credential_header: str | None = None
    signing: AwsSigning | None = None
    is_many: bool = False

    def __post_init__(self) -> None:
        if not self.address:
            object.__setattr__(self, "address", self.host)

    @property
    def is_ip_address(self) -> bool:
        """Whether the certificate is checked for an address instead of a name."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return True

    @property
    def authority(self) -> str:
        """The Host header: a literal IPv6 address is bracketed, port 443 is left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == HTTPS_PORT else f"{host}:{self.port}"


OPENAI: Final = Provider(host="api.openai.com", credential_header="authorization")
ANTHROPIC: Final = Provider(host="api.anthropic.com", credential_header="x-api-key")


@dataclass(frozen=True, slots=True)
class OtlpCollector:
    """Where Envoy sends its spans: OTLP over gRPC, no TLS."""

    host: ResolvedHost
    port: Port

    @property
    def as_address(self) -> dict[str, object]:
        """The address as Envoy writes it."""
        return {"socket_address": {"address": self.host, "port_value": self.port}}


@dataclass(frozen=True, slots=True)
class EgretService:
    """Egret on other machines, reached with mutual TLS.

    `host` is what its certificate must carry, `address` what is resolved, `host` unless told.
    """

    host: Host
    port: Port = EGRET_PORT
    address: ResolvedHostOrDefault = ""

    @property
    def as_address(self) -> dict[str, object]:
        """The address as Envoy writes it."""
        return {"socket_address": {"address": self.address or self.host, "port_value": self.port}}


@dataclass(frozen=True, slots=True)
class SelfHosted:
    """Models of one's own behind OpenAI's API (vLLM and others), under a host name of their own.

    `domain` is the host that clients use for them.
    """

    domain: Host
    servers: Provider


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvoyParameters:
    """Everything that differs between one deployment and another.

    Workers are at `worker_sockets`, or all behind `egret_service`, which needs `egret_client.yaml`
    and `egret_ca.yaml` in `sds_directory`. `wants_client_certificates` needs `client_ca.yaml`.
    `sds_directory` holds `server_certificate.yaml` and, for each provider with a credential,
    a file of the provider's name. A provider of None is not there, and what is sent to its API
    is answered 404. With `admin_socket` None the admin listens on `admin_port` of loopback.
    `metrics_port` has Envoy's metrics, and nothing else of its admin, at `metrics_address`; it
    needs `admin_socket`.
    `trusted_proxies` is how many of our own stand in front of Envoy and write x-forwarded-for;
    one too many, and clients write their own address.
    `http_port` None leaves the plain listener out; 0 takes a free port.
    `model_routes` need workers with EGRET_EXCHANGE__ROUTE_BY_MODEL=on; the first one that names a
    model wins.
    """

    worker_sockets: tuple[str, ...] = ()
    egret_service: EgretService | None = None
    sds_directory: str
    openai: Provider = OPENAI
    openai_fallback: Provider | None = None
    anthropic: Provider = ANTHROPIC
    azure: Provider | None = None
    gemini: Provider | None = None
    bedrock: Provider | None = None
    self_hosted: SelfHosted | None = None
    model_routes: tuple[ModelRoute, ...] = ()
    unknown_models: UnknownModels = UnknownModels.REFUSE
    trusted_proxies: int = 0
    https_address: str = "0.0.0.0"  # noqa: S104 - an edge proxy serves its network
    https_port: Port = 8443
    wants_client_certificates: bool = False
    http_port: PortOrFree | None = None
    admin_socket: str | None = None
    admin_port: PortOrFree = 0
    metrics_address: str = "127.0.0.1"
    metrics_port: Port | None = None
    access_log_path: str = "/dev/stdout"
    otlp: OtlpCollector | None = None
    sampling_percent: float = 100
    span_flush_ms: int = 5000
    descriptor_limits: tuple[DescriptorLimit, ...] = ()
    writes_timing: bool = True
    sends_usage: bool = True
    usage_flush_ms: int = 100
    node_id: str = "egret-envoy"
    node_cluster: str = "egret-envoy"
    message_timeout_seconds: float = 10
    request_seconds: int = 120
    answer_idle_seconds: int = 600
    buffer_limit_bytes: int = 65536
    fallback_body_bytes: int = 4 * 1024**2
    signed_body_bytes: int = 16 * 1024**2
    max_connections: int = 20000
    max_heap_bytes: int = 2 * 1024**3

    @property
    def worker_addresses(self) -> list[dict[str, object]]:
        """One endpoint a worker: Envoy balances over sockets, a shared one starves workers."""
        return [{"pipe": {"path": path}} for path in self.worker_sockets]

    @property
    def unknown_model_routes(self) -> list[dict[str, object]]:
        """Answers to requests for models that no route names; empty if they go by path."""
        refuses = self.model_routes and self.unknown_models is UnknownModels.REFUSE
        # With Azure the prefixes are its own.
        has_prefixes = self.azure is None
        return list(unknown_model_routes(has_prefixes=has_prefixes)) if refuses else []

    def provider(self, name: str) -> Provider | None:
        """Return one whose paths others have too; None where it is not there, or is none."""
        own = None if self.self_hosted is None else self.self_hosted.servers
        providers = {"openai": self.openai, "anthropic": self.anthropic, "self_hosted": own}
        return providers.get(name)


def render_envoy_config(parameters: EnvoyParameters) -> str:
    """Return the configuration as YAML.

    Raises:
        EnvoyConfigError: there is no worker, or two kinds of them; a socket path is too long; a
            route by model leads nowhere.
    """
    _check(parameters)
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 - YAML, where every value goes through the json filter
        keep_trailing_newline=True,
    )
    environment.filters["json"] = json.dumps
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        p=parameters, usage_format=LOG_FORMAT
    )


def _check(parameters: EnvoyParameters) -> None:
    if bool(parameters.worker_sockets) == (parameters.egret_service is not None):
        raise EnvoyConfigError(
            "workers are behind sockets or behind a service: one of the two, or nothing could"
            " judge a request"
        )
    if parameters.metrics_port is not None and parameters.admin_socket is None:
        raise EnvoyConfigError("metrics are taken from the admin's socket: metrics_port needs it")
    sockets = [*parameters.worker_sockets]
    if parameters.admin_socket is not None:
        sockets.append(parameters.admin_socket)
    for path in sockets:
        if len(path.encode()) > MAX_SOCKET_PATH_BYTES:
            raise EnvoyConfigError(
                f"a socket path is at most {MAX_SOCKET_PATH_BYTES} bytes long, this one is not:"
                f" {path}"
            )
    _check_routes(parameters)


def _check_routes(parameters: EnvoyParameters) -> None:
    for route in parameters.model_routes:
        if route.problem is not None:
            raise EnvoyConfigError(route.problem)
        if parameters.provider(route.provider) is None:
            raise EnvoyConfigError(
                f"a route by model leads to {route.provider}: it can lead to openai, to anthropic"
                " and, where there is one, to self_hosted"
            )
