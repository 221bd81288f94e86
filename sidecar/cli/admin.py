"""`egret admin`: serves the administration API and console, and gives the first access."""

from __future__ import annotations

import secrets
import signal
import socket
import sys
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Annotated, Final

import typer
from typing_extensions import override

from sidecar.admin_api.roles import (
    Grant,
    GrantError,
    Permission,
    Role,
    find_grant,
    parse_grant,
)
from sidecar.admin_api.sign_in import (
    CreatedToken,
    Token,
    begin_link_login,
    create_token,
    end_sessions_of,
    list_tokens,
    reveal_token,
    revoke_token,
)
from sidecar.cli.admin_server import AdminServer, address
from sidecar.cli.arguments import MomentError, parse_span_ahead
from sidecar.cli.connection import actor, on_connection, settings_or_exit
from sidecar.cli.terminal import (
    WRONG_USAGE,
    Output,
    OutputOption,
    Row,
    counted,
    fail,
    install_hint,
    note,
    print_json,
    print_record,
    print_rows,
    print_secret,
)
from sidecar.keys.credentials import generate
from sidecar.settings.administration import AdminSettings
from sidecar.storage.pool import Connection

admin = typer.Typer(
    invoke_without_command=True, help="Serve the administration API and console; its logins."
)

GRACE_SECONDS: Final = 20
_BACKLOG: Final = 256

GrantOption = Annotated[
    str,
    typer.Option(
        "--grant", metavar="GRANT", help="ROLE, ROLE:ORGANIZATION or ROLE:ORGANIZATION/TEAM."
    ),
]


@admin.callback()
def serve(context: typer.Context) -> None:
    """Serve the administration API and console, in a process of its own; SIGTERM ends it.

    It needs the packages of the extra `admin`. Settings: EGRET_ADMIN__HOST, EGRET_ADMIN__PORT,
    EGRET_ADMIN__PUBLIC_URL, … `egret admin login-link` makes the first login.

    Example: EGRET_POSTGRES__DSN=postgresql://egret_console@db/egret egret admin
    """
    if context.invoked_subcommand is not None:
        return
    try:
        # Here, since no other command needs these packages.
        import uvicorn  # noqa: PLC0415

        from sidecar.admin_api.application import create_app  # noqa: PLC0415
        from sidecar.console.website import add_console  # noqa: PLC0415
    except ModuleNotFoundError as error:
        problem = f"`egret admin` needs the extra admin, and {error.name} is not installed"
        fail(problem, hint=install_hint("admin"), code=WRONG_USAGE)
    import uvloop  # noqa: PLC0415

    from sidecar.telemetry.logs import configure_logs, get_logger  # noqa: PLC0415
    from sidecar.telemetry.names import LogEvent  # noqa: PLC0415

    class Server(uvicorn.Server):
        """Logs the start once connections are accepted."""

        @override
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            get_logger().info(LogEvent.ADMIN_STARTED, url=own.origin)
            if own.hides_addresses:
                hint = "set EGRET_ADMIN__PROXIES to the addresses of the proxy"
                get_logger().warning(LogEvent.ADMIN_PROXIES_UNSET, url=own.origin, hint=hint)

    settings = settings_or_exit()
    own = settings.admin
    _check_oidc(own)
    sockets = _listen(own)
    configure_logs(settings.telemetry.log_level)
    server = Server(
        uvicorn.Config(
            add_console(create_app(settings)),
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=_BACKLOG,
            proxy_headers=bool(own.proxies),
            forwarded_allow_ips=own.proxies or None,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
    )
    # After a graceful end uvicorn raises the signal anew; the end is no failure.
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda *_: None)
    uvloop.run(server.serve(sockets))
    if not server.started:
        sys.exit(1)


def _check_oidc(own: AdminSettings) -> None:
    """Exit if the roles or the client's secret would fail at the first login."""
    try:
        for grant in chain.from_iterable((own.oidc_roles or {}).values()):
            parse_grant(grant)
    except GrantError as error:
        problem = f"EGRET_ADMIN__OIDC_ROLES: {error}"
        fail(problem, hint="correct the environment", code=WRONG_USAGE)
    file = own.oidc_client_secret_file
    if file is None:
        return
    variable = "EGRET_ADMIN__OIDC_CLIENT_SECRET_FILE"
    try:
        is_empty = not file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        hint = "correct the path, or let the user of `egret admin` read the file"
        fail(f"{variable}: {file} cannot be read ({reason})", hint=hint, code=WRONG_USAGE)
    if is_empty:
        hint = "write the client's secret into it, or unset the variable for a public client"
        fail(f"{variable}: {file} is empty", hint=hint, code=WRONG_USAGE)


