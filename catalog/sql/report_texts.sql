-- The texts of some pairs, cut, and the values of the signals that the policy reads.
-- Returns (pair_id, source, query, passage, passage_chars, values…).
-- Takes pairs (a table), signals (fields), joins; binds ids, query_chars, passage_chars.
select
  pairs.pair_id,
  pairs.source,
  left(pairs.query, $query_chars) as query,
  left(pairs.positive, $passage_chars) as passage,
  length(pairs.positive) as passage_length{signals}
from {pairs} as pairs{joins}
where pairs.pair_id in (select unnest($ids::bigint[]))
order by pairs.pair_id
