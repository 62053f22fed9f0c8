-- The lowest positive score of the measured queries, by bin.
-- Returns (bin from 0, queries). Binds run, highest, low, step, bins.
select
  least(greatest(floor((positive_score - $low) / $step), 0), $bins - 1)::integer as bin,
  count(*) as queries
from candidates
where run = $run
  and md5_number_lower('report query ' || query_id) <= $highest::ubigint
  and isfinite(positive_score)
group by bin
order by bin
