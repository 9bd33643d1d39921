#!/usr/bin/env bash
# Bundles viewer.js with what it uses of three.js into viewer.min.js (needs npm). Only needed after a change of either.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
npm install --silent --no-audit --no-fund --no-package-lock three@0.187.0 esbuild@0.28.2
cp "$here/viewer.js" .
npx esbuild viewer.js --bundle --minify --format=esm --target=es2022 --legal-comments=none --charset=utf8 \
    --banner:js="/* dreamfusion viewer with three.js 0.187.0 (MIT, see LICENSE-three) */" --outfile="$here/viewer.min.js"
cp node_modules/three/LICENSE "$here/LICENSE-three"
