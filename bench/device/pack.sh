#!/usr/bin/env bash
# Packs all that a GPU machine without network lacks into DEST, a folder that git ignores. Run it in the project's root:
#
#   bench/device/pack.sh .device              # some minutes (most of it compressing), about 60 MB
#   bench/device/pack.sh --pieces .device     # the whole CUDA library in pieces: .device-1, .device-2, ...
#   bench/device/pack.sh --only-code .device  # without ONNX Runtime, for a trial here
#   PROJECT=../main PATH/TO/pack.sh .device   # in another repository: takes the project's code along
#
# Needs Python 3 with pip and a package index, xz, tar; for the graphs, the project's environment (PYTHON, default
# .venv/bin/python of the project). The wheel is kept in CACHE (default: .cache/devicekit).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
project=$(cd "${PROJECT:-$here/../..}" && pwd)
pieces= only_code=
case "${1:-}" in
    --pieces) pieces=1; shift ;;
    --only-code) only_code=1; shift ;;
esac
dest=${1:?where to?}
ort=${ORT_VERSION:-1.31.1}
cache=${CACHE:-$HOME/.cache/devicekit}
graphs=${GRAPHS:-$project/build/bench/graphs}
piece_size=45M
limit=$((64 * 1024 * 1024))
for_code=(--x86 "--lzma2=preset=9e,dict=128MiB")  # 2 % smaller than -9
library=onnxruntime/capi/libonnxruntime_providers_cuda.so

fetch() { # NAME==VERSION, as wheels for the device's Python
    python3 -m pip --disable-pip-version-check -q download --no-deps --only-binary=:all: --python-version 3.12 \
        --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d "$cache" "$1"
}

pack_runtime() {
    mkdir -p "$cache"
    fetch "onnxruntime-gpu==$ort"
    fetch onnx-graphsurgeon

    wheel=$(ls "$cache"/onnxruntime_gpu-"$ort"-cp312-*.whl)
    unpacked=$cache/onnxruntime-$ort
    if [ ! -f "$unpacked/$library" ]; then
        mkdir -p "$unpacked"
        python3 -m zipfile -e "$wheel" "$unpacked"
    fi

    # Everything but the big libraries, and packages of Python that make models.
    rest=$cache/onnxruntime-$ort-x86.tar.xz
    if [ ! -f "$rest" ]; then
        tar -C "$unpacked" --exclude "./$library" --exclude '*providers_tensorrt.so' \
            --exclude '*/libonnxruntime.so.*' --exclude ./onnxruntime/transformers \
            --exclude ./onnxruntime/quantization --exclude ./onnxruntime/tools -cf - . | xz "${for_code[@]}" > "$rest.part"
        mv "$rest.part" "$rest"
    fi
    cp "$rest" "$dest/onnxruntime.tar.xz"
    cp "$cache"/onnx_graphsurgeon-*.whl "$dest/"
}

pack_pieces() {
    whole=$cache/whole-$ort.so.xz
    [ -f "$whole" ] || { xz -6 -T0 -c "$unpacked/$library" > "$whole.part" && mv "$whole.part" "$whole"; }
    rm -rf "$dest"-[0-9]*
    split -b "$piece_size" -d -a 1 --numeric-suffixes=1 "$whole" "$cache/piece-"
    for piece in "$cache"/piece-*; do
        mkdir -p "$dest-${piece##*-}"
        mv "$piece" "$dest-${piece##*-}/"
    done
    rm -f "$dest/$(basename "$library").xz"
}

pack_pruned() {
    pruned=$cache/pruned-$ort-x86.so.xz
    if [ ! -f "$pruned" ]; then
        python3 "$here/prune.py" "$unpacked/$library" "$cache/pruned.so" --arch 90
        xz "${for_code[@]}" -c "$cache/pruned.so" > "$pruned.part"
        rm "$cache/pruned.so"
        mv "$pruned.part" "$pruned"
    fi
    cp "$pruned" "$dest/$(basename "$library").xz"
}

mkdir -p "$dest/graphs"
if [ -z "$only_code" ]; then
    pack_runtime
    if [ -n "$pieces" ]; then pack_pieces; else pack_pruned; fi
fi

"${PYTHON:-$project/.venv/bin/python}" "$project/bench/graphs.py" --out "$graphs"
cp "$graphs"/*.onnx "$dest/graphs/"
cp "$here"/*.py "$dest/"
rm -rf "$dest/project"
if [ -n "${PROJECT:-}" ]; then
    mkdir "$dest/project" "$dest/project/bench"
    cp -r "$project/netfuse_onnx" "$project/cli" "$project/sample_models" "$dest/project/"
    cp "$project"/bench/*.py "$dest/project/bench/"
    find "$dest/project" -name __pycache__ -prune -exec rm -r {} +
fi

exclude=$(git rev-parse --git-path info/exclude)
for folder in "$dest" "$dest"-[0-9]*; do
    [ -d "$folder" ] || continue
    git check-ignore -q "$folder" || echo "/$folder/" >> "$exclude"
done

# What would travel: the checkout, without what git ignores, and DEST.
tree=$(git ls-files -z --cached --others --exclude-standard | xargs -0 -r du -bc -- 2>/dev/null |
    awk '/total$/ {sum += $1} END {print sum + 0}')
kit=$(du -sb "$dest" | cut -f1)
total=$((tree + kit))
echo "checkout $((tree / 1000)) kB, $dest $((kit / 1000)) kB: $((total / 1000)) of $((limit / 1000)) kB"
du -ab "$dest" | sort -n | tail -8
[ -z "$pieces" ] || du -sb "$dest"-[0-9]*
[ "$total" -le "$limit" ] || { echo "too much to travel at once" >&2; exit 1; }
