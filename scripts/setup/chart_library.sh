#!/usr/bin/env bash
# chart_library.sh FOLDER: puts the chart library that the image has into a folder of assets, for an agent that runs without it.
set -euo pipefail
cd "$(dirname "$0")/../.."

argument() { sed -n "s/^ARG $1=//p" Dockerfile; }

scripts/setup/node_packages.sh build/tools/uplot <<<"$(argument UPLOT_SHA512)  $(argument UPLOT)"
library=build/tools/uplot/node_modules/uplot/dist
mkdir -p "$1/schema"
install -m 0644 "$library/uPlot.iife.min.js" "$1/uplot.js"
install -m 0644 "$library/uPlot.min.css" "$1/uplot.css"
