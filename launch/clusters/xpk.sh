#!/bin/bash
# A run on a TPU slice of GKE by XPK (pip install xpk), which writes a JobSet such as jobset.yaml.
#
#     launch/clusters/xpk.sh                 start the run
#     DRY_RUN=1 launch/clusters/xpk.sh       show the JobSet and all commands, do nothing
#
# The cluster was made by `xpk cluster create`; STORAGE was attached to it by `xpk storage attach`,
# and every host sees it at SHARED. See docs/scaling.md.
set -euo pipefail

# ------------------------------------------------------------------------------------- CHANGE
PROJECT=${PROJECT:-my-project}
ZONE=${ZONE:-us-west4-a}
CLUSTER=${CLUSTER:-my-cluster}
NAME=${NAME:-interact-jax}
TPU=${TPU:-v5litepod-16}         # v5e-16: 4 hosts with 4 chips each
SLICES=${SLICES:-1}
IMAGE=${IMAGE:-us-docker.pkg.dev/my-project/images/interact-jax:latest}  # its workdir: this repository
STORAGE=${STORAGE:-shared}
SHARED=${SHARED:-/shared}
RESTARTS=${RESTARTS:-10}
COMMAND="launch/train.py --config configs/quickstart.py --workdir $SHARED/runs/$NAME"
# ---------------------------------------------------------------------------------------------

arguments=(
  --project "$PROJECT" --zone "$ZONE" --cluster "$CLUSTER"
  --workload "$NAME" --tpu-type "$TPU" --num-slices "$SLICES"
  --docker-image "$IMAGE" --storage "$STORAGE"
  --max-restarts "$RESTARTS"
  --restart-on-exit-codes 1      # beside those of signals, as XPK does by itself: not 2, which
                                 # says that arguments or data are wrong
  --command "exec python $COMMAND"  # exec: so that SIGTERM reaches it
)
if [[ ${DRY_RUN:-} ]]; then
  arguments+=(--dry-run)
fi
xpk workload create "${arguments[@]}"
