//! What is declared as kind Route.
//!
//! ```yaml
//! apiVersion: aap/v1
//! kind: Route
//! metadata: { name: models }
//! spec:
//!   match: { prefix: /models }
//!   auth: { resource: model, verb: operate, name: fraud }
//!   upstreams: { urls: ['http://10.0.0.5:8080'], allow: { private: true } }
//! ```

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use aap_access::{Kind, Verb};
use aap_gateway::route::{Refusal, RouteProxy, RouteSpec, RouteTable};
use aap_runtime::documents::{Document, DocumentError};
use aap_runtime::{Clock, SecretRef, SecretSource, Shutdown, Supervisor, TaskKind, resolve_secrets};
use aap_sinks::tls;
use aap_store::ResourceRecord;
use aap_types::{ExitCode, Problem};
use axum::http::{HeaderMap, Method, Uri};
use tracing::warn;

/// The kind of the documents that are routes.
pub(crate) const KIND: &str = "Route";

/// How old a secret may be that is kept elsewhere: whoever changes one there knows when the former one may go.
const SECRETS_EVERY: Duration = Duration::from_secs(60);
/// After a failure: its keeper may be back.
const SECRETS_AGAIN: Duration = Duration::from_secs(5);

/// What a caller of a route needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Needs {
    pub(crate) kind: Kind,
    pub(crate) verb: Verb,
    pub(crate) name: String,
}

/// A route at work.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) proxy: Arc<RouteProxy>,
    /// `None`: it is public.
    pub(crate) needs: Option<Needs>,
    /// Ends its probes.
    shutdown: Shutdown,
}

/// The routes. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Routes {
    clock: Arc<dyn Clock>,
    tasks: Supervisor,
    secrets: Arc<dyn SecretSource>,
    known: Arc<RwLock<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    routes: BTreeMap<String, Arc<Route>>,
    table: Arc<RouteTable<Route>>,
}

impl Routes {
    /// None yet. What they do beside requests runs in `tasks`.
    pub(crate) fn new(clock: Arc<dyn Clock>, tasks: Supervisor, secrets: Arc<dyn SecretSource>) -> Self {
        Self { clock, tasks, secrets, known: Arc::default() }
    }

    /// Reads and checks a document.
    pub(crate) fn read(document: &Document) -> Result<(RouteSpec, Option<Needs>), DocumentError> {
        let spec: RouteSpec = document.spec()?;
        spec.check().map_err(|(field, message)| document.error(field, message, None))?;
        let Some(auth) = &spec.auth else { return Ok((spec, None)) };
        let word = |field, error: aap_access::UnknownWord| {
            let hint = error.meant.map(|meant| format!("did you mean `{meant}`?"));
            document.error(field, error.to_string(), hint)
        };
        let kind = auth.resource.parse::<Kind>().map_err(|error| word("resource", error))?;
        let verb = auth.verb.parse::<Verb>().map_err(|error| word("verb", error))?;
        let needs = Needs { kind, verb, name: auth.name.clone() };
        Ok((spec, Some(needs)))
    }

    /// Takes in all that are declared. One that cannot be used is logged and left out.
    pub(crate) fn start_all(&self, records: &[ResourceRecord]) {
        for record in records.iter().filter(|record| record.kind == KIND) {
            if let Err(problem) = self.start(record) {
                warn!(route = record.name, %problem, "a route cannot be used");
            }
        }
    }

    /// Takes one in, or its changed document. Reads the file of authorities that it names.
    pub(crate) fn start(&self, record: &ResourceRecord) -> Result<(), Problem> {
        let document = Document::of_record(&record.name, &record.document);
        let (spec, needs) = Self::read(&document).map_err(|error| error.problem())?;
        let tls = spec.needs_tls().then(|| tls::client_config(spec.upstreams.ca.as_deref())).transpose();
        let tls = tls.map_err(|error| {
            let message = format!("the route `{}` cannot speak TLS", record.name);
            Problem::new("gateway.tls", ExitCode::Usage, message).caused_by(&error)
        })?;
        let (clock, tasks, references) = (self.clock.clone(), self.tasks.clone(), spec.secrets());
        let proxy = Arc::new(RouteProxy::new(&record.name, spec, tls.map(Arc::new), clock, tasks));
        let shutdown = self.tasks.shutdown().child();
        let (probing, until) = (proxy.clone(), shutdown.clone());
        self.tasks.spawn(TaskKind::optional("probes of a route"), async move {
            probing.probe(until).await;
            Ok::<_, Infallible>(())
        });
        self.keep_secrets(&record.name, references, shutdown.clone());
        self.change(|routes| routes.insert(record.name.clone(), Arc::new(Route { proxy, needs, shutdown })));
        Ok(())
    }

