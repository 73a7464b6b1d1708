"""A command as a careful cluster runs it: every file system read-only but /tmp, user 10001.

Needs Linux with user namespaces, and no rights beyond them. The caller's files stay the command's
own (its user is the caller under another number), so it is the file system that says no, as it does
in a pod.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Sequence

USER = 10001
_SCRIPT = f"""
while read -r _ _ _ _ where _; do
  case $where in
    /proc|/proc/*) ;; # the second unshare writes its map of users there
    *) mount -o remount,bind,ro "$where" 2>/dev/null || : ;;
  esac
done < /proc/self/mountinfo
mount -t tmpfs -o mode=1777 tmpfs /tmp
exec unshare --user --map-user={USER} --map-group={USER} -- "$@"
"""
_PROBE = """
test "$(id -u)" = 10001
touch /tmp/probe
if touch "$1/probe"; then exit 1; fi
"""


def confined(command: Sequence[str]) -> list[str]:
    """The command line that runs a command so. Of /tmp it sees an empty one of its own."""
    outer = ["unshare", "--user", "--map-root-user", "--mount", "--propagation", "private", "--"]
    return [*outer, "sh", "-ec", _SCRIPT, "sh", *command]


@functools.cache
def why_not(folder: str) -> str:
    """Why this machine cannot confine a command to /tmp, away from folder; "" if it can."""
    if shutil.which("unshare") is None:
        return "unshare of util-linux is not there"
    done = subprocess.run(
        confined(["sh", "-ec", _PROBE, "sh", folder]), capture_output=True, text=True, check=False
    )
    return "" if done.returncode == 0 else f"no user namespaces here: {done.stderr.strip()}"
