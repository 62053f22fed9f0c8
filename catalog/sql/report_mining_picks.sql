-- The queries to show: those of the smallest hash, so always the same ones.
-- Returns (query_id). Binds run, highest (a hash below which some dozens are expected), shown.
select query_id
from candidates
where run = $run
  and md5_number_lower('report query ' || query_id) <= $highest::ubigint
order by md5_number_lower('report query ' || query_id), query_id
limit $shown
