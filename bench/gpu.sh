#!/usr/bin/env bash
# Everything that only a GPU can show, in parts that can be called alone; the next part goes on where one fails.
#
#   bash bench/gpu.sh [PART ...] [--out DIR] [--data DIR] [-- OPTIONS OF PART e]
#
#   a  tests on the device, self-check, compute-sanitizer     4 minutes
#   b  ops against reference, torch.compile and Liger          5
#   c  the training step against the eager and compiled peer   5
#   d  the solver: throughput, latency                         2
#   e  a training run, goes on when called again               8   (-- --minutes 6 --preset sudoku-fast)
#
# Needs Python 3.10 or later, torch and Triton, a C compiler and Python's headers for Triton's launchers, and a checkout
# with its kernels built (trm_fast/_C*.so). What else the package imports may lie as wheels in bench/gpu/wheels
# (bench/gpu/collect.sh fetches them); nothing is downloaded here. JSON goes to DIR (gpu-results by default), and what
# part c measured to bench/results, too. DATA is a folder with extreme_train_1k.csv.gz and hard_test.csv.gz. First, once a
# build, the Triton kernels' block sizes are chosen for this card (bench/tune.py; DIR/configs.json, DIR/tune.json), then
# all kernels are compiled, checked and timed: those minutes, up to 170 seconds, are the first part's.
#
#   bash bench/gpu.sh --self-test [--out DIR] [--data DIR]     every part on the CPU at small sizes: no typo waits for a GPU
set -uo pipefail
cd "$(dirname "$0")/.."
parts=() out=gpu-results data="${TRM_FAST_DATA:-../shared/data/sudoku}" device=cuda tiny=() dry=() last=()
[[ -d $data || ! -d shared/data/sudoku ]] || data=shared/data/sudoku
while (($#)); do
    case $1 in
        a | b | c | d | e) parts+=("$1") ;;
        --out) out=$2 && shift ;;
        --data) data=$2 && shift ;;
        --self-test) device=cpu tiny=(--tiny) dry=(--dry) ;;
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
table=$site/trm_fast/triton_kernels/configs.json
# What an earlier call has tuned and timed is of these kernels and no others; a copied checkout's dates say nothing.
kernels=$(cat trm_fast/_C*.so triton_kernels/*.{py,json} 2>/dev/null | sha256sum | cut -c 1-16)
ready=$out/.cache/ready-$device-$kernels
[[ -f $ready && -f $out/configs.json ]] && cp "$out/configs.json" "$table"
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
export TORCHINDUCTOR_CACHE_DIR="$out/.cache/inductor" XDG_CACHE_HOME="$out/.cache"
# A copy without its history says what it was made of (collect.sh).
[[ -f bench/gpu/wheels/COMMIT ]] && export TRM_FAST_COMMIT="${TRM_FAST_COMMIT:-$(<bench/gpu/wheels/COMMIT)}"
missing=$("$python" -c "
import importlib.util as u
print(*[m for m in 'torch numpy pydantic yaml safetensors typer rich psutil pytest'.split() if u.find_spec(m) is None])")
if [[ -n $missing ]]; then
    echo "Python ($python) has no $missing: where there is a network, run bash bench/gpu/collect.sh" \
        "$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') and bring bench/gpu/wheels along" >&2
    exit 1
fi

# part NAME SECONDS COMMAND...: its output in NAME.log, and NAME.error.json where it fails or takes too long. A crash
# costs the row that it happened in: another process goes on behind it.
part() {
    local name=$1 seconds=$2 start=$SECONDS code tries=3
    shift 2
    rm -f "$out/$name.error.json" "$out/$name.log"
    while :; do
        timeout --kill-after=10 $((seconds - SECONDS + start)) "$@" >>"$out/$name.log" 2>&1
        code=$?
        ((code > 128 && code != 137 && --tries && SECONDS - start < seconds - 20)) || break
        local -x TRM_FAST_GO_ON=1
    done
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

# left SECONDS LEAST: what is left of a part's minutes; the first part pays for what came before it, as far as it can.
spent=0
left() { echo $(($1 - spent > $2 ? $1 - spent : $2)); }

"$python" -c "import torch, sys; sys.exit(sys.argv[1] == 'cuda' and not torch.cuda.is_available())" "$device" ||
    echo "torch sees no GPU: the parts will record that" >&2
common=(--out "$out" --device "$device" "${tiny[@]}")
if [[ ! -f $ready ]]; then
    # The block sizes first: a self-check and a winner are about the kernels with the table that stays. Its own failure
    # leaves the rows that were decided until then, or the checkout's.
    part tune 60 "$python" bench/tune.py --out "$out" --table "$table" --device "$device" --seconds 50 "${dry[@]}"
    # Every kernel compiled and checked, in many processes, and timed, once a build: then auto knows what to take.
    ((${#tiny[@]})) || part warm 90 "$python" bench/gpu/warm.py "${common[@]}" --seconds 80
    part info 20 "$python" -m trm_fast.cli info --json
    mkdir -p "$out/.cache" && cp "$out"/.cache/trm_fast/self_check/winners-*.json "$out/" 2>/dev/null
    [[ -f $out/warm.error.json ]] || touch "$ready"
fi
spent=$SECONDS
for chosen in "${parts[@]}"; do
    case $chosen in
        a) part a "$(left 240 90)" "$python" bench/gpu/checks.py "${common[@]}" --seconds "$(left 230 80)" ;;
        b) part b "$(left 280 240)" "$python" bench/gpu/ops.py "${common[@]}" ;;
        c)
            if [[ $device == cpu ]]; then
                part c 200 "$python" bench/end_to_end.py --only train:sudoku-4x4:64 --threads 1 --repeats 1 --json --out "$out/end_to_end.json"
            else
                cases=(train:mixer97:768 train:attention97:768 train:mixer97:8)
                # The peer's compiler works while the eager peer is measured: both sides of a ratio take turns.
                part c_compile 155 nice "$python" bench/gpu/warm.py "${common[@]}" --seconds 145 --baseline "${cases[@]}" &
                cuda=(--device cuda --json --repeats 10 --patience 90 --also "$out/end_to_end.json")
                part c_eager "$(left 155 140)" "$python" bench/end_to_end.py "${cuda[@]}"
                wait
                # Of the layers alone first: that compiles in seconds, and so there is a number in any case.
                part c_compiled_net 70 "$python" bench/end_to_end.py "${cuda[@]}" --baseline compiled-net "${cases[@]/#/--only=}"
                part c_compiled 75 "$python" bench/end_to_end.py "${cuda[@]}" --baseline compiled "${cases[@]/#/--only=}"
            fi
            ;;
        d) part d "$(left 120 110)" "$python" bench/gpu/solver.py "${common[@]}" ;;
        e)
            ((${#tiny[@]})) && last=(--minutes 0.2 "${last[@]}")
            part e 480 "$python" bench/gpu/train.py "${common[@]}" --data "$data" "${last[@]}"
            ;;
    esac
    spent=0
done
exit 0
