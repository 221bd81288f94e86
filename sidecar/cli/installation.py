"""`egret apply`, `diff` and `export`: files are the truth of an installation."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer
from prometheus_client import CollectorRegistry, generate_latest

from sidecar.admin.installation.export import (
    SEPARATOR,
    document_text,
    export_files,
    masked_policies,
)
from sidecar.admin.installation.key_secrets import (
    FolderSecrets,
    KeysAtPlaces,
    KubernetesSecrets,
    SecretStore,
    find_keys,
)
from sidecar.admin.installation.object_schema import installation_schema_text
from sidecar.admin.installation.objects import (
    FileFault,
    InstallationError,
    Kind,
    WantedObject,
    parse_files,
)
from sidecar.admin.installation.persistence import (
    carry_out,
    load_installation,
    lock_installation,
    plan_changes,
)
from sidecar.admin.installation.plan import (
    InstallationPlan,
    noticed_keys,
    plan_document,
)
from sidecar.admin.owners import ChangeRefusedError
from sidecar.cli.arguments import SERVER, STANDARD_STREAM, read_text, write_metrics
from sidecar.cli.connection import ChangeNotice, on_connection, on_settings
from sidecar.cli.in_force import NoWaitOption, wait_for_workers
from sidecar.cli.installation_server import (
    STDIN,
    FilesThere,
    apply_there,
    export_there,
    plan_there,
    print_plan,
    show_plan,
)
from sidecar.cli.policy_change import (
    DryRunOption,
    NoteOption,
    YesOption,
    check_expressions,
    check_note,
)
from sidecar.cli.terminal import (
    FAILED,
    WRONG_USAGE,
    Output,
    OutputOption,
    ask,
    counted,
    fail,
    note,
    progress,
)
from sidecar.policy.parse import PolicyDocument
from sidecar.policy.policy_lint import no_longer_hold
from sidecar.storage.pool import Connection
from sidecar.telemetry.admin_metrics import installation_gauges
from sidecar.telemetry.names import MetricName

DRIFT: Final = 2
_SHOWN_FAULTS: Final = 50
_SUFFIXES: Final = frozenset({".yaml", ".yml"})
_SET: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")

FilesOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--file", "-f", metavar="FILE|DIR", help="YAML files, or folders of them; - is stdin."
    ),
]
SetOption = Annotated[
    str, typer.Option("--set", metavar="NAME", help="The set that these files are.")
]
SecretsOption = Annotated[
    str | None,
    typer.Option(
        "--secrets",
        metavar="kubernetes|FOLDER",
        help="Where the keys are that documents name by `secret`; missing ones are made.",
    ),
]
MetricsOption = Annotated[
    Path | None,
    typer.Option("--metrics-file", help="Write the outcome for node exporter to this file."),
]
PruneOption = Annotated[
    bool, typer.Option("--prune", help="Delete objects of the set that no file names any more.")
]


def apply(  # noqa: PLR0913, PLR0917 - options of a command
    files: FilesOption = None,
    file_set: SetOption = "default",
    prune: PruneOption = False,
    secrets: SecretsOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    why: NoteOption = None,
    no_wait: NoWaitOption = False,
    metrics_file: MetricsOption = None,
    output: OutputOption = Output.TABLE,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of the documents.")
    ] = False,
) -> None:
    """Make organizations, teams, keys, policies and prices as files describe them, all or nothing.

    Routes of alerts as well. Shows the changes first and asks. Objects that no file names stay as
    they are; --prune deletes those among them that the same set of files has applied before.

    Example: egret apply -f config --prune --note "the search team gets a budget"
    """
    if schema:
        sys.stdout.write(installation_schema_text())
        return
    check_note(why)
    if SERVER.get() is not None:
        there = _files_there(files, file_set, secrets, metrics_file, prune=prune)
        apply_there(there, why=why, output=output, yes=yes, is_dry=dry_run, no_wait=no_wait)
        return
    keys = _read(files, file_set, secrets)
    wanted = keys.objects
    plan = _planned(wanted, file_set, prunes=prune)
    if output is Output.TABLE:
        show_plan(plan_document(plan), file_set=file_set, lost=_lost(plan))
    _check_policies(plan, wanted)
    applied = {MetricName.INSTALLATION_APPLIED: time.time()}
    if dry_run or not (plan.changes or plan.adopted):
        _write_metrics(None if dry_run else metrics_file, file_set, applied)
        if output is Output.JSON:
            print_plan(plan_document(plan), applied=False)
        elif dry_run and plan.changes:
            note("Nothing was changed: this was a dry run.")
        return
    if plan.changes and not yes:
        ask(
            f"Make {counted(len(plan.changes), 'change')}?",
            can_ask=STANDARD_STREAM not in (files or ()),
        )
    on_settings(lambda _: keys.write(lambda place: note(f"A new key is in {place}.")))
    steps = plan.in_steps()
    done = "nothing was done"
    for step in steps:
        expected = plan if step is steps[0] else step
        _carry_out(wanted, expected, step, file_set, prunes=prune, why=why, done=done)
        done = "the new policies are stored, and nothing else was done"
        if step is not steps[-1]:
            words = _wait_for_new_policies(step, no_wait=no_wait)
            note(f"{counted(len(step.changes), 'new policy', 'new policies')}: this {words}.")
    _write_metrics(metrics_file, file_set, applied)
    if output is Output.JSON:
        print_plan(plan_document(plan), applied=True)
    if plan.changes:
        note(f"This {wait_for_workers(no_wait=no_wait, policies=plan.policy_versions())}.")


def _wait_for_new_policies(step: InstallationPlan, *, no_wait: bool) -> str:
    """Wait even with *no_wait*: requests depend on it. A late worker then stops nothing."""
    try:
        return wait_for_workers(no_wait=False, policies=step.policy_versions())
    except typer.Exit:
        if not no_wait:
            raise
        return "is stored"


def _lost(plan: InstallationPlan) -> dict[str, str]:
    """Return a warning for each policy that no longer has what it had, by name."""
    policies = {one.name: one.policy.lost for one in plan.changes if one.policy is not None}
    return {name: no_longer_hold(lost) for name, lost in policies.items() if lost}


def diff(
    files: FilesOption = None,
    file_set: SetOption = "default",
    prune: PruneOption = False,
    secrets: SecretsOption = None,
    metrics_file: MetricsOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show how the installation differs from files. Exits with 2 if it does, with 1 on an error.

    Example: egret diff -f config --prune
    """
    lost: Mapping[str, str] = {}
    try:
        if SERVER.get() is not None:
            shown = plan_there(_files_there(files, file_set, secrets, metrics_file, prune=prune))
        else:
            wanted = _read(files, file_set, secrets).objects
            plan = _planned(wanted, file_set, prunes=prune)
            shown, lost = plan_document(plan), _lost(plan)
    except typer.Exit:
        raise typer.Exit(FAILED) from None  # a fault is no drift
    if output is Output.JSON:
        print_plan(shown, applied=False)
    else:
        show_plan(shown, file_set=file_set, lost=lost)
    checked = {
        MetricName.INSTALLATION_DRIFT: float(shown["is_drift"]),
        MetricName.INSTALLATION_CHECKED: time.time(),
    }
    _write_metrics(metrics_file, file_set, checked)
    if shown["is_drift"]:
        raise typer.Exit(DRIFT)


