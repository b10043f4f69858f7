#!/usr/bin/env bash
# A whole training on a bare machine, stopped in time and gone on with by the same command:
#
#     python tests/device/pack.py emoji128                 # before, here: build/carry/emoji128.tar
#     tests/device/train.sh emoji128 --minutes 8.5         # there, until it says that nothing is left to do
#
# Leaves in $OUT (else build/device) the checkpoint so far in parts, its sha256, a sheet of pictures and the logs.
# Needs python3 with torch 2.5 or newer, einops, numpy, pillow, safetensors and tqdm; no network, no installation.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PYTHONPATH="$PWD:$PWD/tests/device${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec "${PYTHON:-python3}" tests/device/train.py "$@"
