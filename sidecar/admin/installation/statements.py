"""The SQL of each kind of object: a kind is one entry of `TABLES`."""
# ruff: noqa: S608 - made of constants

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sidecar.admin.installation.objects import Kind
from sidecar.storage.usage_store import AMOUNT_COLUMNS


@dataclass(frozen=True, slots=True)
class Table:
    """The statements of one kind.

    `load` returns kind, fields and owner; `insert` and `update` take rows as JSON and the set of
    files, `delete` takes rows as JSON.
    """

    load: str
    insert: str
    update: str
    delete: str


_OWNER_FIELDS: Final = """'enabled', {0}.enabled, 'policy', {0}.policy_name,
    'allowed_models', {0}.allowed_models, 'limits', {0}.limits"""
_OWNER_COLUMNS: Final = "enabled boolean, policy text, allowed_models text[], limits jsonb"
_SET_OWNER: Final = """enabled = r.enabled, policy_name = r.policy,
    allowed_models = r.allowed_models, limits = r.limits, file_set = $2"""
_TEAM_OF: Final = "o.name || '/' || t.name"
_KEY_ROWS: Final = f"""jsonb_to_recordset($1::jsonb) AS r(id text, secret_sha256 text, team text,
    name text, not_before timestamptz, expires_at timestamptz, revoked_at timestamptz,
    replaced_by text, allowed_operations text[], allowed_sources text[], tags text[],
    priority text, {_OWNER_COLUMNS})
JOIN organizations AS o ON o.name = split_part(r.team, '/', 1)
JOIN teams AS t ON t.organization_id = o.id AND t.name = split_part(r.team, '/', 2)"""
_ROUTE_ROWS: Final = """jsonb_to_recordset($1::jsonb) AS r(name text, enabled boolean,
    channel text, url text, secret text, organization text, severity text, rules text[],
    quiet_hours text, digest text, time_zone text)"""
_PRICE_ROWS: Final = f"""jsonb_to_recordset($1::jsonb) AS r(model text, valid_from timestamptz,
    {", ".join(f"{name} numeric" for name in AMOUNT_COLUMNS)})"""

