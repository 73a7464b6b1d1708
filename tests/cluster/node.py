"""One Kubernetes node in namespaces of its own, started and ended by process id.

Everything the node runs lives in the pid namespace of one process: when that ends, however it ends,
daemons, containers and pods end with it, and their mounts and network with them. Two ends of a wire
lead from this machine into the node's network: the API server, Services and pods can be reached
from here by their own addresses, and pods reach this machine as HOST. One cluster a machine: there
is one such wire, and one set of control groups of its name.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sluice.errors import Misconfigured, Unavailable
from tests.cluster import build
from tests.support.certificates import Authority, Pem

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
STATE = ROOT / "var/cluster"
ADDRESS = "10.200.0.1"
"""The node's."""
HOST, INSIDE = "10.200.1.1", "10.200.1.2"
"""This machine's end of the wire, and the node's."""
LINK = "sluice-cluster"
ROUTES = (f"{ADDRESS}/32", "10.96.0.0/16", "10.244.0.0/24")
"""The node, Services, pods."""
CGROUPS = Path("/sys/fs/cgroup")
RECORD = Path("/run/sluice-cluster.json")
"""Which cluster runs on this machine."""
READY_MAX_S = 120.0
"""Start to Ready: 4 s on an idle machine, 12 on a busy one."""
END_MAX_S = 20.0
VALID = timedelta(days=30)
_CHILDREN: dict[int, subprocess.Popen[bytes]] = {}
"""Nodes that this process started: it must hear of their end, or they stay in the table."""
PACKAGES = {
    "containerd": "containerd",
    "runc": "runc",
    "buildah": "buildah",
    "debootstrap": "debootstrap",
    "nft": "nftables",
    "iptables": "iptables",
    "ipset": "ipset",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "curl": "curl",
    "setpriv": "util-linux",
    "/bin/busybox": "busybox-static",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
}
"""Programs, and the Debian packages that hold them."""


@dataclass(frozen=True)
class Node:
    """A running one. pid: of its process 1, outer: of its parent here; state: its folder."""

    pid: int
    outer: int
    began: float
    state: str

    @property
    def kubeconfig(self) -> Path:
        """The administrator's; good on this machine as it is."""
        return Path(self.state) / "admin.conf"

    @property
    def authority(self) -> Path:
        """Certificates of the cluster, for webhooks too."""
        return Path(self.state) / "pki"

    def alive(self) -> bool:
        """True while it runs."""
        if self.outer in _CHILDREN:
            return _CHILDREN[self.outer].poll() is None
        with suppress(psutil.Error):
            return bool(psutil.Process(self.outer).create_time() == self.began)
        return False

    def inside(self, *words: str) -> list[str]:
        """A command line that runs these words in the node's namespaces."""
        return ["nsenter", "--target", str(self.pid), "--all", *words]

    def log(self, name: str) -> str:
        """The end of what one of its programs wrote."""
        path = Path(self.state) / "log" / f"{name}.log"
        return path.read_text(errors="replace")[-2000:] if path.exists() else ""


def why_not() -> str:
    """What this machine lacks to run a cluster; "" if nothing."""
    if sys.platform != "linux":
        return "a cluster's node needs Linux"
    if os.geteuid() != 0:
        return "a cluster's node needs root"
    if missing := sorted({p for name, p in PACKAGES.items() if shutil.which(name) is None}):
        return f"apt-get install {' '.join(missing)}"
    return build.why_not()


def running() -> Node | None:
    """The cluster of this machine, whichever checkout started it."""
    with suppress(OSError, ValueError, TypeError):
        node = Node(**json.loads(RECORD.read_text()))
        return node if node.alive() else None
    return None


def up(*, detached: bool, state: Path = STATE) -> Node:
    """Start one; returns once it is Ready. detached: it outlives us, else it dies with us, however
    we die. Raises Misconfigured if one runs, Unavailable if it does not come up."""
    with _one_at_a_time():
        if other := running():
            raise Misconfigured(
                f"a cluster runs on this machine already, as process {other.outer}",
                where=other.state,
                fix="make cluster-down",
            )
        _clear(state)
        bin_ = build.built() / "bin"
        _make_groups()
        _configure(state)
        node = _start(state, bin_, detached=detached)
    try:
        _wait(node, bin_)
    except BaseException:
        down()
        raise
    return node


def down() -> bool:
    """End the cluster of this machine and take away what it left. True if one ran."""
    node = running()
    if node is not None:
        with suppress(ProcessLookupError):
            os.kill(node.pid, signal.SIGKILL)
        _until(lambda: not node.alive(), END_MAX_S, "the node ends")
    if RECORD.exists():
        state = json.loads(RECORD.read_text())["state"]
        _clear(Path(state))
    return node is not None


