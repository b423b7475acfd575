# What people and CI run: `just` lists the recipes, `just check` is what a change must pass.

set shell := ["bash", "-euo", "pipefail", "-c"]

# List the recipes
default:
    @just --list --unsorted

# Everything that a change must pass without privileges or network
check: lint test doc deny

# Build both programs for use, into target/release
build:
    cargo build --release --locked --workspace --bins

# Run all tests that need neither root nor a network
test *arguments:
    cargo test --workspace --locked {{ arguments }}

# Format all code
fmt:
    cargo fmt --all

# Check format and lints
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --locked -- -D warnings

# Build the documentation; a broken link is an error
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --document-private-items

# Check licences, duplicates and sources of the dependencies
deny:
    cargo deny --locked check licenses bans sources

# Check the dependencies for known vulnerabilities (fetches the advisory database)
advisories:
    cargo deny --locked check advisories

# Trace with the real programs, on loopback and through networks made of namespaces (Linux, root)
e2e *arguments:
    cargo test --package datadog-traceroute-cli --locked -- --ignored
    cargo test --package traceroute-testbed --locked {{ arguments }}

# Replay the committed fuzz corpora
fuzz-replay:
    cargo test --workspace --locked corpus

# Measure
bench *arguments:
    cargo bench --workspace --locked {{ arguments }}
