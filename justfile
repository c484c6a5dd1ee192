# `just` shows what there is; `just test` is what CI runs before bench and fuzz.

default:
    @just --list

# Format, lints, tests, docs.
test: fmt lint
    cargo test --workspace
    RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps

# Checks the formatting.
fmt:
    cargo fmt --all --check
    cargo fmt --manifest-path fuzz/Cargo.toml --all --check
    cargo fmt --manifest-path compare/Cargo.toml --all --check

# Clippy, warnings denied.
lint:
    cargo clippy --workspace --all-targets -- -D warnings

# The main job, on real files.
scenario *args:
    cargo run --release -p fanlog-bench -- scenario {{args}}

# A workload of the bench harness: publish, fanout, deliver, ack, recover, queues, floor, compare.
bench workload *args:
    cargo run --release -p fanlog-bench -- {{workload}} {{args}}

# Tests the adapters of what fanlog is compared with (`bench compare` runs it): heavy to build.
compare-test:
    cargo test --manifest-path compare/Cargo.toml

# Runs every example.
examples:
    for example in engine/examples/*.rs; do cargo run -q -p fanlog --example "$(basename "$example" .rs)"; done

# Fuzzes one target for some seconds (cargo install cargo-fuzz).
fuzz target seconds="60":
    cargo +nightly fuzz run {{target}} -- -max_total_time={{seconds}} -len_control=0 -max_len=600

# Licences, sources and advisories of what is depended on (cargo install cargo-deny).
deny:
    cargo deny check

# All of CI, as a bare machine runs it.
ci:
    .ci/run
