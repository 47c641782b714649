//! What every command gets.

use std::time::Duration;

use aap_client::contexts::{ContextName, Contexts, OperatorContext};
use aap_client::environment::{self, Environment};
use aap_client::operations::{Id, Operation};
use aap_client::{Clock, Platform, SystemClock, Target, select};
use aap_types::{ExitCode, Problem};

use crate::arguments::Settings;
use crate::failure::Failure;
use crate::printer::Printer;

/// How long a call that should answer at once may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// Platform, settings and printer of one command.
pub(crate) struct Context<'a> {
    pub(crate) platform: Platform,
    /// The context by which the platform is known to whoever types, if it is by one.
    pub(crate) named: Option<(ContextName, OperatorContext)>,
    pub(crate) environment: Environment,
    pub(crate) settings: Settings,
    pub(crate) printer: &'a mut Printer,
    pub(crate) clock: SystemClock,
}

impl<'a> Context<'a> {
    /// Finds the platform that an operation is for.
    ///
    /// # Errors
    /// Those of [`select`] and [`Platform::find`], unless the operation is for none.
    pub(crate) fn new(
        operation: &Operation,
        settings: Settings,
        printer: &'a mut Printer,
    ) -> Result<Self, Problem> {
        let environment = Environment::of_process();
        let contexts = || Contexts::read(&environment.config_folder());
        let found = select(settings.on_line.clone(), settings.in_environment.clone(), contexts)
            .and_then(|target| Ok((named(&target), Platform::find(target, &environment)?)));
        let (named, platform) = match found {
            Ok(found) => found,
            // Whatever is wrong with the way to a platform, this is how it is set right, or explained.
            Err(_) if !is_for_a_platform(operation) || operation.id == Id::Doctor => {
                (None, Platform::find(Target::Home(None), &Environment::default())?)
            }
            Err(problem) => return Err(problem),
        };
        if is_for_a_platform(operation) && is_token_seen(&environment) {
            printer.note("warning: others on this machine may see the token in AAP_TOKEN; AAP_TOKEN_FILE names a file with it");
        }
        Ok(Self { platform, named, environment, settings, printer, clock: SystemClock::default() })
    }

    /// `--timeout`, or what suits a call that should answer at once.
    pub(crate) fn call_timeout(&self) -> Duration {
        self.settings.timeout.unwrap_or(CALL_TIMEOUT)
    }

    pub(crate) fn now_us(&self) -> i64 {
        self.clock.unix_us()
    }

    /// What to do about a token that is not accepted, which depends on where it comes from.
    pub(crate) fn with_remedy(&self, operation: &Operation, failure: Failure) -> Failure {
        // A password that is wrong is not the fault of a token.
        let is_about_password = matches!(operation.id, Id::AuthLogin | Id::AuthPassword);
        match failure {
            Failure::Problem(problem) if problem.exit == ExitCode::LoginNeeded && !is_about_password => {
                match self.platform.credentials().find() {
                    Ok(credential) => credential.source.remedy(*problem).into(),
                    Err(_said_already) => problem.into(),
                }
            }
            other => other,
        }
    }
}

/// Whether an operation does something with a platform.
fn is_for_a_platform(operation: &Operation) -> bool {
    operation.noun != "context" && !matches!(operation.id, Id::Help | Id::Version | Id::Completion | Id::Man)
}

fn is_token_seen(environment: &Environment) -> bool {
    environment.get(environment::TOKEN).is_some() && environment.get(environment::TOKEN_FILE).is_none()
}

fn named(target: &Target) -> Option<(ContextName, OperatorContext)> {
    match target {
        Target::Context(name, facts) => Some((name.clone(), facts.clone())),
        Target::Home(_) => None,
    }
}
