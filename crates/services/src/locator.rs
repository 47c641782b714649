//! Where to look for coordinators, as it stands in a configuration.
//!
//! ```text
//!  srv+NAME[?server=IP:PORT]                         records SRV of a name, asked of a DNS server or of those of the machine
//!  consul+http://HOST:PORT/SERVICE[?tag=…&token=…]   healthy instances of a service; `token` is env:NAME or file:PATH
//!  consul+https://HOST:PORT/SERVICE[?ca=FILE&…]
//! ```

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use aap_runtime::SecretRef;
use aap_types::{ExitCode, Problem};

use crate::ask::{Service, ServiceUrl};
use crate::consul::{self, ConsulError, ConsulService};
use crate::dns::{self, DnsError};
use crate::order::ordered;

/// Most addresses of one place: a cluster has a handful of coordinators, and a round of dead ones should end some time.
const ADDRESSES_MAX: usize = 32;
const SRV: &str = "srv+";
const CONSUL: &str = "consul+";

/// A place where it is said where coordinators are.
#[derive(Debug, Clone)]
pub struct Locator {
    /// As it was written; it holds no secret.
    text: String,
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    Srv { name: String, server: Option<SocketAddr> },
    Consul(ConsulService),
}

impl Locator {
    /// Whether a text is meant as one, rather than as an address.
    pub fn is_meant(text: &str) -> bool {
        text.starts_with(SRV) || text.starts_with(CONSUL)
    }

    /// Looks there. The addresses are in the order in which `who` should try them; there is one at least.
    ///
    /// # Errors
    /// `discovery.unreachable` (7), `discovery.refused` (5), `discovery.nothing` (3).
    pub async fn find(&self, who: &str) -> Result<Vec<String>, Problem> {
        let found = match &self.place {
            Place::Srv { name, server } => {
                dns::service(name, *server).await.map_err(|error| self.no_records(&error))?
            }
            Place::Consul(service) => service.instances().await.map_err(|error| self.not_told(&error))?,
        };
        let mut addresses = ordered(found, who);
        addresses.truncate(ADDRESSES_MAX);
        Ok(addresses)
    }

    fn problem(&self, code: &str, exit: ExitCode) -> Problem {
        Problem::new(code, exit, format!("`{self}` does not say where coordinators are"))
    }

    fn no_records(&self, error: &DnsError) -> Problem {
        let (code, exit) = match error {
            DnsError::Nothing(_) | DnsError::Name(_) => ("discovery.nothing", ExitCode::NotFound),
            DnsError::Refused(..) => ("discovery.refused", ExitCode::Denied),
            _ => ("discovery.unreachable", ExitCode::Unavailable),
        };
        let command = match &self.place {
            Place::Srv { name, server: Some(server) } => {
                format!("dig @{} -p {} {name} SRV", server.ip(), server.port())
            }
            Place::Srv { name, server: None } => format!("dig {name} SRV"),
            Place::Consul(_) => return self.problem(code, exit),
        };
        self.problem(code, exit).caused_by(error).hint_command("see what DNS says", command)
    }

    fn not_told(&self, error: &ConsulError) -> Problem {
        let (code, exit) = match error {
            ConsulError::Nothing(_) => ("discovery.nothing", ExitCode::NotFound),
            ConsulError::Asked(_) => ("discovery.unreachable", ExitCode::Unavailable),
            ConsulError::Refused(_) | ConsulError::Token(_) | ConsulError::TokenForm => {
                ("discovery.refused", ExitCode::Denied)
            }
            ConsulError::Unreadable(_) => ("discovery.unreachable", ExitCode::Unavailable),
        };
        let problem = self.problem(code, exit).caused_by(error);
        let Place::Consul(service) = &self.place else { return problem };
        let command = format!("curl {}/v1/health/service/{}?passing", service.consul.url(), service.name);
        problem.hint_command("see what Consul says", command)
    }
}

impl fmt::Display for Locator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Locator {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let place = match (text.strip_prefix(SRV), text.strip_prefix(CONSUL)) {
            (Some(rest), _) => srv(rest),
            (_, Some(rest)) => consul(rest),
            _ => Err("write `srv+NAME` or `consul+http://HOST:PORT/SERVICE`".to_owned()),
        };
        // A token that somebody wrote down is not repeated.
        let shown = text.split('?').next().unwrap_or_default();
        let place = place.map_err(|why| format!("`{shown}` is no place to look for coordinators: {why}"))?;
        Ok(Self { text: text.to_owned(), place })
    }
}

