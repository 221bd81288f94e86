"""Settings of `egret admin`: the API and the console of administration."""

from __future__ import annotations

import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Final, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from sidecar.settings.sections import Seconds, Section, is_loopback

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_HOST: Final = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")


def _origin(scheme: str, host: str, port: int | None) -> str:
    """Return an origin as browsers send it: in lower case, and without the scheme's own port."""
    name = f"[{host}]" if ":" in host else host.lower()
    return (
        f"{scheme}://{name}"
        if port in {None, _DEFAULT_PORTS[scheme]}
        else f"{scheme}://{name}:{port}"
    )


class AdminSettings(Section):
    """The process of `egret admin`; no worker reads any of it."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 9466
    public_url: str | None = None
    """The address in a browser, `https://egret.example.com`; by default that of host and port."""
    proxies: str = ""
    """Addresses and networks of proxies, separated by commas, whose `X-Forwarded-For` counts."""
    pool_size: Annotated[int, Field(ge=2, le=100)] = 10
    query_seconds: Seconds = 30.0
    """Budget of one query: reports read more than a worker may."""
    session_idle_seconds: Annotated[float, Field(ge=60, le=86400)] = 1800.0
    session_seconds: Annotated[float, Field(ge=60, le=604800)] = 43200.0
    """Longest life of a session, however often it is used."""
    requests_per_second: Annotated[float, Field(gt=0, le=10000)] = 20.0
    """Of one person or token, in one process; ten times as many at once.

    Also the refused tokens and sessions of one address.
    """
    logins_per_minute: Annotated[float, Field(gt=0, le=10000)] = 10.0
    """Of one address, in one process: logins, and tokens that are refused."""
    oidc_issuer: str | None = None
    """Its `/.well-known/openid-configuration` is read; None: one-time links and tokens only."""
    oidc_client_id: Annotated[str, Field(min_length=1)] | None = None
    oidc_client_secret_file: Path | None = None
    """Holds the client's secret; None for a public client, which PKCE protects."""
    oidc_scope: str = "openid profile email"
    oidc_name_claim: str = "email"
    """Names the person in the audit log; `sub` if the claim is missing."""
    oidc_roles_claim: str = "groups"
    oidc_roles: dict[str, tuple[str, ...]] | None = None
    """Grants by value of the claim: `{"platform": ["admin"], "acme-ops": ["operator:acme"]}`."""

    @property
    def origin(self) -> str:
        """Return scheme, host and port in a browser."""
        if self.public_url is not None:
            return self.public_url
        return _origin("http", self.host, self.port)

    @property
    def origins(self) -> frozenset[str]:
        """Return the origins whose pages may send changes: both names of this machine count."""
        parts = urlsplit(self.origin)
        if not is_loopback(parts.hostname or ""):
            return frozenset({self.origin})
        names = {parts.hostname or "", "localhost", "127.0.0.1"}
        return frozenset(_origin(parts.scheme, name, parts.port) for name in names)

    @property
    def is_encrypted(self) -> bool:
        """Return whether browsers reach it by https, so that cookies are `Secure`."""
        return self.origin.startswith("https://")

    @property
    def hides_addresses(self) -> bool:
        """Return whether all people have the address of a proxy, since none is trusted.

        `egret admin` serves no TLS itself: a public address by https is that of a proxy.
        """
        return self.is_encrypted and not self.proxies

    @field_validator("public_url")
    @classmethod
    def _is_an_origin(cls, url: str | None) -> str | None:
        if url is None:
            return None
        if not url.isascii():
            raise ValueError("must have its host in ASCII, as browsers send it: xn--…")
        parts = urlsplit(url)
        is_origin = _HOST.fullmatch(parts.hostname or "") and parts.path in {"", "/"}
        if not is_origin or parts.query or parts.fragment or parts.username is not None:
            raise ValueError("must be https://HOST or https://HOST:PORT, without a path")
        is_local = parts.scheme == "http" and is_loopback(parts.hostname or "")
        if parts.scheme != "https" and not is_local:
            raise ValueError("must begin with https://, except on localhost")
        return _origin(parts.scheme, parts.hostname or "", parts.port)

    @field_validator("proxies")
    @classmethod
    def _are_networks(cls, proxies: str) -> str:
        named = [one.strip() for one in proxies.split(",")]
        if "*" in named:  # a client writes the header as well, and so its own address
            raise ValueError("must name the proxies or their networks, such as 10.0.0.0/8, not *")
        for one in filter(None, named):
            try:
                ip_network(one)
            except ValueError:  # uvicorn would take it for a literal that no peer has
                raise ValueError(
                    f"{one!r} is no address, and no network such as 10.0.0.0/8 without host bits"
                ) from None
        return proxies

    @model_validator(mode="after")
    def _cookies_are_encrypted(self) -> Self:
        if self.public_url is None and not is_loopback(self.host):
            raise ValueError(
                "EGRET_ADMIN__HOST other than localhost needs EGRET_ADMIN__PUBLIC_URL, the https"
                " address of the proxy before it"
            )
        return self

    @model_validator(mode="after")
    def _oidc_is_whole(self) -> Self:
        if (self.oidc_issuer is None) != (self.oidc_client_id is None):
            raise ValueError(
                "EGRET_ADMIN__OIDC_ISSUER and EGRET_ADMIN__OIDC_CLIENT_ID need each other"
            )
        if self.oidc_issuer is not None:
            parts = urlsplit(self.oidc_issuer)
            is_local = parts.scheme == "http" and is_loopback(parts.hostname or "")
            if parts.scheme != "https" and not is_local:
                raise ValueError("EGRET_ADMIN__OIDC_ISSUER must begin with https://")
        return self
