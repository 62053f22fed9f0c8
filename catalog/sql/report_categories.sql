-- The most frequent values of a signal that is no number, and the pairs that pass and fail with each.
-- Returns (label, passed, failed): null is not measured; the last row may be all other values.
-- Takes value, require (expressions), relation, scope; binds shown, other.
with judged as (
  select
    ({value})::varchar as word,
    coalesce(not ({require}
    ), false) as fails
  from {relation}
  where {scope}
), counted as (
  select
    word,
    count(*) filter (not fails) as passed,
    count(*) filter (fails) as failed
  from judged
  group by word
), ranked as (
  select
    *,
    word is not null and row_number() over (
      partition by word is null order by passed + failed desc, word
    ) > $shown as is_other
  from counted
)
select
  case when is_other then $other else word end as label,
  sum(ranked.passed)::bigint as passed,
  sum(ranked.failed)::bigint as failed
from ranked
group by is_other, case when is_other then $other else word end
order by is_other, sum(ranked.passed) + sum(ranked.failed) desc, label
