-- Candidates that no pair is known to answer with, by their score's share of the positive's score.
-- A share of a score that is not above zero says nothing: those queries are left out.
-- Returns (bin from 0, removed, candidates). Binds run, highest, known (reasons), step, bins.
with measured as (
  select scores, filtered_by, positive_score
  from candidates
  where run = $run
    and md5_number_lower('report query ' || query_id) <= $highest::ubigint
    and positive_score > 0
), ranked as (
  select
    unnest(scores) as score,
    unnest(filtered_by) as filtered_by,
    positive_score
  from measured
)
select
  least(greatest(floor(score / positive_score / $step), 0), $bins - 1)::integer as bin,
  filtered_by <> 0 as removed,
  count(*) as candidates
from ranked
where filtered_by & $known::utinyint = 0
  and isfinite(score)
group by bin, removed
order by bin, removed