def _start(state: Path, bin_: Path, *, detached: bool) -> Node:
    unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--net", "--mount-proc"]
    tie = [] if detached else ["setpriv", "--pdeathsig", "KILL"]
    with (state / "log/node.log").open("wb") as log:
        outer = subprocess.Popen(
            [*tie, *unshare, "bash", str(HERE / "node.sh"), str(state), str(bin_)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is ours to act on
        )
    _CHILDREN[outer.pid] = outer
    try:
        ours = Path("/proc/self/ns/net").readlink()
        found: list[psutil.Process] = []

        def apart() -> bool:
            found[:] = psutil.Process(outer.pid).children()
            return bool(found) and Path(f"/proc/{found[0].pid}/ns/net").readlink() != ours

        _until(apart, READY_MAX_S, "the node has namespaces of its own")
        node = Node(found[0].pid, outer.pid, psutil.Process(outer.pid).create_time(), str(state))
        RECORD.write_text(json.dumps(asdict(node)))
        _wire(node)
    except BaseException:
        outer.kill()
        raise
    return node


def _wire(node: Node) -> None:
    """Two ends: here, and in the node's network."""
    _run("ip", "link", "add", LINK, "type", "veth", "peer", "name", "host", "netns", str(node.pid))
    _run("ip", "address", "add", f"{HOST}/30", "dev", LINK)
    _run("ip", "link", "set", LINK, "up")
    enter = ["nsenter", "--target", str(node.pid), "--net"]
    _run(*enter, "ip", "address", "add", f"{INSIDE}/30", "dev", "host")
    _run(*enter, "ip", "link", "set", "host", "up")
    for route in ROUTES:
        _run("ip", "route", "add", route, "via", INSIDE)


def _wait(node: Node, bin_: Path) -> None:
    kubectl = [str(bin_ / "kubectl"), "--kubeconfig", str(node.kubeconfig)]
    ready = [*kubectl, "wait", "--for=condition=Ready", "node", "--all", "--timeout=10s"]

    def is_ready() -> bool:
        if not node.alive():
            raise Unavailable(
                f"the node ended: {node.log('node')}",
                where=f"{node.state}/log",
                fix="each of its programs has a log there",
            )
        return subprocess.run(ready, capture_output=True, check=False).returncode == 0

    _until(is_ready, READY_MAX_S, "the node is Ready")


def _until(holds: Callable[[], bool], at_most_s: float, what: str) -> None:
    until = time.monotonic() + at_most_s
    while not holds():
        if time.monotonic() > until:
            raise Unavailable(f"not so after {at_most_s:g} s: {what}", fix="see the node's log/")
        time.sleep(0.05)


def _clear(state: Path) -> None:
    """What a cluster leaves: its end of the wire, control groups, data. Images stay."""
    RECORD.unlink(missing_ok=True)
    subprocess.run(["ip", "link", "delete", LINK], capture_output=True, check=False)
    for root in _groups():
        for folder in (*sorted(root.glob("**/"), reverse=True), root):  # a child before its parent
            with suppress(OSError):
                folder.rmdir()
    for name in ("pki", "conf", "log", "kubelet", "etcd", "cni", "varlog"):
        shutil.rmtree(state / name, ignore_errors=True)
        (state / name).mkdir(parents=True)


def _groups() -> list[Path]:
    """Roots of the pods' control groups: one in each hierarchy of version 1, one of version 2."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS / LINK]
    return [h / LINK for h in CGROUPS.iterdir() if h.is_dir() and not h.is_symlink()]


def _make_groups() -> None:
    for root in _groups():
        root.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):
            if (root / name).exists():  # a new one of version 1 has none, and takes no process
                (root / name).write_text((root.parent / name).read_text())


def _configure(state: Path) -> None:
    """Keys, certificates, kubeconfigs and the programs' own configuration."""
    conf, pki = state / "conf", state / "pki"
    authority = Authority(pki, "cluster")
    authority.issue(
        "apiserver",
        hosts=(
            *("10.96.0.1", ADDRESS, "127.0.0.1", "kubernetes.default.svc"),
            "kubernetes.default.svc.cluster.local",
        ),
        ends=VALID,
    )
    authority.issue("kubelet-server", hosts=(ADDRESS, "node"), ends=VALID)
    authority.issue("apiserver-kubelet", group="system:masters", ends=VALID)
    authority.issue("front-proxy", ends=VALID)
    authority.issue(
        "kserve-webhook", hosts=("kserve-webhook-server-service.kserve.svc",), ends=VALID
    )
    users = {
        "admin": ("admin", "system:masters"),
        "kubelet": ("system:node:node", "system:nodes"),
        "controllers": ("system:kube-controller-manager", ""),
        "scheduler": ("system:kube-scheduler", ""),
        "proxy": ("system:kube-proxy", ""),
    }
    for name, (user, group) in users.items():
        pem = authority.issue(user, group=group, ends=VALID, file=name)
        (conf / f"{name}.conf").write_text(_kubeconfig(authority.ca, pem))
    shutil.copy(conf / "admin.conf", state / "admin.conf")
    accounts = ec.generate_private_key(ec.SECP256R1())
    (pki / "accounts.key").write_bytes(
        accounts.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    (pki / "accounts.pub").write_bytes(
        accounts.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    (conf / "cni").mkdir()
    for source in (HERE / "config").iterdir():
        into = conf / "cni" if source.suffix == ".conflist" else conf
        text = source.read_text().replace("@STATE@", str(state)).replace("@CGROUPS@", f"/{LINK}")
        (into / source.name).write_text(text)


def _kubeconfig(ca: Path, pem: Pem) -> str:
    def data(path: Path) -> str:
        return base64.b64encode(path.read_bytes()).decode()

    cluster = {"server": f"https://{ADDRESS}:6443", "certificate-authority-data": data(ca)}
    user = {"client-certificate-data": data(pem.cert), "client-key-data": data(pem.key)}
    whole: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "cluster", "cluster": cluster}],
        "users": [{"name": "user", "user": user}],
        "contexts": [{"name": "cluster", "context": {"cluster": "cluster", "user": "user"}}],
        "current-context": "cluster",
    }
    return str(yaml.safe_dump(whole, sort_keys=False))


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"{' '.join(words)}: {done.stderr.strip()}", fix="see the node's log/")


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    with RECORD.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
