"""A policy as a selection over a pack: which of its pairs another policy keeps."""

import numpy as np

from catalog.columns import available_columns
from catalog.lake import Catalog
from catalog.pack.contents import stream
from catalog.pack.layout import Ids
from catalog.pack.read import Pack
from catalog.policies import Policy
from catalog.verdicts import check_policy, masks_sql


def select_policy(pack: Pack, catalog: Catalog, policy: Policy, version: int | None = None) -> Ids:
    """Return the positions of the pack's pairs that a policy keeps, ascending.

    The policy sees the lake as it is now, or at ``version``: signals and scores that came after
    the pack count. Pairs that it keeps beyond the pack's are not there to be selected.
    """
    chosen = []
    with catalog.reader(version) as connection:
        columns = available_columns(connection)
        check_policy(connection, policy, columns)
        masks = masks_sql(policy, columns)
        sql = f"select pair_id from ({masks}) where is_pair and fails = 0"
        for batch in stream(connection, sql):
            positions = pack.positions(batch.column(0).to_numpy())
            chosen.append(positions[positions >= 0])
    return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, np.int64)