    /// Asks for secrets of a route that somebody has to be asked for, again and again until `shutdown`: a request waits for nobody.
    fn keep_secrets(&self, name: &str, mut references: Vec<SecretRef>, shutdown: Shutdown) {
        references.retain(|reference| reference.place().is_some());
        if references.is_empty() {
            return;
        }
        let (name, source) = (name.to_owned(), self.secrets.clone());
        self.tasks.spawn(TaskKind::optional("secrets of a route"), async move {
            while !shutdown.is_requested() {
                let resolved = resolve_secrets(&references, source.as_ref()).await;
                let pause = if resolved.is_ok() { SECRETS_EVERY } else { SECRETS_AGAIN };
                if let Err(problem) = resolved {
                    warn!(route = name, %problem, causes = ?problem.causes, "a secret of a route cannot be had");
                }
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = shutdown.requested() => {}
                }
            }
            Ok::<_, Infallible>(())
        });
    }

    /// Forgets one. What is under way ends as it would.
    pub(crate) fn stop(&self, name: &str) {
        self.change(|routes| routes.remove(name));
    }

    /// Whether one is at work.
    pub(crate) fn is_there(&self, name: &str) -> bool {
        self.known.read().unwrap_or_else(PoisonError::into_inner).routes.contains_key(name)
    }

    /// The route of a request.
    pub(crate) fn find(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<Arc<Route>, Refusal> {
        let table = self.known.read().unwrap_or_else(PoisonError::into_inner).table.clone();
        table.find(method, uri, headers).cloned()
    }

    /// In Prometheus text form: how many upstreams each route has, and how many of them are left alone.
    pub(crate) fn figures(&self) -> String {
        type Part = fn((usize, usize)) -> usize;
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut out = String::new();
        let figures: [(&str, &str, Part); 2] = [
            ("aap_gateway_upstreams", "Upstreams of a route", |(all, _)| all),
            ("aap_gateway_upstreams_open", "Of these, left alone by their breakers", |(_, open)| open),
        ];
        for (name, help, value) in figures.into_iter().filter(|_| !known.routes.is_empty()) {
            // Writing to a string does not fail.
            let _infallible = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
            for (route, running) in &known.routes {
                let _infallible =
                    writeln!(out, "{name}{{route=\"{route}\"}} {}", value(running.proxy.standing()));
            }
        }
        out
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, Arc<Route>>) -> Option<Arc<Route>>) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = change(&mut known.routes) {
            before.shutdown.request();
        }
        let table = RouteTable::new(known.routes.values().map(|route| (route.proxy.spec(), route.clone())));
        known.table = Arc::new(table);
    }
}

#[cfg(test)]
mod tests {
    use aap_runtime::documents::documents;

    use super::*;

    fn read(spec: &str) -> Result<Option<Needs>, String> {
        let text = format!("apiVersion: aap/v1\nkind: Route\nmetadata: {{ name: r }}\nspec:\n  {spec}\n");
        let document = documents("route.yaml".into(), &text).remove(0);
        let read = Routes::read(&document).map(|(_, needs)| needs);
        read.map_err(|error| format!("{}: {} {:?}", error.line, error.message, error.hint))
    }

    #[test]
    fn a_route_says_who_may_and_where_it_leads() {
        let to = "match: { prefix: /m }\n  upstreams: { urls: ['http://u:80'] }";
        let needs = read(&format!("{to}\n  auth: {{ resource: model, verb: operate, name: m }}")).unwrap();
        assert_eq!(needs, Some(Needs { kind: Kind::Model, verb: Verb::Operate, name: "m".to_owned() }));
        assert_eq!(read(&format!("{to}\n  public: true")).unwrap(), None);
        for (spec, expected) in [
            (to.to_owned(), "does not say who may"),
            (
                format!("{to}\n  public: true\n  auth: {{ resource: model, verb: operate, name: m }}"),
                "remove one",
            ),
            (
                format!("{to}\n  auth: {{ resource: modell, verb: operate, name: m }}"),
                "did you mean `model`?",
            ),
            (format!("{to}\n  auth: {{ resource: model, verb: do, name: m }}"), "`do` is no verb"),
            (format!("{to}\n  public: true\n  colour: red"), "colour"),
            (format!("{to}\n  public: true\n  retries: 9"), "5 at most"),
            (format!("{to}\n  public: true\n  limit: often"), "`often` is no rate"),
            (
                format!("{to}\n  public: true\n  request: {{ set: {{ x-forwarded-for: '1' }} }}"),
                "the gateway itself",
            ),
            (format!("{to}\n  public: true\n  request: {{ set: {{ 'a b': '1' }} }}"), "no name of a header"),
            (
                format!("{to}\n  public: true\n  request: {{ secrets: {{ authorization: hunter2 }} }}"),
                "never written down",
            ),
            (format!("{to}\n  public: true\n  response: {{ strip: /a }}"), "answers have no path"),
            (to.replace("/m", "m") + "\n  public: true", "begins with `/`"),
            (to.replace("prefix: /m", "prefix: /m/../n") + "\n  public: true", "no path"),
            (to.replace("prefix: /m", "methods: [GET]") + "\n  public: true", "has no path"),
            (to.replace("http://u:80", "http://me:hunter2@u") + "\n  public: true", "by `request.secrets`"),
            (to.replace("http://u:80", "http://u/path") + "\n  public: true", "is no server"),
            (to.replace("http://u:80", "ftp://u") + "\n  public: true", "is no server"),
        ] {
            let error = read(&spec).unwrap_err();
            assert!(error.contains(expected), "{spec}: {error}");
        }
    }
}
