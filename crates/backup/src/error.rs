//! What can go wrong.

use std::io;

use aap_types::{ExitCode, Problem};
use camino::{Utf8Path, Utf8PathBuf};

/// A failure of a backup or of a restore. Nothing is left of either.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no home.
    #[error("there is no platform in `{home}`")]
    NoPlatform {
        /// The home.
        home: Utf8PathBuf,
    },
    /// Somebody works on the home.
    #[error("the platform in `{home}` runs")]
    Running {
        /// The home.
        home: Utf8PathBuf,
        /// The lock that is held.
        lock: Utf8PathBuf,
    },
    /// The metadata is not in the home.
    #[error("the metadata of the platform in `{home}` lies in PostgreSQL")]
    MetadataElsewhere {
        /// The home.
        home: Utf8PathBuf,
    },
    /// The file for the backup is there.
    #[error("`{file}` is there already")]
    FileExists {
        /// The file.
        file: Utf8PathBuf,
    },
    /// The file for the backup would be part of it.
    #[error("`{file}` lies within the home `{home}`")]
    WithinHome {
        /// The file.
        file: Utf8PathBuf,
        /// The home.
        home: Utf8PathBuf,
    },
    /// A link in the home.
    #[error("`{path}` is a link; a backup holds files and folders")]
    Link {
        /// The link.
        path: Utf8PathBuf,
    },
    /// More files than an archive may hold.
    #[error("the home has more than {limit} files")]
    TooManyFiles {
        /// The limit.
        limit: u64,
    },
    /// A file of the home was changed while it was read.
    #[error("`{path}` changed while it was read")]
    Changed {
        /// The file.
        path: Utf8PathBuf,
    },
    /// Something of the home, or the home of a lock, cannot be read.
    #[error("read `{path}`")]
    Read {
        /// The file or folder.
        path: Utf8PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A backup cannot be written.
    #[error("write `{path}`")]
    Write {
        /// The file.
        path: Utf8PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no backup to restore.
    #[error("there is no file `{file}`")]
    NoFile {
        /// The file.
        file: Utf8PathBuf,
    },
    /// The file is something else.
    #[error("`{file}` is no backup of a platform")]
    NotABackup {
        /// The file.
        file: Utf8PathBuf,
    },
    /// The file has a later form.
    #[error("`{file}` has version {found} of the form of backups; this program knows {supported}")]
    Newer {
        /// The file.
        file: Utf8PathBuf,
        /// Its version.
        found: u64,
        /// Ours.
        supported: u32,
    },
    /// The file is not what was written.
    #[error("`{file}` is damaged: {reason}")]
    Damaged {
        /// The file.
        file: Utf8PathBuf,
        /// What is wrong.
        reason: String,
        /// What was met, if the system says so.
        #[source]
        source: Option<io::Error>,
    },
    /// The home is in use.
    #[error("`{home}` is not empty")]
    NotEmpty {
        /// The home.
        home: Utf8PathBuf,
    },
    /// Another restore works on the home, or was killed.
    #[error("`{folder}` is there: another restore is under way, or was killed")]
    UnderWay {
        /// Where it unpacks.
        folder: Utf8PathBuf,
    },
    /// The home cannot be written.
    #[error("restore `{path}`")]
    Restore {
        /// The file or folder.
        path: Utf8PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It was asked to end.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    pub(crate) fn read(path: &Utf8Path, source: io::Error) -> Self {
        Self::Read { path: path.to_owned(), source }
    }

    pub(crate) fn write(path: &Utf8Path, source: io::Error) -> Self {
        Self::Write { path: path.to_owned(), source }
    }

    pub(crate) fn restore(path: &Utf8Path, source: io::Error) -> Self {
        Self::Restore { path: path.to_owned(), source }
    }

    /// The error as an operator meets it.
    pub fn problem(&self) -> Problem {
        let (code, exit) = self.class();
        let mut problem = Problem::new(code, exit, self.to_string());
        if let Some(source) = std::error::Error::source(self) {
            problem = problem.caused_by(source);
        }
        self.hint(problem)
    }

    fn class(&self) -> (&'static str, ExitCode) {
        match self {
            Self::NoPlatform { .. } => ("backup.no_platform", ExitCode::NotFound),
            Self::Running { .. } => ("backup.running", ExitCode::Conflict),
            Self::MetadataElsewhere { .. } => ("backup.metadata_elsewhere", ExitCode::Failed),
            Self::FileExists { .. } => ("backup.file_exists", ExitCode::Conflict),
            Self::WithinHome { .. } => ("backup.within_home", ExitCode::Usage),
            Self::Link { .. } => ("backup.link", ExitCode::Failed),
            Self::TooManyFiles { .. } => ("backup.too_many_files", ExitCode::Failed),
            Self::Changed { .. } => ("backup.changed", ExitCode::Conflict),
            Self::Read { .. } => ("backup.unreadable", ExitCode::Failed),
            Self::Write { .. } => ("backup.not_written", ExitCode::Failed),
            Self::NoFile { .. } => ("restore.no_file", ExitCode::NotFound),
            Self::NotABackup { .. } => ("restore.not_a_backup", ExitCode::Usage),
            Self::Newer { .. } => ("restore.newer_format", ExitCode::Failed),
            Self::Damaged { .. } => ("restore.damaged", ExitCode::Failed),
            Self::NotEmpty { .. } => ("restore.not_empty", ExitCode::Conflict),
            Self::UnderWay { .. } => ("restore.under_way", ExitCode::Conflict),
            Self::Restore { .. } => ("restore.not_written", ExitCode::Failed),
            Self::Cancelled => ("backup.cancelled", ExitCode::Interrupted),
        }
    }

    fn hint(&self, problem: Problem) -> Problem {
        match self {
            Self::NoPlatform { .. } => problem.hint("name the home with `--home` or AAP_HOME"),
            Self::Running { lock, .. } => problem
                .cause(format!("somebody holds `{lock}`"))
                .hint_command("stop it first; sources wait or are read later", "aap down"),
            Self::MetadataElsewhere { .. } => problem
                .hint("back up that schema with `pg_dump` and the home as files, with the platform stopped"),
            Self::FileExists { file } => problem.hint(format!("choose another name, or remove `{file}`")),
            Self::WithinHome { .. } => problem.hint("write it to another disk: it shall outlive this one"),
            Self::Link { path } => problem.hint(format!("put what it leads to in the place of `{path}`")),
            Self::TooManyFiles { .. } => problem
                .hint("let retention reduce them, or copy the home with other tools while it is stopped"),
            Self::Changed { .. } => problem.hint("find out what writes there, stop it, and try again"),
            Self::Read { .. } => problem.hint("are you the user who runs `aap up`, and is the disk well?"),
            Self::NoFile { .. } => problem.hint("is the disk mounted that it lies on?"),
            Self::NotABackup { .. } => problem.hint("name the file that `aap backup` wrote"),
            Self::Newer { .. } => problem.hint("restore it with the newer version of `aap`"),
            Self::Damaged { .. } => problem.hint("take another copy of it; nothing was restored"),
            Self::NotEmpty { home } => problem
                .hint_command("put what is there aside", format!("mv {home} {home}.before"))
                .hint("or restore into another home with `--home`"),
            Self::UnderWay { folder } => {
                problem.hint_command("if none is under way, remove what is left", format!("rm -r {folder}"))
            }
            Self::Write { .. } | Self::Restore { .. } => {
                problem.hint("is there room, and may you write there?")
            }
            _ => problem,
        }
    }
}
