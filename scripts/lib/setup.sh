#!/usr/bin/env bash
# Set-up shared by the scripts: source this file, then call set_up.
# Makes .venv from a Python >= 3.11 and installs missing Debian packages, saying what it runs before it runs it.
# When all is there it prints nothing and takes no time. Leaves the caller in the repository's root.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"

set_up() {
  # Cells run on the system's own Python, whichever one the server runs on.
  need_packages bwrap:bubblewrap git:git /usr/bin/python3:python3
  make_venv
}

say() { printf 'repocell: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# need_packages COMMAND:PACKAGE ... installs those whose command is missing.
need_packages() {
  local pair missing=()
  for pair in "$@"; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
  done
  ((${#missing[@]} == 0)) || install_packages "${missing[@]}"
}

install_packages() {
  local by_hand="apt-get update && apt-get install $*"
  local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120)
  command -v apt-get >/dev/null || die "missing: $*; install with this system's package manager, then try again"
  if ((EUID != 0)); then
    command -v sudo >/dev/null || die "missing: $*; as root, run: $by_hand"
    if [[ -t 0 ]]; then
      apt=(sudo "${apt[@]}")
    else
      apt=(sudo --non-interactive "${apt[@]}") # nobody is there to type a password
    fi
  fi
  say "this machine lacks packages that cells, tests or checks need: $*"
  if [[ -z ${package_lists_updated:-} ]]; then
    say "running: ${apt[*]} update"
    # One broken third-party source fails the update, yet the lists we need may be fine.
    "${apt[@]}" update >&2 || say "the update failed; trying with the lists there are"
    package_lists_updated=1
  fi
  say "running: ${apt[*]} install --yes --no-install-recommends $*"
  "${apt[@]}" install --yes --no-install-recommends "$@" >&2 || die "that failed; as root, run: $by_hand"
}

# Prints the path of the first Python >= 3.11 that really starts: a version manager's stub may be found and not start.
find_python() {
  local candidate candidates=(python3.13 python3.12 python3.11 python3 /usr/bin/python3)
  [[ -z ${REPOCELL_PYTHON:-} ]] || candidates=("$REPOCELL_PYTHON")
  for candidate in "${candidates[@]}"; do
    "$candidate" -c 'import sys; sys.version_info >= (3, 11) or sys.exit(1); print(sys.executable)' 2>/dev/null && return
  done
  die "no Python >= 3.11 among: ${candidates[*]}; install one, or name it in REPOCELL_PYTHON"
}

# need_venv PYTHON: Debian keeps what venv needs in a package of its own for each Python version.
need_venv() {
  local binary
  "$1" -c 'import ensurepip, venv' 2>/dev/null && return
  binary=$(readlink -f "$1")
  dpkg --search "$binary" >/dev/null 2>&1 || die "$1 cannot make virtual environments; name another in REPOCELL_PYTHON"
  install_packages "$(basename "$binary")-venv"
}

# The stamp is newer than the pyproject.toml that was installed, and holds the place it was installed from.
make_venv() {
  local python stamp=.venv/.installed-from
  if [[ -f $stamp && $(<"$stamp") == "$root" && ! pyproject.toml -nt $stamp ]] && .venv/bin/python -c '' 2>/dev/null; then
    return
  fi
  if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    need_venv "$python"
    say "making .venv with $python"
    "$python" -m venv --clear .venv
  fi
  say "installing repocell and its development tools into .venv"
  .venv/bin/python -m pip install -qq --disable-pip-version-check --editable '.[dev]'
  printf '%s\n' "$root" >"$stamp"
}
