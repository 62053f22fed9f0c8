-- Positives that the margins are measured from: of kept pairs only, as a bad pair has a low score.
-- Returns (query_id, passage_id) of the queries that are mined, by both.
select distinct k.query_id, k.passage_id
from mine_kept k
semi join mine_queries q on q.query_id = k.query_id
where k.is_positive
order by k.query_id, k.passage_id
