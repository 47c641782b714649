//! What a daemon reads belongs to the daemon's user, whoever made it.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::Home;

/// Where root works in a home of another user, goes on as that user, by starting this program anew: what root wrote there in
/// its own name, the daemon of that user could not read. Returns where nothing is to be done, or where it cannot be done.
///
/// # Errors
/// This program cannot be started as that user.
pub fn become_owner(home: &Home) -> io::Result<()> {
    let Ok(owned) = std::fs::metadata(home.root()) else { return Ok(()) };
    if owned.uid() == 0 || !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    // Also gives up the groups that root has beside.
    let mut command = Command::new(std::env::current_exe()?);
    command.args(std::env::args_os().skip(1)).uid(owned.uid()).gid(owned.gid());
    Err(command.exec())
}
