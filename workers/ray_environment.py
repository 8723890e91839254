"""Ray reads its environment once, when it is imported: import this first.

A token of this process alone means that no other user of the machine can join the embedded cluster. And it listens on the loopback
address alone: Ray takes that as the address of a node only where it is told that there is no cluster, and else listens everywhere.
"""

import os
import secrets

LOOPBACK = "127.0.0.1"

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
if not os.environ.get("ASSAY_RAY_ADDRESS"):
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    if (os.environ.get("ASSAY_RAY_BIND") or LOOPBACK) == LOOPBACK:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
