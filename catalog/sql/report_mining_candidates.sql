-- Candidates of the measured queries by rank, bin of their score and reasons against them: all that is
-- drawn of ranks and scores comes out of these counts, whose number does not grow with the corpus.
-- Returns (rank from 1, bin from 0, filtered_by, candidates). Binds run, highest, low, step, bins.
with measured as (
  select scores, filtered_by
  from candidates
  where run = $run
    and md5_number_lower('report query ' || query_id) <= $highest::ubigint
), ranked as (
  select
    unnest(scores) as score,
    unnest(filtered_by) as filtered_by,
    generate_subscripts(scores, 1) as rank
  from measured
)
select
  rank,
  least(greatest(floor((score - $low) / $step), 0), $bins - 1)::integer as bin,
  filtered_by,
  count(*) as candidates
from ranked
where isfinite(score)
group by rank, bin, filtered_by
order by rank, bin, filtered_by
