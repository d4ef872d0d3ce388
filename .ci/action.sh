#!/usr/bin/env bash
# The step of the GitHub Action (action.yml): installs netfuse-onnx into an environment of its own, which later
# steps of the job use again, and runs action.py there.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ -n "${INPUT_VERSION:-}" ]; then
    wanted="netfuse-onnx[cpu]==$INPUT_VERSION"
else
    wanted="${here}[cpu]"
fi

venv=${RUNNER_TEMP:-${TMPDIR:-/tmp}}/netfuse-onnx-venv
if [ "$(cat "$venv/installed" 2>/dev/null || true)" != "$wanted" ]; then
    echo "::group::Install netfuse-onnx"
    "${INPUT_PYTHON:-python3}" -m venv --clear "$venv"
    python=$venv/bin/python
    [ -x "$python" ] || python=$venv/Scripts/python.exe
    "$python" -m pip install --quiet --disable-pip-version-check "$wanted"
    printf '%s' "$wanted" >"$venv/installed"
    echo "::endgroup::"
fi

python=$venv/bin/python
[ -x "$python" ] || python=$venv/Scripts/python.exe
exec "$python" "$here/.ci/action.py"
