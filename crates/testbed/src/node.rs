use std::fmt::{self, Write as _};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::panic;
use std::path::PathBuf;
use std::process::{self, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::lab::Link;
use crate::{Error, Result, sys};

/// Settings of every node that must exist. IPv4 settings are inherited from the default namespace
/// (`net.core.devconf_inherit_init_net`), so those that matter are written even where the kernel's
/// default would do.
const SYSCTLS: &[(&str, &str)] = &[
    ("net.ipv4.ip_forward", "0"),
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
    ("net.ipv6.conf.all.disable_ipv6", "0"),
    ("net.ipv6.conf.default.disable_ipv6", "0"),
    // Without duplicate address detection, addresses are usable at once.
    ("net.ipv6.conf.all.accept_dad", "0"),
    ("net.ipv6.conf.default.accept_dad", "0"),
    ("net.ipv6.conf.default.router_solicitations", "0"),
];

/// A host or router: one unnamed network namespace.
///
/// It exists as long as a clone of this value, a descriptor opened in it, or a process in it does.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    name: String,
    user_namespace: Option<Arc<OwnedFd>>,
    namespace: OwnedFd,
    interfaces: AtomicUsize,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({} {})", self.0.name, self.namespace_path().display())
    }
}

/// The namespace as a person can use it, and ways to run something in it.
impl Node {
    pub(crate) fn new(name: &str, user_namespace: Option<Arc<OwnedFd>>, namespace: OwnedFd) -> Result<Self> {
        let name = name.to_owned();
        let node = Self(Arc::new(Inner {
            name,
            user_namespace,
            namespace,
            interfaces: AtomicUsize::new(0),
        }));
        node.sysctls(SYSCTLS)?;
        node.icmp_rate_limits(false)?;
        node.ip("link set lo up\n")?;
        Ok(node)
    }

    /// The name given to [`Lab::node`](crate::Lab::node).
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// For `nsenter --net=…`, while this process lives.
    pub fn namespace_path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", process::id(), self.0.namespace.as_raw_fd()).into()
    }

    /// The inode number of the namespace, as in `readlink /proc/…/ns/net`.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn namespace_inode(&self) -> Result<u64> {
        fs::metadata(self.namespace_path())
            .map(|metadata| metadata.ino())
            .map_err(Error::system(format!(
                "look at the namespace of node {}",
                self.0.name
            )))
    }

    /// A program to run in this node, with `/usr/sbin` and `/sbin` at the end of its `PATH`. In an
    /// unprivileged lab it runs as root of the lab's user namespace. `/sys` still shows the
    /// interfaces of the default namespace.
    ///
    /// The program is killed when the thread that spawned it ends, so none outlives its test. Ctrl-C
    /// ends it even where the tests run in the background of a shell, which ignores that there.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let inner = Arc::clone(&self.0);
        let parent = process::id();
        let mut command = Command::new(program);
        let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/bin:/bin".to_owned());
        command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
        let join = move || {
            inner.join_from_child()?;
            sys::heed_interrupt();
            sys::die_with_parent(parent)
        };
        // SAFETY: the closure only makes system calls on values prepared before the fork.
        unsafe { command.pre_exec(join) };
        command
    }

    /// As [`Node::command`], but without any privilege: as the user and the group *nobody* where
    /// this process may change to them, and without capabilities in any case.
    pub fn command_as_nobody(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let parent = process::id();
        let may_change_user = self.0.user_namespace.is_none();
        let mut command = self.command(program);
        let drop_privileges = move || {
            sys::become_nobody(may_change_user)?;
            // Changing the user has cleared it.
            sys::die_with_parent(parent)
        };
        // SAFETY: the closure only makes system calls.
        unsafe { command.pre_exec(drop_privileges) };
        command
    }

    /// Runs a closure on a new thread that is in this node, and returns what it returns. Threads
    /// that the closure starts are in the node as well. A panic in the closure goes on in the
    /// caller.
    ///
    /// # Errors
    /// In an unprivileged lab: only a process of one thread can join a user namespace. Use
    /// [`Node::command`] or the sockets of this type, or run all tests as `unshare -Ur cargo test`,
    /// which makes privileged labs possible.
    pub fn enter<T: Send>(&self, closure: impl FnOnce() -> T + Send) -> Result<T> {
        let what = format!(
            "enter node {} (in an unprivileged lab: use `unshare -Ur`)",
            self.0.name
        );
        let in_thread = || {
            sys::setns(self.0.namespace.as_fd(), libc::CLONE_NEWNET)?;
            Ok(closure())
        };
        thread::scope(|scope| scope.spawn(in_thread).join())
            .unwrap_or_else(|payload| panic::resume_unwind(payload))
            .map_err(Error::system(what))
    }

    /// Runs a program in this node with `input` as its standard input, until it ends. Returns its
    /// standard output.
    fn run(&self, mut command: Command, input: &str, package: &'static str) -> Result<String> {
        let program = command.get_program().to_string_lossy().into_owned();
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Error::MissingTool {
                program: program.clone(),
                package,
            },
            _ => Error::System {
                what: format!("run {program} in node {}", self.0.name),
                source,
            },
        })?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that stops reading has failed, and says why below.
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = child
            .wait_with_output()
            .map_err(Error::system(format!("wait for {program}")))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(Error::Tool {
            program,
            node: self.0.name.clone(),
            stderr,
        })
    }
}

