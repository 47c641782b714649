//! A home that somebody else could change is not used: what lies in it decides whom a daemon believes.

use std::os::unix::fs::PermissionsExt;

use aap_types::{ExitCode, Problem};
use camino::Utf8Path;

use crate::Home;

/// What others may do with a folder of a home: read it at most.
const OTHERS_WRITE: u32 = 0o022;

/// Looks at the root of a home and the folders in it that hold state, keys and sockets, as far as they are there.
///
/// # Errors
/// `home.linked` (2): one is a link, so that whoever can write beside it chooses what is believed; `home.exposed` (2): others can write to it.
pub fn refuse_exposed(home: &Home) -> Result<(), Problem> {
    let folders = [home.config(), home.run(), home.tls(), home.agent(), home.coordinator()];
    std::iter::once(home.root().to_owned())
        .chain(folders)
        .try_for_each(|folder| refuse_exposed_folder(&folder))
}

fn refuse_exposed_folder(folder: &Utf8Path) -> Result<(), Problem> {
    // What is not there is made, and what cannot be looked at is found out by whoever needs it.
    let Ok(there) = folder.symlink_metadata() else { return Ok(()) };
    if there.file_type().is_symlink() {
        let target = folder.read_link_utf8().map(|target| target.to_string()).unwrap_or_default();
        let message = format!("`{folder}` is a link to `{target}`: state is only kept in a directory itself");
        let problem = Problem::new("home.linked", ExitCode::Usage, message);
        return Err(problem.hint_command(
            "put the directory in its place, or name the home by its own path",
            format!("mv --no-target-directory {target} {folder}"),
        ));
    }
    let mode = there.permissions().mode() & 0o777;
    if there.is_dir() && mode & OTHERS_WRITE != 0 {
        let message = format!("others can write to `{folder}` (mode {mode:04o})");
        let problem = Problem::new("home.exposed", ExitCode::Usage, message);
        return Err(problem.hint_command("make it its owner's alone", format!("chmod go-w {folder}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_that_others_could_change_is_refused_with_what_puts_it_right() {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(folder.path()).unwrap().join("home");
        let home = Home::at(root.clone());
        refuse_exposed(&home).unwrap();
        std::fs::create_dir_all(home.run()).unwrap();
        let set = |path: &Utf8Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        for (path, mode, refused) in
            [(&root, 0o700, false), (&root, 0o755, false), (&root, 0o770, true), (&home.run(), 0o1777, true)]
        {
            set(&root, 0o700);
            set(&home.run(), 0o700);
            set(path, mode);
            let looked = refuse_exposed(&home);
            assert_eq!(looked.is_err(), refused, "{path} {mode:o}");
            if let Err(problem) = looked {
                assert_eq!(problem.code, "home.exposed");
                assert_eq!(problem.hints[0].command.as_deref(), Some(&*format!("chmod go-w {path}")));
            }
        }
        std::fs::rename(home.run(), root.join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(root.join("elsewhere"), home.run()).unwrap();
        assert_eq!(refuse_exposed(&home).unwrap_err().code, "home.linked");
    }
}
