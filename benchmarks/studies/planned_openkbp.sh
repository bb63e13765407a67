#!/usr/bin/env bash
# The study on plans of one protocol: planned_openkbp.sh [PROCESSES]. Stopped at any moment, it goes on when run again.
# It needs OpenKBP as data set 501 and the extra "planning".
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
eval "$(cdm-nnunet env)"
cdm-nnunet plan-doses 501 -d 502 -n OnePlanner --protocol openkbp_hn -np "${1:-2}"
[ -e "$nnUNet_preprocessed/Dataset502_OnePlanner/nnUNetPlans.json" ] ||
    cdm-nnunet plan -d 502 -c 3d_packed --gpu-memory 24 --base-features 16 --batch-size 2
cdm-nnunet study "$here/planned_openkbp.yaml" -o planned_openkbp
