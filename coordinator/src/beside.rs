//! Servers beside the platform that this coordinator leans on, as status and metrics tell of them.

use std::fmt::Write;
use std::sync::Arc;

use aap_redis::RedisAccess;
use aap_services::Registration;

/// Those that the configuration names. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Beside {
    /// Where sessions of people are.
    pub(crate) sessions: Option<Arc<RedisAccess>>,
    /// Where this coordinator says that it is.
    pub(crate) consul: Option<Arc<Registration>>,
}

impl Beside {
    /// What does not work now.
    pub(crate) fn problems(&self) -> Vec<String> {
        let sessions = self.sessions.as_ref().filter(|sessions| !sessions.is_there());
        let sessions = sessions
            .map(|_| "sessions cannot be checked: Redis does not answer; the log says why".to_owned());
        let consul = self.consul.as_ref().and_then(|consul| consul.trouble());
        let consul =
            consul.map(|trouble| format!("this coordinator cannot be registered in Consul: {trouble}"));
        sessions.into_iter().chain(consul).collect()
    }

    /// In Prometheus text form.
    pub(crate) fn figures(&self) -> String {
        let mut out = String::new();
        let mut gauge = |name: &str, help: &str, holds: bool| {
            // Writing to a string does not fail.
            let _infallible =
                writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {}", u8::from(holds));
        };
        if let Some(sessions) = &self.sessions {
            let help = "1 while sessions of people can be checked, 0 while their Redis is away";
            gauge("aap_access_sessions_reachable", help, sessions.is_there());
        }
        if let Some(consul) = &self.consul {
            let help = "1 while Consul says where this coordinator is";
            gauge("aap_discovery_registered", help, consul.trouble().is_none());
        }
        out
    }
}
