//! Variables of the environment that say which platform is meant and with which credential, and the folders of whoever types.

use std::collections::BTreeMap;
use std::fmt;

use camino::Utf8PathBuf;

/// A token for one command; others on the machine may see it.
pub const TOKEN: &str = "AAP_TOKEN";
/// A file with a token.
pub const TOKEN_FILE: &str = "AAP_TOKEN_FILE";
/// Where the coordinator is, whatever context or home say.
pub const ENDPOINT: &str = "AAP_ENDPOINT";
/// A file with the certificate authority of [`ENDPOINT`].
pub const AUTHORITY: &str = "AAP_CA";
const CONFIG_FOLDER: &str = "AAP_CONFIG_DIR";
const STATE_FOLDER: &str = "AAP_STATE_DIR";
/// Where stored logins are kept.
pub const CREDENTIAL_STORE: &str = "AAP_CREDENTIAL_STORE";
/// A file with the passphrase that logins in files are sealed under.
pub const PASSPHRASE_FILE: &str = "AAP_CREDENTIAL_PASSPHRASE_FILE";
/// Where the bus of the session answers.
pub(crate) const SESSION_BUS: &str = "DBUS_SESSION_BUS_ADDRESS";
/// The folder of the session, in which its bus is where nothing else is said.
pub(crate) const SESSION_FOLDER: &str = "XDG_RUNTIME_DIR";

/// Variables that no argument stands for, with what each is for.
pub const VARIABLES: &[(&str, &str)] = &[
    (TOKEN_FILE, "file with the token to show; wins over everything else"),
    (TOKEN, "the token to show; other programs may see it, so prefer the file"),
    (ENDPOINT, "where the coordinator is, HOST:PORT, instead of what context or home say"),
    (AUTHORITY, "file with the certificate authority (PEM) of AAP_ENDPOINT"),
    (CONFIG_FOLDER, "folder of contexts.toml [default: ~/.config/aap]"),
    (STATE_FOLDER, "folder of stored logins [default: ~/.local/state/aap-cli]"),
    (
        CREDENTIAL_STORE,
        "where `aap auth login` keeps a login: secret-service, keyutils, encrypted-file, or file [default: the first that works]",
    ),
    (PASSPHRASE_FILE, "file with the passphrase that logins in encrypted-file are sealed under"),
];

/// Of no interest to whoever reads the help: they are the system's.
const OF_THE_SYSTEM: [&str; 5] = ["HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", SESSION_BUS, SESSION_FOLDER];

/// The variables above, as they were when the program started. One that is empty is not set.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<&'static str, String>);

impl Environment {
    /// That of this process.
    pub fn of_process() -> Self {
        let names = VARIABLES.iter().map(|(name, _)| *name).chain(OF_THE_SYSTEM);
        Self(names.filter_map(|name| Some((name, std::env::var(name).ok()?))).collect())
    }

    /// One made up, for tests.
    pub fn with(variables: impl IntoIterator<Item = (&'static str, String)>) -> Self {
        Self(variables.into_iter().collect())
    }

    /// A variable that is set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// `AAP_CONFIG_DIR`, else `aap` in the folder for configuration: what may be shared, and holds no secret.
    pub fn config_folder(&self) -> Utf8PathBuf {
        self.folder(CONFIG_FOLDER, "XDG_CONFIG_HOME", ".config", "aap")
    }

    /// `AAP_STATE_DIR`, else `aap-cli` in the folder for state. It is not `aap`, which is the default home of a platform: logins of
    /// people must not get into its backups.
    pub fn state_folder(&self) -> Utf8PathBuf {
        self.folder(STATE_FOLDER, "XDG_STATE_HOME", ".local/state", "aap-cli")
    }

    fn folder(&self, ours: &str, standard: &str, usual: &str, name: &str) -> Utf8PathBuf {
        if let Some(folder) = self.get(ours) {
            return folder.into();
        }
        let home = self.get("HOME").unwrap_or("/root");
        self.get(standard).map_or_else(|| Utf8PathBuf::from(home).join(usual), Utf8PathBuf::from).join(name)
    }
}

/// Names only: one of the values is a secret.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_ours_the_standard_s_or_the_usual_ones() {
        let check = |variables: &[(&'static str, &str)], config: &str, state: &str| {
            let of = Environment::with(variables.iter().map(|(name, value)| (*name, (*value).to_owned())));
            assert_eq!((of.config_folder().as_str(), of.state_folder().as_str()), (config, state));
        };
        check(&[("HOME", "/h")], "/h/.config/aap", "/h/.local/state/aap-cli");
        check(&[("HOME", "/h"), ("XDG_STATE_HOME", "/s")], "/h/.config/aap", "/s/aap-cli");
        check(
            &[("XDG_CONFIG_HOME", "/c"), (CONFIG_FOLDER, "/ours"), (STATE_FOLDER, "")],
            "/ours",
            "/root/.local/state/aap-cli",
        );
    }

    #[test]
    fn a_token_in_the_environment_is_not_printed() {
        let of = Environment::with([(TOKEN, "aapt_secret".to_owned())]);
        assert!(!format!("{of:?}").contains("secret"));
    }
}
