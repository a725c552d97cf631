#!/usr/bin/env bash
# screenshots.sh FOLDER: takes the pictures of the page that the documents show, with the chart library that the image has.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/setup/progress.sh

for needed in chromium pngquant; do
    command -v "$needed" >/dev/null || die "$needed is missing; to install it (Debian): apt install chromium fonts-dejavu-core pngquant"
done
scripts/setup/chart_library.sh build/assets
TWINHOST_ASSETS=$PWD/build/assets .venv/bin/python -m tests.browser.screenshots "$1" >/dev/null
pngquant --force --ext .png --quality 80-98 --strip "$1"/*.png # a third of their size