/// Interfaces, routes and settings.
impl Node {
    /// Runs `ip` commands, one a line and without the word `ip`. ip(8), option `-batch`
    ///
    /// # Errors
    /// When `ip` is missing or one of the commands fails; those before it have been carried out.
    pub fn ip(&self, script: &str) -> Result<()> {
        self.ip_with(script, None).map(drop)
    }

    /// As [`Node::ip`]; the script may name the namespace of `peer` as [`Node::inherited_path`].
    pub(crate) fn ip_with(&self, script: &str, peer: Option<&Node>) -> Result<String> {
        let mut command = self.command("ip");
        command.args(["-batch", "-"]);
        if let Some(peer) = peer.cloned() {
            let keep = move || sys::keep_across_exec(peer.0.namespace.as_raw_fd());
            // SAFETY: one system call on an open descriptor.
            unsafe { command.pre_exec(keep) };
        }
        self.run(command, script, "iproute2")
    }

    /// Waits until the kernel has noticed the carrier of these interfaces, which it does in the
    /// background: before that it drops what they send. `ip` reads the state under the lock under
    /// which the kernel changes it.
    pub(crate) fn wait_until_up(&self, interfaces: &[&str]) -> Result<()> {
        let mut script = String::new();
        for interface in interfaces {
            let _ = writeln!(script, "link show dev {interface}");
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.ip_with(&script, None)?.matches(" state UP ").count() < interfaces.len() {
            if Instant::now() > deadline {
                let what = format!("bring up {interfaces:?} in node {}", self.0.name);
                return Err(Error::system(what)(io::ErrorKind::TimedOut.into()));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// What a child that has inherited the descriptor calls this namespace. Not
    /// [`Node::namespace_path`], because a process in the user namespace of the lab may not look
    /// into this one.
    fn inherited_path(&self) -> String {
        format!("/proc/self/fd/{}", self.0.namespace.as_raw_fd())
    }

    /// Routes `prefix` (or `0.0.0.0/0`, `::/0`) through the router with the address `gateway`.
    ///
    /// # Errors
    /// As [`Node::ip`].
    pub fn route_via(&self, prefix: &str, gateway: &str) -> Result<()> {
        self.ip(&format!("route replace {prefix} via {gateway}\n"))
    }

    /// Routes `prefix` into an interface, such as one made by [`Node::tun`].
    ///
    /// # Errors
    /// As [`Node::ip`].
    pub fn route_dev(&self, prefix: &str, interface: &str) -> Result<()> {
        self.ip(&format!("route replace {prefix} dev {interface}\n"))
    }

    /// Sets a kernel parameter of this node, such as `net.ipv4.tcp_sack` to `0`.
    ///
    /// # Errors
    /// When the kernel has no such parameter for network namespaces, or refuses the value.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        self.sysctls(&[(name, value)])
    }

    pub(crate) fn sysctls(&self, settings: &[(&str, &str)]) -> Result<()> {
        let script: String = settings
            .iter()
            .map(|(name, value)| set_sysctl(name, value))
            .collect();
        self.sh(&script)
    }

    /// Whether this node limits how many ICMP errors it sends, as Linux does by default; nodes
    /// start without limits.
    ///
    /// # Errors
    /// As [`Node::sysctl`].
    pub fn icmp_rate_limits(&self, limited: bool) -> Result<()> {
        // ip-sysctl.rst; the values for `limited` are the kernel's defaults.
        let v4 = if limited { ("1000", "6168") } else { ("0", "0") };
        let v6 = if limited { ("1000", "0-1,3-127") } else { ("0", "") };
        let global = if limited {
            ("1000", "50")
        } else {
            ("1000000", "1000000")
        };
        let mut script =
            set_sysctl("net.ipv4.icmp_ratelimit", v4.0) + &set_sysctl("net.ipv4.icmp_ratemask", v4.1);
        script += &set_sysctl("net.ipv6.icmp.ratelimit", v6.0);
        // Linux 5.2 has the first of these; before 6.14 the other two are not per namespace. The
        // masks above already exempt every type from both limits.
        script += &set_sysctl_if_present("net.ipv6.icmp.ratemask", v6.1);
        script += &set_sysctl_if_present("net.ipv4.icmp_msgs_per_sec", global.0);
        script += &set_sysctl_if_present("net.ipv4.icmp_msgs_burst", global.1);
        self.sh(&script)
    }

    fn sh(&self, script: &str) -> Result<()> {
        let mut command = self.command("sh");
        command.args(["-e", "-s"]);
        self.run(command, script, "dash").map(drop)
    }

    /// Makes a TUN device with these addresses, up. Each read from the result gives one packet that
    /// the node sent into the device, starting at its IP header; each write is one packet that the
    /// node receives from it. The kernel sends packets of its own (IPv6 multicast reports), so
    /// readers skip what they do not know. Dropping the result removes the device.
    ///
    /// # Errors
    /// When `/dev/net/tun` does not exist or this user may not open it, or as [`Node::ip`].
    pub fn tun(&self, name: &str, addresses: &[&str]) -> Result<File> {
        let mut c_name = [0; libc::IFNAMSIZ];
        for (to, from) in c_name[..libc::IFNAMSIZ - 1].iter_mut().zip(name.bytes()) {
            *to = from.cast_signed() as libc::c_char;
        }
        let tun = self
            .open(move || sys::open_tun(c_name))
            .map_err(Error::system(format!(
                "make a TUN device in node {} with /dev/net/tun",
                self.0.name
            )))?;
        self.ip(&configure(name, addresses))?;
        Ok(tun.into())
    }

    fn next_interface(&self) -> String {
        format!("eth{}", self.0.interfaces.fetch_add(1, Ordering::Relaxed))
    }
}

/// Sockets in the node for this process.
impl Node {
    /// A socket of any kind, such as `(libc::AF_PACKET, libc::SOCK_DGRAM, …)` to watch the node's
    /// packets.
    ///
    /// # Errors
    /// When the system refuses the socket.
    pub fn socket(&self, domain: i32, kind: i32, protocol: i32) -> Result<OwnedFd> {
        self.open(move || sys::socket(domain, kind, protocol))
            .map_err(Error::system(format!("open a socket in node {}", self.0.name)))
    }

    /// A bound UDP socket.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn udp_socket(&self, address: SocketAddr) -> Result<UdpSocket> {
        self.open(move || UdpSocket::bind(address).map(OwnedFd::from))
            .map(UdpSocket::from)
            .map_err(Error::system(format!(
                "bind UDP {address} in node {}",
                self.0.name
            )))
    }

    /// A listening TCP socket.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn tcp_listener(&self, address: SocketAddr) -> Result<TcpListener> {
        self.open(move || TcpListener::bind(address).map(OwnedFd::from))
            .map(TcpListener::from)
            .map_err(Error::system(format!(
                "listen on TCP {address} in node {}",
                self.0.name
            )))
    }

    /// Opens a descriptor in this node; `make` is bound by the rules of [`sys::fd_from_child`].
    fn open(&self, make: impl Fn() -> io::Result<OwnedFd> + Send + Sync + 'static) -> io::Result<OwnedFd> {
        let inner = Arc::clone(&self.0);
        sys::fd_from_child(move || {
            inner.join_from_child()?;
            make()
        })
    }
}

/// What a reject rule answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reject {
    /// Destination unreachable, administratively prohibited: IPv4 code 13, IPv6 code 1.
    AdminProhibited,
    /// Destination unreachable, host unreachable (IPv4 code 1) or address unreachable (IPv6 code
    /// 3).
    HostUnreachable,
    /// Destination unreachable, port unreachable: IPv4 code 3, IPv6 code 4.
    PortUnreachable,
    /// A TCP segment with RST; for rules that match TCP only.
    TcpReset,
}

