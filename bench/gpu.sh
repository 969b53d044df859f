#!/usr/bin/env bash
# Everything that only a GPU can show, in parts that can be called alone; the next part goes on where one fails.
#
#   bash bench/gpu.sh [PART ...] [--out DIR] [--data DIR] [-- OPTIONS OF PART e]
#
#   a  tests on the device, self-check, compute-sanitizer     4 minutes
#   b  ops against reference, torch.compile and Liger          5
#   c  the training step against the eager and compiled peer   5
#   d  the solver: throughput, latency                         2
#   e  a training run, goes on when called again               8   (-- --minutes 6 --recipe published|fast|faster|deep)
#
# Needs Python 3.10 or later, torch and Triton, and a checkout with its kernels built (trm_fast/_C*.so). What else the
# package imports may lie as wheels in bench/gpu/wheels (bench/gpu/collect.sh fetches them); nothing is downloaded here.
# JSON goes to DIR (gpu-results by default); DATA is a folder with extreme_train_1k.csv.gz and hard_test.csv.gz.
#
#   bash bench/gpu.sh --self-test [--out DIR] [--data DIR]     every part on the CPU at small sizes: no typo waits for a GPU
set -uo pipefail
cd "$(dirname "$0")/.."
parts=() out=gpu-results data="${TRM_FAST_DATA:-../shared/data/sudoku}" device=cuda tiny=() last=()
while (($#)); do
    case $1 in
        a | b | c | d | e) parts+=("$1") ;;
        --out) out=$2 && shift ;;
        --data) data=$2 && shift ;;
        --self-test) device=cpu tiny=(--tiny) ;;
        --) shift && last=("$@") && break ;;
        *) sed -n '2,19p' "$0" >&2 && exit 2 ;;
    esac
    shift
done
((${#parts[@]})) || parts=(a b c d e)
mkdir -p "$out" && out=$(cd "$out" && pwd)
[[ -d $data/sudoku ]] && data=$data/sudoku
python=$(command -v python3)
site=$out/.site
# The package as an installation would lay it out: configs and kernels are folders of their own in a checkout.
rm -rf "$site/trm_fast" && mkdir -p "$site" && cp -r trm_fast "$site/trm_fast"
cp -r configs "$site/trm_fast/configs" && cp -r triton_kernels "$site/trm_fast/triton_kernels"
if compgen -G "bench/gpu/wheels/*.whl" >/dev/null; then
    # Only what is missing: a package that is there may be one that torch needs.
    for wheel in bench/gpu/wheels/*.whl; do
        name=$(basename "$wheel" | cut -d- -f1)
        PYTHONPATH=$site "$python" -c "import importlib.metadata as m, sys; m.version(sys.argv[1])" "$name" 2>/dev/null ||
            "$python" -m zipfile -e "$wheel" "$site"
    done
fi
export PYTHONPATH="$site:$PWD/bench/gpu${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
export PYTHONSAFEPATH=1 # not the checkout in front of it
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-8}" MPLCONFIGDIR="$out/.cache" TRITON_CACHE_DIR="$out/.cache/triton"
export TORCHINDUCTOR_CACHE_DIR="$out/.cache/inductor"

# part NAME SECONDS COMMAND...: its output in NAME.log, and NAME.error.json where it fails or takes too long.
part() {
    local name=$1 seconds=$2 start=$SECONDS code
    shift 2
    rm -f "$out/$name.error.json"
    timeout --kill-after=10 "$seconds" "$@" >"$out/$name.log" 2>&1
    code=$?
    echo "$name: exit $code after $((SECONDS - start)) s"
    ((code == 0)) && return
    "$python" - "$out/$name" "$code" "$((SECONDS - start))" <<'PYTHON'
import json, pathlib, sys
base, code, seconds = sys.argv[1:]
tail = pathlib.Path(base + ".log").read_text(errors="replace")[-3000:]
pathlib.Path(base + ".error.json").write_text(json.dumps(
    {"exit": int(code), "timed_out": int(code) in (124, 137), "seconds": int(seconds), "output": tail}, indent=1) + "\n")
PYTHON
}

"$python" -c "import torch, sys; sys.exit(sys.argv[1] == 'cuda' and not torch.cuda.is_available())" "$device" ||
    echo "torch sees no GPU: the parts will record that" >&2
# The host's own kernels are checked, too: this may be a processor they have not met.
part host 60 "$python" -m trm_fast.cli info --json
part host_check 60 "$python" -m trm_fast.cli info --check
common=(--out "$out" --device "$device" "${tiny[@]}")
for chosen in "${parts[@]}"; do
    case $chosen in
        a) part a 240 "$python" bench/gpu/checks.py "${common[@]}" ;;
        b) part b 300 "$python" bench/gpu/ops.py "${common[@]}" ;;
        c)
            if [[ $device == cpu ]]; then
                part c 200 "$python" bench/end_to_end.py --only train:sudoku-4x4:64 --threads 1 --repeats 1 --json --out "$out/end_to_end.json"
            else
                cuda=(--device cuda --json --repeats 10 --out "$out/end_to_end.json")
                part c_eager 160 "$python" bench/end_to_end.py "${cuda[@]}"
                part c_compiled 140 "$python" bench/end_to_end.py "${cuda[@]}" --baseline compiled \
                    --only train:mixer97:768 --only train:attention97:768 --only train:mixer97:8
            fi
            ;;
        d) part d 120 "$python" bench/gpu/solver.py "${common[@]}" ;;
        e)
            ((${#tiny[@]})) && last=(--minutes 0.5 "${last[@]}")
            part e 480 "$python" bench/gpu/train.py "${common[@]}" --data "$data" "${last[@]}"
            ;;
    esac
done
exit 0
