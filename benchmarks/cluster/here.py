"""`make bench-cluster` with nothing there yet: on the cluster of `make test-cluster`, by itself.

  .venv/bin/python -m benchmarks.cluster.here --calm-s 60 --settle-s 60

Starts cluster, broker and store, builds the loader's image, installs the chart with one to three
pods of each entrypoint, hands all arguments on to `make bench-cluster`, and ends everything (root,
Go). All of it shares this machine's cores with the load.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.cluster import build, images, node, session
from tests.cluster.chart import installed, merged, values
from tests.cluster.node import ROOT
from tests.cluster.outside import outside

NAMESPACE = "bench"
SCALED = {
    "sync": {
        "autoscaling": {"minReplicas": 1, "maxReplicas": 3, "targetCPUUtilization": 15},
        # A pod uses .15 of a core at 400/s: half of that is where another starts, so that the ramp
        # scales. With a smaller request it would have a smaller share of a core than the load.
        "resources": {"requests": {"cpu": "500m", "memory": "200Mi"}},
    },
    "stream": {
        "autoscaling": {"mode": "hpa", "minReplicas": 1, "maxReplicas": 3, "scaleDownSeconds": 15},
        "resources": {"requests": {"cpu": "300m", "memory": "200Mi"}},
    },
}


def main(words: list[str]) -> int:
    """The benchmark's exit status."""
    if words in (["--help"], ["-h"]):
        print(__doc__)
        return 0
    if reason := node.why_not():
        sys.exit(reason)
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as name, session.cluster() as cluster:
        folder = Path(name)
        folder.chmod(0o755)  # a pod's user is another
        images.load_loader(cluster)
        kube = session.kubectl(cluster)
        with (
            outside(folder / "beside") as beside,
            installed(kube, beside, NAMESPACE, merged(values(beside), SCALED)) as chart,
        ):
            print(f"installed in {chart.seconds:.0f} s", flush=True)
            given = [f"--namespace={NAMESPACE}", f"--image={images.LOADER}", *words]
            return subprocess.run(
                [sys.executable, "-m", "benchmarks.cluster", *given],
                cwd=ROOT,
                env=os.environ
                | {
                    "KUBECONFIG": str(cluster.kubeconfig),
                    "PATH": f"{build.built() / 'bin'}:{os.environ['PATH']}",
                },
                check=False,
            ).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
