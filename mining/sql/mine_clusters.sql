-- Passages in near-duplicate clusters, kept or not.
-- Returns (passage_id, cluster_id), by passage_id.
select text_id as passage_id, min(cluster_id) as cluster_id
from duplicates
where kind = 'near'
group by text_id
order by text_id