TABLES: Final[Mapping[Kind, Table]] = {
    Kind.POLICY: Table(
        load="""SELECT 'Policy' AS kind, jsonb_build_object('name', p.name, 'version', p.version,
    'document', v.document) AS fields, p.file_set
FROM policies AS p
JOIN policy_versions AS v ON v.policy_name = p.name AND v.version = p.version""",
        # A row of a policy names the version in force: the same for an update as for a new one.
        insert="""WITH r AS (
    SELECT * FROM jsonb_to_recordset($1::jsonb) AS r(name text, version integer, document text)
), in_force AS (
    INSERT INTO policies (name, version, file_set) SELECT name, version, $2 FROM r
    ON CONFLICT (name) DO UPDATE SET version = EXCLUDED.version, file_set = EXCLUDED.file_set
)
INSERT INTO policy_versions (policy_name, version, document, note)
SELECT name, version, document, $3 FROM r""",
        update="""UPDATE policies AS p SET file_set = $2
FROM jsonb_to_recordset($1::jsonb) AS r(name text) WHERE p.name = r.name""",
        delete="""DELETE FROM policies AS p
USING jsonb_to_recordset($1::jsonb) AS r(name text) WHERE p.name = r.name""",
    ),
    Kind.PRICE: Table(
        load=f"""SELECT 'Price', jsonb_build_object('model', model, 'valid_from', valid_from,
    {", ".join(f"'{name}', {column}::text" for name, column in AMOUNT_COLUMNS.items())}), file_set
FROM prices""",
        insert=f"""INSERT INTO prices (model, valid_from, {", ".join(AMOUNT_COLUMNS.values())},
    file_set)
SELECT r.model, r.valid_from, {", ".join(f"r.{name}" for name in AMOUNT_COLUMNS)}, $2
FROM {_PRICE_ROWS}""",
        update=f"""UPDATE prices AS p SET
    {", ".join(f"{column} = r.{name}" for name, column in AMOUNT_COLUMNS.items())}, file_set = $2
FROM {_PRICE_ROWS} WHERE p.model = r.model AND p.valid_from = r.valid_from""",
        delete=f"""DELETE FROM prices AS p USING {_PRICE_ROWS}
WHERE p.model = r.model AND p.valid_from = r.valid_from""",
    ),
    Kind.ORGANIZATION: Table(
        load=f"""SELECT 'Organization', jsonb_build_object('name', o.name,
    {_OWNER_FIELDS.format("o")}), o.file_set
FROM organizations AS o""",
        insert=f"""INSERT INTO organizations
    (name, enabled, policy_name, allowed_models, limits, file_set)
SELECT r.name, r.enabled, r.policy, r.allowed_models, r.limits, $2
FROM jsonb_to_recordset($1::jsonb) AS r(name text, {_OWNER_COLUMNS}) ORDER BY r.name""",
        update=f"""UPDATE organizations AS o SET {_SET_OWNER}
FROM jsonb_to_recordset($1::jsonb) AS r(name text, {_OWNER_COLUMNS}) WHERE o.name = r.name""",
        delete="""DELETE FROM organizations AS o
USING jsonb_to_recordset($1::jsonb) AS r(name text) WHERE o.name = r.name""",
    ),
    Kind.TEAM: Table(
        load=f"""SELECT 'Team', jsonb_build_object('name', {_TEAM_OF},
    {_OWNER_FIELDS.format("t")}), t.file_set
FROM teams AS t JOIN organizations AS o ON o.id = t.organization_id""",
        insert=f"""INSERT INTO teams
    (organization_id, name, enabled, policy_name, allowed_models, limits, file_set)
SELECT o.id, split_part(r.name, '/', 2), r.enabled, r.policy, r.allowed_models, r.limits, $2
FROM jsonb_to_recordset($1::jsonb) AS r(name text, {_OWNER_COLUMNS})
JOIN organizations AS o ON o.name = split_part(r.name, '/', 1) ORDER BY r.name""",
        update=f"""UPDATE teams AS t SET {_SET_OWNER}
FROM jsonb_to_recordset($1::jsonb) AS r(name text, {_OWNER_COLUMNS}), organizations AS o
WHERE t.organization_id = o.id AND {_TEAM_OF} = r.name""",
        delete=f"""DELETE FROM teams AS t
USING jsonb_to_recordset($1::jsonb) AS r(name text), organizations AS o
WHERE t.organization_id = o.id AND {_TEAM_OF} = r.name""",
    ),
    Kind.KEY: Table(
        load=f"""SELECT 'Key', jsonb_build_object('id', k.public_id,
    'secret_sha256', encode(k.secret_sha256, 'hex'), 'team', {_TEAM_OF}, 'name', k.name,
    'not_before', k.not_before, 'expires_at', k.expires_at, 'revoked_at', k.revoked_at,
    'replaced_by', k.replaced_by, 'allowed_operations', k.allowed_operations,
    'allowed_sources', k.allowed_sources::text[], 'tags', k.tags, 'priority', k.priority,
    {_OWNER_FIELDS.format("k")}), k.file_set
FROM api_keys AS k
JOIN teams AS t ON t.id = k.team_id JOIN organizations AS o ON o.id = t.organization_id""",
        insert=f"""INSERT INTO api_keys (public_id, secret_sha256, team_id, name, not_before,
    expires_at, revoked_at, replaced_by, allowed_operations, allowed_sources, tags, priority,
    enabled, policy_name, allowed_models, limits, file_set)
SELECT r.id, decode(r.secret_sha256, 'hex'), t.id, r.name, r.not_before,
    r.expires_at, r.revoked_at, r.replaced_by, r.allowed_operations, r.allowed_sources::cidr[],
    r.tags, r.priority, r.enabled, r.policy, r.allowed_models, r.limits, $2
FROM {_KEY_ROWS} ORDER BY r.id""",
        # The first revocation stays, whatever was planned.
        update=f"""UPDATE api_keys AS k SET secret_sha256 = decode(r.secret_sha256, 'hex'),
    team_id = t.id, name = r.name, not_before = r.not_before, expires_at = r.expires_at,
    revoked_at = COALESCE(k.revoked_at, r.revoked_at), replaced_by = r.replaced_by,
    allowed_operations = r.allowed_operations, allowed_sources = r.allowed_sources::cidr[],
    tags = r.tags, priority = r.priority, {_SET_OWNER}
FROM {_KEY_ROWS} WHERE k.public_id = r.id""",
        delete="""DELETE FROM api_keys AS k
USING jsonb_to_recordset($1::jsonb) AS r(id text) WHERE k.public_id = r.id""",
    ),
    Kind.ALERT_ROUTE: Table(
        load="""SELECT 'AlertRoute', jsonb_build_object('name', a.name, 'enabled', a.enabled,
    'channel', a.channel, 'url', a.url, 'secret', a.secret, 'organization', o.name,
    'severity', a.severity, 'rules', a.rules, 'quiet_hours', a.quiet_hours, 'digest', a.digest,
    'time_zone', a.time_zone), a.file_set
FROM alert_routes AS a LEFT JOIN organizations AS o ON o.id = a.organization_id""",
        insert=f"""INSERT INTO alert_routes (name, enabled, channel, url, secret, organization_id,
    severity, rules, quiet_hours, digest, time_zone, file_set)
SELECT r.name, r.enabled, r.channel, r.url, r.secret, o.id, r.severity, r.rules, r.quiet_hours,
    r.digest, r.time_zone, $2
FROM {_ROUTE_ROWS} LEFT JOIN organizations AS o ON o.name = r.organization ORDER BY r.name""",
        update=f"""UPDATE alert_routes AS a SET enabled = r.enabled, channel = r.channel,
    url = r.url, secret = r.secret, organization_id = o.id, severity = r.severity,
    rules = r.rules, quiet_hours = r.quiet_hours, digest = r.digest, time_zone = r.time_zone,
    file_set = $2
FROM {_ROUTE_ROWS} LEFT JOIN organizations AS o ON o.name = r.organization
WHERE a.name = r.name""",
        delete="""DELETE FROM alert_routes AS a
USING jsonb_to_recordset($1::jsonb) AS r(name text) WHERE a.name = r.name""",
    ),
}  # fmt: skip

