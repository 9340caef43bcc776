# shellcheck shell=bash
# Steps with a name, a count and a summary; a failed step does not hide the next.
# Sourced by scripts/check and scripts/test.

PASSED=() FAILED=() SKIPPED=()

# step NAME CMD...
step() {
    local name=$1
    shift
    say "== $name"
    if "$@" </dev/null; then
        PASSED+=("$name")
    else
        FAILED+=("$name")
        say "== $name: FAILED"
    fi
}

# skip NAME WHY
skip() {
    SKIPPED+=("$1: $2")
    say "== SKIPPED $1: $2"
}

# The last words, and the exit code.
summary() {
    local line
    say "== ${#PASSED[@]} steps passed, ${#FAILED[@]} failed, ${#SKIPPED[@]} skipped"
    for line in "${SKIPPED[@]}"; do say "   skipped $line"; done
    for line in "${FAILED[@]}"; do say "   FAILED  $line"; done
    [ ${#FAILED[@]} = 0 ]
}

# Cargo may be missing from PATH only because root came by sudo.
need_cargo() {
    need_packages cc:gcc libc6-dev update-ca-certificates:ca-certificates
    command -v cargo >/dev/null || PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
    command -v cargo >/dev/null || die "cargo not found: install a Rust toolchain (rustup.rs) for this user"
}

target_dir() {
    cargo metadata --no-deps --offline --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p'
}

# What needs no container runtime: format, lints, documentation, scripts.
static_steps() {
    if cargo fmt --version >/dev/null 2>&1; then
        step format cargo fmt --check
    else
        skip format "rustfmt is not installed (rustup component add rustfmt)"
    fi
    if cargo clippy --version >/dev/null 2>&1; then
        step clippy cargo clippy --locked --all-targets --all-features -- -D warnings
    else
        skip clippy "clippy is not installed (rustup component add clippy)"
    fi
    RUSTDOCFLAGS="-D warnings" step documentation cargo doc --locked --no-deps --document-private-items
    tool_step shellcheck shellcheck -x "$REPO"/scripts/{testbed,demo,test,test-demo,test-packages,check,bench,soak,package,lib.sh} \
        "$REPO"/scripts/lib/*.sh "$REPO"/packaging/deb/{postinst,prerm,postrm} "$REPO/.ci/run"
    tool_step typos typos "$REPO"
    [ ! -e "$REPO/deny.toml" ] || tool_step cargo-deny cargo deny check bans licenses sources
}

# tool_step TOOL CMD...: a named skip where the tool is missing.
tool_step() {
    local tool=$1
    shift
    if command -v "$tool" >/dev/null; then
        step "$tool" "$@"
    else
        skip "$tool" "not installed on this machine"
    fi
}
