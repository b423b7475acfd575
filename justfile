# What people and CI run: `just` lists the recipes, `just check` is what a change must pass.

set shell := ["bash", "-euo", "pipefail", "-c"]

# List the recipes
default:
    @just --list --unsorted

# What a change must pass; CI adds the cross checks
check: lint test doc deny

# Build both programs for use, into target/release
build:
    cargo build --release --locked --workspace --bins

# Run all tests: as root, or as a user who may make user namespaces (installs ip and nft if they are missing)
test *arguments:
    ./scripts/test {{ arguments }}

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

# Trace with the real programs, on loopback and through networks made of namespaces (part of `just test`)
e2e *arguments:
    cargo test --package datadog-traceroute-cli --locked {{ arguments }}

# Replay the committed fuzz corpora
fuzz-replay:
    cargo test --package traceroute-wire --locked --test wire corpus

# Fuzz one target for some seconds (needs the nightly toolchain and cargo-fuzz)
fuzz target seconds="60":
    cargo +nightly fuzz run {{ target }} -- -max_total_time={{ seconds }}

# N traces at once over a chain of namespaces: complete paths, RTTs, CPU, memory, sockets
load *arguments:
    cargo run --release --locked --package traceroute-bench --bin load -- {{ arguments }}

# Repeat the scenario suite, in memory and behind TUN devices; the first failure ends it
scenarios times="1":
    cargo test --no-run --locked --package traceroute-scenarios
    for round in $(seq {{ times }}); do cargo test --quiet --locked --package traceroute-scenarios --tests; done

# Line coverage of wire and engine by their own tests and the scenarios; less than 95 % is an error (needs cargo-llvm-cov)
coverage:
    cargo llvm-cov test --locked --package traceroute-wire --package traceroute-engine --package traceroute-scenarios \
        --lib --test '*' --ignore-filename-regex 'crates/(net|simnet|testbed|traceroute|scenarios)/' \
        --fail-under-lines 95 -- --skip the_library_finds_behind

# Measure
bench *arguments:
    cargo bench --workspace --locked {{ arguments }}

# RTT error against a simulated path with known delays, beside traceroute (needs root or user namespaces)
accuracy rounds="5":
    cargo build --release --locked --package traceroute-simnet --package traceroute-bench
    target/release/accuracy {{ rounds }}

# Install what linting and testing for other systems needs (Debian, root)
cross-setup:
    scripts/cross-setup

# Lint for Windows and macOS
cross-check *targets:
    scripts/cross-check {{ targets }}

# Test the Windows build under Wine (Linux, root)
cross-test-windows *what:
    scripts/cross-test-windows {{ what }}

# Link for macOS, to find symbols that do not exist there (needs python3 with venv)
cross-link-macos *architectures:
    scripts/cross-link-macos {{ architectures }}

# Everything that can be checked here about the other systems (Debian, root)
cross: cross-setup cross-check cross-test-windows cross-link-macos

# The server's page in headless Chromium (needs python3, chromium and chromedriver)
browser:
    cargo test --locked --package datadog-traceroute-server --test browser -- --ignored