_ORDER: Final = ", ".join(f"'{kind.value}'" for kind in Kind)
LOAD: Final = f"""SELECT every.*, COALESCE(a.tokens, 0) AS tokens
FROM ({" UNION ALL ".join(TABLES[kind].load for kind in Kind)}) AS every
LEFT JOIN (
    SELECT concat_ws('/', o.name, t.name) AS name, count(*) AS tokens
    FROM admin_tokens AS a JOIN organizations AS o ON o.id = a.organization_id
    LEFT JOIN teams AS t ON t.id = a.team_id
    WHERE a.revoked_at IS NULL AND (a.expires_at IS NULL OR a.expires_at > now()) GROUP BY 1
) AS a ON kind IN ('Organization', 'Team') AND a.name = fields ->> 'name'
ORDER BY array_position(ARRAY[{_ORDER}], kind), fields ->> 'team', fields ->> 'name',
    fields ->> 'id', fields ->> 'model', fields ->> 'valid_from'"""
"""All objects, owners with the number of their API tokens: one statement is one moment."""
LOCK: Final = """
LOCK TABLE alert_routes, api_keys, teams, organizations, policies, prices
IN SHARE ROW EXCLUSIVE MODE
"""
"""Keeps other changes out; workers only read. In the order in which `egret orgs delete` goes."""
DEFER_SUCCESSORS: Final = "SET CONSTRAINTS api_keys_replaced_by_fkey DEFERRED"
