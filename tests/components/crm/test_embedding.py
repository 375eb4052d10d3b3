"""The shared embedding table, by hand."""

from __future__ import annotations

import pytest
import torch

from components.crm.embedding import FieldEmbedding, Forget, _runs, embedding_table
from components.types import Slot
from tests.components.crm.samples import INPUTS, batch, repeat_rows


def numbered(size: int = 2) -> FieldEmbedding:
    """An embedding whose row r is (r, 10 r)."""
    embedding = FieldEmbedding(INPUTS.embedding_rows, INPUTS.slots, size)
    with torch.no_grad():
        embedding.table.weight.copy_(torch.arange(13.0)[:, None] * torch.tensor([1.0, 10.0]))
    return embedding


def side_by_side(embedding: FieldEmbedding) -> torch.Tensor:
    """The fields of the three samples."""
    return torch.cat(embedding(batch().slot_ids_BS)[0], dim=1)


def test_a_field_of_many_values_is_the_mean_of_those_that_are_not_padding() -> None:
    fields = side_by_side(numbered())
    # user, item and the genres' mean, each (r, 10 r): (10 + 11) / 2 = 10.5; one genre, 12; no genre, zero
    assert fields.tolist() == [[2, 20, 5, 50, 10.5, 105], [3, 30, 6, 60, 12, 120], [1, 10, 4, 40, 0, 0]]


def test_only_the_chosen_fields_are_read() -> None:
    embedding = FieldEmbedding(INPUTS.embedding_rows, INPUTS.slots[1:2], 2)
    _, (items,) = embedding(batch().slot_ids_BS, torch.tensor([5, 6, 4]))
    assert torch.equal(side_by_side(embedding), items)
    assert side_by_side(FieldEmbedding(INPUTS.embedding_rows, (), 2)).shape == (3, 0)


def test_padding_is_a_zero_vector_that_training_does_not_move() -> None:
    embedding = FieldEmbedding(INPUTS.embedding_rows, INPUTS.slots, 2)
    side_by_side(embedding).square().sum().backward()
    gradient = embedding.table.weight.grad
    assert gradient is not None
    assert embedding.table.weight[0].tolist() == gradient[0].tolist() == [0.0, 0.0]
    assert gradient[10].abs().sum() > 0


@pytest.mark.parametrize("sparse", [False, True])
def test_the_gradient_of_a_table_is_that_of_torchs_own_for_all_that_was_looked_up_at_once(sparse: bool) -> None:
    torch.manual_seed(0)
    table = embedding_table(7, 3)
    table.sparse = sparse
    own = torch.nn.Embedding.from_pretrained(table.weight.detach().clone(), freeze=False, padding_idx=0)
    ids = torch.tensor([[0, 3, 3], [6, 1, 0]]), torch.tensor([3, 0, 5]), torch.zeros(2, 0, dtype=torch.int64)
    factors = [torch.randn(*each.shape, 3) for each in ids]
    for found in (table(*ids), tuple(own(each) for each in ids)):
        torch.stack([(vectors * factor).sum() for vectors, factor in zip(found, factors, strict=True)]).sum().backward()
    gradient = table.weight.grad
    assert gradient is not None
    assert gradient.is_sparse == sparse
    torch.testing.assert_close(gradient.to_dense(), own.weight.grad)
    if sparse:
        assert gradient.coalesce().indices().tolist() == [[0, 1, 3, 5, 6]]
    assert all(torch.equal(*pair) for pair in zip(table(*ids), [own(each) for each in ids], strict=True))


def test_neighbours_of_one_value_are_looked_up_together_and_nothing_else_is() -> None:
    one = [Slot(name, start, 1, 0) for start, name in enumerate("abcde")]
    many = Slot("tags", 3, 2, 0)
    assert _runs([one[0], one[1], many, one[4]]) == [(slice(0, 2), False), (slice(3, 5), True), (slice(4, 5), False)]
    assert _runs([one[1], one[3]]) == [(slice(1, 2), False), (slice(3, 4), False)]


def test_nothing_is_forgotten_where_no_rate_says_so() -> None:
    rows = batch()
    slots, history = Forget(INPUTS, unknown_rate=0.0, user_unknown_rate=0.0).train()(rows.slot_ids_BS, rows.history_ids_BL)
    assert slots is rows.slot_ids_BS
    assert history is rows.history_ids_BL


def test_ids_are_forgotten_in_training_only() -> None:
    rows = repeat_rows(batch(), 0, 4000)
    forget = Forget(INPUTS, unknown_rate=0.1, user_unknown_rate=0.6)
    slots, history = forget.eval()(rows.slot_ids_BS, rows.history_ids_BL)
    assert torch.equal(slots, rows.slot_ids_BS)
    assert torch.equal(history, rows.history_ids_BL)
    torch.manual_seed(0)
    slots, history = forget.train()(rows.slot_ids_BS, rows.history_ids_BL)
    changed = (slots != rows.slot_ids_BS).float().mean(0)
    # Four standard errors of a share of 4000: 4 sqrt(.1 * .9 / 4000) = .019 and .031; padding (the last column) never changes.
    assert abs(changed[0] - 0.6) < 0.031
    assert (changed[1:4] - 0.1).abs().max() < 0.019
    assert changed[4] == 0
    assert ((history != rows.history_ids_BL).float().mean(0) - 0.1).abs().max() < 0.019


def test_a_forgotten_id_becomes_its_own_fields_unknown_value() -> None:
    rows = batch()
    slots, history = Forget(INPUTS, unknown_rate=1.0, user_unknown_rate=1.0).train()(rows.slot_ids_BS, rows.history_ids_BL)
    assert slots.tolist() == [[1, 4, 9, 9, 0], [1, 4, 9, 0, 0], [1, 4, 0, 0, 0]]
    assert history.tolist() == [[4, 4, 4, 4], [0, 0, 4, 4], [0, 0, 0, 0]]


def test_an_id_that_training_never_reads_is_never_read_later() -> None:
    rows = batch()
    slots, _ = Forget(INPUTS, unknown_rate=0.0, user_unknown_rate=1.0).eval()(rows.slot_ids_BS, rows.history_ids_BL)
    assert slots[:, 0].tolist() == [1, 1, 1]
    assert torch.equal(slots[:, 1:], rows.slot_ids_BS[:, 1:])


def test_a_table_that_no_slot_reads_has_a_gradient() -> None:
    embedding = FieldEmbedding(3, (), 2)
    (out,), _ = embedding(torch.zeros(4, 0, dtype=torch.int64))
    assert out.shape == (4, 0)
    torch.cat([out, torch.ones(4, 1, requires_grad=True)], dim=1).sum().backward()
    assert embedding.table.weight.grad is not None
    assert not embedding.table.weight.grad.any()
