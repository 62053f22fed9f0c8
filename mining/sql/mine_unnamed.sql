-- How many kept rows have no text ids yet: they came after the last curation.
-- Returns (rows). Takes tasks (a list of names).
select count(*) as rows
from verdicts v
join pairs p using (pair_id)
anti join text_ids t using (pair_id)
where v.kept
  and list_contains($tasks, p.task)
