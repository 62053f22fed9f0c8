-- How often a signal has values of each order of size: enough to choose the range of a histogram.
-- Returns (bucket, pairs): null, 0, or sign x (1000 + 8 x log2), so a bucket is 9 % wide.
-- Takes value (an expression), relation, scope (a condition).
with measured as (
  select ({value})::double as v
  from {relation}
  where {scope}
)
select
  case
    when not isfinite(v) then null
    when v = 0 then 0
    when v > 0 then greatest(1, 1000 + floor(log2(v) * 8)::integer)
    when v < 0 then -greatest(1, 1000 + floor(log2(-v) * 8)::integer)
  end as bucket,
  count(*) as pairs
from measured
group by bucket
order by bucket
