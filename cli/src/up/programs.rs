//! Where the daemons' programs are: beside this one.

use std::path::PathBuf;

use aap_types::{ExitCode, Problem};
use camino::Utf8PathBuf;

/// The program `name` beside our own executable.
///
/// # Errors
/// `platform.program_missing` if there is none.
pub(crate) fn beside(name: &str) -> Result<Utf8PathBuf, Problem> {
    let own = own_path().and_then(|path| Utf8PathBuf::from_path_buf(path).ok());
    let path = own.as_deref().and_then(camino::Utf8Path::parent).map(|directory| directory.join(name));
    path.filter(|path| path.is_file()).ok_or_else(|| {
        let place = own.map_or_else(|| "this program".to_owned(), |own| format!("`{own}`"));
        Problem::new("platform.program_missing", ExitCode::Failed, format!("`{name}` is not beside {place}"))
            .hint_command("build or install all programs together", "cargo xtask build")
    })
}

/// Our own executable.
pub(crate) fn own_path() -> Option<PathBuf> {
    std::env::current_exe().ok()
}
