-- Passages that are known to answer a query: of any pair of the lake, kept or not. A label of 0 says
-- that a person judged the pair irrelevant: such a passage is a negative to look for, not to avoid.
-- Returns (query_id, passage_id), by both.
select distinct t.query_id, t.passage_id
from text_ids t
join pairs p using (pair_id)
semi join mine_queries q on q.query_id = t.query_id
where coalesce(p.label, 1) > 0
order by t.query_id, t.passage_id
