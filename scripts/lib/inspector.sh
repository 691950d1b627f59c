#!/usr/bin/env bash
# Puts the MCP Inspector, the independent client of our tests, into .cache/inspector.
# Its Node.js comes with it, as an npm package: it needs a newer one than Debian's; npm itself is Debian's.
# Prints nothing when all is there. Run it as: PATH=.cache/inspector/node_modules/node/bin:$PATH mcp-inspector --cli
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

folder=.cache/inspector
# Only Node's own package has an install step that does anything for us: it fetches the binary's package.
manifest='{
  "private": true,
  "allowScripts": {"node": true, "@modelcontextprotocol/inspector": false},
  "dependencies": {"node": "22", "@modelcontextprotocol/inspector": "2.12.0"}
}'

[[ -f $folder/installed.json && $(<"$folder/installed.json") == "$manifest" ]] && exit

need_packages node:nodejs npm:npm
say "installing the MCP Inspector into $folder"
rm -rf "$folder"
mkdir -p "$folder"
printf '%s\n' "$manifest" >"$folder/package.json"
npm install --prefix "$folder" --no-audit --no-fund --no-package-lock --loglevel=error >&2
PATH="$root/$folder/node_modules/node/bin:$PATH" "$folder/node_modules/.bin/mcp-inspector" --cli --help >/dev/null
printf '%s\n' "$manifest" >"$folder/installed.json" # last, so that a broken-off install is done again
