"""Keys whose secret is kept outside: in Secrets of Kubernetes, or in files of a folder.

A document names the place. A key that is there is read; where there is none, a new one is made
and written, and nothing is ever overwritten. The database has the digest alone.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

import aiohttp
import orjson

from sidecar.admin.installation.objects import (
    FileFault,
    InstallationError,
    KeyDocument,
    SecretReference,
    WantedObject,
)
from sidecar.admin.owners import ChangeRefusedError
from sidecar.keys.credentials import ApiKey, generate, parse
from sidecar.settings.sections import inherited_environment

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
MAX_SECRET_BYTES: Final = 1_048_576
"""Of a whole Secret in Kubernetes."""
_API_SECONDS: Final = 10.0
_NOT_FOUND: Final = 404
_OK: Final = 200


class MissingSecretError(Exception):
    """The place itself does not exist, so that no key can be written to it."""


class SecretStore(Protocol):
    """A place of secrets. Errors are a `ChangeRefusedError` without any value."""

    async def read(self, place: SecretReference) -> str | None:
        """Return the text at *place*, None if there is none yet.

        Raises:
            MissingSecretError: it cannot be written either.
        """

    async def write(self, place: SecretReference, text: str) -> None:
        """Write *text* to *place*, which is empty; another value that came meanwhile stays."""


@dataclass(frozen=True, slots=True)
class KeysAtPlaces:
    """Objects whose keys all have an id, and the new keys that are to be written first."""

    objects: tuple[WantedObject, ...]
    new: Mapping[SecretReference, ApiKey]
    store: SecretStore | None

    async def write(self, on_written: Callable[[SecretReference], None]) -> None:
        """Write the new keys to their places, before the database has their digests.

        If that is interrupted, the next time finds the keys that are written.

        Raises:
            ChangeRefusedError: another value came to a place, or it cannot be written.
        """
        for place, key in self.new.items():
            if self.store is not None:
                await self.store.write(place, key.reveal())
                on_written(place)


async def find_keys(wanted: Iterable[WantedObject], store: SecretStore | None) -> KeysAtPlaces:
    """Read the keys that documents name by a place, and make those that are missing.

    Raises:
        InstallationError: a place has no key of Egret, or is missing.
        ChangeRefusedError: the store gave no answer.
    """
    objects: list[WantedObject] = []
    new: dict[SecretReference, ApiKey] = {}
    faults: list[FileFault] = []
    for one in wanted:
        content = one.content
        if store is None or not isinstance(content, KeyDocument) or content.secret is None:
            objects.append(one)  # without a store the plan reports a place as a fault
            continue
        place = content.secret
        try:
            text = await store.read(place)
        except MissingSecretError:
            hint = "create it empty; in the chart, name it in installation.keySecrets"
            faults.append(one.fault("secret", f"there is no Secret {place.name}", hint=hint))
            continue
        if text is None:
            key = new[place] = generate(os.urandom)
        elif (found := parse(text.strip())) is not None:
            key = found
        else:
            hint = "remove it for a new key, or name another"
            faults.append(one.fault("secret", f"{place} is no key of Egret", hint=hint))
            continue
        digest = key.secret_sha256.hex()
        known = {"id": key.key_id, "secret_sha256": digest, "secret": None}
        objects.append(replace(one, name=key.key_id, content=content.model_copy(update=known)))
    names: dict[str, WantedObject] = {}
    for one in objects:
        if isinstance(one.content, KeyDocument) and names.setdefault(one.name, one) is not one:
            problem = f"key {one.name} is in {names[one.name].place}, already"
            faults.append(one.fault("secret", problem, hint="keep one of them"))
    if faults:
        raise InstallationError(faults)
    return KeysAtPlaces(tuple(objects), new, store)


class FolderSecrets:
    """Secrets as files of a folder, NAME/KEY, which their owner alone can read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def read(self, place: SecretReference) -> str | None:
        """Return the text of the file, None without one.

        Raises:
            ChangeRefusedError: it cannot be read.
        """
        try:
            with (self._folder / place.name / place.key).open("rb") as file:
                return file.read(MAX_SECRET_BYTES).decode("latin-1")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unavailable(place, error.strerror or "cannot be read") from None

    async def write(self, place: SecretReference, text: str) -> None:
        """Create the file.

        Raises:
            ChangeRefusedError: there is one by now, or it cannot be written.
        """
        path = self._folder / place.name / place.key
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Whole or not at all: the name appears once the text is on the disk.
            # By a name of its own, or the part that a killed process left would be in the way.
            handle, part = tempfile.mkstemp(prefix=f".{place.key}.", dir=path.parent)
            try:
                with os.fdopen(handle, "w", encoding="ascii") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                os.link(part, path)  # fails if there is one by now
            finally:
                os.unlink(part)  # noqa: PTH108 - of mkstemp
        except OSError as error:
            raise _unavailable(place, error.strerror or "cannot be written") from None


