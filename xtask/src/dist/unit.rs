//! Units as systemd reads them, as far as the trial needs it.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};

/// One service of an installation below `root`.
#[derive(Debug)]
pub(super) struct Unit {
    /// Without `.service`.
    pub(super) name: &'static str,
    root: Utf8PathBuf,
    text: String,
}

impl Unit {
    /// The unit `name` of the installation.
    pub(super) fn read(root: &Utf8Path, name: &'static str) -> Result<Self> {
        let unit = Self { name, root: root.to_owned(), text: String::new() };
        let path = unit.path();
        let text = fs::read_to_string(&path).with_context(|| format!("read `{path}`"))?;
        Ok(Self { text, ..unit })
    }

    /// Its file.
    pub(super) fn path(&self) -> Utf8PathBuf {
        self.root.join(format!("usr/lib/systemd/system/{}.service", self.name))
    }

    /// The value of a key that stands there once.
    pub(super) fn value(&self, key: &str) -> Result<&str> {
        let values: Vec<&str> =
            self.text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect();
        match values[..] {
            [value] => Ok(value),
            _ => bail!("`{}` says {key} {} times, and not once", self.path(), values.len()),
        }
    }

    /// What it starts, in the installation: a path in the unit begins at its root. Nothing of this process's environment is passed on.
    pub(super) fn command(&self) -> Result<Command> {
        let mut words = self.value("ExecStart")?.split(' ').map(|word| self.placed(word));
        let mut command = Command::new(words.next().context("find the program of a unit")?);
        command.args(words).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        Ok(command)
    }

    fn placed(&self, word: &str) -> String {
        match word.strip_prefix('/') {
            Some(path) => self.root.join(path).into_string(),
            None => word.to_owned(),
        }
    }

    /// Where its state lies.
    pub(super) fn home(&self) -> Result<Utf8PathBuf> {
        Ok(self.root.join("var/lib").join(self.value("StateDirectory")?))
    }

    /// A copy at `path` that starts the programs of the installation, for `systemd-analyze verify`, which looks for them.
    pub(super) fn write_placed(&self, path: &Utf8Path) -> Result<()> {
        let command = self.value("ExecStart")?;
        let placed: Vec<String> = command.split(' ').map(|word| self.placed(word)).collect();
        let text = self.text.replace(command, &placed.join(" "));
        fs::write(path, text).with_context(|| format!("write `{path}`"))
    }
}
