use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread;

use crate::node::link_scripts;
use crate::{Error, Node, Result, sys};

/// A place to make [`Node`]s in, and to link them.
///
/// Labs share nothing, so any number of them may exist beside each other. Nodes live as long as a
/// clone of them does, whether or not their lab does.
#[derive(Debug)]
pub struct Lab {
    /// What owns the network namespaces; `None` when this process may make them itself.
    user_namespace: Option<Arc<OwnedFd>>,
}

/// The names of the two interfaces that a link made.
#[derive(Debug, Clone)]
pub struct Link {
    /// The interface in the first node.
    pub a: String,
    /// The interface in the second node.
    pub b: String,
}

impl Lab {
    /// A lab whose network namespaces belong to this process's user namespace if that is allowed
    /// (root), or else to a new user namespace in which this user is root.
    ///
    /// # Errors
    /// [`Error::Refused`] where neither is allowed.
    pub fn new() -> Result<Self> {
        match new_network_namespace(None) {
            Ok(_) => Ok(Self { user_namespace: None }),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let user_namespace = new_user_namespace().map_err(Error::Refused)?;
                Ok(Self {
                    user_namespace: Some(Arc::new(user_namespace)),
                })
            }
            Err(error) => Err(Error::Refused(error)),
        }
    }

    /// Whether the nodes belong to a user namespace of their own: then [`Node::enter`] is refused.
    pub fn is_unprivileged(&self) -> bool {
        self.user_namespace.is_some()
    }

    /// A new host: loopback only, no forwarding, no ICMP rate limits. The name is for error
    /// messages.
    ///
    /// # Errors
    /// When the system refuses, or `ip` or `sh` is missing.
    pub fn node(&self, name: &str) -> Result<Node> {
        let namespace = new_network_namespace(self.user_namespace.clone()).map_err(Error::system(
            format!("make the network namespace of node {name}"),
        ))?;
        Node::new(name, self.user_namespace.clone(), namespace)
    }

    /// A new host that forwards IPv4 and IPv6.
    ///
    /// # Errors
    /// As [`Lab::node`].
    pub fn router(&self, name: &str) -> Result<Node> {
        let node = self.node(name)?;
        node.sysctls(&[
            ("net.ipv4.ip_forward", "1"),
            ("net.ipv6.conf.all.forwarding", "1"),
        ])?;
        Ok(node)
    }

    /// Connects two nodes of this lab with a pair of Ethernet interfaces, up and usable at once.
    /// Addresses are written `10.0.0.1/24` or `fd00::1/64`.
    ///
    /// # Errors
    /// When `ip` is missing or refuses.
    pub fn link(&self, a: &Node, addresses_a: &[&str], b: &Node, addresses_b: &[&str]) -> Result<Link> {
        let (link, script_a, script_b) = link_scripts(a, addresses_a, b, addresses_b);
        a.ip_with(&script_a, Some(b))?;
        b.ip(&script_b)?;
        a.wait_until_up(&[&link.a])?;
        b.wait_until_up(&[&link.b])?;
        Ok(link)
    }
}

/// A lab for a test, or `None` where the system refuses one.
///
/// # Panics
/// Where the system refuses a lab and the environment variable `CI` is set: there, a test that did
/// not run must not pass. Elsewhere one line on standard error says which test was not run, and
/// why.
pub fn require_lab() -> Option<Lab> {
    match Lab::new() {
        Ok(lab) => Some(lab),
        Err(error) => {
            not_run(&error.to_string());
            None
        }
    }
}

/// Says that the calling test is not run, because something is missing that [`require_lab`] does
/// not cover.
///
/// # Panics
/// Where the environment variable `CI` is set, as [`require_lab`] does.
pub fn not_run(reason: &str) {
    assert!(
        std::env::var_os("CI").is_none(),
        "cannot run this test, and CI is set: {reason}"
    );
    let thread = thread::current();
    // Not eprintln!, whose output the test harness keeps to itself when a test passes.
    let _ = writeln!(
        io::stderr(),
        "not run: {}: {reason}",
        thread.name().unwrap_or("test")
    );
}

fn new_network_namespace(user_namespace: Option<Arc<OwnedFd>>) -> io::Result<OwnedFd> {
    sys::fd_from_child(move || {
        if let Some(user_namespace) = &user_namespace {
            sys::setns(user_namespace.as_fd(), libc::CLONE_NEWUSER)?;
        }
        sys::unshare(libc::CLONE_NEWNET)?;
        File::open("/proc/self/ns/net").map(OwnedFd::from)
    })
}

/// A user namespace in which this user is root, and may make network namespaces.
/// `user_namespaces(7)`
fn new_user_namespace() -> io::Result<OwnedFd> {
    // SAFETY: neither call has arguments, and neither can fail.
    let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
    let (user_map, group_map) = (format!("0 {user} 1"), format!("0 {group} 1"));
    sys::fd_from_child(move || {
        sys::unshare(libc::CLONE_NEWUSER)?;
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", &user_map)?;
        fs::write("/proc/self/gid_map", &group_map)?;
        // AppArmor may allow the user namespace and then none of its privileges: better to know
        // now.
        sys::unshare(libc::CLONE_NEWNET)?;
        File::open("/proc/self/ns/user").map(OwnedFd::from)
    })
}
