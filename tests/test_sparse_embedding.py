"""The puzzle table and its sign-SGD against a loop over identifiers."""
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from models.sparse_embedding import SparseEmbedding, SparseSignSGD


def table_with_gradients(identifiers: list[int], gradients: torch.Tensor, rows: int = 6) -> SparseEmbedding:
    embedding = SparseEmbedding(rows, gradients.shape[1]).train()
    embedding.weights.copy_(torch.randn(embedding.weights.shape, generator=torch.Generator().manual_seed(0)))
    (embedding(torch.tensor(identifiers)) * gradients).sum().backward()
    return embedding


def test_signs_of_summed_gradients_move_the_rows_of_the_batch_and_no_other():
    identifiers = [4, 1, 4, 0, 1, 4]
    gradients = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    gradients[3] = 0
    embedding = table_with_gradients(identifiers, gradients)
    before = embedding.weights.clone()
    SparseSignSGD(embedding, lr=0.1, weight_decay=0.5).step()
    expected = before.clone()
    for identifier in set(identifiers):
        total = sum(g for i, g in zip(identifiers, gradients) if i == identifier)
        expected[identifier] = before[identifier] * (1 - 0.1 * 0.5) - 0.1 * torch.sign(total)
    assert torch.allclose(embedding.weights, expected, atol=1e-7)
    assert torch.equal(embedding.weights[[2, 3, 5]], before[[2, 3, 5]])


def test_a_step_waits_for_no_value_from_the_device():
    """Fake tensors have shapes and no values: what needs one on the host (`unique`, `item`, a mask as index) raises."""
    with FakeTensorMode():
        embedding = SparseEmbedding(6, 3).train()
        (embedding(torch.tensor([4, 1, 4])) * torch.ones(3, 3)).sum().backward()
        assert embedding.gradient.shape == (3, 3)  # so there is a step to make
        SparseSignSGD(embedding, lr=0.1, weight_decay=0.5).step()
        assert embedding.gradient is None


def test_a_step_without_a_training_lookup_changes_nothing():
    embedding = table_with_gradients([1], torch.ones(1, 3))
    optimizer = SparseSignSGD(embedding, lr=0.1, weight_decay=0.5)
    optimizer.step()
    once = embedding.weights.clone()
    optimizer.step()
    with torch.no_grad():
        embedding(torch.tensor([2]))
    optimizer.step()
    embedding.eval()(torch.tensor([3]))
    optimizer.step()
    assert torch.equal(embedding.weights, once)


def test_zero_grad_forgets_the_lookup():
    embedding = table_with_gradients([1], torch.ones(1, 3))
    before, optimizer = embedding.weights.clone(), SparseSignSGD(embedding, lr=0.1, weight_decay=0.5)
    optimizer.zero_grad()
    optimizer.step()
    assert torch.equal(embedding.weights, before)


def test_the_table_starts_at_zero_and_is_no_parameter():
    embedding = SparseEmbedding(5, 3)
    assert not embedding.weights.any() and not list(embedding.parameters()) and "weights" in embedding.state_dict()


def test_the_learning_rate_of_the_group_is_the_one_used():
    embedding = table_with_gradients([1], torch.ones(1, 3))
    before, optimizer = embedding.weights.clone(), SparseSignSGD(embedding, lr=0.1, weight_decay=0.0)
    optimizer.param_groups[0]["lr"] = 0.01
    optimizer.step()
    assert torch.allclose(before[1] - embedding.weights[1], torch.full((3,), 0.01))
