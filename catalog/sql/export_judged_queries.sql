-- The queries that have a judgment.
-- Returns (query_id, text), by query_id.
select p.pair_id as query_id, p.query as text
from pairs p
semi join judged j on j.query_id = p.pair_id
order by p.pair_id
