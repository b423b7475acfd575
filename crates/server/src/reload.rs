//! Files that are read again while the service runs: on SIGHUP, and some when they change.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::auth::Tokens;
use crate::tls::Tls;

/// How often to look whether files have changed. Kubernetes replaces certificates, and sends no
/// signal.
const PERIOD: Duration = Duration::from_secs(30);

/// What is read again.
pub(crate) struct Reload {
    tokens: Arc<Tokens>,
    tls: Option<Arc<Tls>>,
    token_files: Mutex<Changes>,
    certificate_files: Mutex<Changes>,
}

impl Reload {
    pub(crate) fn new(tokens: Arc<Tokens>, tls: Option<Arc<Tls>>) -> Self {
        Reload {
            token_files: Mutex::new(Changes::of(tokens.named_file())),
            certificate_files: Mutex::new(Changes::of(tls.iter().flat_map(|tls| tls.files()))),
            tokens,
            tls,
        }
    }

    /// Reads everything again, and says what became of it.
    pub(crate) fn all(&self) {
        tell("the token", "is what it was", self.tokens.reload());
        // What is read now is no news later.
        is_changed(&self.token_files);
        is_changed(&self.certificate_files);
        self.named_tokens();
        self.certificates();
    }

    /// Reads what has changed, from now on, in a thread.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn watch(self: Arc<Self>) -> io::Result<()> {
        if self.tls.is_none() && self.tokens.named_file().is_none() {
            return Ok(());
        }
        let watch = move || {
            loop {
                thread::sleep(PERIOD);
                self.changed();
                self.tell_end();
            }
        };
        let watcher = thread::Builder::new().name("changes".to_owned());
        watcher.spawn(watch).map(drop)
    }

    fn changed(&self) {
        if is_changed(&self.token_files) {
            self.named_tokens();
        }
        if is_changed(&self.certificate_files) {
            self.certificates();
        }
    }

    fn named_tokens(&self) {
        tell("the tokens", "are what they were", self.tokens.reload_named());
        if let Err(problem) = self.tokens.check_different() {
            tracing::warn!("{problem}: it counts as the one with the name");
        }
    }

    fn certificates(&self) {
        let result = self
            .tls
            .as_ref()
            .map_or(Ok(false), |tls| tls.reload().map(|()| true));
        tell("the certificates", "are what they were", result);
        self.tell_end();
    }

    /// Warns of a certificate that ends.
    pub(crate) fn tell_end(&self) {
        if let Some(tls) = &self.tls {
            tls.tell_end(SystemTime::now());
        }
    }
}

/// Says what became of reading something again, where there is something to read.
fn tell(what: &str, unchanged: &str, result: Result<bool, String>) {
    match result {
        Ok(false) => {}
        Ok(true) => tracing::info!("read {what} again"),
        Err(error) => tracing::error!("{error}; {what} {unchanged}"),
    }
}

fn is_changed(files: &Mutex<Changes>) -> bool {
    files.lock().unwrap_or_else(PoisonError::into_inner).are_any()
}

/// Files, and how they were when they were looked at last.
struct Changes {
    files: Vec<PathBuf>,
    /// `None`: it cannot be looked at.
    seen: Vec<Option<Look>>,
}

/// When a file was written, its size in bytes, and where the system tells, which file it is and when
/// anything of it changed: who copies a file may copy the first time as well.
type Look = (SystemTime, u64, (u64, i64, i64));

impl Changes {
    fn of<'a>(files: impl IntoIterator<Item = &'a Path>) -> Self {
        let files: Vec<PathBuf> = files.into_iter().map(Path::to_owned).collect();
        let seen = look(&files);
        Changes { files, seen }
    }

    /// Whether one is another than it was.
    fn are_any(&mut self) -> bool {
        let before = std::mem::replace(&mut self.seen, look(&self.files));
        before != self.seen
    }
}

fn look(files: &[PathBuf]) -> Vec<Option<Look>> {
    let look = |path: &PathBuf| {
        let file = fs::metadata(path).ok()?;
        #[cfg(unix)]
        let id = {
            use std::os::unix::fs::MetadataExt;
            (file.ino(), file.ctime(), file.ctime_nsec())
        };
        #[cfg(not(unix))]
        let id = (0, 0, 0);
        Some((file.modified().ok()?, file.len(), id))
    };
    files.iter().map(look).collect()
}

#[cfg(all(test, unix))]
#[allow(clippy::unwrap_used, reason = "all of this is test code")]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// Kubernetes makes a link point to another folder.
    #[test]
    fn what_changes_is_read_without_a_signal() {
        let folder = std::env::temp_dir().join(format!("traceroute-changes-{}", std::process::id()));
        let file = folder.join("now/tokens.toml");
        let hashes = [
            // Of "one" and "two".
            "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed",
            "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3",
        ];
        for (index, hash) in hashes.iter().enumerate() {
            let version = folder.join(index.to_string());
            fs::create_dir_all(&version).unwrap();
            let text = format!("[tokens.a]\nsha256 = \"{hash}\"\n");
            fs::write(version.join("tokens.toml"), text).unwrap();
        }
        symlink("0", folder.join("now")).unwrap();
        let tokens = Arc::new(Tokens::load(None, Some(file)).unwrap());
        let reload = Reload::new(Arc::clone(&tokens), None);
        let is = |token: &[u8]| tokens.named().find(token).is_some();
        reload.changed();
        assert!(is(b"one") && !is(b"two"));
        symlink("1", folder.join("next")).unwrap();
        fs::rename(folder.join("next"), folder.join("now")).unwrap();
        reload.changed();
        assert!(is(b"two") && !is(b"one"));
        // Size and times of another file are copied, too.
        let file = folder.join("now/tokens.toml");
        let written = fs::metadata(&file).unwrap().modified().unwrap();
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace(hashes[1], hashes[0])).unwrap();
        let opened = fs::File::options().write(true).open(&file).unwrap();
        opened.set_modified(written).unwrap();
        reload.changed();
        assert!(is(b"one") && !is(b"two"));
        fs::remove_dir_all(folder).unwrap();
        reload.changed();
        assert!(is(b"one"));
    }
}
