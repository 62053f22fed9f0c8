-- Queries whose candidate lists a training run has used up, and that were not mined again since.
-- Returns (query_id), ascending. Takes run (a training run's name).
select query_id
from train_events
where run = $run
  and reason in ('exhausted', 'refreshed')
group by query_id
having max(step) filter (reason = 'exhausted')
  >= coalesce(max(step) filter (reason = 'refreshed'), -1)
order by query_id