class KubernetesSecrets:
    """Secrets of the pod's own namespace, by its service account: `get` and `patch` by name.

    The Secret must exist, empty or not: a role can be limited to names for these verbs, and not
    for `create`.
    """

    def __init__(self, *, url: str | None = None, service_account: Path = SERVICE_ACCOUNT) -> None:
        self._url = url
        self._service_account = service_account

    async def read(self, place: SecretReference) -> str | None:
        """Return the value of the key, None if it is missing or empty.

        Raises:
            MissingSecretError: there is no such Secret.
            ChangeRefusedError: the API gave no answer, or refuses it.
        """
        value = (await self._get(place)).get("data", {}).get(place.key)
        if not value:
            return None
        try:
            return base64.b64decode(value).decode("latin-1")
        except (binascii.Error, TypeError, ValueError):
            raise _unavailable(place, "has no value in base64") from None

    async def write(self, place: SecretReference, text: str) -> None:
        """Add the key to its Secret, unless the Secret has changed since it was read here.

        Raises:
            ChangeRefusedError: it has, or the API gave no answer.
        """
        secret = await self._get(place)
        data = secret.get("data") or {}
        if data.get(place.key):
            raise _unavailable(place, "has a value by now")
        version = secret["metadata"]["resourceVersion"]
        value = base64.b64encode(text.encode("ascii")).decode("ascii")
        patch = [
            {"op": "test", "path": "/metadata/resourceVersion", "value": version},
            *([] if data else [{"op": "add", "path": "/data", "value": {}}]),
            {"op": "add", "path": f"/data/{place.key}", "value": value},
        ]
        async with self._request("PATCH", place, orjson.dumps(patch)) as response:
            if response.status != _OK:
                raise _unavailable(place, f"was not written: status {response.status}")

    async def _get(self, place: SecretReference) -> Mapping[str, Any]:
        async with self._request("GET", place) as response:
            if response.status == _NOT_FOUND:
                raise MissingSecretError
            if response.status != _OK:
                raise _unavailable(place, f"was not read: status {response.status}")
            found: Mapping[str, Any] = orjson.loads(await response.read())
            return found

    @asynccontextmanager
    async def _request(
        self, method: str, place: SecretReference, body: bytes | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request to the API of the cluster, with the token as it is now."""
        try:
            folder = self._service_account
            token = (folder / "token").read_text(encoding="ascii").strip()
            namespace = (folder / "namespace").read_text(encoding="ascii").strip()
            tls = ssl.create_default_context(cafile=folder / "ca.crt")
        except (OSError, ValueError):
            raise _unavailable(place, "no service account is mounted here") from None
        headers = {"authorization": f"Bearer {token}", "accept": "application/json"}
        if body is not None:
            headers["content-type"] = "application/json-patch+json"
        url = f"{self._server()}/api/v1/namespaces/{namespace}/secrets/{place.name}"
        try:
            async with (
                asyncio.timeout(_API_SECONDS),
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as session,
                session.request(
                    method, url, data=body, headers=headers, allow_redirects=False
                ) as response,
            ):
                yield response
        except (aiohttp.ClientError, OSError) as error:
            raise _unavailable(place, f"no answer: {type(error).__name__}") from None

    def _server(self) -> str:
        if self._url is not None:
            return self._url
        environment = inherited_environment()
        host = environment.get("KUBERNETES_SERVICE_HOST", "kubernetes.default.svc")
        port = environment.get("KUBERNETES_SERVICE_PORT", "443")
        return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def _unavailable(place: SecretReference, reason: str) -> ChangeRefusedError:
    """Return the error for a place, without its value."""
    return ChangeRefusedError(
        f"the secret {place}: {reason}", hint="correct that, and run it again"
    )
