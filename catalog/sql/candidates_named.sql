-- The query that a pair asks, by the id that all pairs with the same text share.
-- Returns (query_id): no row for a passage without a query. Takes a pair_id.
select query_id
from text_ids
where pair_id = ?
  and query_id is not null
