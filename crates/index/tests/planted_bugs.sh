#!/usr/bin/env bash
# Shows that the tests catch planted bugs: builds the crate with each one (--cfg mutants="NAME") and expects each check named for it to fail.
# Run from the workspace's root:  bash crates/index/tests/planted_bugs.sh
# A wrapper around the compiler passes the flag to workspace crates alone, so that dependencies are built once.
set -u
wrappers=$(mktemp -d)
trap 'rm -rf "$wrappers"' EXIT
missed=0

# check BUG KIND TEST...: the test must fail.
check() {
    local bug=$1 kind=$2 wrapper=$wrappers/$1; shift 2
    printf '#!/bin/sh\nexec "$@" --cfg '\''mutants="%s"'\''\n' "$bug" >"$wrapper"
    chmod +x "$wrapper"
    local flags=() environment=(RUSTC_WORKSPACE_WRAPPER="$wrapper")
    if [ "$kind" = loom ]; then
        environment+=(RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/loom"); flags=(--release)
    fi
    if env "${environment[@]}" cargo test -q -p hightower-index "${flags[@]}" --test "$@" >"$wrappers/log" 2>&1; then
        echo "MISSED  $bug by $*"; missed=1
    elif grep -qE 'FAILED|panicked|signal' "$wrappers/log"; then
        echo "caught  $bug by $*: $(grep -m1 -A1 'panicked at' "$wrappers/log" | tail -1)"
    else
        echo "BROKEN  $bug by $*"; tail -5 "$wrappers/log"; missed=1
    fi
}

check missed_publish loom loom -- a_lookup_sees_a_whole_leaf_or_none
check early_free loom loom -- a_removed_value_lives_while_it_is_read
check early_free plain threads
check visible_too_soon loom loom -- a_walk_sees_a_node_replaced_whole
check slot_lost loom loom -- a_lookup_finds_its_key_while_a_segment_grows
check slot_lost plain model_check -- every_node_grows_and_shrinks
exit $missed
