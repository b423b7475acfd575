# What people and CI run: `just` lists the recipes, `just check` is what a change must pass.

set shell := ["bash", "-euo", "pipefail", "-c"]
# The system folder comes first in the search for programs, and has another bash.
set windows-shell := ["C:/Program Files/Git/bin/bash.exe", "-euo", "pipefail", "-c"]

cargo_deny := "0.20.2"
cargo_fuzz := "0.13.2"
cargo_deb := "3.8.0"
cargo_cyclonedx := "0.5.9"
cargo_llvm_cov := "0.9.1"

# Debian's tools for what rustc's LLVM has counted, if they are there.
find_llvm := '''version=$(rustc -vV | sed -n "s/^LLVM version: \([0-9]*\).*/\1/p"); \
    if command -v "llvm-cov-$version" >/dev/null; then \
        LLVM_COV=$(command -v "llvm-cov-$version"); LLVM_PROFDATA=$(command -v "llvm-profdata-$version"); \
        export LLVM_COV LLVM_PROFDATA; \
    fi'''

# List the recipes
default:
    @just --list --unsorted

# What a change must pass; CI adds the cross checks
check: lint lint-scripts lint-workflows test doc deny test-manifests test-release

# Build both programs for use, into target/release
build:
    cargo build --release --locked --workspace --bins

# Write the manual pages of both programs to target/man
man:
    mkdir -p target/man
    cargo run --locked --package datadog-traceroute-cli --bin datadog-traceroute -- man > target/man/datadog-traceroute.1
    cargo run --locked --package datadog-traceroute-server --bin datadog-traceroute-server -- man > target/man/datadog-traceroute-server.1

# Run all tests: as root, or nearly all as a user who may make user namespaces (installs ip and nft if they are missing)
test *arguments:
    ./scripts/test {{ arguments }}

# Format all code
fmt:
    cargo fmt --all

# Check format and lints
lint: lint-code
    cargo fmt --all --check

# Check the lints of the code for this system
lint-code:
    cargo clippy --workspace --all-targets --locked -- -D warnings

# Lint shell scripts (installs shellcheck if it is missing)
lint-scripts:
    scripts/lint-scripts

# Lint the workflows, and that they do nothing but run recipes (installs actionlint and zizmor into target/lint)
lint-workflows:
    scripts/lint-workflows

# Build the documentation; a broken link is an error
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --document-private-items

# Install what checking the dependencies needs
deny-setup:
    command -v cargo-deny >/dev/null || cargo install --locked cargo-deny@{{ cargo_deny }}

# Check licences, duplicates and sources of the dependencies
deny:
    cargo deny --locked check licenses bans sources

# Check the dependencies for known vulnerabilities (fetches the advisory database)
advisories:
    cargo deny --locked check advisories

# Trace with the real programs, on loopback and through networks made of namespaces (part of `just test`)
e2e *arguments:
    cargo test --package datadog-traceroute-cli --locked {{ arguments }}

# Run both programs through the contract's matrix of protocols and targets; E2E_PUBLIC=1 adds public targets
e2e-matrix *arguments:
    ./scripts/e2e-matrix {{ arguments }}

# Replay the committed fuzz corpora
fuzz-replay:
    cargo test --locked --package traceroute-wire --package traceroute-engine --package datadog-traceroute \
        --package datadog-traceroute-server --lib --test wire --test properties targets_survive_their_corpora

# Install what fuzzing needs
fuzz-setup:
    rustup toolchain install nightly --profile minimal
    command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz@{{ cargo_fuzz }}

# Fuzz one target for some seconds (needs the nightly toolchain and cargo-fuzz)
fuzz target=env("FUZZ_TARGET") seconds=env("FUZZ_SECONDS", "60"):
    scripts/fuzz {{ target }} {{ seconds }}

# Install what `miri` needs
miri-setup:
    rustup toolchain install nightly --profile minimal --component miri,rust-src

# Look for undefined behaviour in unit tests of wire and engine, and of what of net calls no system (needs the nightly toolchain)
miri $MIRIFLAGS="-Zmiri-disable-isolation" $PROPTEST_CASES="4":
    cargo +nightly miri test --locked --target-dir target/miri --package traceroute-wire --lib
    cargo +nightly miri test --locked --target-dir target/miri --package traceroute-engine --lib -- --skip evidence
    cargo +nightly miri test --locked --target-dir target/miri --package traceroute-net --lib -- \
        ddnpm icmp_api winerror diagnosis options macos unix::clock unix::errors \
        linux::attention linux::cmsg linux::plain linux::ring linux::views

# Send the HTTP service what its OpenAPI document allows and what it does not (root or sudo, Python)
fuzz-service *arguments:
    scripts/fuzz-service {{ arguments }}

# Fuzz every target for some seconds each; 0 runs the committed corpora only, with the sanitizer
fuzz-all seconds="60":
    scripts/fuzz-all {{ seconds }}

# N traces at once over a chain of namespaces: complete paths, RTTs, CPU, memory, sockets
load *arguments:
    cargo run --release --locked --package traceroute-bench --bin load -- {{ arguments }}