def _write_metrics(file: Path | None, file_set: str, values: Mapping[str, float]) -> None:
    if file is not None:
        registry = CollectorRegistry()
        gauges = installation_gauges(registry)
        for name, value in values.items():
            gauges[name].labels(file_set).set(value)
        write_metrics(file, generate_latest(registry).decode())


def export(
    target: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE|DIR", help="A .yaml file or a folder."),
    ] = STANDARD_STREAM,
    force: Annotated[bool, typer.Option("--force", help="Replace files that differ.")] = False,
) -> None:
    """Write the whole installation as files for `egret apply`: digests of keys, never secrets.

    A folder has a file for each policy, organization and team, and one of all prices.

    Example: egret export -o config
    """
    if SERVER.get() is not None:
        files, masked = export_there()
        text, count = SEPARATOR.join(files.values()), counted(len(files), "file")
    else:
        stored = on_connection(load_installation)
        try:
            is_folder = target != STANDARD_STREAM and target.suffix not in _SUFFIXES
            files = dict(export_files(stored)) if is_folder else {}
            text = "" if is_folder else SEPARATOR.join(map(document_text, stored))
            masked = masked_policies(stored)
        except ChangeRefusedError as error:
            fail(error.problem, hint=error.hint)
        count = counted(len(stored), "object")
    if target == STANDARD_STREAM:
        sys.stdout.write(text)
    elif target.suffix in _SUFFIXES:
        _write({target: text}, force=force)
    else:
        _write({target / path: text for path, text in files.items()}, force=force)
        paths = {target / path for path in files}
        present = _yaml_files(target) if target.exists() else ()  # nothing makes no folder
        others = [one for one in present if one not in paths]
        if others:
            found = counted(len(others), "other file")
            note(f"{target} holds {found}, such as {others[0]}, that `egret apply` reads too")
    for name in masked:
        note(f"policy {name} has values that are not in the file; they are shown as ***")
    if target != STANDARD_STREAM:
        note(f"{count} exported to {target}")


def _write(texts: dict[Path, str], *, force: bool) -> None:
    """Write files, each with its text; without *force* no other text is replaced."""
    try:
        for path, text in () if force else texts.items():
            if path.exists() and path.read_bytes() != text.encode():
                hint = "name another place, or say --force"
                fail(f"{path} exists and would change", hint=hint, code=WRONG_USAGE)
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        words = f"{error.filename}: {error.strerror}"
        fail(words, hint="name a place to write to", code=WRONG_USAGE)


