"""What each process of `test_together.py` runs, started by torchrun."""

import json
import sys
from pathlib import Path

import torch

from sluice_models import together


def main(out: Path) -> None:
    """Write what this process ended with, one file a process."""
    with together.met():
        mine = together.number()
        torch.manual_seed(mine)
        net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1))
        together.level(net)
        rows = torch.arange(24.0).reshape(8, 3) / 24
        net(rows[mine :: together.many()]).square().mean().backward()
        together.average(net)
        shared = [one.grad.flatten().tolist() for one in net.parameters() if one.grad is not None]
        net.zero_grad()
        net(rows).square().mean().backward()
        alone = [one.grad.flatten().tolist() for one in net.parameters() if one.grad is not None]
        parameters = [one.flatten().tolist() for one in net.parameters()]
    threads = [(one / "comm").read_text().strip() for one in Path("/proc/self/task").iterdir()]
    found = {"shared": shared, "alone": alone, "parameters": parameters, "threads": threads}
    (out / f"{mine}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
