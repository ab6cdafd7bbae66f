#!/usr/bin/env bash
# What a machine's GPU computes, and how fast: one report, to be read or sent to the developers.
#
#   benchmarks/gpu_check.sh [FOLDER]          half an hour; FOLDER (gpu_check) gets report.txt and logs
#   QUICK=1 benchmarks/gpu_check.sh           five minutes: the kernels, and one case of a step
#   ORACLE=DIRECTORY benchmarks/gpu_check.sh  golden steps against numbers of another program
#
# It needs `pip install -e '.[cuda,test]'`; the comparison with PyTorch a PyTorch for CUDA. A part
# that fails is said in the report, and the others follow.
set -uo pipefail
oracle=${ORACLE:+$(realpath "$ORACLE")}
folder=$(mkdir -p "${1:-gpu_check}" && realpath "${1:-gpu_check}") || exit
cd "$(dirname "$0")/.." || exit
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
report=$folder/report.txt
failed=0
rm -rf "$folder"/*.log "$folder"/*.json "$folder/quickstart" # of an earlier time

part() { # part NAME SECONDS COMMAND...: its last lines go to the report, all of it to NAME.log
  local name=$1 limit=$2 begin=$SECONDS status=0
  shift 2
  timeout -k 30 "$limit" "$@" > "$folder/$name.log" 2>&1 || status=$?
  {
    echo
    echo "== $name: $([ $status = 0 ] && echo ok || echo "FAILED with status $status"), $((SECONDS - begin)) s"
    echo "   $*"
    grep -vE "so far$" "$folder/$name.log" | tail -n 40
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
memory=$(nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits | head -n 1) # MiB
[ "${memory:-0}" -gt 120000 ] && of_torch=qwen3-1.7b || of_torch=qwen3-0.6b # three programs at once

attention=(python3 benchmarks/attention.py --backends triton)
golden=(python3 benchmarks/golden_steps.py ${oracle:+--oracle "$oracle"} --json "$folder/golden.json")
# 8 turns of these: a trunk of 4,096 tokens.
step=(--dtype bfloat16 --turns 8 --user-tokens 128 --reply-tokens 384)
together=(env XLA_PYTHON_CLIENT_PREALLOCATE=false) # beside PyTorch

part attention 120 "${attention[@]}" --rows causal:4096,tree:4096 --json "$folder/attention.json"
part step-1.7b 300 python3 launch/bench.py --model-shape qwen3-1.7b "${step[@]}" \
  --json "$folder/step-1.7b.json"
if [ -n "${QUICK:-}" ]; then
  part golden 300 "${golden[@]}" --attention triton --sharing tree
else
  part golden 1200 "${golden[@]}"
  # Ends that are cut, heads of other widths, many query heads of a key head, several rows.
  part attention-short 120 "${attention[@]}" --rows tree:700,causal:130 --batch 3
  part attention-float32 180 "${attention[@]}" --rows tree:2000 --dtype float32
  for width in 64 80 192 256; do
    part attention-$width 180 "${attention[@]}" --rows tree:2000 --head-width $width \
      --heads 14 --kv-heads 2
  done
  part attention-others 300 "${together[@]}" python3 benchmarks/attention.py --torch \
    --json "$folder/attention-others.json"
  part attention-blocks 600 "${attention[@]}" --rows tree:4096 --blocks \
    --json "$folder/attention-blocks.json"
  part step-1.7b-xla 400 python3 launch/bench.py --model-shape qwen3-1.7b "${step[@]}" \
    --attention xla --json "$folder/step-1.7b-xla.json"
  part step-1.7b-dots 300 python3 launch/bench.py --model-shape qwen3-1.7b "${step[@]}" \
    --remat dots --json "$folder/step-1.7b-dots.json"
  if [ "${memory:-0}" -gt 120000 ]; then # parameters, moments and gradients are 64 GB
    part step-4b 400 env XLA_PYTHON_CLIENT_MEM_FRACTION=0.95 python3 launch/bench.py \
      --model-shape qwen3-4b "${step[@]}" --sharing tree --json "$folder/step-4b.json"
  fi
  part torch 600 "${together[@]}" python3 benchmarks/torch_two_forwards.py \
    --model-shape "$of_torch" "${step[@]}" --device cuda --json "$folder/torch.json"
  part quickstart 600 python3 launch/train.py --config configs/quickstart.py \
    --workdir "$folder/quickstart"
fi
echo
[ $failed = 0 ] && echo "all parts ok" || echo "parts FAILED"
echo "report: $report"
exit $failed
