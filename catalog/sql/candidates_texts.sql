-- The texts that some ids name, as queries and as passages.
-- Returns (pair_id, query, positive), by pair_id. Binds ids.
select pair_id, query, positive
from pairs
where pair_id in (select unnest($ids::bigint[]))
order by pair_id
