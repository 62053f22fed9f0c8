-- Positives that the margins are measured from: of kept pairs only, as a bad pair has a low score.
-- Returns (query_id, passage_id), by both.
select distinct query_id, passage_id
from mine_kept
where query_id is not null
  and is_positive
order by query_id, passage_id
