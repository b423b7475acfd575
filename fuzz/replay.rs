//! Replays the committed corpora of fuzz targets, for a test of the crate that they are about.

use std::path::Path;

/// A target by its name, which is also the name of its corpus.
type Target = (&'static str, fn(&[u8]));

/// Runs each target on every file of its corpus.
pub(crate) fn replay(targets: &[Target]) {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    for (name, target) in targets {
        let directory = corpora.join(name);
        let files = std::fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
        let mut count = 0;
        for file in files {
            let path = file.unwrap().path();
            let data = std::fs::read(&path).unwrap();
            let outcome = std::panic::catch_unwind(|| target(&data));
            assert!(outcome.is_ok(), "{name} failed on {}", path.display());
            count += 1;
        }
        assert!(count > 0, "{} is empty", directory.display());
    }
}
