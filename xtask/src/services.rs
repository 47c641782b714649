//! Real servers for tests: started before them by the scripts in `tests/services`, on ports of their own, and stopped after
//! them. What cannot be had on a machine is named, and its tests are left out.

use std::net::TcpListener;
use std::process::Command;

use anyhow::{Context, Result, bail};
use camino::Utf8PathBuf;

use crate::tools;

/// A server, and what its script needs on the machine.
struct Server {
    name: &'static str,
    /// Programs that must be there; the script gets everything else.
    needs: &'static [&'static str],
    /// Whether it is started only if it was fetched before, or is asked for: to get it takes minutes.
    is_slow: bool,
}

/// Every server that tests are written for.
const SERVERS: [Server; 18] = [
    Server { name: "postgres", needs: &["apt-get"], is_slow: false },
    Server { name: "kafka", needs: &["java", "mvn", "openssl"], is_slow: false },
    // Half a gigabyte for what one test looks at: only where it is asked for.
    Server { name: "kafka3", needs: &["java", "mvn", "openssl"], is_slow: true },
    Server { name: "cassandra", needs: &["java", "mvn", "openssl"], is_slow: false },
    Server { name: "nginx", needs: &["apt-get", "openssl"], is_slow: false },
    Server { name: "redis", needs: &["apt-get", "openssl"], is_slow: false },
    Server { name: "minio", needs: &["go"], is_slow: true },
    Server { name: "mongodb", needs: &["go", "python3", "openssl"], is_slow: true },
    Server { name: "opensearch", needs: &["java", "mvn", "unzip"], is_slow: true },
    Server { name: "keycloak", needs: &["java", "mvn", "openssl", "curl"], is_slow: true },
    Server { name: "spark", needs: &["java", "mvn"], is_slow: true },
    // Minutes of a Go compiler each.
    Server { name: "vault", needs: &["go", "curl"], is_slow: true },
    Server { name: "consul", needs: &["go", "curl"], is_slow: true },
    Server { name: "mosquitto", needs: &["apt-get"], is_slow: false },
    // These are programs that tests run themselves: a start installs them and says where they are.
    Server { name: "journald", needs: &["apt-get"], is_slow: false },
    Server { name: "keyring", needs: &["apt-get"], is_slow: false },
    Server { name: "prometheus", needs: &["apt-get"], is_slow: false },
    Server { name: "opentelemetry", needs: &["python3"], is_slow: false },
];

/// Ports from here on, up to the range that Linux gives to outgoing connections.
const PORTS_FROM: u16 = 21_000;
const PORTS_TO: u16 = 31_000;
/// Offsets from a base that the scripts use, as they are told below.
const PORT_OFFSETS: [u16; 43] = [
    0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15, 20, 21, 22, 23, 24, 25, 40, 41, 50, 60, 61, 65, 66, 70, 71, 75,
    80, 81, 85, 86, 90, 91, 30, 31, 32, 33, 34, 35, 36, 95, 96,
];

