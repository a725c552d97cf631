#!/usr/bin/env bash
# screenshots.sh FOLDER: takes the pictures of the page that the documents show, with the chart library that the image has.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/setup/progress.sh

argument() { sed -n "s/^ARG $1=//p" Dockerfile; }

command -v chromium >/dev/null || die "Chromium is missing; to install it (Debian): apt install chromium fonts-dejavu-core"
scripts/setup/node_packages.sh build/tools/uplot <<<"$(argument UPLOT_SHA512)  $(argument UPLOT)"
library=build/tools/uplot/node_modules/uplot/dist
mkdir -p build/assets/schema
install -m 0644 "$library/uPlot.iife.min.js" build/assets/uplot.js
install -m 0644 "$library/uPlot.min.css" build/assets/uplot.css
TWINHOST_ASSETS=$PWD/build/assets .venv/bin/python -m tests.browser.screenshots "$1" >/dev/null