def _listen(own: AdminSettings) -> list[socket.socket]:
    """Listen on every address of the host, or exit; uvicorn would log an error and exit with 3."""
    try:
        found = socket.getaddrinfo(
            own.host or None, own.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        places = dict.fromkeys((family, address) for family, _, _, _, address in found)
        return [
            socket.create_server(address, family=family, backlog=_BACKLOG)
            for family, address in places
        ]
    except OSError as error:
        host = f"[{own.host}]" if ":" in own.host else own.host
        reason = (error.strerror or "").partition(" (while")[0]
        hint = "free it or set EGRET_ADMIN__HOST and EGRET_ADMIN__PORT"
        fail(f"cannot listen on {host}:{own.port} ({reason})", hint=hint, code=WRONG_USAGE)


@admin.command("login-link")
def login_link(grant: GrantOption = Role.ADMIN.value, output: OutputOption = Output.TABLE) -> None:
    """Print a link that logs in once, within five minutes; `egret --as NAME` names the person.

    Example: egret --as alice admin login-link --grant operator:acme
    """

    async def work(connection: Connection) -> str:
        return await begin_link_login(connection, actor(), [await _grant(connection, grant)])

    secret = on_connection(work)
    link = f"{settings_or_exit().admin.origin}/login/link?token={secret}"
    note("It logs in once, within five minutes, and shows who opened it in the audit log.")
    if output is Output.JSON:
        print_json({"person": actor(), "link": link})
    else:
        typer.echo(link)


@admin.command("create-token")
def create(
    name: Annotated[str, typer.Argument(help="Lower case, for example ci.")],
    grant: GrantOption,
    scope: Annotated[
        list[Permission] | None,
        typer.Option("--scope", help="Narrow the role to this permission; repeat for more."),
    ] = None,
    expires: Annotated[str, typer.Option("--expires", help="90d, 12h, or never.")] = "90d",
    output: OutputOption = Output.TABLE,
) -> None:
    """Create an API token for a program and print it, the only time it is shown.

    Standard output holds the token alone, so that it can be piped to where secrets are kept.

    Example: egret admin create-token ci --grant operator:acme --scope view --scope manage_keys
    """
    life = None
    try:
        if expires != "never":
            life = parse_span_ahead(expires, now=datetime.now(UTC))
    except MomentError as error:
        fail(f"--expires: {error}", hint="nothing was changed", code=WRONG_USAGE)
    key = generate(secrets.token_bytes)

    async def work(connection: Connection) -> tuple[str, Token]:
        found = await _grant(connection, grant)
        scopes = frozenset(scope) if scope else None
        created = await create_token(
            connection,
            key,
            name=name,
            grant=Grant(found.role, found.organization_id, found.team_id, scopes),
            created_by=actor(),
            life=life,
        )
        return reveal_token(key), created

    def remote(server: AdminServer) -> tuple[str, Token]:
        if life is not None and life % timedelta(days=1):
            hint = "nothing was changed"
            fail("--expires: a server takes whole days", hint=hint, code=WRONG_USAGE)
        role, _, owner = grant.partition(":")
        organization, _, team = owner.partition("/")
        body = {
            "name": name,
            "role": role,
            "organization": organization or None,
            "team": team or None,
            "scopes": [one.value for one in scope] if scope else None,
            "expires_in_days": None if life is None else life.days,
        }
        made = server.call(CreatedToken, "POST", "/tokens", body=body)
        return made.token, made.details

    text, created = on_connection(work, remote=remote)
    hint = f"run `egret admin revoke-token {created.id}`, and create another"
    row = _row(created)
    print_secret("token", text, row, fields=("id", "expires_at"), hint=hint, output=output)


@admin.command("tokens")
def tokens(output: OutputOption = Output.TABLE) -> None:
    """List the API tokens, revoked ones last.

    Example: egret admin tokens
    """
    found = on_connection(list_tokens, remote=lambda server: tuple(server.pages(Token, "/tokens")))
    rows = [_row(one) for one in found]
    columns = ("id", "name", "role", "organization", "team", "expires_at", "last_used_at")
    print_rows(rows, columns=columns, output=output)


@admin.command("revoke-token")
def revoke(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="As `egret admin tokens` shows.")],
    output: OutputOption = Output.TABLE,
) -> None:
    """Revoke an API token for good, at once.

    Example: egret admin revoke-token 5OKO8h6jGWNP
    """
    revoked = on_connection(
        lambda connection: revoke_token(connection, token_id),
        remote=lambda server: server.call(Token, "POST", address("tokens", token_id, "revoke")),
    )
    print_record(_row(revoked), output=output)


@admin.command("log-out")
def log_out(
    person: Annotated[str, typer.Argument(help="As the audit log names the person.")],
    output: OutputOption = Output.TABLE,
) -> None:
    """End all sessions of a person, at once.

    Example: egret admin log-out alice@example.com
    """
    count = on_connection(lambda connection: end_sessions_of(connection, person))
    if output is Output.JSON:
        print_json({"person": person, "sessions": count})
    note(f"Ended {counted(count, 'session')}.")


async def _grant(connection: Connection, text: str) -> Grant:
    try:
        return await find_grant(connection, text)
    except GrantError as error:
        fail(f"--grant: {error}", hint="nothing was changed", code=WRONG_USAGE)


def _row(token: Token) -> Row:
    return {
        name: value.value if isinstance(value := getattr(token, name), Role) else value
        for name in Token.__slots__
    }
