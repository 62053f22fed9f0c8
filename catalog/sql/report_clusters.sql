-- Sizes of duplicate clusters: (kind, size, clusters, pairs).
-- A cluster is named after its smallest member, which is a pair: counting those counts clusters.
-- Takes duplicates (a table).
select
  kind,
  cluster_size as size,
  count(*) filter (pair_id = cluster_id) as clusters,
  count(*) as pairs
from {duplicates}
group by kind, cluster_size
order by kind, cluster_size
