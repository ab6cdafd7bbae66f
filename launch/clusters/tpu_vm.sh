#!/bin/bash
# LEGACY: a run on the hosts of a TPU slice that gcloud has made. Google no longer develops this way
# and recommends GKE: jobset.yaml and xpk.sh beside this file.
#
#     launch/clusters/tpu_vm.sh              start the run on all hosts, and show what they say
#     DRY_RUN=1 launch/clusters/tpu_vm.sh    show the command
#
# The slice exists, and every host has interact_jax with 'jax[tpu]' in CODE, and SHARED, such as a
# Filestore share. On each a supervisor starts the process and watches it. See docs/scaling.md.
set -euo pipefail

# ------------------------------------------------------------------------------------- CHANGE
TPU=${TPU:-my-slice}
ZONE=${ZONE:-us-west4-a}
HOSTS=${HOSTS:-4}                # v5e-16 has 4, with 4 chips each
CODE=${CODE:-interact_jax}       # where this repository is, from the home directory
SHARED=${SHARED:-/mnt/shared}
RESTARTS=${RESTARTS:-3}
COMMAND="launch/train.py --config configs/quickstart.py --workdir $SHARED/runs/tpu"
# ---------------------------------------------------------------------------------------------

# Runs on every host; the metadata server says which one that is, and where the first one is.
read -r -d '' ON_HOST <<END || true
set -eu
about() {
  curl -sf -H 'Metadata-Flavor: Google' \
    "http://metadata.google.internal/computeMetadata/v1/instance/attributes/\$1"
}
first=\$(about worker-network-endpoints | cut -d, -f1)  # NAME, or NAME:NUMBER:ADDRESS
cd "$CODE"
exec python3 launch/supervise.py --machines $HOSTS --machine "\$(about agent-worker-number)" \
  --coordinator "\${first##*:}:8476" --restarts $RESTARTS $COMMAND
END

command=(
  gcloud compute tpus tpu-vm ssh "$TPU" --zone "$ZONE" --worker=all --command "$ON_HOST"
)
if [[ ${DRY_RUN:-} ]]; then
  printf '%q ' "${command[@]}"
  echo
else
  "${command[@]}"
fi
