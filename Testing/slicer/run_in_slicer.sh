#!/usr/bin/env bash
# The in-app test in a real 3D Slicer, without a display: downloads Slicer once, installs what the computation needs into
# its Python, and runs LabelFreeCovidSegTest.
#
#   Testing/slicer/run_in_slicer.sh [FOLDER FOR SLICER]
#
# Needs curl, tar, xvfb-run and 3 GB. SLICER_URL chooses another build than the current stable one for Linux.
set -euo pipefail
cd "$(dirname "$0")/../.."
slicer=${1:-.slicer}
url=${SLICER_URL:-"https://download.slicer.org/download?os=linux&stability=release"}

if [[ ! -x $slicer/Slicer ]]; then
	mkdir -p "$slicer"
	curl -fL "$url" | tar -xz -C "$slicer" --strip-components=1
fi
"$slicer/bin/PythonSlicer" -m pip install -q torch --index-url https://download.pytorch.org/whl/cpu
"$slicer/bin/PythonSlicer" -m pip install -q -r LabelFreeCovidSeg/Resources/requirements.txt

xvfb-run -a "$slicer/Slicer" --no-splash --testing --additional-module-paths "$PWD/LabelFreeCovidSeg" \
	--python-code "slicer.util.exit(0 if slicer.modules.labelfreecovidseg.createNewWidgetRepresentation() else 1)"
xvfb-run -a "$slicer/Slicer" --no-splash --testing --additional-module-paths "$PWD/LabelFreeCovidSeg" \
	--python-script Testing/slicer/in_slicer.py
