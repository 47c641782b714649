//! `aap init`: a coordinator that others find, and its first administrator. Nothing runs meanwhile.
//!
//! The configuration is written where there is none, or must be what was asked for. A user is made where there is none yet; doing it again
//! changes nothing.

use std::sync::Arc;

use aap_runtime::{Clock, Home, Secret, write_durably};
use aap_types::{ExitCode, Problem};
use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};

use crate::access::{Guard, People};
use crate::config::{AGENTS_PORT, Config};
use crate::identities::Identities;
use crate::init::{installation_key, operator_token, prepare_home};
use crate::nodes::Nodes;
use crate::parts::Parts;

/// Who may do everything.
const ADMINISTRATOR: &str = "admin";

/// What is wanted.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// `HOST:PORT` at which operators find this coordinator.
    pub(crate) endpoint: String,
    /// `HOST:PORT` at which agents find it.
    pub(crate) agents: Option<String>,
    /// The name of the first administrator.
    pub(crate) administrator: String,
    /// Certificate and key for operators, from elsewhere.
    pub(crate) certificate: Option<(Utf8PathBuf, Utf8PathBuf)>,
}

/// What was made.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) configuration: Utf8PathBuf,
    pub(crate) endpoint: String,
    /// Fingerprint of the authority's key.
    pub(crate) authority: String,
    /// The administrator with a password that has to be changed; none where there are users already.
    pub(crate) administrator: Option<(String, Secret)>,
}

/// Makes it.
///
/// # Errors
/// `init.bad_endpoint` (2), `init.other_configuration` (6), and whatever keeps a coordinator from opening its home.
pub(crate) async fn run(home: &Home, wanted: Wanted, clock: Arc<dyn Clock>) -> Result<Made> {
    let document = document(&wanted)?;
    let path = home.config().join("coordinator.yaml");
    let authority = prepare_home(home, clock.clone())?;
    write_configuration(&path, &document)?;
    let config = Config::read(&path)?;
    let fingerprint = aap_access::Fingerprint(authority.fingerprint());
    let parts = Parts::open(home, &config, clock.clone()).await?;
    let identities = Identities::new(
        parts.access.clone(),
        (authority, installation_key(home)?),
        std::time::Duration::from_secs(config.agents.certificate_seconds),
        Nodes::new(vec![]),
        clock,
    );
    let guard = Guard::new(operator_token(home)?, identities.clone(), parts.resources.clone());
    let people = People::new(identities, guard).context("get random numbers")?;
    let administrator = first_administrator(&people, &wanted.administrator).await;
    parts.close().await?;
    let administrator = administrator?;
    Ok(Made {
        configuration: path,
        endpoint: wanted.endpoint,
        authority: fingerprint.to_string(),
        administrator,
    })
}

/// Makes a user who may do everything, where there is no user yet.
async fn first_administrator(people: &People, name: &str) -> Result<Option<(String, Secret)>> {
    if !people.users().await?.is_empty() {
        return Ok(None);
    }
    let roles = vec![ADMINISTRATOR.to_owned()];
    let (user, made_up) = people.create(name, "first administrator", roles, None).await?;
    Ok(made_up.map(|password| (user.name.to_string(), password)))
}

/// The configuration that is wanted.
fn document(wanted: &Wanted) -> Result<String, Problem> {
    let (host, port) = host_and_port(&wanted.endpoint)?;
    let agents = match &wanted.agents {
        Some(agents) => agents.clone(),
        None => format!("{host}:{AGENTS_PORT}"),
    };
    let (_, agents_port) = host_and_port(&agents)?;
    let tls = wanted.certificate.as_ref().map(|(certificate, key)| {
        format!(", tls: {{ certificate: '{}', key: '{}' }}", quoted(certificate), quoted(key))
    });
    Ok(format!(
        "apiVersion: aap/v1\nkind: Coordinator\nmetadata: {{ name: coordinator }}\nspec:\n  \
         agents: {{ bind: '0.0.0.0:{agents_port}', endpoint: '{agents}' }}\n  \
         operators: {{ bind: '0.0.0.0:{port}', endpoint: '{}'{} }}\n",
        wanted.endpoint,
        tls.unwrap_or_default()
    ))
}

fn quoted(path: &Utf8Path) -> String {
    path.as_str().replace('\'', "''")
}

fn host_and_port(endpoint: &str) -> Result<(&str, u16), Problem> {
    let parts = endpoint.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    match parts {
        Some((host, port)) if endpoint.parse::<aap_access::Address>().is_ok() => Ok((host, port)),
        _ => {
            let message = format!("`{}` is no endpoint", endpoint.escape_default());
            Err(Problem::new("init.bad_endpoint", ExitCode::Usage, message)
                .hint_command("write HOST:PORT", "aap init --endpoint coord.example:7401"))
        }
    }
}

/// Writes it where there is none.
fn write_configuration(path: &Utf8Path, document: &str) -> Result<()> {
    match std::fs::read_to_string(path) {
        Ok(there) if there == document => Ok(()),
        Ok(_) => {
            let message = format!("`{path}` is there already, and says something else");
            let problem = Problem::new("init.other_configuration", ExitCode::Conflict, message)
                .hint("edit it: `operators.endpoint` and `agents.endpoint` are what others dial; or move it away, and try again");
            Err(problem.into())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            write_durably(path, document.as_bytes(), 0o600).with_context(|| format!("write `{path}`"))
        }
        Err(error) => Err(error).with_context(|| format!("read `{path}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_one_and_an_endpoint_names_host_and_port() {
        let wanted = |endpoint: &str| Wanted {
            endpoint: endpoint.to_owned(),
            agents: None,
            administrator: "admin".to_owned(),
            certificate: Some(("tls/it's.pem".into(), "/etc/key.pem".into())),
        };
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(folder.path()).unwrap().join("coordinator.yaml");
        let document = document(&wanted("coord.example:7401")).unwrap();
        write_configuration(&path, &document).unwrap();
        write_configuration(&path, &document).unwrap();
        let config = Config::read(&path).unwrap();
        assert_eq!(config.agents.endpoint.as_deref(), Some("coord.example:7400"));
        assert_eq!(config.operators.bind, Some("0.0.0.0:7401".parse().unwrap()));
        assert_eq!(config.operators.tls.unwrap().certificate, "tls/it's.pem");
        let other = write_configuration(&path, "something else").unwrap_err();
        assert_eq!(other.downcast_ref::<Problem>().unwrap().code, "init.other_configuration");
        for bad in ["coord.example", "coord.example:0", ":7401", "https://x:1", "a b:7401", "x:99999"] {
            assert_eq!(super::document(&wanted(bad)).unwrap_err().code, "init.bad_endpoint", "{bad}");
        }
    }
}