/// Running servers. Dropping it stops them and deletes their data.
#[derive(Debug)]
pub(crate) struct Servers {
    started: Vec<&'static str>,
    /// For the scripts: where, and on which ports.
    settings: Vec<(&'static str, String)>,
    /// For the tests: `AAP_TEST_…`.
    told: Vec<(String, String)>,
}

impl Servers {
    /// Starts those that can be had; with `all` also those that take long to build.
    pub(crate) fn start(all: bool) -> Result<Self> {
        let base = free_ports().context("find free ports for the servers of the tests")?;
        let cache = tools::cache()?.join("services");
        let run =
            Utf8PathBuf::try_from(std::env::temp_dir())?.join(format!("aap-services-{}", std::process::id()));
        let port = |offset: u16| (base + offset).to_string();
        let settings = vec![
            ("AAP_SERVICES_DIR", cache.to_string()),
            ("AAP_SERVICES_RUN_DIR", run.to_string()),
            ("AAP_KAFKA_PORT", port(0)),
            ("AAP_KAFKA3_PORT", port(3)),
            ("AAP_CASSANDRA_PORT", port(40)),
            ("AAP_CASSANDRA_STORAGE_PORT", port(41)),
            ("AAP_POSTGRES_PORT", port(50)),
            ("AAP_MINIO_PORT", port(60)),
            ("AAP_KEYCLOAK_PORT", port(65)),
            ("AAP_KEYCLOAK_MANAGEMENT_PORT", port(66)),
            ("AAP_OPENSEARCH_PORT", port(70)),
            ("AAP_OPENSEARCH_TRANSPORT_PORT", port(71)),
            ("AAP_SPARK_PORT", port(75)),
            ("AAP_REDIS_PORT", port(80)),
            ("AAP_REDIS_TLS_PORT", port(81)),
            ("AAP_MONGODB_PORT", port(85)),
            ("AAP_MONGODB_TLS_PORT", port(86)),
            ("AAP_CONSUL_PORT", port(30)),
            ("AAP_VAULT_PORT", port(36)),
            ("AAP_MOSQUITTO_PORT", port(90)),
            ("AAP_MOSQUITTO_TLS_PORT", port(91)),
            ("AAP_NGINX_PORT", port(95)),
            ("AAP_NGINX_TLS_PORT", port(96)),
        ];
        let mut servers = Self { started: vec![], settings, told: vec![] };
        let mut left_out = vec![];
        for server in &SERVERS {
            if let Err(reason) = servers.start_one(server, all, &cache) {
                left_out.push(server.name);
                eprintln!("skipped: tests against {}: {reason:#}", server.name);
            }
        }
        servers.require(&left_out)?;
        println!("servers: {} started, {} left out", servers.started.len(), left_out.len());
        Ok(servers)
    }

    /// `AAP_TEST_SERVICES_REQUIRED` names those without which nothing is proved.
    fn require(&self, left_out: &[&str]) -> Result<()> {
        let required = std::env::var("AAP_TEST_SERVICES_REQUIRED").unwrap_or_default();
        let missing: Vec<&str> = required.split(',').filter(|name| left_out.contains(name)).collect();
        if !missing.is_empty() {
            bail!("required servers cannot be had here: {}", missing.join(", "));
        }
        Ok(())
    }

    fn start_one(&mut self, server: &Server, all: bool, cache: &Utf8PathBuf) -> Result<()> {
        if let Some(missing) = server.needs.iter().find(|program| !tools::has(program)) {
            bail!("`{missing}` is not installed");
        }
        if server.is_slow && !all && !cache.join(server.name).join(".finished").exists() {
            bail!("it is not here yet; `cargo xtask test --services` gets it");
        }
        let mut command = self.script(server.name);
        // Known before it starts, so that a start that fails half way is stopped too.
        self.started.push(server.name);
        let told = tools::output(command.arg("start")).inspect_err(|_| {
            self.stop(server.name);
            self.started.pop();
        })?;
        let lines = told.lines().filter_map(|line| line.split_once('='));
        self.told.extend(
            lines
                .filter(|(key, _)| key.starts_with("AAP_TEST_"))
                .map(|(key, value)| (key.to_owned(), value.to_owned())),
        );
        Ok(())
    }

    fn script(&self, name: &str) -> Command {
        let mut command = Command::new(tools::root().join("tests/services").join(format!("{name}.sh")));
        command.envs(self.settings.iter().map(|(key, value)| (*key, value.as_str())));
        command
    }

    fn stop(&self, name: &str) {
        if let Err(error) = tools::output(self.script(name).args(["stop", "--purge"])) {
            eprintln!("{name} did not stop: {error:#}");
        }
    }

    /// What tests must see.
    pub(crate) fn environment(&self) -> impl Iterator<Item = (&str, &str)> {
        let settings = self.settings.iter().map(|(key, value)| (*key, value.as_str()));
        settings.chain(self.told.iter().map(|(key, value)| (key.as_str(), value.as_str())))
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.started.iter().for_each(|name| self.stop(name));
    }
}

/// A base from which all offsets are free now.
fn free_ports() -> Option<u16> {
    let first = PORTS_FROM + u16::try_from(std::process::id() % 100).unwrap_or(0) * 100;
    let bases = (PORTS_FROM..PORTS_TO).step_by(100);
    let ahead = bases.clone().filter(|base| *base >= first);
    ahead.chain(bases.filter(|base| *base < first)).find(|base| {
        PORT_OFFSETS.iter().all(|offset| TcpListener::bind(("127.0.0.1", base + offset)).is_ok())
    })
}
