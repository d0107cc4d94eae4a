#!/usr/bin/env bash
# What is owed of a GPU, in quarters of an hour: README.md says what to bring and how to go on.
#
#     benchmarks/gpu.sh first            # or second, third, fourth; again for what is left of it
#     benchmarks/gpu.sh first --dry      # on a CPU, very small: whether it runs
#
# Exit status 0: all is measured; 1: something failed, see its record; 2: it cannot run here; 3: call again for what is left.
# OUT: where the archive goes (.); BUDGET: seconds of the call (560); WORK: what stays on the machine between calls;
# DATA: CIFAR-10's parquet files (.gpu/data); WHEELS: packages that Python lacks (.whl); MEASURED: records of what is not to
# be measured again (benchmarks/results/gpu); PYTHON: the interpreter (the checkout's .venv, else python3).
set -u
cd "$(dirname "$0")/.."
part=${1:-} dry=${2:-}
case $part in first | second | third | fourth) ;; *) sed -n 4,5p "$0" >&2 && exit 2 ;; esac
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
out=${OUT:-.} budget=${BUDGET:-560} work=${WORK:-${TMPDIR:-/tmp}/sparring-gpu}
data=${DATA:-.gpu/data} wheels=${WHEELS:-.whl} measured=${MEASURED:-benchmarks/results/gpu}

if ! compgen -G "$data/train*.parquet" >/dev/null; then
    echo "There is no $data/train*.parquet: see benchmarks/README.md." >&2
    exit 2
fi
mkdir -p "$out" "$work/records" "$work/site"
cp -n "$measured"/*.json "$work/records" 2>/dev/null # what is in the repository is not measured again
exec > >(trap '' TERM INT && exec tee -a "$work/records/$part.log") 2>&1
archive() { tar czf "$out/.$part" -C "$work" records && mv "$out/.$part" "$out/$part.tgz"; }
trap archive EXIT # whatever happens
trap 'kill $(jobs -p) 2>/dev/null; exit 3' TERM INT

if compgen -G "$wheels/*.whl" >/dev/null; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$work/site" "$wheels"/*.whl || exit 2
fi
export PYTHONPATH=$work/site:src:.${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
export SPARRING_CACHE=${SPARRING_CACHE:-$work/images} TORCHINDUCTOR_CACHE_DIR=$work/compiled
export COMMIT=${COMMIT:-$(cat .gpu/commit 2>/dev/null)}
"$python" -c "import benchmarks.gpu.stages, sparring.data.hub" || exit 2

status=0 jobs=()
say() { echo "[$SECONDS s] $*"; }
note() { (($1 == 0 || status == 1)) || status=$1; } # a failure is said before what is left
# begin SECONDS NAME...: take those that have no record, for so many seconds at most and no longer than the call has. What
# would have less than half of its seconds is left for another call.
begin() {
    local limit=$1 left=$((budget - SECONDS)) names=() name
    shift
    for name; do [ -e "$work/records/$name.json" ] || names+=("$name"); done
    ((${#names[@]})) || return
    if ((2 * left < limit)); then
        say "left for another call: ${names[*]}"
        note 3
        return
    fi
    timeout -k 20 $((left < limit ? left : limit)) \
        "$python" -m benchmarks.gpu "${names[@]}" --data "$data" --folder "$work" $dry &
    jobs+=("$! ${names[*]}")
}
finish() {
    local job code
    for job in ${jobs[@]+"${jobs[@]}"}; do
        wait "${job%% *}"
        code=$?
        ((code > 2)) && say "stopped before its end: one of ${job#* }" && code=3
        note "$code"
    done
    jobs=()
    archive
}
alone() { begin "$@" && finish; }

# Whether captured steps are right, all methods side by side, while images are decoded and networks compiled; then step
# times; then a whole run, and the usual research steps.
first() {
    local kinds
    for kinds in "mep awp-trades-10 standard free-8 cat-7" "fgsm-rs awp-pgd-10 n-fgsm ckpt sat-10 fgsm-at" \
        "pgd-10 awp-mep bp gat dart-10" "sdi trades-10 ep nuat gairat-10 mart-10" "las gradalign lbgat fat-10"; do
        begin 150 captured-${kinds// / captured-}
    done
    begin 150 data
    begin 150 compiled-mep compiled-pgd-10
    finish
    ((status == 1)) && say "Something is wrong: mend it first. Another call goes on without it." && exit 1
    local steps="step-mep step-pgd-10 step-fgsm-rs step-sdi step-las step-trades-10"
    alone 170 ceilings ${steps// /-graph }-graph ${steps// /-eager }-eager
    alone 90 step-mep-compile-graph step-pgd-10-compile-graph
    alone 230 run-fgsm-mep-fast-seed0
    local name
    for name in mep pgd-10 fgsm-rs trades-10 las sdi; do alone 40 "race-$name"; done
    alone 60 profile-mep profile-pgd-10
    alone 200 run-pgd-at-fast-seed0
}

# A larger batch and network, single precision; the talk's table of 30 epochs.
second() {
    local name
    alone 90 step-mep-batch-512 step-pgd-10-batch-512 step-fgsm-rs-batch-512 step-sdi-batch-512 step-las-batch-512 \
        step-mep-fp32 step-pgd-10-fp32 step-pgd-10-wideresnet-34-10
    for name in fgsm-rs fgsm-ckpt fgsm-ga fgsm-sdi fgsm-bp fgsm-ep fgsm-mep pgd-at free-at; do alone 300 "talk-$name"; done
}

# 110 epochs, AutoAttack in full and beside pyautoattack, other seeds, and single precision.
third() {
    local name
    for name in fgsm-mep fgsm-sdi fgsm-rs; do alone 300 "run-$name-seed0"; done
    alone 400 autoattack-10000
    alone 300 pyautoattack-500
    for name in seed1 seed2 fp32-seed0 fp32-seed1 fp32-seed2; do alone 300 "run-fgsm-mep-fast-$name"; done
}

# The two longest runs, of which one call begins one and the next ends it; all other step times.
fourth() {
    alone 800 run-las-at-seed0
    alone 800 run-trades-awp-best-seed0
    local others="standard fgsm-at n-fgsm ckpt gradalign free-8 nuat gat bp ep awp-mep awp-pgd-10 awp-trades-10 mart-10"
    others+=" fat-10 gairat-10 lbgat sat-10 cat-7 dart-10"
    alone 300 step-${others// /-graph step-}-graph step-las-compact step-fat-10-compact step-sat-10-compact \
        step-dart-10-compact step-fgsm-rs-compile-graph step-sdi-compile-graph step-las-compile-graph \
        step-trades-10-compile-graph
}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null
"$part"
"$python" -m benchmarks.gpu.table "$work/records"
say "$part: status $status"
exit "$status"
