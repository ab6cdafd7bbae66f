#!/usr/bin/env bash
# What a machine's GPU computes, and how fast: one report, to be read or sent to the developers.
#
#   benchmarks/gpu_check.sh [FOLDER]         20 minutes; FOLDER (gpu_check) gets report.txt and logs
#   QUICK=1 benchmarks/gpu_check.sh          5 minutes: correctness, and one case of each benchmark
#   ORACLE=DIRECTORY benchmarks/gpu_check.sh golden steps against numbers of another program
#
# It needs `pip install -e '.[cuda,test]'`; the comparison with PyTorch a PyTorch for CUDA. A part
# that fails is said in the report, and the others follow.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
folder=$(mkdir -p "${1:-gpu_check}" && cd "${1:-gpu_check}" && pwd)
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
# Two programs share the card where PyTorch is compared with.
export XLA_PYTHON_CLIENT_PREALLOCATE=false
report=$folder/report.txt
failed=0

part() { # part NAME SECONDS COMMAND...: its last lines go to the report, all of it to NAME.log
  local name=$1 limit=$2 begin=$SECONDS status=0
  shift 2
  timeout "$limit" "$@" > "$folder/$name.log" 2>&1 || status=$?
  {
    echo
    echo "== $name: $([ $status = 0 ] && echo ok || echo "FAILED with status $status"), $((SECONDS - begin)) s"
    echo "   $*"
    tail -n 40 "$folder/$name.log"
  } | tee -a "$report"
  [ $status = 0 ] || failed=1
}

{
  date -u +%Y-%m-%d
  git rev-parse --short HEAD 2> /dev/null
  nvidia-smi --query-gpu=name,memory.total,driver_version,clocks.sm,clocks.mem --format=csv
  python3 -c '
import importlib.metadata as m, platform
print("Python", platform.python_version(), *(
    f"{name} {m.version(name)}" for name in ("jax", "jaxlib", "flax", "optax", "transformers")
))'
} 2>&1 | tee "$report"

# 8 turns of these: a trunk of 4,096 tokens.
step=(--dtype bfloat16 --turns 8 --user-tokens 128 --reply-tokens 384)
part golden 600 python3 benchmarks/golden_steps.py ${ORACLE:+--oracle "$ORACLE"} \
  --json "$folder/golden.json"
part attention 300 python3 benchmarks/attention.py --torch --json "$folder/attention.json"
part step-1.7b 300 python3 launch/bench.py --model-shape qwen3-1.7b "${step[@]}" \
  --json "$folder/step-1.7b.json"
part torch-1.7b 400 python3 benchmarks/torch_two_forwards.py --model-shape qwen3-1.7b "${step[@]}" \
  --device cuda --json "$folder/torch-1.7b.json"
if [ -z "${QUICK:-}" ]; then
  part attention-blocks 600 python3 benchmarks/attention.py --rows tree:4096 --backends triton \
    --blocks --json "$folder/blocks.json"
  part step-4b 400 python3 launch/bench.py --model-shape qwen3-4b "${step[@]}" \
    --json "$folder/step-4b.json"
  part quickstart 600 python3 launch/train.py --config configs/quickstart.py \
    --workdir "$folder/quickstart"
fi
echo
[ $failed = 0 ] && echo "all parts ok" || echo "parts FAILED"
echo "report: $report"
exit $failed
