"""Committing a policy: stored, checked, and shown by the lake's views from then on."""

from catalog import duck
from catalog.columns import available_columns
from catalog.lake import Catalog
from catalog.policies import Policy
from catalog.policy_store import active_policy, latest_policy
from catalog.records import now, to_json
from catalog.verdicts import check_policy
from catalog.views import refresh_views


def commit_policy(catalog: Catalog, policy: Policy) -> int:
    """Store a policy, make it the one that the views show, and return its version.

    The same content is not stored twice in a row.
    """

    def change(connection: duck.Connection) -> int:
        check_policy(connection, policy, available_columns(connection))
        latest = latest_policy(connection, policy.name)
        active = active_policy(connection)
        if latest is not None and latest[0].digest == policy.digest and active == latest:
            return latest[1]
        version = latest[1] + 1 if latest else 1
        connection.execute(
            "insert into policies values (?, ?, ?, ?, ?)",
            [policy.name, version, to_json(policy.to_document()), policy.digest, now()],
        )
        refresh_views(connection)
        return version

    return catalog.transact(change)
