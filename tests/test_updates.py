"""Updates: which texts a step encodes, and which passages each query is trained against."""

from collections.abc import Sequence

import numpy as np
import pytest

from catalog.pack import Pack
from mining.token_batches import TokenizedTexts
from tests.train_process import FILE, RETRIEVAL, Made, make, make_lists
from trainer.batches import Plan
from trainer.candidate_lists import Exclusions, Refreshed
from trainer.candidate_lists import Update as LakeUpdate
from trainer.model import EmbeddingModel
from trainer.negatives import DynamicNegatives
from trainer.settings import ContrastiveTask, TrainSettings
from trainer.updates import Update, UpdateMaker

LISTS = make_lists()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("updates"))


@pytest.fixture(scope="module")
def pack(made: Made) -> Pack:
    return made.pack()


@pytest.fixture(scope="module")
def model(made: Made) -> EmbeddingModel:
    return EmbeddingModel(made.settings().model, 1, "float32", 256)


class Maker(UpdateMaker):
    """Remembers the texts that it tokenized."""

    texts: list[str]


def maker_of(
    made: Made,
    pack: Pack,
    model: EmbeddingModel,
    process: int = 0,
    processes: int = 1,
    **more: object,
) -> Maker:
    settings: TrainSettings = made.settings(**more)

    def tokenize(texts: Sequence[str]) -> TokenizedTexts:
        maker.texts = list(texts)
        return model.tokenize(texts)

    negatives = DynamicNegatives(pack, settings.negatives, "a")
    plan = Plan(pack, settings.plan(), processes)
    prompts = {"query": "find: ", "passage": ""}
    maker = Maker(settings, pack, plan, tokenize, prompts, process, negatives)
    return maker


def read(maker: Maker, update: Update, task: str = "retrieval") -> list[tuple[str, str, list[str]]]:
    """Return query, positive and hard negatives of every row as texts."""
    rows, texts = update.tasks[task], maker.texts
    return [
        (texts[query], texts[positive], [texts[place] for place in own[~absent]])
        for query, positive, own, absent in zip(
            rows.queries, rows.positives, rows.negatives, rows.absent, strict=True
        )
    ]


def expected_negatives(number: int) -> tuple[list[str], list[str]]:
    """Return the mined and the given negatives that a query's three places are filled with."""
    mined = [passage for passage, *_ in LISTS.get(FILE + number, [])][10:13]
    names = {1: "the answer", 4: "only a candidate"}
    texts = [f"{names[passage // FILE]} {passage % FILE}" for passage in mined]
    return texts, [f"given {number} {k}" for k in range(number % 3)][: 3 - len(texts)]


def test_every_row_has_its_texts_and_its_hard_negatives(
    made: Made, pack: Pack, model: EmbeddingModel
) -> None:
    maker = maker_of(made, pack, model, retrieval=ContrastiveTask(batch=RETRIEVAL))
    update = maker.make(0)
    seen = set()
    for place, (query, positive, negatives) in enumerate(read(maker, update)):
        number = int(query.removeprefix("find: q"))
        mined, given = expected_negatives(number)
        assert positive == f"the answer {number}"
        assert negatives == mined + given
        assert update.tasks["retrieval"].is_mined[place].sum() == len(mined)
        assert update.tasks["retrieval"].absent[place].sum() == 3 - len(mined) - len(given)
        seen.add((len(mined), len(given)))
    assert seen >= {(3, 0), (0, 0), (0, 1), (0, 2)}  # mined, nothing, and given ones instead


def test_a_text_that_several_rows_share_is_encoded_once(
    made: Made, pack: Pack, model: EmbeddingModel
) -> None:
    maker = maker_of(made, pack, model, retrieval=ContrastiveTask(batch=RETRIEVAL))
    update = maker.make(0)
    rows = read(maker, update) + read(maker, update, "sts")
    asked = [t for query, positive, negatives in rows for t in (query, positive, *negatives)]
    assert sorted(maker.texts) == sorted(set(asked))
    assert len(update.texts) == len(set(asked)) < len(asked)
    alone = model.tokenize([maker.texts[5]])
    assert update.texts.take(np.array([5])).tokens.tolist() == alone.tokens.tolist()


def test_graded_pairs_carry_their_labels(made: Made, pack: Pack, model: EmbeddingModel) -> None:
    maker = maker_of(made, pack, model)
    update = maker.make(1)
    labels = update.tasks["sts"].labels
    assert labels is not None
    for (left, right, none), label in zip(read(maker, update, "sts"), labels, strict=True):
        number = int(left.removeprefix("find: left "))
        assert (right, none, label) == (f"right {number}", [], number % 4)


def test_absent_negatives_are_masked_by_what_is_known(
    made: Made, pack: Pack, model: EmbeddingModel
) -> None:
    maker = maker_of(made, pack, model, retrieval=ContrastiveTask(batch=RETRIEVAL))
    rows = maker.make(0).tasks["retrieval"]
    known = rows.known
    assert known is not None
    assert known.absent_NK is not None
    assert known.negatives_NKF is not None
    assert known.absent_NK.numpy().tolist() == rows.absent.tolist()
    assert (known.negatives_NKF.numpy()[rows.absent] == -1).all()
    assert (known.negatives_NKF.numpy()[~rows.absent][:, 0] >= 0).all()