/// Packet filters. `what` is a match in the language of nft(8), such as `tcp dport 443` or `meta
/// l4proto udp`. It holds for packets to this node and for packets that it forwards. Rules add up,
/// the first that matches wins.
impl Node {
    /// Loads a script of nftables rules. nft(8), option `-f`
    ///
    /// # Errors
    /// When `nft` is missing or refuses the script; then none of it has been loaded.
    pub fn nft(&self, script: &str) -> Result<()> {
        let mut command = self.command("nft");
        command.args(["-f", "-"]);
        self.run(command, script, "nftables").map(drop)
    }

    /// Drops packets without a word, as a filtered port does.
    ///
    /// # Errors
    /// As [`Node::nft`].
    pub fn drop_packets(&self, what: &str) -> Result<()> {
        self.nft(&incoming_rule(&format!("{what} drop")))
    }

    /// Answers packets with an error.
    ///
    /// # Errors
    /// As [`Node::nft`].
    pub fn reject(&self, what: &str, with: Reject) -> Result<()> {
        let with = match with {
            Reject::AdminProhibited => "icmpx type admin-prohibited",
            Reject::HostUnreachable => "icmpx type host-unreachable",
            Reject::PortUnreachable => "icmpx type port-unreachable",
            Reject::TcpReset => "tcp reset",
        };
        self.nft(&incoming_rule(&format!("{what} reject with {with}")))
    }

