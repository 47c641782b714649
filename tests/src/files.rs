//! Directories of daemons that do not run: copied aside and put back, as backups and clones of machines are.

use std::path::Path;
use std::process::Command;

/// Copies a file or directory with everything that belongs to it; `to` must not be there.
pub fn copy(from: &Path, to: &Path) {
    assert!(!to.exists(), "`{}` is there", to.display());
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success(), "copy `{}` to `{}`", from.display(), to.display());
}

/// Puts a copy in the place of what is there.
pub fn put_back(copied: &Path, place: &Path) {
    let removed = Command::new("rm").arg("-rf").arg(place).status().unwrap();
    assert!(removed.success(), "remove `{}`", place.display());
    copy(copied, place);
}
