"""Stored policies: every version that was ever committed."""

import json

from catalog import duck
from catalog.errors import PolicyError
from catalog.expressions import unknown_name
from catalog.policies import Policy


def load_policy(connection: duck.Connection, name: str, version: int | None = None) -> Policy:
    """Read a stored policy, its newest version unless told."""
    found = latest_policy(connection, name, version)
    if found is None:
        known = {f"{n}" for (n,) in connection.execute("select policy from policies").fetchall()}
        wanted = name if version is None else f"{name} version {version}"
        raise PolicyError(unknown_name("policy", wanted, known))
    return found[0]


def active_policy(connection: duck.Connection) -> tuple[Policy, int] | None:
    """Return the policy that was committed last, and its version."""
    row = connection.execute(
        "select document, version from policies order by created_at desc, policy limit 1"
    ).fetchone()
    return (Policy.from_document(json.loads(row[0])), int(row[1])) if row else None


def latest_policy(
    connection: duck.Connection, name: str, version: int | None = None
) -> tuple[Policy, int] | None:
    """Return a stored policy and its version, the newest unless told."""
    row = connection.execute(
        "select document, version from policies "
        "where policy = ? and version = coalesce(?, version) "
        "order by version desc, created_at desc limit 1",
        [name, version],
    ).fetchone()
    return (Policy.from_document(json.loads(row[0])), int(row[1])) if row else None
