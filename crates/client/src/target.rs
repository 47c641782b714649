//! Which platform is meant: by its home on this machine, or by a context.
//!
//! What stands on the command line wins over the environment, and that over the current context of `contexts.toml`. With none of them
//! it is the default home.

use aap_types::{ExitCode, Problem};
use camino::Utf8PathBuf;

use crate::contexts::{ContextName, Contexts, OperatorContext};

/// What one place, such as the command line, names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Named {
    /// A home.
    pub home: Option<Utf8PathBuf>,
    /// A context.
    pub context: Option<String>,
}

/// The platform that is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The one of a home; `None`: of the default home.
    Home(Option<Utf8PathBuf>),
    /// The one that a context leads to.
    Context(ContextName, OperatorContext),
}

/// Decides it. The file of contexts is only read where it matters.
///
/// # Errors
/// `cli.usage` (2): home and context are named in one place; those of [`Contexts::get`].
pub fn select(
    line: Named,
    environment: Named,
    contexts: impl FnOnce() -> Result<Contexts, Problem>,
) -> Result<Target, Problem> {
    for named in [line, environment] {
        match named {
            Named { home: None, context: None } => {}
            Named { home, context: None } => return Ok(Target::Home(home)),
            Named { home: None, context: Some(name) } => return of_context(&contexts()?, &name),
            Named { home: Some(_), context: Some(_) } => return Err(both_named()),
        }
    }
    let contexts = contexts()?;
    match contexts.current() {
        Some(name) => of_context(&contexts, name),
        None => Ok(Target::Home(None)),
    }
}

fn of_context(contexts: &Contexts, name: &str) -> Result<Target, Problem> {
    contexts.get(name).map(|(name, context)| Target::Context(name, context))
}

fn both_named() -> Problem {
    Problem::new("cli.usage", ExitCode::Usage, "a home and a context are named, which may be two platforms")
        .hint("name one of them: --home or --context, AAP_HOME or AAP_CONTEXT")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_wins_over_the_environment_and_that_over_the_current_context() {
        let folder = tempfile::tempdir().unwrap();
        let folder = camino::Utf8Path::from_path(folder.path()).unwrap();
        let home = |path: &str| Named { home: Some(path.into()), context: None };
        let context = |name: &str| Named { home: None, context: Some(name.into()) };
        let selected = |line, environment| {
            select(line, environment, || Contexts::read(folder)).map(|target| match target {
                Target::Home(home) => home.map_or("default".to_owned(), |home| home.to_string()),
                Target::Context(name, _) => name.to_string(),
            })
        };
        assert_eq!(selected(Named::default(), Named::default()).unwrap(), "default");
        std::fs::write(folder.join("contexts.toml"), "current = 'a'\n[contexts.a]\n[contexts.b]\n").unwrap();
        assert_eq!(selected(Named::default(), Named::default()).unwrap(), "a");
        assert_eq!(selected(Named::default(), context("b")).unwrap(), "b");
        assert_eq!(selected(Named::default(), home("/h")).unwrap(), "/h");
        assert_eq!(selected(context("b"), home("/h")).unwrap(), "b");
        assert_eq!(selected(home("/h"), context("b")).unwrap(), "/h");
        assert_eq!(selected(context("c"), home("/h")).unwrap_err().exit, ExitCode::NotFound);
        let both = Named { home: Some("/h".into()), context: Some("b".into()) };
        assert_eq!(selected(both, Named::default()).unwrap_err().exit, ExitCode::Usage);
        std::fs::write(folder.join("contexts.toml"), "broken = [").unwrap();
        assert_eq!(selected(home("/h"), Named::default()).unwrap(), "/h", "the file does not matter");
    }
}
