-- Returns the rows of duplicates for pairs whose text is in a cluster of similar texts.
-- Takes $text ('passage' or 'pair'), $template_min_size, and the relations
-- every_text_id (text_ids, the new ones included), exact_duplicates (the rows of exact.sql) and
-- near_clusters (pair_id, cluster_id, matched_id, jaccard, cluster_size of the texts).
with compared as (
  select
    t.pair_id,
    case when $text = 'passage' then t.passage_id else coalesce(e.cluster_id, t.pair_id) end as text_id
  from every_text_id t
  left join exact_duplicates e on $text = 'pair' and e.pair_id = t.pair_id
)
select
  t.pair_id,
  'near' as kind,
  c.cluster_id,
  t.text_id,
  c.matched_id,
  c.jaccard,
  c.cluster_size,
  c.cluster_size >= $template_min_size as template,
  t.text_id = c.cluster_id as survivor
from compared t
join near_clusters c on t.text_id = c.pair_id
order by t.pair_id
