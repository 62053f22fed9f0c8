-- The queries that the report measures, and between which values their scores lie.
-- Returns (queries, low, high); low and high are null where nothing has a score.
-- Binds run, highest (a query is measured where its hash is not above).
with measured as (
  select
    list_filter(scores, score -> isfinite(score)) as scores,
    positive_score
  from candidates
  where run = $run
    and md5_number_lower('report query ' || query_id) <= $highest::ubigint
)
select
  count(*) as queries,
  least(min(list_min(scores)), min(positive_score)) as low,
  greatest(max(list_max(scores)), max(positive_score)) as high
from measured
