-- The kept pairs of a snapshot.
-- Returns (pair_id, source, form, task, query, positive, negatives, label, url), by pair_id.
select
  pair_id,
  source,
  form,
  task,
  query,
  positive,
  negatives,
  label,
  url
from curated
where query is not null
order by pair_id