    /// Makes a router silent: it forwards, but sends no time exceeded.
    ///
    /// # Errors
    /// As [`Node::nft`].
    pub fn silence(&self) -> Result<()> {
        self.nft(
            "table inet silence { chain output { type filter hook output priority 0; \
             icmp type time-exceeded drop; icmpv6 type time-exceeded drop; }; }\n",
        )
    }
}

impl Inner {
    /// Moves the calling process, which must have one thread, into this node. Makes system calls
    /// only.
    fn join_from_child(&self) -> io::Result<()> {
        if let Some(user_namespace) = &self.user_namespace {
            sys::setns(user_namespace.as_fd(), libc::CLONE_NEWUSER)?;
        }
        sys::setns(self.namespace.as_fd(), libc::CLONE_NEWNET)
    }
}

/// Names for the interfaces of a new link, and what `ip` must do in the first node and then in the
/// second. The script of `a` needs [`Node::ip_with`] and `b`.
pub(crate) fn link_scripts<A: AsRef<str>>(
    a: &Node,
    addresses_a: &[A],
    b: &Node,
    addresses_b: &[A],
) -> (Link, String, String) {
    let link = Link {
        a: a.next_interface(),
        b: b.next_interface(),
    };
    let add = format!(
        "link add name {} type veth peer name {} netns {}\n",
        link.a,
        link.b,
        b.inherited_path()
    );
    let (script_a, script_b) = (
        add + &configure(&link.a, addresses_a),
        configure(&link.b, addresses_b),
    );
    (link, script_a, script_b)
}

/// The `ip` commands that bring an interface up and give it addresses.
fn configure<A: AsRef<str>>(interface: &str, addresses: &[A]) -> String {
    let mut script = format!("link set {interface} up\n");
    for address in addresses {
        let address = address.as_ref();
        let nodad = if address.contains(':') { "nodad" } else { "" };
        let _ = writeln!(script, "addr add {address} dev {interface} {nodad}");
    }
    script
}

fn sysctl_path(name: &str) -> String {
    format!("/proc/sys/{}", name.replace('.', "/"))
}

fn set_sysctl(name: &str, value: &str) -> String {
    format!("echo '{value}' > '{}'\n", sysctl_path(name))
}

fn set_sysctl_if_present(name: &str, value: &str) -> String {
    format!("[ ! -e '{}' ] || {}", sysctl_path(name), set_sysctl(name, value))
}

fn incoming_rule(rule: &str) -> String {
    format!(
        "table inet testbed {{ chain input {{ type filter hook input priority 0; {rule}; }}; \
         chain forward {{ type filter hook forward priority 0; {rule}; }}; }}\n"
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_missing_program_is_named_with_its_package() {
        let Some(lab) = crate::require_lab() else { return };
        let node = lab.node("a").unwrap();
        let error = node
            .run(node.command("no-such-program"), "", "its-package")
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "the program `no-such-program` is missing: install the Debian package its-package"
        );
    }

    #[test]
    fn interfaces_start_from_zero_in_each_node() {
        let Some(lab) = crate::require_lab() else { return };
        let (a, b, c) = (
            lab.node("a").unwrap(),
            lab.node("b").unwrap(),
            lab.node("c").unwrap(),
        );
        lab.link(&a, &[], &b, &[]).unwrap();
        let link = lab.link(&b, &[], &c, &[]).unwrap();
        assert_eq!((link.a.as_str(), link.b.as_str()), ("eth1", "eth0"));
    }
}
