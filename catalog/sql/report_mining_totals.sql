-- How much a mining run found. A query without a negative has candidates, but none of them is kept.
-- Returns (queries, candidates, kept, queries without a negative). Binds run.
with counted as (
  select
    len(filtered_by) as candidates,
    len(list_filter(filtered_by, reasons -> reasons = 0)) as kept
  from candidates
  where run = $run
)
select
  count(*) as queries,
  coalesce(sum(candidates), 0)::bigint as candidates,
  coalesce(sum(kept), 0)::bigint as kept,
  count(*) filter (kept = 0) as without_negative
from counted
