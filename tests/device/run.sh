#!/usr/bin/env bash
# What a machine with a GPU gives, in one command that ends within 8 minutes:
#
#     tests/device/run.sh                    # results in build/device, and in $OUT where that is set
#     tests/device/run.sh --tiny             # the same on small models, on a CPU too: what the tests run
#
# Needs python3 with torch 2.5 or newer, einops, numpy, pillow, safetensors, huggingface-hub, tqdm and pytest; no
# network, no installation. A call goes on where the last one stopped, as long as code, machine and torch are the same.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PYTHONPATH="$PWD:$PWD/tests/device:$PWD/tests/nvg_model${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec "${PYTHON:-python3}" tests/device/measure.py "$@"
