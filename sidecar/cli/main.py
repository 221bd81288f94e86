"""The command tree. Each group lives in a module of its own and is added here by name."""

from __future__ import annotations

from typing import Annotated

import typer

from sidecar.cli.audit import audit
from sidecar.cli.bindings import bind, unbind
from sidecar.cli.database import ACTOR
from sidecar.cli.demo import demo
from sidecar.cli.doctor import doctor
from sidecar.cli.guardrails import guardrails
from sidecar.cli.key_scopes import set_
from sidecar.cli.key_transfer import export, import_
from sidecar.cli.keys import keys
from sidecar.cli.limits import limits
from sidecar.cli.lint import lint
from sidecar.cli.migrate import migrate
from sidecar.cli.owners import orgs, teams
from sidecar.cli.policy import policy
from sidecar.cli.policy_advice import advise, schema
from sidecar.cli.policy_promotion import demote, promote
from sidecar.cli.policy_versions import history, rollback
from sidecar.cli.price import price
from sidecar.cli.serve import serve
from sidecar.cli.up import up
from sidecar.cli.usage import usage

app = typer.Typer(
    name="egret",
    help="Guarded LLM egress for Envoy.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def _root(
    actor: Annotated[
        str | None,
        typer.Option(
            "--as", metavar="NAME", help="Who makes the change, for the audit log; else the user."
        ),
    ] = None,
) -> None:
    """Guarded LLM egress for Envoy."""
    ACTOR.set(actor)


app.command()(up)
app.command()(demo)
app.command()(serve)
app.command()(migrate)
app.command()(doctor)
app.command()(lint)
app.add_typer(orgs, name="orgs")
app.add_typer(teams, name="teams")
app.add_typer(keys, name="keys")
app.add_typer(limits, name="limits")
keys.command("set")(set_)
keys.command("import")(import_)
keys.command("export")(export)
app.add_typer(guardrails, name="guardrails")
app.add_typer(policy, name="policy")
policy.command("bind")(bind)
policy.command("unbind")(unbind)
policy.command("history")(history)
policy.command("rollback")(rollback)
policy.command("lint")(advise)
policy.command("schema")(schema)
policy.command("promote")(promote)
policy.command("demote")(demote)
app.add_typer(usage, name="usage")
app.add_typer(price, name="price")
app.add_typer(audit, name="audit")


def run() -> None:
    """Run the command line; exit codes are 0 done, 1 failed, 2 wrong usage."""
    app()
