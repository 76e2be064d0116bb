"""What fields share, by hand: the mean of the other fields, and values of digits among all tokens."""
import torch

from models.fields import mean_of_others, of_tokens


def test_each_field_sees_the_mean_of_the_others():
    torch.manual_seed(0)
    z = torch.randn(2, 4, 3, 5)
    expected = torch.stack([z[:, [other for other in range(4) if other != field]].mean(1) for field in range(4)], 1)
    assert torch.allclose(mean_of_others(z), expected, atol=1e-6)


def test_values_of_digits_stand_at_their_tokens_and_others_have_one_value():
    values = torch.arange(6.0).view(1, 2, 3).mT  # of two digits at three cells, (1, 3, 2)
    assert of_tokens(values, torch.tensor([3, 1]), 5, others=-7.0).tolist() == [
        [[-7, 3, -7, 0, -7], [-7, 4, -7, 1, -7], [-7, 5, -7, 2, -7]]]
    assert (of_tokens(values, torch.tensor([3, 1]), 5)[..., [0, 2, 4]] < -1e3).all()
