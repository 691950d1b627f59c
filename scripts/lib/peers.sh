#!/usr/bin/env bash
# Puts other people's servers, to compare ours with, into .cache/peers: pinned versions, each in a folder of its own.
# Their install scripts are not run. A peer that cannot be installed leaves its reason in .cache/peers/NAME/why, which the
# benchmarks put into their table; so this script fails only when a file cannot be written. Versions and licences are listed in tests/benchmarks/peers.py too.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

peers=.cache/peers

# npm_peer NAME PACKAGE VERSION [OVERRIDES]
npm_peer() {
  local folder=$peers/$1 manifest
  manifest="{\"private\": true, \"dependencies\": {\"$2\": \"$3\"}, \"overrides\": ${4:-{\}}}"
  [[ -f $folder/installed && $(<"$folder/installed") == "$manifest" ]] && return
  begin "$1" "$2 $3"
  printf '%s\n' "$manifest" >"$folder/package.json"
  if npm install --prefix "$folder" --ignore-scripts --no-audit --no-fund --no-package-lock --loglevel=error >"$folder/log" 2>&1; then
    printf '%s\n' "$manifest" >"$folder/installed" # last, so that a broken-off install is done again
  else
    refuse "$1" "npm could not install $2 $3"
  fi
}

# pip_peer NAME PACKAGE VERSION
pip_peer() {
  local folder=$peers/$1
  [[ -f $folder/installed && $(<"$folder/installed") == "$2==$3" ]] && return
  begin "$1" "$2 $3"
  if "$(find_python)" -m venv "$folder/venv" >"$folder/log" 2>&1 &&
    "$folder/venv/bin/python" -m pip install -qq --disable-pip-version-check "$2==$3" >>"$folder/log" 2>&1; then
    printf '%s\n' "$2==$3" >"$folder/installed"
  else
    refuse "$1" "pip could not install $2 $3"
  fi
}

begin() {
  say "installing $2, to compare with, into $peers/$1"
  rm -rf "${peers:?}/$1"
  mkdir -p "$peers/$1"
}

refuse() {
  say "$2; the benchmarks go on without it. What was said is in $peers/$1/log"
  printf '%s\n' "$2" >"$peers/$1/why"
}

need_packages node:nodejs npm:npm socat:socat # srt connects its sandboxes with socat
npm_peer filesystem @modelcontextprotocol/server-filesystem 2026.8.31
# The version its archive reader asks for is not in every copy of the registry yet.
npm_peer desktop-commander @wonderwhy-er/desktop-commander 0.2.52 '{"typedarray.prototype.slice": "1.0.5"}'
npm_peer commands mcp-server-commands 0.5.0
npm_peer srt @anthropic-ai/sandbox-runtime 0.0.83
pip_peer git mcp-server-git 2026.10.19
