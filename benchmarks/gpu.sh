#!/usr/bin/env bash
# Measures everything that is owed of a GPU, one call of at most nine minutes after the other:
#
#     benchmarks/gpu.sh --data DIR [--out DIR] [--only PREFIX]      # DIR: CIFAR-10's parquet files
#     benchmarks/gpu.sh --data DIR --out DIR --dry                  # on a CPU, very small: whether it runs
#
# Needs nothing from outside. PYTHON names the interpreter (default: the checkout's .venv, else python3), WHEELS a folder
# of wheels for packages that it lacks. Exit status 3: call again, it goes on where it stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
path=src:.
if [ -n "${WHEELS:-}" ]; then
    site=$(mktemp -d)
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$WHEELS"/*.whl
    path=$path:$site
fi
# One folder for compiled kernels, so that a second call does not compile them again.
export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-${TMPDIR:-/tmp}/sparring-inductor}
PYTHONPATH=$path${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 exec "$python" -m benchmarks.speed.gpu "$@"
