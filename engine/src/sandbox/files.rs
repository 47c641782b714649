//! Files: Landlock.

use aap_sql::Manifest;
use camino::Utf8Path;
use landlock::{
    ABI, Access, AccessFs, AccessNet, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope,
};

/// The newest rights that we know; an older kernel enforces those it has.
const NEWEST: ABI = ABI::V6;

/// From here on only the files of the manifest can be opened, for reading, and anything below `scratch`.
pub(crate) fn restrict_files(manifest: &Manifest, scratch: &Utf8Path) -> Vec<String> {
    match restrict(manifest, scratch) {
        Ok(RulesetStatus::FullyEnforced) => vec![],
        Ok(RulesetStatus::PartiallyEnforced) => {
            // Files are in the oldest version; what an older kernel lacks is covered by seccomp.
            vec!["landlock: this kernel knows only a part".to_owned()]
        }
        Ok(RulesetStatus::NotEnforced) => vec!["landlock: not in this kernel".to_owned()],
        Err(error) => vec![format!("landlock: {error}")],
    }
}

fn restrict(manifest: &Manifest, scratch: &Utf8Path) -> Result<RulesetStatus, RulesetError> {
    let mut within_scratch = AccessFs::from_all(NEWEST);
    within_scratch.remove(AccessFs::Execute);
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    if let Ok(folder) = PathFd::new(scratch) {
        ruleset = ruleset.add_rule(PathBeneath::new(folder, within_scratch))?;
    }
    for path in planned_files(manifest) {
        // A file that is not there fails later, where it is read, with its name.
        if let Ok(file) = PathFd::new(path) {
            ruleset = ruleset.add_rule(PathBeneath::new(file, AccessFs::ReadFile))?;
        }
    }
    Ok(ruleset.restrict_self()?.ruleset)
}

fn planned_files(manifest: &Manifest) -> impl Iterator<Item = &Utf8Path> {
    manifest.tables.iter().flat_map(|table| {
        let segments = table.segments.iter().map(|segment| segment.path.as_path());
        segments.chain(table.parquet.iter().chain(&table.ipc).map(|path| path.as_path()))
    })
}
