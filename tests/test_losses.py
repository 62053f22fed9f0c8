"""Each loss against its formula in a slow loop, and what must not change it."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from trainer import contrastive
from trainer.balance import balance_losses, cbb_loss, gradient_scale
from trainer.contrastive import Contrast, info_nce
from trainer.cosent import cosent_loss
from trainer.cosines import score_lists, score_pairs
from trainer.distillation import distillation_loss
from trainer.false_negatives import UNKNOWN, Known
from trainer.listwise import listwise_loss, pointwise_loss
from trainer.matryoshka import Widths, matryoshka
from trainer.temperature import Temperature


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def batch(rows: int = 5, negatives: int = 2, width: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    return draw(rows, width), draw(rows, width, seed=1), draw(rows, negatives, width, seed=2)


def cosine(left: Tensor, right: Tensor) -> Tensor:
    return left @ right / (left.norm() * right.norm())


def info_nce_in_a_loop(
    queries: Tensor,
    positives: Tensor,
    negatives: Tensor,
    temperature: float,
    *,
    excluded: set[tuple[int, str]] = frozenset(),  # type: ignore[assignment]
    in_batch: bool = True,
    hardness: float = 0.0,
    focus: float = 0.0,
) -> Tensor:
    """``excluded`` names columns as (query, "p3") or (query, "n3.1")."""
    total = torch.zeros((), dtype=queries.dtype)
    rows, num_negatives = negatives.shape[:2]
    for i in range(rows):
        own = torch.exp(cosine(queries[i], positives[i]) / temperature)
        below = own
        for j in range(rows):
            if j != i and in_batch and (i, f"p{j}") not in excluded:
                below = below + torch.exp(cosine(queries[i], positives[j]) / temperature)
            for k in range(num_negatives):
                if (j == i or in_batch) and (i, f"n{j}.{k}") not in excluded:
                    score = cosine(queries[i], negatives[j, k])
                    weight = torch.exp(hardness * score.detach())
                    below = below + weight * torch.exp(score / temperature)
        share = own / below
        total = total - (1 - share) ** focus * torch.log(share)
    return total / rows


def cosent_in_a_loop(cosines: Tensor, labels: Tensor, temperature: float) -> Tensor:
    total = torch.ones((), dtype=cosines.dtype)
    for i in range(len(cosines)):
        for j in range(len(cosines)):
            if labels[i] > labels[j]:
                total = total + torch.exp((cosines[j] - cosines[i]) / temperature)
    return torch.log(total)


def assert_close(left: Tensor, right: Tensor, rtol: float = 1e-9, atol: float = 1e-12) -> None:
    np.testing.assert_allclose(left.detach().numpy(), right.detach().numpy(), rtol=rtol, atol=atol)


def assert_same(left: Tensor, right: Tensor, inputs: list[Tensor]) -> None:
    """Check losses and gradients."""
    assert_close(left, right)
    for one, other in zip(
        torch.autograd.grad(left, inputs), torch.autograd.grad(right, inputs), strict=True
    ):
        assert_close(one, other)


# InfoNCE


@pytest.mark.parametrize("in_batch", [True, False])
def test_info_nce_is_its_formula(in_batch: bool) -> None:
    sides = batch()
    loss = info_nce(*sides, Contrast(in_batch=in_batch), temperature=0.05)
    assert_same(loss, info_nce_in_a_loop(*sides, 0.05, in_batch=in_batch), list(sides))


def test_info_nce_of_written_out_numbers() -> None:
    queries = torch.eye(2, dtype=torch.float64)
    loss = info_nce(queries, queries, None, Contrast(), temperature=0.5)
    # Each query: cosine 1 with its positive, 0 with the other: -log(e^2 / (e^2 + e^0)).
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-2)), rel=1e-12)


def test_info_nce_without_negatives_is_cross_entropy() -> None:
    queries, positives, _ = batch()
    scores = torch.nn.functional.normalize(queries) @ torch.nn.functional.normalize(positives).T
    expected = torch.nn.functional.cross_entropy(scores / 0.1, torch.arange(5))
    loss = info_nce(queries, positives, None, Contrast(), temperature=0.1)
    assert_same(loss, expected, [queries, positives])


def test_a_query_alone_with_its_own_positive_has_no_loss() -> None:
    queries, positives, _ = batch(rows=1)
    loss = info_nce(queries, positives, None, Contrast(in_batch=False), temperature=0.05)
    assert loss.item() == 0.0
    assert torch.autograd.grad(loss, queries)[0].abs().max() < 1e-12


def test_the_order_of_rows_does_not_matter_to_info_nce() -> None:
    queries, positives, negatives = batch()
    order = torch.tensor([3, 0, 4, 1, 2])
    one = info_nce(queries, positives, negatives, Contrast(), temperature=0.05)
    other = info_nce(
        queries[order], positives[order], negatives[order], Contrast(), temperature=0.05
    )
    assert_same(one, other, [queries, positives, negatives])


def test_the_length_of_embeddings_does_not_matter_to_info_nce() -> None:
    queries, positives, negatives = batch()
    one = info_nce(queries, positives, negatives, Contrast(), temperature=0.05)
    other = info_nce(3 * queries, 0.5 * positives, 7 * negatives, Contrast(), temperature=0.05)
    assert_close(one, other)


def test_bfloat16_embeddings_give_a_float32_loss() -> None:
    queries, positives, negatives = (each.detach().bfloat16() for each in batch())
    loss = info_nce(queries, positives, negatives, Contrast(), temperature=0.05)
    exact = info_nce(
        queries.double(), positives.double(), negatives.double(), Contrast(), temperature=0.05
    )
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize("in_batch", [True, False])
def test_autocast_does_not_round_scores(in_batch: bool) -> None:
    sides = [each.float() for each in batch()]
    exact = info_nce(*sides, Contrast(in_batch=in_batch), temperature=0.02)
    lists = score_lists(*sides)
    with torch.autocast("cpu", torch.bfloat16):
        loss = info_nce(*sides, Contrast(in_batch=in_batch), temperature=0.02)
        assert torch.equal(score_lists(*sides), lists)
    assert torch.equal(loss, exact)


@pytest.mark.parametrize(("hardness", "focus"), [(5.0, 0.0), (0.0, 2.0), (3.0, 0.5)])
def test_hard_negatives_and_hard_queries_can_weigh_more(hardness: float, focus: float) -> None:
    sides = batch()
    loss = info_nce(*sides, Contrast(hardness=hardness, focus=focus), temperature=0.2)
    expected = info_nce_in_a_loop(*sides, 0.2, hardness=hardness, focus=focus)
    assert_same(loss, expected, list(sides))


def test_a_solved_query_has_a_finite_gradient_under_any_focus() -> None:
    queries = torch.eye(2, 4, dtype=torch.float64).requires_grad_()
    loss = info_nce(queries, queries.detach(), None, Contrast(focus=0.5), temperature=0.001)
    assert loss.item() == 0.0
    assert torch.autograd.grad(loss, queries)[0].isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"negatives": "global"}, "take one of local, gathered, shared_query"),
        ({"negatives": "gathered", "in_batch": False}, "set negatives to local"),
        ({"margin": -0.1}, "none may be below 0"),
    ],
)
def test_a_contrast_that_cannot_be_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Contrast(**arguments)


def test_shapes_and_temperatures_that_do_not_fit_are_refused() -> None:
    queries, positives, negatives = batch()
    with pytest.raises(ValueError, match="one row for each query"):
        info_nce(queries, positives[:3], negatives, Contrast(), temperature=0.05)
    with pytest.raises(ValueError, match="rows x negatives x width"):
        info_nce(queries, positives, negatives[:, 0], Contrast(), temperature=0.05)
    with pytest.raises(ValueError, match="a number above 0"):
        info_nce(queries, positives, negatives, Contrast(), temperature=0.0)


# False negatives


def known(**changes: Tensor) -> Known:
    """Return five queries and passages, two negatives each, that all differ."""
    facts = {
        "queries_N": torch.arange(5),
        "positives_NF": torch.arange(10).view(5, 2),
        "negatives_NKF": torch.arange(100, 120).view(5, 2, 2),
    }
    return Known(**{**facts, **changes})


def changed(values: Tensor, place: tuple[int, ...], value: int) -> Tensor:
    values = values.clone()
    values[place] = value
    return values


def masked_loss_is(facts: Known, excluded: set[tuple[int, str]], in_batch: bool = True) -> bool:
    sides = batch()
    loss = info_nce(*sides, Contrast(in_batch=in_batch), temperature=0.05, known=facts)
    expected = info_nce_in_a_loop(*sides, 0.05, excluded=excluded, in_batch=in_batch)
    assert_same(loss, expected, list(sides))
    return True


def test_texts_that_all_differ_are_all_negatives() -> None:
    assert masked_loss_is(known(), set())


def test_a_passage_of_the_same_identity_in_any_kind_is_no_negative() -> None:
    of_0 = known().positives_NF
    same_passage = known(positives_NF=changed(of_0, (3, 0), int(of_0[0, 0])))
    assert masked_loss_is(same_passage, {(0, "p3"), (3, "p0")})
    same_cluster = known(positives_NF=changed(of_0, (3, 1), int(of_0[0, 1])))
    assert masked_loss_is(same_cluster, {(0, "p3"), (3, "p0")})


def test_a_negative_that_is_some_querys_positive_is_excluded_for_that_query_only() -> None:
    facts = known()
    negatives = changed(facts.negatives_NKF, (4, 1, 0), int(facts.positives_NF[2, 0]))
    assert masked_loss_is(known(negatives_NKF=negatives), {(2, "n4.1")})


def test_kinds_of_identity_are_not_compared_with_each_other() -> None:
    facts = known()
    crossed = changed(facts.positives_NF, (3, 1), int(facts.positives_NF[0, 0]))
    assert masked_loss_is(known(positives_NF=crossed), set())


def test_positives_of_the_same_query_are_not_each_others_negatives() -> None:
    facts = known(queries_N=torch.tensor([0, 1, 0, 3, 4]))
    assert masked_loss_is(facts, {(0, "p2"), (2, "p0")})


def test_unknown_identities_equal_nothing() -> None:
    facts = known(
        queries_N=torch.full((5,), UNKNOWN),
        positives_NF=torch.full((5, 2), UNKNOWN),
        negatives_NKF=torch.full((5, 2, 2), UNKNOWN),
    )
    assert masked_loss_is(facts, set())


@pytest.mark.parametrize("in_batch", [True, False])
def test_an_absent_negative_is_nobodys_negative(in_batch: bool) -> None:
    absent = torch.zeros(5, 2, dtype=torch.bool)
    absent[1, 1] = absent[2] = True
    gone = {(i, name) for i in range(5) for name in ("n1.1", "n2.0", "n2.1")}
    assert masked_loss_is(known(absent_NK=absent), gone, in_batch)


def test_an_own_negative_that_the_teacher_prefers_is_excluded_for_its_query() -> None:
    scores = torch.tensor([[0.1, 0.2], [0.9, 0.3], [0.5, float("nan")], [0.0, 0.0], [0.6, 0.4]])
    facts = known(teacher_positives_N=torch.full((5,), 0.5), teacher_negatives_NK=scores)
    assert masked_loss_is(facts, {(1, "n1.0"), (4, "n4.0")})
    assert masked_loss_is(facts, {(1, "n1.0"), (4, "n4.0")}, in_batch=False)


def test_a_teacher_does_not_bring_back_what_is_excluded_by_identity() -> None:
    negatives = changed(known().negatives_NKF, (2, 0, 0), int(known().positives_NF[2, 0]))
    facts = known(
        negatives_NKF=negatives,
        teacher_positives_N=torch.full((5,), 0.5),
        teacher_negatives_NK=torch.zeros(5, 2),
    )
    assert masked_loss_is(facts, {(2, "n2.0")})


def test_columns_above_the_positive_by_the_margin_are_excluded() -> None:
    sides = batch()
    queries, positives, negatives = sides
    excluded = set()
    for i in range(5):
        limit = cosine(queries[i], positives[i]) + 0.1
        for j in range(5):
            if cosine(queries[i], positives[j]) > limit:
                excluded.add((i, f"p{j}"))
            for k in range(2):
                if cosine(queries[i], negatives[j, k]) > limit:
                    excluded.add((i, f"n{j}.{k}"))
    assert 10 < len(excluded) < 60  # the case has both kinds of columns
    loss = info_nce(*sides, Contrast(margin=0.1), temperature=0.05)
    assert_same(loss, info_nce_in_a_loop(*sides, 0.05, excluded=excluded), list(sides))


def test_the_own_positive_is_never_excluded() -> None:
    sides = batch()
    facts = known(queries_N=torch.zeros(5, dtype=torch.int64))
    alone = known(
        queries_N=torch.zeros(5, dtype=torch.int64),
        absent_NK=torch.ones(5, 2, dtype=torch.bool),
    )
    everything = info_nce(*sides, Contrast(margin=0.0), temperature=0.05, known=facts)
    assert everything.isfinite()
    loss = info_nce(*sides, Contrast(margin=0.0), temperature=0.05, known=alone)
    assert loss.item() == 0.0
    assert all(each.isfinite().all() for each in torch.autograd.grad(loss, sides))


# Temperature


def test_a_learned_temperature_gets_the_gradient_of_its_formula() -> None:
    sides = batch()
    temperature = Temperature(0.05).double()
    loss = info_nce(*sides, Contrast(), temperature=temperature())
    loss.backward()
    step = 1e-6
    with torch.no_grad():
        values = [
            info_nce(*sides, Contrast(), temperature=math.exp(math.log(0.05) + each))
            for each in (step, -step)
        ]
    slope = (values[0] - values[1]) / (2 * step)
    assert_close(temperature.logarithm.grad, slope, rtol=1e-5, atol=0)


def test_a_temperature_stays_within_bounds_and_can_come_back() -> None:
    temperature = Temperature(0.01, lowest=0.01, highest=0.5)
    (outward,) = torch.autograd.grad(temperature(), temperature.logarithm)
    (inward,) = torch.autograd.grad(-temperature(), temperature.logarithm)
    assert outward == 0
    assert inward.item() == pytest.approx(-0.01)
    with torch.no_grad():
        temperature.logarithm -= 3
    assert temperature().item() == pytest.approx(0.01)
    with pytest.raises(ValueError, match="0 < lowest <= start <= highest"):
        Temperature(0.001)


# CoSENT


@pytest.mark.parametrize("levels", [1, 2, 3, 1000])
def test_cosent_is_its_double_loop(levels: int) -> None:
    cosines = draw(40, seed=levels)
    labels = torch.randint(levels, (40,), generator=torch.Generator().manual_seed(levels)).double()
    expected = cosent_in_a_loop(cosines, labels, 0.5)
    if levels == 1:
        expected = expected + 0 * cosines.sum()  # the loop has no pair and so no gradient
    assert_same(cosent_loss(cosines, labels, temperature=0.5), expected, [cosines])


def test_cosent_of_written_out_numbers() -> None:
    loss = cosent_loss(torch.tensor([0.2, 0.8, 0.5]), torch.tensor([1.0, 0.0, 0.0]), temperature=1)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(0.6) + math.exp(0.3)), rel=1e-6)


def test_equal_labels_have_no_cosent_loss_and_no_gradient() -> None:
    cosines = draw(4)
    loss = cosent_loss(cosines, torch.ones(4))
    assert loss.item() == 0.0
    assert (torch.autograd.grad(loss, cosines)[0] == 0).all()
    assert cosent_loss(torch.zeros(0), torch.zeros(0)).item() == 0.0


def test_cosent_stays_finite_where_exp_would_overflow() -> None:
    cosines = torch.tensor([-1.0, 1.0, 1.0, -1.0], requires_grad=True)
    loss = cosent_loss(cosines, torch.tensor([3.0, 1.0, 2.0, 0.0]), temperature=0.001)
    assert loss.item() == pytest.approx(2000 + math.log(2), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, cosines)
    expected = torch.tensor([-1000.0, 500.0, 500.0, 0.0])
    assert_close(gradient, expected, rtol=1e-4, atol=0)  # 2000 in float32


def test_only_differences_of_cosines_and_the_order_of_labels_matter_to_cosent() -> None:
    cosines, labels = draw(20), torch.arange(20) % 4
    loss = cosent_loss(cosines, labels)
    assert_close(loss, cosent_loss(cosines + 3, labels))
    assert_close(loss, cosent_loss(cosines, labels**2 - 50))
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    assert_same(loss, cosent_loss(cosines[order], labels[order]), [cosines])


def test_cosent_needs_a_label_for_each_cosine() -> None:
    with pytest.raises(ValueError, match="one cosine and one label per pair"):
        cosent_loss(torch.zeros(3), torch.zeros(2))


# Balance of tasks


def test_cbb_on_one_process_is_the_weighted_sum() -> None:
    loss = cbb_loss(
        torch.tensor(2.0), torch.tensor(3.0),
        retrieval_processes=1, sts_processes=1, all_processes=1,
    )  # fmt: skip
    assert loss.item() == pytest.approx(2 + 0.8 * 3)


def test_a_task_of_few_processes_is_scaled_up_by_the_others() -> None:
    assert gradient_scale(3, 1) == 3
    assert gradient_scale(6, 4) == 1.5
    for wrong in (0, 4):
        with pytest.raises(ValueError, match="at least one and at most all"):
            gradient_scale(3, wrong)


def test_a_process_without_a_task_is_refused() -> None:
    with pytest.raises(ValueError, match="this process has no task"):
        balance_losses([], 2)


# Matryoshka


def test_matryoshka_is_the_weighted_sum_of_truncated_unit_vectors() -> None:
    sides = batch()
    contrast = Contrast(widths=Widths((2, 3, 6), (0.5, 1.0, 2.0)))
    expected = sum(
        weight * info_nce_in_a_loop(*(side[..., :dim] for side in sides), 0.05)
        for dim, weight in ((2, 0.5), (3, 1.0), (6, 2.0))
    )
    assert_same(info_nce(*sides, contrast, temperature=0.05), expected, list(sides))


def test_matryoshka_takes_any_loss_of_any_embeddings() -> None:
    left, right, labels = draw(6, 4), draw(6, 4, seed=1), torch.arange(6)

    def loss(left: Tensor, right: Tensor) -> Tensor:
        return cosent_loss(score_pairs(left, right), labels)

    expected = loss(left[:, :2], right[:, :2]) + loss(left, right)
    assert_same(matryoshka(loss, [left, right], Widths.equal([2, 4])), expected, [left, right])


@pytest.mark.parametrize("dims", [(), (0, 2), (4, 2), (2, 2)])
def test_matryoshka_dims_are_positive_and_ascending(dims: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="positive numbers in ascending order"):
        Widths.equal(dims)


def test_matryoshka_refuses_too_many_weights_and_too_wide_dims() -> None:
    with pytest.raises(ValueError, match="one weight for each"):
        Widths((2, 4), (1.0,))
    with pytest.raises(ValueError, match=r"dim 8 is wider than the embeddings \(6\)"):
        info_nce(*batch(), Contrast(widths=Widths.equal([2, 8])), temperature=0.05)


# Distillation and rerankers


def test_distillation_is_the_divergence_from_the_teacher() -> None:
    scores, teacher = draw(3, 4), draw(3, 4, seed=1).detach()
    expected = torch.zeros((), dtype=torch.float64)
    for i in range(3):
        wanted = torch.exp(teacher[i] / 2) / torch.exp(teacher[i] / 2).sum()
        given = torch.exp(scores[i] / 0.3) / torch.exp(scores[i] / 0.3).sum()
        expected = expected + (wanted * torch.log(wanted / given)).sum() / 3
    loss = distillation_loss(scores, teacher, temperature=0.3, teacher_temperature=2.0)
    assert_same(loss, expected, [scores])


def test_a_model_that_agrees_with_its_teacher_has_nothing_to_learn() -> None:
    teacher = draw(3, 4).detach()
    scores = (teacher + 5).requires_grad_()  # a softmax does not see a shift
    loss = distillation_loss(scores, teacher, temperature=1.0)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert torch.autograd.grad(loss, scores)[0].abs().max() < 1e-12


def test_a_passage_that_is_not_there_takes_no_part_in_distillation() -> None:
    scores, teacher = draw(1, 4), draw(1, 4, seed=1).detach()
    shorter = distillation_loss(scores[:, :3], teacher[:, :3], temperature=0.3)
    teacher = torch.cat([teacher[:, :3], torch.full((1, 1), -torch.inf)], dim=1)
    assert_same(distillation_loss(scores, teacher, temperature=0.3), shorter, [scores])
    with pytest.raises(ValueError, match="one teacher score per passage"):
        distillation_loss(scores, teacher[:, :2], temperature=0.3)


def test_lists_of_scores_are_cosines_with_the_positive_first() -> None:
    queries, positives, negatives = batch()
    scores = score_lists(queries, positives, negatives)
    assert scores.shape == (5, 3)
    assert scores[3, 0].item() == pytest.approx(cosine(queries[3], positives[3]).item())
    assert scores[3, 2].item() == pytest.approx(cosine(queries[3], negatives[3, 1]).item())


def test_listwise_and_pointwise_losses_are_their_formulas() -> None:
    logits = draw(3, 4)
    listwise = sum(-torch.log(torch.exp(row[0]) / torch.exp(row).sum()) for row in logits) / 3
    assert_same(listwise_loss(logits), listwise, [logits])
    chances = 1 / (1 + torch.exp(-logits))
    pointwise = -(torch.log(chances[:, 0]).sum() + torch.log(1 - chances[:, 1:]).sum()) / 12
    assert_same(pointwise_loss(logits), pointwise, [logits])


# A large batch, in parts


@pytest.mark.parametrize("scores", [1, 35])
def test_a_batch_in_parts_has_the_loss_and_the_gradients_of_the_whole(
    scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides, temperature = batch(), draw(1).abs() + 0.1
    facts = known(
        positives_NF=changed(known().positives_NF, (1, 0), 0),
        absent_NK=torch.eye(5, 2, dtype=torch.bool),
        teacher_positives_N=torch.full((5,), 0.5),
        teacher_negatives_NK=torch.linspace(0, 1, 10).view(5, 2),
    )
    contrast = Contrast(margin=0.3, hardness=1.0, focus=0.5)
    whole = info_nce(*sides, contrast, temperature=temperature, known=facts)
    monkeypatch.setattr(contrastive, "SCORES", scores)
    assert len(contrastive._parts(contrast, 5, 15)) == (5 if scores == 1 else 3)
    parts = info_nce(*sides, contrast, temperature=temperature, known=facts)
    assert_same(parts, whole, [*sides, temperature])
