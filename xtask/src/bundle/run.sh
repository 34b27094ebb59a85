#!/bin/sh
# Runs the tests and benches of this folder and writes one JSON file: ./run.sh [--gpu] [RESULT.json]
# With --gpu only what needs a GPU. Needs nothing but a shell; what is missing (a GPU, its
# compiler) or left out the file says. The exit code is 1 where a program failed, or found the GPU and
# the emulator to differ.
set -u
failed=
left_out=
here=$(cd "$(dirname "$0")" && pwd)
while :; do
    case ${1:-} in
        --gpu) left_out=--gpu ;;
        -*) echo "$1: the only option is --gpu" >&2 && exit 2 ;;
        *) break ;;
    esac
    shift
done
result=${1:-result.json}
logs=$(mktemp -d) || exit 1
trap 'rm -rf "$logs"' EXIT

[ -d "$here/bin" ] || tar -xzf "$here/bin.tar.gz" -C "$here" || exit 1

# The compiler that came along, unless another one is asked for.
if [ -z "${FERROCERIUM_NVRTC_DIR:-}" ] && [ -f "$here/nvrtc.tar.xz" ]; then
    unpacked=$here/nvrtc
    if [ ! -d "$unpacked" ]; then
        mkdir "$unpacked"
        tar -xJf "$unpacked.tar.xz" -C "$unpacked" 2>/dev/null ||
            (cd "$unpacked" && python3 -c 'import tarfile; tarfile.open("../nvrtc.tar.xz").extractall()') ||
            { rmdir "$unpacked" && echo "nvrtc.tar.xz: neither tar with xz nor python3 unpacks it" >&2; }
    fi
    [ -d "$unpacked" ] && export FERROCERIUM_NVRTC_DIR="$unpacked"
fi

# quoted: standard input as a JSON string.
quoted() {
    printf '"'
    tr -d '\000-\010\013-\037' | sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/	/\\t/g' |
        awk 'NR > 1 { printf "\\n" } { printf "%s", $0 }'
    printf '"'
}

# run NAME: runs a binary with the rest as arguments; its exit code, seconds, output and log.
run() {
    name=$1
    shift
    echo "== $name $*" >&2
    start=$(date +%s)
    "$here/bin/$name" "$@" >"$logs/out" 2>"$logs/err" </dev/null
    code=$?
    seconds=$(($(date +%s) - start))
    echo "   exit code $code after $seconds s" >&2
    # Many tests say the same.
    cat "$logs/out" "$logs/err" | sed -n -e 's/^skipped: /   &/p' -e 's/^no GPU: /   &/p' |
        sort -u >&2
    [ "$code" -eq 0 ] || failed="$failed $name"
    printf '"exit": %d, "seconds": %d' "$code" "$seconds"
    if [ "$code" -ne 0 ]; then
        printf ', "log": '
        cat "$logs/out" "$logs/err" | tail -n 200 | quoted
    fi
}

# The members of the object that says what each test did.
tests() {
    comma=
    for name in $TESTS; do
        printf '%s\n    "%s": {' "$comma" "$name"
        comma=,
        if [ -n "$left_out" ] && [ "$name" != emulated ]; then
            printf '"skipped": "%s leaves out what tests the CPU"}' "$left_out"
            continue
        fi
        # Of those on the emulator the ones that are done on a GPU too.
        run "$name" ${left_out:+hardware::} --show-output
        printf ', "summary": '
        { grep '^test result: ' "$logs/out" || true; } | quoted
        # What was left out, and how near to its bound each kernel came.
        printf ', "notes": '
        { grep -e '^skipped: ' -e ' of the bound$' "$logs/out" || true; } | sort -u | quoted
        printf '}'
    done
}

# measured NAME MOST: runs a binary whose output is JSON, whole where it exits with up to that code.
measured() {
    most=$2
    run "$1" --json
    if [ "$code" -le "$most" ] && [ -s "$logs/out" ]; then
        printf ', "result": '
        cat "$logs/out"
    fi
}

benches() {
    comma=
    for name in $BENCHES; do
        printf '%s\n    "%s": {' "$comma" "$name"
        if [ -n "$left_out" ] && [ "$name" != gpu ]; then
            printf '"skipped": "%s leaves out what measures the CPU"' "$left_out"
        else
            measured "$name" 0
        fi
        printf '}'
        comma=,
    done
}

information() {
    "$here/bin/gpu_info" 2>&1 | quoted
}

graphics() {
    { nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null ||
        echo none; } | quoted
}

. "$here/contents.sh"
{
    printf '{\n  "commit": "%s",\n  "machine": ' "$COMMIT"
    uname -a | quoted
    printf ',\n  "gpu": '
    graphics
    printf ',\n  "memory": '
    information
    printf ',\n  "fidelity": {'
    # 1: it ran to the end, and there are differences.
    measured probe 1
    printf '},\n  "tests": {'
    tests
    printf '\n  },\n  "benches": {'
    benches
    printf '\n  }\n}\n'
} >"$result"
echo "written: $result" >&2
[ -z "$failed" ] || { echo "failed:$failed" >&2; exit 1; }
