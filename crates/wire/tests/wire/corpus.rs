//! Replays the fuzz targets' committed corpora.

use std::path::Path;

use crate::support::targets;

#[test]
fn targets_survive_their_corpora() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    for (name, target) in targets::ALL {
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
