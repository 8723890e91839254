# Shared by the scripts; sourced, not run. Bash 3.2 and macOS-safe.
# shellcheck shell=bash
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$ROOT/.venv"

say() { printf '%s\n' "$*"; }
die() { printf 'assay: %s\n' "$*" >&2; exit 1; }

# The first Python from 3.11 to 3.13 that can make a virtual environment.
find_python() {
  local candidate
  for candidate in python3.13 python3.12 python3.11 python3; do
    if command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; then
      printf '%s' "$candidate"
      return 0
    fi
  done
  return 1
}

# What the environment was made from; a change makes scripts/install run again.
fingerprint() { cat "$ROOT/constraints.txt" "$ROOT/pyproject.toml" "$ROOT/scripts/install" | cksum; }

ensure_installed() {
  if [ ! -f "$VENV/assay-installed" ] || [ "$(cat "$VENV/assay-installed")" != "$(fingerprint)" ]; then
    "$ROOT/scripts/install"
  fi
}