def _read(files: Sequence[Path] | None, file_set: str, secrets: str | None) -> KeysAtPlaces:
    """Return the objects of all files with their new keys, or exit with every fault."""
    texts = _texts(files, file_set)
    store: SecretStore | None = None
    if secrets is not None:
        is_cluster = secrets == "kubernetes"
        store = KubernetesSecrets() if is_cluster else FolderSecrets(Path(secrets))
    try:
        objects = parse_files(texts)
        keys = on_settings(lambda _: find_keys(objects, store))
    except InstallationError as error:
        _fail_with(error.faults)
    if not objects:
        first = files[0] if files else ""
        fail(f"{first} holds no object", hint="write one, or name another; nothing was changed")
    return keys


def _files_there(
    files: Sequence[Path] | None,
    file_set: str,
    secrets: str | None,
    metrics_file: Path | None,
    *,
    prune: bool,
) -> FilesThere:
    """Return the files for a server, which has neither our secrets nor our metrics."""
    if secrets is not None or metrics_file is not None:
        hint = "run it where the database is, or without them"
        fail("--secrets and --metrics-file do not go with --server", hint=hint, code=WRONG_USAGE)
    return FilesThere(texts=dict(_texts(files, file_set)), file_set=file_set, prune=prune)


def _texts(files: Sequence[Path] | None, file_set: str) -> list[tuple[str, str]]:
    """Return the path and text of each file, or exit."""
    if not files:
        fail("no file is named", hint="give -f FILE or -f DIR", code=WRONG_USAGE)
    if not _SET.fullmatch(file_set):
        hint = "lower case letters, digits, dots, dashes and underscores, at most 63"
        fail("--set is not a name", hint=hint, code=WRONG_USAGE)
    paths: list[Path] = []
    for file in files:
        is_folder = file != STANDARD_STREAM and file.is_dir()
        found = sorted(_yaml_files(file)) if is_folder else [file]
        if not found:
            fail(f"{file} has no .yaml files", hint="name another folder; nothing was changed")
        paths += found
    texts: list[tuple[str, str]] = []
    with progress("Reading", total=len(paths)) as advance:
        for number, path in enumerate(paths, 1):
            if path not in files and path.exists() and not path.is_file():  # not one of <(…)
                fail(f"{path} is not a file", hint="take it away; nothing was changed")
            texts.append((STDIN if path == STANDARD_STREAM else str(path), read_text(path)))
            advance(number)
    return texts


def _yaml_files(folder: Path) -> Iterator[Path]:
    """Yield the files of *folder* and those below it, but for hidden ones.

    A link to a folder may lead in a circle, and one that is passed over may hide what is to stay.
    """

    def refuse(error: OSError) -> NoReturn:
        fail(f"{error.filename}: {error.strerror}", hint="name a folder that can be read")

    for place, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in folders:
            if (path := Path(place, name)).is_symlink():
                fail(f"{path} is a link to a folder", hint="name that folder with another -f")
        for name in files:
            if not name.startswith(".") and Path(name).suffix in _SUFFIXES:
                yield Path(place, name)


def _planned(wanted: Sequence[WantedObject], file_set: str, *, prunes: bool) -> InstallationPlan:
    try:
        return on_connection(
            lambda connection: plan_changes(connection, wanted, file_set=file_set, prunes=prunes)
        )
    except InstallationError as error:
        _fail_with(error.faults)


def _fail_with(faults: Sequence[FileFault]) -> NoReturn:
    for one in faults[:_SHOWN_FAULTS]:
        note(str(one))
    if len(faults) > _SHOWN_FAULTS:
        note(f"… and {len(faults) - _SHOWN_FAULTS} more")
    fail(counted(len(faults), "fault"), hint="correct the above; nothing was changed")


def _check_policies(plan: InstallationPlan, wanted: Sequence[WantedObject]) -> None:
    """Compile the changed policies as `egret policy apply` does; exit with their faults."""
    changed = {one.name for one in plan.changes if one.policy is not None}
    by_file: dict[str, list[PolicyDocument]] = {}
    for one in wanted:
        if isinstance(one.content, PolicyDocument) and one.name in changed:
            by_file.setdefault(one.file, []).append(one.content)
    check_expressions(by_file)


def _carry_out(
    wanted: Sequence[WantedObject],
    expected: InstallationPlan,
    step: InstallationPlan,
    file_set: str,
    *,
    prunes: bool,
    why: str | None,
    done: str,
) -> None:
    """Carry out *step* in one transaction, if the plan is still the *expected* one.

    A refusal's hint begins with `done`: the outcome of the steps before.
    """
    total = len(step.changes) + len(step.adopted)
    with progress("Applying", total=total) as advance:

        async def work(connection: Connection) -> None:
            await lock_installation(connection)
            try:
                anew = await plan_changes(connection, wanted, file_set=file_set, prunes=prunes)
            except InstallationError:
                anew = None
            if anew != expected:
                raise ChangeRefusedError(
                    "the installation was changed meanwhile",
                    hint=f"{done}; look at the new plan: run it again",
                )
            await carry_out(connection, step, file_set=file_set, note=why, advance=advance)

        policies = [one.name for one in step.changes if one.kind is Kind.POLICY]
        notice = ChangeNotice(keys=noticed_keys(step.changes), policies=policies)
        on_connection(work, notice=lambda _: notice)
