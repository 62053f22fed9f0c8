-- Pairs in each bin of a signal, apart for those that pass a condition and those that fail it.
-- Returns (bin, failed, pairs): bin is null (not measured), -1 (below), 0 to bins - 1, bins (above).
-- Takes value, require (expressions), relation, scope; binds low, step, top, bins, is_log.
with measured as (
  select
    ({value})::double as v,
    coalesce(not ({require}
    ), false) as failed
  from {relation}
  where {scope}
)
select
  case
    when v is null or not isfinite(v) then null
    when v = $top then $bins - 1
    when not $is_log then least(greatest(floor((v - $low) / $step), -1), $bins)
    when v <= 0 then -1
    else least(greatest(floor((ln(v) - $low) / $step), -1), $bins)
  end::integer as bin,
  failed,
  count(*) as pairs
from measured
group by bin, failed
order by bin, failed