fn srv(rest: &str) -> Result<Place, String> {
    let (name, query) = rest.split_once('?').unwrap_or((rest, ""));
    let name = name.strip_suffix('.').unwrap_or(name);
    if !is_plain(name) || name.split('.').any(str::is_empty) {
        return Err("its name is no name of DNS, such as `_aap._tcp.example.org`".to_owned());
    }
    let mut server = None;
    for (key, value) in parameters(query) {
        match key {
            "server" => {
                server = Some(
                    value.parse().map_err(|_| "`server` is no IP:PORT, such as 127.0.0.1:8600".to_owned())?,
                );
            }
            _ => return Err(format!("`{}` is not known after `?`: only `server` is", key.escape_default())),
        }
    }
    Ok(Place::Srv { name: name.to_owned(), server })
}

fn consul(rest: &str) -> Result<Place, String> {
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (url, name) =
        place.rsplit_once('/').filter(|(url, _)| !url.ends_with('/')).ok_or("it names no service")?;
    let url: ServiceUrl = url.parse()?;
    if !is_plain(name) {
        return Err("its service has a name with letters other than a-z, 0-9, `-`, `_` and `.`".to_owned());
    }
    let (mut tag, mut token, mut ca) = (None, None, None);
    for (key, value) in parameters(query) {
        match key {
            "tag" if is_plain(value) => tag = Some(value.to_owned()),
            "tag" => return Err("`tag` has letters other than a-z, 0-9, `-`, `_` and `.`".to_owned()),
            "token" => token = Some(token_at(value, &url)?),
            "ca" if url.is_tls() && !value.is_empty() => ca = Some(value.into()),
            "ca" => return Err("`ca` is the file of an authority, for `consul+https`".to_owned()),
            _ => {
                return Err(format!(
                    "`{}` is not known after `?`: only `tag`, `token` and `ca` are",
                    key.escape_default()
                ));
            }
        }
    }
    let consul = Service::new(url, ca, consul::ANSWER_MAX);
    Ok(Place::Consul(ConsulService { consul, name: name.to_owned(), tag, token }))
}

/// Agents have nobody to ask for secrets: theirs stand on their machine. A token is not sent where anybody reads along.
fn token_at(value: &str, url: &ServiceUrl) -> Result<SecretRef, String> {
    if !url.is_tls() && !url.is_loopback() {
        return Err("a token goes over https, or to this machine, only".to_owned());
    }
    let reference = value.parse::<SecretRef>().ok().filter(|reference| reference.place().is_none());
    reference.ok_or_else(|| {
        "`token` is a reference, `env:NAME` or `file:PATH`, and never the token itself".to_owned()
    })
}

fn parameters(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').filter(|part| !part.is_empty()).map(|part| part.split_once('=').unwrap_or((part, "")))
}

/// Whether a text can stand in a path as it is.
pub(crate) fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_to_look_is_shown_as_it_was_written() {
        for text in [
            "srv+_aap._tcp.example.org",
            "srv+aap.service.consul?server=127.0.0.1:8600",
            "srv+a?server=[::1]:53",
            "consul+http://127.0.0.1:8500/aap",
            "consul+https://consul.example/aap?tag=eu&token=file:/etc/aap/consul&ca=/etc/aap/ca.pem",
        ] {
            assert!(Locator::is_meant(text));
            assert_eq!(text.parse::<Locator>().unwrap().to_string(), text);
        }
        assert!(!Locator::is_meant("coord.example:7400"));
    }

    #[test]
    fn what_cannot_be_looked_at_is_named_and_a_token_is_not_repeated() {
        for (bad, word) in [
            ("srv+", "name of DNS"),
            ("srv+a..b", "name of DNS"),
            ("srv+a?server=localhost:53", "`server`"),
            ("srv+a?port=1", "`port`"),
            ("consul+http://127.0.0.1:8500", "no service"),
            ("consul+http://127.0.0.1:8500/", "letters"),
            ("consul+ftp://a/b", "URL"),
            ("consul+http://127.0.0.1/aap?token=hunter2", "`env:NAME`"),
            ("consul+http://127.0.0.1/aap?token=secret:a", "`env:NAME`"),
            ("consul+http://consul.example/aap?token=env:T", "over https"),
            ("consul+http://127.0.0.1/aap?ca=/a", "`ca`"),
            ("consul+http://127.0.0.1/aap?hunter2", "not known"),
            ("etcd+http://a/b", "srv+NAME"),
        ] {
            let why = bad.parse::<Locator>().unwrap_err();
            assert!(why.contains(word), "{bad}: {why}");
            assert!(!why.contains("hunter2") || bad.ends_with("aap?hunter2"), "{bad}: {why}");
        }
    }
}