# Requests at once to the service over a chain of namespaces, as docs/scaling.md has them; a missed figure is an error
server-load:
    cargo build --release --locked --package datadog-traceroute-server --package traceroute-bench
    for protocol in udp icmp "tcp&port=80"; do \
        target/release/server_load target/release/datadog-traceroute-server \
            "protocol=$protocol&traceroute-queries=1&e2e-queries=0&timeout=1000"; \
    done
    target/release/server_load target/release/datadog-traceroute-server protocol=udp 100

# Mixed and hostile load on the service for some seconds; anything left over is an error
server-soak seconds="3600" clients="8":
    cargo build --release --locked --package datadog-traceroute-server --package traceroute-bench
    target/release/server_soak target/release/datadog-traceroute-server {{ seconds }} {{ clients }}

# All attacks at once on the service with the arguments and the memory of the Kubernetes manifest (root or sudo; the figures of docs/scaling.md)
server-siege seconds="900":
    cargo build --release --locked --package datadog-traceroute-server --package traceroute-bench
    $([ "$(id -u)" = 0 ] || echo sudo) target/release/server_soak siege target/release/datadog-traceroute-server {{ seconds }}

# Each of these attacks by itself, as the table of docs/scaling.md (root or sudo)
server-attacks seconds="20":
    cargo build --release --locked --package datadog-traceroute-server --package traceroute-bench
    $([ "$(id -u)" = 0 ] || echo sudo) target/release/server_soak attacks target/release/datadog-traceroute-server {{ seconds }}

# Repeat the scenario suite, in memory and behind TUN devices (root or sudo): the first difference ends it, with no second chance
scenarios times="1":
    source scripts/privileged; \
    cargo test --no-run --locked --package traceroute-scenarios; \
    for round in $(seq {{ times }}); do SCENARIO_ONCE=1 CI=true cargo test --quiet --locked --package traceroute-scenarios --tests; done

# Install what measuring coverage needs: cargo-llvm-cov, and LLVM's tools of rustc's version, of rustup or of Debian (llvm-22)
coverage-setup:
    command -v cargo-llvm-cov >/dev/null || cargo install --locked cargo-llvm-cov@{{ cargo_llvm_cov }}
    {{ find_llvm }}; command -v "${LLVM_COV:-}" >/dev/null || rustup component add llvm-tools

# Line coverage of wire and engine by their own tests and the scenarios in memory; less than 95 % is an error
coverage: coverage-setup
    {{ find_llvm }}; cargo llvm-cov test --locked --package traceroute-wire --package traceroute-engine --package traceroute-scenarios \
        --lib --test '*' --ignore-filename-regex 'crates/(net|simnet|testbed|traceroute|scenarios)/' \
        --fail-under-lines 95 -- --skip the_library_finds_behind

# Precision and recall of the causes that are named for lost probes, on so many random simulated networks
causes networks="2000":
    cargo run --release --locked --package traceroute-scenarios --bin causes -- {{ networks }} --worst

# How often multipath discovery misses something, beside the bound that it states: so many runs in memory for each shape
multipath runs="50000":
    cargo run --release --locked --package traceroute-scenarios --bin multipath -- {{ runs }}
    cargo run --release --locked --package traceroute-scenarios --bin multipath -- {{ runs }} --each

# Measure
bench *arguments:
    cargo bench --workspace --locked {{ arguments }}

# Compare the benches with those of another commit, built and run beside them; fails where a time grows by more
bench-compare base=env("BENCH_BASE", "origin/main") limit="1.5":
    scripts/bench-compare {{ base }} {{ limit }}

# RTT error against a simulated path with known delays, beside traceroute: the table of docs/accuracy.md (needs root)
accuracy rounds="5":
    cargo build --release --locked --package traceroute-simnet --package traceroute-bench
    target/release/accuracy {{ rounds }}

# This tool beside traceroute, tcptraceroute, mtr, scamper and Trippy, those of them that are installed, on the same simulated paths: the table of docs/comparison.md (needs root)
compare rounds="5" *tools:
    cargo build --release --locked --package datadog-traceroute-cli --package traceroute-simnet --package traceroute-bench
    target/release/compare {{ rounds }} {{ tools }}
    target/release/compare_paths 1

# Tests that take minutes, or a CPU for themselves: a flood of 100,000 packets a second, the limits of real kernels
slow:
    source scripts/privileged; \
        cargo test --locked --package traceroute-scenarios --test flood --test false_loss --test limits -- --ignored

# Test the look-up of names in the static programs that releases are made of (Linux; installs musl-gcc if it is missing)
test-musl:
    scripts/test-musl

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

# The same on any Linux with Docker; privileged, to make network namespaces
cross-in-debian:
    docker run --rm --privileged --env CI --volume "$PWD:/source" --workdir /source debian:bookworm bash -c \
        'apt-get update -qq && apt-get install -y -qq ca-certificates iproute2 nftables >/dev/null && \
         scripts/cross-setup && scripts/cross-check && scripts/cross-test-windows && scripts/cross-link-macos'

