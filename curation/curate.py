"""Curation as a whole: measure what is missing, find duplicates, commit the policy."""

from dataclasses import dataclass

from catalog.columns import available_columns
from catalog.executors import ExecutorSettings, ProgressCallback
from catalog.lake import Catalog
from catalog.policy_commit import commit_policy
from catalog.verdicts import check_policy
from curation.deduplicate import deduplicate
from curation.duplicates import DuplicateSettings
from curation.measure import STAGE, MeasureSettings, measure, pending_pairs
from curation.recipes import Recipe
from curation.signals import SignalSettings, registered


@dataclass(frozen=True)
class Curated:
    """What a run of ``curate`` did; all zero where there was nothing to do."""

    measured_pairs: int
    policy_version: int


def curate(
    catalog: Catalog,
    recipe: Recipe,
    executor: ExecutorSettings | None = None,
    progress: ProgressCallback | None = None,
) -> Curated:
    """Bring signals, duplicates and policy of the whole catalog up to a recipe.

    Run again after a kill or with new files: only what is missing is done. Every setting is checked
    before any work.
    """
    duplicates = DuplicateSettings(**recipe.duplicates)
    measuring = MeasureSettings(
        SignalSettings(**recipe.signals), duplicates.minhash, duplicates.text
    )
    _check_signals(catalog, recipe, measuring.signals)
    measured = measure(catalog, measuring, executor, progress, recipe.name)
    deduplicate(catalog, duplicates, executor, progress, recipe.name)
    version = commit_policy(catalog, recipe.policy)
    return Curated(measured.pairs, version)


def pending(catalog: Catalog, recipe: Recipe) -> dict[str, int]:
    """Count what is still to be done, by the stage that progress will name."""
    duplicates = DuplicateSettings(**recipe.duplicates)
    measuring = MeasureSettings(
        SignalSettings(**recipe.signals), duplicates.minhash, duplicates.text
    )
    return {STAGE: pending_pairs(catalog, measuring)}


def _check_signals(catalog: Catalog, recipe: Recipe, settings: SignalSettings) -> None:
    """Refuse a policy that names an unknown signal before hours of measuring, not after."""
    with catalog.reader() as connection:
        columns = available_columns(connection)
        columns.promise({name: signal.type for name, signal in registered(settings).items()})
        check_policy(connection, recipe.policy, columns)
