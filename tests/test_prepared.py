"""What painting one box takes."""

import torch

from LeFusion.prepared import Prepared


def test_limits_go_to_another_process():
    edit = torch.ones(1, 2, 2, 2, dtype=torch.bool)
    given = Prepared(torch.zeros(1, 2, 2, 2), edit, edit, ("a",), darkest=-0.8)
    assert Prepared.from_dict(given.as_dict()).darkest == -0.8
