-- The kept pairs of a snapshot.
-- Returns (pair_id, source, form, task, query, positive, negatives, label, url,
-- instruction), by pair_id.
select
  pair_id,
  source,
  form,
  task,
  query,
  positive,
  negatives,
  label,
  url,
  {instruction} as instruction
from curated c
where query is not null
order by pair_id