def test_processes_cut_the_batch_that_one_would_have(
    made: Made, pack: Pack, model: EmbeddingModel
) -> None:
    whole = maker_of(made, pack, model, retrieval=ContrastiveTask(batch=7))
    expected = read(whole, whole.make(2))
    task = whole.settings.retrieval
    parts = [maker_of(made, pack, model, rank, 2, retrieval=task) for rank in (0, 1)]
    assert [row for part in parts for row in read(part, part.make(2))] == expected


def test_processes_that_share_queries_split_their_negatives(
    made: Made, pack: Pack, model: EmbeddingModel
) -> None:
    task = ContrastiveTask(batch=7, columns="shared_query")
    whole = maker_of(made, pack, model, retrieval=task)
    expected = read(whole, whole.make(2))
    parts = [maker_of(made, pack, model, rank, 2, retrieval=task) for rank in (0, 1)]
    read_parts = [read(part, part.make(2)) for part in parts]
    for one, two, both in zip(*read_parts, expected, strict=True):
        assert one[:2] == two[:2] == both[:2]
        assert sorted(one[2] + two[2]) == sorted(both[2])
        assert abs(len(one[2]) - len(two[2])) <= 1


def test_rows_that_a_live_policy_dropped_are_left_out(
    made: Made, pack: Pack, model: EmbeddingModel
) -> None:
    maker = maker_of(made, pack, model)
    before = maker.make(0).tasks["retrieval"].positions
    gone, passage = before[:2], pack.rows("passage", [4 * FILE + 20])
    assert maker.negatives is not None
    nothing = Refreshed.empty()
    dropped = Exclusions(2, np.sort(gone).astype(np.int64), passage.astype(np.uint32))
    maker.negatives.lists.apply(LakeUpdate(5, nothing, dropped))
    update = maker.make(0)
    assert update.tasks["retrieval"].positions.tolist() == before[2:].tolist()
    assert len(update.tasks["sts"].positions) == 4
    texts = pack.texts("passage", passage.astype(np.int64))
    wide = maker_of(made, pack, model, retrieval=ContrastiveTask(batch=RETRIEVAL))
    assert texts[0] in wide_texts(wide)
    wide.negatives.lists.apply(LakeUpdate(5, nothing, dropped))
    assert texts[0] not in wide_texts(wide)


def wide_texts(maker: Maker) -> list[str]:
    maker.make(0)
    return maker.texts


def test_a_batch_whose_rows_are_all_dropped_has_no_texts(
    made: Made, pack: Pack, model: EmbeddingModel
) -> None:
    maker = maker_of(made, pack, model, sts=None)
    assert maker.negatives is not None
    everything = np.arange(RETRIEVAL, dtype=np.int64)
    dropped = Exclusions(2, everything, np.empty(0, np.uint32))
    maker.negatives.lists.apply(LakeUpdate(5, Refreshed.empty(), dropped))
    update = maker.make(0)
    assert len(update.texts) == len(update.tasks["retrieval"].positions) == 0
    assert update.tasks["retrieval"].negatives.shape == (0, 3)


def test_without_hard_negatives_there_are_none(
    made: Made, pack: Pack, model: EmbeddingModel
) -> None:
    task = ContrastiveTask(batch=6, hard_negatives=False)
    maker = maker_of(made, pack, model, retrieval=task)
    assert all(not negatives for *_, negatives in read(maker, maker.make(0)))


def test_without_a_mining_run_given_negatives_are_used(made: Made, model: EmbeddingModel) -> None:
    pack = made.pack(candidates_run=None)
    settings = made.settings(retrieval=ContrastiveTask(batch=RETRIEVAL))
    maker = maker_of(made, made.pack(), model)
    maker.pack, maker.negatives, maker.settings = pack, None, settings
    maker.plan = Plan(pack, settings.plan())
    rows = maker.make(0).tasks["retrieval"]
    queries = pack.texts("query", pack.pairs().query[rows.positions])
    numbers = [int(text.removeprefix("q")) for text in queries]
    assert (~rows.absent).sum(axis=1).tolist() == [number % 3 for number in numbers]
    assert not rows.is_mined.any()


def test_an_update_does_not_depend_on_what_was_made_before(
    made: Made, pack: Pack, model: EmbeddingModel
) -> None:
    one, other = (maker_of(made, pack, model) for _ in range(2))
    for step in (0, 5, 3):
        one.make(step)
    left, right = one.make(2), other.make(2)
    assert left.texts.tokens.tolist() == right.texts.tokens.tolist()
    for name in ("retrieval", "sts"):
        for column, value in vars(left.tasks[name]).items():
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(value, getattr(right.tasks[name], column))
