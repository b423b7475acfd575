# Filled in by `just manifests`.
class DatadogTraceroute < Formula
  desc "Measures network paths with ICMP, UDP and TCP probes"
  homepage "https://github.com/DataDog/datadog-traceroute"
  version "@VERSION@"
  license "Apache-2.0"

  on_macos do
    on_arm do
      url "https://github.com/DataDog/datadog-traceroute/releases/download/v@VERSION@/datadog-traceroute-@VERSION@-aarch64-apple-darwin.tar.gz"
      sha256 "@SHA256:datadog-traceroute-@VERSION@-aarch64-apple-darwin.tar.gz@"
    end
    on_intel do
      url "https://github.com/DataDog/datadog-traceroute/releases/download/v@VERSION@/datadog-traceroute-@VERSION@-x86_64-apple-darwin.tar.gz"
      sha256 "@SHA256:datadog-traceroute-@VERSION@-x86_64-apple-darwin.tar.gz@"
    end
  end

  on_linux do
    on_arm do
      url "https://github.com/DataDog/datadog-traceroute/releases/download/v@VERSION@/datadog-traceroute-@VERSION@-aarch64-unknown-linux-musl.tar.gz"
      sha256 "@SHA256:datadog-traceroute-@VERSION@-aarch64-unknown-linux-musl.tar.gz@"
    end
    on_intel do
      url "https://github.com/DataDog/datadog-traceroute/releases/download/v@VERSION@/datadog-traceroute-@VERSION@-x86_64-unknown-linux-musl.tar.gz"
      sha256 "@SHA256:datadog-traceroute-@VERSION@-x86_64-unknown-linux-musl.tar.gz@"
    end
  end

  def install
    bin.install "datadog-traceroute", "datadog-traceroute-server"
    %w[datadog-traceroute datadog-traceroute-server].each do |program|
      man1.install "man/#{program}.1"
      bash_completion.install "completions/#{program}.bash" => program
      zsh_completion.install "completions/#{program}.zsh" => "_#{program}"
      fish_completion.install "completions/#{program}.fish"
    end
  end

  def caveats
    "Tracing opens raw sockets, which takes root on macOS: sudo datadog-traceroute example.com"
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/datadog-traceroute version")
    assert_match version.to_s, shell_output("#{bin}/datadog-traceroute-server version")
  end
end
