-- What a mining run found for some queries.
-- Returns (query_id, positive_score, passage_ids, scores, filtered_by), by query_id.
-- Binds run, query_ids.
select
  query_id,
  positive_score,
  passage_ids,
  scores,
  filtered_by
from candidates
where run = $run
  and query_id in (select unnest($query_ids::bigint[]))
order by query_id