# Install what testing the server's page needs, unless a chromedriver is there with its browser (Debian, root or sudo)
browser-setup:
    command -v chromedriver >/dev/null || \
        { source scripts/release/common; install_package python3 chromium chromium-driver; }
    test -f target/browser/node_modules/axe-core/axe.min.js || scripts/npm-install target/browser axe-core@4.10.3

# The server's page in headless Chromium, its accessibility checked by axe; pictures go to `screenshots` (needs python3, chromium and chromedriver)
browser screenshots="target/browser/pictures":
    mkdir -p {{ screenshots }}
    source scripts/privileged; \
        SCREENSHOTS=$(realpath {{ screenshots }}) AXE=$(realpath target/browser/node_modules/axe-core/axe.min.js) \
        cargo test --locked --package datadog-traceroute-server --test browser -- --ignored

# Pictures of what a person sees of a trace, beside traceroute, mtr and Trippy: those of docs/sessions.md (needs root, these tools and Python with venv)
terminal-pictures folder="docs/images":
    cargo build --locked --package datadog-traceroute-cli --package traceroute-simnet
    test -d target/pictures || python3 -m venv target/pictures
    target/pictures/bin/pip install --quiet --disable-pip-version-check pyte==0.8.2
    PATH=$PWD/target/debug:$PATH target/pictures/bin/python scripts/terminal-pictures.py {{ folder }}

# A real Prometheus scrapes the service; metrics and alert rules checked by promtool (Debian; unpacks its prometheus)
test-prometheus:
    scripts/test-prometheus

# Let ICMP errors through the firewall of Windows, for tests (Windows, administrator)
windows-firewall:
    netsh advfirewall firewall add rule name=traceroute-time-exceeded dir=in action=allow protocol=icmpv4:11,any
    netsh advfirewall firewall add rule name=traceroute-unreachable dir=in action=allow protocol=icmpv4:3,any
    netsh advfirewall firewall add rule name=traceroute-time-exceeded-6 dir=in action=allow protocol=icmpv6:3,any
    netsh advfirewall firewall add rule name=traceroute-unreachable-6 dir=in action=allow protocol=icmpv6:1,any

# Check that the programs install from source, into a folder that is thrown away
test-install:
    folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; \
        for crate in cli server; do cargo install --quiet --locked --root "$folder" --path crates/$crate; done; \
        "$folder/bin/datadog-traceroute" version; "$folder/bin/datadog-traceroute-server" version

# Install what making the Debian packages needs
deb-setup:
    command -v cargo-deb >/dev/null || cargo install --locked cargo-deb@{{ cargo_deb }}

# Install what making a release needs
release-setup: deb-setup
    command -v cargo-cyclonedx >/dev/null || cargo install --locked cargo-cyclonedx@{{ cargo_cyclonedx }}

# Build both programs for a target and pack them into dist/, e.g. for x86_64-unknown-linux-musl
release-build target=env("TARGET"):
    scripts/release/build {{ target }}

# The same for Linux with glibc, built where that is old (Docker)
release-build-for-old-glibc target=env("TARGET"):
    scripts/release/build-for-old-glibc {{ target }}

# Make the Debian packages in dist/, after `release-build` of the same target
deb target=env("TARGET", "x86_64-unknown-linux-musl"):
    scripts/release/deb {{ target }}

# Install, run and remove the Debian packages in dist/, in a copy of this system that is thrown away (root)
test-deb:
    scripts/test-deb

# List what the programs are made of, in dist/
sbom:
    scripts/release/sbom

# Fill version and checksums of a release into the manifests for Homebrew and winget
manifests folder="dist":
    scripts/release/manifests {{ folder }}

# Test filling in the manifests
test-manifests:
    scripts/test-manifests

# Write dist/SHA256SUMS
checksums:
    scripts/release/checksums

# Test what makes a release of files that were built elsewhere
test-release:
    scripts/test-release

# Check that a tag, if one is given, and CHANGELOG.md say the version that Cargo.toml does
release-check tag=env("RELEASE_TAG", ""):
    scripts/release/check {{ tag }}

# Pack the four crates that are published, and build them from their packages
package:
    cargo package --locked --allow-dirty --package traceroute-wire --package traceroute-engine --package traceroute-net --package datadog-traceroute

# Compare the published crates' interfaces with those of the release before (installs cargo-semver-checks if it is missing)
semver base:
    command -v cargo-semver-checks >/dev/null || cargo install --quiet --locked cargo-semver-checks
    cargo semver-checks --baseline-rev {{ base }} --package traceroute-wire --package traceroute-engine --package traceroute-net --package datadog-traceroute

# Build the server's image for this machine's processor, and run it
image arch=env("ARCH", "amd64"):
    scripts/release/image build {{ arch }}

# Push the image that `image` has built (environment: REGISTRY_USER, REGISTRY_TOKEN)
image-push arch=env("ARCH"):
    scripts/release/image push {{ arch }}

# Join the pushed images of all processors under the version
image-publish:
    scripts/release/image publish

# Make the release on GitHub out of dist/ (environment: GH_TOKEN)
release-publish tag=env("RELEASE_TAG"):
    scripts/release/publish {{ tag }}
